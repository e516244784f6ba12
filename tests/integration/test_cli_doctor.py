"""`doctor`: what is missing on this machine, and how to mend it; it needs no daemon and changes nothing."""

import os
import re
import shutil
import socket
import sys
import sysconfig
from pathlib import Path

import pytest

from pi_orchestrator.cli.doctor_network import station_finding
from pi_orchestrator.net.nl80211 import Radio, Station
from pi_orchestrator.net.stations import Air
from pi_orchestrator.settings.overrides import render
from tests.support import lan
from tests.support.process import COMMAND, POWERLESS, ROOT, command, daemon, environment, write_toml

CHECKS = [
    *("interface", "engine", "leases", "stations", "mdns"),
    *("broker", "clock", "state", "disk", "ports", "dashboard", "onboarding", "overrides"),
]
# A network of its own, in which lo is down.
ALONE = (*(shutil.which("unshare") or "unshare", *(() if os.geteuid() == 0 else ("--map-root-user",)), "--net"),)


async def examine(config, *, program=COMMAND, prefix=(), env=None):
    """Findings by check, after what holds for all of them has been checked."""
    done = await command("doctor", "--json", "--config", config, program=program, prefix=prefix, env=env)
    assert done.err == ""
    findings = {finding["check"]: finding for finding in done.json}
    assert list(findings) == CHECKS
    failed = any(finding["result"] == "fail" for finding in findings.values())
    assert done.code == (1 if failed else 0)
    for finding in findings.values():
        assert bool(finding["remedy"]) == (finding["result"] != "ok"), "trouble comes with its remedy, and only trouble"
    return findings


@pytest.fixture
async def doctor(world, tmp_path):
    """`await doctor(section={...})` → findings by check; everything is well where the sections say nothing else."""

    async def run(*, program=COMMAND, prefix=(), env=None, **sections):
        healthy = {"http": {"listen": ["127.0.0.1:0"]}, "auto_onboard": {"mode": "off"}}
        tree = world.tree(**healthy)
        for name, section in sections.items():
            tree[name] = tree.get(name, {}) | section
        config = write_toml(tmp_path / "config.toml", tree)
        return await examine(config, program=program, prefix=prefix, env=env)

    return run


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site:
        yield site


@pytest.fixture
def on_site(site, tmp_path):
    """The same on an access point: `await on_site(powerless=..., section={...})`."""

    async def run(*, powerless=False, **sections):
        prefix = site.pi.prefix + (POWERLESS if powerless else ())
        return await examine(write_toml(tmp_path / "config.toml", site.tree(**sections)), prefix=prefix)

    return run


async def test_a_healthy_machine_has_no_failing_check_and_nothing_is_touched(doctor, world):
    findings = await doctor()
    assert "fail" not in {finding["result"] for finding in findings.values()}
    assert findings["interface"]["what"] == "lo is up"
    for check in ("engine", "leases", "stations", "mdns"):
        assert "switched off (discovery." in findings[check]["what"]
    assert findings["broker"]["what"] == f"answers at 127.0.0.1:{world.broker.port}"
    assert findings["state"]["what"] == f"{world.state_dir} will be made at the first start"
    assert findings["overrides"]["what"] == "set while the daemon ran: none"
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


# The camera network.


async def test_on_an_access_point_the_engine_is_named_with_the_reason(on_site):
    findings = await on_site()
    assert findings["interface"]["what"] == "ap0 is up; cameras are looked for in 10.77.0.0/24"
    assert findings["engine"]["what"] == "arp (auto): CAP_NET_RAW is there"
    assert findings["mdns"]["what"] == "possible on 10.77.0.1"
    assert findings["stations"]["what"].startswith("none to be read: ")
    finding = (await on_site(discovery={"engine": "neighbour"}))["engine"]
    assert (finding["result"], finding["what"]) == ("ok", "neighbour (discovery.engine): the kernel's neighbour table")


