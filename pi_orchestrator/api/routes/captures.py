"""Routes: pictures, reboots and other commands."""

from __future__ import annotations

from pi_orchestrator.api import captures, commands
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Route
from pi_orchestrator.storage.keys import Scope

_PICTURE = {
    "success": True,
    "image": "/9j/4AAQSkZJRgABAQAAAQABAAD/2Q==",
    "timestamp": "2026-01-22T15:00:00.000000Z",
    "camera_id": "espcam-b0f7f1",
    "file_size": 22,
}
_ERRORS = ("CAMERA_NOT_FOUND", "CAMERA_OFFLINE", "CAPTURE_TIMEOUT", "CAPTURE_FAILED")

ROUTES: tuple[Route, ...] = (
    *(
        Route(
            "POST",
            f"/api/v1/cameras/{{id}}/{verb}",
            captures.capture,
            "captures",
            "Take a picture",
            Scope.OPERATE,
            action="camera.capture",
            shape=Shape.BINARY,
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
        "The last picture",
        Scope.READ,
        shape=Shape.BINARY,
        also=(304,),
        produces=captures.JPEG,
        errors=("CAMERA_NOT_FOUND", "NOT_FOUND"),
        example="the bytes of a JPEG",
    ),
    Route(
        "POST",
        "/api/v1/cameras/{id}/commands",
        commands.command,
        "captures",
        "Tell a camera something",
        Scope.OPERATE,
        action="camera.command",
        keyed=True,
        errors=(
            "CAMERA_NOT_FOUND",
            "CAMERA_OFFLINE",
            "MQTT_UNAVAILABLE",
            "DEVICE_ALREADY_PROVISIONING",
            "DEVICE_REJECTED",
            "DEVICE_TIMEOUT",
            "DEVICE_UNREACHABLE",
        ),
        example={
            "action": "ping",
            "request_id": "5f2b7c0e9d4a4f0e8f3e6f1b2a7c9d10",
            "via": "mqtt",
            "answer": {"device_id": "espcam-b0f7f1", "success": True, "status": "complete"},
        },
    ),
    Route(
        "POST",
        "/api/v1/cameras/{id}/reboot",
        commands.reboot,
        "captures",
        "Reboot a camera",
        Scope.OPERATE,
        action="camera.reboot",
        shape=Shape.DOUBLED,
        errors=("CAMERA_NOT_FOUND", "CAMERA_OFFLINE", "DEVICE_ALREADY_PROVISIONING", "REBOOT_FAILED"),
        example={"message": "the camera reboots"},
    ),
)
