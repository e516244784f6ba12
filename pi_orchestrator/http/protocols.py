"""What a server provides to the HTTP layer: access control and the format of errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from aiohttp import web

from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.http.route import Json, Route

R_contra = TypeVar("R_contra", bound=Route, contravariant=True)
I = TypeVar("I")  # noqa: E741  # identity of a client; each server defines its own type


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a client may send; `body_s` is the time for the whole body."""

    body_bytes: int = 1024 * 1024
    json_depth: int = 16
    body_s: float = 10.0


class ErrorRenderer(Protocol):
    """Turns an expected failure into an answer, and describes that answer for the OpenAPI document."""

    @property
    def schema(self) -> Json:
        """The JSON schema of every error's body."""

    def describe(self, code: str) -> tuple[int, str]:
        """HTTP status of a code, and its name in the answer."""

    def render(
        self, error: OrchestratorError, *, request_id: str, status: int | None = None, headers: Mapping[str, str]
    ) -> web.Response:
        """The answer to a request that failed; `status` overrides that of the code."""


class Access(Protocol[R_contra]):
    """Describes access control for the OpenAPI document."""

    @property
    def schemes(self) -> Json:
        """The security schemes."""

    def security(self, route: R_contra) -> list[Json]:
        """The security requirement of a route."""

    def errors(self, route: R_contra) -> Iterable[str]:
        """The codes that a request to a route may be refused with."""


class Authenticator(Protocol[R_contra, I]):
    """Decides about each request; identity `None` is an anonymous client that is allowed."""

    def admit(self, route: R_contra, request: web.Request) -> I | None:
        """Identify the client; OrchestratorError if it is not allowed."""

    def stream_check(self, route: R_contra, request: web.Request, identity: I | None) -> Callable[[], bool]:
        """A function that checks, on each call, whether an admitted stream may continue."""

    def amend_response(self, request: web.Request, response: web.StreamResponse, identity: I | None) -> None:
        """Add to an answer before it is sent, for example a cookie."""
