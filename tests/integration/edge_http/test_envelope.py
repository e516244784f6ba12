"""The format of every answer: envelope, correlation id, headers, error codes, names of invalid fields."""

import json
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

import pytest

from pi_orchestrator.app.build import ROUTES
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.edge_http.envelope import ENVELOPE_WITH_FIELDS
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.http.model import Message
from pi_orchestrator.http.route import BARE, BINARY, TEXT
from tests.support.api import (
    CAMERA,
    DOCUMENT,
    call_route,
    camera_is_registered,
    case,
    check_answer,
    exchange,
    target,
    with_routes,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers", "sample_data_per_route")

AUTO = "/api/v1/onboarding/auto"
MAC = "AA:BB:CC:DD:EE:F0"
MIB = 1024 * 1024
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# The contract's table of codes, as code → status.
STATUS_OF = {
    code: status
    for status, codes in {
        400: "VALIDATION_FAILED INVALID_REQUEST MISSING_PARAMETER INVALID_POSITION ONBOARD_ENABLE_FAILED",
        401: "UNAUTHORIZED",
        403: "DEVICE_NOT_IN_ALLOWLIST FORBIDDEN",
        404: "NOT_FOUND SESSION_NOT_FOUND DEVICE_NOT_FOUND CAMERA_NOT_FOUND CONTAINER_NOT_FOUND EXPORT_NOT_FOUND"
        " WEBHOOK_NOT_FOUND",
        409: "SESSION_ALREADY_ACTIVE SESSION_ALREADY_CLOSED SESSION_NOT_RECOVERABLE DEVICE_ALREADY_PROVISIONING"
        " DEVICE_INVALID_STATE MAX_RETRIES_EXCEEDED CONTAINER_HAS_CAMERAS POSITION_OCCUPIED CAMERA_ALREADY_ASSIGNED"
        " CONFLICT",
        410: "SESSION_EXPIRED",
        429: "RATE_LIMITED ONBOARD_RATE_LIMITED",
        500: "INTERNAL_ERROR DATABASE_ERROR",
        502: "DEVICE_UNREACHABLE DEVICE_REJECTED CAPTURE_FAILED REBOOT_FAILED",
        503: "CIRCUIT_OPEN NETWORK_ERROR MQTT_UNAVAILABLE CAMERA_OFFLINE",
        504: "DEVICE_TIMEOUT VERIFICATION_TIMEOUT CAPTURE_TIMEOUT",
    }.items()
    for code in codes.split()
}


def retry_after(code):
    """The expected `retry_after_seconds` of an error with this code; None if it is not retryable."""
    if code == "DATABASE_ERROR" or STATUS_OF[code] < 429:
        return None
    return 30 if STATUS_OF[code] == 429 else 5


def check_headers(answer):
    special = {"text/event-stream": "no-cache", "image/jpeg": "private, no-cache"}
    control = special.get(answer.headers.get("Content-Type"), "no-store")
    control = "no-store" if "X-Capture-Source" in answer.headers else control
    for name, value in (SECURITY_HEADERS | {"Cache-Control": control}).items():
        assert answer.headers.getall(name) == [value]
    assert len(answer.headers.getall("X-Request-Id")) == 1


def check_error(answer, status, code):
    """Check that the answer is this error, in the error envelope without other fields; return the error."""
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    check_headers(answer)
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json
    assert set(body) == {"success", "error", "code", "correlation_id", "timestamp"}
    assert body["success"] is False
    error = body["error"]
    assert {"code", "message", "retryable"} <= set(error)
    assert set(error) <= {"code", "message", "retryable", "retry_after_seconds", "details"}
    assert error["code"] == body["code"]
    assert error["message"]
    assert isinstance(error.get("details", ""), str)
    assert body["correlation_id"] == answer.headers["X-Request-Id"]
    assert re.fullmatch(TIME, body["timestamp"])
    assert error["retryable"] is ("retry_after_seconds" in error)
    assert ("Retry-After" in answer.headers) is error["retryable"]
    if error["retryable"]:
        assert answer.headers["Retry-After"] == str(error["retry_after_seconds"])
    return error


def named_fields(answer):
    """The fields that a validation error names."""
    check_error(answer, 400, "VALIDATION_FAILED")
    return {fault.split(":")[0] for fault in answer.json["error"]["details"].split("; ")}


# Good answers.


async def test_good_answers_have_shape_of_route(rig):
    async with rig.daemon() as running, rig.fleet(1):
        await camera_is_registered(running)
        for route in ROUTES:
            answer = await call_route(running.admin, route)
            assert answer.status == route.status, answer.body
            check_headers(answer)
            if answer.status == 204:
                assert answer.body == b""
                assert not {"Content-Type", "Content-Length", "Transfer-Encoding"} & set(answer.headers)
                continue
            if route.shape is TEXT:
                assert answer.headers["Content-Type"].startswith("text/plain")
                continue
            if route.streams:
                assert answer.headers["Content-Type"] == "text/event-stream"
                continue
            if route.shape is BINARY:
                assert answer.headers["Content-Type"] == route.produces
                continue
            assert answer.headers["Content-Type"] == "application/json"
            if route.path != "/openapi.json":
                assert b":null" not in answer.body
            if route.shape is BARE:
                assert isinstance(answer.json, list) or not {"data", "correlation_id"} & set(answer.json)
                continue
            body = answer.json
            extra = set(body["data"]) if route.shape is ENVELOPE_WITH_FIELDS else set()
            assert set(body) == {"success", "data", "correlation_id", "timestamp"} | extra
            assert body["success"] is True
            assert isinstance(body["data"], dict)
            assert body["correlation_id"] == answer.headers["X-Request-Id"]
            assert re.fullmatch(TIME, body["timestamp"])
            age = datetime.now(UTC) - datetime.fromisoformat(body["timestamp"])
            assert timedelta(0) <= age < timedelta(seconds=30)


async def test_empty_lists_are_never_null(daemon):
    for path, lists in (
        ("/api/v1/cameras", ["cameras"]),
        ("/api/v1/espcam/dismissed", ["cameras"]),
        (f"{AUTO}/events", ["events"]),
        (f"{AUTO}/events/{MAC}", ["events"]),
    ):
        data = (await daemon.api.get(path)).data
        assert [data[name] for name in lists] == [[]]
    assert (await daemon.api.get("/api/v1/cameras")).json["cameras"] == []
    assert (await daemon.api.get("/api/v1/cameras/diagnostics")).json == []


async def test_head_answers_like_get_without_body(rig):
    async with rig.daemon() as running, rig.fleet(1):
        await camera_is_registered(running)
        for route in [route for route in ROUTES if route.method == "GET"]:
            key = [("X-API-Key", running.admin.key)]
            path = target(route) + ("?mac=" + MAC if "explain" in route.path else "")
            got = await exchange(running, "GET", path, key)
            head = await exchange(running, "HEAD", path, key)
            assert head.status == got.status == 200
            check_headers(head)
            assert head.headers["Content-Type"] == got.headers["Content-Type"]
            if route.streams:
                assert not {"Content-Length", "Transfer-Encoding"} & set(head.headers)
            elif route.tag != "system" and route.path not in ("/metrics", f"{AUTO}/status"):
                # The other answers change between the two requests.
                assert head.headers["Content-Length"] == str(len(got.body))


# Correlation.


async def test_well_formed_correlation_id_is_returned(daemon):
    for client_id in ["a", "3b241101-e2bb-4255-8caf-4136c566a962", "!~#$%&'*+-.^_`|/\\\"<>", "x" * 128]:
        for header in ["X-Request-Id", "X-Correlation-Id", "x-request-id"]:
            with case(client_id, header):
                for path, status in (
                    (f"{AUTO}/status", 200),
                    ("/health", 200),
                    ("/api/nothing", 404),
                    ("/api/v1/keys", 401),
                ):
                    answer = await daemon.api.get(path, headers={header: client_id})
                    assert (answer.status, answer.headers["X-Request-Id"]) == (status, client_id)
                    if path != "/health":
                        assert answer.json["correlation_id"] == client_id


async def test_malformed_correlation_id_is_replaced(daemon):
    for malformed in ["", " ", "two words", "x" * 129, "tab\there", "\u00e9", "\udcff"]:
        with case(malformed):
            answer = await exchange(daemon, "GET", f"{AUTO}/status", [("X-Request-Id", malformed)])
            assert re.fullmatch(UUID, answer.headers["X-Request-Id"])
            assert answer.json["correlation_id"] == answer.headers["X-Request-Id"]


async def test_generated_correlation_ids_are_unique(daemon):
    ids = {(await daemon.api.get("/health")).headers["X-Request-Id"] for _ in range(20)}
    assert len(ids) == 20


# Errors, route by route.


async def test_foreign_host_is_403_on_every_route(daemon):
    for route in ROUTES:
        check_error(await call_route(daemon.admin, route, headers={"Host": "evil.example"}), 403, "FORBIDDEN")


async def test_large_content_length_is_413_everywhere(daemon):
    for route in ROUTES:
        for size in (MIB + 1, 10**15):
            headers = [("Content-Length", size), ("Content-Type", "application/json")]
            answer = await exchange(daemon, route.method, target(route), headers)
            assert "1024 KiB" in check_error(answer, 413, "INVALID_REQUEST")["message"]
            check_answer(route.method, target(route), answer)


async def test_large_chunked_body_is_413(daemon):
    async def chunks():
        for _ in range(17):
            yield b" " * 65536

    for route in [route for route in ROUTES if route.writes]:
        answer = await call_route(
            daemon.admin, route, json=None, data=chunks(), headers={"Content-Type": "application/json"}
        )
        check_error(answer, 413, "INVALID_REQUEST")
        assert answer.headers["Connection"] == "close"


async def test_body_of_exactly_limit_is_accepted(daemon):
    body = b'{"name":"large"' + b" " * (MIB - 16) + b"}"
    assert len(body) == MIB
    answer = await daemon.admin.post("/api/v1/keys", data=body, headers={"Content-Type": "application/json"})
    assert answer.status == 201


async def test_unknown_method_is_405_with_allow(daemon):
    for path in {route.path for route in ROUTES}:
        example = target(next(route for route in ROUTES if route.path == path))
        allowed = {route.method for route in ROUTES if route.path == path}
        allowed |= {"HEAD"} if "GET" in allowed else set()
        for method in set(METHODS) - allowed:
            answer = await exchange(daemon, method, example, [("X-API-Key", daemon.admin.key)])
            if method == "HEAD":
                assert answer.status == 405
            else:
                check_error(answer, 405, "INVALID_REQUEST")
            check_headers(answer)
            assert set(answer.headers["Allow"].split(", ")) == allowed


async def test_unknown_api_path_is_json_404(daemon):
    for path in [
        "/api",
        "/api/",
        "/api/v1",
        "/api/v1/nothing",
        "/api/v1/cameras/",
        "/api/v2/cameras",
        "/API/v1/cameras",
        "/api/v1/door/status",
        f"{AUTO}/events/{MAC}/more",
        "/api/index.html",
        "/api/%2e%2e/health/../x",
        "/api/" + "x" * 4000,
    ]:
        for accept in ["application/json", "text/html,application/xhtml+xml", "*/*"]:
            with case(path, accept):
                for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
                    answer = await exchange(daemon, method, path, [("Accept", accept)])
                    check_error(answer, 404, "NOT_FOUND")
                    assert len(answer.body) < 1000, "the answer does not repeat a long path"
                head = await exchange(daemon, "HEAD", path, [("Accept", accept)])
                assert head.status == 404
                check_headers(head)


# Errors, code by code.


def test_codes_have_status_of_contract():
    for code, status in ((code, code.status) for code in ErrorCode):
        assert STATUS_OF[code] == status, code


def route_raising(error):
    """A route whose handler raises this error."""

    async def handler() -> Message:
        raise error

    return Route("GET", "/api/v1/broken", handler, "health", "Broken", Scope.READ)


async def test_error_of_each_code_has_retry_fields(daemon):
    for code in sorted(ErrorCode.__members__):
        with case(code):
            for details in (None, "some details"):
                route = route_raising(OrchestratorError("it failed", code=code, details=details))
                async with with_routes(daemon, route) as api:
                    error = check_error(await api.get("/api/v1/broken"), STATUS_OF[code], code)
                assert error["message"] == "it failed"
                assert error.get("details") == details
                assert error.get("retry_after_seconds") == retry_after(code)


async def test_retry_after_is_rounded_up(daemon):
    route = route_raising(OrchestratorError("later", code="RATE_LIMITED", retry_after_s=1.2))
    async with with_routes(daemon, route) as api:
        assert check_error(await api.get("/api/v1/broken"), 429, "RATE_LIMITED")["retry_after_seconds"] == 2


async def test_unexpected_error_is_500_without_details(daemon, log):
    client_id = "5f0c1a52-7b8e-4b5c-9a57-000000000001"
    async with with_routes(daemon, route_raising(ZeroDivisionError("the inner secret"))) as api:
        answer = await api.get("/api/v1/broken", headers={"X-Request-Id": client_id})
    check_error(answer, 500, "INTERNAL_ERROR")
    assert answer.json["correlation_id"] == client_id
    assert b"secret" not in answer.body
    assert b"ZeroDivisionError" not in answer.body
    assert b"Traceback" not in answer.body
    logged = log.getvalue()
    assert "the inner secret" in logged, "the log has the cause"
    assert client_id in logged, "with the client's correlation id"


async def test_unexpected_error_affects_no_other_request(daemon, log):
    async with with_routes(daemon, route_raising(ZeroDivisionError("once"))) as api:
        for _ in range(5):
            assert (await api.get("/api/v1/broken")).status == 500
            assert (await api.get(f"{AUTO}/status")).status == 200


# Bodies.


async def test_other_media_type_is_415(daemon):
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/json-patch+json",
        "text/json",
        "json",
        "",
    ]:
        with case(content_type):
            answer = await daemon.admin.post(
                "/api/v1/keys", data=b'{"name":"x"}', headers={"Content-Type": content_type}
            )
            check_error(answer, 415, "INVALID_REQUEST")


