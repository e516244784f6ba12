"""The table of all devices, keyed by MAC.

Every source reports here. A sighted device is admitted, its evidence stored, its state derived. `addresses.py` holds
which device answers for which address, `names.py` which one uses which topic and device id, `changes.py` the changes.

The table is bounded. Registered cameras are never evicted. The other devices are evicted by rank (`_Rank`); within a
rank, the one unseen for the longest time goes first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container, Iterator
from enum import IntEnum
from ipaddress import IPv4Address

from pi_orchestrator.core.mac import Mac, same_chip_macs
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.features.devices.addresses import AddressTable
from pi_orchestrator.features.devices.changes import Change, ChangeLog, Kind
from pi_orchestrator.features.devices.fingerprint import UNKNOWN, Fingerprint
from pi_orchestrator.features.devices.model import NEVER, Device, Evidence, Presence, Windows
from pi_orchestrator.features.devices.names import NameTable
from pi_orchestrator.features.devices.status_message import Announced, Status

MAX_DEVICE_IDS = 4
FORGET_AFTER_S = 86400.0
CLEANUP_S = 10.0
_CONFIRMING = frozenset({Source.STATION, Source.PROBE, Source.RECORD})
"""Sources that confirm a device, each alone."""


class _Rank(IntEnum):
    """Order of eviction; of the groups MESSAGES and ANSWERED, the larger one loses a device first.

    Messages come from anybody who reaches the broker, ARP answers from anybody on the camera network: neither kind of
    invented devices displaces the other kind. A device that does both is confirmed; one that does neither (for example,
    that only has a lease) is only hinted.
    """

    HINTED = 0
    MESSAGES = 1
    ANSWERED = 2
    CONFIRMED = 3


class DeviceRegistry:
    """All devices. Sources report by `apply_*`, `add_sighting` and `resolve_probe`; `expire` updates silent devices."""

    def __init__(self, *, registered: Container[Mac], max_devices: int, windows: Windows) -> None:
        self._registered = registered
        self.max_devices = max_devices
        self.windows = windows
        self._devices: dict[Mac, Device] = {}
        self._queues: dict[_Rank, OrderedDict[Mac, None]] = {rank: OrderedDict() for rank in _Rank}
        self._macs_by_id: dict[str, Mac] = {}
        self._device_ids: dict[Mac, list[str]] = {}
        self._changes = ChangeLog(registered=registered)
        self.addresses = AddressTable(devices=self._devices, registered=registered, changes=self._changes)
        self.names = NameTable(changes=self._changes, registered=registered)
        self._cleaned_up_at = NEVER
        self.evicted = 0
        self.restarts = 0
        self.revision = 0

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[Device]:
        return iter(tuple(self._devices.values()))

    def get(self, mac: Mac) -> Device | None:
        """The device of a MAC."""
        return self._devices.get(mac)

    def mac_of(self, device_id: str) -> Mac | None:
        """The MAC of the device that uses this device id, or was the first to announce it.

        None if no device has announced the id, and while several use it.
        """
        if self.names.sharers(device_id):
            return None
        return self.names.sole_user(device_id) or self._macs_by_id.get(device_id)

    def same_chip_candidates(self, mac: Mac) -> list[Mac]:
        """Devices in the table whose MAC is so close to `mac` that both may belong to one ESP32."""
        return [other for other in same_chip_macs(mac) if other in self._devices]

    @property
    def counts(self) -> Counter[Kind]:
        """Number of changes by kind since the start."""
        return self._changes.counts

    def drain(self) -> list[Change]:
        """Return the changes since the last call, in order."""
        return self._changes.drain()

    # Addresses.

    def claimants(self, address: IPv4Address, *, since: float = NEVER) -> frozenset[Mac]:
        """Devices that answered for an address at or after `since`; for a contested address, all in the conflict."""
        return self.addresses.claimants(address, since=since)

    def holder(self, address: IPv4Address) -> tuple[Mac, float] | None:
        """The only device that answers for an address, and the time of its last answer; None if none or several do."""
        return self.addresses.holder(address)

    def address_of(self, mac: Mac) -> IPv4Address | None:
        """The proven address of a device; None if there is none or it is contested."""
        return self.addresses.address_of(mac)

    def is_proven(self, mac: Mac, now: float) -> bool:
        """Whether a device has answered for this MAC by ARP or HTTP, or the access point lists the MAC as connected.

        A message proves none of that: anybody who reaches the broker can send it.
        """
        device = self._devices.get(mac)
        station = device.evidence.get(Source.STATION) if device else None
        if station and now - station.alive_at < self.windows.offline(Source.STATION):
            return True
        return self.addresses.address_of(mac) is not None

    def conflicts(self) -> dict[IPv4Address, frozenset[Mac]]:
        """The contested addresses, each with the devices that answer for it."""
        return self.addresses.conflicts()

    def proven_since(self, since: float) -> set[Mac]:
        """Devices whose answer for an address was reported at or after `since` (monotonic); the answer may be older."""
        return self.addresses.proven_since(since)

    @property
    def probe_requests(self) -> OrderedDict[IPv4Address, None]:
        """The addresses to be probed, oldest request first."""
        return self.addresses.probe_requests

    def request_probe(self, address: IPv4Address) -> None:
        """Request a probe that finds which device has this address."""
        self.addresses.request_probe(address)

    def resolve_probe(self, address: IPv4Address, answered: frozenset[Mac], now: float) -> None:
        """Apply a finished probe: `answered` are the devices that answered; add their sightings before."""
        if self.addresses.resolve_probe(address, answered, now):
            self.revision += 1
        # A device that is leaving gave its answer before its MQTT last will was received. The answer does not prove
        # that it is still present: probe again.
        devices = (self._devices[mac] for mac in answered if mac in self._devices)
        if any(device.address == address and device.is_leaving for device in devices):
            self.request_probe(address)

    # Reports of the sources.

    def apply_live_status(
        self,
        mac: Mac,
        status: Status,
        now: float,
        *,
        recorded_id: str | None = None,
        recorded_topic: str | None = None,
    ) -> Device | None:
        """Apply a live MQTT message of a device; admits an unknown device.

        None if it is not applied, because the device has established another topic. `recorded_id` and
        `recorded_topic` are its device id and its established topic in the record.
        """
        silent_after_s = self.windows.offline(Source.MQTT)
        names_before, topic_before = self.names.revision, self.names.topic_of(mac)
        is_own = self.names.receive(
            mac,
            status,
            now,
            silent_after_s=silent_after_s,
            recorded_id=recorded_id,
            recorded_topic=recorded_topic,
        )
        self.revision += self.names.revision != names_before
        if not is_own:
            return None
        device = self._devices.get(mac) or self._admit(mac)
        if topic_before not in (None, self.names.topic_of(mac)):
            device.forget_claims()
        before, was_found, restarts = device.shown, device.alive_at is not None, device.interruptions.restarts
        is_changed = device.apply_live_status(status, now)
        self.restarts += device.interruptions.restarts - restarts
        if is_changed:
            self._add_state_change(device, before)
        if status.state is Announced.OFFLINE and device.mqtt_session_ended_at == now:
            self.names.end_session(mac, now)
        if device.address and device.leaving_at == now:
            self.request_probe(
                device.address
            )  # its MQTT session ended; a probe shows whether the device is still present
        if not was_found and device.alive_at is not None:
            self._add_found(device)
        self._touch(device)
        self.revision += 1
        return device

    def confirm_device_id(self, mac: Mac, device_id: str | None, now: float) -> bool:
        """Apply the device id that a camera has sent by HTTP from its proven address; True if its topic changed."""
        has_changed = self.names.confirm(mac, device_id, now)
        if has_changed:
            self._devices[mac].forget_claims()
            self.revision += 1
        return has_changed

    def apply_retained_status(self, mac: Mac, status: Status) -> Device:
        """Apply a retained MQTT message about a device; admits an unknown device."""
        device = self._devices.get(mac) or self._admit(mac)
        before = device.shown
        if device.apply_retained_status(status):
            self._add_state_change(device, before)
        self.revision += 1
        return device

    def add_sighting(self, sighting: Sighting, now: float) -> Device | None:
        """Add evidence of a source other than MQTT; None if it is too weak to admit an unknown device."""
        device = self._devices.get(sighting.mac)
        is_new = device is None
        if device is None:
            if sighting.source is Source.ARP and not sighting.binds:
                # Any host can send a frame with any MAC: an unknown device must answer a probe first.
                if sighting.ip:
                    self.request_probe(sighting.ip)
                return None
            device = self._admit(sighting.mac)
        was_found = device.alive_at is not None
        device.add_sighting(sighting)
        if sighting.ip and sighting.binds:
            self.addresses.bind(device, sighting.ip, at=sighting.at, now=now)
        elif sighting.ip and sighting.alive and sighting.ip not in device.addresses:
            self.request_probe(sighting.ip)
        self._expire(device, now)
        if not was_found and device.alive_at is not None:
            self._add_found(device)
        if sighting.alive or is_new:
            self._touch(device)
        self.revision += 1
        return device

    def expect_restart(self, mac: Mac, until: float) -> float:
        """Do not count a restart of a device before `until` as an interruption; returns the previous value."""
        device = self._devices.get(mac)
        if device is None:
            return NEVER
        before, device.restart_expected_until = device.restart_expected_until, until
        return before

    def apply_http_fingerprint(self, mac: Mac, fingerprint: Fingerprint) -> None:
        """Store how a device has answered over HTTP; call it only after it was proved that this device answered."""
        device = self._devices.get(mac)
        if device is not None and device.http_fingerprint != fingerprint:
            device.http_fingerprint = fingerprint
            self.revision += 1

    def fingerprint_of(self, mac: Mac) -> Fingerprint:
        """How a device answers; unknown for a device that is not in the table."""
        device = self._devices.get(mac)
        return device.fingerprint if device else UNKNOWN

    def restore(self, mac: Mac, state: Presence, *, alive_at: float | None, now: float) -> None:
        """Admit a registered camera after a restart; it keeps its stored `state` if `alive_at` is recent.

        `alive_at` is None if the camera was last alive in an earlier boot.
        """
        device = self._devices.get(mac) or self._admit(mac)
        if alive_at is None or state not in (Presence.ONLINE, Presence.IDLE):
            return
        device.evidence[Source.RECORD] = Evidence(Source.RECORD, alive_at, alive_at, alive_at)
        device.state = Presence.ONLINE
        device.expire(self.windows, now)
        if device.state is not state:
            self._add_state_change(device, state)

    def release(self, mac: Mac) -> None:
        """Treat a camera like any other device after its registration was removed: it can be evicted from now on."""
        device = self._devices.get(mac)
        if device is None:
            return
        if device.evidence or device.claims:
            self._touch(device)
        else:
            self._forget(mac)  # it was in the table only because it was registered

    def learn_device_id(self, device_id: str, mac: Mac) -> None:
        """Map a device id to a MAC, unless it is mapped already; only the first `MAX_DEVICE_IDS` ids of a MAC."""
        ids = self._device_ids.setdefault(mac, [])
        if device_id not in self._macs_by_id and len(ids) < MAX_DEVICE_IDS:
            ids.append(device_id)
            self._macs_by_id[device_id] = mac

    # Expiry.

    def expire(self, now: float) -> None:
        """Update the state of silent devices, and remove unregistered ones that were offline for FORGET_AFTER_S."""
        for device in self:
            self._expire(device, now)
        names_before = self.names.revision
        self.names.expire(now, silent_after_s=self.windows.offline(Source.MQTT))
        self.revision += self.names.revision != names_before
        if now - self._cleaned_up_at >= CLEANUP_S:
            self._cleaned_up_at = now
            self._clean_up(now)

    def _expire(self, device: Device, now: float) -> None:
        before, revision = device.shown, device.revision
        is_changed = device.expire(self.windows, now)
        if device.revision != revision:
            self.revision += 1
        if is_changed:
            self._add_state_change(device, before)

    def _clean_up(self, now: float) -> None:
        for device in self:
            self.addresses.drop_stale(device)
            if device.state is Presence.OFFLINE and device.mac not in self._registered:
                last = max(
                    (evidence.last_at for evidence in device.evidence.values()), default=device.ignore_evidence_until
                )
                if last != NEVER and now - last > FORGET_AFTER_S:
                    self._forget(device.mac)

    def _add_state_change(self, device: Device, before: Presence) -> None:
        registered = device.mac in self._registered
        self._changes.add(Change(Kind.STATE, device.mac, before=before, after=device.shown, registered=registered))

    def _add_found(self, device: Device) -> None:
        if device.mac not in self._registered:
            self._changes.add(Change(Kind.FOUND, device.mac, ip=device.address))

    # Bounds of the table.

    def _admit(self, mac: Mac) -> Device:
        while len(self._devices) >= self.max_devices and self._evict():
            pass  # the limit may have been lowered
        device = self._devices[mac] = Device(mac=mac)
        self._touch(device)
        return device

    def _touch(self, device: Device) -> None:
        """Move a device to the end of the eviction queue of its rank."""
        self._leave_queue(device.mac)
        if device.mac not in self._registered:
            self._queues[_rank(device)][device.mac] = None

    def _leave_queue(self, mac: Mac) -> None:
        for queue in self._queues.values():
            queue.pop(mac, None)

    def _evict(self) -> bool:
        """Remove the first unregistered device in the eviction queues; False if they hold none."""
        hinted, messages, answered, confirmed = self._queues.values()
        middle = (messages, answered) if len(messages) >= len(answered) else (answered, messages)
        for queue in (hinted, *middle, confirmed):
            while queue:
                mac, _ = queue.popitem(last=False)
                if mac not in self._registered:
                    self._forget(mac)
                    self.evicted += 1
                    return True
        return False

    def _forget(self, mac: Mac) -> None:
        self.addresses.forget(self._devices.pop(mac))
        self.names.forget(mac)
        for device_id in self._device_ids.pop(mac, ()):
            del self._macs_by_id[device_id]
        self._leave_queue(mac)
        self.revision += 1


def _rank(device: Device) -> _Rank:
    has_published, has_answered = Source.MQTT in device.evidence, bool(device.addresses)
    if (has_published and has_answered) or not _CONFIRMING.isdisjoint(device.evidence):
        return _Rank.CONFIRMED
    if has_answered:
        return _Rank.ANSWERED
    return _Rank.MESSAGES if has_published else _Rank.HINTED
