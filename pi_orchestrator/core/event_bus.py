"""The event bus: publishes events to subscribers, without waiting for any of them.

A subscriber names the event classes that it receives; the class `StoredEvent` is for every row of the event log. Each
subscriber has a bounded queue: if it falls behind, its subscription ends, and the others lose nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

E = TypeVar("E")


class Subscription(Generic[E]):
    """A bounded queue of events; iterate over it. It ends when the bus closes or the reader has fallen behind."""

    def __init__(self, kinds: tuple[type[E], ...], maxsize: int) -> None:
        self.lagged = False
        """Whether the subscription has ended because its queue was full."""
        self._kinds = kinds
        self._queue: asyncio.Queue[E | None] = asyncio.Queue(maxsize + 1)  # one more for the end marker, None
        self._maxsize = maxsize
        self._closed = False

    def offer(self, event: object) -> None:
        """Queue an event of a subscribed class; a full queue ends the subscription."""
        if self._closed or not isinstance(event, self._kinds):
            return
        if self._queue.qsize() >= self._maxsize:
            self.lagged = True
            self.close()
            return
        self._queue.put_nowait(event)

    def close(self) -> None:
        """End the iteration after the queued events."""
        if not self._closed:
            self._closed = True
            self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[E]:
        while (event := await self._queue.get()) is not None:
            yield event


class EventBus:
    """Delivers published events to all subscriptions."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription[Any]] = set()

    def publish(self, event: object) -> None:
        """Offer an event to every subscriber; never blocks."""
        for subscription in tuple(self._subscriptions):
            subscription.offer(event)

    @contextmanager
    def subscribe(self, *kinds: type[E], maxsize: int = 1024) -> Iterator[Subscription[E]]:
        """Subscribe to events of these classes for the duration of the block."""
        subscription = Subscription(kinds, maxsize)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def follow(
        self,
        *kinds: type[E],
        handle: Callable[[E], None],
        pause: Callable[[], Awaitable[None]],
        prepare: Callable[[], Awaitable[None]] | None = None,
        maxsize: int = 1024,
    ) -> None:
        """Call `handle` for every event of these classes, until cancelled.

        A subscription that fell behind is renewed after `pause`. `prepare` is awaited after each subscription begins,
        to read missed events.
        """
        while True:
            with self.subscribe(*kinds, maxsize=maxsize) as events:
                if prepare:
                    await prepare()
                async for event in events:
                    handle(event)
            await pause()

    def close(self) -> None:
        """End every subscription."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
