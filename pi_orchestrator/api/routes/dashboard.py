"""Routes: old paths that dashboards still call. Each has a successor, and says so in its headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pi_orchestrator.api import adapters, cameras, network
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Route
from pi_orchestrator.api.routes.cameras import CAMERA, DIAGNOSED
from pi_orchestrator.api.routes.network import BRIDGE, MQTT, NETWORKS, TAILSCALE, WIFI
from pi_orchestrator.storage.keys import Scope

Handler = Callable[..., Any]


def _old(
    path: str, handler: Handler, summary: str, successor: str, *, example: Any, errors: tuple[str, ...] = ()
) -> Route:
    return Route(
        "GET",
        path,
        handler,
        "dashboard",
        f"{summary}, for old dashboards",
        Scope.READ,
        shape=Shape.PLAIN,
        successor=successor,
        errors=errors,
        example=example,
    )


ROUTES: tuple[Route, ...] = (
    _old(
        "/api/dashboard/cameras",
        adapters.cameras,
        "Live cameras",
        "/api/v1/cameras",
        example={"cameras": [CAMERA], "count": 1, "success": True},
    ),
    _old(
        "/api/dashboard/cameras/diagnostics",
        cameras.diagnostics,
        "Live cameras with diagnostics",
        "/api/v1/cameras/diagnostics",
        example=[DIAGNOSED],
    ),
    _old("/api/dashboard/mqtt/status", network.mqtt, "The broker", "/api/v1/network/mqtt", example=MQTT),
    _old(
        "/api/dashboard/bridge/status",
        network.plain_bridge,
        "The upstream gateway",
        "/api/v1/network/bridge",
        example={"status": BRIDGE, "success": True},
    ),
    _old(
        "/api/dashboard/tailscale/status",
        network.tailscale,
        "Tailscale",
        "/api/v1/network/tailscale",
        errors=("NOT_FOUND", "NETWORK_ERROR"),
        example=TAILSCALE,
    ),
    _old("/api/wifi/status", network.wifi_status, "WiFi", "/api/v1/wifi/status", example={"status": WIFI}),
    _old(
        "/api/wifi/scan",
        network.wifi_scan,
        "Look for WiFi networks",
        "/api/v1/wifi/scan",
        errors=("NETWORK_ERROR",),
        example=NETWORKS,
    ),
)
