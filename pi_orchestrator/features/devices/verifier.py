"""Proof of which camera answers at an address; required before anything is sent to a camera."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.errors import VerificationError
from pi_orchestrator.core.ipv4 import parse_ipv4
from pi_orchestrator.core.mac import Mac, may_be_same_chip
from pi_orchestrator.core.sighting import Source
from pi_orchestrator.features.devices.fingerprint import Fingerprint, header_names, server_name
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.net.camera_connection import CameraConnection
from pi_orchestrator.net.camera_http import CameraAnswer, CameraHttpClient
from pi_orchestrator.net.kernel.neighbours import NeighbourTable
from pi_orchestrator.net.scan_engine import AddressProbe

FRESH_S = 5.0
"""An address is not probed again within this time after an answer, unless a probe is forced."""


async def _no_answer(_address: IPv4Address) -> frozenset[Mac]:
    return frozenset()


class DeviceVerifier:
    """Compares the announced MAC with those that the kernel, ARP and the camera's HTTP answer give for its address."""

    def __init__(
        self, *, clock: Clock, neighbours: NeighbourTable, camera_http: CameraHttpClient, registry: DeviceRegistry
    ) -> None:
        self._clock = clock
        self._neighbours = neighbours
        self._camera_http = camera_http
        self._registry = registry
        self.probe: AddressProbe = _no_answer
        """Probes which devices answer for an address now; set by discovery."""

    async def verify(self, mac: Mac, ip: str, *, timeout_s: float) -> CameraAnswer:
        """Prove that the device with this MAC answers at the address; VerificationError otherwise."""
        bound = await self._check_binding(mac, ip)
        answer = await self._camera_http.status(ip, timeout_s=timeout_s)
        # The HTTP request made the kernel resolve the address again.
        after = await self._neighbours.at(ip)
        if after:
            _expect(mac, after.mac, f"the kernel has {after.mac} at {ip}")
        _check_answer(mac, ip, answer, is_bound=bound or after is not None)
        self._registry.apply_http_fingerprint(mac, http_fingerprint(answer))
        return answer

    @contextlib.asynccontextmanager
    async def proven_connection(self, mac: Mac, ip: str, *, timeout_s: float) -> AsyncIterator[CameraConnection]:
        """An open connection to the device with this MAC, proved with a new probe; VerificationError otherwise.

        The proofs, in this order: an ARP answer; the kernel's entry for the peer of the connection; the answer to
        `/status` on the connection. All three prove only the MAC, which can be copied. If a firmware can prove that the
        camera has a secret, check this after these three, on this connection, before the yield.
        """
        bound = await self._check_binding(mac, ip, force_probe=True)
        async with CameraConnection(address=ip, port=self._camera_http.port, mac=mac) as connection:
            answer = await connection.status(timeout_s=timeout_s)
            _check_answer(mac, ip, answer, is_bound=bound or connection.is_bound)
            self._registry.apply_http_fingerprint(mac, http_fingerprint(answer))
            yield connection

    async def _check_binding(self, mac: Mac, ip: str, *, force_probe: bool = False) -> bool:
        """Whether the device answers for the address by ARP; VerificationError if another device does.

        `force_probe`: probe the address even if it was probed within FRESH_S.
        """
        known = await self._neighbours.at(ip)
        if known and known.fresh:
            _expect(mac, known.mac, f"the kernel has {known.mac} at {ip}")
        address = parse_ipv4(ip)
        now = self._clock.monotonic()
        answered = self._registry.claimants(address, since=now - FRESH_S)
        if force_probe or answered != {mac}:
            # Leases change: probe the address again before anything is sent to it.
            probed = await self.probe(address)
            # A sleeping camera does not answer: then older answers count, as long as they would keep it online.
            answered = probed or self._registry.claimants(address, since=now - self._registry.windows.idle(Source.ARP))
        others = sorted(answered - {mac})
        if others and mac in answered:
            raise VerificationError(
                f"address conflict: {ip} is claimed by {mac} and by {', '.join(others)}",
                code=VerificationCode.MAC_MISMATCH,
            )
        if others:
            _expect(mac, others[0], f"{others[0]} answers for {ip}")
        return bool(answered)


def http_fingerprint(answer: CameraAnswer) -> Fingerprint:
    """The fingerprint of an answer to `GET /status`."""
    return Fingerprint(
        server=server_name(answer.server), headers=header_names(answer.header_names), http_device_id=answer.device_id
    )


def _check_answer(mac: Mac, ip: str, answer: CameraAnswer, *, is_bound: bool) -> None:
    """VerificationError if the answer names another MAC, or if it names none and nothing else proves the address."""
    if answer.mac:
        _expect(mac, answer.mac, f"the camera at {ip} identifies itself as {answer.mac}")
    elif not is_bound:
        raise VerificationError(
            "the answer contains no MAC, and the kernel has no MAC for the address", code=VerificationCode.BAD_BODY
        )


def _expect(announced: Mac, found: Mac, evidence: str) -> None:
    if announced == found:
        return
    hint = (
        "; the two may belong to one ESP32, whose station MAC is its identity"
        if may_be_same_chip(announced, found)
        else ""
    )
    raise VerificationError(f"{announced} was announced, but {evidence}{hint}", code=VerificationCode.MAC_MISMATCH)
