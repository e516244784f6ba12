"""The address for HTTP requests to a camera, in the access point's network or in a target network."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.ipv4 import check_camera_address, parse_ipv4
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.devices.best_address import best_address
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.verifier import DeviceVerifier
from pi_orchestrator.net.camera_http import CameraAnswer
from pi_orchestrator.net.kernel.neighbours import NeighbourTable


class AddressResolver:
    """`resolve` returns the address of a camera, `proven` also verifies that this camera answers there."""

    def __init__(
        self,
        *,
        ap_subnet: IPv4Network,
        target_subnets: Sequence[IPv4Network],
        allow_loopback: bool,
        timeout_s: float,
        registry: DeviceRegistry,
        cache: CameraCache,
        neighbours: NeighbourTable,
        verifier: DeviceVerifier,
    ) -> None:
        self.timeout_s = timeout_s
        """Timeout of a verification, s."""
        self._ap_subnet = ap_subnet
        self._target_subnets = tuple(target_subnets)
        self._allow_loopback = allow_loopback
        self._registry = registry
        self._cache = cache
        self._neighbours = neighbours
        self._verifier = verifier

    async def proven(self, mac: Mac, *, at: str | None = None) -> tuple[str, CameraAnswer]:
        """The verified address (`at` or the best known one) and the camera's answer to `GET /status`.

        VerificationError if the device does not prove its MAC; FieldError as from `resolve`, and if it is no camera.
        """
        ip = await self.resolve(mac, at=at)
        answer = await self._verifier.verify(mac, ip, timeout_s=self.timeout_s)
        device = self._registry.get(mac)
        if not (answer.is_camera or mac in self._cache or (device and device.is_camera)):
            # The answer only proves the MAC; a device that is no camera may have a /reboot, too.
            raise FieldError(f"the device at {ip} is not a camera")
        return ip, answer

    async def resolve(self, mac: Mac, *, at: str | None = None) -> str:
        """The address for requests: `at`, else the proven, else the claimed, else the recorded one.

        FieldError if no address is known, or if the first of these is not allowed.
        """
        camera = self._cache.get(mac)
        ip = at or best_address(self._registry, mac, recorded=camera.ip_address if camera else None)
        if ip is None:
            raise FieldError("no address is known for this camera: it has not published one, and no scan has found it")
        address = parse_ipv4(ip)
        # Only a registered camera may be in a target network: the claim of an unregistered one must not lead there.
        networks = (self._ap_subnet, *self._target_subnets) if camera else (self._ap_subnet,)
        network = next((subnet for subnet in networks if address in subnet), None)
        if network is None:
            allowed = "the camera network and provisioning.target_subnets" if camera else "the camera network"
            raise FieldError(f"{address} is outside {allowed}")
        own = await self._neighbours.own_addresses()
        check_camera_address(ip, ap_subnet=network, allowed=(network,), own=own, allow_loopback=self._allow_loopback)
        return ip
