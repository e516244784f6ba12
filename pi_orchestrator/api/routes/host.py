"""Routes: the machine, and what the daemon says of itself."""

from __future__ import annotations

import json

from pi_orchestrator.api import bundle, logs, system
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Route
from pi_orchestrator.api.sources import bookmark, frames, named
from pi_orchestrator.api.sse import RETRY_MS
from pi_orchestrator.storage.keys import Scope

_AT = "2026-01-22T15:00:00.000000Z"
_INFO = {
    "timestamp": _AT,
    "cpu": {"usage_percent": 12.4, "core_count": 4, "per_core": [9.8, 20.1, 7.5, 12.2]},
    "memory": {"used_mb": 612.3, "total_mb": 1848.4, "used_percent": 33.1, "available_mb": 1236.1},
    "disk": {"used_gb": 4.31, "total_gb": 28.71, "used_percent": 15.8, "path": "/var/lib/pi-orchestrator"},
    "temperature_celsius": 71.6,
    "uptime": 1209600000000000,
    "load_average": {"load_1": 0.42, "load_5": 0.37, "load_15": 0.31},
    "overall_status": "warning",
    "reasons": ["temperature at 71.6 °C (warning from 70 °C on)"],
}
_LINE = {
    "id": 6442450962,
    "timestamp": _AT,
    "level": "warn",
    "component": "net.mqtt",
    "message": "mqtt not connected",
    "fields": {"host": "127.0.0.1", "port": 1883, "reason": "Connection refused"},
}
_STREAM = (
    frames(
        "connection.established",
        at=_AT,
        payload={"message": "Connected to logs", "last_event_id": 6442450961},
        copy=False,
    )
    + bookmark(6442450961)
    + named("log", json.dumps(_LINE).encode(), event_id=6442450962, copy=True)
)

ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/v1/system/info", system.info, "system", "The machine", Scope.READ, example=_INFO),
    Route(
        "GET",
        "/api/system/info",
        system.info,
        "system",
        "The machine, for old dashboards",
        Scope.READ,
        shape=Shape.PLAIN,
        successor="/api/v1/system/info",
        example=_INFO,
    ),
    Route(
        "GET",
        "/api/v1/system/logs",
        logs.recent,
        "system",
        "The last lines of the log",
        Scope.READ,
        example={
            "logs": [_LINE],
            "count": 1,
            "pagination": {"total": 318, "limit": 1, "has_more": True, "before": 6442450962},
        },
    ),
    Route(
        "GET",
        "/api/v1/system/logs/stream",
        logs.stream,
        "system",
        "The log as it is written",
        Scope.READ,
        shape=Shape.STREAM,
        example=f"retry: {RETRY_MS}\n{_STREAM.decode()}",
    ),
    Route(
        "GET",
        "/api/dashboard/logs",
        logs.recent_bare,
        "system",
        "The last lines of the log, for old dashboards",
        Scope.READ,
        shape=Shape.PLAIN,
        successor="/api/v1/system/logs",
        example={"count": 1, "logs": [_LINE]},
    ),
    Route(
        "GET",
        "/api/v1/system/bundle",
        bundle.bundle,
        "system",
        "The diagnostics bundle",
        Scope.OPERATE,
        keyed=True,
        shape=Shape.BINARY,
        produces=bundle.MEDIA_TYPE,
    ),
    Route(
        "GET",
        "/api/dashboard/diagnostics/export",
        bundle.export,
        "system",
        "Figures, log and configuration in one, for old dashboards",
        Scope.READ,
        shape=Shape.PLAIN,
        successor="/api/v1/system/bundle",
        example={"generated_at": _AT, "system": _INFO, "logs": [_LINE], "config": {"sections": []}},
    ),
)
