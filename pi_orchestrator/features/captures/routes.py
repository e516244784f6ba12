"""Routes of pictures."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.captures import api as captures
from pi_orchestrator.http.route import BINARY, table

_PICTURE = {
    "success": True,
    "image": "/9j/4AAQSkZJRgABAQAAAQABAAD/2Q==",
    "timestamp": "2026-01-22T15:00:00.000000Z",
    "camera_id": "espcam-b0f7f1",
    "file_size": 22,
}
_ERRORS = (
    ErrorCode.CAMERA_NOT_FOUND,
    ErrorCode.CONFLICT,
    ErrorCode.CAMERA_OFFLINE,
    ErrorCode.CAPTURE_TIMEOUT,
    ErrorCode.CAPTURE_FAILED,
)

ROUTES: tuple[Route, ...] = table(
    "captures",
    *(
        Route(
            "POST",
            f"/api/v1/cameras/{{id}}/{verb}",
            captures.capture,
            "captures",
            "Take a picture",
            Scope.OPERATE,
            action="camera.capture",
            shape=BINARY,
            produces=captures.JPEG,
            errors=_ERRORS,
            example=_PICTURE,
        )
        for verb in ("capture", "snapshot")
    ),
    Route(
        "GET",
        "/api/v1/cameras/{id}/image",
        captures.image,
        "captures",
        "Get the last picture",
        Scope.READ,
        shape=BINARY,
        other_statuses=(304,),
        produces=captures.JPEG,
        errors=(ErrorCode.CAMERA_NOT_FOUND, ErrorCode.CONFLICT, ErrorCode.NOT_FOUND),
        example="the bytes of a JPEG",
    ),
)
