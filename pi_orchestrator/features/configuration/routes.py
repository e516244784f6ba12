"""Routes: configuration."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.configuration import api as config
from pi_orchestrator.http.route import BARE, table

CONFIG = "/api/v1/config"
DASHBOARD_CONFIG = "/api/dashboard/config"
_ITEM = {
    "key": "cameras.idle_after_s",
    "value": "60",
    "default_value": "120",
    "type": "number",
    "description": "seconds without evidence until a registered camera is idle",
    "required": True,
    "editable": True,
    "validation": {"min": 0, "max": 86400},
    "origin": "override",
    "restart_needed": False,
}
_SECTIONS = {"sections": [{"name": "cameras", "description": "When a camera counts as online.", "items": [_ITEM]}]}
_SET = {"item": _ITEM, "message": "cameras.idle_after_s is set and in effect"}
_RESET = {
    "item": _ITEM | {"value": "120", "origin": "default"},
    "message": "cameras.idle_after_s is reset to its configured value",
}
_OK = {"success": True}

ROUTES: tuple[Route, ...] = table(
    "config",
    Route("GET", CONFIG, config.show, "config", "Configuration", Scope.READ, example=_SECTIONS),
    Route(
        "PUT",
        f"{CONFIG}/{{key}}",
        config.change,
        "config",
        "Change a setting",
        Scope.ADMIN,
        action="config.set",
        needs_key_in_provisioning_mode=True,
        errors=(ErrorCode.NOT_FOUND,),
        example=_SET,
    ),
    Route(
        "POST",
        f"{CONFIG}/{{key}}/reset",
        config.reset,
        "config",
        "Reset a setting",
        Scope.ADMIN,
        action="config.reset",
        needs_key_in_provisioning_mode=True,
        errors=(ErrorCode.NOT_FOUND,),
        example=_RESET,
    ),
    Route(
        "GET",
        DASHBOARD_CONFIG,
        config.show_bare,
        "config",
        "Configuration, for old dashboards",
        Scope.READ,
        shape=BARE,
        successor=CONFIG,
        example=_SECTIONS | _OK,
    ),
    Route(
        "PUT",
        f"{DASHBOARD_CONFIG}/{{key}}",
        config.change_bare,
        "config",
        "Change a setting, for old dashboards",
        Scope.ADMIN,
        action="config.set",
        needs_key_in_provisioning_mode=True,
        shape=BARE,
        successor=f"{CONFIG}/{{key}}",
        errors=(ErrorCode.NOT_FOUND,),
        example=_SET | _OK,
    ),
    Route(
        "POST",
        f"{DASHBOARD_CONFIG}/{{key}}/reset",
        config.reset_bare,
        "config",
        "Reset a setting, for old dashboards",
        Scope.ADMIN,
        action="config.reset",
        needs_key_in_provisioning_mode=True,
        shape=BARE,
        successor=f"{CONFIG}/{{key}}/reset",
        errors=(ErrorCode.NOT_FOUND,),
        example=_RESET | _OK,
    ),
)
