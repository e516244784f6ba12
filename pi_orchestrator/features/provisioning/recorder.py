"""Stores changes of sessions: rows and their events in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.events import SessionError
from pi_orchestrator.features.provisioning import store
from pi_orchestrator.features.provisioning.session import Session
from pi_orchestrator.features.provisioning.session_device import ACCEPTED_CREDENTIALS, SessionDevice, SessionDeviceState
from pi_orchestrator.features.provisioning.views import discovered_event, state_changed_event, status_event
from pi_orchestrator.storage import event_store
from pi_orchestrator.storage.database import Tx


class SessionRecorder:
    """Stores changes with their events, and tracks the idle time of each session."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._active_at: dict[str, float] = {}

    def idle_s(self, session_id: str) -> float:
        """Seconds since the session's last known activity, or since the first call for it."""
        now = self._clock.monotonic()
        return now - self._active_at.setdefault(session_id, now)

    def restore_idle_time(self, session: Session, now: datetime) -> None:
        """Count the time since the session's last stored change as idle; `now` is wall time."""
        idle_s = max(0.0, (now - session.updated_at).total_seconds())
        self._active_at[session.id] = self._clock.monotonic() - idle_s

    def remaining_s(self, session: Session) -> float:
        """Seconds until the session expires without activity; 0 if it is closing or closed."""
        return max(0.0, session.lifetime_s - self.idle_s(session.id)) if session.expires_at else 0.0

    def forget(self, session_id: str) -> None:
        """Drop the idle time of a closed session."""
        self._active_at.pop(session_id, None)

    async def save(self, tx: Tx, session: Session) -> Session:
        """Store a change of the session itself and append its event; return it with its current counts."""
        await store.save(tx, session)
        return await self.append_status(tx, session.id)

    async def save_discovered(self, tx: Tx, devices: Sequence[SessionDevice], *, is_activity: bool) -> None:
        """Store new or updated devices of one session, and append an event for each.

        `is_activity` is False for devices that anyone on the network can fake: they must not keep a session open.
        """
        for device in devices:
            await store.put_device(tx, device)
            await event_store.append(tx, discovered_event(device))
        if is_activity:
            await self._touch(tx, devices[0].session_id)
            await self.append_status(tx, devices[0].session_id)

    async def save_step(self, tx: Tx, before: SessionDevice, after: SessionDevice) -> None:
        """Store a device's step and append its event; if a count changes, append the session's event too."""
        await store.put_device(tx, after)
        await self._touch(tx, after.session_id)
        await event_store.append(tx, state_changed_event(before, after))
        if _counters(before) != _counters(after):
            await self.append_status(tx, after.session_id)

    async def append_error(
        self, tx: Tx, session_id: str, *, code: str, message: str, retry_after_s: float | None = None
    ) -> None:
        """Append an `error` event that concerns the whole session."""
        event = SessionError(
            session_id=session_id,
            code=code,
            message=message,
            retryable=retry_after_s is not None,
            retry_after_seconds=None if retry_after_s is None else round(retry_after_s),
        )
        await event_store.append(tx, event)

    async def append_status(self, tx: Tx, session_id: str) -> Session:
        """Append a `session.status` event, which counts as activity; return the session with its current counts."""
        session = await store.get(tx.run, session_id)
        if session is None:  # pragma: no cover  # stored earlier in this transaction
            raise LookupError(session_id)
        await event_store.append(tx, status_event(session))
        tx.after_commit(lambda: self._mark_active(session_id))
        return session

    async def _touch(self, tx: Tx, session_id: str) -> None:
        await store.touch(tx, session_id)
        tx.after_commit(lambda: self._mark_active(session_id))

    def _mark_active(self, session_id: str) -> None:
        self._active_at[session_id] = self._clock.monotonic()


def _counters(device: SessionDevice) -> tuple[bool, bool, bool]:
    return (
        device.state in ACCEPTED_CREDENTIALS,
        device.state is SessionDeviceState.VERIFIED,
        device.state is SessionDeviceState.FAILED,
    )
