"""The typed event hub: what happened, told to whoever listens, never waiting for anyone.

An event that is stored carries the id of its row, which is what streams resume from. A subscriber has a bounded
queue; one that falls behind loses its subscription, not the others their events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pi_orchestrator.domain.mac import Mac


@dataclass(frozen=True, slots=True)
class CameraSeen:
    """A camera is here, by its own message or by a scan and its answer; sent to the workers only, not stored.

    `appeared` at its first sign of life after silence.
    """

    mac: Mac
    ip: str | None
    device_id: str | None
    firmware_version: str | None
    appeared: bool
    trigger: Literal["mqtt", "scan"] = "mqtt"


@dataclass(frozen=True, slots=True)
class CameraContradicted:
    """A message in the name of `mac` that names another MAC too; for the audit, not stored by itself."""

    mac: Mac
    message: str


@dataclass(frozen=True, slots=True)
class Logged:
    """A stored event: `type` is a stable word, `payload` plain JSON data; `id` is 0 and `at` "" until it is stored."""

    type: str
    payload: dict[str, Any]
    mac: Mac | None = None
    session_id: str | None = None
    id: int = 0
    at: str = ""


Event = CameraSeen | CameraContradicted | Logged


class Subscription:
    """A bounded view of the hub; iterate it. It ends when the hub closes or the reader fell behind."""

    def __init__(self, wanted: Callable[[Event], bool], maxsize: int) -> None:
        self.lagged = False
        self._wanted = wanted
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(maxsize + 1)
        self._maxsize = maxsize
        self._closed = False

    def offer(self, event: Event) -> None:
        """Queue an event that is wanted; a full queue ends the subscription."""
        if self._closed or not self._wanted(event):
            return
        if self._queue.qsize() >= self._maxsize:
            self.lagged = True
            self.close()
            return
        self._queue.put_nowait(event)

    def close(self) -> None:
        """End the iteration after what is queued."""
        if not self._closed:
            self._closed = True
            self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._queue.get()) is not None:
            yield event


class Hub:
    """Where workers and streams meet."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def publish(self, event: Event) -> None:
        """Tell every subscriber; never blocks."""
        for subscription in tuple(self._subscriptions):
            subscription.offer(event)

    @contextmanager
    def subscribe(self, wanted: Callable[[Event], bool], *, maxsize: int = 1024) -> Iterator[Subscription]:
        """A subscription for the length of the block."""
        subscription = Subscription(wanted, maxsize)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
