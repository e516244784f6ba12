"""The HTTP probe: requests `/status` from likely cameras, rarely, and one request per camera at a time.

It probes only an address that the device is proven to hold, and only a device that looks like a camera: by an Espressif
prefix, its name in a lease or in mDNS, or an MQTT message. The answer counts as evidence only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import FieldError, VerificationError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.events import CameraSeen
from pi_orchestrator.core.ipv4 import check_camera_address
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac, may_be_same_chip
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.devices.model import PRESENT_STATES, Device, is_likely_camera
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.verifier import http_fingerprint
from pi_orchestrator.net.camera_http import PROBE_TIMEOUT_S, CameraAnswer, CameraHttpClient
from pi_orchestrator.net.kernel.neighbours import NeighbourTable
from pi_orchestrator.net.scan_engine import AddressProbe

PASS_S = 2.0
MAX_CONCURRENT = 4
MAX_PER_PASS = 4 * MAX_CONCURRENT
"""Limits the duration of a pass: the worker sends one heartbeat per pass."""
REPEAT_AFTER_S = 600.0
RETRY_AFTER_S = 30.0
MAX_RETRY_AFTER_S = 3600.0
QUIET_AFTER_S = 120.0
"""A camera is probed only if it has not published on MQTT for this long."""

log = get_logger(__name__)


@dataclass(slots=True)
class _ProbeState:
    """Monotonic time of the next probe, address of the last one, and number of consecutive failures."""

    next_at: float
    address: IPv4Address
    failures: int = 0


class ProbeWorker:
    """Probes devices in the registry; announces unregistered ones that answer as a camera."""

    def __init__(
        self,
        *,
        ap_subnet: IPv4Network,
        clock: Clock,
        bus: EventBus,
        registry: DeviceRegistry,
        cache: CameraCache,
        neighbours: NeighbourTable,
        camera_http: CameraHttpClient,
        arp_probe: AddressProbe,
        is_espressif: Callable[[Mac], bool],
    ) -> None:
        self._ap_subnet = ap_subnet
        self._clock = clock
        self._bus = bus
        self._registry = registry
        self._cache = cache
        self._neighbours = neighbours
        self._camera_http = camera_http
        self._arp_probe = arp_probe
        self._is_espressif = is_espressif
        self._states: dict[Mac, _ProbeState] = {}
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def run(self, beat: Beat) -> None:
        """One pass every PASS_S, until cancelled."""
        while True:
            beat()
            await self.run_pass()
            await self._clock.sleep(PASS_S)

    async def run_pass(self) -> None:
        """Probe the devices whose next probe is due."""
        due = [device for device in self._registry if self._is_due(device)]
        if len(self._states) > 2 * len(self._registry) + 64:  # most are of devices that the registry has dropped
            self._states = {mac: state for mac, state in self._states.items() if self._registry.get(mac)}
        await asyncio.gather(*(self._probe(device) for device in due[:MAX_PER_PASS]))

    def looks_like_camera(self, device: Device) -> bool:
        """Whether a device looks like a camera."""
        return is_likely_camera(device, espressif=self._is_espressif(device.mac))

    def _is_due(self, device: Device) -> bool:
        if device.shown not in PRESENT_STATES or device.address is None or not self.looks_like_camera(device):
            return False
        now = self._clock.monotonic()
        if device.last_message_at is not None and now - device.last_message_at < QUIET_AFTER_S:
            return False
        previous = self._states.get(device.mac)
        if previous and now < previous.next_at and previous.address == device.address:
            return False
        # At a contested address, the answer could not be assigned to a device.
        return self._registry.address_of(device.mac) is not None

    async def _probe(self, device: Device) -> None:
        async with self._slots:
            address = self._registry.address_of(device.mac)
            if address is None:
                return  # another device has answered for the address since
            previous = self._states.get(device.mac)
            failures = previous.failures if previous and previous.address == address else 0
            try:
                check_camera_address(
                    str(address),
                    ap_subnet=self._ap_subnet,
                    allowed=(self._ap_subnet,),
                    own=await self._neighbours.own_addresses(),
                )
                # Leases change: another device may have the address since the last scan.
                if others := await self._arp_probe(address) - {device.mac}:
                    self._registry.request_probe(address)
                    raise FieldError(f"{', '.join(sorted(others))} answers for the address")
                answer = await self._camera_http.status(str(address), timeout_s=PROBE_TIMEOUT_S)
                self._apply_answer(device, address, answer)
                wait_s, failures = REPEAT_AFTER_S, 0
            except (FieldError, VerificationError) as error:
                log.debug("probe failed", mac=device.mac, ip=str(address), reason=str(error))
                # The limit of 16 only keeps 2.0**failures small: MAX_RETRY_AFTER_S is reached after fewer failures.
                wait_s, failures = min(MAX_RETRY_AFTER_S, RETRY_AFTER_S * 2.0**failures), min(failures + 1, 16)
        self._states[device.mac] = _ProbeState(self._clock.monotonic() + wait_s, address, failures)

    def _apply_answer(self, device: Device, address: IPv4Address, answer: CameraAnswer) -> None:
        now = self._clock.monotonic()
        if answer.mac and answer.mac != device.mac:
            hint = " (one ESP32 has four consecutive MACs)" if may_be_same_chip(answer.mac, device.mac) else ""
            raise FieldError(f"it identifies itself as {answer.mac}{hint}")
        if self._registry.address_of(device.mac) != address:
            return  # the device moved, or another one answered for the address, during the probe
        detail = "answered as a camera" if answer.is_camera else "answered, but not as a camera"
        if answer.firmware_version:
            detail += f", firmware {answer.firmware_version}"
        sighting = Sighting(device.mac, Source.PROBE, now, address, binds=True, rssi_dbm=answer.rssi_dbm, detail=detail)
        self._registry.add_sighting(sighting, now)
        self._registry.apply_http_fingerprint(device.mac, http_fingerprint(answer))
        if not answer.is_camera:
            return
        appeared = not device.is_camera
        device.is_camera = True
        device.device_id = device.device_id or answer.device_id
        if device.mac not in self._cache:
            firmware = answer.firmware_version
            self._bus.publish(
                CameraSeen(device.mac, str(address), device.device_id, firmware, appeared=appeared, trigger="scan")
            )
