"""The OpenAPI document: complete, valid, and consistent with the daemon's answers."""

import json
import re
from typing import get_args

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from pi_orchestrator.app.build import ROUTES
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.envelope import ENVELOPE, ENVELOPE_WITH_FIELDS
from tests.support.api import BATCH, DOCUMENT, JSON, ROUTE_IDS, call_route, camera_is_registered, validate
from tests.support.process import command

pytestmark = pytest.mark.usefixtures("documented_answers", "sample_data_per_route")

ALL_OPTIONAL = {"POST /api/v1/containers", f"POST {BATCH}", f"POST {BATCH}/{{id}}/provision-all"}


def operations():
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


each_operation = pytest.mark.parametrize("operation", [pytest.param(op, id=name) for name, op in operations()])


def test_document_is_valid_openapi_3_1():
    assert DOCUMENT["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_formats_are_checked():
    with pytest.raises(AssertionError, match="date-time"):
        validate("yesterday", {"type": "string", "format": "date-time"})


def test_document_has_exactly_the_routes():
    assert sorted(name for name, _ in operations()) == sorted(ROUTE_IDS)
    assert len(set(ROUTE_IDS)) == len(ROUTES)


def test_operation_ids_are_unique_identifiers():
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in ids)


def test_tags_are_described_and_used():
    described = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    assert set(described) == {tag for _, operation in operations() for tag in operation["tags"]}
    assert all(described.values())


@each_operation
def test_operation_has_own_description(operation):
    assert operation["summary"]
    assert len(operation["description"]) > len("short")
    assert operation["description"] != operation["summary"]
    assert len(operation["tags"]) == 1


@each_operation
def test_parameters_are_described(operation):
    for parameter in operation["parameters"]:
        description = parameter["description"]
        assert description, parameter["name"]
        assert description.lower().replace(" ", "_") != parameter["name"].lower(), f"{parameter['name']}: only its name"
        assert {"type", "anyOf", "enum"} & set(parameter["schema"]), parameter["name"]


@each_operation
def test_success_has_schema_and_valid_example(operation):
    successes = {status: answer for status, answer in operation["responses"].items() if status < "400"}
    assert successes
    for status, answer in successes.items():
        assert answer["description"]
        if status in ("204", "304"):
            assert "content" not in answer
            continue
        for media_type, content in answer["content"].items():
            if content["schema"].get("contentMediaType") == media_type and "contentSchema" not in content["schema"]:
                continue  # bytes are their own example
            assert content["example"] is not None
            if media_type != JSON:
                continue
            schema = content["schema"]
            validate(content["example"], schema, closed="allOf" not in schema)


@each_operation
def test_errors_have_codes_of_their_status(operation):
    errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert {"403", "413", "500"} <= set(errors)
    for status, answer in errors.items():
        if answer["description"] == "Not ready":
            continue
        assert answer["content"] == {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
        for code in answer["description"].split(", "):
            assert ErrorCode[code].status == int(status) or (code, status) in {
                ("INVALID_REQUEST", "413"),
                ("INVALID_REQUEST", "415"),
            }


@each_operation
def test_operation_declares_its_security(operation):
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {name for requirement in operation["security"] for name in requirement} <= set(schemes)


def test_operations_document_their_headers():
    streams = {f"{route.method} {route.path}" for route in ROUTES if route.streams}
    for name, operation in operations():
        headers = {p["name"] for p in operation["parameters"] if p["in"] == "header"}
        expected = {"Last-Event-ID"} if name in streams else set() if name.startswith("GET") else {"Idempotency-Key"}
        if "304" in operation["responses"]:
            expected = {"If-None-Match"}
        assert headers == expected, name


def test_request_bodies_are_described():
    for name, operation in operations():
        if "requestBody" not in operation:
            continue
        ((media_type, content),) = operation["requestBody"]["content"].items()
        if media_type != JSON:
            assert (media_type, content["schema"]) == ("text/csv", {"type": "string"})
            continue
        reference = content["schema"]["$ref"].rsplit("/", 1)[-1]
        model = DOCUMENT["components"]["schemas"][reference]
        assert model["description"], name
        assert model.get("required") or name.startswith("PATCH") or name in ALL_OPTIONAL, name
        assert all("description" in field or "$ref" in field for field in model["properties"].values()), name


def test_schemas_are_used_and_valid():
    text = json.dumps(DOCUMENT)
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert f'"#/components/schemas/{name}"' in text, f"{name} is not used"
        Draft202012Validator.check_schema(schema)


def test_times_have_format_date_time():
    """Generated clients parse times; only pairing has times that may be empty text."""
    schemas = {name: schema for name, schema in DOCUMENT["components"]["schemas"].items() if name != "PairedCamera"}
    for name, schema in schemas.items():
        for field, described in schema.get("properties", {}).items():
            if re.search(r"(_at|_seen|Seen|timestamp)$", field):
                assert "date-time" in json.dumps(described), f"{name}.{field}"


async def test_served_and_printed_documents_are_equal(rig):
    async with rig.daemon(connected=False) as running:
        served = await running.api.get("/openapi.json")
    printed = await command("openapi")
    assert printed.code == 0
    assert served.json == printed.json == json.loads(json.dumps(DOCUMENT))


@pytest.fixture
async def one_camera(rig):
    async with rig.daemon() as running, rig.fleet(1):
        await camera_is_registered(running)
        yield running


async def test_bad_requests_answered_as_documented(one_camera):
    for route in ROUTES:
        seen = set()
        for headers in (
            {"Host": "evil.example"},
            {"X-API-Key": "wrong"},
            {"Idempotency-Key": "two words", "Origin": "http://evil.example"},
            {"Content-Type": "text/plain"},
        ):
            seen.add((await call_route(one_camera.admin, route, headers=headers)).status)
        for query in ({"limit": "x", "days": "x", "mac": "x", "stage": "x"}, {"offset": "-1"}):
            seen.add((await call_route(one_camera.admin, route, params=query)).status)
        if route.model("body"):
            seen.add((await call_route(one_camera.admin, route, json=None, data=b"{")).status)
            seen.add((await call_route(one_camera.admin, route, json={"nonsense": 1})).status)
        assert 403 in seen, route.path


def test_shapes_match_answer_models():
    for route in ROUTES:
        if route.shape in (ENVELOPE, ENVELOPE_WITH_FIELDS) and route.status != 204:
            assert hasattr(route.answer, "model_fields"), f"{route.path}: data in the envelope is an object"
        if route.status == 204:
            assert route.answer is type(None) or get_args(route.answer) == ()
