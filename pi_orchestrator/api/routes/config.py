"""Routes: the configuration."""

from __future__ import annotations

from pi_orchestrator.api import config
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Route
from pi_orchestrator.storage.keys import Scope

CONFIG = "/api/v1/config"
OLD = "/api/dashboard/config"
_ITEM = {
    "key": "cameras.idle_after_s",
    "value": "60",
    "default_value": "120",
    "type": "number",
    "description": "a registered camera that is silent for this long is idle",
    "required": True,
    "editable": True,
    "validation": {"min": 0, "max": 86400},
    "origin": "override",
    "restart_needed": False,
}
_SECTIONS = {"sections": [{"name": "cameras", "description": "When a camera counts as here.", "items": [_ITEM]}]}
_SET = {"item": _ITEM, "message": "cameras.idle_after_s is set, and in effect"}
_RESET = {
    "item": _ITEM | {"value": "120", "origin": "default"},
    "message": "cameras.idle_after_s is as it is configured",
}
_OK = {"success": True}

ROUTES: tuple[Route, ...] = (
    Route("GET", CONFIG, config.show, "config", "Configuration", Scope.READ, example=_SECTIONS),
    Route(
        "PUT",
        f"{CONFIG}/{{key}}",
        config.change,
        "config",
        "Set a key",
        Scope.ADMIN,
        action="config.set",
        keyed=True,
        errors=("NOT_FOUND",),
        example=_SET,
    ),
    Route(
        "POST",
        f"{CONFIG}/{{key}}/reset",
        config.reset,
        "config",
        "Reset a key",
        Scope.ADMIN,
        action="config.reset",
        keyed=True,
        errors=("NOT_FOUND",),
        example=_RESET,
    ),
    Route(
        "GET",
        OLD,
        config.show_bare,
        "config",
        "Configuration, for old dashboards",
        Scope.READ,
        shape=Shape.PLAIN,
        successor=CONFIG,
        example=_SECTIONS | _OK,
    ),
    Route(
        "PUT",
        f"{OLD}/{{key}}",
        config.change_bare,
        "config",
        "Set a key, for old dashboards",
        Scope.ADMIN,
        action="config.set",
        keyed=True,
        shape=Shape.PLAIN,
        successor=f"{CONFIG}/{{key}}",
        errors=("NOT_FOUND",),
        example=_SET | _OK,
    ),
    Route(
        "POST",
        f"{OLD}/{{key}}/reset",
        config.reset_bare,
        "config",
        "Reset a key, for old dashboards",
        Scope.ADMIN,
        action="config.reset",
        keyed=True,
        shape=Shape.PLAIN,
        successor=f"{CONFIG}/{{key}}/reset",
        errors=("NOT_FOUND",),
        example=_RESET | _OK,
    ),
)
