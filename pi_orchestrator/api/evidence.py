"""Why the daemon believes what it believes of a device: what each source has said, and the conclusion in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.clock import Clock, rfc3339
from pi_orchestrator.domain.presence import NEVER, Device, Evidence, Presence
from pi_orchestrator.domain.sighting import TRUSTED, Source


class EvidenceView(Wire):
    """What one source has said; `proves_life` where it may, `age_seconds` since it last did."""

    source: Source
    proves_life: bool
    first_seen: Time
    last_seen: Time
    age_seconds: float
    ip_address: str | None = None
    host_name: str | None = None
    signal_strength: int | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Now:
    """One moment on both clocks: what is told of a device must not contradict itself by microseconds."""

    monotonic: float
    wall: datetime

    def age(self, at: float) -> float:
        """Seconds since a monotonic time."""
        return self.monotonic - at

    def moment(self, at: float | None) -> str | None:
        """A monotonic time as a date by today's clock."""
        return None if at is None else rfc3339(self.wall - timedelta(seconds=self.age(at)))

    @classmethod
    def by(cls, clock: Clock) -> Now:
        """This moment."""
        return cls(clock.monotonic(), clock.wall())


def told_of(device: Device) -> list[Evidence]:
    """What sources have said of a device, the latest first."""
    return sorted(device.evidence.values(), key=lambda one: one.last_at, reverse=True)


def evidence_view(now: Now, one: Evidence) -> EvidenceView:
    """What one source has said, as of now."""
    return EvidenceView(
        source=one.source,
        proves_life=one.alive_at != NEVER,
        first_seen=now.moment(one.first_at) or "",
        last_seen=now.moment(one.last_at) or "",
        age_seconds=round(now.age(one.last_at if one.alive_at == NEVER else one.alive_at), 1),
        ip_address=str(one.ip) if one.ip else None,
        host_name=one.host_name,
        signal_strength=one.rssi_dbm,
        detail=one.detail or None,
    )


_SEEN_BY = {
    Source.ARP: "answered ARP",
    Source.NEIGHBOUR: "the kernel had its answer",
    Source.STATION: "the radio heard it",
    Source.MQTT: "spoke on MQTT",
    Source.PROBE: "answered HTTP",
    Source.RECORD: "was here before the restart",
}


def why(now: Now, device: Device) -> str:
    """The state in one sentence: which source says so, and since when."""
    alive = sorted(
        (one for one in device.evidence.values() if one.source in TRUSTED and one.alive_at != NEVER),
        key=lambda one: one.alive_at,
        reverse=True,
    )
    seen = ", ".join(f"{_SEEN_BY[one.source]} {now.age(one.alive_at):.0f} s ago" for one in alive[:3])
    if device.unstable:
        return f"it came and went {len(device.drops)} times in the last minutes; {seen}"
    if device.state is Presence.CLAIMED:
        return "only a retained message speaks for it; nothing has proved it alive"
    if device.state is Presence.OFFLINE and device.silenced_at > (device.alive_at or NEVER):
        return f"its MQTT session ended {now.age(device.silenced_at):.0f} s ago and nothing has seen it since"
    if device.session_ended_at > (device.heard_at or NEVER):
        return f"{seen}; its MQTT session ended {now.age(device.session_ended_at):.0f} s ago"
    return seen or "nothing has proved it alive yet"
