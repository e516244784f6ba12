"""One device's presence: a pure state machine over its evidence and its silence.

Time is monotonic seconds, passed in. The rules:

* A retained message is a claim about the past and proves nothing.
* A last will ends an MQTT session; the device may still be present. The last will of a session that a newer one has
  already replaced changes nothing.
* Any trusted source proves a device alive. No source proves it offline, because a sleeping camera does not answer.
* Silence is measured, never assumed from one missed answer.
* A device that restarts, loses its MQTT session or goes offline again and again is published as flapping, also while
  another source sees it all the time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import TRUSTED, Sighting, Source
from pi_orchestrator.features.devices.fingerprint import UNKNOWN, Fingerprint
from pi_orchestrator.features.devices.interruptions import Interruption, Interruptions
from pi_orchestrator.features.devices.status_message import Announced, Status, with_lasting_fields

STALE_WILL_WINDOW_S = 90.0
"""How long a broker may take to notice a dead MQTT session: 1.5 times the usual 60 s keep-alive."""
REBOOT_S = 10.0
"""Evidence this soon after a reboot was announced does not prove that the camera is back."""
RECENTLY_SEEN_S = 180.0
"""A last will does not put a device offline at once if a source other than MQTT proved it alive within this time."""
LEAVING_S = 3.0
"""How long a device that is not put offline at once may take to answer a probe after its last will."""
EXPECTED_RESTART_S = 60.0
"""A restart is no interruption if it was requested at most this long before."""
NEVER = float("-inf")


class Presence(StrEnum):
    """States of a device, derived from evidence only; `claimed`: known from a retained message alone."""

    CLAIMED = "claimed"
    ONLINE = "online"
    IDLE = "idle"
    REBOOTING = "rebooting"
    FLAPPING = "flapping"
    OFFLINE = "offline"


PRESENT_STATES = frozenset({Presence.ONLINE, Presence.IDLE, Presence.REBOOTING, Presence.FLAPPING})
"""The states of a device that counts as present."""


_CAMERA_NAME = re.compile(r"esp|cam", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Windows:
    """Seconds of silence after which a device counts as idle, then as offline.

    A source that reports only during a scan gets several scan intervals, so that one missed answer changes nothing.
    """

    idle_after_s: float
    offline_after_s: float
    scan_interval_s: float = 0.0

    def idle(self, source: Source) -> float:
        """Silence of this source after which a device is idle."""
        return self.idle_after_s if source in _SPONTANEOUS else max(self.idle_after_s, 2.5 * self.scan_interval_s)

    def offline(self, source: Source) -> float:
        """Silence of this source after which its evidence no longer counts."""
        return self.offline_after_s if source in _SPONTANEOUS else max(self.offline_after_s, 4 * self.scan_interval_s)


_SPONTANEOUS = frozenset({Source.MQTT, Source.RECORD})


@dataclass(slots=True)
class Evidence:
    """Reports of one source about a device: times of the first, the last and the last proof of life; latest details."""

    source: Source
    first_at: float
    last_at: float
    alive_at: float = NEVER
    ip: IPv4Address | None = None
    host_name: str | None = None
    rssi_dbm: int | None = None
    detail: str = ""

    def update(self, sighting: Sighting) -> None:
        """Merge a sighting; a late one does not overwrite newer details."""
        if sighting.alive and sighting.source in TRUSTED:
            self.alive_at = max(self.alive_at, sighting.at)
        if sighting.at < self.last_at:
            return
        self.last_at = sighting.at
        self.ip = sighting.ip or self.ip
        self.host_name = sighting.host_name or self.host_name
        self.rssi_dbm = sighting.rssi_dbm if sighting.rssi_dbm is not None else self.rssi_dbm
        self.detail = sighting.detail or self.detail


@dataclass(slots=True, eq=False)
class Device:
    """State of one MAC.

    `last_status`: the last live message as received; `last_message_at`: its time. `claims`: the same message, its
    missing fields filled from earlier messages of the MQTT session; a retained message until a live one is received.
    `addresses`: the addresses that the device answers for, each with the time of the last answer; `address`: the one
    that is published. Evidence up to `ignore_evidence_until` does not count. `error_count`: how often `last_error`
    changed to another text. `restart_expected_until`: until then, one restart counts as requested, not as an
    interruption. `replaced_open_mqtt_session`: the present MQTT session began before the end of the earlier one was
    received. `http_fingerprint`: how the device answered over HTTP. `revision` is raised by each change; `evaluated`
    and `next_change_at` are for `expire` only.
    """

    mac: Mac
    state: Presence = Presence.OFFLINE
    claims: Status | None = None
    last_status: Status | None = None
    device_id: str | None = None
    last_message_at: float | None = None
    evidence: dict[Source, Evidence] = field(default_factory=dict)
    address: IPv4Address | None = None
    addresses: dict[IPv4Address, float] = field(default_factory=dict)
    previous_address: IPv4Address | None = None
    is_camera: bool = False
    mqtt_session_since: float = NEVER
    replaced_open_mqtt_session: bool = False
    error_count: int = 0
    last_error: str | None = None
    last_error_at: float | None = None
    http_fingerprint: Fingerprint = UNKNOWN
    revision: int = 0
    ignore_evidence_until: float = NEVER
    mqtt_session_ended_at: float = NEVER
    leaving_at: float | None = None
    rebooting_since: float = NEVER
    restart_expected_until: float = NEVER
    interruptions: Interruptions = field(default_factory=Interruptions)
    evaluated: tuple[int, Windows | None] = (-1, None)
    next_change_at: float = NEVER

    @property
    def unstable(self) -> bool:
        """Whether it was interrupted so often that its state is published as flapping."""
        return self.interruptions.is_unstable

    @property
    def shown(self) -> Presence:
        """The published state: flapping while the device is unstable, else `state`."""
        return Presence.FLAPPING if self.unstable else self.state

    @property
    def alive_at(self) -> float | None:
        """Monotonic time at which a trusted source last proved it alive; None if never."""
        latest = max((evidence.alive_at for evidence in self.evidence.values()), default=NEVER)
        return None if latest == NEVER else latest

    @property
    def fingerprint(self) -> Fingerprint:
        """How it answers, over MQTT and HTTP."""
        status = self.last_status
        by_mqtt = Fingerprint(topic=status.topic, device_id=status.device_id) if status else UNKNOWN
        return by_mqtt.completed(self.http_fingerprint)

    def apply_live_status(self, status: Status, now: float) -> bool:
        """Apply a live message; True when the state changed. Stale last wills change nothing."""
        before = self.shown
        self._apply_live_status(status, now)
        return self.shown is not before

    def _apply_live_status(self, status: Status, now: float) -> None:
        if status.state is Announced.OFFLINE:
            if self._is_stale_will(now):
                return
            if self._is_unseen_session(now):
                self._interrupted(Interruption.RESTART, now)
            self.mqtt_session_ended_at = now
            self.revision += 1
            if self._is_seen_by_others(now):
                # The MQTT session ended, but the device may still be present: it gets LEAVING_S to answer a probe.
                self.leaving_at = now
                return
            self.ignore_evidence_until = now
            self._set_state(Presence.OFFLINE, now)
            return
        self.last_status = status
        if not self._starts_mqtt_session(status):
            status = with_lasting_fields(status, self.claims)
        else:
            self._record_session_start(status, now)
            self.replaced_open_mqtt_session = self.in_mqtt_session and self.state is not Presence.OFFLINE
            self.mqtt_session_since = now
        if status.last_error and status.last_error != self.last_error:
            self.error_count += 1
            self.last_error, self.last_error_at = status.last_error, now
        self.claims = status
        self.device_id = status.device_id or self.device_id
        self.last_message_at = now
        self.leaving_at = None
        self.is_camera = True
        evidence = self.evidence.get(Source.MQTT)
        if evidence is None:
            evidence = self.evidence[Source.MQTT] = Evidence(Source.MQTT, first_at=now, last_at=now)
        evidence.last_at = evidence.alive_at = now
        evidence.rssi_dbm = status.rssi_dbm
        self.revision += 1
        if status.state is Announced.REBOOTING:
            self.rebooting_since = now
            self._set_state(Presence.REBOOTING, now)
        else:
            self._set_state(Presence.ONLINE, now)

    def forget_claims(self) -> None:
        """Forget the claims from the earlier topic, after the topic has changed: they may be another client's."""
        self.claims = self.last_status = self.device_id = self.last_error = self.last_error_at = None
        self.error_count = 0
        self.revision += 1

    def apply_retained_status(self, status: Status) -> bool:
        """Apply a retained message, which never brings a device online; True when the state changed."""
        if self.last_message_at is not None or Source.RECORD in self.evidence or status.state is Announced.OFFLINE:
            return False
        self.claims = status
        self.device_id = self.device_id or status.device_id
        self.is_camera = True
        self.revision += 1
        return self.state is Presence.OFFLINE and self._set_state(Presence.CLAIMED, NEVER)

    def add_sighting(self, sighting: Sighting) -> None:
        """Add evidence of a source other than MQTT; `expire` derives the state from it."""
        evidence = self.evidence.get(sighting.source)
        if evidence is None:
            evidence = self.evidence[sighting.source] = Evidence(
                sighting.source, first_at=sighting.at, last_at=sighting.at
            )
        evidence.update(sighting)
        self.revision += 1

    def expire(self, windows: Windows, now: float) -> bool:
        """Derive the state from evidence and silence; True when the shown state changed."""
        if now < self.next_change_at and self.evaluated == (self.revision, windows):
            return False  # nothing to do; a shortcut, as thousands of devices are checked every second
        before = self.shown
        if self.unstable:
            self.interruptions.settle(now)
            self.revision += 1  # the text of the interruptions changes with time
        self._resolve_leaving(now)
        state = self._by_evidence(windows, now)
        if state is not None:
            self._set_state(state, now)
        self.evaluated, self.next_change_at = (self.revision, windows), self._next_change_at(windows, now)
        return self.shown is not before

    def _next_change_at(self, windows: Windows, now: float) -> float:
        """The next time at which silence alone can change the state."""
        deadlines = [
            evidence.alive_at + window
            for evidence in self.evidence.values()
            for window in (windows.idle(evidence.source), windows.offline(evidence.source))
        ]
        deadlines.append(self.interruptions.next_change_at(now))
        if self.leaving_at is not None:
            deadlines.append(self.leaving_at + LEAVING_S)
        return min((deadline for deadline in deadlines if deadline > now), default=float("inf"))

    def _by_evidence(self, windows: Windows, now: float) -> Presence | None:
        """The state that the evidence supports; None if the state stays as it is."""
        is_present = is_idle = False
        for evidence in self.evidence.values():
            if evidence.alive_at <= self.ignore_evidence_until or (
                evidence.source is Source.MQTT and not self.in_mqtt_session
            ):
                continue
            age = now - evidence.alive_at
            if age < windows.idle(evidence.source):
                # A rebooting device is back when it reports so by MQTT, or is seen REBOOT_S after the reboot began.
                is_back = self.state is not Presence.REBOOTING or evidence.alive_at > self.rebooting_since + REBOOT_S
                is_present, is_idle = is_present or is_back, is_idle or not is_back
            elif age < windows.offline(evidence.source):
                is_idle = True
        if is_present:
            return Presence.ONLINE
        if is_idle:
            # Old evidence keeps a device idle but does not bring it back from offline.
            return Presence.IDLE if self.state is Presence.ONLINE else None
        return None if self.state is Presence.CLAIMED else Presence.OFFLINE

    @property
    def in_mqtt_session(self) -> bool:
        """Whether its MQTT session is open: no last will that counts followed its last live message."""
        return self.last_message_at is not None and self.last_message_at > self.mqtt_session_ended_at

    def _is_seen_by_others(self, now: float) -> bool:
        """Whether a source other than MQTT proved it alive within RECENTLY_SEEN_S, and it has an address to probe."""
        others = [
            evidence.alive_at
            for evidence in self.evidence.values()
            if evidence.source not in (Source.MQTT, Source.RECORD)
        ]
        return self.address is not None and max(others, default=NEVER) > now - RECENTLY_SEEN_S

    @property
    def is_leaving(self) -> bool:
        """Whether a last will was received and nothing has proved it alive since."""
        return self.leaving_at is not None and (self.alive_at or NEVER) <= self.leaving_at

    def _resolve_leaving(self, now: float) -> None:
        """LEAVING_S after a last will, ignore the evidence from before it, unless the device was seen since."""
        if self.leaving_at is None:
            return
        if not self.is_leaving:
            self.leaving_at = None
        elif now - self.leaving_at >= LEAVING_S:
            self.ignore_evidence_until, self.leaving_at = self.leaving_at, None

    def _starts_mqtt_session(self, status: Status) -> bool:
        if not self.in_mqtt_session or self.state not in (Presence.ONLINE, Presence.IDLE):
            return True
        before = self.claims.uptime_s if self.claims else None
        return before is not None and status.uptime_s is not None and status.uptime_s < before

    def _is_stale_will(self, now: float) -> bool:
        # The last will of a replaced session: the broker detected late that the old connection was dead.
        is_stale = self.replaced_open_mqtt_session and now - self.mqtt_session_since < STALE_WILL_WINDOW_S
        self.replaced_open_mqtt_session = False if is_stale else self.replaced_open_mqtt_session
        return is_stale

    def _set_state(self, state: Presence, now: float) -> bool:
        """Set the state; True if the published state changed."""
        before = self.shown
        if state is not self.state:
            if state is Presence.OFFLINE and self.state is not Presence.CLAIMED:
                self._interrupted(Interruption.OFFLINE, now)
            self.state = state
            self.revision += 1
        return self.shown is not before

    def _is_unseen_session(self, now: float) -> bool:
        """Whether a last will, received now, ends a session of which no message was received.

        A second one within LEAVING_S is taken for a repetition.
        """
        is_ended = self.last_message_at is not None and not self.in_mqtt_session
        return is_ended and now - self.mqtt_session_ended_at >= LEAVING_S

    def _record_session_start(self, status: Status, now: float) -> None:
        """Record the interruption before a session that is not the first one."""
        if self.last_message_at is None or status.state is Announced.REBOOTING:
            return
        if now < self.restart_expected_until:
            self.restart_expected_until = NEVER
            return
        before, uptime_s = self.claims.uptime_s if self.claims else None, status.uptime_s
        # If only the connection was lost, the uptime has grown by the time that has passed since the last message.
        # Half of that time is enough, because messages may be delayed.
        is_same_boot = (
            before is not None and uptime_s is not None and uptime_s - before >= (now - self.last_message_at) / 2
        )
        if self.state is not Presence.OFFLINE:
            self._interrupted(Interruption.SESSION_LOST if is_same_boot else Interruption.RESTART, now)
        elif not is_same_boot and (not self.in_mqtt_session or (before is not None and uptime_s is not None)):
            self.interruptions.confirm_restart()

    def _interrupted(self, kind: Interruption, now: float) -> None:
        if now < self.restart_expected_until:
            return
        self.interruptions.add(kind, now)
        self.revision += 1


def is_likely_camera(device: Device, *, espressif: bool) -> bool:
    """Whether a device is probably a camera: by its messages, an Espressif chip, or a typical host name."""
    names = (evidence.host_name for evidence in device.evidence.values() if evidence.host_name)
    return device.is_camera or espressif or any(_CAMERA_NAME.search(name) for name in names)
