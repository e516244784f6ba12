"""Changes of the configuration while the daemon runs: whole or not at all, whatever fails, and in order."""

import asyncio
import errno
import json
import os
import stat

import pytest

from pi_orchestrator.errors import (
    ConflictError,
    NotFoundError,
    OrchestratorError,
    SettingsError,
    StorageError,
    ValidationFailedError,
)
from pi_orchestrator.health import Health
from pi_orchestrator.settings import load
from pi_orchestrator.settings.overrides import NAME, read, render
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.state_dir import StateDir
from pi_orchestrator.workers.configuration import Configuration
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

CANARY = "canary-7f3a9c1e"
IDLE, OFFLINE = "cameras.idle_after_s", "cameras.offline_after_s"
RELOADABLE = frozenset({IDLE, OFFLINE, "auth.mode", "auth.api_key", "auth.api_key_file", "auto_onboard.deny"})
ACTOR = Actor(key_name="admin", peer="127.0.0.1", correlation_id="c", action="config.set")


class Parts:
    """The running parts: what is in force in them; `refuses` is raised by the next `apply`."""

    def __init__(self, settings):
        self.settings = settings
        self.order = []
        self.refuses = None
        self.in_the_way = None

    def obstacle(self, settings):
        return self.in_the_way

    def apply(self, settings):
        self.order.append("applied")
        if self.refuses:
            refuses, self.refuses = self.refuses, None
            self.settings = None  # half of it has happened
            raise refuses
        self.settings = settings
        return []


class Folder(StateDir):
    """A state folder that says when it is written to."""

    order = None

    def write_private(self, name, content):
        self.order.append("written")
        return super().write_private(name, content)


class Bench:
    """A configuration with its parts, its file and its database."""

    def __init__(self, folder, database, **flags):
        self.folder, self.database, self.file = folder, database, folder / NAME
        self.environ = {"PIORCH_STORAGE__STATE_DIR": str(folder), "PIORCH_MQTT__PORT": "1884"}
        self.flags = flags

    async def started(self):
        loaded = await asyncio.to_thread(self.load)
        self.parts = Parts(loaded.settings)
        state_dir = Folder(self.folder)
        state_dir.order = self.parts.order
        self.configuration = Configuration(
            loaded=loaded, state_dir=state_dir, database=self.database, health=Health(clock=FakeClock())
        )
        self.configuration.attach(self.parts, reloadable=RELOADABLE)
        return self

    def load(self):
        return load(environ=self.environ, flags=self.flags)

    async def set(self, path, text):
        return await self.configuration.set(path, text, actor=ACTOR)

    async def reset(self, path):
        return await self.configuration.reset(path, actor=ACTOR)

    async def on_disk(self):
        return dict((await asyncio.to_thread(read, self.file)).values)

    async def settings(self):
        """In force, shown, and after a restart: the same."""
        after = (await asyncio.to_thread(self.load)).settings
        assert self.parts.settings == self.configuration.loaded.settings == after
        return after

    async def idle(self):
        return (await self.settings()).cameras.idle_after_s

    async def told(self):
        """(action's target and outcome, …), and the payloads of events."""
        rows = await self.database.read("SELECT target, outcome FROM operator_actions ORDER BY id")
        events = await self.database.read("SELECT type, payload FROM events ORDER BY id")
        assert {row["type"] for row in events} <= {"config.changed"}
        return [tuple(row) for row in rows], [json.loads(row["payload"]) for row in events]


@pytest.fixture
async def bench(tmp_path, database):
    return await Bench(tmp_path, database).started()


async def test_a_value_is_on_disk_in_force_and_recorded(bench):
    await bench.set(IDLE, "60.0")
    assert await bench.idle() == 60
    assert await bench.on_disk() == {IDLE: "60"}
    assert stat.S_IMODE(bench.file.stat().st_mode) == 0o600
    assert bench.parts.order == ["written", "applied"], "a crash in between leaves what will be"
    assert await bench.told() == ([(IDLE, "ok")], [{"key": IDLE, "by": "admin"}])
    assert bench.configuration.origin(IDLE) == "override"

    await bench.reset(IDLE)
    assert await bench.idle() == 120
    assert await bench.on_disk() == {}
    assert (await bench.told())[0] == [(IDLE, "ok"), (IDLE, "ok")]
    assert bench.configuration.origin(IDLE) == "default"


