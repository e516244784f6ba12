"""What is stored and told of a session with every change: rows and events in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pi_orchestrator.clock import Clock, rfc3339
from pi_orchestrator.domain.candidate import TOOK_CREDENTIALS, Candidate, CandidateState
from pi_orchestrator.domain.session import Session
from pi_orchestrator.events import Logged
from pi_orchestrator.storage import event_log, sessions
from pi_orchestrator.storage.database import Tx

Json = dict[str, Any]


class SessionRecord:
    """Writes changes of sessions; `idle_s` is how long nothing has happened in one."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._active_at: dict[str, float] = {}

    def idle_s(self, session_id: str) -> float:
        """Seconds since the last change, or since the start of the daemon."""
        now = self._clock.monotonic()
        return now - self._active_at.setdefault(session_id, now)

    def has_waited(self, session: Session, now: datetime) -> None:
        """Nothing has happened in it since before this start: its time goes on from there."""
        waited_s = max(0.0, (now - session.updated_at).total_seconds())
        self._active_at[session.id] = self._clock.monotonic() - waited_s

    def left_s(self, session: Session) -> float:
        """Seconds until it ends if nothing happens; 0 for one that has ended."""
        return max(0.0, session.lifetime_s - self.idle_s(session.id)) if session.expires_at else 0.0

    def forget(self, session_id: str) -> None:
        """It has ended."""
        self._active_at.pop(session_id, None)

    async def save(self, tx: Tx, session: Session) -> Session:
        """Store and tell a change of the session itself; returns it with its present counts."""
        await sessions.save(tx, session)
        return await self.tell(tx, session.id)

    async def joined(self, tx: Tx, found: Sequence[Candidate], *, is_activity: bool) -> None:
        """Store cameras that were found or are known better now, and tell of each.

        What anyone on the network can bring about is no activity: it must not keep a session alive.
        """
        for one in found:
            await sessions.put_candidate(tx, one)
            payload = {
                "mac": one.mac,
                "ip": one.ip,
                "rssi": one.rssi,
                "firmware_version": one.firmware_version,
                "in_allowlist": one.in_allowlist,
                "device": candidate_fields(one),
            }
            await event_log.append(tx, Logged("device.discovered", payload, mac=one.mac, session_id=one.session_id))
        if is_activity:
            await self._touch(tx, found[0].session_id)
            await self.tell(tx, found[0].session_id)

    async def changed(self, tx: Tx, before: Candidate, after: Candidate) -> None:
        """Store a camera's step and tell it; where it changes a count, the session too."""
        await sessions.put_candidate(tx, after)
        await self._touch(tx, after.session_id)
        payload: Json = {
            "mac": after.mac,
            "previous_state": before.state,
            "new_state": after.state,
            "progress": int(after.progress),
            "device": candidate_fields(after),
        }
        if after.error_message:
            payload["error"] = after.error_message
        await event_log.append(tx, Logged("device.state_changed", payload, mac=after.mac, session_id=after.session_id))
        if _counted(before) != _counted(after):
            await self.tell(tx, after.session_id)

    async def trouble(
        self, tx: Tx, session_id: str, *, code: str, message: str, retry_after_s: float | None = None
    ) -> None:
        """Tell of something that concerns the session as a whole."""
        payload: Json = {"code": code, "message": message, "retryable": retry_after_s is not None}
        if retry_after_s is not None:
            payload["retry_after_seconds"] = round(retry_after_s)
        await event_log.append(tx, Logged("error", payload, session_id=session_id))

    async def tell(self, tx: Tx, session_id: str) -> Session:
        """Tell how a session stands; returns it as it does."""
        session = await sessions.get(tx.run, session_id)
        if session is None:  # pragma: no cover  # it was stored a moment ago, in this transaction
            raise LookupError(session_id)
        await event_log.append(
            tx, Logged("session.status", {"session": session_fields(session)}, session_id=session.id)
        )
        tx.after_commit(lambda: self._active(session_id))
        return session

    async def _touch(self, tx: Tx, session_id: str) -> None:
        await sessions.touch(tx, session_id)
        tx.after_commit(lambda: self._active(session_id))

    def _active(self, session_id: str) -> None:
        self._active_at[session_id] = self._clock.monotonic()


def session_fields(session: Session) -> Json:
    """A session as the API and its events show it."""
    config, counts = session.config, session.counts
    fields: Json = {
        "id": session.id,
        "state": session.state.value,
        "network_interface": session.network_interface,
        "target_ssid": session.target_ssid,
        "created_at": rfc3339(session.created_at),
        "updated_at": rfc3339(session.updated_at),
        "device_count": counts.device,
        "provisioned_count": counts.provisioned,
        "verified_count": counts.verified,
        "failed_count": counts.failed,
        "config": {
            "discovery_timeout_seconds": config.discovery_timeout_seconds,
            "provisioning_timeout_seconds": config.provisioning_timeout_seconds,
            "verification_timeout_seconds": config.verification_timeout_seconds,
        },
    }
    if session.expires_at:
        fields["expires_at"] = rfc3339(session.expires_at)
    if session.closed_at:
        fields["closed_at"] = rfc3339(session.closed_at)
    if session.ending:
        fields["ending"] = session.ending.value
    if session.interrupted:
        fields["interrupted"] = True
    return fields


def candidate_fields(one: Candidate) -> Json:
    """A camera of a session as the API and its events show it."""
    fields: Json = {
        "mac": one.mac,
        "ip": one.ip,
        "state": one.state.value,
        "progress": int(one.progress),
        "rssi": one.rssi,
        "firmware_version": one.firmware_version,
        "discovered_at": rfc3339(one.discovered_at),
        "retry_count": one.retry_count,
        "in_allowlist": one.in_allowlist,
        "session_id": one.session_id,
    }
    optional = {
        "provisioned_at": rfc3339(one.provisioned_at) if one.provisioned_at else None,
        "verified_at": rfc3339(one.verified_at) if one.verified_at else None,
        "error_code": one.error_code,
        "error_message": one.error_message,
        "container_id": one.container_id,
    }
    return fields | {name: value for name, value in optional.items() if value is not None}


def _counted(one: Candidate) -> tuple[bool, bool, bool]:
    return one.state in TOOK_CREDENTIALS, one.state is CandidateState.VERIFIED, one.state is CandidateState.FAILED
