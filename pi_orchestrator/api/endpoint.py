"""From a request to a handler and back: the one way through, for every route.

Order: body size → access → inputs (all faults at once) → a stored answer for a repeated Idempotency-Key →
handler → envelope, or a stream. Errors become answers in `app.py`, wherever they come from.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any, NamedTuple
from urllib.parse import quote
from weakref import WeakValueDictionary

from aiohttp import hdrs, web
from pydantic import BaseModel, ValidationError

from pi_orchestrator.api import envelope
from pi_orchestrator.api.auth import COOKIE, COOKIE_S, KEY_HEADER, NOBODY, Gate, Identity
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Csv, Encoded, Route
from pi_orchestrator.api.services import Services
from pi_orchestrator.domain.strict_json import parse_object
from pi_orchestrator.errors import (
    ConflictError,
    FieldError,
    InvalidRequestError,
    OrchestratorError,
    StorageError,
    ValidationFailedError,
)
from pi_orchestrator.storage import actions, idempotency
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Tx
from pi_orchestrator.storage.idempotency import StoredAnswer

MAX_BODY_BYTES = 1024 * 1024
MAX_JSON_DEPTH = 16
BODY_TIMEOUT_S = 10.0
STILL_THERE_S = 0.5
SECRET_ANSWERS = 64
SECRET_ANSWERS_S = 300.0
_NAMES = ("name", "mac", "old_mac")
CORRELATION: web.RequestKey[str] = web.RequestKey("correlation", str)
SUCCESSOR: web.RequestKey[str] = web.RequestKey("successor", str)
"""What has taken the place of the path that was asked for."""


class PayloadTooLargeError(OrchestratorError):
    """A body over the limit: 413."""

    code = "INVALID_REQUEST"


class UnsupportedMediaTypeError(OrchestratorError):
    """A body of another kind than is due: 415."""

    code = "INVALID_REQUEST"


class _Fault(NamedTuple):
    """What is wrong with one field."""

    code: str
    text: str


class Endpoint:
    """Serves one route."""

    def __init__(self, route: Route, *, services: Services, gate: Gate) -> None:
        self._route = route
        self._services = services
        self._gate = gate
        # Weak: a lock is there for as long as somebody holds it or waits for it.
        self._secrets = _SecretAnswers()
        self._under_way: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request; raises OrchestratorError for every refusal."""
        route = self._route
        if route.successor:
            request[SUCCESSOR] = _filled(route.successor, request)
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise PayloadTooLargeError(f"the body is over {MAX_BODY_BYTES // 1024} KiB")
        identity = self._gate.admit(route, request)
        raw = await _read(request) if route.writes else b""
        arguments = self._arguments(request, raw, identity)
        if route.streams:
            return await self._stream(request, arguments, identity)
        key = _idempotency_key(request) if route.writes else None
        if route.shape is Shape.BINARY:
            # A picture is not kept for a repeat, because another one is as good; nor made for whom nobody gives it to.
            answer = await _while_connected(request, self._run(arguments))
        else:
            answer = await (self._run(arguments) if key is None else self._once(key, request, raw, arguments))
        response = envelope.success(
            answer.body,
            shape=route.shape,
            status=answer.status,
            correlation=request[CORRELATION],
            media_type=answer.media_type,
            headers=answer.headers,
        )
        self._give_cookie(request, response, identity)
        return response

    async def _stream(
        self, request: web.Request, arguments: dict[str, Any], identity: Identity | None
    ) -> web.StreamResponse:
        feed = await self._route.handler(**arguments)
        response = envelope.stream(correlation=request[CORRELATION])
        self._give_cookie(request, response, identity)
        admitted = (self._gate.mode, identity)

        def stands() -> bool:
            try:
                return (self._gate.mode, self._gate.admit(self._route, request)) == admitted
            except OrchestratorError:
                return False

        if request.method != "HEAD":
            await self._services.streams.serve(feed, request, response, stands=stands)
        return response

    def _give_cookie(self, request: web.Request, response: web.StreamResponse, identity: Identity | None) -> None:
        # Only for a key in its header: a link that has one in it must not log in a browser that follows it.
        if identity is not None and KEY_HEADER in request.headers and not self._has_cookie(request):
            response.set_cookie(
                COOKIE,
                self._services.keyring.cookie_for(identity),
                max_age=COOKIE_S,
                httponly=True,
                samesite="Strict",
            )

    def _has_cookie(self, request: web.Request) -> bool:
        cookie = request.cookies.get(COOKIE)
        return cookie is not None and self._services.keyring.of_cookie(cookie) is not None

    def _arguments(self, request: web.Request, raw: bytes, identity: Identity | None) -> dict[str, Any]:
        route = self._route
        faults: list[_Fault] = []
        arguments: dict[str, Any] = {}
        if "services" in route.inputs:
            arguments["services"] = self._services
        if "actor" in route.inputs:
            arguments["actor"] = Actor(
                key_name=identity.name if identity else NOBODY,
                peer=request.remote or NOBODY,
                correlation_id=request[CORRELATION],
                action=route.action,
            )
        if "keyed" in route.inputs:
            arguments["keyed"] = identity is not None or self._gate.mode == "off"
        for name, read in (("path", _path), ("query", _query)):
            if model := route.model(name):
                arguments[name] = _validated(model, read(request), faults)
        if model := route.model("headers"):
            arguments["headers"] = _validated(model, _headers(request, model), faults)
        if route.media_type:
            if raw:
                _check_type(request, route.media_type)
            model = route.model("body")
            arguments["body"] = _validated(model, _json(raw), faults) if model else Csv(raw)
        if faults:
            codes = {fault.code for fault in faults}
            raise ValidationFailedError(
                "Validation failed",
                code=codes.pop() if len(codes) == 1 else None,
                details="; ".join(fault.text for fault in faults),
            )
        return arguments

    async def _run(self, arguments: dict[str, Any]) -> Encoded:
        """Call the handler; an operator's action that it refuses is recorded like one that it does."""
        try:
            return self._route.encode(await self._route.handler(**arguments))
        except StorageError:
            raise  # what could not be written cannot be recorded either
        except OrchestratorError as error:
            if (actor := arguments.get("actor")) and not error.on_record:
                target, outcome = _target(arguments), error.code

                async def job(tx: Tx) -> None:
                    await actions.record(tx, actor, target=target, outcome=outcome)

                await self._services.database.write(job)
            raise

    async def _once(self, key: str, request: web.Request, raw: bytes, arguments: dict[str, Any]) -> Encoded:
        """Run the handler unless this key has been answered; repeats that overlap wait for the first."""
        operation = self._route.operation_id
        path = request.raw_path.encode("utf-8", "surrogateescape")
        request_hash = self._services.keyring.fingerprint(path + b"\n" + raw)
        lock = self._under_way.setdefault((key, operation), asyncio.Lock())
        async with lock:
            stored = await self._answered(key, operation)
            if stored is not None:
                if stored.request_hash != request_hash:
                    raise ConflictError("this Idempotency-Key was used for another request")
                return Encoded(stored.body, stored.status)
            encoded = await self._run(arguments)
            answer = StoredAnswer(request_hash, encoded.status, encoded.body)
            if self._route.secret:
                self._secrets.keep(key, answer, now=self._services.clock.monotonic())
            else:

                async def job(tx: Tx) -> None:
                    await idempotency.save(tx, key=key, operation=operation, answer=answer)

                await self._services.database.write(job)
            return encoded

    async def _answered(self, key: str, operation: str) -> StoredAnswer | None:
        if self._route.secret:
            return self._secrets.find(key, now=self._services.clock.monotonic())
        return await idempotency.find(self._services.database, key=key, operation=operation)


