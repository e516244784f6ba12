"""`doctor`: findings and remedies, with and without a running daemon; it changes nothing."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import socket
import sqlite3
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from pi_orchestrator.features.system.doctor_network import station_finding
from pi_orchestrator.net.wifi.nl80211 import Radio, Station
from pi_orchestrator.net.wifi.stations import StationReading
from pi_orchestrator.settings.overrides import render
from tests.support import lan
from tests.support.broker import free_port, password_line
from tests.support.mqtt_peer import MqttPeer
from tests.support.process import COMMAND, ROOT, UNPRIVILEGED, command, daemon, environment, patched, write_toml
from tests.support.waiting import eventually

CHECKS = [
    *("interface", "engine", "leases", "stations", "mdns"),
    *("broker", "acl", "packets", "clock", "state", "disk", "ports"),
    *("dashboard", "onboarding", "cameras", "messages", "overrides", "settings"),
]
# A separate network namespace, in which lo is down.
NEW_NETNS = (*(shutil.which("unshare") or "unshare", *(() if os.geteuid() == 0 else ("--map-root-user",)), "--net"),)


async def examine(config, *, program=COMMAND, prefix=(), env=None):
    """Run `doctor`, verify what holds for every finding, and return the findings by name of their check."""
    done = await command("doctor", "--json", "--config", config, program=program, prefix=prefix, env=env)
    assert done.err == ""
    findings = {finding["check"]: finding for finding in done.json}
    assert list(findings) == CHECKS
    failed = any(finding["result"] == "fail" for finding in findings.values())
    assert done.code == (1 if failed else 0)
    for finding in findings.values():
        assert bool(finding["remedy"]) == (finding["result"] != "ok"), (
            "each problem has a remedy, and only a problem has one"
        )
    return findings


@pytest.fixture
async def doctor(rig, tmp_path):
    """`await doctor(section={...})` → findings by check; the default sections are healthy."""

    async def run(*, program=COMMAND, prefix=(), env=None, **sections):
        healthy = {"http": {"listen": ["127.0.0.1:0"]}, "auto_onboard": {"mode": "off"}}
        tree = rig.tree(**healthy)
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
    """`doctor` on an access point: `await on_site(unprivileged=..., section={...})`."""

    async def run(*, unprivileged=False, **sections):
        prefix = site.pi.prefix + (UNPRIVILEGED if unprivileged else ())
        return await examine(write_toml(tmp_path / "config.toml", site.tree(**sections)), prefix=prefix)

    return run


async def test_healthy_machine_passes_and_creates_nothing(doctor, rig):
    findings = await doctor()
    assert "fail" not in {finding["result"] for finding in findings.values()}
    assert findings["interface"]["what"] == "lo is up"
    for check in ("engine", "leases", "stations", "mdns"):
        assert "switched off (discovery." in findings[check]["what"]
    assert findings["broker"]["what"] == (
        f"works at 127.0.0.1:{rig.broker.port} (MQTT 5): connected, subscribed, published"
    )
    assert findings["state"]["what"] == f"{rig.state_dir} will be created at the first start"
    assert findings["overrides"]["what"] == "in effect: none"
    assert not rig.state_dir.exists()


async def test_shared_device_id_is_found(doctor, rig):
    port = free_port()
    async with (
        rig.daemon(http={"listen": [f"127.0.0.1:{port}"]}) as running,
        rig.fleet(2, faults=["shared-id:2"], interval=0.2) as fleet,
    ):
        await eventually(running.app.devices.registry.names.conflicts)
        finding = (await doctor(http={"listen": [f"127.0.0.1:{port}"]}))["cameras"]
        assert finding["result"] == "warn"
        assert "two cameras share the id esp32cam: flash different ids" in finding["what"]
        assert all(camera.mac in finding["what"] for camera in fleet.cameras)


async def test_program_that_answers_byte_by_byte_does_not_delay_doctor(doctor):
    async def drip(_reader, writer):
        try:
            for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nX-Pad: ", itertools.repeat(97)):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.1)
        except ConnectionError:
            pass
        finally:
            writer.close()

    code = "from pi_orchestrator.features.system import doctor_daemon\ndoctor_daemon.ANSWER_S = 1.0"
    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(20):
            findings = await doctor(program=patched(code), http={"listen": [f"127.0.0.1:{port}"]})
    for check in ("cameras", "messages"):
        assert findings[check]["what"] == f"not checked: no daemon responds at http://127.0.0.1:{port}"


async def test_missing_interface_lists_alternatives(doctor):
    finding = (await doctor(ap={"interface": "nope0"}))["interface"]
    assert (finding["result"], finding["what"]) == ("fail", "interface nope0 not found")
    others = [entry.name for entry in Path("/sys/class/net").iterdir() if entry.name != "lo"]
    assert finding["remedy"] == f"set ap.interface to one of: {', '.join(sorted(others)) or 'none here'}"


async def test_remedy_for_interface_down_names_command(doctor):
    finding = (await doctor(prefix=NEW_NETNS, ap={"interface": "lo"}))["interface"]
    assert (finding["result"], finding["what"]) == ("fail", "lo is down")
    assert "ip link set lo up" in finding["remedy"]


# The camera network.


async def test_access_point_reports_engine_with_reason(on_site):
    findings = await on_site()
    assert findings["interface"]["what"] == "ap0 is up; cameras are looked for in 10.77.0.0/24"
    assert findings["engine"]["what"] == "arp (auto): CAP_NET_RAW is available"
    assert findings["mdns"]["what"] == "possible on 10.77.0.1"
    assert findings["stations"]["what"].startswith("cannot be read: ")
    finding = (await on_site(discovery={"engine": "neighbour"}))["engine"]
    assert (finding["result"], finding["what"]) == ("ok", "neighbour (discovery.engine): the kernel's neighbour table")


async def test_unprivileged_run_falls_back_to_neighbour_table(on_site):
    findings = await on_site(unprivileged=True)
    assert findings["interface"]["result"] == "ok"
    assert findings["engine"]["result"] == "warn"
    assert re.fullmatch(r"neighbour \(auto\); arp: .*not permitted.*", findings["engine"]["what"])
    assert "CAP_NET_RAW" in findings["engine"]["remedy"]
    findings = await on_site(unprivileged=True, discovery={"engine": "arp"})
    assert findings["interface"]["result"] == "ok"
    assert findings["engine"]["result"] == "fail"
    assert re.match(r"no engine works on ap0: arp: .*not permitted", findings["engine"]["what"])
    assert "sudo" in findings["engine"]["remedy"]


async def test_unscannable_interface_has_remedy(on_site, site):
    async def interface(**sections):
        findings = await on_site(**sections)
        assert findings["engine"]["result"] == "warn", "one problem is one failure"
        finding = findings["interface"]
        assert finding["result"] == "fail"
        return finding["what"], finding["remedy"]

    assert await interface(ap={"interface": "nope0"}) == (
        "interface nope0 not found",
        "set ap.interface to one of: ap0",
    )
    assert (await interface(ap={"interface": "lo"}))[0] == "lo does not support ARP, so it cannot be scanned"
    text, remedy = await interface(ap={"subnet": "10.99.0.0/24"})
    assert text == "ap0 has no address in 10.99.0.0/24; it has 10.77.0.1/24"
    assert (
        remedy == "set ap.subnet (or --subnet) to the network of the interface, or give the interface an address in it"
    )
    site.remove_address()
    site.pi.ip("address", "add", "10.77.0.1/16", "dev", "ap0")
    text, remedy = await interface(ap={"subnet": "10.77.0.0/16"})
    assert text == "10.77.0.0/16 is larger than a /22: scanning 65,536 addresses takes long"
    assert "discovery.allow_large_subnet" in remedy
    site.down()
    assert await interface() == ("ap0 is down", "start the access point, or: ip link set ap0 up")


async def test_leases_are_counted_or_reason_is_given(on_site, tmp_path):
    missing, leases = tmp_path / "missing", tmp_path / "leases"
    finding = (await on_site(discovery={"lease_files": [str(missing)]}))["leases"]
    assert (finding["result"], finding["what"]) == ("warn", f"no lease file found at {missing}")
    leases.write_text("0 24:6f:28:00:00:01 10.77.0.10 espcam *\nnonsense\n")
    finding = (await on_site(discovery={"lease_files": [str(leases)]}))["leases"]
    assert (finding["result"], finding["what"]) == ("ok", "1 active; 1 lines could not be parsed")


async def test_mdns_port_in_use_is_a_warning(on_site, site):
    with site.pi.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 5353))
        finding = (await on_site())["mdns"]
    assert finding["result"] == "warn"
    assert finding["what"].startswith("port 5353 is used exclusively by another program")


@pytest.mark.parametrize(
    "kind, reason, count, result", [("ap", None, 3, "ok"), ("ap", None, 7, "warn"), ("station", "no AP", 0, "warn")]
)
def test_radio_nearly_full_or_inactive_is_a_warning(kind, reason, count, result):
    macs = [f"24:6F:28:00:00:{number:02X}" for number in range(count)]
    reading = StationReading(0.0, Radio(kind), tuple(Station(mac) for mac in macs))
    finding = station_finding(reading, reason=reason, interface="wlan0")
    assert (finding.check, finding.result, bool(finding.remedy)) == ("stations", result, result == "warn")
    assert finding.what.startswith(reason or f"{count} associated")
    assert ("no more than 8" in finding.what) == (count == 7)


# Broker and host.


async def test_unreachable_broker_fails_with_remedy(doctor, rig):
    await rig.broker.stop()
    finding = (await doctor())["broker"]
    assert finding["result"] == "fail"
    assert finding["what"] == f"no answer at 127.0.0.1:{rig.broker.port}: Connection refused"
    assert "systemctl start mosquitto" in finding["remedy"]
    finding = (await doctor(mqtt={"host": "broker.invalid"}))["broker"]
    assert finding["result"] == "fail"
    assert "broker.invalid" in finding["what"]


async def test_broker_refusing_login_fails_with_reason(doctor, rig):
    await rig.broker.stop()
    rig.broker.conf.write_text(rig.broker.conf.read_text().replace("allow_anonymous true", "allow_anonymous false"))
    await rig.broker.start()
    findings = await doctor()
    finding = findings["broker"]
    assert finding["result"] == "fail"
    assert finding["what"].endswith("the broker refused the connection: not authorised")
    assert "mqtt.password_file" in finding["remedy"]
    assert findings["acl"]["what"] == findings["packets"]["what"] == "unknown until the broker works"


async def test_password_of_systemd_credential_is_used(doctor, rig, tmp_path):
    await rig.broker.stop()
    (tmp_path / "users").write_text(password_line("pi", "secret"))
    with rig.broker.conf.open("a") as conf:
        conf.write(f"password_file {tmp_path}/users\n")
    await rig.broker.start()
    assert (await doctor(mqtt={"username": "pi"}))["broker"]["result"] == "fail"
    (tmp_path / "credential").write_text("secret\n")
    code = "from pathlib import Path\nfrom pi_orchestrator.features.system import doctor_broker"
    program = patched(f"{code}\ndoctor_broker.CREDENTIAL = Path({str(tmp_path / 'credential')!r})")
    assert (await doctor(program=program, mqtt={"username": "pi"}))["broker"]["result"] == "ok"


async def test_broker_refusing_filter_fails_with_acl_line_as_remedy(doctor):
    async with MqttPeer(grants={"camera/status/+": 0x87}).running() as peer:
        finding = (await doctor(mqtt={"port": peer.port}))["broker"]
    assert finding["result"] == "fail"
    assert finding["what"].endswith("refuses subscriptions (not authorised): camera/status/+")
    assert finding["remedy"] == (
        "set mqtt.username and mqtt.password_file to a user whose ACL has: topic read camera/status/+"
    )


async def test_broker_without_acl_and_packet_limit_is_a_warning(doctor):
    findings = await doctor()
    assert findings["acl"]["result"] == findings["packets"]["result"] == "warn"
    assert "acl_file /etc/mosquitto/pi-orchestrator.acl" in findings["acl"]["remedy"]
    assert "max_packet_size" in findings["packets"]["remedy"]


async def test_broker_with_packet_limit_is_ok(doctor, rig):
    await rig.broker.stop()
    with rig.broker.conf.open("a") as conf:
        conf.write("max_packet_size 266240\n")
    await rig.broker.start()
    assert (await doctor())["packets"]["result"] == "ok"


async def test_embedded_broker_requires_amqtt(doctor, tmp_path):
    embedded = {"mqtt": {"embedded": True, "port": 0}}
    assert (await doctor(**embedded))["broker"]["result"] == "ok"
    # The installed packages without amqtt, for a Python with no other path.
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


async def test_unusable_state_folder_fails(doctor, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    for folder, expected in ((locked, "is not writable by this user"), (locked / "new", "this user cannot create it")):
        finding = (await doctor(prefix=UNPRIVILEGED, storage={"state_dir": str(folder)}))["state"]
        assert finding["result"] == "fail"
        assert expected in finding["what"]
        assert "--state-dir" in finding["remedy"]


async def test_state_folder_that_refuses_files_fails(doctor, tmp_path):
    """The folder is writable by its mode; only writing a file shows the fault."""
    folder = tmp_path / "state"
    folder.symlink_to("/proc/self/task")
    finding = (await doctor(storage={"state_dir": str(folder)}))["state"]
    assert finding["result"] == "fail"
    assert "is not writable by this user: " in finding["what"]


async def test_database_of_other_user_fails(doctor, rig):
    rig.state_dir.mkdir(mode=0o700)
    (rig.state_dir / "orchestrator.db").touch(mode=0o400)
    finding = (await doctor(prefix=UNPRIVILEGED))["state"]
    assert finding["result"] == "fail"
    assert "orchestrator.db cannot be opened: Permission denied" in finding["what"]


@pytest.fixture
def open_folder():
    """A folder that every user can reach; those of pytest are private."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


