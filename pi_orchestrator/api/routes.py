"""The one route table. What is not here does not exist."""

from __future__ import annotations

from pi_orchestrator.api import cameras, health, keys, onboarding, openapi
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Route
from pi_orchestrator.storage.keys import Scope

AUTO = "/api/v1/onboarding/auto"

_CAMERA = {
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
_STATUS = {
    "enabled": True,
    "mode": "dev",
    "running": True,
    "config": {
        "max_per_minute": 10,
        "burst_size": 5,
        "subnet_allowlist": ["192.168.10.0/24"],
        "verification_timeout_sec": 5,
    },
    "metrics": {"attempts": 3, "success": 2, "failed": 1, "rejected_by_policy": 0, "already_onboarded": 0},
    "target_container": "550e8400-e29b-41d4-a716-446655440000",
    "tokens": 2.5,
    "waiting": 0,
}
_AUDIT = {
    "events": [
        {
            "id": 4,
            "mac_address": "24:6F:28:B0:F7:F1",
            "stage": "paired",
            "outcome": "success",
            "device_id": "espcam-b0f7f1",
            "ip_address": "192.168.10.21",
            "firmware_version": "2.1.0",
            "container_id": "550e8400-e29b-41d4-a716-446655440000",
            "duration_ms": 48,
            "timestamp": "2026-01-22T15:00:00.000000Z",
        }
    ],
    "pagination": {"total": 1, "limit": 50, "offset": 0, "has_more": False},
}
_KEY = {"id": "1f0c9a3b", "name": "dashboard", "scope": "operate", "created_at": "2026-01-22T15:00:00.000000Z"}
_HEALTH = {"status": "ok", "version": "0.1.0"}

# Handler docstrings say what a route does at length; the summaries here are its name in a list.
ROUTES: tuple[Route, ...] = (
    *(
        Route("GET", path, health.health, "health", "Health", None, shape=Shape.PLAIN, example=_HEALTH)
        for path in ("/health", "/api/health", "/api/v1/health")
    ),
    Route("GET", "/healthz", health.healthz, "health", "Liveness", None, shape=Shape.PLAIN, example={"status": "ok"}),
    Route(
        "GET",
        "/readyz",
        health.readyz,
        "health",
        "Readiness",
        None,
        shape=Shape.PLAIN,
        also=(503,),
        example={"ready": True, "checks": {"database": True, "mqtt": True}, "errors": []},
    ),
    Route(
        "GET", "/version", health.version, "health", "Version", None, shape=Shape.PLAIN, example={"version": "0.1.0"}
    ),
    Route(
        "GET",
        "/metrics",
        health.metrics,
        "health",
        "Prometheus metrics",
        Scope.READ,
        shape=Shape.TEXT,
        example="piorch_mqtt_connected 1.0\n",
    ),
    Route(
        "GET",
        "/openapi.json",
        openapi.document,
        "health",
        "This document",
        Scope.READ,
        shape=Shape.PLAIN,
        example={"openapi": "3.1.0"},
    ),
    Route("GET", f"{AUTO}/status", onboarding.status, "onboarding", "Status", Scope.READ, example=_STATUS),
    Route(
        "POST",
        f"{AUTO}/enable",
        onboarding.enable,
        "onboarding",
        "Enable",
        Scope.OPERATE,
        action="onboarding.enable",
        errors=("ONBOARD_ENABLE_FAILED",),
        example={"enabled": True, "running": True, "message": "Auto-onboarding enabled"},
    ),
    Route(
        "POST",
        f"{AUTO}/disable",
        onboarding.disable,
        "onboarding",
        "Disable (kill switch)",
        Scope.OPERATE,
        action="onboarding.disable",
        example={"enabled": False, "running": False, "message": "Auto-onboarding disabled"},
    ),
    Route("GET", f"{AUTO}/events", onboarding.events, "onboarding", "Audit trail", Scope.READ, example=_AUDIT),
    Route(
        "GET",
        f"{AUTO}/events/{{mac}}",
        onboarding.events_of_camera,
        "onboarding",
        "Audit trail of one camera",
        Scope.READ,
        example=_AUDIT,
    ),
    Route(
        "POST",
        f"{AUTO}/metrics/reset",
        onboarding.reset_metrics,
        "onboarding",
        "Reset the counters",
        Scope.OPERATE,
        action="onboarding.metrics_reset",
        example={"message": "Metrics reset"},
    ),
    Route(
        "POST",
        f"{AUTO}/events/cleanup",
        onboarding.clean_events,
        "onboarding",
        "Delete old audit rows",
        Scope.ADMIN,
        action="onboarding.events_cleanup",
        keyed=True,
        example={"deleted_count": 12, "message": "12 events older than 90 days deleted"},
    ),
    Route(
        "GET",
        f"{AUTO}/policy/explain",
        onboarding.explain,
        "onboarding",
        "What the policy says of a camera",
        Scope.READ,
        example={
            "mac": "24:6F:28:B0:F7:F1",
            "ip": "192.168.10.21",
            "allowed": False,
            "rules": [
                {"rule": "enabled", "result": "fail", "why": "it is switched off", "code": "NOT_ENABLED"},
            ],
        },
    ),
    Route(
        "GET",
        "/api/v1/cameras",
        cameras.list_live,
        "cameras",
        "Live cameras",
        Scope.READ,
        shape=Shape.DOUBLED,
        example={"cameras": [_CAMERA], "count": 1},
    ),
    Route(
        "GET",
        "/api/v1/cameras/diagnostics",
        cameras.diagnostics,
        "cameras",
        "Live cameras with diagnostics",
        Scope.READ,
        shape=Shape.PLAIN,
        example=[{**_CAMERA, "diagnostics": {"connection_quality": "good", "error_count": 0}}],
    ),
    Route(
        "GET",
        "/api/v1/cameras/{id}",
        cameras.show,
        "cameras",
        "One camera",
        Scope.READ,
        shape=Shape.DOUBLED,
        errors=("CAMERA_NOT_FOUND",),
        example=_CAMERA,
    ),
    Route(
        "GET",
        "/api/v1/espcam/paired",
        cameras.list_paired,
        "cameras",
        "Registered cameras",
        Scope.READ,
        example={"cameras": [_PAIRED], "total": 1, "online_count": 1, "online": 1},
    ),
    Route(
        "GET",
        "/api/v1/keys",
        keys.list_keys,
        "keys",
        "API keys",
        Scope.ADMIN,
        keyed=True,
        example={"keys": [_KEY], "count": 1},
    ),
    Route(
        "POST",
        "/api/v1/keys",
        keys.create,
        "keys",
        "Create an API key",
        Scope.ADMIN,
        action="api_key.create",
        keyed=True,
        status=201,
        secret=True,
        errors=("CONFLICT",),
        example={"key": _KEY, "secret": "piorch_1f0c9a3b_…"},
    ),
    Route(
        "DELETE",
        "/api/v1/keys/{id}",
        keys.revoke,
        "keys",
        "Revoke an API key",
        Scope.ADMIN,
        action="api_key.revoke",
        keyed=True,
        status=204,
    ),
)