class _SecretAnswers:
    """Answers that must not touch the disk, for as long as a client may repeat a request whose answer was lost."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, StoredAnswer]] = OrderedDict()

    def keep(self, key: str, answer: StoredAnswer, *, now: float) -> None:
        self._kept[key] = (now + SECRET_ANSWERS_S, answer)
        while len(self._kept) > SECRET_ANSWERS:
            self._kept.popitem(last=False)

    def find(self, key: str, *, now: float) -> StoredAnswer | None:
        for stale in [name for name, (until, _) in self._kept.items() if until <= now]:
            del self._kept[stale]
        return self._kept[key][1] if key in self._kept else None


def _target(arguments: dict[str, Any]) -> str | None:
    """What a write is about, in a word: what its path names, or who is named in its body."""
    path, body = arguments.get("path"), arguments.get("body")
    named = [*dict(path).values()] if path is not None else [getattr(body, name, None) for name in _NAMES]
    return next((str(one) for one in named if one is not None), None)


async def _while_connected(request: web.Request, running: Coroutine[None, None, Encoded]) -> Encoded:
    """What a handler gives that changes nothing; it ends when the client has gone."""
    task = asyncio.ensure_future(running)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=STILL_THERE_S)
            if not task.done() and (request.transport is None or request.transport.is_closing()):
                raise InvalidRequestError("the client has gone")
        return task.result()
    finally:
        if task.cancel():
            await asyncio.wait([task])


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not envelope.WELL_FORMED_ID.fullmatch(key):
        raise ValidationFailedError("Validation failed", details="Idempotency-Key: 1 to 128 visible characters")
    return key


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise InvalidRequestError("the body took too long to arrive") from None
    except (web.RequestPayloadError, OSError) as error:
        # Broken chunks or compression, or a client that went away in the middle.
        raise InvalidRequestError("the body could not be read") from error


def _path(request: web.Request) -> dict[str, Any]:
    return dict(request.match_info)


def _filled(template: str, request: web.Request) -> str:
    """A path with the values that the request has in its own."""
    return template.format_map({name: quote(value, safe=":") for name, value in request.match_info.items()})


def _query(request: web.Request) -> dict[str, Any]:
    return dict(request.query)


def _headers(request: web.Request, model: type[BaseModel]) -> dict[str, Any]:
    """The headers that a model names, however they are spelled."""
    names = [field.alias for field in model.model_fields.values() if field.alias]
    return {name: request.headers[name] for name in names if name in request.headers}


def _check_type(request: web.Request, media_type: str) -> None:
    if hdrs.CONTENT_TYPE in request.headers and request.content_type != media_type:
        raise UnsupportedMediaTypeError(f"the body must be {media_type}")


def _json(raw: bytes) -> dict[str, Any]:
    try:
        return parse_object(raw or b"{}", max_bytes=MAX_BODY_BYTES, max_depth=MAX_JSON_DEPTH)
    except FieldError as error:
        raise InvalidRequestError(f"the body is {error}") from None


def _validated(model: type[BaseModel], values: dict[str, Any], faults: list[_Fault]) -> BaseModel | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            where = ".".join(str(part) for part in fault["loc"])
            ours = fault.get("ctx", {}).get("error")
            code = ours.code if isinstance(ours, FieldError) else ValidationFailedError.code
            faults.append(_Fault(code, f"{where}: {fault['msg'].removeprefix('Value error, ')}"))
        return None