async def test_what_is_so_already_is_recorded_and_nothing_else(bench):
    await bench.set(IDLE, "60")
    before = bench.file.stat().st_mtime_ns
    await bench.set(IDLE, " 60.0")
    await bench.reset(OFFLINE)
    assert bench.file.stat().st_mtime_ns == before
    assert bench.parts.order == ["written", "applied"]
    actions, events = await bench.told()
    assert actions == [(IDLE, "ok"), (IDLE, "was so already"), (OFFLINE, "was so already")]
    assert len(events) == 1


async def test_a_value_that_is_configured_already_is_pinned_by_an_override(bench):
    await bench.set(IDLE, "120")
    bench.environ["PIORCH_CAMERAS__IDLE_AFTER_S"] = "90"
    await bench.configuration.reload(bench.load)
    assert await bench.idle() == 120


@pytest.mark.parametrize(
    ("path", "text", "error", "says"),
    [
        ("cameras.idle_after", "60", NotFoundError, "did you mean cameras.idle_after_s?"),
        ("zebra", "60", NotFoundError, "no setting zebra"),
        (IDLE, "sixty", ValidationFailedError, "valid number"),
        (IDLE, "", ValidationFailedError, "valid number"),
        (IDLE, "nan", ValidationFailedError, "Input should be"),
        (IDLE, "0", ValidationFailedError, "greater than 0"),
        (IDLE, "86401", ValidationFailedError, "less than or equal to 86400"),
        (IDLE, "6\x000", ValidationFailedError, "cannot be printed"),
        ("auto_onboard.deny", "24:6F:28:B0:F7:F1,x", ValidationFailedError, "auto_onboard.deny: "),
        ("auto_onboard.deny", "x" * 60_000, ValidationFailedError, "auto_onboard.deny: "),
        ("auto_onboard.deny", "x" * 1_000_000, ValidationFailedError, "over the limit"),
        ("auth.mode", "open", ValidationFailedError, "'provisioning', 'required' or 'off'"),
        ("auth.mode", "off", ConflictError, "http.listen reaches the network"),
        ("mqtt.port", "1885", ConflictError, "set it in the configuration file, and restart"),
        ("mqtt.password", CANARY, ConflictError, "set it in the configuration file, and restart"),
        ("auth.api_key_file", "/etc/shadow", ConflictError, "decided on its machine"),
        ("auth.api_key", CANARY[:6], ValidationFailedError, "shorter than 8 characters"),
    ],
)
async def test_what_cannot_be_changes_nothing_and_says_why(bench, path, text, error, says):
    with pytest.raises(error) as caught:
        await bench.set(path, text)
    assert says in f"{caught.value.message} {caught.value.details}"
    assert len(caught.value.details or "") <= 600
    assert CANARY[:6] not in f"{caught.value.message} {caught.value.details}"
    assert (await bench.idle(), await bench.on_disk(), bench.parts.order) == (120, {}, [])
    assert await bench.told() == ([], [])


async def test_a_key_that_a_flag_gives_is_changed_where_the_flag_is(tmp_path, database):
    bench = await Bench(tmp_path, database, cameras={"idle_after_s": 30}).started()
    with pytest.raises(ConflictError) as caught:
        await bench.set(IDLE, "60")
    assert "flag of the command" in caught.value.details
    (tmp_path / NAME).write_bytes(render({IDLE: "60"}))
    await bench.configuration.reload(bench.load)
    await bench.reset(IDLE)
    assert await bench.on_disk() == {}, "one that lies below a flag can be taken away"
    assert await bench.idle() == 30


async def test_what_is_in_the_way_in_the_running_parts_is_said(bench):
    bench.parts.in_the_way = "not today"
    with pytest.raises(ConflictError) as caught:
        await bench.set(IDLE, "60")
    assert caught.value.details == "not today"
    assert (await bench.idle(), await bench.on_disk()) == (120, {})


# Failures on the way.


async def test_parts_that_cannot_take_it_are_put_back_and_so_is_the_file(bench):
    await bench.set(OFFLINE, "500")
    before = bench.file.read_bytes()
    bench.parts.refuses = RuntimeError("a fault of ours")
    with pytest.raises(OrchestratorError) as caught:
        await bench.set(IDLE, "60")
    assert (caught.value.code, caught.value.message) == (
        "INTERNAL_ERROR",
        f"{IDLE} could not be applied; nothing was changed",
    )
    assert await bench.idle() == 120
    assert bench.parts.settings.cameras.offline_after_s == 500
    assert bench.file.read_bytes() == before
    assert (await bench.told())[0] == [(OFFLINE, "ok")]
    await bench.set(IDLE, "60")
    assert await bench.idle() == 60


