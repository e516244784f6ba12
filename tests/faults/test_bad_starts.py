"""Starts under bad conditions: the daemon starts and reports what is wrong, or refuses with one message.

A refusal is a message with a remedy on stderr and no trace; exit code 2 for the configuration, 1 for the machine.
"""

import contextlib
import os
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from tests.support.broker import free_port
from tests.support.process import ROOT, UNPRIVILEGED, command, daemon, write_toml
from tests.support.waiting import eventually

SET_ASIDE = "damaged database set aside"


async def refused(rig, tmp_path, *args, code=1, prefix=(), env=None, tree=None):
    """Run the daemon and expect this exit code, no trace and no stdout; return the stderr lines except log entries."""
    config = write_toml(tmp_path / "config.toml", tree if tree is not None else rig.tree())
    done = await command("run", "--config", config, *args, prefix=prefix, env=env)
    assert done.code == code, done
    assert "Traceback" not in done.err
    assert done.out == ""
    return [line for line in done.err.splitlines() if not line.startswith("{")]


# Refused starts.


async def test_state_folder_not_writable_is_refused(rig, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    for folder in (locked, locked / "state"):
        assert await refused(rig, tmp_path, "--state-dir", folder, prefix=UNPRIVILEGED) == [
            f"error: cannot use the state folder {folder}: Permission denied",
            "  make it writable for this user, or choose another with --state-dir",
        ]


async def test_state_folder_is_file_is_refused(rig, tmp_path):
    (tmp_path / "file").touch()
    lines = await refused(rig, tmp_path, "--state-dir", tmp_path / "file")
    assert lines == [
        f"error: cannot use the state folder {tmp_path / 'file'}: File exists",
        "  make it writable for this user, or choose another with --state-dir",
    ]


async def test_database_of_other_user_is_refused(rig, tmp_path):
    async with daemon(rig, tmp_path) as process:
        await process.stop()
    for mode in (0o000, 0o400):
        (rig.state_dir / "orchestrator.db").chmod(mode)
        lines = await refused(rig, tmp_path, prefix=UNPRIVILEGED)
        assert len(lines) == 2
        assert str(rig.state_dir / "orchestrator.db") in lines[0]
        assert "user" in lines[1] or "permission" in lines[1], "the remedy names user or permission"
    assert not list(rig.state_dir.glob("*damaged*")), "an unreadable file is not treated as damaged"


async def test_port_in_use_is_refused(rig, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert await refused(rig, tmp_path, "--listen", f"127.0.0.1:{port}") == [
            f"error: cannot listen on 127.0.0.1:{port}: Address already in use",
            f"  stop the program that uses port {port} (see: ss -ltnp), or change http.listen",
        ]
        assert await refused(rig, tmp_path, "--listen", "127.0.0.1:0", "--listen", f"127.0.0.1:{port}")
    # The refused start has not damaged the state.
    async with daemon(rig, tmp_path) as process:
        assert (await process.api.get("/readyz")).status == 200


async def test_foreign_address_is_refused(rig, tmp_path):
    tree = rig.tree(auto_onboard={"allow_loopback": False}, http={"listen": ["192.0.2.1:8081"]})
    assert await refused(rig, tmp_path, tree=tree) == [
        "error: cannot listen on 192.0.2.1:8081: Cannot assign requested address",
        "  192.0.2.1 is not an address of this machine; change http.listen",
    ]


async def test_privileged_port_is_refused(rig, tmp_path):
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    assert lowest > 1, "every user of this machine may use every port"
    assert await refused(rig, tmp_path, "--listen", "127.0.0.1:1", prefix=UNPRIVILEGED) == [
        "error: cannot listen on 127.0.0.1:1: Permission denied",
        "  ports below 1024 need root privileges; set a higher port in http.listen",
    ]


async def test_embedded_broker_without_extra_is_refused(rig, tmp_path):
    # A package of that name that cannot be imported comes first on the path.
    (tmp_path / "amqtt").mkdir()
    (tmp_path / "amqtt" / "__init__.py").write_text("raise ImportError('not here')\n")
    lines = await refused(
        rig,
        tmp_path,
        tree=rig.tree(mqtt={"embedded": True, "port": 0}),
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert lines == [
        "error: mqtt.embedded = true needs the package amqtt, which is not installed",
        "  install pi-orchestrator[demo], or set mqtt.embedded = false and run mosquitto",
    ]


async def test_embedded_broker_port_in_use_is_refused(rig, tmp_path):
    lines = await refused(rig, tmp_path, tree=rig.tree(mqtt={"embedded": True}))
    assert lines[0].startswith(f"error: the embedded broker cannot listen on 127.0.0.1:{rig.broker.port}")
    assert lines[1] == "  choose another mqtt.port, or 0 for a free one"
    assert len(lines) == 2


async def test_all_configuration_mistakes_are_reported(rig, tmp_path):
    tree = rig.tree(mqtt={"port": 0.5, "hots": "x"}, logging={"level": "x"}, cameras={"http_port": 0})
    lines = await refused(rig, tmp_path, code=2, tree=tree, env={"PIORCH_AP__SUBNETS": "x"})
    assert len(lines) == 6
    named = ["mqtt.port", "mqtt.hots", "logging.level", "cameras.http_port", "PIORCH_AP__SUBNETS"]
    assert all(any(name in line for line in lines) for name in named), lines
    assert not rig.state_dir.exists(), "nothing is created before the configuration is valid"


async def test_unreadable_configuration_is_refused(tmp_path):
    config = tmp_path / "config.toml"
    config.touch(mode=0o000)
    done = await command("run", "--config", config, prefix=UNPRIVILEGED)
    assert (done.code, done.out) == (2, "")
    remedy = f"  {config}: cannot be read: Permission denied; try with sudo"
    assert done.err.splitlines() == ["The configuration is not valid:", remedy]


# Started in spite of a fault.


async def test_daemon_without_broker_starts_degraded(rig, tmp_path):
    await rig.broker.stop()
    async with daemon(rig, tmp_path, connected=False) as process:
        entry = await process.logged("mqtt not connected")
        assert (entry["level"], entry["host"]) == ("warning", "127.0.0.1")
        assert "refused" in entry["reason"]
        ready = (await process.api.get("/readyz")).json
        assert ready["ready"] is True
        assert ready["checks"]["mqtt"] is False
        assert any(line.startswith("mqtt: ") and "refused" in line for line in ready["errors"])
        assert (await process.api.get("/api/v1/cameras")).data == {"cameras": [], "count": 0}


async def test_broker_refusing_login_is_retried(rig, tmp_path):
    await rig.broker.stop()
    conf = rig.broker.conf.read_text()
    rig.broker.conf.write_text(conf.replace("allow_anonymous true", "allow_anonymous false"))
    await rig.broker.start()
    async with daemon(rig, tmp_path, connected=False) as process:
        entry = await process.logged("mqtt not connected")
        assert "authori" in entry["reason"].lower()
        await rig.broker.stop()
        rig.broker.conf.write_text(conf)
        await rig.broker.start()
        await process.logged("mqtt connected")


async def test_silent_broker_is_retried(rig, tmp_path):
    rig.broker.freeze()
    async with daemon(rig, tmp_path, connected=False) as process:
        assert (await process.api.get("/readyz")).status == 200
        entry = await process.logged("mqtt not connected")
        assert entry["reason"] == "no answer from the broker"
        rig.broker.thaw()
        await process.logged("mqtt connected")


async def test_unusable_certificate_is_logged(rig, tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("nothing of the kind\n")
    async with daemon(rig, tmp_path, connected=False, mqtt={"tls": True, "ca_file": str(file)}) as process:
        entry = await process.logged("mqtt not connected")
        assert entry["reason"].startswith(f"mqtt.ca_file {file} cannot be used: ")
        assert "Traceback" not in process.text()
        assert (await process.api.get("/readyz")).json["checks"]["mqtt"] is False


async def test_daemon_with_missing_interface_starts(rig, tmp_path):
    """Cameras on MQTT are onboarded; `doctor` names the interface and the remedy."""
    sections = {"ap": {"interface": "nope0"}}
    async with daemon(rig, tmp_path, **sections) as process, rig.fleet(1):
        await process.logged("camera onboarded")
    config = write_toml(tmp_path / "config.toml", rig.tree(**sections))
    finding = next(
        finding for finding in (await command("doctor", "--config", config, "--json")).json if "nope0" in str(finding)
    )
    assert (finding["check"], finding["result"], finding["what"]) == ("interface", "fail", "interface nope0 not found")
    assert finding["remedy"].startswith("set ap.interface to one of: ")


# A damaged database.


def emptied(path):
    path.write_bytes(b"")


def cut_in_half(path):
    os.truncate(path, path.stat().st_size // 2 + 100)


def overwritten_at_the_start(path):
    with path.open("r+b") as file:
        file.write(b"\xa5" * 8192)


def overwritten_in_the_middle(path):
    """Overwrite every page but the first."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def replaced_by_text(path):
    path.write_text("this is no database\n" * 500)


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()
    (path / "something").write_text("in it")


@pytest.fixture(scope="module")
def histories():
    """State folders, made once; the key is `cleanly`: whether their daemon was stopped (True) or killed (False)."""
    return {}


@pytest.fixture
async def used_once(rig, tmp_path, tmp_path_factory, histories):
    """`await used_once(cleanly=...)` gives this rig a state folder with a history; returns the database's path."""

    async def put(*, cleanly):
        if cleanly not in histories:
            async with daemon(rig, tmp_path) as process, rig.fleet(3):
                await process.logged("camera onboarded", count=3)
                if cleanly:
                    assert await process.stop() == 0
            histories[cleanly] = tmp_path_factory.mktemp("history") / "state"
            shutil.copytree(rig.state_dir, histories[cleanly])
            shutil.rmtree(rig.state_dir)
        shutil.copytree(histories[cleanly], rig.state_dir)
        path = rig.state_dir / "orchestrator.db"
        if not cleanly:
            # As after a power cut, but with an empty write-ahead log, so that the damage is in the database file.
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path

    return put


@pytest.mark.parametrize("cleanly", [True, False], ids=["after a clean stop", "after a kill"])
@pytest.mark.parametrize(
    "damage",
    [cut_in_half, overwritten_at_the_start, overwritten_in_the_middle, replaced_by_text, replaced_by_a_folder],
    ids=lambda damage: damage.__name__.replace("_", " "),
)
async def test_damaged_database_is_set_aside(rig, tmp_path, used_once, damage, cleanly):
    path = await used_once(cleanly=cleanly)
    damage(path)
    async with daemon(rig, tmp_path) as process, rig.fleet(3):
        entries = process.entries(SET_ASIDE)
        assert [entry["level"] for entry in entries] == ["error"]
        aside = next(
            file for file in rig.state_dir.glob("orchestrator.db.damaged-*") if str(file) == entries[0]["file"]
        )
        ready = await process.api.get("/readyz")
        assert (ready.status, ready.json["ready"], ready.json["checks"]["recovery"]) == (200, True, False)
        assert any(aside.name in line for line in ready.json["errors"])
        # Cameras that were not saved are onboarded again.
        await eventually(lambda: rig.rows("SELECT count(*) FROM assignments") == [(3,)])
        assert (await process.admin.get("/api/v1/keys")).status == 200, "the key in admin.key is valid"
        assert await process.stop() == 0
    assert rig.rows("PRAGMA integrity_check") == [("ok",)]


async def test_database_set_aside_is_kept_and_reported_once(rig, tmp_path, used_once):
    replaced_by_text(await used_once(cleanly=True))
    async with daemon(rig, tmp_path) as process:
        assert await process.stop() == 0
    async with daemon(rig, tmp_path) as process:
        assert "recovery" not in (await process.api.get("/readyz")).json["checks"]
        assert process.entries(SET_ASIDE) == []
        kept = [file.read_text()[:19] for file in rig.state_dir.glob("orchestrator.db.damaged-*")]
        assert kept == ["this is no database"]


async def test_empty_database_starts_anew(rig, tmp_path, used_once):
    path = await used_once(cleanly=True)
    emptied(path)
    async with daemon(rig, tmp_path) as process, rig.fleet(3):
        assert (await process.admin.get("/api/v1/keys")).status == 200
        await process.logged("camera onboarded", count=3)


def overwrite_table(rig, name):
    """Overwrite the first page of a table; a start after a clean stop skips the check that would find this."""
    page = rig.rows("SELECT rootpage FROM sqlite_schema WHERE name = ?", name)[0][0]
    with (rig.state_dir / "orchestrator.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


async def test_damage_found_during_start_is_repaired_at_next_start(rig, tmp_path, used_once):
    await used_once(cleanly=True)
    overwrite_table(rig, "api_keys")
    assert await refused(rig, tmp_path) == [
        "error: the database file is damaged",
        "  restart the daemon: it checks the file at start, moves it aside and saves the readable rows",
    ]
    async with daemon(rig, tmp_path) as process:
        assert process.entries(SET_ASIDE)[0]["rows_saved"] > 0
        assert (await process.api.get("/api/v1/espcam/paired")).data["total"] == 3, "readable rows are saved"
        assert (await process.admin.get("/api/v1/keys")).status == 200, "the key in admin.key is valid"


async def test_damage_found_while_running_is_repaired_at_next_start(rig, tmp_path, used_once):
    await used_once(cleanly=True)
    overwrite_table(rig, "onboarding_audit")
    async with daemon(rig, tmp_path, env={"WATCHDOG_USEC": "300000"}) as process:
        answer = await process.api.get("/api/v1/onboarding/auto/events")
        assert (answer.status, answer.json["code"]) == (500, "DATABASE_ERROR")

        async def damage_reported():
            return [line for line in (await process.api.get("/readyz")).json["errors"] if "database: " in line]

        assert "damaged" in (await eventually(damage_reported))[0]
        assert await process.stop() == 0
    assert not (rig.state_dir / "clean-shutdown").exists(), "the next start must check the file"
    async with daemon(rig, tmp_path) as process:
        assert process.entries(SET_ASIDE)[0]["rows_saved"] > 0
        assert (await process.api.get("/api/v1/onboarding/auto/events")).status == 200
        assert (await process.api.get("/api/v1/espcam/paired")).data["total"] == 3, "readable rows are saved"


async def test_newer_database_is_refused_unchanged(rig, tmp_path, used_once):
    path = await used_once(cleanly=True)
    rig.execute("PRAGMA user_version = 999")
    before = path.read_bytes()
    lines = await refused(rig, tmp_path)
    assert "schema 999" in lines[0]
    assert lines[1].startswith("  install the newer version again")
    assert path.read_bytes() == before


async def test_failed_starts_leave_state_unchanged(rig, tmp_path, used_once):
    await used_once(cleanly=True)
    before = rig.tables()
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        for _ in range(3):
            await refused(rig, tmp_path, "--listen", f"127.0.0.1:{port}")
    assert rig.tables() == before


@pytest.mark.parametrize("table", ["cameras", "containers", "onboarding_state", "operator_actions"])
async def test_cameras_are_onboarded_again_after_loss_of_table(rig, tmp_path, used_once, table):
    await used_once(cleanly=False)
    overwrite_table(rig, table)
    async with daemon(rig, tmp_path) as process, rig.fleet(3):
        assert len(process.entries(SET_ASIDE)) == 1

        async def is_complete():
            cameras = (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
            return sorted((camera["container_id"], camera["position"]) for camera in cameras) == [
                ("auto-onboard", position) for position in (1, 2, 3)
            ]

        await eventually(is_complete, what="three cameras on three positions")
