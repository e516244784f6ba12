"""One answer for all who ask at once, kept for a moment: what is dear to find out is found out once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pi_orchestrator.clock import Clock

T = TypeVar("T")


@dataclass(slots=True)
class _Asking(Generic[T]):
    """A question under way, and how many wait for its answer."""

    task: asyncio.Task[T]
    waiting: int = 0


class Shared(Generic[T]):
    """A question that is asked as long as anybody waits for the answer; the answer serves `keep_s` seconds."""

    def __init__(self, ask: Callable[[], Awaitable[T]], *, keep_s: float, clock: Clock) -> None:
        self._ask = ask
        self._keep_s = keep_s
        self._clock = clock
        self._asking: _Asking[T] | None = None
        self._kept: tuple[float, T] | None = None

    @property
    def under_way(self) -> bool:
        """Whether it is being asked just now."""
        return self._asking is not None

    async def get(self) -> T:
        """The answer; whoever goes away meanwhile does not take it from the others."""
        if self._kept is not None and self._clock.monotonic() - self._kept[0] < self._keep_s:
            return self._kept[1]
        asking = self._asking
        if asking is None:
            asking = self._asking = _Asking(asyncio.create_task(self._run(), name="shared question"))
        asking.waiting += 1
        try:
            return await asyncio.shield(asking.task)
        finally:
            asking.waiting -= 1
            if asking.waiting == 0:
                asking.task.cancel()
                if self._asking is asking:
                    self._asking = None

    async def _run(self) -> T:
        this = self._asking
        try:
            answer = await self._ask()
            self._kept = (self._clock.monotonic(), answer)
            return answer
        finally:
            if self._asking is this:
                self._asking = None
