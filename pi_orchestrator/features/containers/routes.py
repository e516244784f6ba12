"""Routes of containers (places with positions for four cameras) and pairing."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.containers import api as containers
from pi_orchestrator.features.containers import pairing_api as pairing
from pi_orchestrator.http.route import table

BASE = "/api/v1/containers"
_ID = "550e8400-e29b-41d4-a716-446655440000"
_TIMESTAMP = "2026-01-22T15:00:00.000000Z"
_ASSIGNMENT = {
    "device_id": "espcam-b0f7f1",
    "mac_address": "24:6F:28:B0:F7:F1",
    "position": 1,
    "assigned_at": _TIMESTAMP,
}
_CONTAINER = {
    "id": _ID,
    "label": "North hall",
    "created_at": _TIMESTAMP,
    "updated_at": _TIMESTAMP,
    "cameras": [{**_ASSIGNMENT, "status": "online", "name": "Entrance"}],
    "camera_count": 1,
    "online_count": 1,
}
_EMPTY = {**_CONTAINER, "cameras": [], "camera_count": 0, "online_count": 0}
_PAIRED = {
    "mac_address": "24:6F:28:B0:F7:F1",
    "device_id": "espcam-b0f7f1",
    "name": "Entrance",
    "container_id": _ID,
    "position": 1,
    "registered_at": _TIMESTAMP,
    "paired_at": _TIMESTAMP,
}
# The API calls an exclusion "dismissed"; `reason` is a code, `why` the sentence for operators.
_EXCLUSION = {
    "mac_address": "24:6F:28:B0:F7:F1",
    "device_id": "espcam-b0f7f1",
    "name": "Entrance",
    "reason": "unpaired",
    "dismissed_by": "admin",
    "dismissed_at": _TIMESTAMP,
    "why": "it was unpaired (by admin, 2026-01-22 15:00 UTC); pair it manually, or lift the exclusion",
}
_NOT_FOUND = (ErrorCode.CONTAINER_NOT_FOUND,)
_ASSIGNMENT_ERRORS = (
    *_NOT_FOUND,
    ErrorCode.INVALID_POSITION,
    ErrorCode.POSITION_OCCUPIED,
    ErrorCode.CAMERA_ALREADY_ASSIGNED,
)

ROUTES: tuple[Route, ...] = (
    *table(
        "containers",
        Route(
            "GET",
            BASE,
            containers.list_containers,
            "containers",
            "List the containers",
            Scope.READ,
            example={"containers": [_CONTAINER], "total": 1},
        ),
        Route(
            "POST",
            BASE,
            containers.create,
            "containers",
            "Create a container",
            Scope.OPERATE,
            action="container.create",
            status=201,
            example=_EMPTY,
        ),
        Route(
            "GET",
            f"{BASE}/{{id}}",
            containers.show,
            "containers",
            "Get a container",
            Scope.READ,
            errors=_NOT_FOUND,
            example=_CONTAINER,
        ),
        Route(
            "PATCH",
            f"{BASE}/{{id}}",
            containers.change,
            "containers",
            "Change a container",
            Scope.OPERATE,
            action="container.change",
            errors=_NOT_FOUND,
            example=_CONTAINER,
        ),
        Route(
            "DELETE",
            f"{BASE}/{{id}}",
            containers.delete,
            "containers",
            "Delete a container",
            Scope.OPERATE,
            action="container.delete",
            status=204,
            errors=(ErrorCode.CONTAINER_HAS_CAMERAS,),
        ),
        Route(
            "POST",
            f"{BASE}/{{id}}/cameras",
            containers.assign,
            "containers",
            "Assign a camera to a position",
            Scope.OPERATE,
            action="container.assign",
            status=201,
            errors=(*_ASSIGNMENT_ERRORS, ErrorCode.CAMERA_NOT_FOUND, ErrorCode.CONFLICT),
            example={"container_id": _ID, **_ASSIGNMENT},
        ),
        Route(
            "DELETE",
            f"{BASE}/{{id}}/cameras/{{device_id}}",
            containers.unassign,
            "containers",
            "Remove a camera from a container",
            Scope.OPERATE,
            action="container.unassign",
            errors=(*_NOT_FOUND, ErrorCode.CAMERA_NOT_FOUND, ErrorCode.CONFLICT),
            example={
                "container_id": _ID,
                "device_id": "espcam-b0f7f1",
                "message": "espcam-b0f7f1 is not in this container any more",
            },
        ),
    ),
    *table(
        "pairing",
        Route(
            "POST",
            "/api/v1/espcam/pair",
            pairing.pair,
            "pairing",
            "Pair a camera: register it if necessary, and assign it to a position",
            Scope.OPERATE,
            action="camera.pair",
            errors=_ASSIGNMENT_ERRORS,
            example=_PAIRED,
        ),
        Route(
            "DELETE",
            "/api/v1/espcam/paired/{mac}",
            pairing.unpair,
            "pairing",
            "Unpair a camera",
            Scope.OPERATE,
            action="camera.unpair",
            needs_key_in_provisioning_mode=True,
            errors=(ErrorCode.CAMERA_NOT_FOUND,),
            example=_EXCLUSION,
        ),
        Route(
            "POST",
            "/api/v1/espcam/replace",
            pairing.replace,
            "pairing",
            "Replace a camera",
            Scope.OPERATE,
            action="camera.replace",
            needs_key_in_provisioning_mode=True,
            errors=(ErrorCode.CAMERA_NOT_FOUND, ErrorCode.CAMERA_ALREADY_ASSIGNED),
            example={**_PAIRED, "replaces": "24:6F:28:B0:F8:01"},
        ),
        Route(
            "GET",
            "/api/v1/espcam/dismissed",
            pairing.list_dismissed,
            "pairing",
            "List the excluded cameras",
            Scope.READ,
            example={"cameras": [_EXCLUSION], "total": 1},
        ),
        Route(
            "DELETE",
            "/api/v1/espcam/dismissed/{mac}",
            pairing.lift,
            "pairing",
            "Remove an exclusion",
            Scope.OPERATE,
            action="camera.lift",
            needs_key_in_provisioning_mode=True,
            status=204,
        ),
    ),
)
