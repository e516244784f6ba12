"""Long answers, sent in pieces: a client that takes them slowly costs a connection, not a copy of what it was sent."""

from __future__ import annotations

import asyncio

from aiohttp import web

PIECE_BYTES = 64 * 1024
STALL_S = 15.0


async def paced(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """The answer as it is where it is short, else sent, each piece of which the client must have taken in time."""
    data = response.body if isinstance(response, web.Response) and not response.prepared else None
    if not isinstance(data, bytes) or len(data) <= PIECE_BYTES:
        return response
    pieces = web.StreamResponse(status=response.status, headers=response.headers)
    pieces.cookies.update(response.cookies)
    pieces.content_length = len(data)
    try:
        await pieces.prepare(request)
        if request.method != "HEAD":
            for start in range(0, len(data), PIECE_BYTES):
                async with asyncio.timeout(STALL_S):
                    await pieces.write(memoryview(data)[start : start + PIECE_BYTES])
            await pieces.write_eof()
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
    return pieces