async def test_without_the_capability_the_neighbour_table_serves_unless_arp_is_insisted_on(on_site):
    findings = await on_site(powerless=True)
    assert findings["interface"]["result"] == "ok"
    assert findings["engine"]["result"] == "warn"
    assert re.fullmatch(r"neighbour \(auto\); arp: .*not permitted.*", findings["engine"]["what"])
    assert "CAP_NET_RAW" in findings["engine"]["remedy"]
    findings = await on_site(powerless=True, discovery={"engine": "arp"})
    assert findings["interface"]["result"] == "ok"
    assert findings["engine"]["result"] == "fail"
    assert re.match(r"no engine works on ap0: arp: .*not permitted", findings["engine"]["what"])
    assert "sudo" in findings["engine"]["remedy"]


async def test_an_interface_that_cannot_be_scanned_is_told_with_what_mends_it(on_site, site):
    async def interface(**sections):
        findings = await on_site(**sections)
        assert findings["engine"]["result"] == "warn", "one trouble is one failure"
        finding = findings["interface"]
        assert finding["result"] == "fail"
        return finding["what"], finding["remedy"]

    assert await interface(ap={"interface": "nope0"}) == ("nope0 is not there", "set ap.interface to one of: ap0")
    assert (await interface(ap={"interface": "lo"}))[0] == "lo has no ARP: nobody can be asked there"
    what, remedy = await interface(ap={"subnet": "10.99.0.0/24"})
    assert what == "ap0 has no address in 10.99.0.0/24, but 10.77.0.1/24"
    assert remedy == "name the network that it is on (ap.subnet, or --subnet), or give it its address there"
    site.remove_address()
    site.pi.ip("address", "add", "10.77.0.1/16", "dev", "ap0")
    what, remedy = await interface(ap={"subnet": "10.77.0.0/16"})
    assert what == "10.77.0.0/16 is larger than a /22: 65,536 addresses take long"
    assert "discovery.allow_large_subnet" in remedy
    site.down()
    assert await interface() == ("ap0 is down", "start the access point, or: ip link set ap0 up")


async def test_leases_are_counted_or_it_is_said_why_there_are_none(on_site, tmp_path):
    missing, leases = tmp_path / "missing", tmp_path / "leases"
    finding = (await on_site(discovery={"lease_files": [str(missing)]}))["leases"]
    assert (finding["result"], finding["what"]) == ("warn", f"no lease file found at {missing}")
    leases.write_text("0 24:6f:28:00:00:01 10.77.0.10 espcam *\nnonsense\n")
    finding = (await on_site(discovery={"lease_files": [str(leases)]}))["leases"]
    assert (finding["result"], finding["what"]) == ("ok", "1 of them run; 1 lines were not understood")


async def test_a_port_that_another_keeps_is_why_there_is_no_mdns(on_site, site):
    with site.pi.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 5353))
        finding = (await on_site())["mdns"]
    assert finding["result"] == "warn"
    assert finding["what"].startswith("another program keeps port 5353 for itself")


@pytest.mark.parametrize(
    "kind, reason, count, result", [("ap", None, 3, "ok"), ("ap", None, 7, "warn"), ("station", "no AP", 0, "warn")]
)
def test_a_radio_that_is_nearly_full_or_serves_nobody_is_a_warning(kind, reason, count, result):
    macs = [f"24:6F:28:00:00:{number:02X}" for number in range(count)]
    air = Air(0.0, Radio(kind), tuple(Station(mac) for mac in macs))
    finding = station_finding(air, reason=reason, interface="wlan0")
    assert (finding.check, finding.result, bool(finding.remedy)) == ("stations", result, result == "warn")
    assert finding.what.startswith(reason or f"{count} associated")
    assert ("no more than 8" in finding.what) == (count == 7)


# The rest of the machine.


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


async def test_overrides_that_are_in_force_are_named_and_those_that_are_not(doctor, world):
    async def finding():
        found = (await doctor())["overrides"]
        return found["result"], found["what"]

    world.state_dir.mkdir()
    file = world.state_dir / "overrides.json"
    file.write_bytes(render({"auth.mode": "required", "gone.key": "1"}))
    assert await finding() == ("warn", "in force: auth.mode; not in force: gone.key: unknown key")
    file.write_bytes(b"{")
    result, what = await finding()
    assert (result, what.split(":")[0]) == ("warn", f"{file} cannot be used")
