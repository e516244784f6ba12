"""Handlers for manual pairing, unpairing and replacement, and for excluded cameras."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.mac import MacField
from pi_orchestrator.features.cameras.exclusion_store import ExcludedCameras
from pi_orchestrator.features.cameras.exclusions import Exclusion, Reason
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.cameras.service import CameraService
from pi_orchestrator.features.containers.api import ContainerId, Position
from pi_orchestrator.features.containers.pairing import PairingService
from pi_orchestrator.http.model import ApiModel, RequestModel, Time
from pi_orchestrator.http.paging import MacPath


class CameraRegistration(ApiModel):
    """A camera as registered; `/api/v1/cameras` has its status."""

    mac_address: str
    device_id: str
    name: str
    container_id: str | None = None
    position: int | None = None
    registered_at: Time
    paired_at: Time | None = None


class ReplacementCamera(CameraRegistration):
    """New hardware that has replaced the camera `replaces`."""

    replaces: str


class DismissedCamera(ApiModel):
    """A camera that an operator unpaired or replaced; auto-onboarding ignores it."""

    mac_address: str
    device_id: str
    name: str
    reason: Reason
    replaced_by: str | None = None
    dismissed_by: str
    dismissed_at: Time
    why: str


class DismissedList(ApiModel):
    """Every excluded camera."""

    cameras: list[DismissedCamera]
    total: int


class Pairing(RequestModel):
    """The camera to pair and its position."""

    model_config = ConfigDict(extra="forbid")

    mac: MacField
    container_id: ContainerId = Field(description="id of an existing container")
    position: Position | None = Field(None, description="1, 2, 3 or 4; default: the first free position")


class Replacement(RequestModel):
    """The old camera and the new camera that replaces it."""

    model_config = ConfigDict(extra="forbid")

    old_mac: MacField
    new_mac: MacField


async def pair(pairing: PairingService, body: Pairing, actor: Actor) -> CameraRegistration:
    """Assign a camera to a container; it is registered first if necessary.

    Nothing is sent to the camera. A camera that was never seen is registered with its MAC only, as offline.
    409 `POSITION_OCCUPIED` if the position is occupied or the container is full, `CAMERA_ALREADY_ASSIGNED` if the
    camera is assigned to another position.
    """
    return CameraRegistration(**_record(await pairing.pair(body.mac, body.container_id, body.position, actor)))


async def unpair(camera_service: CameraService, path: MacPath, actor: Actor) -> DismissedCamera:
    """Unregister a camera and delete its name and position; auto-onboarding does not register it again.

    Pairing or provisioning registers it again. After its exclusion is removed, auto-onboarding may do so too.
    """
    return _dismissed(await camera_service.unpair(path.mac, actor))


async def replace(pairing: PairingService, body: Replacement, actor: Actor) -> ReplacementCamera:
    """Replace a camera with new hardware, which takes over name, container, position, registration and history.

    The old camera is unregistered and excluded from auto-onboarding. If auto-onboarding has already assigned the new
    camera, that position becomes free. If an operator has assigned it: 409 `CAMERA_ALREADY_ASSIGNED`.
    """
    camera = await pairing.replace(body.old_mac, body.new_mac, actor)
    return ReplacementCamera(**_record(camera), replaces=body.old_mac)


async def list_dismissed(excluded: ExcludedCameras) -> DismissedList:
    """List the cameras that were unpaired or replaced: by which key, when and why."""
    cameras = [_dismissed(exclusion) for exclusion in excluded]
    return DismissedList(cameras=cameras, total=len(cameras))


async def lift(camera_service: CameraService, path: MacPath, actor: Actor) -> None:
    """Remove the exclusion of a camera: auto-onboarding may register it again. 204 also when it was not excluded."""
    await camera_service.lift(path.mac, actor)


def _record(camera: Camera) -> dict[str, object]:
    return {
        "mac_address": camera.mac,
        "device_id": camera.device_id,
        "name": camera.name or camera.device_id,
        "container_id": camera.container_id,
        "position": camera.position,
        "registered_at": rfc3339(camera.registered_at),
        "paired_at": rfc3339(camera.paired_at) if camera.paired_at else None,
    }


def _dismissed(exclusion: Exclusion) -> DismissedCamera:
    return DismissedCamera(
        mac_address=exclusion.mac,
        device_id=exclusion.device_id,
        name=exclusion.name or exclusion.device_id,
        reason=exclusion.reason,
        replaced_by=exclusion.replaced_by,
        dismissed_by=exclusion.by,
        dismissed_at=rfc3339(exclusion.at),
        why=exclusion.why,
    )