# `doctor` with `nobody` as the daemon's user: the real one may not exist on this machine.
AS_NOBODY = patched("from pi_orchestrator.features.system import doctor_access\ndoctor_access.USER = 'nobody'")


async def test_state_folder_of_root_fails_because_daemon_cannot_use_it(doctor, open_folder):
    folder = open_folder / "state"
    folder.mkdir(mode=0o700)
    database = folder / "orchestrator.db"

    async def finding():
        found = (await doctor(program=AS_NOBODY, storage={"state_dir": str(folder)}))["state"]
        return found["result"], found["what"]

    assert await finding() == ("fail", f"the daemon's user nobody cannot read {folder}")
    folder.chmod(0o755)
    assert await finding() == ("fail", f"the daemon's user nobody cannot write {folder}")
    shutil.chown(folder, "nobody")
    assert (await finding())[0] == "ok"
    sqlite3.connect(database).close()
    database.touch(mode=0o600)
    database.chmod(0o600)
    assert await finding() == ("fail", f"the daemon's user nobody cannot read {database}")
    shutil.chown(database, "nobody")
    assert (await finding())[0] == "ok"


async def test_password_file_of_root_fails_because_daemon_cannot_read_it(doctor, open_folder):
    file = open_folder / "password"
    file.write_text("secret\n")
    file.chmod(0o600)
    mqtt = {"username": "pi", "password_file": str(file)}
    findings = await doctor(program=AS_NOBODY, mqtt=mqtt)
    assert findings["broker"]["result"] == "fail"
    assert findings["broker"]["what"] == f"the daemon's user nobody cannot read {file}"
    assert findings["acl"]["result"] == findings["packets"]["result"] == "warn"
    shutil.chown(file, "nobody")
    assert (await doctor(program=AS_NOBODY, mqtt=mqtt))["broker"]["result"] == "ok"


