"""Routes: health, version, metrics, OpenAPI document."""

from __future__ import annotations

from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.system import health_api as health
from pi_orchestrator.features.system import openapi_api as openapi
from pi_orchestrator.http.route import BARE, TEXT, table

_HEALTH = {"status": "ok", "version": "0.1.0"}

ROUTES: tuple[Route, ...] = (
    *table(
        "health",
        *(
            Route("GET", path, health.health, "health", "Health", None, shape=BARE, example=_HEALTH)
            for path in ("/health", "/api/health", "/api/v1/health")
        ),
        Route("GET", "/healthz", health.healthz, "health", "Liveness", None, shape=BARE, example={"status": "ok"}),
        Route(
            "GET",
            "/readyz",
            health.readyz,
            "health",
            "Readiness",
            None,
            shape=BARE,
            other_statuses=(503,),
            example={"ready": True, "checks": {"database": True, "mqtt": True}, "errors": []},
        ),
        Route(
            "GET",
            "/version",
            health.version,
            "health",
            "Version",
            None,
            shape=BARE,
            example={"version": "0.1.0"},
        ),
        Route(
            "GET",
            "/metrics",
            health.metrics,
            "health",
            "Prometheus metrics",
            Scope.READ,
            shape=TEXT,
            example="piorch_mqtt_connected 1.0\n",
        ),
    ),
    *table(
        "openapi",
        Route(
            "GET",
            "/openapi.json",
            openapi.document,
            "health",
            "This document",
            Scope.READ,
            shape=BARE,
            example={"openapi": "3.1.0"},
        ),
    ),
)
