"""The configuration as operators change it while the daemon runs: one override at a time, whole or not at all.

A change is validated with everything else that is configured, written to the override file, applied to the running
parts, and recorded with its event in one transaction. Whatever fails on the way, file and parts are put back. What
lies below an override is as it was last loaded: a reset goes back to that, and only a reload (SIGHUP) or a restart
reads the file again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from pi_orchestrator.concealment import MASK
from pi_orchestrator.errors import (
    ConflictError,
    FieldError,
    NotFoundError,
    OrchestratorError,
    SettingsError,
    StorageError,
    ValidationFailedError,
)
from pi_orchestrator.events import Logged
from pi_orchestrator.health import Health, State
from pi_orchestrator.logs import get_logger
from pi_orchestrator.settings import Loaded, Settings, changed_paths, closest, overridden, settle, value_at
from pi_orchestrator.settings import overrides as override_file
from pi_orchestrator.settings.keys import Key, keys
from pi_orchestrator.storage import actions, event_log
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.storage.state_dir import StateDir

T = TypeVar("T")

UNCHANGED = "was so already"
OVERRIDES = "overrides"

log = get_logger(__name__)


class Runtime(Protocol):
    """What settings take effect in."""

    def obstacle(self, settings: Settings) -> str | None:
        """Why nobody may be given these settings from afar, valid as they are; None where nothing is in the way."""

    def apply(self, settings: Settings) -> list[str]:
        """Take what can change while running; returns the keys that need a restart."""


class Configuration:
    """`set`, `reset` and `reload` are for operators; the rest is what is in force, and why."""

    def __init__(self, *, loaded: Loaded, state_dir: StateDir, database: Database, health: Health) -> None:
        self.loaded = loaded
        self._health = health
        self._started_with = loaded.settings
        self._state_dir = state_dir
        self._database = database
        self._runtime: Runtime | None = None
        self._reloadable: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()

    def attach(self, runtime: Runtime, *, reloadable: frozenset[str]) -> None:
        """Say what settings take effect in, and which keys can change there."""
        self._runtime, self._reloadable = runtime, reloadable

    # What is in force.

    def origin(self, path: str) -> str:
        """Which layer a value comes from, in a word: files are named by `show-config` only."""
        return self.loaded.origins.get(path, "default").split()[0]

    def restart_needed(self, path: str) -> bool:
        """Whether a value, as it was last loaded, waits for a restart."""
        same = value_at(self._started_with, path) == value_at(self.loaded.settings, path)
        return not same and path not in self._reloadable

    def obstacle(self, key: Key) -> str | None:
        """Why a key cannot be set while the daemon runs, and how it can be changed; None where it can."""
        if self.origin(key.path) == "flag":
            return "a flag of the command that started the daemon gives it: change that, and restart"
        if key.path not in self._reloadable:
            return "it takes effect at start only: set it in the configuration file, and restart"
        if key.is_file:
            return "which files the daemon reads is decided on its machine: set it in the configuration file"
        return None

    # What operators do.

    async def set(self, path: str, text: str, *, actor: Actor) -> Key:
        """Set an override; what is so already, or is a mask given back, changes nothing."""
        key = _known(path)
        await _to_its_end(self._set(key, text, actor))
        return key

    async def reset(self, path: str, *, actor: Actor) -> Key:
        """Take an override away; what has none is as it is configured already."""
        key = _known(path)
        await _to_its_end(self._override(key, None, actor))
        return key

    async def reload(self, load: Callable[[], Loaded]) -> None:
        """Read every layer again; SettingsError where that cannot be, and everything stays as it was."""
        async with self._lock:
            loaded = await asyncio.to_thread(self._read_again, load)
            refused = [why for path, why in loaded.ignored.items() if path not in self.loaded.ignored]
            if loaded.overrides.fault:
                refused.append(f"{loaded.overrides.file}: {loaded.overrides.fault}")
            if refused:
                raise SettingsError(refused)
            changed = changed_paths(self.loaded.settings, loaded.settings)
            restart_needed = self._attached.apply(loaded.settings)
            self.loaded = loaded
            report(self._health, loaded)
        log.info("configuration reloaded", changed=changed, restart_needed=restart_needed)

    # How it is done.

    @property
    def _attached(self) -> Runtime:
        if self._runtime is None:
            raise ConflictError("the daemon is still starting", details="try again in a moment")
        return self._runtime

    def _read_again(self, load: Callable[[], Loaded]) -> Loaded:
        loaded = load()
        file = self.loaded.overrides.file
        # Another state folder is for the next start: until then the overrides are where they were.
        return loaded if loaded.overrides.file == file else settle(loaded.layers, override_file.read(file))

    async def _set(self, key: Key, text: str, actor: Actor) -> None:
        if why := self.obstacle(key):
            raise ConflictError(f"{key.path} cannot be set here", details=why)
        if key.is_secret and text == MASK:
            await self._record(key, actor)
            return
        try:
            canonical = key.canonical(text)
        except FieldError as error:
            raise ValidationFailedError("Validation failed", details=f"{key.path}: {error}"[:500]) from None
        await self._override(key, canonical, actor)

    async def _override(self, key: Key, text: str | None, actor: Actor) -> None:
        async with self._lock:
            old = self.loaded
            if old.overrides.values.get(key.path) == text and key.path not in old.ignored:
                await self._record(key, actor)
                return
            try:
                new = await asyncio.to_thread(overridden, old, key.path, text)
            except SettingsError as error:
                raise ConflictError(f"{key.path} cannot be so beside the rest", details=error.details) from None
            if text is not None and not new.origins[key.path].startswith("override "):
                raise ConflictError(f"{key.path} cannot be set here", details=f"it comes from {new.origins[key.path]}")
            if why := self._attached.obstacle(new.settings):
                raise ConflictError(f"{key.path} cannot be so", details=why)
            await self._change(old, new, key, actor)
            report(self._health, new)
        log.info("configuration changed", key=key.path, by=actor.key_name, override=text is not None)

    async def _change(self, old: Loaded, new: Loaded, key: Key, actor: Actor) -> None:
        async def job(tx: Tx) -> None:
            await actions.record(tx, actor, target=key.path)
            await event_log.append(tx, Logged("config.changed", {"key": key.path, "by": actor.key_name}))

        try:
            await self._write(new)
            self._attached.apply(new.settings)
            self.loaded = new
            await self._database.write(job)
        except Exception as error:
            self.loaded = old
            outcome = await self._undo(old)
            raise self._refusal(error, key, outcome) from error

    async def _write(self, loaded: Loaded) -> None:
        if loaded.overrides.fault:
            raise StorageError(f"{loaded.overrides.file} {loaded.overrides.fault}", details="move it away, and restart")
        content = override_file.render(loaded.overrides.values)
        if len(content) > override_file.MAX_BYTES:
            raise ValidationFailedError("Validation failed", details="all overrides together are too long")
        await asyncio.to_thread(self._state_dir.write_private, override_file.NAME, content)

    async def _undo(self, old: Loaded) -> str:
        """Put file and parts back as they were; says in words whether that is so."""
        try:
            if (await asyncio.to_thread(override_file.read, old.overrides.file)).values != old.overrides.values:
                await self._write(old)
            self._attached.apply(old.settings)
        except Exception:
            log.exception("a change of the configuration could not be undone whole")
            return f"and could not be undone: see {old.overrides.file}, and restart"
        return "nothing was changed"

    def _refusal(self, error: Exception, key: Key, outcome: str) -> OrchestratorError:
        if isinstance(error, OSError):
            why = (error.strerror or str(error)).lower()
            folder = self.loaded.overrides.file.parent
            return StorageError(f"the override file cannot be written: {why}", details=f"{outcome}; look at {folder}")
        if isinstance(error, SettingsError):
            return ConflictError(f"{key.path} cannot be so while the daemon runs", details=error.details)
        if isinstance(error, OrchestratorError):
            return error
        log.error("a setting could not be applied", key=key.path, exc_info=error)
        return OrchestratorError(f"{key.path} could not be applied; {outcome}", details="the log has the reason")

    async def _record(self, key: Key, actor: Actor) -> None:
        await self._database.write(lambda tx: actions.record(tx, actor, target=key.path, outcome=UNCHANGED))


def report(health: Health, loaded: Loaded, *more: str) -> None:
    """Say which overrides are not in force, and what is wrong besides; that all is well only where it was not."""
    troubles = [*loaded.ignored.values(), *more]
    if troubles:
        health.add(OVERRIDES)
        health.set(OVERRIDES, State.DEGRADED, "; ".join(troubles)[:500])
    elif any(part.name == OVERRIDES for part in health.components()):
        health.set(OVERRIDES, State.OK)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do it whole, even if whoever asked for it goes away in the middle."""
    task = asyncio.create_task(work, name="configuration-change")
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


def _known(path: str) -> Key:
    if key := keys().get(path):
        return key
    close = next((one for one in keys() if one.startswith(f"{path}.")), None) or closest(path)
    raise NotFoundError(f"there is no setting {path}", details=f"did you mean {close}?" if close else None)