async def test_json_media_type_spellings_are_accepted(daemon):
    for number, content_type in enumerate(["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"]):
        with case(content_type):
            body = json.dumps({"name": f"key {number}"})
            answer = await daemon.admin.post("/api/v1/keys", data=body, headers={"Content-Type": content_type})
            assert answer.status == 201


async def test_malformed_json_is_400_invalid_request(daemon):
    for body in [
        b"{",
        b"nonsense",
        b"[]",
        b'"text"',
        b"1",
        b"null",
        b"true",
        b'{"name":"a",}',
        b"{'name':'a'}",
        b'{"name":"a"} trailing',
        b'{"name":"a"}{"name":"b"}',
        b'{"name":NaN}',
        b'{"name":Infinity}',
        b'{"name":1e999}',
        b'{"name":"\xff"}',
        b'\xef\xbb\xbf{"name":"a"}',
        b'{"name":"a\x00b"}',
        b'{"name":' + b"[" * 100 + b"]" * 100 + b"}",
        b"[" * 100_000,
        b'{"name":' + b"9" * 10_000 + b"}",
    ]:
        with case(body):
            answer = await daemon.admin.post("/api/v1/keys", data=body, headers={"Content-Type": "application/json"})
            check_error(answer, 400, "INVALID_REQUEST")
            assert len(answer.body) < 1000


