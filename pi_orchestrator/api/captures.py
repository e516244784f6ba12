"""Pictures: a new one, and the last one."""

from __future__ import annotations

import asyncio
import base64
import json

from pydantic import BaseModel, ConfigDict, Field

from pi_orchestrator.api.cameras import CameraPath
from pi_orchestrator.api.route import Reply, Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.api.web_files import quality
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.capture import Picture
from pi_orchestrator.errors import NotFoundError
from pi_orchestrator.storage.actions import Actor

JPEG = "image/jpeg"
ENCODED_AT_ONCE = 96 * 1024
"""Bytes; a multiple of three, so that the pieces join."""


class JsonPicture(Wire):
    """A picture in JSON."""

    success: bool
    image: str = Field(description="the JPEG in base64")
    timestamp: Time
    camera_id: str
    file_size: int = Field(description="bytes of the JPEG")


class AcceptHeader(BaseModel):
    """What the client would rather have."""

    model_config = ConfigDict(populate_by_name=True)
    accept: str = Field("", alias="Accept", description="image/jpeg, or application/json for a picture in base64")


class IfNoneMatch(BaseModel):
    """Which picture the client has."""

    model_config = ConfigDict(populate_by_name=True)
    etag: str = Field("", alias="If-None-Match", description="the ETag of the picture that the client has already")


async def capture(services: Services, actor: Actor, path: CameraPath, headers: AcceptHeader) -> Reply[JsonPicture]:
    """Take a picture; one that is very young is given again. Within 30 s there is a picture or an error.

    `X-Capture-Time` says when it was taken, `X-Capture-Source` by which way (`mqtt`, `http`, `cache`).
    """
    mac = services.views.find(path.id)
    picture = await services.captures.take(mac, actor=actor)
    told = {"X-Capture-Time": rfc3339(picture.taken_at), "X-Capture-Source": picture.source}
    if not prefers_json(headers.accept):
        return Reply(encoded=picture.jpeg, media_type=JPEG, headers=told)
    # Megabytes of base64 would hold the loop.
    body = await asyncio.to_thread(_as_json, picture, services.views.camera(mac).id)
    return Reply(encoded=body, headers=told)


async def image(services: Services, path: CameraPath, headers: IfNoneMatch) -> Reply[None]:
    """The last picture that was taken of a camera, while it is kept; the camera is not asked."""
    mac = services.views.find(path.id)
    picture = services.captures.last(mac)
    if picture is None:
        raise NotFoundError("no picture of this camera is kept", details="POST .../capture takes one")
    etag = f'"{picture.taken_at.timestamp():.6f}-{len(picture.jpeg):x}"'
    told = {
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "X-Capture-Time": rfc3339(picture.taken_at),
    }
    if _has(headers.etag, etag):
        return Reply(encoded=b"", status=304, headers=told)
    return Reply(encoded=picture.jpeg, media_type=JPEG, headers=told)


def prefers_json(accept: str) -> bool:
    """Whether an Accept header would rather have JSON than a picture; a picture where it does not say."""
    return _weight(accept, "application/json") > _weight(accept, JPEG)


def _weight(accept: str, media_type: str) -> float:
    """How much a header wants a media type, by its closest entry: 0 where it does not, 1 where it says nothing."""
    if not accept.strip():
        return 1.0
    closest, weight = -1, 0.0
    for entry in accept.split(","):
        wanted, *parameters = (part.strip().lower() for part in entry.split(";"))
        closeness = {media_type: 2, media_type.split("/", maxsplit=1)[0] + "/*": 1, "*/*": 0}.get(wanted, -1)
        if closeness > closest:
            closest, weight = closeness, quality(parameters)
    return weight


def _has(condition: str, etag: str) -> bool:
    return any(one.strip().removeprefix("W/") in ("*", etag) for one in condition.split(","))


def _as_json(picture: Picture, camera_id: str) -> bytes:
    rest = json.dumps({"timestamp": rfc3339(picture.taken_at), "camera_id": camera_id, "file_size": len(picture.jpeg)})
    pieces = [b'{"success":true,"image":"']
    pieces += [
        base64.b64encode(picture.jpeg[at : at + ENCODED_AT_ONCE]) for at in range(0, len(picture.jpeg), ENCODED_AT_ONCE)
    ]
    return b"".join([*pieces, b'",', rest[1:].encode()])
