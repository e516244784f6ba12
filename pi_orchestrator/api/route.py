"""What a route is: a handler whose signature is the contract, and what the signature cannot say.

A handler takes by name what it needs: `services`, `actor`, `keyed` (whether keyed routes are open to who asks), and
the pydantic models `path`, `query`, `headers` (each field's alias is a header's name) and `body` (`Csv` where the
body is a file). Its return annotation is the model of the answer. Routing, validation, access and the OpenAPI
document all come from here, so they cannot disagree.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, WithJsonSchema

from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.sse import Feed, LineFeed
from pi_orchestrator.storage.keys import Scope

T = TypeVar("T")

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A moment as `rfc3339` writes it."""


class Csv(bytes):
    """A body of `text/csv` as it came: the handler parses it."""


class Wire(BaseModel):
    """Base of every model that crosses the wire; fields without a value are left out."""

    model_config = ConfigDict(frozen=True)


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """An answer with a status or headers of its own, or one that is encoded already: as JSON, or as `media_type`."""

    data: T | None = None
    encoded: bytes | None = None
    status: int | None = None
    media_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer as bytes, and what is sent before them; `media_type` only where they are no JSON."""

    body: bytes
    status: int
    media_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """One line of the route table.

    `scope` None is open to everyone in every mode. Otherwise it is what a key must cover where a key is needed:
    always when `keyed`, and in `required` mode for the rest.
    One with a `successor` is there for old dashboards, and says so in its headers.
    A `secret` answer is kept for a repeat in memory only. One of shape BINARY is sent as `produces`, and its model is
    what it is in JSON, for those who ask for that. `action` is what a write is called in the record of
    operator actions.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    tag: str
    summary: str
    scope: Scope | None
    action: str = ""
    keyed: bool = False
    shape: Shape = Shape.ENVELOPE
    status: int = 200
    also: tuple[int, ...] = ()
    errors: tuple[str, ...] = ()
    example: Any = None
    secret: bool = False
    successor: str = ""
    produces: str = ""
    inputs: Mapping[str, Any] = field(init=False)
    answer: Any = field(init=False)
    adapter: TypeAdapter[Any] = field(init=False)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(self.handler, include_extras=True)
        returned = hints.pop("return")
        if typing.get_origin(returned) in (Reply, Feed, LineFeed):
            returned = typing.get_args(returned)[0]
        object.__setattr__(self, "inputs", hints)
        object.__setattr__(self, "answer", returned)
        object.__setattr__(self, "adapter", TypeAdapter(returned))

    @property
    def operation_id(self) -> str:
        """`resource_handler`, stable for generated clients."""
        module = inspect.getmodule(self.handler)
        resource = module.__name__.rsplit(".", 1)[-1] if module else ""
        return f"{resource}_{self.handler.__name__}"

    @property
    def streams(self) -> bool:
        """Whether the answer goes on until somebody ends it."""
        return self.shape is Shape.STREAM

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.method not in ("GET", "HEAD")

    def model(self, name: str) -> type[BaseModel] | None:
        """The model of `path`, `query`, `headers` or `body`, if the handler takes one."""
        found = self.inputs.get(name)
        return None if found is Csv else found

    @property
    def media_type(self) -> str | None:
        """What kind of body it takes, if it takes one."""
        if "body" not in self.inputs:
            return None
        return "text/csv" if self.inputs["body"] is Csv else "application/json"

    def encode(self, answer: Any) -> Encoded:
        """A handler's answer as bytes."""
        if not isinstance(answer, Reply):
            return Encoded(self.adapter.dump_json(answer, exclude_none=True), self.status)
        body = self.adapter.dump_json(answer.data, exclude_none=True) if answer.encoded is None else answer.encoded
        return Encoded(body, answer.status or self.status, answer.media_type, answer.headers)
