"""The OpenAPI document: complete, valid, and true of what the daemon answers."""

import json
import re
from typing import get_args

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from pi_orchestrator.api.envelope import HTTP_STATUS, Shape
from pi_orchestrator.api.routes import ROUTES
from tests.support.api import BATCH, DOCUMENT, JSON, ROUTE_IDS, ask, camera_is_registered, closed, validate
from tests.support.process import command

pytestmark = pytest.mark.usefixtures("a_session_for_each_route")

ALL_OPTIONAL = {"POST /api/v1/containers", f"POST {BATCH}", f"POST {BATCH}/{{id}}/provision-all"}


def operations():
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


each_operation = pytest.mark.parametrize("operation", [pytest.param(op, id=name) for name, op in operations()])


def test_the_document_is_valid_openapi_3_1():
    assert DOCUMENT["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_formats_are_really_checked_here():
    assert {"date-time"} <= set(Draft202012Validator.FORMAT_CHECKER.checkers)
    with pytest.raises(AssertionError, match="date-time"):
        validate("yesterday", {"type": "string", "format": "date-time"})


def test_every_route_is_in_the_document_and_nothing_else_is():
    assert sorted(name for name, _ in operations()) == sorted(ROUTE_IDS)
    assert len(set(ROUTE_IDS)) == len(ROUTES)


def test_operation_ids_are_unique_identifiers():
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in ids)


def test_every_tag_in_use_is_described_and_none_is_idle():
    described = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    assert set(described) == {tag for _, operation in operations() for tag in operation["tags"]}
    assert all(described.values())


@each_operation
def test_every_operation_says_what_it_does(operation):
    assert operation["summary"]
    assert len(operation["description"]) > len("short")
    assert operation["description"] != operation["summary"]
    assert len(operation["tags"]) == 1


@each_operation
def test_every_parameter_is_described_in_words(operation):
    for parameter in operation["parameters"]:
        words = parameter["description"]
        assert words, parameter["name"]
        assert words.lower().replace(" ", "_") != parameter["name"].lower(), f"{parameter['name']}: only its name"
        assert {"type", "anyOf", "enum"} & set(parameter["schema"]), parameter["name"]


@each_operation
def test_every_success_has_a_schema_and_an_example_that_fits_it(operation):
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
            validate(content["example"], schema if "allOf" in schema else closed(schema))


@each_operation
def test_every_error_is_the_one_error_with_codes_of_that_status(operation):
    errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert {"403", "413", "500"} <= set(errors)
    for status, answer in errors.items():
        if answer["description"] == "Not ready":
            continue
        assert answer["content"] == {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
        for code in answer["description"].split(", "):
            assert HTTP_STATUS[code] == int(status) or (code, status) in {
                ("INVALID_REQUEST", "413"),
                ("INVALID_REQUEST", "415"),
            }


@each_operation
def test_every_operation_says_which_key_it_takes(operation):
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {name for way in operation["security"] for name in way} <= set(schemes)


def test_writes_document_the_idempotency_key_and_streams_where_they_go_on():
    streams = {f"{route.method} {route.path}" for route in ROUTES if route.streams}
    for name, operation in operations():
        headers = {p["name"] for p in operation["parameters"] if p["in"] == "header"}
        expected = {"Last-Event-ID"} if name in streams else set() if name.startswith("GET") else {"Idempotency-Key"}
        if "304" in operation["responses"]:
            expected = {"If-None-Match"}
        assert headers == expected, name


def test_every_body_is_described_and_has_required_fields_and_words():
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


def test_every_schema_is_used_and_described():
    text = json.dumps(DOCUMENT)
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert f'"#/components/schemas/{name}"' in text, f"{name} is used nowhere"
        Draft202012Validator.check_schema(schema)


def test_the_document_says_that_times_are_times():
    """A client that is generated from it parses them; only pairing has times that may be empty text."""
    schemas = {name: schema for name, schema in DOCUMENT["components"]["schemas"].items() if name != "PairedCamera"}
    for name, schema in schemas.items():
        for field, described in schema.get("properties", {}).items():
            if re.search(r"(_at|_seen|Seen|timestamp)$", field):
                assert "date-time" in json.dumps(described), f"{name}.{field}"


async def test_the_served_document_is_the_one_that_is_built_and_the_one_that_is_printed(world):
    async with world.daemon(connected=False) as running:
        served = await running.api.get("/openapi.json")
    printed = await command("openapi")
    assert printed.code == 0
    assert served.json == printed.json == json.loads(json.dumps(DOCUMENT))


@pytest.fixture
async def one_camera(world):
    async with world.daemon() as running, world.fleet(1):
        await camera_is_registered(running)
        yield running


async def test_every_route_answers_a_good_request_as_documented(one_camera):
    for route in ROUTES:
        answer = await ask(one_camera.admin, route)
        assert answer.status == route.status, f"{route.method} {route.path}: {answer.body[:300]}"


async def test_every_route_answers_bad_requests_as_documented(one_camera):
    for route in ROUTES:
        seen = set()
        for headers in (
            {"Host": "evil.example"},
            {"X-API-Key": "wrong"},
            {"Idempotency-Key": "two words", "Origin": "http://evil.example"},
            {"Content-Type": "text/plain"},
        ):
            seen.add((await ask(one_camera.admin, route, headers=headers)).status)
        for query in ({"limit": "x", "days": "x", "mac": "x", "stage": "x"}, {"offset": "-1"}):
            seen.add((await ask(one_camera.admin, route, params=query)).status)
        if route.model("body"):
            seen.add((await ask(one_camera.admin, route, json=None, data=b"{")).status)
            seen.add((await ask(one_camera.admin, route, json={"nonsense": 1})).status)
        assert 403 in seen, route.path


def test_shapes_and_answers_of_routes_agree():
    for route in ROUTES:
        if route.shape in (Shape.ENVELOPE, Shape.DOUBLED) and route.status != 204:
            assert hasattr(route.answer, "model_fields"), f"{route.path}: what is in the envelope is an object"
        if route.status == 204:
            assert route.answer is type(None) or get_args(route.answer) == ()
