"""Evidence for a device's state: the reports of each source, and a summary in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pi_orchestrator.core.clock import Clock, rfc3339
from pi_orchestrator.core.mac import mac_difference
from pi_orchestrator.core.sighting import TRUSTED, Source
from pi_orchestrator.features.devices.model import NEVER, Device, Evidence, Presence
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.status_message import topic_id
from pi_orchestrator.features.devices.unreadable import UnreadableMessages, UnreadableTopic
from pi_orchestrator.http.model import ApiModel, Time


class EvidenceView(ApiModel):
    """Reports of one source; `proves_life`: at least one of them has proved that the device is alive.

    `age_seconds` is the time since the last such report or, if there is none, since the last report.
    """

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
class ClockReading:
    """The same moment on both clocks, so that all times of one response are consistent."""

    monotonic: float
    wall: datetime

    def age(self, at: float) -> float:
        """Seconds since a monotonic time."""
        return self.monotonic - at

    def moment(self, at: float | None) -> str | None:
        """A monotonic time as RFC 3339 by the current wall clock."""
        return None if at is None else rfc3339(self.wall - timedelta(seconds=self.age(at)))

    @classmethod
    def by(cls, clock: Clock) -> ClockReading:
        """Read both clocks."""
        return cls(clock.monotonic(), clock.wall())


def sorted_evidence(device: Device) -> list[Evidence]:
    """The evidence of a device, latest first."""
    return sorted(device.evidence.values(), key=lambda evidence: evidence.last_at, reverse=True)


def evidence_view(now: ClockReading, evidence: Evidence) -> EvidenceView:
    """The reports of one source, as of now."""
    return EvidenceView(
        source=evidence.source,
        proves_life=evidence.alive_at != NEVER,
        first_seen=now.moment(evidence.first_at) or "",
        last_seen=now.moment(evidence.last_at) or "",
        age_seconds=round(now.age(evidence.last_at if evidence.alive_at == NEVER else evidence.alive_at), 1),
        ip_address=str(evidence.ip) if evidence.ip else None,
        host_name=evidence.host_name,
        signal_strength=evidence.rssi_dbm,
        detail=evidence.detail or None,
    )


class UnreadableView(ApiModel):
    """A topic whose last message could not be read; `text` says in words what is wrong.

    `mac_address` is the device known under the topic or, if there is none, the MAC that the message names.
    """

    topic: str
    text: str
    mac_address: str | None = None
    count: int
    first_seen: Time
    last_seen: Time


def unreadable_views(now: ClockReading, unreadable: UnreadableMessages) -> list[UnreadableView]:
    """The topics whose last message could not be read, as of now."""
    return [_unreadable_view(now, entry) for entry in unreadable.listed(now.monotonic)]


def _unreadable_view(now: ClockReading, entry: UnreadableTopic) -> UnreadableView:
    return UnreadableView(
        topic=entry.topic,
        text=entry.text,
        mac_address=entry.mac or entry.named,
        count=entry.count,
        first_seen=now.moment(entry.first_at) or "",
        last_seen=now.moment(entry.last_at) or "",
    )


_SEEN_BY = {
    Source.ARP: "answered ARP",
    Source.NEIGHBOUR: "found by the kernel",
    Source.STATION: "seen by the radio",
    Source.MQTT: "published on MQTT",
    Source.PROBE: "answered HTTP",
    Source.RECORD: "was present before the restart",
}


def state_reason(now: ClockReading, device: Device, *, unreadable: UnreadableMessages) -> str:
    """The reason for the state in one sentence: the sources, how long ago each reported, and what cannot be read."""
    reason, problem = _state_reason(now, device), unreadable.of(device.mac, now.monotonic)
    return f"{reason}; it {problem}" if problem else reason


def _state_reason(now: ClockReading, device: Device) -> str:
    alive = sorted(
        (
            evidence
            for evidence in device.evidence.values()
            if evidence.source in TRUSTED and evidence.alive_at != NEVER
        ),
        key=lambda evidence: evidence.alive_at,
        reverse=True,
    )
    seen = ", ".join(f"{_SEEN_BY[evidence.source]} {now.age(evidence.alive_at):.0f} s ago" for evidence in alive[:3])
    if device.unstable:
        return f"it {device.interruptions.summary(now.monotonic)}; {seen}"
    if device.state is Presence.CLAIMED:
        return "known from a retained message only; no source has proved it alive"
    if device.state is Presence.OFFLINE and device.ignore_evidence_until > (device.alive_at or NEVER):
        return (
            f"its MQTT session ended {now.age(device.ignore_evidence_until):.0f} s ago and no source has seen it since"
        )
    if device.mqtt_session_ended_at > (device.last_message_at or NEVER):
        return f"{seen}; its MQTT session ended {now.age(device.mqtt_session_ended_at):.0f} s ago"
    return seen or "no source has proved it alive yet"


def name_notes(registry: DeviceRegistry, device: Device) -> list[str]:
    """Problems with the names of a device, one sentence each: conflicts, and ids that spell a different MAC."""
    notes = []
    for conflict in registry.names.conflicts_of(device.mac):
        others = ", ".join(mac for mac in conflict.macs if mac != device.mac)
        notes.append(f"{conflict.reason} (the other: {others})" if others else conflict.reason)
        notes += [
            f"{rival.messages} messages on {rival.topic} were not applied"
            for rival in registry.names.rivals(device.mac)
            if not others
        ]
    topic = registry.names.topic_of(device.mac)
    names = {device.device_id, topic_id(topic) if topic else None}
    for name in sorted(name for name in names if name):
        if (relation := mac_difference(name, device.mac)) == "reversed":
            notes.append(f"its id {name} is its MAC with the bytes in reverse order: correct the firmware")
        elif relation == "near":
            notes.append(f"its id {name} is another MAC of its ESP32; it is known by {device.mac}")
    return notes


def last_seen(device: Device, clock: Clock) -> datetime | None:
    """When a device was last proved alive, by the current wall clock; None if never."""
    alive_at = device.alive_at
    if alive_at is None:
        return None
    return clock.wall() - timedelta(seconds=clock.monotonic() - alive_at)
