"""Routes: provisioning sessions, their cameras, and the key of their stored passwords."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.provisioning import api as sessions
from pi_orchestrator.http.route import table

BATCH = "/api/v1/provisioning/batch"
SESSIONS = "/api/v1/provisioning/sessions"

_SESSION = {
    "id": "7f9c24e5-1c1b-4a57-9c0e-3b7a0d7b5f10",
    "state": "active",
    "network_interface": "wlan0",
    "target_ssid": "DeliCasa",
    "created_at": "2026-01-11T22:33:20.000000Z",
    "updated_at": "2026-01-11T22:33:20.000000Z",
    "expires_at": "2026-01-11T22:37:50.000000Z",
    "device_count": 1,
    "provisioned_count": 0,
    "verified_count": 0,
    "failed_count": 0,
    "config": {
        "discovery_timeout_seconds": 60,
        "provisioning_timeout_seconds": 120,
        "verification_timeout_seconds": 90,
    },
}
_ENDED = {**{name: value for name, value in _SESSION.items() if name != "expires_at"}, "state": "closed"} | {
    "closed_at": "2026-01-11T22:36:00.000000Z",
    "ending": "closed",
}
_DEVICE = {
    "mac": "24:6F:28:B0:F7:F1",
    "ip": "192.168.10.21",
    "state": "discovered",
    "progress": 0,
    "rssi": -54,
    "firmware_version": "2.1.0",
    "discovered_at": "2026-01-11T22:33:24.000000Z",
    "retry_count": 0,
    "in_allowlist": True,
    "session_id": _SESSION["id"],
}
_QUEUED = {"mac": "24:6F:28:B0:F7:F1", "state": "provisioning", "message": "queued"}
_NETWORK = {"ssid": "OnboardingNetwork", "is_active": True, "connected_devices": 12}
_NOT_FOUND = (ErrorCode.SESSION_NOT_FOUND,)
_NOT_OPEN = (*_NOT_FOUND, ErrorCode.SESSION_ALREADY_CLOSED, ErrorCode.SESSION_EXPIRED)
_CANNOT_PROVISION = (*_NOT_OPEN, ErrorCode.MQTT_UNAVAILABLE, ErrorCode.NETWORK_ERROR, ErrorCode.CIRCUIT_OPEN)


Handler = Callable[..., Awaitable[Any]]


def _read(path: str, handler: Handler, summary: str, *, example: object, errors: tuple[str, ...] = ()) -> Route:
    return Route(
        "GET",
        path,
        handler,
        "provisioning",
        summary,
        Scope.READ,
        needs_key_in_provisioning_mode=True,
        errors=errors,
        example=example,
    )


def _write(
    path: str,
    handler: Handler,
    summary: str,
    action: str,
    *,
    method: str = "POST",
    scope: Scope = Scope.OPERATE,
    status: int = 200,
    errors: tuple[str, ...] = (),
    example: object = None,
) -> Route:
    return Route(
        method,
        path,
        handler,
        "provisioning",
        summary,
        scope,
        action=action,
        needs_key_in_provisioning_mode=True,
        status=status,
        errors=errors,
        example=example,
    )


ROUTES: tuple[Route, ...] = table(
    "sessions",
    _write(
        BATCH,
        sessions.start,
        "Start a session",
        "session.start",
        status=201,
        errors=(ErrorCode.SESSION_ALREADY_ACTIVE,),
        example={"session": _SESSION, "message": "session open; cameras join it when they are discovered"},
    ),
    _write(
        f"{BATCH}/start",
        sessions.start_discovery,
        "Start a session that discovers cameras first",
        "session.start",
        status=201,
        errors=(ErrorCode.SESSION_ALREADY_ACTIVE,),
        example={
            "session": {**_SESSION, "state": "discovering"},
            "message": "session open; cameras join it when they are discovered",
        },
    ),
    _read(
        f"{BATCH}/{{id}}",
        sessions.show,
        "One session",
        errors=_NOT_FOUND,
        example={"session": _SESSION, "timeout_remaining": "45s", "network_status": _NETWORK},
    ),
    _read(
        f"{BATCH}/{{id}}/devices",
        sessions.devices,
        "Cameras of a session",
        errors=_NOT_FOUND,
        example={"devices": [_DEVICE], "count": 1},
    ),
    _write(
        f"{BATCH}/{{id}}/devices/{{mac}}/provision",
        sessions.provision,
        "Provision a camera",
        "device.provision",
        status=202,
        errors=(
            *_CANNOT_PROVISION,
            ErrorCode.DEVICE_NOT_FOUND,
            ErrorCode.DEVICE_NOT_IN_ALLOWLIST,
            ErrorCode.DEVICE_INVALID_STATE,
        ),
        example=_QUEUED,
    ),
    _write(
        f"{BATCH}/{{id}}/devices/{{mac}}/retry",
        sessions.retry,
        "Retry a camera",
        "device.retry",
        status=202,
        errors=(
            *_CANNOT_PROVISION,
            ErrorCode.DEVICE_NOT_FOUND,
            ErrorCode.DEVICE_NOT_IN_ALLOWLIST,
            ErrorCode.DEVICE_INVALID_STATE,
            ErrorCode.DEVICE_ALREADY_PROVISIONING,
            ErrorCode.MAX_RETRIES_EXCEEDED,
        ),
        example=_QUEUED,
    ),
    _write(
        f"{BATCH}/{{id}}/devices/{{mac}}/confirm",
        sessions.confirm,
        "Confirm a camera that has changed",
        "device.confirm",
        status=202,
        errors=(
            *_CANNOT_PROVISION,
            ErrorCode.DEVICE_NOT_FOUND,
            ErrorCode.DEVICE_NOT_IN_ALLOWLIST,
            ErrorCode.DEVICE_INVALID_STATE,
        ),
        example=_QUEUED,
    ),
    _write(
        f"{BATCH}/{{id}}/devices/{{mac}}/skip",
        sessions.skip,
        "Skip a camera",
        "device.skip",
        errors=(*_NOT_OPEN, ErrorCode.DEVICE_NOT_FOUND, ErrorCode.DEVICE_INVALID_STATE),
        example={**_QUEUED, "state": "failed", "message": "skipped by the operator"},
    ),
    _write(
        f"{BATCH}/{{id}}/provision-all",
        sessions.provision_all,
        "Provision every allowlisted camera",
        "session.provision_all",
        status=202,
        errors=_CANNOT_PROVISION,
        example={"initiated_count": 19, "skipped_count": 1, "message": "19 queued, 1 skipped: not on the allowlist"},
    ),
    _write(
        f"{BATCH}/{{id}}/pause",
        sessions.pause,
        "Pause a session",
        "session.pause",
        errors=_NOT_OPEN,
        example={"session": {**_SESSION, "state": "paused"}},
    ),
    _write(
        f"{BATCH}/{{id}}/resume",
        sessions.resume,
        "Resume a session",
        "session.resume",
        errors=_NOT_OPEN,
        example={"session": _SESSION},
    ),
    *(
        _write(
            f"{BATCH}/{{id}}/{verb}",
            sessions.close,
            "Close a session",
            "session.close",
            errors=_NOT_FOUND,
            example={"session": _ENDED, "message": "closed: 19 verified, 0 failed; the password is erased"},
        )
        for verb in ("close", "stop")
    ),
    _read(SESSIONS, sessions.list_open, "Open sessions", example={"sessions": [_SESSION], "count": 1}),
    _read(
        f"{SESSIONS}/recoverable",
        sessions.recoverable,
        "Sessions that a restart interrupted",
        example={"sessions": [{**_SESSION, "state": "paused", "interrupted": True}]},
    ),
    _read(
        f"{SESSIONS}/history",
        sessions.history,
        "Closed sessions",
        example={
            "sessions": [_ENDED],
            "pagination": {"total": 1, "limit": 50, "offset": 0, "has_more": False},
        },
    ),
    _write(
        f"{SESSIONS}/{{id}}/resume",
        sessions.recover,
        "Resume after a restart",
        "session.recover",
        errors=(*_NOT_FOUND, ErrorCode.SESSION_NOT_RECOVERABLE, ErrorCode.SESSION_EXPIRED),
        example={"session": _SESSION, "devices": [_DEVICE]},
    ),
    _write(
        f"{SESSIONS}/{{id}}",
        sessions.discard,
        "Discard a session",
        "session.discard",
        method="DELETE",
        status=204,
        errors=_NOT_FOUND,
    ),
    _write(
        "/api/v1/provisioning/secrets/rotate",
        sessions.rotate_key,
        "Rotate the key of stored passwords",
        "secrets.rotate",
        scope=Scope.ADMIN,
        example={"rotated": 1, "message": "new key created; 1 stored passwords encrypted with it"},
    ),
)
