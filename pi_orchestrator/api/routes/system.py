"""Routes: is it there, and how does it do."""

from __future__ import annotations

from pi_orchestrator.api import health, openapi
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Route
from pi_orchestrator.storage.keys import Scope

_HEALTH = {"status": "ok", "version": "0.1.0"}

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
)