async def test_writes_without_model_ignore_body(daemon):
    for content_type in ("application/json", "text/plain"):
        for body in (b"", b"{}", b"nonsense"):
            answer = await daemon.api.post(f"{AUTO}/disable", data=body, headers={"Content-Type": content_type})
            assert answer.status == 200


# Fields.


async def test_invalid_path_and_query_fields_are_named_in_error(daemon):
    for path, fields in [
        (
            f"{AUTO}/events/nonsense?limit=0&offset=-1&stage=x&since=y",
            {"mac", "limit", "offset", "stage", "since"},
        ),
        (f"{AUTO}/events?limit=101&mac=zz&since=&stage=", {"limit", "mac", "since", "stage"}),
        (f"{AUTO}/policy/explain?ip={'1' * 65}", {"mac", "ip"}),
        (f"{AUTO}/policy/explain", {"mac"}),
        (f"{AUTO}/events?limit=x&offset=x", {"limit", "offset"}),
    ]:
        with case(path, fields):
            assert named_fields(await daemon.api.get(path)) == fields


async def test_invalid_body_fields_are_named_in_error(daemon):
    answer = await daemon.admin.post("/api/v1/keys", json={"name": "", "scope": "root", "more": 1})
    assert named_fields(answer) == {"name", "scope", "more"}
    assert named_fields(await daemon.admin.post("/api/v1/keys", json={})) == {"name"}
    assert named_fields(await daemon.admin.post("/api/v1/keys", json={"name": None, "scope": 1})) == {"name", "scope"}


