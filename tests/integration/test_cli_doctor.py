"""`doctor`: what is missing on this machine, and how to mend it; it needs no daemon and changes nothing."""

import os
import shutil
import socket
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.process import COMMAND, POWERLESS, ROOT, command, daemon, environment, write_toml

CHECKS = ["interface", "capability", "broker", "clock", "state", "disk", "ports", "onboarding"]
# A network of its own, in which lo is down, and the /sys that shows it.
ALONE = (
    *(shutil.which("unshare") or "unshare", *(() if os.geteuid() == 0 else ("--map-root-user",)), "--net", "--mount"),
    *("sh", "-c", 'mount -t sysfs none /sys && exec "$@"', "sh"),
)


@pytest.fixture
async def doctor(world, tmp_path):
    """`await doctor(section={...})` → findings by check; everything is well where the sections say nothing else."""

    async def examine(*, program=COMMAND, prefix=(), env=None, **sections):
        healthy = {"http": {"listen": ["127.0.0.1:0"]}, "auto_onboard": {"mode": "off"}}
        tree = world.tree(**healthy)
        for name, section in sections.items():
            tree[name] = tree.get(name, {}) | section
        config = write_toml(tmp_path / "config.toml", tree)
        done = await command("doctor", "--json", "--config", config, program=program, prefix=prefix, env=env)
        assert done.err == ""
        findings = {finding["check"]: finding for finding in done.json}
        assert list(findings) == CHECKS
        failed = any(finding["result"] == "fail" for finding in findings.values())
        assert done.code == (1 if failed else 0)
        for finding in findings.values():
            assert bool(finding["remedy"]) == (finding["result"] != "ok"), (
                "trouble comes with its remedy, and only trouble"
            )
        return findings

    return examine


async def test_a_healthy_machine_has_no_failing_check_and_nothing_is_touched(doctor, world):
    findings = await doctor()
    assert "fail" not in {finding["result"] for finding in findings.values()}
    assert findings["interface"]["what"] == "lo is up"
    assert findings["broker"]["what"] == f"answers at 127.0.0.1:{world.broker.port}"
    assert findings["state"]["what"] == f"{world.state_dir} will be made at the first start"
    assert not world.state_dir.exists()


async def test_an_interface_that_is_not_there_is_named_with_those_that_are(doctor):
    finding = (await doctor(ap={"interface": "nope0"}))["interface"]
    assert (finding["result"], finding["what"]) == ("fail", "nope0 is not there")
    others = [entry.name for entry in Path("/sys/class/net").iterdir() if entry.name != "lo"]
    assert finding["remedy"] == f"set ap.interface to one of: {', '.join(sorted(others)) or 'none here'}"


async def test_an_interface_that_is_down_is_told_with_the_command_that_brings_it_up(doctor):
    finding = (await doctor(prefix=ALONE, ap={"interface": "lo"}))["interface"]
    assert (finding["result"], finding["what"]) == ("fail", "lo is down")
    assert "ip link set lo up" in finding["remedy"]


async def test_a_broker_that_is_gone_or_elsewhere_fails_with_the_remedy(doctor, world):
    await world.broker.stop()
    finding = (await doctor())["broker"]
    assert finding["result"] == "fail"
    assert finding["what"] == f"nothing answers at 127.0.0.1:{world.broker.port}: Connection refused"
    assert "systemctl start mosquitto" in finding["remedy"]
    finding = (await doctor(mqtt={"host": "broker.invalid"}))["broker"]
    assert finding["result"] == "fail"
    assert "broker.invalid" in finding["what"]


async def test_an_embedded_broker_is_well_only_where_its_extra_is_installed(doctor, tmp_path):
    embedded = {"mqtt": {"embedded": True, "port": 0}}
    assert (await doctor(**embedded))["broker"]["result"] == "ok"
    # The same packages without that one, to a Python that looks nowhere else.
    bare = tmp_path / "packages"
    bare.mkdir()
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            if not entry.name.startswith("amqtt"):
                (bare / entry.name).symlink_to(entry)
    program = (sys.executable, "-S", *COMMAND[1:])
    finding = (await doctor(program=program, env={"PYTHONPATH": f"{ROOT}:{bare}"}, **embedded))["broker"]
    assert finding["result"] == "fail"
    assert finding["remedy"] == "install pi-orchestrator[demo]"


