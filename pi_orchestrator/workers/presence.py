"""Presence: who is here, by MQTT, and what all evidence together says.

Every status message ends here: parsed, bound to one MAC whatever it is spelled like, and given to the registry,
where the other sources' evidence is too. Registered cameras' times are stored once a minute in one transaction,
a change of state within a second; what a camera says all day costs the card nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import IPv4Network

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.address import parse_ipv4
from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.candidate import CandidateState
from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.presence import HERE, Device, Presence
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.domain.status import Announced, MacContradictionError, Status, parse_status
from pi_orchestrator.errors import FieldError, StorageError
from pi_orchestrator.events import CameraContradicted, CameraSeen, Event, Hub, Logged
from pi_orchestrator.logs import get_logger, mask_text
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.storage import cameras, event_log, sessions
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.supervisor import Beat
from pi_orchestrator.workers.changes import Changes

TICK_S = 1.0
FLUSH_S = 60.0
CONFIRM_S = 5.0
MAX_UNRESOLVED = 256
UNRESOLVED_FOR_S = 90.0
WITHHELD = "withheld: the camera was given a password, which its own words may repeat"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Unresolved:
    """A message whose topic gives a device id and whose MAC nobody knows yet."""

    status: Status
    retained: bool
    at: float


class PresenceWorker:
    """`on_message` takes what cameras say; `run` lets silence speak and stores what changed."""

    def __init__(
        self,
        *,
        ap_subnet: IPv4Network,
        clock: Clock,
        hub: Hub,
        database: Database,
        roster: Roster,
        registry: Registry,
        neighbours: Neighbours,
    ) -> None:
        self._ap_subnet = ap_subnet
        self._clock = clock
        self._hub = hub
        self._database = database
        self._roster = roster
        self._registry = registry
        self._neighbours = neighbours
        self._unresolved: OrderedDict[str, _Unresolved] = OrderedDict()
        self._heard: set[Mac] = set()
        self._in_doubt: set[Mac] = set()
        self._withheld: dict[Mac, int] = {}
        self._changes = Changes(clock=clock, roster=roster, registry=registry)
        self._confirmed_at = float("-inf")
        self._flushed_at = clock.monotonic()
        self._stored_alive: dict[Mac, float] = {}
        self.messages: Counter[str] = Counter()

    def last_seen(self, device: Device) -> datetime | None:
        """When a device last proved to be here, by today's wall clock."""
        alive_at = device.alive_at
        if alive_at is None:
            return None
        return self._clock.wall() - timedelta(seconds=self._clock.monotonic() - alive_at)

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
        mac = status.mac or self._roster.find(status.topic_id) or self._registry.find(status.topic_id)
        if mac is None:
            self._postpone(status, retained)
        else:
            self._apply(mac, status, retained)

    async def load(self) -> None:
        """Go on from what was stored: times of this boot still count, older ones only as last seen."""
        now = self._clock.monotonic()
        for mac, state, boot_id, monotonic in await cameras.load_presence(self._database):
            this_boot = boot_id == cameras.short_boot(self._clock.boot_id)
            self._registry.restore(mac, Presence(state), alive_at=monotonic if this_boot else None, now=now)
        await self._know_who_is_in_doubt()

    async def run(self, beat: Beat) -> None:
        """Tick until cancelled; what is not stored then is stored on the way out."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._answer_roll_calls(), name="presence-roll-call")
                tasks.create_task(self._follow_sessions(), name="presence-sessions")
                while True:
                    beat()
                    await self.tick()
                    await self._clock.sleep(TICK_S)
        finally:
            await self._flush(self._clock.monotonic(), everything=True)

    async def tick(self) -> None:
        """One pass: silences, claims that need proof, and what is due to be stored."""
        now = self._clock.monotonic()
        self._registry.settle(now)
        if now - self._confirmed_at >= CONFIRM_S:
            self._confirmed_at = now
            await self._confirm_claims()
            await self._resolve()
        for mac in self._changes.collect():
            if (device := self._registry.get(mac)) and device.heard_at is None:
                self._announce(device, appeared=True)
        await self._flush(now, everything=now - self._flushed_at >= FLUSH_S)

    def _apply(self, mac: Mac, status: Status, retained: bool) -> None:
        status = self._without_secrets(mac, status)
        if retained:
            device = self._registry.claim(mac, status)
            here = device.state in (Presence.ONLINE, Presence.IDLE)
            if here and device.heard_at is None and mac not in self._roster:
                self._announce(device, appeared=True)  # proved to be here before it was claimed
        else:
            known = self._registry.get(mac)
            before = known.state if known else Presence.OFFLINE
            device = self._registry.hear(mac, status, self._clock.monotonic())
            # One that says that it reboots is about to be away: it is announced when it is back.
            if status.state is not Announced.OFFLINE and device.state is not Presence.REBOOTING:
                appeared = before not in (Presence.ONLINE, Presence.IDLE)
                if appeared or mac not in self._roster:
                    self._announce(device, appeared=appeared)
        for name in (status.device_id, status.topic_id):
            if not name:
                continue
            if name != mac and not try_mac(name):
                self._registry.learn_name(name, mac)
            if not retained:
                self._unresolved.pop(name, None)  # what waits under this name is older than what was just heard

    def _without_secrets(self, mac: Mac, status: Status) -> Status:
        """The message without secrets in what a camera says of its troubles: those that are configured are taken out.

        All of it is withheld while it may be saying a password that it was given by a session.

        Nobody can tell that of a text once the password is erased: what was withheld stays so for as long as it is
        repeated.
        """
        if status.last_error is None:
            return status
        text = hash(status.last_error)  # keyed at random, and of this process alone
        if mac not in self._in_doubt and self._withheld.get(mac) != text:
            self._withheld.pop(mac, None)
            return replace(status, last_error=mask_text(status.last_error))
        self._withheld[mac] = text
        return replace(status, last_error=WITHHELD)

    def _announce(self, device: Device, *, appeared: bool) -> None:
        claims = device.claims
        # What it says itself is verified against the network; what only a retained message says may be long past.
        addresses = [claims.ip if claims else None, str(self._registry.address_of(device.mac) or "")]
        told = addresses if device.heard_at is not None else addresses[::-1]
        self._hub.publish(
            CameraSeen(
                mac=device.mac,
                ip=next((address for address in told if address), None),
                device_id=device.device_id,
                firmware_version=claims.firmware_version if claims else None,
                appeared=appeared,
                trigger="mqtt" if claims else "scan",
            )
        )

    def _postpone(self, status: Status, retained: bool) -> None:
        self._unresolved[status.topic_id] = _Unresolved(status, retained, self._clock.monotonic())
        self._unresolved.move_to_end(status.topic_id)
        if len(self._unresolved) > MAX_UNRESOLVED:
            self._unresolved.popitem(last=False)
            self.messages["unresolved"] += 1

    async def _resolve(self) -> None:
        """Find the MAC of device ids by the address that they announce, where it is known whose that is."""
        for name, waiting in list(self._unresolved.items()):
            if not waiting.retained and self._clock.monotonic() - waiting.at > UNRESOLVED_FOR_S:
                self._unresolved.pop(name, None)  # by now the address may be another camera's
                continue
            mac = self._registry.find(name)
            if mac is None and waiting.status.ip:
                neighbour = await self._neighbours.at(waiting.status.ip)
                mac = neighbour.mac if neighbour else None
            if mac and self._unresolved.get(name) is waiting:  # nothing newer came while the kernel was asked
                self._unresolved.pop(name, None)
                self._apply(mac, waiting.status, waiting.retained)

    async def _confirm_claims(self) -> None:
        """A retained claim is believed once the kernel has fresh proof of that MAC at that address."""
        for device in self._registry:
            claims = device.claims
            if device.state is not Presence.CLAIMED or claims is None or claims.ip is None:
                continue
            neighbour = await self._neighbours.at(claims.ip)
            if neighbour and neighbour.fresh and neighbour.mac == device.mac:
                now, ip = self._clock.monotonic(), parse_ipv4(claims.ip)
                seen = Sighting(device.mac, Source.NEIGHBOUR, now, ip, binds=True, detail="the kernel has fresh proof")
                self._registry.sight(seen, now)

    async def _answer_roll_calls(self) -> None:
        """When onboarding is switched on, every camera that is here and unregistered is announced again."""

        def wanted(event: Event) -> bool:
            return isinstance(event, Logged) and event.type == "onboarding.enabled"

        while True:
            with self._hub.subscribe(wanted) as calls:
                async for _ in calls:
                    self._registry.settle(self._clock.monotonic())
                    for device in self._registry:
                        here = device.shown in HERE and device.state is not Presence.REBOOTING
                        if here and device.is_camera and device.mac not in self._roster:
                            self._announce(device, appeared=False)
            await self._clock.sleep(TICK_S)

    async def _know_who_is_in_doubt(self) -> None:
        try:
            self._in_doubt = await sessions.in_doubt(self._database.read)
        except StorageError as error:
            log.warning("cameras that are being provisioned are not known yet", reason=error.message)

    async def _follow_sessions(self) -> None:
        """Know which cameras are asked for and not verified; they are before anything is sent to them."""

        def wanted(event: Event) -> bool:
            return isinstance(event, Logged) and event.type == "device.state_changed"

        while True:
            with self._hub.subscribe(wanted) as changes:
                await self._know_who_is_in_doubt()
                async for event in changes:
                    if not isinstance(event, Logged) or event.mac is None:
                        continue
                    if event.payload["new_state"] == CandidateState.PROVISIONING:
                        self._in_doubt.add(event.mac)
                    elif event.payload["new_state"] == CandidateState.VERIFIED:
                        self._in_doubt.discard(event.mac)
            await self._clock.sleep(TICK_S)

    async def _flush(self, now: float, *, everything: bool) -> None:
        self._changes.collect()
        chosen = self._changes.changed()
        if everything:
            self._flushed_at = now
            chosen |= {camera.mac for camera in self._roster if self._is_news(camera.mac)}
        devices = [device for mac in sorted(chosen) if mac in self._roster and (device := self._registry.get(mac))]
        states, others = self._changes.take()
        if not devices and not others:
            return
        facts = [camera for device in devices if (camera := self._with_new_facts(device))]
        times = {device.mac: alive_at for device in devices if (alive_at := device.alive_at) is not None}

        async def job(tx: Tx) -> None:
            await cameras.save_presence(
                tx,
                [
                    (device.mac, device.state, seen, self._clock.boot_id, times[device.mac])
                    for device in devices
                    if device.mac in times and (seen := self.last_seen(device))
                ],
            )
            await cameras.save_facts(tx, facts)
            tx.after_commit(lambda: self._learn(facts))
            for event in self._changes.events(states, others):
                await event_log.append(tx, event)

        try:
            await self._database.write(job)
        except StorageError as error:
            # The card may have room again at the next flush; until then the memory knows.
            log.warning("presence not stored yet", reason=error.message, details=error.details)
            self._changes.give_back(states, others)
            return
        self._stored_alive |= times

    def _learn(self, facts: list[Camera]) -> None:
        """Take new facts over into the roster, where the camera may have been changed or taken out meanwhile."""
        for new in facts:
            if camera := self._roster.get(new.mac):
                self._roster.put(replace(camera, ip_address=new.ip_address, firmware_version=new.firmware_version))

    def _is_news(self, mac: Mac) -> bool:
        device = self._registry.get(mac)
        return bool(device and device.alive_at is not None and device.alive_at != self._stored_alive.get(mac))

    def _with_new_facts(self, device: Device) -> Camera | None:
        """The camera with its present address and firmware, if they are new and may be stored."""
        camera, claims = self._roster.get(device.mac), device.claims
        if camera is None or (claims is None and device.address is None):
            return None
        firmware = (claims.firmware_version if claims else None) or camera.firmware_version
        ip = self._address(device) or camera.ip_address
        if (ip, firmware) == (camera.ip_address, camera.firmware_version):
            return None
        return replace(camera, ip_address=ip, firmware_version=firmware)

    def _address(self, device: Device) -> str | None:
        """Where the device answers; else where it says that it is, if nobody else is known to be there."""
        proven = self._registry.address_of(device.mac)
        if proven:
            return str(proven)
        claimed = device.claims.ip if device.claims and device.heard_at is not None else None
        if claimed is None:
            return None
        try:
            address = parse_ipv4(claimed)
        except FieldError:
            log.debug("announced address ignored", mac=device.mac, ip=claimed)
            return None
        elsewhere = self._registry.claimants(address) - {device.mac}
        return claimed if address in self._ap_subnet and not elsewhere else None
