"""Containers of four cameras: `/api/v1/containers`."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pi_orchestrator.api.cameras import is_online
from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.camera import Camera, CameraStatus
from pi_orchestrator.domain.container import (
    MAX_DESCRIPTION_CHARS,
    MAX_LABEL_CHARS,
    Container,
    parse_container_description,
    parse_container_id,
    parse_label,
    parse_position,
)
from pi_orchestrator.storage import containers
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.workers.inventory import found_container

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
_LABEL = "what people call it; control characters are left out, empty or null is none"
_DESCRIPTION = "what it is, for people; control characters are left out, empty or null is none"


class PlacedCamera(Wire):
    """A camera in its place."""

    device_id: str
    mac_address: str
    position: int
    assigned_at: Time
    status: CameraStatus
    name: str


class ContainerView(Wire):
    """A container and who stands in it; `online_count` is as of now."""

    id: str
    label: str | None = None
    description: str | None = None
    created_at: Time
    updated_at: Time
    cameras: list[PlacedCamera]
    camera_count: int
    online_count: int


class ContainerList(Wire):
    """Every container."""

    containers: list[ContainerView]
    total: int


class Assignment(Wire):
    """A camera's place."""

    container_id: str
    device_id: str
    mac_address: str
    position: int
    assigned_at: Time


class Unassigned(Wire):
    """That a camera does not stand there any more."""

    container_id: str
    device_id: str
    message: str


class ContainerPath(BaseModel):
    """A container by its id."""

    id: ContainerId = Field(description="the container's id")


class PlacePath(ContainerPath):
    """A camera in a container."""

    device_id: str = Field(min_length=1, max_length=64, description="MAC in any spelling, or device id")


class ContainerText(BaseModel):
    """What is written on a container."""

    model_config = ConfigDict(extra="forbid")

    label: Label = Field(None, description=_LABEL)
    description: Description = Field(None, description=_DESCRIPTION)


class Wanted(BaseModel):
    """Who is to stand where."""

    model_config = ConfigDict(extra="forbid")

    device_id: str = Field(min_length=1, max_length=64, description="MAC in any spelling, or device id")
    position: Position = Field(description="1, 2, 3 or 4")


async def list_containers(services: Services) -> ContainerList:
    """Every container with its cameras, in the order in which they were made."""
    placed = _placed(services)
    views = [_view(services, one, placed[one.id]) for one in await containers.listed(services.database)]
    return ContainerList(containers=views, total=len(views))


async def create(services: Services, body: ContainerText, actor: Actor) -> ContainerView:
    """Make a container.

    The same words again within 30 s are a repeat: while nothing has been done with the container that was made, it is
    the answer. Who wants another one in the same words waits, or gives each its own words.
    """
    container = await services.inventory.create(actor, label=body.label, description=body.description)
    return _view(services, container, [])


async def show(services: Services, path: ContainerPath) -> ContainerView:
    """One container with its cameras."""
    container = found_container(await containers.load(services.database, path.id), path.id)
    return _view(services, container, _placed(services)[path.id])


async def change(services: Services, path: ContainerPath, body: ContainerText, actor: Actor) -> ContainerView:
    """Write something else on a container; what is not given stays as it is."""
    container = await services.inventory.change(path.id, body.model_dump(exclude_unset=True), actor)
    return _view(services, container, _placed(services)[path.id])


async def delete(services: Services, path: ContainerPath, actor: Actor) -> None:
    """Delete an empty container. 204 also when it was not there.

    409 `CONTAINER_HAS_CAMERAS` while a camera stands in it, and `CONFLICT` while auto-onboarding puts cameras there.
    """
    await services.inventory.delete(path.id, actor)


async def assign(services: Services, path: ContainerPath, body: Wanted, actor: Actor) -> Assignment:
    """Put a camera on a position; one that is heard but not registered yet is registered with that.

    409 `POSITION_OCCUPIED` where another stands there, `CAMERA_ALREADY_ASSIGNED` where this one stands elsewhere.
    """
    camera = await services.inventory.pair(services.views.find(body.device_id), path.id, body.position, actor)
    return Assignment(
        container_id=path.id,
        device_id=camera.device_id,
        mac_address=camera.mac,
        position=body.position,
        assigned_at=rfc3339(camera.paired_at) if camera.paired_at else "",
    )


async def unassign(services: Services, path: PlacePath, actor: Actor) -> Unassigned:
    """Take a camera out of a container; it stays registered. The same answer where it does not stand there."""
    camera = await services.inventory.unassign(path.id, path.device_id, actor)
    return Unassigned(
        container_id=path.id,
        device_id=camera.device_id,
        message=f"{camera.device_id} does not stand in this container any more",
    )


def _placed(services: Services) -> defaultdict[str, list[Camera]]:
    """Who stands in which container, by position."""
    placed: defaultdict[str, list[Camera]] = defaultdict(list)
    for camera in services.roster:
        if camera.container_id is not None:
            placed[camera.container_id].append(camera)
    return placed


def _view(services: Services, container: Container, cameras: list[Camera]) -> ContainerView:
    shown = [_camera(services, camera) for camera in sorted(cameras, key=lambda camera: camera.position or 0)]
    return ContainerView(
        id=container.id,
        label=container.label,
        description=container.description,
        created_at=rfc3339(container.created_at),
        updated_at=rfc3339(container.updated_at),
        cameras=shown,
        camera_count=len(shown),
        online_count=sum(is_online(camera.status) for camera in shown),
    )


def _camera(services: Services, camera: Camera) -> PlacedCamera:
    return PlacedCamera(
        device_id=camera.device_id,
        mac_address=camera.mac,
        position=camera.position or 0,
        assigned_at=rfc3339(camera.paired_at) if camera.paired_at else "",
        status=services.views.status(camera.mac),
        name=camera.name or camera.device_id,
    )
