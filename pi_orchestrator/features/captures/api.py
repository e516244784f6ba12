"""Handlers of two routes: take a picture, and get the last picture."""

from __future__ import annotations

import asyncio
import base64
import json

from pydantic import ConfigDict, Field

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.errors import NotFoundError
from pi_orchestrator.features.cameras.views import CameraPath, CameraViews
from pi_orchestrator.features.captures.model import Picture
from pi_orchestrator.features.captures.service import CaptureService
from pi_orchestrator.http.model import ApiModel, RequestModel, Time
from pi_orchestrator.http.negotiation import quality
from pi_orchestrator.http.route import Reply

JPEG = "image/jpeg"
ENCODE_PIECE_BYTES = 96 * 1024
"""A multiple of three, so that the base64 pieces can be joined."""


class JsonPicture(ApiModel):
    """A picture in JSON."""

    success: bool
    image: str = Field(description="the JPEG in base64")
    timestamp: Time
    camera_id: str
    file_size: int = Field(description="bytes of the JPEG")


class AcceptHeader(RequestModel):
    """The format that the client prefers."""

    model_config = ConfigDict(populate_by_name=True)
    accept: str = Field("", alias="Accept", description="image/jpeg, or application/json for a picture in base64")


class IfNoneMatch(RequestModel):
    """The ETag of the picture that the client has."""

    model_config = ConfigDict(populate_by_name=True)
    etag: str = Field("", alias="If-None-Match", description="ETag of the picture that the client has")


async def capture(
    views: CameraViews, captures: CaptureService, actor: Actor, path: CameraPath, headers: AcceptHeader
) -> Reply[JsonPicture]:
    """Take a picture, or return the last one if it is recent. Answers within 30 s with a picture or an error.

    `X-Capture-Time` is the time of the picture, `X-Capture-Source` is `mqtt`, `http` or `cache`.
    """
    mac = views.mac_of(path.id)
    picture = await captures.take(mac, actor=actor)
    response_headers = {"X-Capture-Time": rfc3339(picture.taken_at), "X-Capture-Source": picture.source}
    if not prefers_json(headers.accept):
        return Reply(encoded=picture.jpeg, media_type=JPEG, headers=response_headers)
    # Encoding megabytes of base64 would block the event loop.
    body = await asyncio.to_thread(_encode_json, picture, views.camera(mac).id)
    return Reply(encoded=body, headers=response_headers)


async def image(views: CameraViews, captures: CaptureService, path: CameraPath, headers: IfNoneMatch) -> Reply[None]:
    """Return the last picture of a camera, while it is in memory; nothing is sent to the camera."""
    mac = views.mac_of(path.id)
    picture = captures.last(mac)
    if picture is None:
        raise NotFoundError("no picture of this camera in memory", details="take one with POST .../capture")
    etag = f'"{picture.taken_at.timestamp():.6f}-{len(picture.jpeg):x}"'
    response_headers = {
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "X-Capture-Time": rfc3339(picture.taken_at),
    }
    if _matches(headers.etag, etag):
        return Reply(encoded=b"", status=304, headers=response_headers)
    return Reply(encoded=picture.jpeg, media_type=JPEG, headers=response_headers)


def prefers_json(accept: str) -> bool:
    """Whether an Accept header prefers JSON to a JPEG; JPEG is the default."""
    return _weight(accept, "application/json") > _weight(accept, JPEG)


def _weight(accept: str, media_type: str) -> float:
    """The quality of a media type by the most specific entry of an Accept header: 0 if refused, 1 without entries."""
    if not accept.strip():
        return 1.0
    best, weight = -1, 0.0
    for entry in accept.split(","):
        pattern, *parameters = (part.strip().lower() for part in entry.split(";"))
        specificity = {media_type: 2, media_type.split("/", maxsplit=1)[0] + "/*": 1, "*/*": 0}.get(pattern, -1)
        if specificity > best:
            best, weight = specificity, quality(parameters)
    return weight


def _matches(condition: str, etag: str) -> bool:
    return any(tag.strip().removeprefix("W/") in ("*", etag) for tag in condition.split(","))


def _encode_json(picture: Picture, camera_id: str) -> bytes:
    rest = json.dumps({"timestamp": rfc3339(picture.taken_at), "camera_id": camera_id, "file_size": len(picture.jpeg)})
    pieces = [b'{"success":true,"image":"']
    pieces += [
        base64.b64encode(picture.jpeg[start : start + ENCODE_PIECE_BYTES])
        for start in range(0, len(picture.jpeg), ENCODE_PIECE_BYTES)
    ]
    return b"".join([*pieces, b'",', rest[1:].encode()])
