"""Handlers of `/api/v1/containers`."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.identifiers import parse_container_id
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.model import Camera, CameraStatus
from pi_orchestrator.features.cameras.views import CameraViews, is_online
from pi_orchestrator.features.containers import store as containers
from pi_orchestrator.features.containers.model import (
    MAX_DESCRIPTION_CHARS,
    MAX_LABEL_CHARS,
    Container,
    parse_container_description,
    parse_label,
    parse_position,
)
from pi_orchestrator.features.containers.pairing import PairingService
from pi_orchestrator.features.containers.service import ContainerService, require_container
from pi_orchestrator.http.model import ApiModel, RequestModel, Time
from pi_orchestrator.storage.database import Database

Label = Annotated[
    str | None,
    BeforeValidator(parse_label),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_LABEL_CHARS}, {"type": "null"}]}),
]
Description = Annotated[
    str | None,
    BeforeValidator(parse_container_description),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_DESCRIPTION_CHARS}, {"type": "null"}]}),
]
ContainerId = Annotated[
    str,
    AfterValidator(parse_container_id),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}),
]
Position = Annotated[
    int, BeforeValidator(parse_position), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 4})
]
_LABEL = "display name; control characters are removed, empty or null means no label"
_DESCRIPTION = "a note for operators; control characters are removed, empty or null means no description"


class PlacedCamera(ApiModel):
    """A camera in a container, with its position."""

    device_id: str
    mac_address: str
    position: int
    assigned_at: Time
    status: CameraStatus
    name: str


class ContainerView(ApiModel):
    """A container and its cameras; `online_count` is the number of them that are online now."""

    id: str
    label: str | None = None
    description: str | None = None
    created_at: Time
    updated_at: Time
    cameras: list[PlacedCamera]
    camera_count: int
    online_count: int


class ContainerList(ApiModel):
    """Every container."""

    containers: list[ContainerView]
    total: int


class Assignment(ApiModel):
    """The container and position of a camera."""

    container_id: str
    device_id: str
    mac_address: str
    position: int
    assigned_at: Time


class Unassigned(ApiModel):
    """Confirmation that a camera is not assigned to the container."""

    container_id: str
    device_id: str
    message: str


class ContainerPath(RequestModel):
    """A container by its id."""

    id: ContainerId = Field(description="the container's id")


class PlacePath(ContainerPath):
    """A camera in a container."""

    device_id: str = Field(min_length=1, max_length=64, description="MAC in any format, or device id")


class ContainerText(RequestModel):
    """Label and description of a container."""

    model_config = ConfigDict(extra="forbid")

    label: Label = Field(None, description=_LABEL)
    description: Description = Field(None, description=_DESCRIPTION)


class AssignmentRequest(RequestModel):
    """The camera to assign and its position."""

    model_config = ConfigDict(extra="forbid")

    device_id: str = Field(min_length=1, max_length=64, description="MAC in any format, or device id")
    position: Position = Field(description="1, 2, 3 or 4")


async def list_containers(database: Database, cache: CameraCache, views: CameraViews) -> ContainerList:
    """List all containers with their cameras, in creation order."""
    placed = _placed(cache)
    found = [_view(views, container, placed[container.id]) for container in await containers.listed(database)]
    return ContainerList(containers=found, total=len(found))


async def create(views: CameraViews, service: ContainerService, body: ContainerText, actor: Actor) -> ContainerView:
    """Create a container.

    A second request with the same label and description within 30 s is a repeat: it returns the first container, as
    long as that has not been changed or used. To create two equal containers, wait 30 s or use different texts.
    """
    container = await service.create(actor, label=body.label, description=body.description)
    return _view(views, container, [])


async def show(database: Database, cache: CameraCache, views: CameraViews, path: ContainerPath) -> ContainerView:
    """Return one container with its cameras."""
    container = require_container(await containers.load(database, path.id), path.id)
    return _view(views, container, _placed(cache)[path.id])


async def change(
    cache: CameraCache,
    views: CameraViews,
    service: ContainerService,
    path: ContainerPath,
    body: ContainerText,
    actor: Actor,
) -> ContainerView:
    """Change label and description of a container; missing fields do not change."""
    container = await service.change(path.id, body.model_dump(exclude_unset=True), actor)
    return _view(views, container, _placed(cache)[path.id])


async def delete(service: ContainerService, path: ContainerPath, actor: Actor) -> None:
    """Delete an empty container. 204 also when it did not exist.

    409 `CONTAINER_HAS_CAMERAS` if it has cameras, `CONFLICT` if it is the target of auto-onboarding.
    """
    await service.delete(path.id, actor)


async def assign(
    views: CameraViews, pairing: PairingService, path: ContainerPath, body: AssignmentRequest, actor: Actor
) -> Assignment:
    """Assign a camera to a position; a camera that was seen but is not registered is registered first.

    409 `POSITION_OCCUPIED` if the position is occupied, `CAMERA_ALREADY_ASSIGNED` if the camera has another position.
    """
    camera = await pairing.pair(views.mac_of(body.device_id), path.id, body.position, actor)
    return Assignment(
        container_id=path.id,
        device_id=camera.device_id,
        mac_address=camera.mac,
        position=body.position,
        assigned_at=rfc3339(camera.paired_at) if camera.paired_at else "",
    )


async def unassign(service: ContainerService, views: CameraViews, path: PlacePath, actor: Actor) -> Unassigned:
    """Remove a camera from a container; it stays registered. The answer is the same if it was not in the container."""
    views.check_unambiguous(path.device_id)
    camera = await service.unassign(path.id, path.device_id, actor)
    return Unassigned(
        container_id=path.id,
        device_id=camera.device_id,
        message=f"{camera.device_id} is not in this container any more",
    )


def _placed(cache: CameraCache) -> defaultdict[str, list[Camera]]:
    """The cameras of each container, unsorted."""
    placed: defaultdict[str, list[Camera]] = defaultdict(list)
    for camera in cache:
        if camera.container_id is not None:
            placed[camera.container_id].append(camera)
    return placed


def _view(views: CameraViews, container: Container, cameras: list[Camera]) -> ContainerView:
    placed = [_camera(views, camera) for camera in sorted(cameras, key=lambda camera: camera.position or 0)]
    return ContainerView(
        id=container.id,
        label=container.label,
        description=container.description,
        created_at=rfc3339(container.created_at),
        updated_at=rfc3339(container.updated_at),
        cameras=placed,
        camera_count=len(placed),
        online_count=sum(is_online(camera.status) for camera in placed),
    )


def _camera(views: CameraViews, camera: Camera) -> PlacedCamera:
    return PlacedCamera(
        device_id=camera.device_id,
        mac_address=camera.mac,
        position=camera.position or 0,
        assigned_at=rfc3339(camera.paired_at) if camera.paired_at else "",
        status=views.status(camera.mac),
        name=camera.name or camera.device_id,
    )