async def test_a_missing_capability_is_a_warning_because_the_neighbour_table_serves_instead(doctor):
    finding = (await doctor(prefix=POWERLESS))["capability"]
    assert finding["result"] == "warn"
    assert finding["what"].startswith("no CAP_NET_RAW as this user")
    if POWERLESS:  # so there is something to drop
        assert (await doctor())["capability"]["what"] == "CAP_NET_RAW: may send ARP requests"


async def test_a_state_folder_that_this_user_cannot_use_fails(doctor, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    for folder, says in ((locked, "is not writable for this user"), (locked / "new", "cannot be made by this user")):
        finding = (await doctor(prefix=POWERLESS, storage={"state_dir": str(folder)}))["state"]
        assert finding["result"] == "fail"
        assert says in finding["what"]
        assert "--state-dir" in finding["remedy"]


async def test_a_card_without_room_fails(doctor):
    assert shutil.disk_usage("/proc").free == 0, "/proc has no room: the smallest file system of all"
    finding = (await doctor(storage={"state_dir": "/proc"}))["disk"]
    assert (finding["result"], finding["what"]) == ("fail", "0 MiB free at /proc")
    assert finding["remedy"] == "free at least 200 MiB"


async def test_ports_in_use_and_addresses_of_others_are_told_apart(doctor):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = (await doctor(http={"listen": [f"127.0.0.1:{port}"]}))["ports"]
        assert finding["result"] == "warn"
        assert finding["what"] == f"127.0.0.1:{port} is in use (by the daemon, if it runs)"
        assert finding["remedy"] == f"see who: ss -ltnp 'sport = :{port}'"
    finding = (await doctor(http={"listen": ["192.0.2.1:8081"]}, auto_onboard={"allow_loopback": False}))["ports"]
    assert finding["result"] == "fail"
    assert finding["what"] == "cannot listen on 192.0.2.1:8081: Cannot assign requested address"


async def test_development_mode_is_a_warning(doctor):
    finding = (await doctor(auto_onboard={"mode": "dev"}))["onboarding"]
    assert finding["result"] == "warn"
    assert "'off' in production" in finding["remedy"]


async def test_for_people_each_finding_is_a_line_or_two_that_fit_a_terminal(world, tmp_path):
    tree = world.tree(ap={"interface": "a-long-name-000"}, http={"listen": ["127.0.0.1:0"]})
    tree["storage"]["state_dir"] = "/var/lib/pi-orchestrator-of-a-test"
    done = await command("doctor", "--config", write_toml(tmp_path / "config.toml", tree), prefix=POWERLESS)
    assert done.code == 1
    lines = done.out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line.split()[1] for line in lines if not line.startswith(" ")] == CHECKS
    marks = {line.split()[0] for line in lines if not line.startswith(" ")}
    assert marks <= {"OK", "WARN", "FAIL"}
    assert any(line.lstrip().startswith("→ ") for line in lines)


async def test_beside_a_running_daemon_it_disturbs_nothing(world, tmp_path):
    async with daemon(world, tmp_path) as process:
        tree = world.tree(http={"listen": [process.api.url[7:]]})
        done = await command("doctor", "--config", write_toml(tmp_path / "config.toml", tree))
        assert done.code == 0
        assert "in use (by the daemon, if it runs)" in " ".join(done.out.split())
        assert (await process.api.get("/readyz")).status == 200
        assert process.entries("ready") == process.entries("ready")[:1]


def test_the_environment_of_these_tests_is_clean():
    assert not {name for name in environment() if name.startswith(("PIORCH", "AUTO_ONBOARD", "API_KEY", "LOG_LEVEL"))}
