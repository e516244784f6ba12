"""Who answers at an address: what has to be proven before anything is done to a camera, or sent to it."""

from __future__ import annotations

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.address import parse_ipv4
from pi_orchestrator.domain.mac import Mac, is_near
from pi_orchestrator.domain.onboarding import Code
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.sighting import Source
from pi_orchestrator.errors import OnboardingError
from pi_orchestrator.net.engine import Ask
from pi_orchestrator.net.espcam import CameraAnswer, EspCamClient
from pi_orchestrator.net.neighbours import Neighbours

FRESH_S = 5.0


class Verifier:
    """Asks the camera at the announced address who it is, and the network and the kernel whether that is true."""

    def __init__(
        self, *, clock: Clock, neighbours: Neighbours, espcam: EspCamClient, registry: Registry, ask: Ask
    ) -> None:
        self._clock = clock
        self._neighbours = neighbours
        self._espcam = espcam
        self._registry = registry
        self._ask = ask

    async def verify(self, mac: Mac, ip: str, *, timeout_s: float, afresh: bool = False) -> CameraAnswer:
        """Prove that the address answers for the MAC; OnboardingError otherwise.

        `afresh`: the network is asked who has the address even if it answered a moment ago.
        """
        before = await self._neighbours.at(ip)
        if before and before.fresh:
            _expect(mac, before.mac, f"the kernel knows {before.mac} at {ip}")
        bound = await self._check_binding(mac, ip, afresh=afresh)
        answer = await self._espcam.status(ip, timeout_s=timeout_s)
        if answer.mac:
            _expect(mac, answer.mac, f"the camera at {ip} says that it is {answer.mac}")
        # Having spoken to it, the kernel has resolved the address anew.
        after = await self._neighbours.at(ip)
        if after:
            _expect(mac, after.mac, f"the kernel knows {after.mac} at {ip}")
        if not answer.mac and not after and not bound:
            raise OnboardingError(
                "the answer names no MAC, and the kernel does not know who has the address",
                code=Code.VERIFY_BAD_BODY,
            )
        return answer

    async def _check_binding(self, mac: Mac, ip: str, *, afresh: bool) -> bool:
        """Whether the network says that the address is this device's; OnboardingError if it says another's."""
        address = parse_ipv4(ip)
        now = self._clock.monotonic()
        answered = self._registry.claimants(address, since=now - FRESH_S)
        if afresh or answered != {mac}:
            # An address is a leased fact: what was true at the last scan is asked again before anything is sent there.
            asked = await self._ask(address)
            answered = asked or self._registry.claimants(address, since=now - self._registry.windows.idle(Source.ARP))
        others = sorted(answered - {mac})
        if others and mac in answered:
            raise OnboardingError(
                f"{ip} is claimed by {mac} and by {', '.join(others)}: nobody can say whose it is",
                code=Code.MAC_MISMATCH,
            )
        if others:
            _expect(mac, others[0], f"{others[0]} answers for {ip}")
        return bool(answered)


def _expect(announced: Mac, found: Mac, evidence: str) -> None:
    if announced == found:
        return
    hint = "; the two may belong to one ESP32, whose station MAC is its identity" if is_near(announced, found) else ""
    raise OnboardingError(f"{announced} was announced, but {evidence}{hint}", code=Code.MAC_MISMATCH)
