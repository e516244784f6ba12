"""Routes: host status, logs, support bundle."""

from __future__ import annotations

import json

from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.edge_http.stream_sources import event_frame
from pi_orchestrator.features.system import api as system
from pi_orchestrator.features.system import bundle_api as bundle
from pi_orchestrator.features.system import logs_api as logs
from pi_orchestrator.features.system.bundle import MEDIA_TYPE
from pi_orchestrator.http.route import BARE, BINARY, STREAM, table
from pi_orchestrator.http.sse import RETRY_MS, bookmark, frame

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
    event_frame(
        "connection.established",
        at=_AT,
        payload={"message": "Connected to logs", "last_event_id": 6442450961},
        copy=False,
    )
    + bookmark(6442450961)
    + frame("log", json.dumps(_LINE).encode(), event_id=6442450962, copy=True)
)

ROUTES: tuple[Route, ...] = (
    *table(
        "system",
        Route("GET", "/api/v1/system/info", system.info, "system", "Host status", Scope.READ, example=_INFO),
        Route(
            "GET",
            "/api/system/info",
            system.info,
            "system",
            "Host status, for old dashboards",
            Scope.READ,
            shape=BARE,
            successor="/api/v1/system/info",
            example=_INFO,
        ),
    ),
    *table(
        "logs",
        Route(
            "GET",
            "/api/v1/system/logs",
            logs.recent,
            "system",
            "Last lines of the log",
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
            "Stream of the log",
            Scope.READ,
            shape=STREAM,
            example=f"retry: {RETRY_MS}\n{_STREAM.decode()}",
        ),
        Route(
            "GET",
            "/api/dashboard/logs",
            logs.recent_bare,
            "system",
            "Last lines of the log, for old dashboards",
            Scope.READ,
            shape=BARE,
            successor="/api/v1/system/logs",
            example={"count": 1, "logs": [_LINE]},
        ),
    ),
    *table(
        "bundle",
        Route(
            "GET",
            "/api/v1/system/bundle",
            bundle.bundle,
            "system",
            "Support bundle",
            Scope.OPERATE,
            needs_key_in_provisioning_mode=True,
            shape=BINARY,
            produces=MEDIA_TYPE,
        ),
        Route(
            "GET",
            "/api/dashboard/diagnostics/export",
            bundle.export,
            "system",
            "Host status, log and configuration, for old dashboards",
            Scope.READ,
            shape=BARE,
            successor="/api/v1/system/bundle",
            example={"generated_at": _AT, "system": _INFO, "logs": [_LINE], "config": {"sections": []}},
        ),
    ),
)
