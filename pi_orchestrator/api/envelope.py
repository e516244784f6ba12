"""The shape of every answer: envelopes for success and error, the status of each error code, correlation ids."""

from __future__ import annotations

import json
import math
import random
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum

from aiohttp import web

from pi_orchestrator.clock import rfc3339
from pi_orchestrator.errors import OrchestratorError

HTTP_STATUS: Mapping[str, int] = {
    "VALIDATION_FAILED": 400,
    "INVALID_REQUEST": 400,
    "ONBOARD_ENABLE_FAILED": 400,
    "INVALID_POSITION": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "DEVICE_NOT_IN_ALLOWLIST": 403,
    "NOT_FOUND": 404,
    "CAMERA_NOT_FOUND": 404,
    "CONTAINER_NOT_FOUND": 404,
    "DEVICE_NOT_FOUND": 404,
    "SESSION_NOT_FOUND": 404,
    "CONFLICT": 409,
    "SESSION_ALREADY_ACTIVE": 409,
    "SESSION_ALREADY_CLOSED": 409,
    "SESSION_NOT_RECOVERABLE": 409,
    "DEVICE_ALREADY_PROVISIONING": 409,
    "DEVICE_INVALID_STATE": 409,
    "MAX_RETRIES_EXCEEDED": 409,
    "CONTAINER_HAS_CAMERAS": 409,
    "POSITION_OCCUPIED": 409,
    "CAMERA_ALREADY_ASSIGNED": 409,
    "SESSION_EXPIRED": 410,
    "RATE_LIMITED": 429,
    "INTERNAL_ERROR": 500,
    "DATABASE_ERROR": 500,
    "CAPTURE_FAILED": 502,
    "REBOOT_FAILED": 502,
    "DEVICE_UNREACHABLE": 502,
    "DEVICE_REJECTED": 502,
    "CAMERA_OFFLINE": 503,
    "NETWORK_ERROR": 503,
    "MQTT_UNAVAILABLE": 503,
    "CIRCUIT_OPEN": 503,
    "CAPTURE_TIMEOUT": 504,
    "DEVICE_TIMEOUT": 504,
}

# A code's class says whether a repeat can help; an internal error always may have been bad luck.
_RETRYABLE = frozenset(
    {
        "RATE_LIMITED",
        "INTERNAL_ERROR",
        "NETWORK_ERROR",
        "MQTT_UNAVAILABLE",
        "CIRCUIT_OPEN",
        "CAMERA_OFFLINE",
        "CAPTURE_TIMEOUT",
        "CAPTURE_FAILED",
        "REBOOT_FAILED",
        "DEVICE_UNREACHABLE",
        "DEVICE_REJECTED",
        "DEVICE_TIMEOUT",
    }
)
_DEFAULT_RETRY_S = {"RATE_LIMITED": 30.0}
WELL_FORMED_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)

SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Shape(Enum):
    """How an answer's data is wrapped."""

    ENVELOPE = "in the envelope"
    DOUBLED = "in the envelope, and its fields repeated at the top level for old dashboards"
    PLAIN = "bare JSON"
    TEXT = "Prometheus text"
    BINARY = "bytes of a kind of their own, or bare JSON"
    STREAM = "server-sent events, without end"


CONTENT_TYPES = {Shape.TEXT: "text/plain; version=0.0.4; charset=utf-8", Shape.STREAM: "text/event-stream"}
JSON = "application/json"
_encode = json.JSONEncoder(separators=(",", ":")).encode


def correlation_id(headers: Mapping[str, str]) -> str:
    """The client's own id if it is well formed, else a new one."""
    for name in ("X-Request-Id", "X-Correlation-Id"):
        offered = headers.get(name)
        if offered and WELL_FORMED_ID.fullmatch(offered):
            return offered
    # It guards nothing, so it need not cost a call of the kernel.
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def success(
    data: bytes,
    *,
    shape: Shape,
    status: int,
    correlation: str,
    media_type: str = "",
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """An answer around encoded data; as it is where it has a media type of its own."""
    if shape in (Shape.ENVELOPE, Shape.DOUBLED):
        tail = b',"correlation_id":%b,"timestamp":"%b"' % (json.dumps(correlation).encode(), _now())
        repeated = (b",", memoryview(data)[1:-1]) if shape is Shape.DOUBLED and len(data) > 2 else ()
        data = b"".join((b'{"success":true,"data":', data, tail, *repeated, b"}"))  # copied once: lists are long
    content_type = media_type or CONTENT_TYPES.get(shape, JSON)
    return _response(data, status=status, correlation=correlation, content_type=content_type, headers=headers)


def stream(*, correlation: str) -> web.StreamResponse:
    """An answer that is yet to be written; nothing between here and the client may keep it or hold it back."""
    return web.StreamResponse(
        headers={
            **SECURITY_HEADERS,
            "Content-Type": CONTENT_TYPES[Shape.STREAM],
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "X-Request-Id": correlation,
        }
    )


def failure(
    error: OrchestratorError, *, correlation: str, status: int | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """The error envelope; a `Retry-After` header goes with every retryable error."""
    retryable = error.retryable or error.code in _RETRYABLE
    detail: dict[str, object] = {"code": error.code, "message": error.message, "retryable": retryable}
    response_headers = dict(headers or {})
    if retryable:
        seconds = math.ceil(error.retry_after_s or _DEFAULT_RETRY_S.get(error.code, 5.0))
        detail["retry_after_seconds"] = seconds
        response_headers["Retry-After"] = str(seconds)
    if error.details:
        detail["details"] = error.details
    body = {
        "success": False,
        "error": detail,
        "code": error.code,
        "correlation_id": correlation,
        "timestamp": _now().decode(),
    }
    return _response(
        _encode(body).encode(),
        status=status or HTTP_STATUS.get(error.code, 500),
        correlation=correlation,
        content_type=JSON,
        headers=response_headers,
    )


def _response(
    body: bytes, *, status: int, correlation: str, content_type: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    if status in (204, 304):
        return web.Response(status=status, headers={**SECURITY_HEADERS, "X-Request-Id": correlation, **(headers or {})})
    return web.Response(
        body=body,
        status=status,
        headers={
            **SECURITY_HEADERS,
            "Content-Type": content_type,
            "X-Request-Id": correlation,
            **(headers or {}),
        },
    )


def _now() -> bytes:
    return rfc3339(datetime.now(UTC)).encode()
