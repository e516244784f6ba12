"""aiomqtt's client, made safe to cancel and sure to leave no socket behind.

Three hazards of the library are dealt with here and nowhere else. It dials in a thread that nothing can cancel,
so a connect that is given up leaves its socket (and, once the broker wakes, a session under our name). Before
Python 3.12 its `asyncio.wait_for` forgets a cancellation that arrives together with a result. And a broker that
hangs must not be waited for at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable
from typing import TypeVar

import aiomqtt

T = TypeVar("T")

GOODBYE_S = 0.5
AT_ONCE = 32
"""Messages handed over together: a storm must leave others their turn in the loop."""


class MqttClient(aiomqtt.Client):
    """One connection: `open`, then `close` in peace or `drop` without a word."""

    async def open(self) -> None:
        """Connect; MqttError when the broker cannot be reached or does not answer."""
        opening = asyncio.ensure_future(self.__aenter__())
        try:
            await asyncio.shield(opening)
        except BaseException:
            # End the wait for the broker's answer, and await the end of the thread that dials.
            if not self._connected.done():
                self._connected.set_exception(aiomqtt.MqttError("given up"))
                self._connected.exception()
            await asyncio.wait([opening])
            if not opening.cancelled():
                opening.exception()
            await self.drop()
            raise

    def queued(self) -> list[aiomqtt.Message]:
        """What has come meanwhile, in order; the library's own iterator would make a task for each message."""
        return [self._queue.get_nowait() for _ in range(min(self._queue.qsize(), AT_ONCE))]

    async def close(self) -> None:
        """Say DISCONNECT, so that the broker discards the last will; a broker that hangs is left alone."""
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self.__aexit__(None, None, None)
        await self.drop()

    async def drop(self) -> None:
        """Break the connection as a power cut does: no DISCONNECT, so the broker sends the last will."""
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if self._misc_task is not None:  # it ends when the client has seen the end and closed the socket
            await asyncio.wait([self._misc_task], timeout=2)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109  # the base's
        try:
            async with asyncio.timeout(self.timeout if timeout is None else timeout):
                return await fut
        except TimeoutError:
            raise aiomqtt.MqttError("no answer from the broker") from None
