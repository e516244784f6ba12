"""Presence: who is here, by MQTT.

Every status message ends here: parsed, bound to one MAC whatever it is spelled like, and applied to that
device's state machine. The table lives in memory. Registered cameras' times are stored once a minute in one
transaction, a change of state within a second; what a camera says all day costs the card nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import IPv4Network

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.address import parse_ipv4
from pi_orchestrator.domain.camera import Camera, CameraStatus, camera_status
from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.presence import Device, Presence, Windows
from pi_orchestrator.domain.status import Announced, MacContradictionError, Status, parse_status
from pi_orchestrator.errors import FieldError, StorageError
from pi_orchestrator.events import CameraContradicted, CameraSeen, Event, Hub, Logged
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.settings import CameraSettings
from pi_orchestrator.storage import cameras, event_log
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.supervisor import Beat

TICK_S = 1.0
FLUSH_S = 60.0
CONFIRM_S = 5.0
MAX_UNRESOLVED = 256
UNRESOLVED_FOR_S = 90.0
MAX_NAMES = 4

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Unresolved:
    """A message whose topic gives a device id and whose MAC nobody knows yet."""

    status: Status
    retained: bool
    at: float


class PresenceWorker:
    """The table of devices; `on_message` fills it, `run` lets silence speak and stores."""

    def __init__(
        self,
        *,
        settings: CameraSettings,
        ap_subnet: IPv4Network,
        clock: Clock,
        hub: Hub,
        database: Database,
        roster: Roster,
        neighbours: Neighbours,
    ) -> None:
        self._settings = settings
        self._ap_subnet = ap_subnet
        self._clock = clock
        self._hub = hub
        self._database = database
        self._roster = roster
        self._neighbours = neighbours
        self._devices: OrderedDict[Mac, Device] = OrderedDict()
        self._macs_by_id: dict[str, Mac] = {}
        self._names: dict[Mac, list[str]] = {}
        self._unresolved: OrderedDict[str, _Unresolved] = OrderedDict()
        self._heard: set[Mac] = set()
        self._changed: dict[Mac, Presence] = {}
        self._confirmed_at = float("-inf")
        self._flushed_at = clock.monotonic()
        self.messages: Counter[str] = Counter()
        self.revision = 0

    def reconfigure(self, settings: CameraSettings) -> None:
        """Take new windows and limits."""
        self._settings = settings

    def devices(self) -> Iterator[Device]:
        """Every device in memory, the longest unheard first."""
        return iter(tuple(self._devices.values()))

    @property
    def size(self) -> int:
        """How many devices are in memory."""
        return len(self._devices)

    def get(self, mac: Mac) -> Device | None:
        """The device of a MAC."""
        return self._devices.get(mac)

    def find(self, name: str) -> Mac | None:
        """The MAC that a device id stands for, by what devices have said."""
        return self._macs_by_id.get(name)

    def last_seen(self, device: Device) -> datetime | None:
        """When a device was last heard, by today's wall clock."""
        if device.heard_at is None:
            return None
        return self._clock.wall() - timedelta(seconds=self._clock.monotonic() - device.heard_at)

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Take one MQTT status message; a broken one is counted and dropped."""
        try:
            status = parse_status(topic, payload)
        except FieldError as error:
            contradicts = isinstance(error, MacContradictionError)
            self.messages["contradiction" if contradicts else "invalid"] += 1
            if isinstance(error, MacContradictionError) and error.spoken_for:
                self._hub.publish(CameraContradicted(error.spoken_for, str(error)))
            log.debug("status message dropped", topic=topic[:80], reason=str(error))
            return
        self.messages["retained" if retained else "live"] += 1
        mac = status.mac or self._roster.find(status.topic_id) or self._macs_by_id.get(status.topic_id)
        if mac is None:
            self._postpone(status, retained)
        else:
            self._apply(mac, status, retained)

    async def load(self) -> None:
        """Go on from what was stored: times of this boot still count, older ones only as last seen."""
        for mac, state, boot_id, monotonic in await cameras.load_presence(self._database):
            device = Device(mac=mac)
            if boot_id == cameras.short_boot(self._clock.boot_id) and state in (Presence.ONLINE, Presence.IDLE):
                device.state, device.heard_at = Presence.ONLINE, monotonic
                device.settle(self._windows(), self._clock.monotonic())
                if device.state is not Presence(state):
                    self._note_change(device, Presence(state))
            self._devices[mac] = device

    async def run(self, beat: Beat) -> None:
        """Tick until cancelled; what is not stored then is stored on the way out."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._answer_roll_calls(), name="presence-roll-call")
                while True:
                    beat()
                    await self.tick()
                    await self._clock.sleep(TICK_S)
        finally:
            await self._flush(self._clock.monotonic(), everything=True)

    async def tick(self) -> None:
        """One pass: silences, claims that need proof, and what is due to be stored."""
        now = self._clock.monotonic()
        windows = self._windows()
        for device in self.devices():
            before = device.state
            if device.settle(windows, now):
                self.revision += 1
                self._note_change(device, before)
        if now - self._confirmed_at >= CONFIRM_S:
            self._confirmed_at = now
            await self._confirm_claims()
            await self._resolve()
        await self._flush(now, everything=now - self._flushed_at >= FLUSH_S)

    def _windows(self) -> Windows:
        return Windows(self._settings.idle_after_s, self._settings.offline_after_s)

    def _apply(self, mac: Mac, status: Status, retained: bool) -> None:
        self.revision += 1
        device = self._devices.get(mac) or self._admit(mac)
        before = device.state
        if retained:
            changed = device.claim(status)
        else:
            changed = device.hear(status, self._clock.monotonic())
            if status.state is not Announced.OFFLINE:
                self._devices.move_to_end(mac)
                self._heard.add(mac)
                appeared = before not in (Presence.ONLINE, Presence.IDLE)
                # One that says that it reboots is about to be away: it is announced when it is back.
                if device.state is not Presence.REBOOTING and (appeared or mac not in self._roster):
                    self._announce(device, appeared=appeared)
        for name in (status.device_id, status.topic_id):
            if not name:
                continue
            if name != mac and name not in self._macs_by_id and not try_mac(name):
                self._learn_name(name, mac)
            if not retained:
                self._unresolved.pop(name, None)  # what waits under this name is older than what was just heard
        if changed:
            self._note_change(device, before)

    def _admit(self, mac: Mac) -> Device:
        if len(self._devices) >= self._settings.max_devices:
            self._evict()
        device = self._devices[mac] = Device(mac=mac)
        return device

    def _evict(self) -> None:
        """Forget the unregistered device that was heard longest ago; registered ones are never forgotten."""
        stranger = next((mac for mac in self._devices if mac not in self._roster), None)
        if stranger is None:
            return
        del self._devices[stranger]
        self._heard.discard(stranger)
        self._changed.pop(stranger, None)
        for name in self._names.pop(stranger, ()):
            del self._macs_by_id[name]
        self.messages["evicted"] += 1

    def _learn_name(self, name: str, mac: Mac) -> None:
        # A device that changes its id with every message must not fill the memory: its first few names stay.
        names = self._names.setdefault(mac, [])
        if len(names) < MAX_NAMES:
            names.append(name)
            self._macs_by_id[name] = mac

    def _announce(self, device: Device, *, appeared: bool) -> None:
        claims = device.claims
        self._hub.publish(
            CameraSeen(
                mac=device.mac,
                ip=claims.ip if claims else None,
                device_id=device.device_id,
                firmware_version=claims.firmware_version if claims else None,
                appeared=appeared,
            )
        )

    def _note_change(self, device: Device, before: Presence) -> None:
        if device.mac in self._roster:
            self._changed.setdefault(device.mac, before)

    def _postpone(self, status: Status, retained: bool) -> None:
        self._unresolved[status.topic_id] = _Unresolved(status, retained, self._clock.monotonic())
        self._unresolved.move_to_end(status.topic_id)
        if len(self._unresolved) > MAX_UNRESOLVED:
            self._unresolved.popitem(last=False)
            self.messages["unresolved"] += 1

    async def _resolve(self) -> None:
        """Find the MAC of device ids by the address that they announce, where the kernel knows it."""
        for name, waiting in list(self._unresolved.items()):
            if not waiting.retained and self._clock.monotonic() - waiting.at > UNRESOLVED_FOR_S:
                self._unresolved.pop(name, None)  # by now the address may be another camera's
                continue
            mac = self._macs_by_id.get(name)
            if mac is None and waiting.status.ip:
                neighbour = await self._neighbours.at(waiting.status.ip)
                mac = neighbour.mac if neighbour else None
            if mac and self._unresolved.get(name) is waiting:  # nothing newer came while the kernel was asked
                self._unresolved.pop(name, None)
                self._apply(mac, waiting.status, waiting.retained)

    async def _confirm_claims(self) -> None:
        """A retained claim counts once the kernel has fresh proof of that MAC at that address."""
        for device in self.devices():
            claims = device.claims
            if device.state is not Presence.CLAIMED or claims is None or claims.ip is None:
                continue
            neighbour = await self._neighbours.at(claims.ip)
            unchanged = device.claims is claims and device.state is Presence.CLAIMED  # while the kernel was asked
            if unchanged and neighbour and neighbour.fresh and neighbour.mac == device.mac:
                self._apply(device.mac, claims, retained=False)

    async def _answer_roll_calls(self) -> None:
        """When onboarding is switched on, everyone who is here and unregistered is announced again."""

        def wanted(event: Event) -> bool:
            return isinstance(event, Logged) and event.type == "onboarding.enabled"

        while True:
            with self._hub.subscribe(wanted) as calls:
                async for _ in calls:
                    for device in self.devices():
                        here = device.state in (Presence.ONLINE, Presence.IDLE)
                        if here and device.mac not in self._roster:
                            self._announce(device, appeared=False)
            await self._clock.sleep(TICK_S)

    async def _flush(self, now: float, *, everything: bool) -> None:
        changed, self._changed = self._changed, {}
        chosen = self._heard | changed.keys() if everything else set(changed)
        if everything:
            self._flushed_at = now
        self._heard -= chosen
        devices = [self._devices[mac] for mac in sorted(chosen) if mac in self._roster and mac in self._devices]
        if not devices:
            return
        facts = [camera for device in devices if (camera := self._with_new_facts(device))]

        async def job(tx: Tx) -> None:
            await cameras.save_presence(
                tx,
                [
                    (device.mac, device.state, seen, self._clock.boot_id, device.heard_at)
                    for device in devices
                    if device.heard_at is not None and (seen := self.last_seen(device))
                ],
            )
            await cameras.save_facts(tx, facts)
            for device in devices:
                if device.mac in changed and changed[device.mac] is not device.state:
                    await event_log.append(tx, self._status_changed(device, changed[device.mac]))

        try:
            await self._database.write(job)
        except StorageError as error:
            # The card may have room again at the next flush; until then the memory knows.
            log.warning("presence not stored yet", reason=error.message, details=error.details)
            self._heard |= chosen
            self._changed = changed | self._changed
            return
        for camera in facts:
            self._roster.put(camera)

    def _with_new_facts(self, device: Device) -> Camera | None:
        """The camera with the address and firmware that it announces, if they are new and may be stored."""
        camera, claims = self._roster.get(device.mac), device.claims
        if camera is None or claims is None:
            return None
        ip = camera.ip_address
        if claims.ip and claims.ip != ip:
            try:
                ip = claims.ip if parse_ipv4(claims.ip) in self._ap_subnet else ip
            except FieldError:
                log.debug("announced address ignored", mac=device.mac, ip=claims.ip)
        firmware = claims.firmware_version or camera.firmware_version
        if (ip, firmware) == (camera.ip_address, camera.firmware_version):
            return None
        return replace(camera, ip_address=ip, firmware_version=firmware)

    def _status_changed(self, device: Device, before: Presence) -> Logged:
        status: CameraStatus = camera_status(device=device, registered=True, onboarding=False)
        payload = {"mac": device.mac, "status": status.value, "previous": before.value}
        return Logged("camera.status_changed", payload, mac=device.mac)
