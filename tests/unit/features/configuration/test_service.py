"""Configuration changes while the daemon runs: complete or not at all, on every failure, and in order."""

import asyncio
import errno
import json
import os
import stat

import pytest

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.errors import (
    ConflictError,
    NotFoundError,
    OrchestratorError,
    SettingsError,
    StorageError,
    ValidationFailedError,
)
from pi_orchestrator.core.health import Health
from pi_orchestrator.features.configuration.service import Configuration
from pi_orchestrator.settings import load
from pi_orchestrator.settings.overrides import NAME, read, render
from pi_orchestrator.storage.state_dir import StateDir
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

CANARY = "canary-7f3a9c1e"
IDLE, OFFLINE = "cameras.idle_after_s", "cameras.offline_after_s"
RELOADABLE = frozenset({IDLE, OFFLINE, "auth.mode", "auth.api_key", "auth.api_key_file", "auto_onboard.deny"})
ACTOR = Actor(key_name="admin", peer="127.0.0.1", correlation_id="c", action="config.set")


class Parts:
    """The running parts and their settings.

    `error` is raised by the next `apply`; `precondition` is the text of a precondition that does not hold.
    """

    def __init__(self, settings):
        self.settings = settings
        self.order = []
        self.error = None
        self.precondition = None

    def precondition_error(self, settings):
        return self.precondition

    def apply(self, settings):
        self.order.append("applied")
        if self.error:
            error, self.error = self.error, None
            self.settings = None  # partly applied
            raise error
        self.settings = settings
        return []


class Folder(StateDir):
    """A state folder that records its writes in `order`."""

    order = None

    def write_private(self, name, content):
        self.order.append("written")
        return super().write_private(name, content)


class Bench:
    """A configuration with its parts, override file and database."""

    def __init__(self, folder, database, **flags):
        self.folder, self.database, self.file = folder, database, folder / NAME
        self.environ = {"PIORCH_STORAGE__STATE_DIR": str(folder), "PIORCH_MQTT__PORT": "1884"}
        self.flags = flags

    async def start(self):
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
        """The settings; asserts that running parts, service and a restart have the same."""
        loaded = (await asyncio.to_thread(self.load)).settings
        assert self.parts.settings == self.configuration.loaded.settings == loaded
        return loaded

    async def idle(self):
        return (await self.settings()).cameras.idle_after_s

    async def records(self):
        """Target and outcome of each audit row, and the payloads of events."""
        rows = await self.database.read("SELECT target, outcome FROM operator_actions ORDER BY id")
        events = await self.database.read("SELECT type, payload FROM events ORDER BY id")
        assert {row["type"] for row in events} <= {"config.changed"}
        return [tuple(row) for row in rows], [json.loads(row["payload"]) for row in events]


@pytest.fixture
async def bench(tmp_path, database):
    return await Bench(tmp_path, database).start()


async def test_set_value_is_stored_applied_and_recorded(bench):
    await bench.set(IDLE, "60.0")
    assert await bench.idle() == 60
    assert await bench.on_disk() == {IDLE: "60"}
    assert stat.S_IMODE(bench.file.stat().st_mode) == 0o600
    assert bench.parts.order == ["written", "applied"], "written first, so a crash in between keeps the change"
    assert await bench.records() == ([(IDLE, "ok")], [{"key": IDLE, "by": "admin"}])
    assert bench.configuration.origin(IDLE) == "override"

    await bench.reset(IDLE)
    assert await bench.idle() == 120
    assert await bench.on_disk() == {}
    assert (await bench.records())[0] == [(IDLE, "ok"), (IDLE, "ok")]
    assert bench.configuration.origin(IDLE) == "default"


async def test_unchanged_value_is_audited(bench):
    await bench.set(IDLE, "60")
    before = bench.file.stat().st_mtime_ns
    await bench.set(IDLE, " 60.0")
    await bench.reset(OFFLINE)
    assert bench.file.stat().st_mtime_ns == before
    assert bench.parts.order == ["written", "applied"]
    actions, events = await bench.records()
    assert actions == [(IDLE, "ok"), (IDLE, "was so already"), (OFFLINE, "was so already")]
    assert len(events) == 1


async def test_override_equal_to_configured_value_is_kept(bench):
    await bench.set(IDLE, "120")
    bench.environ["PIORCH_CAMERAS__IDLE_AFTER_S"] = "90"
    await bench.configuration.reload(bench.load)
    assert await bench.idle() == 120


@pytest.mark.parametrize(
    ("path", "text", "error", "expected"),
    [
        ("cameras.idle_after", "60", NotFoundError, "did you mean cameras.idle_after_s?"),
        ("zebra", "60", NotFoundError, "unknown setting zebra"),
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
        ("mqtt.port", "1885", ConflictError, "set it in the configuration file and restart"),
        ("mqtt.password", CANARY, ConflictError, "set it in the configuration file and restart"),
        ("auth.api_key_file", "/etc/shadow", ConflictError, "only on the daemon's machine"),
        ("auth.api_key", CANARY[:6], ValidationFailedError, "shorter than 8 characters"),
    ],
)
async def test_invalid_change_is_refused_with_reason(bench, path, text, error, expected):
    with pytest.raises(error) as caught:
        await bench.set(path, text)
    assert expected in f"{caught.value.message} {caught.value.details}"
    assert len(caught.value.details or "") <= 600
    assert CANARY[:6] not in f"{caught.value.message} {caught.value.details}"
    assert (await bench.idle(), await bench.on_disk(), bench.parts.order) == (120, {}, [])
    assert await bench.records() == ([], [])


