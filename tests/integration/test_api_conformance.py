"""The OpenAPI document: complete, valid, and true of what the daemon answers.

`watch` is for the other tests of the API: from then on each answer that they get is held against the document.
"""

import asyncio
import contextlib
import functools
import io
import json
import logging
import re
from typing import get_args
from urllib.parse import quote

import pytest
import structlog
from jsonschema import Draft202012Validator
from multidict import CIMultiDict
from openapi_spec_validator import OpenAPIV31SpecValidator

from pi_orchestrator.api.app import build_app, served
from pi_orchestrator.api.envelope import HTTP_STATUS, Shape
from pi_orchestrator.api.openapi import build
from pi_orchestrator.api.routes import ROUTES
from pi_orchestrator.logs import configure
from pi_orchestrator.settings import Listen
from tests.support.process import command
from tests.support.waiting import eventually
from tests.support.world import Answer, Api

DOCUMENT = build(ROUTES)
CAMERA = "24:6F:28:44:CB:60"  # the first of a fleet
LAST_ID = {"keys": "nobody-of-this-name"}
JSON = "application/json"
ROUTE_IDS = [f"{route.method} {route.path}" for route in ROUTES]

# What else than a path a route needs for a success.
QUERIES = {"/api/v1/onboarding/auto/policy/explain": {"mac": CAMERA, "ip": "192.168.10.21"}}
BODIES = {"/api/v1/keys": {"name": "a new key", "scope": "read"}}

each_route = pytest.mark.parametrize("route", ROUTES, ids=ROUTE_IDS)


def target(route):
    """A path of this route that exists while the first camera of a fleet is registered."""
    values = {"mac": CAMERA, "id": LAST_ID.get(route.tag, CAMERA)}
    return re.sub(r"\{(\w+)\}", lambda match: quote(values[match[1]], safe=""), route.path)


async def ask(api, route, **more):
    """A request that should succeed."""
    if route.model("body"):
        more.setdefault("json", BODIES[route.path])
    if route.path in QUERIES:
        more.setdefault("params", QUERIES[route.path])
    return await api.call(route.method, target(route), **more)


async def camera_is_registered(running):
    await eventually(lambda: CAMERA in running.services.roster)


def route_of(method, path):
    """The route that a request is meant for; HEAD is answered by GET."""
    method = {"HEAD": "GET"}.get(method, method)
    # A fixed path is its own; only where there is none, a template may fit.
    for route in [route for route in ROUTES if route.path == path] or ROUTES:
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))
        if route.method == method and re.fullmatch(pattern, path):
            return route
    return None


def hold(method, path, answer):
    """AssertionError unless an answer is as the document says; unknown paths are answered with an error."""
    path = path.split("?")[0].split("#")[0]
    route = route_of(method, path)
    if route is None:
        assert answer.status >= 400, f"{method} {path} is in no document, and answers {answer.status}"
        return check_error(answer)
    responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    assert str(answer.status) in responses, f"{method} {path}: {answer.status} is not documented; {answer.body[:300]}"
    content = responses[str(answer.status)].get("content")
    if content is None or method == "HEAD":
        assert not answer.body, f"{method} {path}: {answer.status} has a body"
        return None
    ((media_type, described),) = content.items()
    assert answer.headers["Content-Type"].split(";")[0] == media_type
    if media_type != JSON:
        return None
    if answer.status >= 400 and described["schema"].get("$ref", "").endswith("/Error"):
        assert answer.json["code"] in responses[str(answer.status)]["description"].split(", ")
        return check_error(answer)
    body = answer.json
    validate(body, described["schema"])
    if route.shape is Shape.DOUBLED:
        assert {**body["data"], **body} == body, "the top level repeats the data"
        envelope, data = described["schema"]["allOf"]
        validate({name: value for name, value in body.items() if name not in body["data"]}, closed(envelope))
        return validate(body["data"], closed(data))
    return validate(body, closed(described["schema"]))


