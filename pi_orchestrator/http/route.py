"""A route: a handler, whose signature defines request and answer, and what the signature cannot express.

Parameters named `path`, `query`, `headers` and `body` get the validated parts of the request; their types are pydantic
models. The alias of each field of `headers` is the name of a header. A `body` of type `Csv` is a CSV file. Every other
parameter is injected by its type: an object of the application, or a value of the request such as its caller. The
return annotation is the model of the answer. Routing, validation and the OpenAPI document are all derived from the
route, so they cannot differ.
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter

from pi_orchestrator.http.sse import Feed

T = TypeVar("T")
R = TypeVar("R", bound="Route")
Json = dict[str, Any]

JSON = "application/json"
MODELS = ("path", "query", "headers", "body")
"""Parameters of a handler that are parts of the request; all others are injected by type."""


class Csv(bytes):
    """A `text/csv` body, which the handler parses."""


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """What a handler returns to set the status or headers, or to answer with bytes (`encoded`).

    The bytes are JSON, unless `media_type` is set.
    """

    data: T | None = None
    encoded: bytes | None = None
    status: int | None = None
    media_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncodedAnswer:
    """What `Route.encode` returns: bytes, status, headers; `media_type` only if it differs from the route's shape."""

    body: bytes
    status: int
    media_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shape:
    """How an answer's data is sent: as `content_type`, wrapped by `wrap` (data, request id → body).

    `schema` and `example` wrap the data's schema and example in the OpenAPI document.
    """

    name: str
    content_type: str = JSON
    wrap: Callable[[bytes, str], bytes] | None = None
    schema: Callable[[Json], Json] | None = None
    example: Callable[[Any], Any] | None = None


BARE = Shape("bare JSON")
TEXT = Shape("Prometheus text", "text/plain; version=0.0.4; charset=utf-8")
BINARY = Shape("bytes of the media type in `produces`, or bare JSON")
STREAM = Shape("endless stream of server-sent events", "text/event-stream")


@dataclass(frozen=True)
class Route:
    """One line of a route table.

    `errors`: codes that it may answer with, in addition to those of every route. `other_statuses`: statuses of answers
    other than `status`, such as 503 for "not ready". `successor`: path of the route that replaces this one; the headers
    of the answer announce it. `secret`: the answer contains a secret; for repeats with the same Idempotency-Key the
    answer is kept in memory, never in the database. `produces`: media type of an answer of shape BINARY; then the model
    describes the JSON that is sent to clients that accept only JSON.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    tag: str
    summary: str
    shape: Shape = field(default=BARE, kw_only=True)
    status: int = field(default=200, kw_only=True)
    other_statuses: tuple[int, ...] = field(default=(), kw_only=True)
    errors: tuple[str, ...] = field(default=(), kw_only=True)
    example: Any = field(default=None, kw_only=True)
    secret: bool = field(default=False, kw_only=True)
    successor: str = field(default="", kw_only=True)
    produces: str = field(default="", kw_only=True)
    resource: str = field(default="", kw_only=True)
    inputs: Mapping[str, Any] = field(init=False)
    answer: Any = field(init=False)
    adapter: TypeAdapter[Any] = field(init=False)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(self.handler, include_extras=True)
        returned = hints.pop("return")
        origin = typing.get_origin(returned)
        if isinstance(origin, type) and issubclass(origin, (Reply, Feed)):
            returned = typing.get_args(returned)[0]
        object.__setattr__(self, "inputs", hints)
        object.__setattr__(self, "answer", returned)
        object.__setattr__(self, "adapter", TypeAdapter(returned))

    @property
    def operation_id(self) -> str:
        """`resource_handler`, stable for generated clients."""
        return f"{self.resource}_{self.handler.__name__}"

    @property
    def streams(self) -> bool:
        """Whether the answer is an endless stream."""
        return self.shape is STREAM

    @property
    def writes(self) -> bool:
        """Whether a request may change state."""
        return self.method not in ("GET", "HEAD")

    @property
    def injected(self) -> Mapping[str, Any]:
        """The parameters that are injected by type: name → type."""
        return {name: kind for name, kind in self.inputs.items() if name not in MODELS}

    def model(self, name: str) -> type[BaseModel] | None:
        """The model of `path`, `query`, `headers` or `body`, if the handler takes one."""
        model = self.inputs.get(name)
        return None if model is Csv else model

    @property
    def request_media_type(self) -> str | None:
        """The media type of the request body; None without a body."""
        if "body" not in self.inputs:
            return None
        return "text/csv" if self.inputs["body"] is Csv else JSON

    def encode(self, answer: Any) -> EncodedAnswer:
        """Encode a handler's answer."""
        if not isinstance(answer, Reply):
            return EncodedAnswer(self.adapter.dump_json(answer, exclude_none=True), self.status)
        body = self.adapter.dump_json(answer.data, exclude_none=True) if answer.encoded is None else answer.encoded
        return EncodedAnswer(body, answer.status or self.status, answer.media_type, answer.headers)


def table(resource: str, *routes: R) -> tuple[R, ...]:
    """Routes of one resource, whose name is the prefix of their operation ids."""
    return tuple(replace(route, resource=resource) for route in routes)