async def test_limit_out_of_range_is_refused(daemon):
    for limit in ["0", "101", "-1", "x", "", "1.5", "0x10", " ", "%EF%BC%91", "1e1", "9" * 30, "null"]:
        with case(limit):
            for path in (f"{AUTO}/events", f"{AUTO}/events/{MAC}"):
                assert named_fields(await daemon.api.get(f"{path}?limit={limit}")) == {"limit"}


async def test_offset_out_of_range_is_refused(daemon):
    for offset in ["-1", "x", "", "1.5", str(2**31 + 1), str(2**63), "9" * 30]:
        with case(offset):
            assert named_fields(await daemon.api.get(f"{AUTO}/events?offset={offset}")) == {"offset"}


async def test_ends_of_ranges_are_accepted(daemon):
    for query in ("limit=1", "limit=100", "offset=0", f"offset={2**31}"):
        assert (await daemon.api.get(f"{AUTO}/events?{query}")).status == 200


GOOD_MACS = [
    "AA:BB:CC:DD:EE:F0",
    "aa:bb:cc:dd:ee:f0",
    "AA-BB-CC-DD-EE-F0",
    "aabbccddeef0",
    "AABB.CCDD.EEF0",
    "AA%3ABB%3ACC%3ADD%3AEE%3AF0",
    "aa%3abb%3acc%3add%3aee%3af0",
]
BAD_MACS = [
    "01:00:5E:00:00:01",
    "33:33:00:00:00:01",
    "FF:FF:FF:FF:FF:FF",
    "00:00:00:00:00:00",
    "nonsense",
    "AA:BB:CC:DD:EE",
    "AA:BB:CC:DD:EE:F0:11",
    "AA:BB:CC:DD:EE:FG",
    "AA:BB-CC:DD-EE:F0",
    "AABBCCDDEEF",
    "AA:BB:CC:DD:EE:F0\n",
    " AA:BB:CC:DD:EE:F0",
    "\uff21A:BB:CC:DD:EE:F0",
    "\x00",
    "x" * 500,
]