async def test_a_contradiction_that_only_the_parts_know_is_a_conflict(bench):
    bench.parts.refuses = SettingsError(["auth.mode: not now"])
    with pytest.raises(ConflictError) as caught:
        await bench.set("auth.mode", "required")
    assert caught.value.details == "auth.mode: not now"
    assert (await bench.idle(), await bench.on_disk()) == (120, {})


async def test_what_cannot_be_recorded_is_not_done(bench):
    async def break_it(tx):
        await tx.run("ALTER TABLE operator_actions RENAME TO gone")

    await bench.database.write(break_it)
    with pytest.raises(StorageError):
        await bench.set(IDLE, "60")
    assert (await bench.idle(), await bench.on_disk()) == (120, {})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_file_that_cannot_be_written_changes_nothing(bench, monkeypatch, number, when):
    """`after`: it is in place, and the folder could not be synced."""
    await bench.set(OFFLINE, "500")
    write = Folder.write_private
    faults = [OSError(number, os.strerror(number))]

    def fail_once(self, name, content):
        if when == "after" or not faults:
            write(self, name, content)
        if faults:
            raise faults.pop()

    monkeypatch.setattr(Folder, "write_private", fail_once)
    with pytest.raises(StorageError) as caught:
        await bench.set(IDLE, "60")
    assert caught.value.message == f"the override file cannot be written: {os.strerror(number).lower()}"
    assert caught.value.details == f"nothing was changed; look at {bench.folder}"
    assert (await bench.idle(), await bench.on_disk()) == (120, {OFFLINE: "500"})
    assert (await bench.told())[0] == [(OFFLINE, "ok")]
    await bench.set(IDLE, "60")
    assert await bench.idle() == 60


