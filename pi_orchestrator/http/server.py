"""The aiohttp application: routes from the table, one middleware around all of them, and its listeners."""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import InvalidRequestError, NotFoundError, OrchestratorError, StartupError
from pi_orchestrator.core.listen import Listen
from pi_orchestrator.core.logging import CORRELATION_ID, get_logger
from pi_orchestrator.http.endpoint import Api, Endpoint
from pi_orchestrator.http.guard import HostGuard
from pi_orchestrator.http.pacing import paced
from pi_orchestrator.http.protocols import I
from pi_orchestrator.http.request import REQUEST_ID_KEY, SUCCESSOR_KEY, PayloadTooLargeError, request_id
from pi_orchestrator.http.route import Route

R = TypeVar("R", bound=Route)

KEEPALIVE_S = 10.0
SHUTDOWN_S = 1.0

log = get_logger(__name__)


def build_app(
    api: Api[R, I],
    *,
    routes: Sequence[R],
    guard: HostGuard,
    fallback: Handler | None = None,
    answered: Counter[int] | None = None,
) -> web.Application:
    """Build the application.

    `fallback` serves paths whose first segment no route has; `answered` counts answers by status.
    """
    app = web.Application(
        client_max_size=api.limits.body_bytes,
        middlewares=[_outer_middleware(api, guard, _first_segments(routes), fallback, answered)],
    )
    for route in routes:
        serve = Endpoint(route, api).serve
        if route.method == "GET":
            app.router.add_get(route.path, serve, expect_handler=_expect)  # adds HEAD, too
        else:
            app.router.add_route(route.method, route.path, serve, expect_handler=_expect)
    for path in {route.path for route in routes if "{" not in route.path}:
        # A method that a fixed path does not serve must not fall through to a template that matches the path.
        methods = {route.method for route in routes if route.path == path}
        app.router.add_route("*", path, _method_not_allowed(methods | {"HEAD"} if "GET" in methods else methods))
    return app


def _first_segments(routes: Iterable[Route]) -> frozenset[str]:
    """The first path segments of all routes: the fallback does not serve these paths."""
    return frozenset(_first_segment(route.path) for route in routes)


def _first_segment(path: str) -> str:
    return path.lstrip("/").partition("/")[0].lower()


def _method_not_allowed(methods: Collection[str]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, methods)

    return refuse


@asynccontextmanager
async def served(
    app: web.Application, listen: Sequence[Listen], *, setting: str = "http.listen"
) -> AsyncIterator[list[Listen]]:
    """Serve for the duration of the block; yields the addresses, with the real port for port 0.

    StartupError if it cannot listen on an address; the error names `setting` as the one to change.
    """
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
        for address in listen:
            site = web.TCPSite(runner, address.host, address.port, backlog=512)
            try:
                await site.start()
            except OSError as error:
                raise _cannot_listen(address, error, setting) from error
            bound.append(Listen(address.host, runner.addresses[-1][1]))
        yield bound
    finally:
        await runner.cleanup()


async def _expect(request: web.Request) -> None:
    """Send 100 Continue if the client expects it; ignore unknown expectations."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _server_log() -> logging.Logger:
    """The server's log, without a traceback for each client that sends invalid HTTP."""
    server_log = logging.getLogger("pi_orchestrator.http.server")
    server_log.addFilter(_is_server_fault)
    return server_log


def _is_server_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


def _cannot_listen(address: Listen, error: OSError, setting: str) -> StartupError:
    remedies = {
        errno.EADDRINUSE: f"stop the program that uses port {address.port} (see: ss -ltnp), or change {setting}",
        errno.EADDRNOTAVAIL: f"{address.host} is not an address of this machine; change {setting}",
        errno.EACCES: f"ports below 1024 need root privileges; set a higher port in {setting}",
    }
    return StartupError(
        f"cannot listen on {address}: {os.strerror(error.errno or 0)}",
        remedy=remedies.get(error.errno or 0, f"change {setting}"),
    )


def _outer_middleware(
    api: Api[R, I],
    guard: HostGuard,
    route_segments: Collection[str],
    fallback: Handler | None,
    answered: Counter[int] | None,
) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID_KEY] = current = request_id(request.headers)
        CORRELATION_ID.set(current)
        response: web.StreamResponse
        try:
            guard.check(request)
            has_no_route = isinstance(request.match_info.http_exception, web.HTTPNotFound)
            if fallback and has_no_route and _first_segment(request.path) not in route_segments:
                response = await fallback(request)
            else:
                response = await handler(request)
        except (OrchestratorError, web.HTTPException) as error:
            response = _refusal(api, error, request)
        except Exception:
            log.exception("request failed", method=request.method, path=request.path[:200])
            failure = OrchestratorError("internal error; the log has the details")
            response = api.errors.render(failure, request_id=current, headers={})
        if successor := request.get(SUCCESSOR_KEY):
            response.headers["Deprecation"] = "true"
            response.headers["Link"] = f'<{successor}>; rel="successor-version"'
        if answered is not None:
            answered[response.status] += 1
        return await paced(request, response)

    return middleware


def _refusal(api: Api[R, I], error: OrchestratorError | web.HTTPException, request: web.Request) -> web.Response:
    """Render an expected failure, of this server or of aiohttp."""
    status: int | None = None
    headers: dict[str, str] = {}
    failure: OrchestratorError
    if isinstance(error, OrchestratorError):
        failure, status = error, error.http_status
        if error.code in (ErrorCode.INTERNAL_ERROR, ErrorCode.DATABASE_ERROR):
            log.error("request failed", path=request.path[:200], code=error.code, reason=error.details)
    elif error.status == 404:
        failure = NotFoundError("no such path", details=f"{request.method} {request.path[:200]}")
    elif isinstance(error, web.HTTPMethodNotAllowed):
        failure, status = InvalidRequestError(f"{request.method} is not allowed for this path"), 405
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    elif error.status == 413:
        failure, status = PayloadTooLargeError(f"the body is over {api.limits.body_bytes // 1024} KiB"), 413
    else:
        failure, status = InvalidRequestError(error.reason), error.status
    response = api.errors.render(failure, request_id=request[REQUEST_ID_KEY], status=status, headers=headers)
    if status == 413:
        response.force_close()  # do not read the rest of the body
    return response
