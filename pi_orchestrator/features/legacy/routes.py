"""Routes for old dashboards. Each answers like a current route, in an older format.

The headers of a response name the path of the current route, its successor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.cameras import routes as cameras
from pi_orchestrator.features.captures import routes as captures
from pi_orchestrator.features.commands import routes as commands
from pi_orchestrator.features.legacy import api as adapters
from pi_orchestrator.features.network import routes as network
from pi_orchestrator.http.route import BARE, BINARY, Shape

_CURRENT = {
    f"{route.method} {route.path}": route
    for route in (*cameras.ROUTES, *captures.ROUTES, *commands.ROUTES, *network.ROUTES)
}


def _legacy(path: str, current: str, *, shape: Shape = BARE, **changes: Any) -> Route:
    route = _CURRENT[current]
    return replace(
        route,
        path=path,
        shape=shape,
        successor=route.path,
        tag="dashboard",
        summary=f"{route.summary}, for old dashboards",
        **changes,
    )


ROUTES: tuple[Route, ...] = (
    _legacy(
        "/api/dashboard/cameras",
        "GET /api/v1/cameras",
        handler=adapters.cameras,
        resource="adapters",
        example={"cameras": [cameras.CAMERA], "count": 1, "success": True},
    ),
    _legacy("/api/dashboard/cameras/diagnostics", "GET /api/v1/cameras/diagnostics"),
    _legacy("/api/dashboard/cameras/{id}/capture", "POST /api/v1/cameras/{id}/capture", shape=BINARY),
    _legacy(
        "/api/dashboard/cameras/{id}/reboot",
        "POST /api/v1/cameras/{id}/reboot",
        handler=adapters.reboot,
        resource="adapters",
        example={"message": "the camera reboots", "success": True},
    ),
    _legacy("/api/dashboard/mqtt/status", "GET /api/v1/network/mqtt"),
    _legacy(
        "/api/dashboard/bridge/status",
        "GET /api/v1/network/bridge",
        handler=adapters.bridge,
        resource="adapters",
        example={"status": network.BRIDGE, "success": True},
    ),
    _legacy("/api/dashboard/tailscale/status", "GET /api/v1/network/tailscale"),
    _legacy("/api/wifi/status", "GET /api/v1/wifi/status"),
    _legacy("/api/wifi/scan", "GET /api/v1/wifi/scan"),
)
