"""The address at which a camera may be spoken to by HTTP, on the access point's network or on its target network."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from pi_orchestrator.domain.address import check_camera_address, parse_ipv4
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.errors import FieldError
from pi_orchestrator.net.espcam import CameraAnswer
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.workers.identity import Verifier


class Whereabouts:
    """`of` says where a camera is, `proven` also that it is the one who answers there."""

    def __init__(
        self,
        *,
        ap_subnet: IPv4Network,
        target_subnets: Sequence[IPv4Network],
        allow_loopback: bool,
        registry: Registry,
        roster: Roster,
        neighbours: Neighbours,
        verifier: Verifier,
    ) -> None:
        self._ap_subnet = ap_subnet
        self._target_subnets = tuple(target_subnets)
        self._allow_loopback = allow_loopback
        self._registry = registry
        self._roster = roster
        self._neighbours = neighbours
        self._verifier = verifier

    async def proven(self, mac: Mac, *, timeout_s: float) -> tuple[str, CameraAnswer]:
        """Where it answers just now and what it says; FieldError where it may not be asked, OnboardingError."""
        ip = await self.of(mac)
        answer = await self._verifier.verify(mac, ip, timeout_s=timeout_s)
        device = self._registry.get(mac)
        if not (answer.is_camera or mac in self._roster or (device and device.is_camera)):
            # Whatever has an address is known by its MAC; other people's devices may know a /reboot, too.
            raise FieldError(f"what answers at {ip} is no camera")
        return ip, answer

    async def of(self, mac: Mac) -> str:
        """Where it answers; else where it says that it is, else where it was. FieldError where it may not be."""
        device, camera = self._registry.get(mac), self._roster.get(mac)
        proven = self._registry.address_of(mac)
        claimed = device.claims.ip if device and device.claims else None
        told = str(proven) if proven else claimed or (camera.ip_address if camera else None)
        if told is None:
            raise FieldError("nobody knows its address")
        address = parse_ipv4(told)
        # Only who is registered may have moved on: a stranger's word must not send the daemon around other networks.
        networks = (self._ap_subnet, *self._target_subnets) if camera else (self._ap_subnet,)
        network = next((one for one in networks if address in one), None)
        if network is None:
            where = "the camera network and provisioning.target_subnets" if camera else "the camera network"
            raise FieldError(f"{address} is outside {where}")
        own = await self._neighbours.own_addresses()
        check_camera_address(told, ap_subnet=network, allowed=(network,), own=own, allow_loopback=self._allow_loopback)
        return told
