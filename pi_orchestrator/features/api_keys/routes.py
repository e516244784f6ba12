"""Routes: API keys."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.api_keys import api as keys
from pi_orchestrator.http.route import table

_KEY = {"id": "1f0c9a3b", "name": "dashboard", "scope": "operate", "created_at": "2026-01-22T15:00:00.000000Z"}

ROUTES: tuple[Route, ...] = table(
    "keys",
    Route(
        "GET",
        "/api/v1/keys",
        keys.list_keys,
        "keys",
        "API keys",
        Scope.ADMIN,
        needs_key_in_provisioning_mode=True,
        example={"keys": [_KEY], "count": 1},
    ),
    Route(
        "POST",
        "/api/v1/keys",
        keys.create,
        "keys",
        "Create an API key",
        Scope.ADMIN,
        action="api_key.create",
        needs_key_in_provisioning_mode=True,
        status=201,
        secret=True,
        errors=(ErrorCode.CONFLICT,),
        example={"key": _KEY, "secret": "piorch_1f0c9a3b_…"},
    ),
    Route(
        "DELETE",
        "/api/v1/keys/{id}",
        keys.revoke,
        "keys",
        "Revoke an API key",
        Scope.ADMIN,
        action="api_key.revoke",
        needs_key_in_provisioning_mode=True,
        status=204,
    ),
)