async def test_damaged_database_fails(doctor, rig):
    rig.state_dir.mkdir(mode=0o700)
    database = rig.state_dir / "orchestrator.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE rows (value TEXT)")
        connection.commit()
    assert (await doctor())["state"]["result"] == "ok"
    assert [file.name for file in rig.state_dir.iterdir()] == ["orchestrator.db"], "nothing is left behind"
    database.write_bytes(b"garbage " * 1024)
    finding = (await doctor())["state"]
    assert finding["result"] == "fail"
    assert finding["what"] == f"the database {database} cannot be read: file is not a database"


async def test_full_disk_fails(doctor):
    assert shutil.disk_usage("/proc").free == 0, "/proc has no free space"
    finding = (await doctor(storage={"state_dir": "/proc"}))["disk"]
    assert (finding["result"], finding["what"]) == ("fail", "0 MiB free at /proc")
    assert finding["remedy"] == "free at least 200 MiB"


async def test_port_in_use_warns_and_foreign_address_fails(doctor):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = (await doctor(http={"listen": [f"127.0.0.1:{port}"]}))["ports"]
        assert finding["result"] == "warn"
        assert finding["what"] == f"127.0.0.1:{port} is in use (by the daemon, if it runs)"
        assert finding["remedy"] == f"find the process: ss -ltnp 'sport = :{port}'"
    finding = (await doctor(http={"listen": ["192.0.2.1:8081"]}, auto_onboard={"allow_loopback": False}))["ports"]
    assert finding["result"] == "fail"
    assert finding["what"] == "cannot listen on 192.0.2.1:8081: Cannot assign requested address"