async def test_invalid_mac_is_refused(daemon):
    for mac in BAD_MACS:
        with case(mac):
            text = quote(mac, safe="")
            for path in (f"{AUTO}/events/{text}", f"{AUTO}/events?mac={text}", f"{AUTO}/policy/explain?mac={text}"):
                answer = await exchange(daemon, "GET", path)
                check_answer("GET", path, answer)
                assert named_fields(answer) == {"mac"}
                assert len(answer.body) < 1000


async def test_mac_spellings_are_normalised(daemon):
    for spelling in GOOD_MACS:
        with case(spelling):
            assert (await exchange(daemon, "GET", f"{AUTO}/events/{spelling}")).status == 200
            answer = await exchange(daemon, "GET", f"{AUTO}/policy/explain?mac={spelling}")
            assert answer.data["mac"] == MAC


def test_document_pattern_matches_macs():
    parameters = DOCUMENT["paths"][f"{AUTO}/events/{{mac}}"]["get"]["parameters"]
    pattern = next(parameter for parameter in parameters if parameter["name"] == "mac")["schema"]["pattern"]
    for mac in GOOD_MACS:
        assert re.fullmatch(pattern, unquote(mac)), mac
    for mac in BAD_MACS:
        assert not re.fullmatch(pattern, mac), mac


