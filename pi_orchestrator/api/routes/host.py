"""Routes: the machine, and what the daemon says of itself."""

from __future__ import annotations

from pi_orchestrator.api import system
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Route
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
)
