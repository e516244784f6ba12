"""Routes: auto-onboarding."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.onboarding import api as onboarding
from pi_orchestrator.http.route import table

AUTO = "/api/v1/onboarding/auto"
_STATUS = {
    "enabled": True,
    "mode": "dev",
    "running": True,
    "config": {
        "max_per_minute": 10,
        "burst_size": 5,
        "subnet_allowlist": ["192.168.10.0/24"],
        "verification_timeout_sec": 5,
    },
    "metrics": {"attempts": 3, "success": 2, "failed": 1, "rejected_by_policy": 0, "already_onboarded": 0},
    "target_container": "550e8400-e29b-41d4-a716-446655440000",
    "tokens": 2.5,
    "waiting": 0,
    "waiting_unproven": 0,
    "dropped": 0,
}
_AUDIT = {
    "events": [
        {
            "id": 4,
            "mac_address": "24:6F:28:B0:F7:F1",
            "stage": "paired",
            "outcome": "success",
            "device_id": "espcam-b0f7f1",
            "ip_address": "192.168.10.21",
            "firmware_version": "2.1.0",
            "container_id": "550e8400-e29b-41d4-a716-446655440000",
            "duration_ms": 48,
            "timestamp": "2026-01-22T15:00:00.000000Z",
        }
    ],
    "pagination": {"total": 1, "limit": 50, "offset": 0, "has_more": False},
}

ROUTES: tuple[Route, ...] = table(
    "onboarding",
    Route("GET", f"{AUTO}/status", onboarding.status, "onboarding", "Status", Scope.READ, example=_STATUS),
    Route(
        "POST",
        f"{AUTO}/enable",
        onboarding.enable,
        "onboarding",
        "Enable",
        Scope.OPERATE,
        action="onboarding.enable",
        errors=(ErrorCode.ONBOARD_ENABLE_FAILED,),
        example={"enabled": True, "running": True, "message": "Auto-onboarding enabled"},
    ),
    Route(
        "POST",
        f"{AUTO}/disable",
        onboarding.disable,
        "onboarding",
        "Disable (kill switch)",
        Scope.OPERATE,
        action="onboarding.disable",
        example={"enabled": False, "running": False, "message": "Auto-onboarding disabled"},
    ),
    Route("GET", f"{AUTO}/events", onboarding.events, "onboarding", "Onboarding events", Scope.READ, example=_AUDIT),
    Route(
        "GET",
        f"{AUTO}/events/{{mac}}",
        onboarding.events_of_camera,
        "onboarding",
        "Onboarding events of one camera",
        Scope.READ,
        example=_AUDIT,
    ),
    Route(
        "POST",
        f"{AUTO}/metrics/reset",
        onboarding.reset_metrics,
        "onboarding",
        "Reset the counters",
        Scope.OPERATE,
        action="onboarding.metrics_reset",
        example={"message": "Metrics reset"},
    ),
    Route(
        "POST",
        f"{AUTO}/events/cleanup",
        onboarding.clean_events,
        "onboarding",
        "Delete old onboarding events",
        Scope.ADMIN,
        action="onboarding.events_cleanup",
        needs_key_in_provisioning_mode=True,
        example={"deleted_count": 12, "message": "12 events older than 90 days deleted"},
    ),
    Route(
        "GET",
        f"{AUTO}/policy/explain",
        onboarding.explain,
        "onboarding",
        "Explain the policy's result for a camera",
        Scope.READ,
        example={
            "mac": "24:6F:28:B0:F7:F1",
            "ip": "192.168.10.21",
            "allowed": False,
            "rules": [
                {"rule": "enabled", "result": "fail", "why": "auto-onboarding is disabled", "code": "NOT_ENABLED"},
            ],
            "unreadable": [
                "publishes on camera/status/espcam-b0f7f1 what is no JSON: unescaped quote at byte 31",
            ],
            "notes": [],
        },
    ),
)
