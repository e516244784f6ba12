"""Is this camera here? One device's presence as a pure state machine over its messages and silences.

Time is monotonic seconds, passed in. Three rules of the field shape it: a retained message is a claim about the
past and proves nothing; a last will may be that of a session which a newer one has already replaced; silence is
measured, never assumed from one missed message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.status import Announced, Status, with_what_lasts

STALE_WILL_WINDOW_S = 90.0
"""How long a broker may take to notice a dead session: 1.5 times the usual 60 s keep-alive."""


class Presence(StrEnum):
    """The states in which a device can be, by its own traffic alone."""

    CLAIMED = "claimed"
    ONLINE = "online"
    IDLE = "idle"
    REBOOTING = "rebooting"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Windows:
    """Seconds of silence after which a device counts as idle, then as offline."""

    idle_after_s: float
    offline_after_s: float


@dataclass(slots=True, eq=False)
class Device:
    """What is known of one MAC; `claims` is its latest live status, `heard_at` when that came."""

    mac: Mac
    state: Presence = Presence.OFFLINE
    claims: Status | None = None
    device_id: str | None = None
    heard_at: float | None = None
    session_since: float = field(default=float("-inf"))
    replaced_live_session: bool = False
    error_count: int = 0
    last_error: str | None = None
    revision: int = 0

    def hear(self, status: Status, now: float) -> bool:
        """Apply a live message; True when the state changed. Stale last wills change nothing."""
        if status.state is Announced.OFFLINE:
            return not self._will_is_stale(now) and self._become(Presence.OFFLINE)
        if not self._starts_session(status):
            status = with_what_lasts(status, self.claims)
        else:
            self.replaced_live_session = self.state in (Presence.ONLINE, Presence.IDLE, Presence.REBOOTING)
            self.session_since = now
        if status.last_error and status.last_error != self.last_error:
            self.error_count += 1
            self.last_error = status.last_error
        self.claims = status
        self.device_id = status.device_id or self.device_id
        self.heard_at = now
        self.revision += 1
        rebooting = status.state is Announced.REBOOTING
        return self._become(Presence.REBOOTING if rebooting else Presence.ONLINE)

    def claim(self, status: Status) -> bool:
        """Apply a retained message: it fills in what is unknown, and never brings a device online."""
        if self.heard_at is not None or status.state is Announced.OFFLINE:
            return False
        self.claims = status
        self.device_id = self.device_id or status.device_id
        self.revision += 1
        return self._become(Presence.CLAIMED)

    def settle(self, windows: Windows, now: float) -> bool:
        """Let silence speak; True when the state changed."""
        if self.heard_at is None or self.state in (Presence.OFFLINE, Presence.CLAIMED):
            return False
        silence = now - self.heard_at
        if silence >= windows.offline_after_s:
            return self._become(Presence.OFFLINE)
        if silence >= windows.idle_after_s and self.state is Presence.ONLINE:
            return self._become(Presence.IDLE)
        return False

    def _starts_session(self, status: Status) -> bool:
        if self.state not in (Presence.ONLINE, Presence.IDLE):
            return True
        before = self.claims.uptime_s if self.claims else None
        return before is not None and status.uptime_s is not None and status.uptime_s < before

    def _will_is_stale(self, now: float) -> bool:
        # The will of a session that a newer one replaced: the broker noticed late that the old one was dead.
        stale = self.replaced_live_session and now - self.session_since < STALE_WILL_WINDOW_S
        self.replaced_live_session = False if stale else self.replaced_live_session
        return stale

    def _become(self, state: Presence) -> bool:
        changed = state is not self.state
        if changed:
            self.state = state
            self.revision += 1
        return changed
