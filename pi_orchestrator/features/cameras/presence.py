"""Presence of cameras: takes MQTT status messages, expires silent devices, and stores changes.

A status message is parsed, assigned to one MAC, and applied to the registry, which also holds the evidence of the
other sources. A change of state is stored within a second. Times of registered cameras are stored once a minute in
one transaction, so that regular messages cause few writes to the SD card.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import FieldError, StorageError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.events import CameraSeen, MacContradicted, OnboardingEnabled
from pi_orchestrator.core.ipv4 import parse_ipv4
from pi_orchestrator.core.logging import get_logger, mask_text
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.features.cameras import store as camera_store
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.change_feed import ChangeFeed
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.cameras.senders import Senders
from pi_orchestrator.features.cameras.topic_check import TopicCheck
from pi_orchestrator.features.devices.best_address import best_address
from pi_orchestrator.features.devices.changes import Change
from pi_orchestrator.features.devices.model import PRESENT_STATES, Device, Presence
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.status_message import (
    Announced,
    MacContradictionError,
    Status,
    is_plain_birth,
    parse_status,
    plain_will,
)
from pi_orchestrator.features.devices.unreadable import UnreadableMessages
from pi_orchestrator.features.devices.views import last_seen
from pi_orchestrator.net.kernel.neighbours import NeighbourTable
from pi_orchestrator.storage import event_store
from pi_orchestrator.storage.database import Database, Tx

TICK_S = 1.0
FLUSH_S = 60.0
CONFIRM_S = 5.0
MAX_UNRESOLVED = 256
UNRESOLVED_FOR_S = 90.0
"""How long a live message waits until the MAC of its device id is known; a retained one has no time limit."""
WITHHELD = "withheld: the camera has received a password, which its error text may repeat"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Unresolved:
    """A message with a device id whose MAC is not known yet; `at` is when it was received, monotonic."""

    status: Status
    retained: bool
    at: float


class PresenceWorker:
    """`on_message` applies status messages; `run` expires silent devices and stores changes."""

    def __init__(
        self,
        *,
        ap_subnet: IPv4Network,
        clock: Clock,
        bus: EventBus,
        database: Database,
        cache: CameraCache,
        registry: DeviceRegistry,
        unreadable: UnreadableMessages,
        neighbours: NeighbourTable,
        may_repeat_secret: Callable[[Mac], bool],
        topic_check: TopicCheck,
    ) -> None:
        self._ap_subnet = ap_subnet
        self._clock = clock
        self._bus = bus
        self._database = database
        self._cache = cache
        self._registry = registry
        self._unreadable = unreadable
        self._neighbours = neighbours
        self._may_repeat_secret = may_repeat_secret
        self._topic_check = topic_check
        self._senders = Senders(clock=clock, cache=cache, registry=registry)
        self._unresolved: BoundedDict[str, _Unresolved] = BoundedDict(MAX_UNRESOLVED, on_drop=self._count_dropped)
        self._withheld: dict[Mac, int] = {}
        self._changes = ChangeFeed(clock=clock, cache=cache, registry=registry)
        self._confirmed_at = float("-inf")
        self._flushed_at = clock.monotonic()
        self._stored_alive: dict[Mac, float] = {}
        self.messages: Counter[str] = Counter()

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Apply one MQTT status message; if it cannot be read, store why."""
        if will := plain_will(topic, payload):
            self._apply_plain_will(will, retained)
            return
        try:
            status = parse_status(topic, payload)
        except FieldError as error:
            contradicts = isinstance(error, MacContradictionError)
            self.messages["contradiction" if contradicts else "invalid"] += 1
            if isinstance(error, MacContradictionError) and error.topic_mac:
                self._bus.publish(MacContradicted(error.topic_mac, str(error)))
            self._keep_reason(topic, payload, str(error))
            return
        self.messages["retained" if retained else "live"] += 1
        if not status.has_mac and self._senders.is_ambiguous(status):
            self.messages["ambiguous"] += 1
            return
        mac = self._senders.sender(status)
        self._unreadable.clear(topic, mac)
        if mac is None:
            self._postpone(status, retained)
        else:
            self._apply(mac, status, retained)

    def _apply_plain_will(self, will: Status, retained: bool) -> None:
        """Apply a last will of plain text to the device known under its topic; it admits no device."""
        self.messages["retained" if retained else "live"] += 1
        if retained:
            return
        if self._senders.is_ambiguous(will):
            self.messages["ambiguous"] += 1
            return
        self._unresolved.pop(will.topic_id, None)  # the waiting message is older than the last will
        mac = self._senders.sender(will)
        if mac and self._registry.get(mac):
            self._apply_live(mac, will)

    def _keep_reason(self, topic: str, payload: bytes, reason: str) -> None:
        log.debug("status message dropped", topic=topic[:80], reason=reason)
        if not payload:
            return  # the deletion of a retained message
        mac = self._senders.of_unreadable(topic, payload)
        now, is_birth = self._clock.monotonic(), is_plain_birth(payload)
        self._unreadable.add(topic, payload, reason, mac=mac, now=now, quiet=is_birth)

    async def load(self) -> None:
        """Restore stored presence; a last-seen time counts as evidence only if it is from this boot."""
        now = self._clock.monotonic()
        for mac, state, boot_id, monotonic in await camera_store.load_presence(self._database):
            this_boot = boot_id == camera_store.short_boot(self._clock.boot_id)
            self._registry.restore(mac, Presence(state), alive_at=monotonic if this_boot else None, now=now)

    async def run(self, beat: Beat) -> None:
        """Tick until cancelled, then store what is not stored yet."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._announce_on_enable(), name="presence-announce")
                tasks.create_task(self._topic_check.run(), name="presence-topics")
                while True:
                    beat()
                    await self.tick()
                    await self._clock.sleep(TICK_S)
        finally:
            await self._flush(self._clock.monotonic(), everything=True)

    async def tick(self) -> None:
        """One pass: expire silent devices, confirm claims, store changes."""
        now = self._clock.monotonic()
        self._registry.expire(now)
        if now - self._confirmed_at >= CONFIRM_S:
            self._confirmed_at = now
            await self._confirm_claims()
            await self._resolve_device_ids()
        for mac in self._changes.collect():
            if (device := self._registry.get(mac)) and device.last_message_at is None:
                self._announce(device, appeared=True)
        await self._flush(now, everything=now - self._flushed_at >= FLUSH_S)

    def _apply(self, mac: Mac, status: Status, retained: bool) -> None:
        status = self._without_secrets(mac, status)
        if retained:
            device = self._registry.apply_retained_status(mac, status)
            is_present = device.state in (Presence.ONLINE, Presence.IDLE)
            if is_present and device.last_message_at is None and mac not in self._cache:
                self._announce(device, appeared=True)  # it was proved present before the retained message arrived
        else:
            device_before = self._registry.get(mac)
            before = device_before.state if device_before else Presence.OFFLINE
            applied = self._apply_live(mac, status)
            if applied is None:
                return
            device = applied
            # A camera that reports a reboot is about to disconnect: it is announced when it is back.
            if status.state is not Announced.OFFLINE and device.state is not Presence.REBOOTING:
                appeared = before not in (Presence.ONLINE, Presence.IDLE)
                if appeared or mac not in self._cache:
                    self._announce(device, appeared=appeared)
        for name in (status.device_id, status.topic_id):
            if not name:
                continue
            if name != mac and not try_mac(name):
                self._registry.learn_device_id(name, mac)
            if not retained:
                self._unresolved.pop(name, None)  # the waiting message is older than this one

    def _apply_live(self, mac: Mac, status: Status) -> Device | None:
        """Apply a live message to the registry; None if the camera has established another topic."""
        camera, now = self._cache.get(mac), self._clock.monotonic()
        device = self._registry.apply_live_status(
            mac,
            status,
            now,
            recorded_id=camera.device_id if camera else None,
            recorded_topic=camera.topic if camera else None,
        )
        self.messages["second_topic"] += device is None
        return device

    def _without_secrets(self, mac: Mac, status: Status) -> Status:
        """The message without secrets in `last_error`: configured secrets are masked.

        While the camera may repeat a password that it received from a session, the whole text is withheld. After the
        password is erased, the text can no longer be compared with it, so a withheld text stays withheld as long as
        the camera repeats it.
        """
        if status.last_error is None:
            return status
        text = hash(status.last_error)  # randomly keyed, valid in this process only
        if not self._may_repeat_secret(mac) and self._withheld.get(mac) != text:
            self._withheld.pop(mac, None)
            return replace(status, last_error=mask_text(status.last_error))
        self._withheld[mac] = text
        return replace(status, last_error=WITHHELD)

    def _announce(self, device: Device, *, appeared: bool) -> None:
        claims = device.claims
        self._bus.publish(
            CameraSeen(
                mac=device.mac,
                ip=best_address(self._registry, device.mac),
                device_id=device.device_id,
                firmware_version=claims.firmware_version if claims else None,
                appeared=appeared,
                trigger="mqtt" if claims else "scan",
            )
        )

    def _postpone(self, status: Status, retained: bool) -> None:
        self._unresolved[status.topic_id] = _Unresolved(status, retained, self._clock.monotonic())

    def _count_dropped(self, _name: str, _message: _Unresolved) -> None:
        self.messages["unresolved"] += 1

    async def _resolve_device_ids(self) -> None:
        """Find the MACs of unresolved device ids by the addresses that their messages claim."""
        for name, message in list(self._unresolved.items()):
            if not message.retained and self._clock.monotonic() - message.at > UNRESOLVED_FOR_S:
                self._unresolved.pop(name, None)  # the address may belong to another camera by now
                continue
            mac = self._registry.mac_of(name)
            if mac is None and message.status.ip:
                neighbour = await self._neighbours.at(message.status.ip)
                mac = neighbour.mac if neighbour else None
            if mac and self._unresolved.get(name) is message:  # no newer message arrived during the query
                self._unresolved.pop(name, None)
                self._apply(mac, message.status, message.retained)

    async def _confirm_claims(self) -> None:
        """Confirm retained claims for which the kernel has fresh proof of the MAC at the claimed address."""
        for device in self._registry:
            claims = device.claims
            if device.state is not Presence.CLAIMED or claims is None or claims.ip is None:
                continue
            neighbour = await self._neighbours.at(claims.ip)
            if neighbour and neighbour.fresh and neighbour.mac == device.mac:
                now, ip = self._clock.monotonic(), parse_ipv4(claims.ip)
                sighting = Sighting(
                    device.mac, Source.NEIGHBOUR, now, ip, binds=True, detail="the kernel has fresh proof"
                )
                self._registry.add_sighting(sighting, now)

    async def _announce_on_enable(self) -> None:
        """Announce every present unregistered camera again, each time onboarding is enabled."""
        await self._bus.follow(
            OnboardingEnabled,
            handle=lambda _: self._announce_unregistered(),
            pause=lambda: self._clock.sleep(TICK_S),
        )

    def _announce_unregistered(self) -> None:
        self._registry.expire(self._clock.monotonic())
        for device in self._registry:
            is_present = device.shown in PRESENT_STATES and device.state is not Presence.REBOOTING
            if is_present and device.is_camera and device.mac not in self._cache:
                self._announce(device, appeared=False)

    async def _flush(self, now: float, *, everything: bool) -> None:
        """Store the changes; with `everything` also the last proof of life of cameras whose state did not change."""
        self._changes.collect()  # the changes since the last tick, if the daemon stops now
        changed_macs = self._changes.changed()
        if everything:
            self._flushed_at = now
            changed_macs |= {camera.mac for camera in self._cache if self._has_new_evidence(camera.mac)}
        devices = [device for mac in sorted(changed_macs) if mac in self._cache and (device := self._registry.get(mac))]
        updates = [camera for device in devices if (camera := self._with_changes(device))]
        times = {device.mac: alive_at for device in devices if (alive_at := device.alive_at) is not None}

        async def job(tx: Tx, states: dict[Mac, Presence], other_changes: list[Change]) -> None:
            await camera_store.save_presence(
                tx,
                [
                    (device.mac, device.state, seen, self._clock.boot_id, times[device.mac])
                    for device in devices
                    if device.mac in times and (seen := last_seen(device, self._clock))
                ],
            )
            await camera_store.save_reported(tx, updates)
            tx.after_commit(lambda: self._update_cache(updates))
            for event in self._changes.events(states, other_changes):
                await event_store.append(tx, event)

        try:
            with self._changes.taken() as (states, other_changes):
                if not devices and not other_changes:
                    return
                await self._database.write(lambda tx: job(tx, states, other_changes))
        except StorageError as error:
            log.warning("presence not stored yet", reason=error.message, details=error.details)
            return
        self._stored_alive |= times

    def _update_cache(self, updates: list[Camera]) -> None:
        """Put the stored reported values into the cached cameras, except those that were removed meanwhile."""
        for new in updates:
            if camera := self._cache.get(new.mac):
                self._cache.put(
                    replace(camera, ip_address=new.ip_address, firmware_version=new.firmware_version, topic=new.topic)
                )

    def _has_new_evidence(self, mac: Mac) -> bool:
        device = self._registry.get(mac)
        return bool(device and device.alive_at is not None and device.alive_at != self._stored_alive.get(mac))

    def _with_changes(self, device: Device) -> Camera | None:
        """The camera with its current address, firmware and topic; None if none of them has changed."""
        camera, claims = self._cache.get(device.mac), device.claims
        if camera is None or (claims is None and device.address is None):
            return None
        firmware = (claims.firmware_version if claims else None) or camera.firmware_version
        ip = best_address(
            self._registry,
            device.mac,
            recorded=camera.ip_address,
            live_only=True,
            within=self._ap_subnet,
            not_held_by_other=True,
        )
        topic = self._registry.names.topic_to_record(device.mac) or camera.topic
        if (ip, firmware, topic) == (camera.ip_address, camera.firmware_version, camera.topic):
            return None
        return replace(camera, ip_address=ip, firmware_version=firmware, topic=topic)
