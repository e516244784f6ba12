"""Contract of the dashboard's provisioning document: health check, envelope, error codes."""

import re

import pytest

from pi_orchestrator import __version__
from pi_orchestrator.core.error_codes import ErrorCode

pytestmark = pytest.mark.usefixtures("documented_answers")

# Code → status.
CODES = {
    "VALIDATION_FAILED": 400,
    "SESSION_NOT_FOUND": 404,
    "DEVICE_NOT_FOUND": 404,
    "DEVICE_NOT_IN_ALLOWLIST": 403,
    "RATE_LIMITED": 429,
    "CIRCUIT_OPEN": 503,
    "INTERNAL_ERROR": 500,
}


async def test_health_has_status_and_version(daemon):
    answer = await daemon.api.get("/health")
    assert answer.status == 200
    assert answer.json == {"status": "ok", "version": __version__}
    assert re.fullmatch(r"\d+\.\d+\.\d+([-+.a-z0-9]+)?", answer.json["version"])


async def test_health_answers_without_broker(rig):
    await rig.broker.stop()
    async with rig.daemon(connected=False) as running:
        assert (await running.api.get("/health")).json["status"] == "ok"


async def test_envelope_has_four_fields(daemon):
    body = (await daemon.api.get("/api/v1/espcam/paired")).json
    assert list(body) == ["success", "data", "correlation_id", "timestamp"]
    assert body["success"] is True
    assert isinstance(body["correlation_id"], str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", body["timestamp"])


async def test_error_has_documented_fields(daemon):
    answer = await daemon.api.get("/api/v1/onboarding/auto/events/not-a-mac")
    assert answer.status == 400
    body = answer.json
    assert body["success"] is False
    assert {key: body["error"][key] for key in ("code", "message", "retryable")} == {
        "code": "VALIDATION_FAILED",
        "message": "Validation failed",
        "retryable": False,
    }
    assert isinstance(body["error"]["details"], str)
    assert body["correlation_id"]
    assert body["timestamp"]


async def test_protected_endpoint_needs_key_header(daemon):
    assert (await daemon.api.get("/api/v1/keys")).status == 401
    assert (await daemon.api.get("/api/v1/keys", headers={"X-API-Key": daemon.admin.key})).status == 200


def test_codes_have_documented_status():
    for code in CODES.keys() & ErrorCode.__members__.keys():
        assert ErrorCode[code].status == CODES[code]
    assert {"VALIDATION_FAILED", "RATE_LIMITED", "INTERNAL_ERROR"} <= CODES.keys() & ErrorCode.__members__.keys()