async def test_invalid_iso_8601_time_is_refused(daemon):
    for since in [
        "yesterday",
        "",
        "0",
        "1769094000",
        "2026",
        "2026-13-01",
        "2026-02-30T00:00:00Z",
        "2026-01-22T25:00:00Z",
        "2026-01-22T15:00:00+25:00",
        "2026-01-22T15:00:00Zulu",
        "2026-01-22T15:00:00%00",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00%2B01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-01-22T15:00:00;DROP TABLE",
        "2026-W04-4",
        "x" * 500,
    ]:
        with case(since):
            answer = await daemon.api.get(f"{AUTO}/events?since={since}")
            assert named_fields(answer) == {"since"}
            assert len(answer.body) < 1000


async def test_since_accepts_any_utc_offset(rig, clock):
    async with rig.daemon(clock=clock) as running:  # the clock is at 15:00:00Z
        await rig.announce(1, ip=None)
        await eventually(lambda: rig.rows("SELECT 1 FROM onboarding_audit"))
        for since, expected in (
            ("2026-01-22T15:00:00Z", 1),
            ("2026-01-22t15:00:00z".upper(), 1),
            ("2026-01-22T15:00:00", 1),
            ("2026-01-22 15:00", 1),
            ("2026-01-22", 1),
            ("2026-01-23", 0),
            ("2026-01-22T15:00:00.000001Z", 0),
            ("2026-01-22T17:00:00%2B02:00", 1),
            ("2026-01-22T17:00:00+02:00", 1),
            ("2026-01-22T17:00:00+0200", 1),
            ("2026-01-22T17:00:01+02:00", 0),
            ("2026-01-22T13:00:00-02:00", 1),
            ("2026-01-22T13:00:01-02:00", 0),
        ):
            answer = await exchange(running, "GET", f"{AUTO}/events?since={since.replace(' ', '%20')}")
            assert len(answer.data["events"]) == expected, since


async def test_unknown_stage_is_refused_with_list(daemon):
    for stage in ["unknown", "PAIRED", "", "paired,failed", "x" * 500]:
        with case(stage):
            answer = await daemon.api.get(f"{AUTO}/events?stage={stage}")
            assert named_fields(answer) == {"stage"}
            for valid in ("discovered", "verified", "registered", "paired", "failed", "rejected_by_policy"):
                assert valid in answer.json["error"]["details"]


async def test_odd_bytes_in_path_and_query_are_treated_as_data(daemon):
    for path in ["%ff", "%00", "%ed%a0%80", "%F0%9F%93%B7", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%25"]:
        with case(path):
            answer = await exchange(daemon, "GET", f"/api/v1/cameras/{path}")
            check_error(answer, 404, answer.json["code"])
            for query in (f"{AUTO}/events?mac={path}", f"{AUTO}/events?stage={path}", f"{AUTO}/events?{path}={path}"):
                answer = await exchange(daemon, "GET", query)
                assert answer.status in (200, 400)
                json.loads(answer.body.decode("utf-8", "strict"))


async def test_camera_is_found_by_id(rig):
    async with rig.daemon() as running, rig.fleet(1):
        await camera_is_registered(running)
        assert (await running.api.get(f"/api/v1/cameras/{CAMERA}")).status == 200


async def test_unknown_expect_header_is_ignored(daemon):
    answer = await exchange(daemon, "GET", "/api/v1/cameras", [("Expect", "miracles"), ("X-Request-Id", "mine")])
    assert (answer.status, answer.headers["X-Request-Id"]) == (200, "mine")


async def test_well_formed_id_wins_over_malformed_one(daemon):
    headers = {"X-Request-Id": "two words", "X-Correlation-Id": "good-one"}
    assert (await daemon.api.get("/api/v1/cameras", headers=headers)).headers["X-Request-Id"] == "good-one"


async def test_expect_100_continue_is_answered(daemon):
    answer = await daemon.admin.post("/api/v1/keys", json={"name": "waiting"}, expect100=True)
    assert answer.status == 201
