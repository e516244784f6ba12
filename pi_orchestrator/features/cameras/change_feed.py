"""Changes of devices as events for the event log, rate-limited for devices that are not registered cameras."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.events import (
    AddressConflict,
    AnswersForMany,
    CameraStatusChanged,
    ConflictResolved,
    DeviceFlapping,
    DeviceFound,
    DeviceIdConflict,
    DeviceIdConflictResolved,
    DeviceMoved,
    Event,
    MultipleAddresses,
)
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac, is_local
from pi_orchestrator.core.token_bucket import TokenBucket
from pi_orchestrator.core.write_behind import PendingWrites
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.model import CameraStatus, camera_status
from pi_orchestrator.features.devices.changes import Change, Kind
from pi_orchestrator.features.devices.model import NEVER, Device, Presence
from pi_orchestrator.features.devices.registry import DeviceRegistry

UNREGISTERED_BURST = 300
UNREGISTERED_PER_S = 0.2
"""Any host can fake devices, so events of unregistered devices are limited; those of registered cameras are not."""

LOG_INTERVAL_S = 60.0
"""Minimum time between two log lines of conflicts."""
log = get_logger(__name__)

_API_STATUS = {Presence.CLAIMED: CameraStatus.CONNECTING, Presence.FLAPPING: CameraStatus.ERROR}
"""The API's name of a state, where it differs."""


class ChangeFeed:
    """Collects changes and makes events of them.

    A camera gets at most one status event per call of `events`: from its state in the last stored event to its present
    one, without the states between them, and none if the two are equal.
    """

    def __init__(self, *, clock: Clock, cache: CameraCache, registry: DeviceRegistry) -> None:
        self._clock = clock
        self._cache = cache
        self._registry = registry
        self._states: dict[Mac, Presence] = {}
        # No limit on additions: the registry bounds its changes, and a write follows each `collect`. The limit is for
        # changes that return because a write failed.
        self._others: PendingWrites[Change] = PendingWrites(
            UNREGISTERED_BURST, rank=self._is_of_camera, limit_additions=False
        )
        self._budget = TokenBucket(capacity=UNREGISTERED_BURST, rate=UNREGISTERED_PER_S, now=clock.monotonic())
        self._over_budget = 0
        self._logged_at = NEVER

    @property
    def dropped(self) -> int:
        """Number of changes without an event, because of the limits."""
        return self._over_budget + self._others.dropped

    def _log_conflict(self, change: Change) -> None:
        now = self._clock.monotonic()
        if change.kind is Kind.ID_CONFLICT and now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            log.warning("device id or topic in use by several clients", id=change.device_id, macs=list(change.macs))

    def collect(self) -> list[Mac]:
        """Take the changes since the last call; returns the devices whose retained claim has been confirmed."""
        confirmed = []
        for change in self._registry.drain():
            if change.kind is not Kind.STATE or change.before is None:
                self._take_other(change)
                continue
            if change.registered:
                self._states.setdefault(change.mac, change.before)
            elif change.after is Presence.FLAPPING and (device := self._registry.get(change.mac)) and device.is_camera:
                self._take_other(change)
            if change.before is Presence.CLAIMED and change.after is Presence.ONLINE:
                confirmed.append(change.mac)
        return confirmed

    def changed(self) -> set[Mac]:
        """The registered cameras with a collected change of state that was not taken (`taken`) yet."""
        return set(self._states)

    @contextmanager
    def taken(self) -> Iterator[tuple[dict[Mac, Presence], list[Change]]]:
        """Take all collected changes for a block that stores them; a StorageError in the block restores them."""
        states, self._states = self._states, {}
        try:
            with self._others.taken() as others:
                yield states, others
        except StorageError:
            self._states |= states  # the next event is compared with the state in the last stored one
            raise

    def events(self, states: dict[Mac, Presence], others: Iterable[Change]) -> list[Event]:
        """Make events of taken changes; `states` are the states of cameras before their changes."""
        events: list[Event] = [event for change in others if (event := self._other_event(change))]
        for mac, before in states.items():
            device = self._registry.get(mac)
            if device is None or device.shown is before:
                continue
            status = camera_status(device=device, registered=True, onboarding=False)
            previous = _API_STATUS.get(before, before).value
            events.append(CameraStatusChanged(mac=mac, status=status.value, previous=previous))
            if device.shown is Presence.FLAPPING:
                events.append(self._flapping(device))
        return events

    def _take_other(self, change: Change) -> None:
        self._log_conflict(change)
        if self._is_of_camera(change) or self._budget.take(self._clock.monotonic()):
            self._others.add(change)
        else:
            self._over_budget += 1

    def _is_of_camera(self, change: Change) -> bool:
        return any(mac in self._cache for mac in (change.mac, *change.macs))

    def _flapping(self, device: Device) -> DeviceFlapping:
        interruptions = device.interruptions
        reason = interruptions.summary(self._clock.monotonic())
        return DeviceFlapping(mac=device.mac, drops=len(interruptions), reason=reason)

    def _other_event(self, change: Change) -> Event | None:
        mac, ip = change.mac, str(change.ip) if change.ip else None
        macs = list(change.macs) or None
        ips = [str(address) for address in change.ips] or None
        match change.kind:
            case Kind.FOUND:
                return DeviceFound(
                    mac=mac, ip=ip, locally_administered=is_local(mac), near=self._registry.same_chip_candidates(mac)
                )
            case Kind.MOVED:
                previous = str(change.previous_ip) if change.previous_ip else None
                return DeviceMoved(mac=mac, ip=ip, previous_ip=previous)
            case Kind.ADDRESSES:
                return MultipleAddresses(mac=mac, ip=ip, ips=ips)
            case Kind.CONFLICT:
                return AddressConflict(mac=mac, ip=ip, macs=macs)
            case Kind.CONFLICT_OVER:
                return ConflictResolved(mac=mac, ip=ip, macs=macs)
            case Kind.PROXY:
                return AnswersForMany(mac=mac, ip=ip, ips=ips)
            case Kind.ID_CONFLICT:
                return DeviceIdConflict(mac=mac, id=change.device_id or "", topic=change.topic, macs=list(change.macs))
            case Kind.ID_CONFLICT_OVER:
                return DeviceIdConflictResolved(
                    mac=mac, id=change.device_id or "", topic=change.topic, macs=list(change.macs)
                )
            case Kind.STATE:  # of an unregistered, unstable camera; the states of registered ones are in `_states`
                device = self._registry.get(mac)
                return self._flapping(device) if device and device.unstable else None
