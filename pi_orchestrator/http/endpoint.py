"""From a request to its handler and back, for every route.

Order: body size → access → inputs (all faults in one error) → a stored answer for a repeated Idempotency-Key →
handler → shape, or a stream. `server.py` turns every error into an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import (
    FieldError,
    InvalidRequestError,
    OrchestratorError,
    StorageError,
    ValidationFailedError,
)
from pi_orchestrator.http.headers import REQUEST_ID, SECURITY_HEADERS
from pi_orchestrator.http.idempotency import Idempotency
from pi_orchestrator.http.protocols import Authenticator, ErrorRenderer, I, Limits
from pi_orchestrator.http.request import (
    REQUEST_ID_KEY,
    SUCCESSOR_KEY,
    PayloadTooLargeError,
    check_media_type,
    fill_path,
    header_values,
    parse_json,
    path_values,
    query_values,
    read_body,
)
from pi_orchestrator.http.route import BINARY, STREAM, Csv, EncodedAnswer, Route
from pi_orchestrator.http.sse import EventStreams

R = TypeVar("R", bound=Route)

CONNECTION_CHECK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Api(Generic[R, I]):
    """What a server provides to all its endpoints.

    `provided`: objects that handlers take by type. `per_request`: for each other type, a function that makes the value
    from the request. `on_refused` is called with the handler's arguments and its OrchestratorError, except for a
    StorageError.
    """

    authenticator: Authenticator[R, I]
    errors: ErrorRenderer
    streams: EventStreams
    limits: Limits = field(default_factory=Limits)
    provided: Mapping[type, object] = field(default_factory=dict)
    per_request: Mapping[type, Callable[[R, web.Request, I | None], object]] = field(default_factory=dict)
    idempotency: Idempotency | None = None
    on_refused: Callable[[Mapping[str, Any], OrchestratorError], Awaitable[None]] | None = None


class _Fault(NamedTuple):
    """An invalid field: error code and text."""

    code: str
    text: str


class Endpoint(Generic[R, I]):
    """Serves one route; TypeError if its handler takes a type that is not provided."""

    def __init__(self, route: R, api: Api[R, I]) -> None:
        self._route = route
        self._api = api
        self._provided: dict[str, object] = {}
        self._per_request: dict[str, Callable[[R, web.Request, I | None], object]] = {}
        for name, kind in route.injected.items():
            if kind in api.per_request:
                self._per_request[name] = api.per_request[kind]
            elif kind in api.provided:
                self._provided[name] = api.provided[kind]
            else:
                raise TypeError(f"{route.method} {route.path}: nothing provides {name}: {kind!r}")

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request; OrchestratorError if it is refused."""
        route, api = self._route, self._api
        if route.successor:
            request[SUCCESSOR_KEY] = fill_path(route.successor, request)
        if (request.content_length or 0) > api.limits.body_bytes:
            raise PayloadTooLargeError(f"the body is over {api.limits.body_bytes // 1024} KiB")
        identity = api.authenticator.admit(route, request)
        raw = await read_body(request, timeout_s=api.limits.body_s) if route.writes else b""
        arguments = self._arguments(request, raw, identity)
        if route.streams:
            return await self._stream(request, arguments, identity)
        key = api.idempotency.key_of(request) if route.writes and api.idempotency else None
        if route.shape is BINARY:
            # A picture or archive is not stored for repeats, because a new one is as good. If the client disconnects,
            # the handler is cancelled.
            answer = await _while_connected(request, self._run(arguments))
        elif key is not None and api.idempotency:
            answer = await api.idempotency.once(key, route, request, raw, lambda: self._run(arguments))
        else:
            answer = await self._run(arguments)
        response = self._response(answer, request[REQUEST_ID_KEY])
        api.authenticator.amend_response(request, response, identity)
        return response

    def _response(self, answer: EncodedAnswer, request_id: str) -> web.Response:
        shape = self._route.shape
        headers = {**SECURITY_HEADERS, REQUEST_ID: request_id, **answer.headers}
        if answer.status in (204, 304):
            return web.Response(status=answer.status, headers=headers)
        body = shape.wrap(answer.body, request_id) if shape.wrap and not answer.media_type else answer.body
        headers.setdefault("Content-Type", answer.media_type or shape.content_type)
        return web.Response(body=body, status=answer.status, headers=headers)

    async def _stream(self, request: web.Request, arguments: dict[str, Any], identity: I | None) -> web.StreamResponse:
        feed = await self._route.handler(**arguments)
        response = web.StreamResponse(
            # Proxies must neither cache nor buffer the stream.
            headers={
                **SECURITY_HEADERS,
                "Content-Type": STREAM.content_type,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                REQUEST_ID: request[REQUEST_ID_KEY],
            }
        )
        authenticator = self._api.authenticator
        authenticator.amend_response(request, response, identity)
        if request.method != "HEAD":
            may_continue = authenticator.stream_check(self._route, request, identity)
            await self._api.streams.serve(feed, request, response, may_continue=may_continue)
        return response

    def _arguments(self, request: web.Request, raw: bytes, identity: I | None) -> dict[str, Any]:
        route, limits = self._route, self._api.limits
        faults: list[_Fault] = []
        arguments: dict[str, Any] = dict(self._provided)
        for name, make in self._per_request.items():
            arguments[name] = make(route, request, identity)
        for name, read in (("path", path_values), ("query", query_values)):
            if model := route.model(name):
                arguments[name] = _validated(model, read(request), faults)
        if model := route.model("headers"):
            arguments["headers"] = _validated(model, header_values(request, model), faults)
        if route.request_media_type:
            if raw:
                check_media_type(request, route.request_media_type)
            if model := route.model("body"):
                values = parse_json(raw, max_bytes=limits.body_bytes, max_depth=limits.json_depth)
                arguments["body"] = _validated(model, values, faults)
            else:
                arguments["body"] = Csv(raw)
        if faults:
            codes = {fault.code for fault in faults}
            raise ValidationFailedError(
                ErrorCode.VALIDATION_FAILED.message,
                code=codes.pop() if len(codes) == 1 else None,
                details="; ".join(fault.text for fault in faults),
            )
        return arguments

    async def _run(self, arguments: dict[str, Any]) -> EncodedAnswer:
        """Call the handler and encode its answer; `on_refused` is called if it raises an OrchestratorError."""
        try:
            return self._route.encode(await self._route.handler(**arguments))
        except StorageError:
            raise  # the refusal could not be stored either
        except OrchestratorError as error:
            if self._api.on_refused:
                await self._api.on_refused(arguments, error)
            raise


async def _while_connected(request: web.Request, running: Coroutine[None, None, EncodedAnswer]) -> EncodedAnswer:
    """Await a handler that changes nothing; cancel it when the client disconnects."""
    task = asyncio.ensure_future(running)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=CONNECTION_CHECK_S)
            if not task.done() and (request.transport is None or request.transport.is_closing()):
                raise InvalidRequestError("the client has disconnected")
        return task.result()
    finally:
        if task.cancel():
            await asyncio.wait([task])


def _validated(model: type[BaseModel], values: dict[str, Any], faults: list[_Fault]) -> BaseModel | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            location = ".".join(str(part) for part in fault["loc"])
            cause = fault.get("ctx", {}).get("error")
            code = cause.code if isinstance(cause, FieldError) else ValidationFailedError.code
            faults.append(_Fault(code, f"{location}: {fault['msg'].removeprefix('Value error, ')}"))
        return None
