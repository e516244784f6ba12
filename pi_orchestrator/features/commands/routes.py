"""Routes of commands and reboots."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.envelope import ENVELOPE_WITH_FIELDS
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.commands import api as commands
from pi_orchestrator.http.route import table

ROUTES: tuple[Route, ...] = table(
    "commands",
    Route(
        "POST",
        "/api/v1/cameras/{id}/commands",
        commands.command,
        "captures",
        "Send a command to a camera",
        Scope.OPERATE,
        action="camera.command",
        needs_key_in_provisioning_mode=True,
        errors=(
            ErrorCode.CAMERA_NOT_FOUND,
            ErrorCode.CONFLICT,
            ErrorCode.CAMERA_OFFLINE,
            ErrorCode.MQTT_UNAVAILABLE,
            ErrorCode.DEVICE_ALREADY_PROVISIONING,
            ErrorCode.DEVICE_REJECTED,
            ErrorCode.DEVICE_TIMEOUT,
            ErrorCode.DEVICE_UNREACHABLE,
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
        shape=ENVELOPE_WITH_FIELDS,
        errors=(
            ErrorCode.CAMERA_NOT_FOUND,
            ErrorCode.CONFLICT,
            ErrorCode.CAMERA_OFFLINE,
            ErrorCode.DEVICE_ALREADY_PROVISIONING,
            ErrorCode.REBOOT_FAILED,
        ),
        example={"message": "the camera reboots"},
    ),
)
