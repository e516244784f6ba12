"""A batch provisioning session as a pure state machine: from its start to the end at which its password is erased.

`discovering` → `active` ⇄ `paused` → `closing` → `closed`. A session that a restart cut off comes back paused and
`interrupted`, and waits for somebody to resume or discard it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from pi_orchestrator.errors import ConflictError

PAUSED_S = 24 * 3600.0
"""How long a paused or interrupted session keeps its password, waiting for somebody to come back."""
WARNING_S = 60.0


class SessionState(StrEnum):
    """Where a session stands."""

    DISCOVERING = "discovering"
    ACTIVE = "active"
    PAUSED = "paused"
    CLOSING = "closing"
    CLOSED = "closed"


class Ending(StrEnum):
    """How a closed session came to its end."""

    CLOSED = "closed"
    EXPIRED = "expired"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How long a session looks for cameras, and how long each camera's two steps may take; seconds."""

    discovery_timeout_seconds: int = 60
    provisioning_timeout_seconds: int = 120
    verification_timeout_seconds: int = 90

    @property
    def total_s(self) -> int:
        """The longest that a camera may take from its discovery to its verification."""
        return self.discovery_timeout_seconds + self.provisioning_timeout_seconds + self.verification_timeout_seconds


@dataclass(frozen=True, slots=True)
class Counts:
    """How many devices a session has; `provisioned` are those that took the credentials, verified ones included.

    `under_way` are those that were asked for and have not come to an end.
    """

    device: int = 0
    provisioned: int = 0
    verified: int = 0
    failed: int = 0
    under_way: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """A session as of one moment; every change makes a new one, ConflictError says why one is not possible."""

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
        """Whether it has not come to its end."""
        return self.state is not SessionState.CLOSED

    @property
    def runs(self) -> bool:
        """Whether cameras may be started on."""
        return self.state in (SessionState.DISCOVERING, SessionState.ACTIVE)

    @property
    def lifetime_s(self) -> float:
        """How long it lives when nothing happens in it; one that waits for something waits long."""
        waits = self.state is SessionState.PAUSED or self.counts.under_way > 0
        return PAUSED_S if waits else float(self.config.total_s)

    @property
    def warning_s(self) -> float:
        """How long before its end it warns."""
        return min(WARNING_S, self.lifetime_s / 4)

    @property
    def expires_at(self) -> datetime | None:
        """When it ends if nothing happens until then; None for one that is ending or has ended."""
        if self.state in (SessionState.CLOSING, SessionState.CLOSED):
            return None
        return self.updated_at + timedelta(seconds=self.lifetime_s)

    def activate(self) -> Session:
        """The time to look for cameras is over, or one was asked for already."""
        return replace(self, state=SessionState.ACTIVE) if self.state is SessionState.DISCOVERING else self

    def provision(self) -> Session:
        """Cameras are asked for."""
        self.check_open()
        if self.state is SessionState.PAUSED:
            raise ConflictError("the session is paused", details="resume it first")
        return self.activate()

    def pause(self) -> Session:
        """Start nothing new; a paused session stays as it is."""
        self.check_open()
        return replace(self, state=SessionState.PAUSED)

    def resume(self) -> Session:
        """Go on; a running session stays as it is."""
        self.check_open()
        if self.state is not SessionState.PAUSED:
            return self
        return replace(self, state=SessionState.ACTIVE, interrupted=False)

    def recover(self) -> Session:
        """Go on after a restart; one that has ended cannot."""
        if self.ending is Ending.EXPIRED:
            self.check_open()
        if self.state in (SessionState.CLOSING, SessionState.CLOSED):
            raise ConflictError(
                f"session {self.id} has ended", code="SESSION_NOT_RECOVERABLE", details="start a new session"
            )
        return self.resume()

    def interrupt(self) -> Session:
        """A restart has cut it off."""
        if self.state in (SessionState.CLOSING, SessionState.CLOSED):
            return self
        return replace(self, state=SessionState.PAUSED, interrupted=True)

    def close(self, ending: Ending) -> Session:
        """Let what runs come to its end, or not where it is discarded; one that has ended stays as it is."""
        hastened = self.state is SessionState.CLOSING and ending is Ending.DISCARDED
        if self.state in (SessionState.CLOSING, SessionState.CLOSED) and not hastened:
            return self
        return replace(self, state=SessionState.CLOSING, ending=ending, interrupted=False)

    def ended(self, at: datetime) -> Session:
        """Nothing runs any more, and the password is gone."""
        return replace(self, state=SessionState.CLOSED, closed_at=at) if self.state is SessionState.CLOSING else self

    def check_open(self) -> None:
        """ConflictError where it is ending or has ended."""
        if self.ending is Ending.EXPIRED:
            raise ConflictError(f"session {self.id} has expired", code="SESSION_EXPIRED", details="start a new session")
        if self.state in (SessionState.CLOSING, SessionState.CLOSED):
            raise ConflictError(
                f"session {self.id} is {self.state}", code="SESSION_ALREADY_CLOSED", details="start a new session"
            )
