"""Routes: old paths that dashboards still call, each a route of today in another shape, as its headers say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pi_orchestrator.api import adapters
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Route
from pi_orchestrator.api.routes import cameras, captures, network

_TODAY = {f"{route.method} {route.path}": route for route in (*cameras.ROUTES, *captures.ROUTES, *network.ROUTES)}


def _old(path: str, today: str, *, shape: Shape = Shape.PLAIN, **differs: Any) -> Route:
    route = _TODAY[today]
    return replace(
        route,
        path=path,
        shape=shape,
        successor=route.path,
        tag="dashboard",
        summary=f"{route.summary}, for old dashboards",
        **differs,
    )


ROUTES: tuple[Route, ...] = (
    _old(
        "/api/dashboard/cameras",
        "GET /api/v1/cameras",
        handler=adapters.cameras,
        example={"cameras": [cameras.CAMERA], "count": 1, "success": True},
    ),
    _old("/api/dashboard/cameras/diagnostics", "GET /api/v1/cameras/diagnostics"),
    _old("/api/dashboard/cameras/{id}/capture", "POST /api/v1/cameras/{id}/capture", shape=Shape.BINARY),
    _old(
        "/api/dashboard/cameras/{id}/reboot",
        "POST /api/v1/cameras/{id}/reboot",
        handler=adapters.reboot,
        example={"message": "the camera reboots", "success": True},
    ),
    _old("/api/dashboard/mqtt/status", "GET /api/v1/network/mqtt"),
    _old(
        "/api/dashboard/bridge/status",
        "GET /api/v1/network/bridge",
        handler=adapters.bridge,
        example={"status": network.BRIDGE, "success": True},
    ),
    _old("/api/dashboard/tailscale/status", "GET /api/v1/network/tailscale"),
    _old("/api/wifi/status", "GET /api/v1/wifi/status"),
    _old("/api/wifi/scan", "GET /api/v1/wifi/scan"),
)
