"""Handlers for cameras: live, registered and paired ones, diagnostics, rename."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.model import (
    MAX_NAME_CHARS,
    parse_name,
)
from pi_orchestrator.features.cameras.service import CameraService
from pi_orchestrator.features.cameras.views import (
    Camera,
    CameraList,
    CameraPath,
    CameraViews,
    DiagnosedCamera,
    PairedList,
)
from pi_orchestrator.features.devices.views import ClockReading
from pi_orchestrator.http.model import RequestModel
from pi_orchestrator.http.route import Reply

Name = Annotated[
    str | None,
    BeforeValidator(parse_name),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_NAME_CHARS}, {"type": "null"}]}),
]


class CameraChange(RequestModel):
    """The new name of a camera."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="control characters are removed; empty or null resets the name to the device id")


async def list_live(views: CameraViews) -> Reply[CameraList]:
    """Live cameras: registered ones that have been seen, and unregistered ones that are present."""
    return Reply(encoded=views.encoded_list())


async def show(views: CameraViews, path: CameraPath) -> Reply[Camera]:
    """One camera, by MAC in any format or by device id."""
    return Reply(encoded=views.encoded(views.mac_of(path.id)))


async def rename(
    views: CameraViews, camera_service: CameraService, path: CameraPath, body: CameraChange, actor: Actor
) -> Camera:
    """Rename a registered camera."""
    camera = await camera_service.rename(views.mac_of(path.id), body.name, actor)
    return views.camera(camera.mac)


async def diagnostics(clock: Clock, views: CameraViews) -> list[DiagnosedCamera]:
    """Live cameras with connection quality, errors, recovery state, and the evidence for their state."""
    now = ClockReading.by(clock)
    return [views.diagnosed(mac, now) for mac in views.live()]


async def list_unassigned(cache: CameraCache, views: CameraViews) -> CameraList:
    """Registered cameras without a container, online or not."""
    cameras = [views.camera(camera.mac) for camera in cache if camera.container_id is None]
    return CameraList(cameras=cameras, count=len(cameras))


async def list_paired(cache: CameraCache, views: CameraViews) -> PairedList:
    """Registered cameras in a container, online or not; for the others see `/cameras/unassigned`."""
    cameras = [views.paired(camera) for camera in cache if camera.container_id is not None]
    online = sum(camera.status == "online" for camera in cameras)
    return PairedList(cameras=cameras, total=len(cameras), online_count=online, online=online)
