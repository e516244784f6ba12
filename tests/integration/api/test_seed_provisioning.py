"""The dashboard's provisioning document, taken at its word: health check, envelope, error codes."""

import re

from pi_orchestrator import __version__
from pi_orchestrator.api.envelope import HTTP_STATUS

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


async def test_the_health_check_is_200_with_status_and_version_and_nothing_around_it(daemon):
    answer = await daemon.api.get("/health")
    assert answer.status == 200
    assert answer.json == {"status": "ok", "version": __version__}
    assert re.fullmatch(r"\d+\.\d+\.\d+([-+.a-z0-9]+)?", answer.json["version"])


async def test_the_health_check_answers_while_the_broker_is_gone(world):
    await world.broker.stop()
    async with world.daemon(connected=False) as running:
        assert (await running.api.get("/health")).json["status"] == "ok"


async def test_an_answer_has_the_four_fields_of_the_envelope(daemon):
    body = (await daemon.api.get("/api/v1/espcam/paired")).json
    assert list(body) == ["success", "data", "correlation_id", "timestamp"]
    assert body["success"] is True
    assert isinstance(body["correlation_id"], str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", body["timestamp"])


async def test_a_refusal_has_the_error_of_the_document_with_details_as_text(daemon):
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


async def test_a_protected_endpoint_wants_the_key_in_its_header(daemon):
    assert (await daemon.api.get("/api/v1/keys")).status == 401
    assert (await daemon.api.get("/api/v1/keys", headers={"X-API-Key": daemon.admin.key})).status == 200


def test_the_codes_in_use_have_the_status_of_the_document():
    for code in CODES.keys() & HTTP_STATUS.keys():
        assert HTTP_STATUS[code] == CODES[code]
    assert {"VALIDATION_FAILED", "RATE_LIMITED", "INTERNAL_ERROR"} <= CODES.keys() & HTTP_STATUS.keys()
