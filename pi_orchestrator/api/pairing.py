"""Cameras on the record and off it, by hand: pairing, replacing hardware, and who was taken out."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from pi_orchestrator.api.containers import ContainerId, Position
from pi_orchestrator.api.paging import MacPath
from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.dismissal import Dismissal, Reason
from pi_orchestrator.domain.mac import MacField
from pi_orchestrator.storage.actions import Actor


class Recorded(Wire):
    """A registered camera as it is on the record; how it does is told by `/api/v1/cameras`."""

    mac_address: str
    device_id: str
    name: str
    container_id: str | None = None
    position: int | None = None
    registered_at: Time
    paired_at: Time | None = None


class Replaced(Recorded):
    """New hardware in an old camera's place."""

    replaces: str


class DismissedCamera(Wire):
    """A camera that an operator took out: auto-onboarding leaves it alone."""

    mac_address: str
    device_id: str
    name: str
    reason: Reason
    replaced_by: str | None = None
    dismissed_by: str
    dismissed_at: Time
    why: str


class DismissedList(Wire):
    """Every camera that was taken out and has not come back."""

    cameras: list[DismissedCamera]
    total: int


class Pairing(BaseModel):
    """Which camera is to stand where."""

    model_config = ConfigDict(extra="forbid")

    mac: MacField
    container_id: ContainerId = Field(description="a container that is there")
    position: Position | None = Field(None, description="1, 2, 3 or 4; the first free one where it is not given")


class Replacement(BaseModel):
    """Which hardware takes over from which."""

    model_config = ConfigDict(extra="forbid")

    old_mac: MacField
    new_mac: MacField


async def pair(services: Services, body: Pairing, actor: Actor) -> Recorded:
    """Register a camera by hand and put it into a container; one that is registered is only put there.

    Nothing is asked of the camera: one that was never heard is registered by its MAC alone, and offline.
    409 `POSITION_OCCUPIED` where another stands there or the container is full, `CAMERA_ALREADY_ASSIGNED` where this
    one stands elsewhere.
    """
    return Recorded(**_record(await services.inventory.pair(body.mac, body.container_id, body.position, actor)))


async def unpair(services: Services, path: MacPath, actor: Actor) -> DismissedCamera:
    """Take a camera off the record, its name and place included; auto-onboarding does not bring it back.

    It comes back when it is paired by hand or provisioned, or may when its dismissal is lifted.
    """
    return _dismissed(await services.inventory.unpair(path.mac, actor))


async def replace(services: Services, body: Replacement, actor: Actor) -> Replaced:
    """Let new hardware take over an old camera's name, container, position, registration and history.

    The old one is off the record with that, and stays off. New hardware that auto-onboarding has taken in meanwhile
    leaves the place that it was given; where a person has placed it: 409 `CAMERA_ALREADY_ASSIGNED`.
    """
    camera = await services.inventory.replace(body.old_mac, body.new_mac, actor)
    return Replaced(**_record(camera), replaces=body.old_mac)


async def list_dismissed(services: Services) -> DismissedList:
    """Cameras that were unpaired or replaced: by whom, when and why."""
    cameras = [_dismissed(one) for one in services.dismissed]
    return DismissedList(cameras=cameras, total=len(cameras))


async def lift(services: Services, path: MacPath, actor: Actor) -> None:
    """Let auto-onboarding take a camera again that was taken out. 204 also when it was not."""
    await services.inventory.lift(path.mac, actor)


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


def _dismissed(one: Dismissal) -> DismissedCamera:
    return DismissedCamera(
        mac_address=one.mac,
        device_id=one.device_id,
        name=one.name or one.device_id,
        reason=one.reason,
        replaced_by=one.replaced_by,
        dismissed_by=one.by,
        dismissed_at=rfc3339(one.at),
        why=one.why,
    )
