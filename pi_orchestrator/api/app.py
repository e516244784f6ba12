"""The aiohttp application: routes from the table, one middleware around everything, listeners that close fast."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from pi_orchestrator.api import envelope
from pi_orchestrator.api.auth import Gate
from pi_orchestrator.api.endpoint import (
    CORRELATION,
    MAX_BODY_BYTES,
    SUCCESSOR,
    Endpoint,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from pi_orchestrator.api.guard import Guard
from pi_orchestrator.api.paced import paced
from pi_orchestrator.api.route import Route
from pi_orchestrator.api.services import Services
from pi_orchestrator.errors import InvalidRequestError, NotFoundError, OrchestratorError, StartupError
from pi_orchestrator.logs import CORRELATION_ID, get_logger
from pi_orchestrator.settings import Listen

KEEPALIVE_S = 10.0
SHUTDOWN_S = 1.0

log = get_logger(__name__)


def build_app(*, routes: Sequence[Route], services: Services, gate: Gate, guard: Guard) -> web.Application:
    """The application; it holds no state of its own."""
    app = web.Application(
        client_max_size=MAX_BODY_BYTES, middlewares=[_around_everything(services, guard, _first_names(routes))]
    )
    for route in routes:
        serve = Endpoint(route, services=services, gate=gate).serve
        if route.method == "GET":
            app.router.add_get(route.path, serve, expect_handler=_expect)  # HEAD comes with it
        else:
            app.router.add_route(route.method, route.path, serve, expect_handler=_expect)
    for path in {route.path for route in routes if "{" not in route.path}:
        # A fixed path is nobody's value: what it does not serve must not fall to a template that fits it too.
        methods = {route.method for route in routes if route.path == path}
        app.router.add_route("*", path, _only(methods | {"HEAD"} if "GET" in methods else methods))
    return app


def _first_names(routes: Iterable[Route]) -> frozenset[str]:
    """What the paths of routes begin with: below these there is no page."""
    return frozenset(_first_name(route.path) for route in routes)


def _first_name(path: str) -> str:
    return path.lstrip("/").partition("/")[0].lower()


def _only(methods: Collection[str]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, methods)

    return refuse


@asynccontextmanager
async def served(app: web.Application, listen: Sequence[Listen]) -> AsyncIterator[list[Listen]]:
    """Serve for the length of the block; yields where (a port of 0 has become a real one)."""
    runner = web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        logger=_server_log(),
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=SHUTDOWN_S,
        lingering_time=2.0,
    )
    await runner.setup()
    try:
        bound = []
        for where in listen:
            site = web.TCPSite(runner, where.host, where.port, backlog=512)
            try:
                await site.start()
            except OSError as error:
                raise _cannot_listen(where, error) from error
            bound.append(Listen(where.host, runner.addresses[-1][1]))
        yield bound
    finally:
        await runner.cleanup()


async def _expect(request: web.Request) -> None:
    """Ask for the body where the client waits to be asked; an expectation that we do not know is passed over."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _server_log() -> logging.Logger:
    """The server's own log, without a trace for everybody who sends what is no HTTP."""
    server_log = logging.getLogger("pi_orchestrator.api.server")
    server_log.addFilter(_is_ours)
    return server_log


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


def _cannot_listen(where: Listen, error: OSError) -> StartupError:
    remedies = {
        errno.EADDRINUSE: f"stop what uses port {where.port} (see: ss -ltnp), or change http.listen",
        errno.EADDRNOTAVAIL: f"{where.host} is not an address of this machine; change http.listen",
        errno.EACCES: "ports below 1024 need a privilege; choose a higher one in http.listen",
    }
    return StartupError(
        f"cannot listen on {where}: {os.strerror(error.errno or 0)}",
        remedy=remedies.get(error.errno or 0, "change http.listen"),
    )


def _around_everything(services: Services, guard: Guard, taken: Collection[str]) -> Middleware:
    answered = services.metrics.answered

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        correlation = envelope.correlation_id(request.headers)
        request[CORRELATION] = correlation
        CORRELATION_ID.set(correlation)
        response: web.StreamResponse
        try:
            guard.check(request)
            has_no_route = isinstance(request.match_info.http_exception, web.HTTPNotFound)
            if has_no_route and _first_name(request.path) not in taken:
                response = await services.assets.serve(request, correlation=correlation)
            else:
                response = await handler(request)
        except (OrchestratorError, web.HTTPException) as error:
            response = _refusal(error, request, correlation)
        except Exception:
            log.exception("request failed", method=request.method, path=request.path[:200])
            response = envelope.failure(
                OrchestratorError("something went wrong inside the daemon; its log has the details"),
                correlation=correlation,
            )
        if successor := request.get(SUCCESSOR):
            response.headers["Deprecation"] = "true"
            response.headers["Link"] = f'<{successor}>; rel="successor-version"'
        answered[response.status] += 1
        return await paced(request, response)

    return middleware


def _refusal(error: OrchestratorError | web.HTTPException, request: web.Request, correlation: str) -> web.Response:
    """An expected failure, ours or aiohttp's own, in the envelope."""
    status: int | None = None
    headers: dict[str, str] = {}
    known: OrchestratorError
    if isinstance(error, OrchestratorError):
        known = error
        if isinstance(error, PayloadTooLargeError):
            status = 413
        elif isinstance(error, UnsupportedMediaTypeError):
            status = 415
        if error.code in ("INTERNAL_ERROR", "DATABASE_ERROR"):
            log.error("request refused", path=request.path[:200], code=error.code, reason=error.details)
    elif error.status == 404:
        known = NotFoundError("there is nothing here", details=f"{request.method} {request.path[:200]}")
    elif isinstance(error, web.HTTPMethodNotAllowed):
        known, status = InvalidRequestError(f"{request.method} is not allowed here"), 405
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    elif error.status == 413:
        known, status = PayloadTooLargeError(f"the body is over {MAX_BODY_BYTES // 1024} KiB"), 413
    else:
        known, status = InvalidRequestError(error.reason), error.status
    response = envelope.failure(known, correlation=correlation, status=status, headers=headers)
    if status == 413:
        response.force_close()  # what is still on its way is not worth reading
    return response
