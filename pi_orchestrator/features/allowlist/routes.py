"""Routes of the allowlist."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.allowlist import api as allowlist
from pi_orchestrator.http.route import table

BASE = "/api/v1/provisioning/allowlist"

_ENTRY = {
    "mac": "24:6F:28:B0:F7:F1",
    "description": "Camera 1",
    "container_id": "550e8400-e29b-41d4-a716-446655440000",
    "added_at": "2026-01-22T15:00:00.000000Z",
    "used": False,
}
_REFUSED = {"index": 1, "mac": "24:6F", "reason": "mac: '24:6F' is not a MAC address such as AA:BB:CC:DD:EE:FF"}
_REPORT = {
    "added": 1,
    "updated": 0,
    "skipped": 0,
    "message": "1 added, 0 updated, 0 skipped, 1 refused",
    "errors": [_REFUSED],
}

ROUTES: tuple[Route, ...] = table(
    "allowlist",
    Route(
        "GET",
        BASE,
        allowlist.list_entries,
        "allowlist",
        "List the allowlist",
        Scope.READ,
        needs_key_in_provisioning_mode=True,
        example={"entries": [_ENTRY], "count": 1},
    ),
    Route(
        "GET",
        f"{BASE}/stats",
        allowlist.stats,
        "allowlist",
        "Count the allowlist entries",
        Scope.READ,
        needs_key_in_provisioning_mode=True,
        example={"total": 20, "used": 12, "available": 8},
    ),
    Route(
        "POST",
        BASE,
        allowlist.add,
        "allowlist",
        "Add a camera",
        Scope.OPERATE,
        action="allowlist.add",
        needs_key_in_provisioning_mode=True,
        status=201,
        other_statuses=(200,),
        example={"entry": _ENTRY},
    ),
    Route(
        "POST",
        f"{BASE}/bulk",
        allowlist.bulk,
        "allowlist",
        "Add cameras",
        Scope.OPERATE,
        action="allowlist.bulk",
        needs_key_in_provisioning_mode=True,
        example=_REPORT,
    ),
    Route(
        "POST",
        f"{BASE}/import",
        allowlist.import_csv,
        "allowlist",
        "Add the cameras of a CSV file",
        Scope.OPERATE,
        action="allowlist.import",
        needs_key_in_provisioning_mode=True,
        example={
            **_REPORT,
            "errors": [{**_REFUSED, "line": 3}],
            "dry_run": False,
            "rows": [
                {"line": 2, "mac": "24:6F:28:B0:F7:F1", "effect": "add"},
                {"line": 3, "mac": "24:6F", "effect": "error", "reason": _REFUSED["reason"]},
            ],
        },
    ),
    Route(
        "GET",
        f"{BASE}/{{mac}}",
        allowlist.show,
        "allowlist",
        "Get an entry",
        Scope.READ,
        needs_key_in_provisioning_mode=True,
        errors=(ErrorCode.DEVICE_NOT_FOUND,),
        example={"entry": _ENTRY},
    ),
    Route(
        "PATCH",
        f"{BASE}/{{mac}}",
        allowlist.change,
        "allowlist",
        "Change an entry",
        Scope.OPERATE,
        action="allowlist.change",
        needs_key_in_provisioning_mode=True,
        errors=(ErrorCode.DEVICE_NOT_FOUND,),
        example={"entry": _ENTRY, "message": "Entry updated"},
    ),
    Route(
        "POST",
        f"{BASE}/bulk-remove",
        allowlist.bulk_remove,
        "allowlist",
        "Remove cameras",
        Scope.OPERATE,
        action="allowlist.bulk_remove",
        needs_key_in_provisioning_mode=True,
        example={
            "removed": 1,
            "not_found": 1,
            "missing": ["24:6F:28:B0:F7:F9"],
            "message": "1 removed, 1 not found",
        },
    ),
    Route(
        "DELETE",
        f"{BASE}/{{mac}}",
        allowlist.remove,
        "allowlist",
        "Remove a camera",
        Scope.OPERATE,
        action="allowlist.remove",
        needs_key_in_provisioning_mode=True,
        status=204,
    ),
    Route(
        "DELETE",
        f"{BASE}/all",
        allowlist.clear,
        "allowlist",
        "Remove every camera",
        Scope.OPERATE,
        action="allowlist.clear",
        needs_key_in_provisioning_mode=True,
        example={"cleared": 20, "message": "20 entries removed"},
    ),
)