async def test_a_change_that_cannot_even_be_undone_says_where_to_look(bench, monkeypatch):
    write = Folder.write_private
    full = iter([False, True])

    def fill_up(self, name, content):
        if next(full):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, content)

    monkeypatch.setattr(Folder, "write_private", fill_up)
    bench.parts.refuses = RuntimeError("a fault of ours")
    with pytest.raises(OrchestratorError) as caught:
        await bench.set(IDLE, "60")
    assert (
        caught.value.message == f"{IDLE} could not be applied; and could not be undone: see {bench.file}, and restart"
    )


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    state_dir = StateDir(tmp_path)
    state_dir.write_private(NAME, b"old")

    def fail(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        state_dir.write_private(NAME, b"new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {NAME: b"old"}


async def test_a_damaged_file_that_is_still_there_is_not_written_over(tmp_path, database):
    (tmp_path / NAME).write_bytes(b"{")
    bench = await Bench(tmp_path, database).started()
    with pytest.raises(StorageError) as caught:
        await bench.set(IDLE, "60")
    assert "cannot be used: not JSON" in caught.value.message
    assert bench.file.read_bytes() == b"{"
    assert await bench.idle() == 120


# Several at once.


async def test_writers_at_the_same_time_are_put_in_order_and_none_is_lost(bench):
    await asyncio.gather(*(bench.set(IDLE, str(number)) for number in range(1, 20)), bench.set(OFFLINE, "500"))
    assert (await bench.on_disk())[OFFLINE] == "500"
    assert float((await bench.on_disk())[IDLE]) == await bench.idle()
    await bench.settings()
    actions, events = await bench.told()
    assert len(actions) == len(events) == 20


async def test_a_caller_who_goes_away_leaves_no_half_of_a_change(bench):
    for number in range(1, 30):
        task = asyncio.create_task(bench.set(IDLE, str(number)))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await eventually(lambda: not bench.configuration._lock.locked())
        await bench.settings()
        changes = (await bench.told())[1]
        assert len(changes) == bench.parts.order.count("applied") == bench.parts.order.count("written")
    assert changes


# Secrets.


async def test_a_secret_is_in_its_file_and_nowhere_else(bench):
    await bench.set("auth.api_key", CANARY)
    assert await bench.on_disk() == {"auth.api_key": CANARY}
    assert bench.parts.settings.auth.api_key.get_secret_value() == CANARY
    rows = await bench.database.read("SELECT * FROM operator_actions")
    rows += await bench.database.read("SELECT * FROM events")
    assert CANARY not in str([tuple(row) for row in rows])


async def test_a_secret_whose_file_stands_above_it_cannot_be_set(bench, tmp_path):
    (tmp_path / "key").write_text("the-key-in-a-file")
    bench.flags = {"auth": {"api_key_file": str(tmp_path / "key")}}
    await bench.configuration.reload(bench.load)
    with pytest.raises(ConflictError) as caught:
        await bench.set("auth.api_key", CANARY)
    assert caught.value.details == f"it comes from file {tmp_path / 'key'}"
    assert await bench.on_disk() == {}


async def test_the_mask_of_a_secret_given_back_changes_nothing(bench):
    await bench.set("auth.api_key", CANARY)
    await bench.set("auth.api_key", "***")
    assert await bench.on_disk() == {"auth.api_key": CANARY}
    assert (await bench.told())[0][-1] == ("auth.api_key", "was so already")
    await bench.set("auth.api_key", "")
    assert bench.parts.settings.auth.api_key is None, "the empty text is none"


# Reload.


async def test_a_reload_keeps_overrides_and_a_reset_goes_back_to_what_was_loaded_last(bench):
    await bench.set(IDLE, "60")
    bench.environ["PIORCH_CAMERAS__IDLE_AFTER_S"] = "90"
    bench.environ["PIORCH_CAMERAS__OFFLINE_AFTER_S"] = "400"
    await bench.configuration.reload(bench.load)
    assert await bench.idle() == 60
    assert bench.parts.settings.cameras.offline_after_s == 400
    bench.environ["PIORCH_CAMERAS__IDLE_AFTER_S"] = "91"
    await bench.reset(IDLE)
    assert bench.parts.settings.cameras.idle_after_s == 90
    await bench.configuration.reload(bench.load)
    assert await bench.idle() == 91


async def test_a_reload_that_cannot_be_leaves_everything_as_it_was(bench):
    await bench.set(IDLE, "60")

    async def refused(says):
        with pytest.raises(SettingsError) as caught:
            await bench.configuration.reload(bench.load)
        assert says in caught.value.problems[0]
        assert bench.parts.settings.cameras.idle_after_s == 60
        assert bench.configuration.origin(IDLE) == "override"

    bench.environ["PIORCH_MQTT__PORT"] = "x"
    await refused("mqtt.port")
    bench.environ["PIORCH_MQTT__PORT"] = "1884"
    bench.file.write_bytes(render({IDLE: "0"}))
    await refused(f"{IDLE}: Input should be greater than 0")
    bench.file.write_bytes(b"{")
    await refused("cannot be used")
    bench.file.write_bytes(render({IDLE: "61"}))
    await bench.configuration.reload(bench.load)
    assert await bench.idle() == 61


async def test_another_state_folder_is_for_the_next_start(bench, tmp_path):
    await bench.set(IDLE, "60")
    bench.environ["PIORCH_STORAGE__STATE_DIR"] = str(tmp_path / "another")
    await bench.configuration.reload(bench.load)
    assert bench.parts.settings.cameras.idle_after_s == 60
    assert bench.configuration.restart_needed("storage.state_dir")
    await bench.set(OFFLINE, "500")
    assert await bench.on_disk() == {IDLE: "60", OFFLINE: "500"}
    assert not (tmp_path / "another").exists()


async def test_what_waits_for_a_restart_is_known_until_it_is_as_at_the_start(bench):
    bench.environ["PIORCH_MQTT__PORT"] = "1885"
    await bench.configuration.reload(bench.load)
    assert bench.configuration.restart_needed("mqtt.port")
    assert not bench.configuration.restart_needed(IDLE)
    bench.environ["PIORCH_MQTT__PORT"] = "1884"
    await bench.configuration.reload(bench.load)
    assert not bench.configuration.restart_needed("mqtt.port")


async def test_before_the_parts_run_nothing_can_be_set(tmp_path, database):
    bench = Bench(tmp_path, database)
    loaded = await asyncio.to_thread(bench.load)
    configuration = Configuration(
        loaded=loaded, state_dir=StateDir(tmp_path), database=database, health=Health(clock=FakeClock())
    )
    with pytest.raises(ConflictError):
        await configuration.set(IDLE, "60", actor=ACTOR)
    await configuration.reset(IDLE, actor=ACTOR)
    assert not bench.file.exists()
