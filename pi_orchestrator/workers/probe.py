"""The HTTP probe: asks likely cameras for their `/status`, one question a camera at a time, and seldom.

Only at an address that the device itself was proven to answer for, and only what looks like a camera: an Espressif
prefix, a name in a lease or by mDNS, or a message on MQTT. What it says of itself is evidence, not an order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.address import check_camera_address
from pi_orchestrator.domain.mac import Mac, is_near
from pi_orchestrator.domain.presence import HERE, Device, is_likely_camera
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.errors import FieldError, OnboardingError
from pi_orchestrator.events import CameraSeen, Hub
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.engine import Ask
from pi_orchestrator.net.espcam import CameraAnswer, EspCamClient
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.supervisor import Beat

PASS_S = 2.0
AT_ONCE = 4
TIMEOUT_S = 4.0
AGAIN_AFTER_S = 600.0
RETRY_AFTER_S = 30.0
RETRY_CAP_S = 3600.0
QUIET_AFTER_S = 120.0
"""A camera that speaks on MQTT needs no asking; one that has not for this long is asked."""

log = get_logger(__name__)


@dataclass(slots=True)
class _Asked:
    """When a device may be asked next, at which address it was asked last, and how often in a row in vain."""

    due: float
    address: IPv4Address
    failures: int = 0


class ProbeWorker:
    """Passes over the registry; what answers like a camera and is not registered is announced."""

    def __init__(
        self,
        *,
        ap_subnet: IPv4Network,
        clock: Clock,
        hub: Hub,
        registry: Registry,
        roster: Roster,
        neighbours: Neighbours,
        espcam: EspCamClient,
        ask: Ask,
        is_espressif: Callable[[Mac], bool],
    ) -> None:
        self._ap_subnet = ap_subnet
        self._clock = clock
        self._hub = hub
        self._registry = registry
        self._roster = roster
        self._neighbours = neighbours
        self._espcam = espcam
        self._ask = ask
        self._is_espressif = is_espressif
        self._asked: dict[Mac, _Asked] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def run(self, beat: Beat) -> None:
        """A pass every few seconds, until cancelled."""
        while True:
            beat()
            await self.pass_once()
            await self._clock.sleep(PASS_S)

    async def pass_once(self) -> None:
        """Ask everyone who is due."""
        due = [device for device in self._registry if self._is_due(device)]
        if len(self._asked) > 2 * len(self._registry) + 64:
            self._asked = {mac: one for mac, one in self._asked.items() if self._registry.get(mac)}
        await asyncio.gather(*(self._probe(device) for device in due[: 4 * AT_ONCE]))

    def is_likely(self, device: Device) -> bool:
        """Whether a device looks like a camera."""
        return is_likely_camera(device, espressif=self._is_espressif(device.mac))

    def _is_due(self, device: Device) -> bool:
        if device.shown not in HERE or device.address is None or not self.is_likely(device):
            return False
        now = self._clock.monotonic()
        if device.heard_at is not None and now - device.heard_at < QUIET_AFTER_S:
            return False
        asked = self._asked.get(device.mac)
        if asked and now < asked.due and asked.address == device.address:
            return False
        # Contested: whose answer it would be cannot be known.
        return self._registry.address_of(device.mac) is not None

    async def _probe(self, device: Device) -> None:
        async with self._gate:
            address = self._registry.address_of(device.mac)
            if address is None:
                return  # somebody else has claimed it meanwhile
            asked = self._asked.get(device.mac)
            failures = asked.failures if asked and asked.address == address else 0
            try:
                check_camera_address(
                    str(address),
                    ap_subnet=self._ap_subnet,
                    allowed=(self._ap_subnet,),
                    own=await self._neighbours.own_addresses(),
                )
                # An address is a leased fact: since the last scan somebody else may have got it.
                if others := await self._ask(address) - {device.mac}:
                    self._registry.doubt(address)
                    raise FieldError(f"{', '.join(sorted(others))} answers there")
                answer = await self._espcam.status(str(address), timeout_s=TIMEOUT_S)
                self._take(device, address, answer)
                wait_s, failures = AGAIN_AFTER_S, 0
            except (FieldError, OnboardingError) as error:
                log.debug("probe without success", mac=device.mac, ip=str(address), reason=str(error))
                wait_s, failures = min(RETRY_CAP_S, RETRY_AFTER_S * 2.0**failures), min(failures + 1, 16)
        self._asked[device.mac] = _Asked(self._clock.monotonic() + wait_s, address, failures)

    def _take(self, device: Device, address: IPv4Address, answer: CameraAnswer) -> None:
        now = self._clock.monotonic()
        if answer.mac and answer.mac != device.mac:
            hint = " (near: one ESP32 has several)" if is_near(answer.mac, device.mac) else ""
            raise FieldError(f"it says that it is {answer.mac}{hint}")
        if self._registry.address_of(device.mac) != address:
            return  # it moved, or somebody else claimed the address, while it was asked
        detail = "a camera answered" if answer.is_camera else "answered, but not like a camera"
        if answer.firmware_version:
            detail += f", firmware {answer.firmware_version}"
        seen = Sighting(device.mac, Source.PROBE, now, address, binds=True, rssi_dbm=answer.rssi_dbm, detail=detail)
        self._registry.sight(seen, now)
        if not answer.is_camera:
            return
        appeared = not device.is_camera
        device.is_camera = True
        device.device_id = device.device_id or answer.device_id
        if device.mac not in self._roster:
            firmware = answer.firmware_version
            self._hub.publish(
                CameraSeen(device.mac, str(address), device.device_id, firmware, appeared=appeared, trigger="scan")
            )