async def test_setting_that_a_flag_sets_is_refused(tmp_path, database):
    bench = await Bench(tmp_path, database, cameras={"idle_after_s": 30}).start()
    with pytest.raises(ConflictError) as caught:
        await bench.set(IDLE, "60")
    assert "command-line flag" in caught.value.details
    (tmp_path / NAME).write_bytes(render({IDLE: "60"}))
    await bench.configuration.reload(bench.load)
    await bench.reset(IDLE)
    assert await bench.on_disk() == {}, "an override below a flag can be removed"
    assert await bench.idle() == 30


async def test_precondition_error_is_reported(bench):
    bench.parts.precondition = "not today"
    with pytest.raises(ConflictError) as caught:
        await bench.set(IDLE, "60")
    assert caught.value.details == "not today"
    assert (await bench.idle(), await bench.on_disk()) == (120, {})


# Failures.


async def test_failed_apply_restores_parts_and_file(bench):
    await bench.set(OFFLINE, "500")
    before = bench.file.read_bytes()
    bench.parts.error = RuntimeError("internal fault")
    with pytest.raises(OrchestratorError) as caught:
        await bench.set(IDLE, "60")
    assert (caught.value.code, caught.value.message) == (
        "INTERNAL_ERROR",
        f"{IDLE} could not be applied; nothing was changed",
    )
    assert await bench.idle() == 120
    assert bench.parts.settings.cameras.offline_after_s == 500
    assert bench.file.read_bytes() == before
    assert (await bench.records())[0] == [(OFFLINE, "ok")]
    await bench.set(IDLE, "60")
    assert await bench.idle() == 60


async def test_settings_error_of_parts_is_a_conflict(bench):
    bench.parts.error = SettingsError(["auth.mode: not now"])
    with pytest.raises(ConflictError) as caught:
        await bench.set("auth.mode", "required")
    assert caught.value.details == "auth.mode: not now"
    assert (await bench.idle(), await bench.on_disk()) == (120, {})


async def test_failed_audit_reverts_change(bench):
    async def rename_table(tx):
        await tx.run("ALTER TABLE operator_actions RENAME TO gone")

    await bench.database.write(rename_table)
    with pytest.raises(StorageError):
        await bench.set(IDLE, "60")
    assert (await bench.idle(), await bench.on_disk()) == (120, {})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_failed_write_changes_nothing(bench, monkeypatch, number, when):
    """`after`: the file is in place, but the folder could not be synced."""
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
    assert caught.value.details == f"nothing was changed; check {bench.folder}"
    assert (await bench.idle(), await bench.on_disk()) == (120, {OFFLINE: "500"})
    assert (await bench.records())[0] == [(OFFLINE, "ok")]
    await bench.set(IDLE, "60")
    assert await bench.idle() == 60


async def test_failed_undo_names_the_file(bench, monkeypatch):
    write = Folder.write_private
    full = iter([False, True])

    def fill_up(self, name, content):
        if next(full):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, content)

    monkeypatch.setattr(Folder, "write_private", fill_up)
    bench.parts.error = RuntimeError("internal fault")
    with pytest.raises(OrchestratorError) as caught:
        await bench.set(IDLE, "60")
    assert (
        caught.value.message
        == f"{IDLE} could not be applied; the change could not be undone: check {bench.file} and restart"
    )


