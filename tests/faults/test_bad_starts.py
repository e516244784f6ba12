"""Starts on bad ground: where the daemon can work it does and says what is wrong; where it cannot, it says so once.

A refusal is one message with its remedy on stderr, exit code 2 for what is configured and 1 for what is around it,
and never a trace.
"""

import contextlib
import os
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from tests.support.broker import free_port
from tests.support.process import POWERLESS, ROOT, command, daemon, write_toml
from tests.support.waiting import eventually

SET_ASIDE = "damaged database set aside"


async def refused(world, tmp_path, *args, code=1, prefix=(), env=None, tree=None):
    """`run` ends with this code and without a trace; what it said, in lines."""
    config = write_toml(tmp_path / "config.toml", tree if tree is not None else world.tree())
    done = await command("run", "--config", config, *args, prefix=prefix, env=env, within=15)
    assert done.code == code, done
    assert "Traceback" not in done.err
    assert done.out == ""
    return [line for line in done.err.splitlines() if not line.startswith("{")]


# What must be mended first.


async def test_a_state_folder_that_is_not_writable(world, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    for folder in (locked, locked / "state"):
        assert await refused(world, tmp_path, "--state-dir", folder, prefix=POWERLESS) == [
            f"error: cannot use the state folder {folder}: Permission denied",
            "  make it writable for this user, or choose another with --state-dir",
        ]


async def test_a_state_folder_that_is_a_file(world, tmp_path):
    (tmp_path / "file").touch()
    said = await refused(world, tmp_path, "--state-dir", tmp_path / "file")
    assert said == [
        f"error: cannot use the state folder {tmp_path / 'file'}: File exists",
        "  make it writable for this user, or choose another with --state-dir",
    ]


async def test_a_database_that_belongs_to_another_user(world, tmp_path):
    async with daemon(world, tmp_path) as process:
        await process.stop()
    for mode in (0o000, 0o400):
        (world.state_dir / "orchestrator.db").chmod(mode)
        said = await refused(world, tmp_path, prefix=POWERLESS)
        assert len(said) == 2
        assert str(world.state_dir / "orchestrator.db") in said[0]
        assert "user" in said[1] or "permission" in said[1], "the remedy speaks of who may read and write"
    assert not list(world.state_dir.glob("*damaged*")), "what cannot be read is not damaged for that"


async def test_a_port_in_use(world, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert await refused(world, tmp_path, "--listen", f"127.0.0.1:{port}") == [
            f"error: cannot listen on 127.0.0.1:{port}: Address already in use",
            f"  stop what uses port {port} (see: ss -ltnp), or change http.listen",
        ]
        assert await refused(world, tmp_path, "--listen", "127.0.0.1:0", "--listen", f"127.0.0.1:{port}")
    # Whoever could not listen must not have spoilt the state for who can.
    async with daemon(world, tmp_path) as process:
        assert (await process.api.get("/readyz")).status == 200


async def test_an_address_that_is_not_ours(world, tmp_path):
    tree = world.tree(auto_onboard={"allow_loopback": False}, http={"listen": ["192.0.2.1:8081"]})
    assert await refused(world, tmp_path, tree=tree) == [
        "error: cannot listen on 192.0.2.1:8081: Cannot assign requested address",
        "  192.0.2.1 is not an address of this machine; change http.listen",
    ]


async def test_a_port_that_needs_a_privilege(world, tmp_path):
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    assert lowest > 1, "on this machine every user may listen on every port: nothing to test"
    assert await refused(world, tmp_path, "--listen", "127.0.0.1:1", prefix=POWERLESS) == [
        "error: cannot listen on 127.0.0.1:1: Permission denied",
        "  ports below 1024 need a privilege; choose a higher one in http.listen",
    ]


async def test_an_embedded_broker_without_the_extra(world, tmp_path):
    # A package of that name that cannot be imported stands before the real one, if that is installed.
    (tmp_path / "amqtt").mkdir()
    (tmp_path / "amqtt" / "__init__.py").write_text("raise ImportError('not here')\n")
    said = await refused(
        world,
        tmp_path,
        tree=world.tree(mqtt={"embedded": True, "port": 0}),
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert said == [
        "error: mqtt.embedded needs a package that is not installed",
        "  install pi-orchestrator[demo], or set mqtt.embedded = false and run mosquitto",
    ]


async def test_an_embedded_broker_whose_port_is_taken(world, tmp_path):
    said = await refused(world, tmp_path, tree=world.tree(mqtt={"embedded": True}))
    assert said[0].startswith(f"error: the embedded broker cannot listen on 127.0.0.1:{world.broker.port}")
    assert said[1] == "  choose another mqtt.port, or 0 for a free one"
    assert len(said) == 2


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("mqtt", "hots", "x", "mqtt.hots: unknown key; did you mean mqtt.host?"),
        ("autoonboard", "mode", "dev", "autoonboard: unknown key; did you mean auto_onboard?"),
        ("mqtt", "port", 70000, "mqtt.port: Input should be less than or equal to 65535"),
        ("mqtt", "port", "abc", "mqtt.port: Input should be a valid integer"),
        ("logging", "level", "loud", "logging.level: Input should be 'debug', 'info', 'warning' or 'error'"),
        ("http", "listen", ["8081"], "http.listen"),
        ("ap", "subnet", "192.168.10.5/24", "ap.subnet"),
        ("auto_onboard", "subnet_allowlist", ["::1/64"], "auto_onboard.subnet_allowlist"),
        ("auto_onboard", "max_per_minute", 0, "auto_onboard.max_per_minute"),
        ("auto_onboard", "deny", ["not a mac"], "auto_onboard.deny"),
        ("auto_onboard", "target_container", "no spaces allowed", "auto_onboard.target_container"),
        ("cameras", "offline_after_s", -1, "cameras.offline_after_s"),
        ("auth", "api_key", "short", "auth.api_key: shorter than 8 characters"),
        ("auth", "api_key_file", "/nonexistent/key", "auth.api_key_file"),
        ("auth", "mode", "on", "auth.mode"),
    ],
)
async def test_a_wrong_value_is_named_by_its_key(world, tmp_path, section, key, value, says):
    said = await refused(world, tmp_path, code=2, tree=world.tree(**{section: {key: value}}))
    assert said[0] == "The configuration cannot be used:"
    assert len(said) == 2, said
    assert said[1].startswith(f"  {says}")
    assert not world.state_dir.exists(), "nothing is touched before the configuration is right"


async def test_every_mistake_is_named_at_once(world, tmp_path):
    tree = world.tree(mqtt={"port": 0.5, "hots": "x"}, logging={"level": "x"}, cameras={"http_port": 0})
    said = await refused(world, tmp_path, code=2, tree=tree, env={"PIORCH_AP__SUBNETS": "x"})
    assert len(said) == 6
    named = ["mqtt.port", "mqtt.hots", "logging.level", "cameras.http_port", "PIORCH_AP__SUBNETS"]
    assert all(any(name in line for line in said) for name in named), said


@pytest.mark.parametrize("kind", ["missing", "folder", "not readable", "not text", "not TOML"])
async def test_a_configuration_file_that_cannot_be_read(world, tmp_path, kind):
    config = tmp_path / "config.toml"
    match kind:
        case "folder":
            config.mkdir()
        case "not readable":
            config.touch(mode=0o000)
        case "not text":
            config.write_bytes(b"\xff\xfe\x00")
        case "not TOML":
            config.write_text("[mqtt\n")
    done = await command("run", "--config", config, prefix=POWERLESS)
    assert done.code == 2
    said = done.err.splitlines()
    assert said[0] == "The configuration cannot be used:"
    assert len(said) == 2
    assert str(config) in said[1]
    assert "Errno" not in done.err


# Where it can work all the same.


async def test_no_broker_at_all(world, tmp_path):
    await world.broker.stop()
    async with daemon(world, tmp_path, connected=False) as process:
        told = await process.logged("mqtt not connected")
        assert (told["level"], told["host"]) == ("warning", "127.0.0.1")
        assert "refused" in told["reason"]
        ready = (await process.api.get("/readyz")).json
        assert ready["ready"] is True
        assert ready["checks"]["mqtt"] is False
        assert any(line.startswith("mqtt: ") and "refused" in line for line in ready["errors"])
        assert (await process.api.get("/api/v1/cameras")).data == {"cameras": [], "count": 0}


async def test_a_broker_that_does_not_let_us_in_is_joined_once_it_does(world, tmp_path):
    await world.broker.stop()
    conf = world.broker.conf.read_text()
    world.broker.conf.write_text(conf.replace("allow_anonymous true", "allow_anonymous false"))
    await world.broker.start()
    async with daemon(world, tmp_path, connected=False) as process:
        told = await process.logged("mqtt not connected")
        assert "authori" in told["reason"].lower()
        await world.broker.stop()
        world.broker.conf.write_text(conf)
        await world.broker.start()
        await process.logged("mqtt connected")


async def test_a_broker_that_accepts_and_says_nothing(world, tmp_path):
    world.broker.freeze()
    async with daemon(world, tmp_path, connected=False) as process:
        assert (await process.api.get("/readyz")).status == 200
        told = await process.logged("mqtt not connected")
        assert told["reason"] == "no answer from the broker"
        world.broker.thaw()
        await process.logged("mqtt connected")


async def test_a_certificate_file_that_cannot_be_used_is_told_as_the_reason_why_the_broker_is_not_joined(
    world, tmp_path
):
    file = tmp_path / "ca.pem"
    file.write_text("nothing of the kind\n")
    async with daemon(world, tmp_path, connected=False, mqtt={"tls": True, "ca_file": str(file)}) as process:
        told = await process.logged("mqtt not connected")
        assert told["reason"].startswith(f"mqtt.ca_file {file} cannot be used: ")
        assert "Traceback" not in process.text()
        assert (await process.api.get("/readyz")).json["checks"]["mqtt"] is False


async def test_no_interface_of_the_configured_name(world, tmp_path):
    """Cameras that come by MQTT are onboarded all the same; `doctor` names the interface and the remedy."""
    sections = {"ap": {"interface": "nope0"}}
    async with daemon(world, tmp_path, **sections) as process, world.fleet(1):
        await process.logged("camera onboarded")
    config = write_toml(tmp_path / "config.toml", world.tree(**sections))
    finding = next(
        finding for finding in (await command("doctor", "--config", config, "--json")).json if "nope0" in str(finding)
    )
    assert (finding["check"], finding["result"], finding["what"]) == ("interface", "fail", "nope0 is not there")
    assert finding["remedy"].startswith("set ap.interface to one of: ")


# A database that is not one any more.


def emptied(path):
    path.write_bytes(b"")


def cut_in_half(path):
    os.truncate(path, path.stat().st_size // 2 + 100)


def overwritten_at_the_start(path):
    with path.open("r+b") as file:
        file.write(b"\xa5" * 8192)


def overwritten_in_the_middle(path):
    """Every page but the first: what the file says of itself is whole, what it holds is not."""
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
    """State folders by how they were left, made once."""
    return {}


@pytest.fixture
async def used_once(world, tmp_path, tmp_path_factory, histories):
    """`await used_once(cleanly=...)` gives this world a state folder with a history; returns the database's path."""

    async def put(*, cleanly):
        if cleanly not in histories:
            async with daemon(world, tmp_path) as process, world.fleet(3):
                await process.logged("camera onboarded", count=3)
                if cleanly:
                    assert await process.stop() == 0
            histories[cleanly] = tmp_path_factory.mktemp("history") / "state"
            shutil.copytree(world.state_dir, histories[cleanly])
            shutil.rmtree(world.state_dir)
        shutil.copytree(histories[cleanly], world.state_dir)
        path = world.state_dir / "orchestrator.db"
        if not cleanly:
            # As after a power cut, but with the log folded back: it is the file that is damaged, not what is beside it.
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
async def test_a_damaged_database_is_set_aside_and_the_daemon_starts_and_says_so(
    world, tmp_path, used_once, damage, cleanly
):
    path = await used_once(cleanly=cleanly)
    damage(path)
    async with daemon(world, tmp_path) as process, world.fleet(3):
        told = process.entries(SET_ASIDE)
        assert [entry["level"] for entry in told] == ["error"]
        aside = next(file for file in world.state_dir.glob("orchestrator.db.damaged-*") if str(file) == told[0]["file"])
        ready = await process.api.get("/readyz")
        assert (ready.status, ready.json["ready"], ready.json["checks"]["recovery"]) == (200, True, False)
        assert any(aside.name in line for line in ready.json["errors"])
        # Cameras that were not saved are onboarded anew; those that were are there.
        await eventually(lambda: world.rows("SELECT count(*) FROM assignments") == [(3,)])
        assert (await process.admin.get("/api/v1/keys")).status == 200, "the key in admin.key is valid"
        assert await process.stop() == 0
    assert world.rows("PRAGMA integrity_check") == [("ok",)]


async def test_what_was_set_aside_is_told_once_and_kept(world, tmp_path, used_once):
    replaced_by_text(await used_once(cleanly=True))
    async with daemon(world, tmp_path) as process:
        assert await process.stop() == 0
    async with daemon(world, tmp_path) as process:
        assert "recovery" not in (await process.api.get("/readyz")).json["checks"]
        assert process.entries(SET_ASIDE) == []
        kept = [file.read_text()[:19] for file in world.state_dir.glob("orchestrator.db.damaged-*")]
        assert kept == ["this is no database"]


async def test_an_emptied_database_is_begun_anew(world, tmp_path, used_once):
    path = await used_once(cleanly=True)
    emptied(path)
    async with daemon(world, tmp_path) as process, world.fleet(3):
        assert (await process.admin.get("/api/v1/keys")).status == 200
        await process.logged("camera onboarded", count=3)


def overwrite_table(world, name):
    """The first page of a table; a clean stop before it spares the check that would find this."""
    page = world.rows("SELECT rootpage FROM sqlite_schema WHERE name = ?", name)[0][0]
    with (world.state_dir / "orchestrator.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


async def test_damage_that_is_met_on_the_way_up_ends_that_start_and_is_mended_by_the_next(world, tmp_path, used_once):
    await used_once(cleanly=True)
    overwrite_table(world, "api_keys")
    assert await refused(world, tmp_path) == [
        "error: the database file is damaged",
        "  start the daemon again: it then checks the file, sets it aside and saves what can be read",
    ]
    async with daemon(world, tmp_path) as process:
        assert process.entries(SET_ASIDE)[0]["rows_saved"] > 0
        assert (await process.api.get("/api/v1/espcam/paired")).data["total"] == 3, "what could be read is saved"
        assert (await process.admin.get("/api/v1/keys")).status == 200, "the key in admin.key is valid"


async def test_damage_that_is_met_while_it_runs_is_told_and_mended_by_the_next_start(world, tmp_path, used_once):
    await used_once(cleanly=True)
    overwrite_table(world, "onboarding_audit")
    async with daemon(world, tmp_path, env={"WATCHDOG_USEC": "300000"}) as process:
        answer = await process.api.get("/api/v1/onboarding/auto/events")
        assert (answer.status, answer.json["code"]) == (500, "DATABASE_ERROR")

        async def told():
            return [line for line in (await process.api.get("/readyz")).json["errors"] if "database: " in line]

        assert "damaged" in (await eventually(told))[0]
        assert await process.stop() == 0
    assert not (world.state_dir / "clean-shutdown").exists(), "the next start has to check"
    async with daemon(world, tmp_path) as process:
        assert process.entries(SET_ASIDE)[0]["rows_saved"] > 0
        assert (await process.api.get("/api/v1/onboarding/auto/events")).status == 200
        assert (await process.api.get("/api/v1/espcam/paired")).data["total"] == 3, "what could be read is saved"


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(world, tmp_path, used_once):
    path = await used_once(cleanly=True)
    world.execute("PRAGMA user_version = 999")
    before = path.read_bytes()
    said = await refused(world, tmp_path)
    assert "schema 999" in said[0]
    assert said[1].startswith("  install the newer version again")
    assert path.read_bytes() == before


async def test_starts_that_fail_leave_the_state_as_it_was(world, tmp_path, used_once):
    await used_once(cleanly=True)
    before = world.tables()
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        for _ in range(3):
            await refused(world, tmp_path, "--listen", f"127.0.0.1:{port}")
    assert world.tables() == before


@pytest.mark.parametrize("table", ["cameras", "containers", "onboarding_state", "operator_actions"])
async def test_whichever_table_is_lost_every_camera_is_wholly_onboarded_in_the_end(world, tmp_path, used_once, table):
    await used_once(cleanly=False)
    overwrite_table(world, table)
    async with daemon(world, tmp_path) as process, world.fleet(3):
        assert len(process.entries(SET_ASIDE)) == 1

        async def whole():
            cameras = (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
            return sorted((camera["container_id"], camera["position"]) for camera in cameras) == [
                ("auto-onboard", position) for position in (1, 2, 3)
            ]

        await eventually(whole, what="three cameras on three positions")
