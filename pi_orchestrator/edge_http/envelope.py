"""The format of the edge's answers: envelopes for success and for errors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from aiohttp import web

from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.error_codes import RETRY_AFTER_S, ErrorCode
from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.http.headers import REQUEST_ID, SECURITY_HEADERS
from pi_orchestrator.http.route import JSON, Json, Shape

EXAMPLE_ID = "0b6f3f6e-6f0a-4f43-9a57-0a9d3f6f1c11"
EXAMPLE_TIME = "2026-01-22T15:00:00.000000Z"
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _now() -> bytes:
    return rfc3339(datetime.now(UTC)).encode()


def _wrap(data: bytes, request_id: str) -> bytes:
    tail = b',"correlation_id":%b,"timestamp":"%b"' % (json.dumps(request_id).encode(), _now())
    return b"".join((b'{"success":true,"data":', data, tail, b"}"))  # only one copy: lists are long


def _wrap_and_repeat(data: bytes, request_id: str) -> bytes:
    repeated = (b",", memoryview(data)[1:-1]) if len(data) > 2 else ()
    return b"".join((_wrap(data, request_id)[:-1], *repeated, b"}"))


def _schema(data: Json) -> Json:
    return {
        "type": "object",
        "required": ["success", "data", "correlation_id", "timestamp"],
        "properties": {
            "success": {"const": True},
            "data": data,
            "correlation_id": {"type": "string"},
            "timestamp": {"type": "string", "format": "date-time"},
        },
    }


def _example(data: Any) -> Json:
    return {"success": True, "data": data, "correlation_id": EXAMPLE_ID, "timestamp": EXAMPLE_TIME}


ENVELOPE = Shape("in the envelope", wrap=_wrap, schema=_schema, example=_example)
ENVELOPE_WITH_FIELDS = Shape(
    "in the envelope, with its fields repeated at the top level for old dashboards",
    wrap=_wrap_and_repeat,
    schema=lambda data: {"allOf": [_schema(data), data]},
    example=lambda data: {**_example(data), **data},
)


class EnvelopeErrors:
    """The error envelope; a retryable error also has a `Retry-After` header."""

    schema: ClassVar[Json] = {
        "type": "object",
        "required": ["success", "error", "code", "correlation_id", "timestamp"],
        "properties": {
            "success": {"const": False},
            "error": {
                "type": "object",
                "required": ["code", "message", "retryable"],
                "properties": {
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "retryable": {"type": "boolean"},
                    "retry_after_seconds": {"type": "integer"},
                    "details": {"type": "string"},
                },
            },
            "code": {"type": "string", "description": "the same as error.code"},
            "correlation_id": {"type": "string"},
            "timestamp": {"type": "string", "format": "date-time"},
        },
    }

    def describe(self, code: str) -> tuple[int, str]:
        """See `ErrorRenderer`; a code outside the catalogue has status 500."""
        return (ErrorCode.__members__[code].status if code in ErrorCode.__members__ else 500), code

    def render(
        self, error: OrchestratorError, *, request_id: str, status: int | None = None, headers: Mapping[str, str]
    ) -> web.Response:
        """See `ErrorRenderer`."""
        failure: dict[str, object] = {"code": error.code, "message": error.message, "retryable": error.retryable}
        all_headers = {**SECURITY_HEADERS, "Content-Type": JSON, REQUEST_ID: request_id, **headers}
        if error.retryable:
            seconds = math.ceil(error.retry_after_s or ErrorCode[error.code].retry_after_s or RETRY_AFTER_S)
            failure["retry_after_seconds"] = seconds
            all_headers["Retry-After"] = str(seconds)
        if error.details:
            failure["details"] = error.details
        body = {
            "success": False,
            "error": failure,
            "code": error.code,
            "correlation_id": request_id,
            "timestamp": _now().decode(),
        }
        return web.Response(
            body=_encode(body).encode(), status=status or self.describe(error.code)[0], headers=all_headers
        )