async def test_dev_mode_is_a_warning(doctor):
    finding = (await doctor(auto_onboard={"mode": "dev"}))["onboarding"]
    assert finding["result"] == "warn"
    assert "'off' in production" in finding["remedy"]


async def test_text_output_fits_terminal(rig, tmp_path):
    tree = rig.tree(ap={"interface": "a-long-name-000"}, http={"listen": ["127.0.0.1:0"]})
    tree["storage"]["state_dir"] = "/var/lib/pi-orchestrator-of-a-test"
    done = await command("doctor", "--config", write_toml(tmp_path / "config.toml", tree), prefix=UNPRIVILEGED)
    assert done.code == 1
    lines = done.out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line.split()[1] for line in lines if not line.startswith(" ")] == CHECKS
    marks = {line.split()[0] for line in lines if not line.startswith(" ")}
    assert marks <= {"OK", "WARN", "FAIL"}
    assert any(line.lstrip().startswith("→ ") for line in lines)


async def test_doctor_does_not_disturb_running_daemon(rig, tmp_path):
    async with daemon(rig, tmp_path) as process:
        tree = rig.tree(http={"listen": [process.api.url[7:]]})
        done = await command("doctor", "--config", write_toml(tmp_path / "config.toml", tree))
        assert done.code == 0
        assert "in use (by the daemon, if it runs)" in " ".join(done.out.split())
        assert (await process.api.get("/readyz")).status == 200
        assert process.entries("ready") == process.entries("ready")[:1]


