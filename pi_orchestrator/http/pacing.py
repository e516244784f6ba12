"""Long answers are sent in pieces, so that a slow client does not keep a copy of the whole answer in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

PIECE_BYTES = 64 * 1024
STALL_S = 15.0


async def paced(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Return a short answer unchanged; send a long one in pieces, each within STALL_S."""
    data = response.body if isinstance(response, web.Response) and not response.prepared else None
    if not isinstance(data, bytes) or len(data) <= PIECE_BYTES:
        return response
    pieces = web.StreamResponse(status=response.status, headers=response.headers)
    pieces.cookies.update(response.cookies)
    pieces.content_length = len(data)
    return await send_pieces(request, pieces, _pieces(data))


async def send_pieces(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes | memoryview]
) -> web.StreamResponse:
    """Send an answer of known length; abort the connection if a piece stalls or fails, or if bytes are missing."""
    missing = response.content_length or 0
    try:
        await response.prepare(request)
        if request.method != "HEAD":
            async for piece in pieces:
                async with asyncio.timeout(STALL_S):
                    await response.write(piece)
                missing -= len(piece)
            if missing:
                raise EOFError
            await response.write_eof()
    except (OSError, EOFError):  # OSError includes ConnectionError and TimeoutError
        # Otherwise the client would take the next answer for the rest of this one.
        if request.transport is not None:
            request.transport.abort()
    return response


async def _pieces(data: bytes) -> AsyncIterator[memoryview]:
    for start in range(0, len(data), PIECE_BYTES):
        yield memoryview(data)[start : start + PIECE_BYTES]
