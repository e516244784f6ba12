"""A clock that only moves when a test moves it."""

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

from pi_orchestrator.core.clock import Clock, Stamp


class FakeClock(Clock):
    """`advance` moves monotonic and wall time together; `jump_wall` moves only wall time, like NTP."""

    def __init__(self, *, boot_id="boot-1", monotonic=1000.0, wall=datetime(2026, 1, 22, 15, tzinfo=UTC)):
        self.boot_id = boot_id
        self.is_trusted = True
        self._monotonic = monotonic
        self._wall = wall
        self._sleepers = []
        self._order = itertools.count()

    def wall(self):
        return self._wall

    def monotonic(self):
        return self._monotonic

    def trusted(self):
        return self.is_trusted

    def refresh(self):
        """Do nothing: the test sets `is_trusted`."""

    def stamp(self):
        return Stamp(self.wall(), self.boot_id, self.monotonic(), self.trusted())

    @property
    def has_sleepers(self):
        """Whether a task sleeps on this clock."""
        return any(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds):
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), future))
        await future

    async def wait(self, event, timeout_s):
        sleeping = asyncio.ensure_future(self.sleep(timeout_s))
        waiting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait([sleeping, waiting], return_when=asyncio.FIRST_COMPLETED)
            return event.is_set()
        finally:
            sleeping.cancel()
            waiting.cancel()

    def jump_wall(self, delta):
        self._wall += delta

    async def advance(self, seconds):
        """Move forward and wake sleepers in order; returns when the tasks that woke have run as far as they can."""
        end = self._monotonic + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._move_to(max(due, self._monotonic))
            if not future.done():
                future.set_result(None)
            await settle()
        self._move_to(end)
        await settle()

    async def leap(self, seconds):
        """Move forward in one step, like a suspend: sleepers wake once, at the end."""
        self.skip(seconds)
        await self.advance(0)

    def skip(self, seconds):
        """Move forward without waking sleepers; the next `advance` wakes them."""
        self._move_to(self._monotonic + seconds)

    def _move_to(self, monotonic):
        self._wall += timedelta(seconds=monotonic - self._monotonic)
        self._monotonic = monotonic


async def settle(rounds=20):
    """Run tasks and read sockets until nothing is ready, at most `rounds` times."""
    loop = asyncio.get_running_loop()
    for _ in range(rounds):
        await asyncio.sleep(0)
        if not loop._ready:  # noqa: SLF001  # asyncio has no public name for it
            return
