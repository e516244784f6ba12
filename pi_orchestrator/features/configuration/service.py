"""Changes to the configuration while the daemon runs: one override at a time, completely or not at all.

A change is validated with all other settings, written to the override file, applied to the running parts, and recorded
with its event in one transaction. If a step fails, the file and the running parts are restored. A reset returns to the
value of the layers below the overrides as they were last loaded. Only a reload (SIGHUP) or a restart reads the
configuration file again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.errors import (
    ConflictError,
    FieldError,
    NotFoundError,
    OrchestratorError,
    SettingsError,
    StorageError,
    ValidationFailedError,
)
from pi_orchestrator.core.events import ConfigChanged
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.redaction import MASK
from pi_orchestrator.settings import (
    RETIRED,
    Loaded,
    Settings,
    apply_overrides,
    changed_paths,
    closest_key,
    value_at,
    with_override,
)
from pi_orchestrator.settings import overrides as override_file
from pi_orchestrator.settings.reference import Key, keys
from pi_orchestrator.storage import audit_log, event_store
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.storage.state_dir import StateDir

T = TypeVar("T")

OVERRIDES = "overrides"

log = get_logger(__name__)


class Runtime(Protocol):
    """The running parts that settings are applied to."""

    def precondition_error(self, settings: Settings) -> str | None:
        """Why valid settings must not be applied over the API, or None."""

    def apply(self, settings: Settings) -> list[str]:
        """Apply the settings that can change while running; return the keys that need a restart."""


class Configuration:
    """The settings in effect, and `set`, `reset` and `reload` for operators."""

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
        """Set the runtime that settings are applied to, and the keys that it can change."""
        self._runtime, self._reloadable = runtime, reloadable

    # Queries.

    def origin(self, path: str) -> str:
        """The layer that a value comes from, as one word; only `show-config` shows file names."""
        return self.loaded.origins.get(path, "default").split()[0]

    def is_restart_pending(self, path: str) -> bool:
        """Whether the value was changed since the start of the daemon and takes effect only after a restart."""
        is_changed = value_at(self._started_with, path) != value_at(self.loaded.settings, path)
        return is_changed and path not in self._reloadable

    def read_only_reason(self, key: Key) -> str | None:
        """Why a key cannot be set while the daemon runs, and how to change it instead; None if it can be set."""
        if self.origin(key.path) == "flag":
            return "it is set by a command-line flag of the daemon: change the flag and restart"
        if key.path not in self._reloadable:
            return "it takes effect only at start: set it in the configuration file and restart"
        if key.is_file:
            return "paths of files can be set only on the daemon's machine: set it in the configuration file"
        return None

    # Commands.

    async def set(self, path: str, text: str, *, actor: Actor) -> Key:
        """Set an override; an equal value or the mask of a secret changes nothing."""
        key = _find_key(path)
        await _run_to_completion(self._set(key, text, actor))
        return key

    async def reset(self, path: str, *, actor: Actor) -> Key:
        """Remove an override; without an override nothing changes."""
        key = _find_key(path)
        await _run_to_completion(self._override(key, None, actor))
        return key

    async def reload(self, load: Callable[[], Loaded]) -> None:
        """Load all layers again; SettingsError if that fails, and nothing changes."""
        async with self._lock:
            loaded = await asyncio.to_thread(self._read_again, load)
            problems = [reason for path, reason in loaded.ignored.items() if path not in self.loaded.ignored]
            if loaded.overrides.fault:
                problems.append(f"{loaded.overrides.file}: {loaded.overrides.fault}")
            if problems:
                raise SettingsError(problems)
            changed = changed_paths(self.loaded.settings, loaded.settings)
            pending_restart = self._attached.apply(loaded.settings)
            self.loaded = loaded
            report(self._health, loaded)
        log_warnings(loaded)
        log.info("configuration reloaded", changed=changed, restart_needed=pending_restart)

    # Steps.

    @property
    def _attached(self) -> Runtime:
        if self._runtime is None:
            raise ConflictError("the daemon is still starting", details="try again in a few seconds")
        return self._runtime

    def _read_again(self, load: Callable[[], Loaded]) -> Loaded:
        loaded = load()
        file = self.loaded.overrides.file
        # A changed state folder takes effect at the next start; until then the overrides stay in the current folder.
        return loaded if loaded.overrides.file == file else apply_overrides(loaded.layers, override_file.read(file))

    async def _set(self, key: Key, text: str, actor: Actor) -> None:
        if reason := self.read_only_reason(key):
            raise ConflictError(f"{key.path} cannot be set while the daemon runs", details=reason)
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
                new = await asyncio.to_thread(with_override, old, key.path, text)
            except SettingsError as error:
                raise ConflictError(f"{key.path} conflicts with other settings", details=error.details) from None
            if text is not None and not new.origins[key.path].startswith("override "):
                origin = new.origins[key.path]
                raise ConflictError(f"{key.path} cannot be set while the daemon runs", details=f"it is set by {origin}")
            if reason := self._attached.precondition_error(new.settings):
                raise ConflictError(f"{key.path} cannot be set to this value", details=reason)
            await self._change(old, new, key, actor)
            report(self._health, new)
        log.info("configuration changed", key=key.path, by=actor.key_name, override=text is not None)

    async def _change(self, old: Loaded, new: Loaded, key: Key, actor: Actor) -> None:
        async def job(tx: Tx) -> None:
            await audit_log.record(tx, actor, target=key.path)
            await event_store.append(tx, ConfigChanged(key=key.path, by=actor.key_name))

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
            raise StorageError(
                f"{loaded.overrides.file} {loaded.overrides.fault}", details="move the file away and restart"
            )
        content = override_file.render(loaded.overrides.values)
        if len(content) > override_file.MAX_BYTES:
            raise ValidationFailedError(
                "Validation failed", details=f"the override file would exceed {override_file.MAX_BYTES} bytes"
            )
        await asyncio.to_thread(self._state_dir.write_private, override_file.NAME, content)

    async def _undo(self, old: Loaded) -> str:
        """Restore the override file and the running parts; return the outcome as text."""
        try:
            if (await asyncio.to_thread(override_file.read, old.overrides.file)).values != old.overrides.values:
                await self._write(old)
            self._attached.apply(old.settings)
        except Exception:
            log.exception("configuration change could not be undone")
            return f"the change could not be undone: check {old.overrides.file} and restart"
        return "nothing was changed"

    def _refusal(self, error: Exception, key: Key, outcome: str) -> OrchestratorError:
        if isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
            folder = self.loaded.overrides.file.parent
            return StorageError(f"the override file cannot be written: {reason}", details=f"{outcome}; check {folder}")
        if isinstance(error, SettingsError):
            return ConflictError(f"{key.path} cannot be set to this value while the daemon runs", details=error.details)
        if isinstance(error, OrchestratorError):
            return error
        log.error("setting could not be applied", key=key.path, exc_info=error)
        return OrchestratorError(f"{key.path} could not be applied; {outcome}", details="see the log for the reason")

    async def _record(self, key: Key, actor: Actor) -> None:
        await self._database.write(lambda tx: audit_log.record(tx, actor, target=key.path, outcome=audit_log.UNCHANGED))


def report(health: Health, loaded: Loaded, *more: str) -> None:
    """Report overrides that are not in effect, and `more` problems; if there are none, clear an earlier report."""
    problems = [*loaded.ignored.values(), *more]
    if problems:
        health.add(OVERRIDES)
        health.set(OVERRIDES, State.DEGRADED, "; ".join(problems)[:500])
    elif any(part.name == OVERRIDES for part in health.components()):
        health.set(OVERRIDES, State.OK)


def log_warnings(loaded: Loaded) -> None:
    """Log each retired setting that is still set."""
    for warning in loaded.warnings:
        log.warning("setting has no effect", key=warning.key, origin=warning.origin, reason=warning.reason)


async def _run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; it continues if the caller is cancelled."""
    task = asyncio.create_task(work, name="configuration-change")
    # Retrieve the error: else asyncio logs it if no caller awaits the task any more.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


def _find_key(path: str) -> Key:
    if key := keys().get(path):
        return key
    if reason := RETIRED.get(path):
        raise NotFoundError(f"the setting {path} no longer exists", details=reason)
    suggestion = next((name for name in keys() if name.startswith(f"{path}.")), None) or closest_key(path)
    raise NotFoundError(f"unknown setting {path}", details=f"did you mean {suggestion}?" if suggestion else None)
