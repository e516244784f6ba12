"""Where a simulated camera listens for HTTP."""

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

from pi_orchestrator.errors import StartupError

_LIBRARY = logging.getLogger("pi_orchestrator.sandbox.http")
_LIBRARY.disabled = True  # that somebody breaks off in the middle is no news, and what was sent is secret

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def http_server(sock: socket.socket, handler: Handler) -> AsyncIterator[None]:
    """Serve on a bound socket; on leaving, what is being answered has half a second."""
    server = web.Server(handler, access_log=None, logger=_LIBRARY, keepalive_timeout=5)
    runner = web.ServerRunner(server, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield
    finally:
        await runner.cleanup()
        # A connection that was being accepted meanwhile takes a few turns of the loop until the server knows of it.
        for _ in range(4):
            await asyncio.sleep(0)
        await server.shutdown(0.1)


def cannot_listen(address: IPv4Address, port: int, exc: OSError) -> StartupError:
    """Why there is no socket at this address, and what can be done about it."""
    remedy = {
        errno.EADDRNOTAVAIL: "choose a network inside 127.0.0.0/8, or give the machine the address first",
        errno.EADDRINUSE: "another program listens there: choose another port or network",
        errno.EACCES: "ports below 1024 need privilege: choose another port",
    }.get(exc.errno or 0, "choose another address or port")
    return StartupError(f"cannot listen on {address}:{port}: {os.strerror(exc.errno or 0)}", remedy=remedy)
