"""Is this device here? One device's presence as a pure state machine over its evidence and its silences.

Time is monotonic seconds, passed in. The rules of the field that shape it: a retained message is a claim about the
past and proves nothing; a last will may be that of a session which a newer one has already replaced, and ends a
session, not always a device; any
trustworthy source proves a device alive, and none proves it gone, because a camera that sleeps does not answer;
silence is measured, never assumed from one miss; and one that comes and goes all the time is told as just that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.sighting import TRUSTED, Sighting, Source
from pi_orchestrator.domain.status import Announced, Status, with_what_lasts

STALE_WILL_WINDOW_S = 90.0
"""How long a broker may take to notice a dead session: 1.5 times the usual 60 s keep-alive."""
REBOOT_S = 10.0
"""What a camera still sends after it has said that it reboots does not show that it is back."""
SEEN_JUST_NOW_S = 180.0
LEAVING_S = 3.0
"""After a last will of a device that other sources have just seen: how long it has to answer them once more."""
FLAPS = 4
FLAPS_WITHIN_S = 600.0
SETTLED_AFTER_S = 300.0
NEVER = float("-inf")


class Presence(StrEnum):
    """The states in which a device can be, by the evidence alone."""

    CLAIMED = "claimed"
    ONLINE = "online"
    IDLE = "idle"
    REBOOTING = "rebooting"
    FLAPPING = "flapping"
    OFFLINE = "offline"


HERE = frozenset({Presence.ONLINE, Presence.IDLE, Presence.REBOOTING, Presence.FLAPPING})
"""The states of a device that is not given up."""


_CAMERA_NAME = re.compile(r"esp|cam", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Windows:
    """Seconds of silence after which a device counts as idle, then as offline.

    A source that only speaks when a scan asks it gets several scans' time, so that one miss never decides.
    """

    idle_after_s: float
    offline_after_s: float
    scan_interval_s: float = 0.0

    def idle(self, source: Source) -> float:
        """The silence of this source that makes a device idle."""
        return self.idle_after_s if source in _SPONTANEOUS else max(self.idle_after_s, 2.5 * self.scan_interval_s)

    def offline(self, source: Source) -> float:
        """The silence of this source after which it says nothing any more."""
        return self.offline_after_s if source in _SPONTANEOUS else max(self.offline_after_s, 4 * self.scan_interval_s)


_SPONTANEOUS = frozenset({Source.MQTT, Source.RECORD})


@dataclass(slots=True)
class Evidence:
    """What one source has said of a device: when first and last, when it last proved life, and the latest details."""

    source: Source
    first_at: float
    last_at: float
    alive_at: float = NEVER
    ip: IPv4Address | None = None
    host_name: str | None = None
    rssi_dbm: int | None = None
    detail: str = ""

    def update(self, seen: Sighting) -> None:
        """Take what a sighting adds; sightings may come late, and an older one takes nothing back."""
        if seen.alive and seen.source in TRUSTED:
            self.alive_at = max(self.alive_at, seen.at)
        if seen.at < self.last_at:
            return
        self.last_at = seen.at
        self.ip = seen.ip or self.ip
        self.host_name = seen.host_name or self.host_name
        self.rssi_dbm = seen.rssi_dbm if seen.rssi_dbm is not None else self.rssi_dbm
        self.detail = seen.detail or self.detail


@dataclass(slots=True, eq=False)
class Device:
    """What is known of one MAC; `claims` is its latest status message, `heard_at` when it last spoke on MQTT itself.

    `said` is its last live message as it came, `claims` that with what earlier ones of the same session said.

    `address` is the one that it answers for, `addresses` all of them with the time of the last answer, `left` the one
    that it had before.
    """

    mac: Mac
    state: Presence = Presence.OFFLINE
    claims: Status | None = None
    said: Status | None = None
    device_id: str | None = None
    heard_at: float | None = None
    evidence: dict[Source, Evidence] = field(default_factory=dict)
    address: IPv4Address | None = None
    addresses: dict[IPv4Address, float] = field(default_factory=dict)
    left: IPv4Address | None = None
    is_camera: bool = False
    session_since: float = NEVER
    replaced_live_session: bool = False
    error_count: int = 0
    last_error: str | None = None
    revision: int = 0
    silenced_at: float = NEVER
    session_ended_at: float = NEVER
    leaving_at: float | None = None
    rebooting_since: float = NEVER
    unstable: bool = False
    drops: list[float] = field(default_factory=list)
    weighed: tuple[int, Windows | None] = (-1, None)
    due: float = NEVER

    @property
    def shown(self) -> Presence:
        """The state as it is told: one that comes and goes is flapping, whichever it is just now."""
        return Presence.FLAPPING if self.unstable else self.state

    @property
    def alive_at(self) -> float | None:
        """When a trustworthy source last proved it alive."""
        latest = max((one.alive_at for one in self.evidence.values()), default=NEVER)
        return None if latest == NEVER else latest

    def hear(self, status: Status, now: float) -> bool:
        """Apply a live message; True when the state changed. Stale last wills change nothing."""
        if status.state is Announced.OFFLINE:
            if self._will_is_stale(now):
                return False
            self.session_ended_at = now
            self.revision += 1
            if self._is_seen_otherwise(now):
                # Its session ended, which need not be the device's end: what saw it just now is asked first.
                self.leaving_at = now
                return False
            self.silenced_at = now
            return self._become(Presence.OFFLINE, now)
        self.said = status
        if not self._starts_session(status):
            status = with_what_lasts(status, self.claims)
        else:
            self.replaced_live_session = self.in_session and self.state is not Presence.OFFLINE
            self.session_since = now
        if status.last_error and status.last_error != self.last_error:
            self.error_count += 1
            self.last_error = status.last_error
        self.claims = status
        self.device_id = status.device_id or self.device_id
        self.heard_at = now
        self.leaving_at = None
        self.is_camera = True
        known = self.evidence.get(Source.MQTT)
        if known is None:
            known = self.evidence[Source.MQTT] = Evidence(Source.MQTT, first_at=now, last_at=now)
        known.last_at = known.alive_at = now
        known.rssi_dbm = status.rssi_dbm
        self.revision += 1
        if status.state is Announced.REBOOTING:
            self.rebooting_since = now
            return self._become(Presence.REBOOTING, now)
        return self._become(Presence.ONLINE, now)

    def claim(self, status: Status) -> bool:
        """Apply a retained message: it fills in what is unknown, and never brings a device online."""
        if self.heard_at is not None or Source.RECORD in self.evidence or status.state is Announced.OFFLINE:
            return False
        self.claims = status
        self.device_id = self.device_id or status.device_id
        self.is_camera = True
        self.revision += 1
        return self.state is Presence.OFFLINE and self._become(Presence.CLAIMED, NEVER)

    def see(self, seen: Sighting) -> None:
        """Add another source's evidence; `settle` draws the conclusions."""
        known = self.evidence.get(seen.source)
        if known is None:
            known = self.evidence[seen.source] = Evidence(seen.source, first_at=seen.at, last_at=seen.at)
        known.update(seen)
        self.revision += 1

    def settle(self, windows: Windows, now: float) -> bool:
        """Weigh evidence against silence; True when the shown state changed."""
        if now < self.due and self.weighed == (self.revision, windows):
            return False  # nothing was added, and no window has run out: thousands are settled every second
        before = self.shown
        if self.unstable and now - self.drops[-1] >= SETTLED_AFTER_S:
            self.unstable = False
            self.drops.clear()
            self.revision += 1
        self._leave_or_stay(now)
        state = self._by_evidence(windows, now)
        if state is not None:
            self._become(state, now)
        self.weighed, self.due = (self.revision, windows), self._next_due(windows, now)
        return self.shown is not before

    def _next_due(self, windows: Windows, now: float) -> float:
        """When silence alone could next change the state."""
        ends = [
            one.alive_at + window
            for one in self.evidence.values()
            for window in (windows.idle(one.source), windows.offline(one.source))
        ]
        if self.unstable:
            ends.append(self.drops[-1] + SETTLED_AFTER_S)
        if self.leaving_at is not None:
            ends.append(self.leaving_at + LEAVING_S)
        return min((end for end in ends if end > now), default=float("inf"))

    def _by_evidence(self, windows: Windows, now: float) -> Presence | None:
        """The state that the evidence speaks for; None where it changes nothing."""
        here = idle = False
        for one in self.evidence.values():
            if one.alive_at <= self.silenced_at or (one.source is Source.MQTT and not self.in_session):
                continue
            age = now - one.alive_at
            if age < windows.idle(one.source):
                # One that reboots is back when it says so on MQTT, or is seen well after it went.
                back = self.state is not Presence.REBOOTING or one.alive_at > self.rebooting_since + REBOOT_S
                here, idle = here or back, idle or not back
            elif age < windows.offline(one.source):
                idle = True
        if here:
            return Presence.ONLINE
        if idle:
            # Old evidence keeps a device, it does not bring one back.
            return Presence.IDLE if self.state is Presence.ONLINE else None
        return None if self.state is Presence.CLAIMED else Presence.OFFLINE

    @property
    def in_session(self) -> bool:
        """Whether it speaks on MQTT; being seen otherwise is no session."""
        return self.heard_at is not None and self.heard_at > self.session_ended_at

    def _is_seen_otherwise(self, now: float) -> bool:
        """Whether another source than its messages has proved it alive a short while ago, at an address to ask."""
        others = [one.alive_at for one in self.evidence.values() if one.source not in (Source.MQTT, Source.RECORD)]
        return self.address is not None and max(others, default=NEVER) > now - SEEN_JUST_NOW_S

    def _leave_or_stay(self, now: float) -> None:
        """After a last will: who has been seen since then stays, who has not been in time has left."""
        if self.leaving_at is None:
            return
        if any(one.alive_at > self.leaving_at for one in self.evidence.values()):
            self.leaving_at = None
        elif now - self.leaving_at >= LEAVING_S:
            self.silenced_at, self.leaving_at = self.leaving_at, None

    def _starts_session(self, status: Status) -> bool:
        if not self.in_session or self.state not in (Presence.ONLINE, Presence.IDLE):
            return True
        before = self.claims.uptime_s if self.claims else None
        return before is not None and status.uptime_s is not None and status.uptime_s < before

    def _will_is_stale(self, now: float) -> bool:
        # The will of a session that a newer one replaced: the broker noticed late that the old one was dead.
        stale = self.replaced_live_session and now - self.session_since < STALE_WILL_WINDOW_S
        self.replaced_live_session = False if stale else self.replaced_live_session
        return stale

    def _become(self, state: Presence, now: float) -> bool:
        before = self.shown
        if state is not self.state:
            if state is Presence.OFFLINE and self.state is not Presence.CLAIMED:
                self._drop(now)
            self.state = state
            self.revision += 1
        return self.shown is not before

    def _drop(self, now: float) -> None:
        self.drops = [*(at for at in self.drops[-FLAPS:] if now - at < FLAPS_WITHIN_S), now]
        self.unstable = self.unstable or len(self.drops) >= FLAPS


def is_likely_camera(device: Device, *, espressif: bool) -> bool:
    """Whether a device looks like a camera: it said so, its chip is an Espressif's, or one of its names is a hint."""
    names = (one.host_name for one in device.evidence.values() if one.host_name)
    return device.is_camera or espressif or any(_CAMERA_NAME.search(name) for name in names)
