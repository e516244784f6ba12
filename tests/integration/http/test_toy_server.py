"""Another server on the HTTP layer: its own errors, bearer tokens, limits and streams; nothing of edge_http."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web
from openapi_spec_validator import validate
from pydantic import BaseModel, Field

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import ConflictError, UnauthorizedError
from pi_orchestrator.core.listen import Listen
from pi_orchestrator.http import openapi
from pi_orchestrator.http.endpoint import Api
from pi_orchestrator.http.guard import HostGuard
from pi_orchestrator.http.idempotency import Idempotency
from pi_orchestrator.http.model import ApiModel
from pi_orchestrator.http.openapi import ApiInfo
from pi_orchestrator.http.protocols import Limits
from pi_orchestrator.http.route import STREAM, Route, table
from pi_orchestrator.http.server import build_app, served
from pi_orchestrator.http.sse import Cursor, EventStreams, Feed, Opening, frame
from tests.support.waiting import eventually

TOKENS = {"s3cret": "alice", "0ther": "bob"}
PROBLEM = "application/problem+json"


# Parts that the server provides.


class ProblemErrors:
    """Errors as problem documents: lower-case types, no envelope."""

    schema = {
        "type": "object",
        "required": ["type", "title", "status"],
        "properties": {"type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"}},
    }
    statuses = {"VALIDATION_FAILED": 422, "UNAUTHORIZED": 401, "CONFLICT": 409, "NOT_FOUND": 404, "FORBIDDEN": 403}

    def describe(self, code):
        return self.statuses.get(code, 500 if code == "INTERNAL_ERROR" else 400), code.lower()

    def render(self, error, *, request_id, status=None, headers):
        status = status or self.describe(error.code)[0]
        body = {"type": error.code.lower(), "title": error.message, "status": status, "trace": request_id}
        if error.details:
            body["detail"] = error.details
        return web.Response(body=json.dumps(body), status=status, headers={**headers, "Content-Type": PROBLEM})


class BearerTokens:
    """`Authorization: Bearer TOKEN` on every route but those of the tag `open`."""

    schemes = {"token": {"type": "http", "scheme": "bearer"}}

    def __init__(self, tokens):
        self.tokens = dict(tokens)

    def security(self, route):
        return [] if route.tag == "open" else [{"token": []}]

    def errors(self, route):
        return () if route.tag == "open" else ("UNAUTHORIZED",)

    def admit(self, route, request):
        if route.tag == "open":
            return None
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or token not in self.tokens:
            raise UnauthorizedError("no valid token")
        return self.tokens[token]

    def stream_check(self, route, request, identity):
        return lambda: identity in self.tokens.values()

    def amend_response(self, request, response, identity):
        response.headers["X-Served"] = identity or "anonymous"


class Answers(dict):
    """Answers in memory."""

    async def find(self, *, key, operation):
        return self.get((key, operation))

    async def save(self, *, key, operation, answer):
        self[key, operation] = answer


@dataclass(frozen=True)
class Caller:
    """The caller."""

    name: str


class Shelf:
    """The data of the handlers."""

    def __init__(self):
        self.books = {}


class Ticks:
    """A source of numbered entries."""

    def __init__(self):
        self.newest = 0

    async def page(self, cursor, *, copy):
        ids = range(cursor.position + 1, self.newest + 1)
        cursor.position, cursor.behind = self.newest, False
        return [frame("tick", b"%d" % number, event_id=number, copy=copy) for number in ids]


# Routes.


class BookPath(BaseModel):
    """Which book."""

    isbn: str = Field(pattern="^[0-9]{3,13}$")


class NewBook(BaseModel):
    """A new book."""

    title: str = Field(min_length=1, max_length=20)
    pages: int = Field(ge=1)


class Book(ApiModel):
    """A book, and who added it."""

    title: str
    by: str


class TickFeed(Feed[Book]):
    """Ticks from now on."""

    def __init__(self, ticks):
        self.ticks = ticks

    async def open(self, *, copy):
        return Opening(frame("hello", b"{}", copy=copy), [Cursor(self.ticks, None, position=self.ticks.newest)])

    def heartbeat(self, *, copy):
        return frame("beat", b"{}", copy=copy)


async def put(shelf: Shelf, caller: Caller, path: BookPath, body: NewBook) -> Book:
    """Store a book."""
    if path.isbn in shelf.books:
        raise ConflictError("the book exists already", details=path.isbn)
    shelf.books[path.isbn] = Book(title=body.title, by=caller.name)
    return shelf.books[path.isbn]


async def about() -> Book:
    """About this server."""
    return Book(title="toy", by="none")


async def broken(shelf: Shelf) -> Book:
    """Fail unexpectedly."""
    return shelf.books["nothing"]


async def ticks(source: Ticks) -> Feed[Book]:
    """Ticks as they come."""
    return TickFeed(source)


ROUTES = table(
    "books",
    Route("PUT", "/v2/books/{isbn}", put, "books", "Keep", status=201, errors=("CONFLICT",), example={}),
    Route("GET", "/v2/about", about, "open", "About", example={"title": "toy", "by": "none"}),
    Route("GET", "/v2/broken", broken, "books", "Broken", example={}),
    Route("GET", "/v2/ticks", ticks, "books", "Ticks", shape=STREAM, example=""),
)


@dataclass
class Toy:
    """The running server."""

    url: str
    session: aiohttp.ClientSession
    shelf: Shelf
    ticks: Ticks
    streams: EventStreams
    tokens: BearerTokens
    answered: Counter

    async def call(self, method, path, *, token="s3cret", **more):
        headers = {"Authorization": f"Bearer {token}"} | more.pop("headers", {}) if token else more.pop("headers", {})
        async with self.session.request(method, self.url + path, headers=headers, **more) as response:
            return response.status, response.headers.copy(), await response.read()


def api_of(shelf, source, streams, tokens):
    return Api(
        authenticator=tokens,
        errors=ProblemErrors(),
        streams=streams,
        limits=Limits(body_bytes=200, json_depth=3, body_s=0.3),
        provided={Shelf: shelf, Ticks: source},
        per_request={Caller: lambda route, request, identity: Caller(identity or "none")},
        idempotency=Idempotency(store=Answers(), hash_request=lambda data: data, clock=Clock()),
    )


@pytest.fixture
async def toy():
    shelf, source, tokens, answered = Shelf(), Ticks(), BearerTokens(TOKENS), Counter()
    streams = EventStreams(clock=Clock(), unnamed_copy=False)
    app = build_app(
        api_of(shelf, source, streams, tokens),
        routes=ROUTES,
        guard=HostGuard(trusted_hosts=(), ports=()),
        answered=answered,
    )
    async with served(app, [Listen("127.0.0.1", 0)]) as (address,), aiohttp.ClientSession() as session:
        yield Toy(address.url, session, shelf, source, streams, tokens, answered)
        streams.close()


BOOK = {"title": "Time", "pages": 300}


async def test_answer_is_bare_and_names_caller(toy):
    status, headers, body = await toy.call("PUT", "/v2/books/123", json=BOOK)
    assert (status, json.loads(body)) == (201, {"title": "Time", "by": "alice"})
    assert headers["X-Served"] == "alice"
    assert (await toy.call("GET", "/v2/about", token=None))[0] == 200


@pytest.mark.parametrize(
    "method, path, more, status, type_",
    [
        ("PUT", "/v2/books/123", {"token": None, "json": BOOK}, 401, "unauthorized"),
        ("PUT", "/v2/books/123", {"token": "wrong", "json": BOOK}, 401, "unauthorized"),
        ("PUT", "/v2/books/x", {"json": BOOK}, 422, "validation_failed"),
        ("PUT", "/v2/books/123", {"json": {"title": ""}}, 422, "validation_failed"),
        (
            "PUT",
            "/v2/books/123",
            {"data": b"{", "headers": {"Content-Type": "application/json"}},
            400,
            "invalid_request",
        ),
        ("PUT", "/v2/books/123", {"json": {"a": {"b": {"c": {}}}}}, 400, "invalid_request"),
        ("PUT", "/v2/books/123", {"data": b"x" * 201}, 413, "invalid_request"),
        ("PUT", "/v2/books/123", {"data": b"x", "headers": {"Content-Type": "text/csv"}}, 415, "invalid_request"),
        ("GET", "/v2/books/123", {}, 405, "invalid_request"),
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("GET", "/v2/broken", {}, 500, "internal_error"),
        ("GET", "/v2/about", {"headers": {"Host": "evil.example"}}, 403, "forbidden"),
    ],
)
async def test_errors_have_servers_own_format(toy, method, path, more, status, type_):
    answered, headers, body = await toy.call(method, path, **more)
    problem = json.loads(body)
    assert (answered, problem["status"], problem["type"]) == (status, status, type_)
    assert headers["Content-Type"] == PROBLEM
    assert b"success" not in body
    assert b"correlation_id" not in body
    assert toy.answered[status] == 1


async def test_validation_names_every_fault(toy):
    _, _, body = await toy.call("PUT", "/v2/books/x", json={"title": "", "pages": 0})
    assert [fault.split(":")[0] for fault in json.loads(body)["detail"].split("; ")] == ["isbn", "title", "pages"]


async def test_endless_body_times_out(toy):
    async def drip():
        yield b"{"
        await asyncio.sleep(30)

    status, _, body = await toy.call("PUT", "/v2/books/123", data=drip())
    assert (status, json.loads(body)["title"]) == (400, "the body took too long to arrive")


async def test_repeat_with_idempotency_key_gets_first_answer(toy):
    key = {"headers": {"Idempotency-Key": "k1"}}
    first = await toy.call("PUT", "/v2/books/123", json=BOOK, headers=dict(key["headers"]))
    again = await toy.call("PUT", "/v2/books/123", json=BOOK, headers=dict(key["headers"]))
    other = await toy.call("PUT", "/v2/books/124", json=BOOK, headers=dict(key["headers"]))
    assert (first[0], first[2]) == (again[0], again[2]) == (201, b'{"title":"Time","by":"alice"}')
    assert other[0] == 409
    assert (await toy.call("PUT", "/v2/books/123", json=BOOK))[0] == 409, (
        "without an Idempotency-Key it is executed again"
    )


async def test_stream_is_live_until_identity_ends(toy):
    headers = {"Authorization": "Bearer 0ther"}
    async with toy.session.get(toy.url + "/v2/ticks", headers=headers) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert b"event:hello" in await response.content.readuntil(b"hello\ndata:{}\n\n")
        await eventually(lambda: toy.streams.client_count == 1)
        toy.ticks.newest = 1
        sent = toy.streams.broadcast(
            toy.ticks,
            1,
            selects=lambda entry_filter: entry_filter is None,
            data=lambda: frame("tick", b"1", event_id=1, copy=False),
        )
        assert sent == 1
        assert await response.content.readuntil(b"data:1\n\n") == b"id:1\nevent:tick\ndata:1\n\n"
        toy.streams.send_heartbeats()
        assert b"event:beat" in await response.content.readuntil(b"data:{}\n\n")
        del toy.tokens.tokens["0ther"]
        toy.streams.send_heartbeats()
        assert await response.content.read() == b""


def test_document_has_own_errors_and_access():
    info = ApiInfo(title="Toy", version="2", summary="A toy", license_id="MIT", tags={"books": "Books"})
    document = openapi.document(ROUTES, info=info, errors=ProblemErrors(), access=BearerTokens({}))
    validate(document)
    assert document["components"]["schemas"]["Error"] == ProblemErrors.schema
    assert document["components"]["securitySchemes"] == BearerTokens.schemes
    keep = document["paths"]["/v2/books/{isbn}"]["put"]
    assert keep["operationId"] == "books_put"
    assert keep["security"] == [{"token": []}]
    assert {"401", "409", "413", "415", "422"} <= keep["responses"].keys()
    assert keep["responses"]["422"]["description"] == "validation_failed"
    assert document["paths"]["/v2/about"]["get"]["security"] == []


def test_unprovided_handler_type_raises():
    streams = EventStreams(clock=Clock(), unnamed_copy=False)
    api = Api(authenticator=BearerTokens({}), errors=ProblemErrors(), streams=streams)
    with pytest.raises(TypeError, match=r"PUT /v2/books/\{isbn\}: nothing provides shelf"):
        build_app(api, routes=ROUTES, guard=HostGuard(trusted_hosts=(), ports=()))


def test_http_imports_only_core():
    program = (
        "import sys; from pi_orchestrator.http import server, openapi, idempotency, metrics;"
        "print(*sorted(name.split('.')[1] for name in sys.modules if name.startswith('pi_orchestrator.')))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) == {"core", "http"}