def check_error(answer):
    assert answer.headers["Content-Type"] == JSON
    if answer.body:  # HEAD has none
        validate(answer.json, closed({"$ref": "#/components/schemas/Error"}))
        assert HTTP_STATUS[answer.json["code"]] == answer.status or answer.json["code"] == "INVALID_REQUEST"


def validate(value, schema):
    """Against a schema of the document, formats included."""
    faults = sorted(validator(json.dumps(schema)).iter_errors(value), key=str)
    assert not faults, "\n".join(f"{fault.json_path}: {fault.message[:300]}" for fault in faults)


@functools.cache
def validator(schema):
    whole = {**json.loads(schema)}
    whole.setdefault("components", DOCUMENT["components"])
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def closed(schema):
    """The schema, with no room for fields that are not in it."""

    def close(node):
        if isinstance(node, list):
            return [close(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {name: close(value) for name, value in node.items()}
        if "properties" in node and node.get("type") == "object":
            node.setdefault("additionalProperties", False)
        return node

    return close({**schema, "components": DOCUMENT["components"]})


def watch(monkeypatch):
    """Hold every answer of this test against the document."""
    call = Api.call

    async def watched(self, method, path, **more):
        answer = await call(self, method, path, **more)
        hold(method, path, answer)
        return answer

    monkeypatch.setattr(Api, "call", watched)


class Socket:
    """A connection of one's own, for what no decent HTTP client sends."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, has_body=True):
        """The next answer; `asyncio.IncompleteReadError` when the other side closes instead."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = CIMultiDict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("Content-Length", 0))) if has_body else b""
        return Answer(int(first.split()[1]), headers, body)

    async def rest(self):
        """What still comes until the other side closes."""
        with contextlib.suppress(ConnectionResetError):
            return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def connection(running, *, source="127.0.0.3", port=None):
    # Not from 127.0.0.1: these come and go by the thousand, and would use up ports that a listener was promised.
    where = running.daemon.listen[0]
    reader, writer = await asyncio.open_connection(where.host, port or where.port, local_addr=(source, 0))
    try:
        yield Socket(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def exchange(running, method, path, headers=(), body=b"", **how):
    """One request, sent as it is written here; `headers` are pairs, Host comes by itself unless it is among them."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if "host" not in {name.lower() for name, _ in headers}:
        lines.append("Host: 127.0.0.1")
    async with connection(running, **how) as sock:
        await sock.send("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body)
        return await sock.answer(has_body=method != "HEAD")


@contextlib.contextmanager
def case(*values):
    """Name what was tried, when one of many fails; a daemon for each of them would cost too much time."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case of {', '.join(map(repr, values))}")
        raise


@contextlib.contextmanager
def production_log():
    """All that is written to the log, at its most talkative, in the form in which it is written in production."""
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure(level="debug", style="json", stream=stream)
    try:
        yield stream
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.asynccontextmanager
async def with_routes(running, *routes):
    """The same API with further routes, on a port of its own."""
    daemon = running.daemon
    app = build_app(routes=[*ROUTES, *routes], services=daemon.services, gate=daemon._gate, guard=daemon._guard)
    async with served(app, [Listen("127.0.0.1", 0)]) as (where,):
        yield Api(running.api.session, f"http://{where}", running.admin.key)


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
    assert len(successes) == 1
    for status, answer in successes.items():
        assert answer["description"]
        if status == "204":
            assert "content" not in answer
            continue
        ((media_type, content),) = answer["content"].items()
        assert content["example"] is not None
        if media_type == JSON:
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


def test_writes_document_the_idempotency_key_and_reads_do_not():
    for name, operation in operations():
        headers = {p["name"] for p in operation["parameters"] if p["in"] == "header"}
        assert headers == (set() if name.startswith("GET") else {"Idempotency-Key"}), name


def test_every_body_is_described_and_has_required_fields_and_words():
    for name, operation in operations():
        if "requestBody" not in operation:
            continue
        reference = operation["requestBody"]["content"][JSON]["schema"]["$ref"].rsplit("/", 1)[-1]
        model = DOCUMENT["components"]["schemas"][reference]
        assert model["description"], name
        assert model["required"], name
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
async def one_camera(world, monkeypatch):
    watch(monkeypatch)
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
