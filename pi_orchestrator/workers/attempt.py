"""One onboarding attempt: the camera on its way, and its place, given in one transaction once it is verified."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import AuditEntry, Code, Overflow, Stage
from pi_orchestrator.errors import OnboardingError
from pi_orchestrator.net.espcam import CameraAnswer
from pi_orchestrator.storage import cameras, containers, onboarding
from pi_orchestrator.storage.database import Tx
from pi_orchestrator.workers.registration import Newcomer, Registrar


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


async def pair(
    tx: Tx,
    candidate: Candidate,
    answer: CameraAnswer,
    *,
    registrar: Registrar,
    target: str,
    overflow: Overflow,
    verified_ms: int,
    total_ms: int,
) -> Camera | None:
    """Register and place a verified camera with its audit rows; None when it is registered already.

    DismissedError where an operator has taken it out since the attempt began.
    """
    if await cameras.is_registered(tx, candidate.mac):
        return None
    candidate = replace(
        candidate,
        device_id=candidate.device_id or answer.device_id,
        firmware_version=answer.firmware_version or candidate.firmware_version,
    )
    newcomer = Newcomer(
        mac=candidate.mac,
        device_id=candidate.device_id,
        ip=candidate.ip,
        firmware_version=candidate.firmware_version,
        here=True,
    )
    camera = await registrar.register(tx, newcomer, automatic=True, place=await _place(tx, target, overflow))
    row = replace(candidate, device_id=camera.device_id)
    await onboarding.audit(
        tx,
        [
            row.entry(Stage.VERIFIED, duration_ms=verified_ms),
            row.entry(Stage.REGISTERED, duration_ms=total_ms),
            row.entry(Stage.PAIRED, duration_ms=total_ms, container_id=camera.container_id),
        ],
    )
    await onboarding.count(tx, success=1)
    return camera


async def _place(tx: Tx, target: str, overflow: Overflow) -> tuple[str, int]:
    """The container and position for the next camera."""
    container = await containers.find(tx, target)
    if container is None:
        raise OnboardingError(f"there is no container {target}", code=Code.CONTAINER_UNKNOWN)
    position = await containers.next_free(tx, target)
    if position is not None:
        return target, position
    if overflow is Overflow.REJECT:
        raise OnboardingError(f"the four positions of {target} are taken", code=Code.CONTAINER_FULL)
    return await containers.next_overflow(tx, target, container.title)
