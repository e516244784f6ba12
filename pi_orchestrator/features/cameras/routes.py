"""Routes: cameras, live and registered."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.envelope import ENVELOPE_WITH_FIELDS
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.cameras import api as cameras
from pi_orchestrator.http.route import BARE, table

CAMERA = {
    "id": "espcam-b0f7f1",
    "device_id": "espcam-b0f7f1",
    "name": "espcam-b0f7f1",
    "status": "online",
    "lastSeen": "2026-01-22T15:00:00.000000Z",
    "last_seen": "2026-01-22T15:00:00.000000Z",
    "ip_address": "192.168.10.21",
    "mac_address": "24:6F:28:B0:F7:F1",
    "container_id": "550e8400-e29b-41d4-a716-446655440000",
    "position": 1,
    "firmware_version": "2.1.0",
    "health": {
        "wifi_rssi": -54,
        "free_heap": 143210,
        "heap": 143210,
        "uptime": 1042,
        "uptime_seconds": 1042,
        "firmware_version": "2.1.0",
    },
}
DIAGNOSED = {
    **CAMERA,
    "diagnostics": {
        "connection_quality": "good",
        "error_count": 0,
        "avg_capture_time_ms": 840,
        "remedy": {"state": "ok", "failures": 0, "advice": ""},
    },
    "why": "published on MQTT 12 s ago",
    "evidence": [
        {
            "source": "mqtt",
            "proves_life": True,
            "first_seen": "2026-01-22T14:55:00.000000Z",
            "last_seen": "2026-01-22T15:00:00.000000Z",
            "age_seconds": 12.0,
            "signal_strength": -54,
        }
    ],
}
_PAIRED = {
    "mac_address": "24:6F:28:B0:F7:F1",
    "container_id": "550e8400-e29b-41d4-a716-446655440000",
    "position": 1,
    "status": "online",
    "firmware_version": "2.1.0",
    "signal_strength": -54,
    "last_image": "",
    "paired_at": "2026-01-22T15:00:00.000000Z",
    "last_seen": "2026-01-22T15:00:00.000000Z",
    "name": "espcam-b0f7f1",
}

ROUTES: tuple[Route, ...] = table(
    "cameras",
    Route(
        "GET",
        "/api/v1/cameras",
        cameras.list_live,
        "cameras",
        "Live cameras",
        Scope.READ,
        shape=ENVELOPE_WITH_FIELDS,
        example={"cameras": [CAMERA], "count": 1},
    ),
    Route(
        "GET",
        "/api/v1/cameras/diagnostics",
        cameras.diagnostics,
        "cameras",
        "Live cameras with diagnostics",
        Scope.READ,
        shape=BARE,
        example=[DIAGNOSED],
    ),
    Route(
        "GET",
        "/api/v1/cameras/unassigned",
        cameras.list_unassigned,
        "cameras",
        "Registered cameras without a container",
        Scope.READ,
        shape=ENVELOPE_WITH_FIELDS,
        example={
            "cameras": [{name: value for name, value in CAMERA.items() if name not in ("container_id", "position")}],
            "count": 1,
        },
    ),
    Route(
        "GET",
        "/api/v1/cameras/{id}",
        cameras.show,
        "cameras",
        "One camera",
        Scope.READ,
        shape=ENVELOPE_WITH_FIELDS,
        errors=(ErrorCode.CAMERA_NOT_FOUND, ErrorCode.CONFLICT),
        example=CAMERA,
    ),
    Route(
        "PATCH",
        "/api/v1/cameras/{id}",
        cameras.rename,
        "cameras",
        "Rename a camera",
        Scope.OPERATE,
        action="camera.rename",
        shape=ENVELOPE_WITH_FIELDS,
        errors=(ErrorCode.CAMERA_NOT_FOUND, ErrorCode.CONFLICT),
        example={**CAMERA, "name": "Entrance"},
    ),
    Route(
        "GET",
        "/api/v1/espcam/paired",
        cameras.list_paired,
        "cameras",
        "Registered cameras in containers",
        Scope.READ,
        example={"cameras": [_PAIRED], "total": 1, "online_count": 1, "online": 1},
    ),
)