def test_environment_of_commands_has_no_settings():
    assert not {name for name in environment() if name.startswith(("PIORCH", "AUTO_ONBOARD", "API_KEY", "LOG_LEVEL"))}


async def test_retired_settings_are_a_warning(doctor, rig):
    assert (await doctor())["settings"]["result"] == "ok"
    rig.state_dir.mkdir()
    file = rig.state_dir / "overrides.json"
    file.write_bytes(render({"auth.mode": "required", "auto_onboard.queue_limit": "10"}))
    findings = await doctor(mqtt={"keepalive_s": 20})
    settings, overrides = findings["settings"], findings["overrides"]
    assert settings["result"] == "warn"
    assert "mqtt.keepalive_s: has no effect any more" in settings["what"]
    assert f"remove it (from override {file})" in settings["what"]
    assert (overrides["result"], overrides["what"]) == ("ok", "in effect: auth.mode")


async def test_active_and_ignored_overrides_are_listed(doctor, rig):
    async def finding():
        found = (await doctor())["overrides"]
        return found["result"], found["what"]

    rig.state_dir.mkdir()
    file = rig.state_dir / "overrides.json"
    file.write_bytes(render({"auth.mode": "required", "gone.key": "1"}))
    assert await finding() == ("warn", "in effect: auth.mode; not in effect: gone.key: unknown key")
    file.write_bytes(b"{")
    result, what = await finding()
    assert (result, what.split(":")[0]) == ("warn", f"{file} cannot be used")