def test_failed_private_write_leaves_no_file(tmp_path, monkeypatch):
    state_dir = StateDir(tmp_path)
    state_dir.write_private(NAME, b"old")

    def fail(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        state_dir.write_private(NAME, b"new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {NAME: b"old"}


async def test_damaged_file_is_kept(tmp_path, database):
    (tmp_path / NAME).write_bytes(b"{")
    bench = await Bench(tmp_path, database).start()
    with pytest.raises(StorageError) as caught:
        await bench.set(IDLE, "60")
    assert "cannot be used: not JSON" in caught.value.message
    assert bench.file.read_bytes() == b"{"
    assert await bench.idle() == 120


# Concurrency.


async def test_concurrent_changes_are_kept(bench):
    await asyncio.gather(*(bench.set(IDLE, str(number)) for number in range(1, 20)), bench.set(OFFLINE, "500"))
    assert (await bench.on_disk())[OFFLINE] == "500"
    assert float((await bench.on_disk())[IDLE]) == await bench.idle()
    await bench.settings()
    actions, events = await bench.records()
    assert len(actions) == len(events) == 20


async def test_cancelled_caller_leaves_complete_change(bench):
    for number in range(1, 30):
        task = asyncio.create_task(bench.set(IDLE, str(number)))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await eventually(lambda: not bench.configuration._lock.locked())
        await bench.settings()
        changes = (await bench.records())[1]
        assert len(changes) == bench.parts.order.count("applied") == bench.parts.order.count("written")
    assert changes


# Secrets.


async def test_secret_is_stored_only_in_file(bench):
    await bench.set("auth.api_key", CANARY)
    assert await bench.on_disk() == {"auth.api_key": CANARY}
    assert bench.parts.settings.auth.api_key.get_secret_value() == CANARY
    rows = await bench.database.read("SELECT * FROM operator_actions")
    rows += await bench.database.read("SELECT * FROM events")
    assert CANARY not in str([tuple(row) for row in rows])


async def test_override_of_secret_from_a_file_is_refused(bench, tmp_path):
    (tmp_path / "key").write_text("the-key-in-a-file")
    bench.flags = {"auth": {"api_key_file": str(tmp_path / "key")}}
    await bench.configuration.reload(bench.load)
    with pytest.raises(ConflictError) as caught:
        await bench.set("auth.api_key", CANARY)
    assert caught.value.details == f"it is set by file {tmp_path / 'key'}"
    assert await bench.on_disk() == {}


async def test_mask_of_secret_changes_nothing(bench):
    await bench.set("auth.api_key", CANARY)
    await bench.set("auth.api_key", "***")
    assert await bench.on_disk() == {"auth.api_key": CANARY}
    assert (await bench.records())[0][-1] == ("auth.api_key", "was so already")


async def test_empty_text_removes_secret(bench):
    await bench.set("auth.api_key", CANARY)
    await bench.set("auth.api_key", "")
    assert bench.parts.settings.auth.api_key is None


# Reload.


async def test_reload_keeps_overrides_and_reset_uses_last_load(bench):
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


async def test_failed_reload_changes_nothing(bench):
    await bench.set(IDLE, "60")

    async def assert_refused(text):
        with pytest.raises(SettingsError) as caught:
            await bench.configuration.reload(bench.load)
        assert text in caught.value.problems[0]
        assert bench.parts.settings.cameras.idle_after_s == 60
        assert bench.configuration.origin(IDLE) == "override"

    bench.environ["PIORCH_MQTT__PORT"] = "x"
    await assert_refused("mqtt.port")
    bench.environ["PIORCH_MQTT__PORT"] = "1884"
    bench.file.write_bytes(render({IDLE: "0"}))
    await assert_refused(f"{IDLE}: Input should be greater than 0")
    bench.file.write_bytes(b"{")
    await assert_refused("cannot be used")
    bench.file.write_bytes(render({IDLE: "61"}))
    await bench.configuration.reload(bench.load)
    assert await bench.idle() == 61


async def test_reload_with_retired_settings_keeps_their_overrides(bench):
    queue = "auto_onboard.queue_limit"
    bench.file.write_bytes(render({queue: "10", IDLE: "61"}))
    bench.environ["PIORCH_MQTT__KEEPALIVE_S"] = "20"
    await bench.configuration.reload(bench.load)
    assert await bench.idle() == 61
    assert [warning.key for warning in bench.configuration.loaded.warnings] == ["mqtt.keepalive_s", queue]
    await bench.set(IDLE, "62")
    assert await bench.on_disk() == {queue: "10", IDLE: "62"}


async def test_retired_setting_cannot_be_set_or_reset(bench):
    for change in (bench.set("auto_onboard.queue_limit", "10"), bench.reset("auto_onboard.queue_limit")):
        with pytest.raises(NotFoundError, match="the setting auto_onboard.queue_limit no longer exists"):
            await change
    assert not bench.file.exists()


async def test_new_state_folder_waits_for_restart(bench, tmp_path):
    await bench.set(IDLE, "60")
    bench.environ["PIORCH_STORAGE__STATE_DIR"] = str(tmp_path / "another")
    await bench.configuration.reload(bench.load)
    assert bench.parts.settings.cameras.idle_after_s == 60
    assert bench.configuration.is_restart_pending("storage.state_dir")
    await bench.set(OFFLINE, "500")
    assert await bench.on_disk() == {IDLE: "60", OFFLINE: "500"}
    assert not (tmp_path / "another").exists()


async def test_restart_needed_until_start_value_returns(bench):
    bench.environ["PIORCH_MQTT__PORT"] = "1885"
    await bench.configuration.reload(bench.load)
    assert bench.configuration.is_restart_pending("mqtt.port")
    assert not bench.configuration.is_restart_pending(IDLE)
    bench.environ["PIORCH_MQTT__PORT"] = "1884"
    await bench.configuration.reload(bench.load)
    assert not bench.configuration.is_restart_pending("mqtt.port")


async def test_set_before_attach_is_refused(tmp_path, database):
    bench = Bench(tmp_path, database)
    loaded = await asyncio.to_thread(bench.load)
    configuration = Configuration(
        loaded=loaded, state_dir=StateDir(tmp_path), database=database, health=Health(clock=FakeClock())
    )
    with pytest.raises(ConflictError):
        await configuration.set(IDLE, "60", actor=ACTOR)
    await configuration.reset(IDLE, actor=ACTOR)
    assert not bench.file.exists()
