"""The servers of simulated cameras close every connection when they stop."""

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest
from aiohttp import web

from pi_orchestrator.sandbox.server import http_server, tcp_server
from tests.support.waiting import HANG_S

REQUEST = b"GET / HTTP/1.1\r\nHost: camera\r\n\r\n"
ANSWER = bytes(20_000_000)  # more than the buffers of two sockets hold


async def _http_answer(request):
    return web.Response(body=ANSWER)


async def _tcp_answer(reader, writer):
    writer.write(ANSWER)
    await writer.drain()


SERVERS = {"http": (http_server, _http_answer), "tcp": (tcp_server, _tcp_answer)}


def _open_connections(port):
    """Number of this process's sockets with the local port `port`."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        number = int(descriptor.name)
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as sock:
                    count += sock.family == socket.AF_INET and sock.getsockname()[1] == port
    return count


@pytest.mark.parametrize("kind", SERVERS)
async def test_server_closes_stalled_connections(kind):
    serve, answer = SERVERS[kind]
    sock = socket.create_server(("127.0.0.1", 0))
    address, readable = sock.getsockname(), asyncio.Event()
    with contextlib.ExitStack() as stack:
        async with serve(sock, answer):
            for _ in range(5):
                client = stack.enter_context(socket.create_connection(address))
                client.sendall(REQUEST)
            asyncio.get_running_loop().add_reader(client, readable.set)
            await asyncio.wait_for(readable.wait(), HANG_S)
            asyncio.get_running_loop().remove_reader(client)
        assert _open_connections(address[1]) == 0


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("turns", range(5))
async def test_server_closes_new_connection(kind, turns):
    serve, answer = SERVERS[kind]
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    with contextlib.ExitStack() as stack:
        async with serve(sock, answer):
            client = stack.enter_context(socket.create_connection(address))
            client.sendall(REQUEST)
            for _ in range(turns):
                await asyncio.sleep(0)
        assert _open_connections(address[1]) == 0
