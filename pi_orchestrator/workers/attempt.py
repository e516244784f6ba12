"""The two halves of one onboarding attempt: prove who the camera is, then give it its place in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.address import parse_ipv4
from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.mac import Mac, is_near
from pi_orchestrator.domain.onboarding import AuditEntry, Code, Overflow, Stage
from pi_orchestrator.domain.presence import Presence
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.sighting import Source
from pi_orchestrator.errors import OnboardingError
from pi_orchestrator.events import Logged
from pi_orchestrator.net.engine import Ask
from pi_orchestrator.net.espcam import CameraAnswer, EspCamClient
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.storage import cameras, containers, event_log, onboarding
from pi_orchestrator.storage.database import Tx

FRESH_S = 5.0


@dataclass(slots=True)
class Candidate:
    """A camera on its way; `limited` once the audit says that it waits for a token, `settled` once how it ended."""

    mac: Mac
    ip: str | None
    device_id: str | None
    firmware_version: str | None
    limited: bool = False
    settled: bool = False

    def entry(self, stage: Stage, **more: object) -> AuditEntry:
        """An audit row about this camera."""
        base = AuditEntry(
            mac=self.mac,
            stage=stage,
            device_id=self.device_id,
            ip_address=self.ip,
            firmware_version=self.firmware_version,
        )
        return replace(base, **more)  # type: ignore[arg-type]  # callers name fields of AuditEntry


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

    async def verify(self, candidate: Candidate, *, timeout_s: float) -> CameraAnswer:
        """Prove that the address answers for the MAC; OnboardingError otherwise."""
        ip = candidate.ip or ""
        before = await self._neighbours.at(ip)
        if before and before.fresh:
            _expect(candidate.mac, before.mac, f"the kernel knows {before.mac} at {ip}")
        bound = await self._check_binding(candidate.mac, ip)
        answer = await self._espcam.status(ip, timeout_s=timeout_s)
        if answer.mac:
            _expect(candidate.mac, answer.mac, f"the camera at {ip} says that it is {answer.mac}")
        # Having spoken to it, the kernel has resolved the address anew.
        after = await self._neighbours.at(ip)
        if after:
            _expect(candidate.mac, after.mac, f"the kernel knows {after.mac} at {ip}")
        if not answer.mac and not after and not bound:
            raise OnboardingError(
                "the answer names no MAC, and the kernel does not know who has the address",
                code=Code.VERIFY_BAD_BODY,
            )
        return answer

    async def _check_binding(self, mac: Mac, ip: str) -> bool:
        """Whether the network says that the address is this device's; OnboardingError if it says another's."""
        address = parse_ipv4(ip)
        now = self._clock.monotonic()
        answered = self._registry.claimants(address, since=now - FRESH_S)
        if answered != {mac}:
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


async def pair(
    tx: Tx,
    candidate: Candidate,
    answer: CameraAnswer,
    *,
    target: str,
    overflow: Overflow,
    verified_ms: int,
    total_ms: int,
) -> Camera | None:
    """Register and place a verified camera with its audit rows; None when it is registered already."""
    if await cameras.is_registered(tx, candidate.mac):
        return None
    candidate = replace(
        candidate,
        device_id=candidate.device_id or answer.device_id,
        firmware_version=answer.firmware_version or candidate.firmware_version,
    )
    container_id, position = await _place(tx, target, overflow)
    camera = await cameras.register(
        tx,
        candidate.mac,
        device_id=candidate.device_id,
        ip=candidate.ip or "",
        firmware=candidate.firmware_version,
        by="auto",
    )
    await containers.assign(tx, camera.mac, container_id, position)
    # It has just answered: a restart a moment from now must not call it offline.
    seen = tx.stamp
    await cameras.save_presence(tx, [(camera.mac, Presence.ONLINE, seen.at, seen.boot_id, seen.monotonic)])
    row = replace(candidate, device_id=camera.device_id)
    await onboarding.audit(
        tx,
        [
            row.entry(Stage.VERIFIED, duration_ms=verified_ms),
            row.entry(Stage.REGISTERED, duration_ms=total_ms),
            row.entry(Stage.PAIRED, duration_ms=total_ms, container_id=container_id),
        ],
    )
    await onboarding.count(tx, success=1)
    payload = {
        "mac": camera.mac,
        "device_id": camera.device_id,
        "container_id": container_id,
        "position": position,
    }
    await event_log.append(tx, Logged("camera.onboarded", payload, mac=camera.mac))
    return replace(camera, container_id=container_id, position=position, paired_at=tx.stamp.at)


async def _place(tx: Tx, target: str, overflow: Overflow) -> tuple[str, int]:
    """The container and position for the next camera."""
    label = await containers.label_of(tx, target)
    if label is None:
        raise OnboardingError(f"there is no container {target}", code=Code.CONTAINER_UNKNOWN)
    position = await containers.next_free(tx, target)
    if position is not None:
        return target, position
    if overflow is Overflow.REJECT:
        raise OnboardingError(f"the four positions of {target} are taken", code=Code.CONTAINER_FULL)
    return await containers.next_overflow(tx, target, label)


def _expect(announced: Mac, found: Mac, evidence: str) -> None:
    if announced == found:
        return
    hint = "; the two may belong to one ESP32, whose station MAC is its identity" if is_near(announced, found) else ""
    raise OnboardingError(f"{announced} was announced, but {evidence}{hint}", code=Code.MAC_MISMATCH)
