"""A provisioning session as a pure state machine. Its password is erased when it is closed.

`discovering` → `active` ⇄ `paused`; from each of these → `closing` → `closed`. `discovering` can be paused too, and
resumes as `active`. After a restart of the daemon a session that was not closing is paused and `interrupted` until an
operator resumes or discards it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import ConflictError

PAUSED_S = 24 * 3600.0
"""Time that a paused or interrupted session waits for an operator before it expires."""
WARNING_S = 60.0


class SessionState(StrEnum):
    """State of a session."""

    DISCOVERING = "discovering"
    ACTIVE = "active"
    PAUSED = "paused"
    CLOSING = "closing"
    CLOSED = "closed"


class Ending(StrEnum):
    """Reason why a session ended."""

    CLOSED = "closed"
    EXPIRED = "expired"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Timeouts in seconds: of the discovery phase, and of each camera's two steps."""

    discovery_timeout_seconds: int = 60
    provisioning_timeout_seconds: int = 120
    verification_timeout_seconds: int = 90

    @property
    def total_s(self) -> int:
        """Sum of the timeouts: how long a session stays open without activity."""
        return self.discovery_timeout_seconds + self.provisioning_timeout_seconds + self.verification_timeout_seconds


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of devices. `provisioned`: accepted the credentials, verified devices included.

    `under_way`: requested, and neither verified nor failed.
    """

    device: int = 0
    provisioned: int = 0
    verified: int = 0
    failed: int = 0
    under_way: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """A session as an immutable value; every change returns a new one, ConflictError if it is not possible."""

    id: str
    state: SessionState
    network_interface: str
    target_ssid: str
    config: SessionConfig
    created_at: datetime
    updated_at: datetime
    interrupted: bool = False
    ending: Ending | None = None
    closed_at: datetime | None = None
    counts: Counts = Counts()

    @property
    def is_open(self) -> bool:
        """Whether it is not closed; a closing session is still open."""
        return self.state is not SessionState.CLOSED

    @property
    def can_provision(self) -> bool:
        """Whether devices may be provisioned."""
        return self.state in (SessionState.DISCOVERING, SessionState.ACTIVE)

    @property
    def lifetime_s(self) -> float:
        """Seconds without activity after which it expires: PAUSED_S while paused or with a device under way."""
        waits = self.state is SessionState.PAUSED or self.counts.under_way > 0
        return PAUSED_S if waits else float(self.config.total_s)

    @property
    def warning_s(self) -> float:
        """Seconds before its expiry at which operators are warned."""
        return min(WARNING_S, self.lifetime_s / 4)

    @property
    def expires_at(self) -> datetime | None:
        """Time of expiry without activity; None if it is closing or closed."""
        if self.state in (SessionState.CLOSING, SessionState.CLOSED):
            return None
        return self.updated_at + timedelta(seconds=self.lifetime_s)

    def activate(self) -> Session:
        """End the discovery phase."""
        return replace(self, state=SessionState.ACTIVE) if self.state is SessionState.DISCOVERING else self

    def provision(self) -> Session:
        """Accept a provisioning request; ConflictError while paused or ended."""
        self.check_not_closing()
        if self.state is SessionState.PAUSED:
            raise ConflictError("the session is paused", details="resume it first")
        return self.activate()

    def pause(self) -> Session:
        """Start nothing new; no effect on a paused session."""
        self.check_not_closing()
        return replace(self, state=SessionState.PAUSED)

    def resume(self) -> Session:
        """Continue; no effect on a running session."""
        self.check_not_closing()
        if self.state is not SessionState.PAUSED:
            return self
        return replace(self, state=SessionState.ACTIVE, interrupted=False)

    def recover(self) -> Session:
        """Continue after a restart; ConflictError if it has ended."""
        if self.ending is Ending.EXPIRED:
            self.check_not_closing()  # raises SESSION_EXPIRED
        if self.state in (SessionState.CLOSING, SessionState.CLOSED):
            raise ConflictError(
                f"session {self.id} has ended", code=ErrorCode.SESSION_NOT_RECOVERABLE, details="start a new session"
            )
        return self.resume()

    def interrupt(self) -> Session:
        """Mark it as interrupted by a restart of the daemon."""
        if self.state in (SessionState.CLOSING, SessionState.CLOSED):
            return self
        return replace(self, state=SessionState.PAUSED, interrupted=True)

    def close(self, ending: Ending) -> Session:
        """Start to close it; no effect on a closed session. A closing session can still be discarded."""
        is_late_discard = self.state is SessionState.CLOSING and ending is Ending.DISCARDED
        if self.state in (SessionState.CLOSING, SessionState.CLOSED) and not is_late_discard:
            return self
        return replace(self, state=SessionState.CLOSING, ending=ending, interrupted=False)

    def closed(self, at: datetime) -> Session:
        """Mark it as closed: nothing is under way, and the password is erased."""
        return replace(self, state=SessionState.CLOSED, closed_at=at) if self.state is SessionState.CLOSING else self

    def check_not_closing(self) -> None:
        """Raise ConflictError if it is closing or closed."""
        if self.ending is Ending.EXPIRED:
            raise ConflictError(
                f"session {self.id} has expired", code=ErrorCode.SESSION_EXPIRED, details="start a new session"
            )
        if self.state in (SessionState.CLOSING, SessionState.CLOSED):
            raise ConflictError(
                f"session {self.id} is {self.state}",
                code=ErrorCode.SESSION_ALREADY_CLOSED,
                details="start a new session",
            )
