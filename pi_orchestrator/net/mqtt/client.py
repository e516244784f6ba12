"""aiomqtt's client, made safe to cancel and without socket leaks.

Works around three problems of aiomqtt. It connects in a thread that cannot be cancelled, so an aborted connect leaves
a socket open (and, if the broker answers later, an MQTT session under this client id). Its `asyncio.wait_for` loses a
cancellation that arrives together with a result (before Python 3.12). Its disconnect waits for a broker that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable
from typing import TypeVar

import aiomqtt

T = TypeVar("T")

DISCONNECT_TIMEOUT_S = 0.5
BATCH_SIZE = 32
"""Limit of messages returned by one `queued`, so that other tasks can run in a flood."""


class MqttClient(aiomqtt.Client):
    """One connection: `open`, then `close` (with DISCONNECT) or `drop` (without)."""

    async def open(self) -> None:
        """Connect; MqttError if the broker is unreachable or does not answer."""
        opening = asyncio.ensure_future(self.__aenter__())
        try:
            await asyncio.shield(opening)
        except BaseException:
            # End the wait for the broker's answer, then wait for the connecting thread.
            if not self._connected.done():
                self._connected.set_exception(aiomqtt.MqttError("connect aborted"))
                self._connected.exception()
            await asyncio.wait([opening])
            if not opening.cancelled():
                opening.exception()  # retrieved, so that asyncio does not log it
            await self.drop()
            raise

    def queued(self) -> list[aiomqtt.Message]:
        """Take the next received messages, in order; aiomqtt's iterator would create a task per message."""
        return [self._queue.get_nowait() for _ in range(min(self._queue.qsize(), BATCH_SIZE))]

    async def close(self) -> None:
        """Send DISCONNECT, so that the broker discards the last will; waits at most `DISCONNECT_TIMEOUT_S`."""
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                await self.__aexit__(None, None, None)
        await self.drop()

    async def drop(self) -> None:
        """Close the connection without DISCONNECT, so that the broker sends the last will."""
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if self._misc_task is not None:  # ends after the client has closed the socket
            await asyncio.wait([self._misc_task], timeout=2)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # retrieved, so that asyncio does not log it

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109  # aiomqtt's signature
        try:
            async with asyncio.timeout(self.timeout if timeout is None else timeout):
                return await fut
        except TimeoutError:
            raise aiomqtt.MqttError("no answer from the broker") from None
