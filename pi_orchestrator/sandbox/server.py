"""HTTP and TCP servers of simulated cameras."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address

from aiohttp import web

from pi_orchestrator.core.errors import StartupError

_LIBRARY_LOGGER = logging.getLogger("pi_orchestrator.sandbox.http")
_LIBRARY_LOGGER.disabled = True  # aborted requests are expected here, and their content is secret

HttpHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
TcpHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Server(web.Server):
    """Keeps every transport until its connection is lost; aiohttp forgets a closed one that still has unsent bytes."""

    def __init__(self, handler: HttpHandler) -> None:
        super().__init__(handler, access_log=None, logger=_LIBRARY_LOGGER, keepalive_timeout=5)
        self._transports: dict[web.RequestHandler, asyncio.Transport] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._transports[handler] = transport

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._transports.pop(handler, None)

    async def abort(self) -> None:
        """Close every connection and discard unsent bytes."""
        while self._transports:
            for transport in self._transports.values():
                transport.abort()
            await asyncio.sleep(0)


class UntypedResponse(web.Response):
    """A response without Content-Type; aiohttp always adds one."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Content-Type", None)


@contextlib.asynccontextmanager
async def http_server(sock: socket.socket, handler: HttpHandler) -> AsyncIterator[None]:
    """Serve on a bound socket; at the end, requests in progress get 0.5 s, then every connection is closed."""
    server = _Server(handler)
    runner = web.ServerRunner(server, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield
    finally:
        await _stop_accepting(sock)
        await runner.cleanup()
        await server.abort()


@contextlib.asynccontextmanager
async def tcp_server(sock: socket.socket, answer: TcpHandler) -> AsyncIterator[None]:
    """Run `answer(reader, writer)` per connection on a bound socket; at the end, open connections are aborted."""
    open_tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:  # pragma: no cover
            return
        open_tasks.add(task)
        try:
            await answer(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client has disconnected or did not send HTTP: no answer possible
        except asyncio.CancelledError:
            pass  # the server stops; asyncio's streams would log a cancelled task as an error
        finally:
            open_tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(handle, sock=sock)
    try:
        yield
    finally:
        await _stop_accepting(sock)
        server.close()
        closing = tuple(open_tasks)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        await server.wait_closed()


async def _stop_accepting(sock: socket.socket) -> None:
    """Stop accepting, and wait until the server has registered all accepted connections.

    Python 3.11 leaks a socket that was accepted just before its server is closed.
    """
    asyncio.get_running_loop().remove_reader(sock)
    for _ in range(4):  # turns of the loop from accept() to connection_made() and to the first step of its task
        await asyncio.sleep(0)


def cannot_listen(address: IPv4Address, port: int, exc: OSError) -> StartupError:
    """The error for an address on which no socket can be opened, with a remedy."""
    remedy = {
        errno.EADDRNOTAVAIL: "choose a network inside 127.0.0.0/8, or add the address to this machine first",
        errno.EADDRINUSE: "another program uses this port: choose another port or network",
        errno.EACCES: "ports below 1024 need root: choose another port",
    }.get(exc.errno or 0, "choose another address or port")
    return StartupError(f"cannot listen on {address}:{port}: {os.strerror(exc.errno or 0)}", remedy=remedy)
