"""Concurrent callers share one running task instead of each starting their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pi_orchestrator.core.clock import Clock

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    """A running task and how many callers wait for it."""

    task: asyncio.Task[T]
    callers: int = 0


class KeyedSingleFlight(Generic[K, T]):
    """At most one running task per key; all callers of `run` get its result or its exception. Results are not cached.

    A caller that is cancelled does not affect the others. When the last one has left, the task is cancelled; with
    `cancel_unused=False` it finishes without a caller. `name` and the key name the tasks.
    """

    def __init__(self, name: str, *, cancel_unused: bool = True) -> None:
        self._name = name
        self._cancel_unused = cancel_unused
        self._flights: dict[K, _Flight[T]] = {}
        self._close_error: Callable[[], Exception] | None = None

    def __len__(self) -> int:
        """The number of running tasks."""
        return len(self._flights)

    def is_running(self, key: K) -> bool:
        """Whether `run` would join a task instead of starting one."""
        return key in self._flights

    def callers(self, key: K) -> int:
        """Number of callers that wait for the task of a key."""
        flight = self._flights.get(key)
        return flight.callers if flight else 0

    async def run(self, key: K, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the running task of this key, else of a new one that awaits `work()`."""
        self._check_open()
        flight = self._flights.get(key) or self._start(key, work)
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.task.cancelled():
                self._check_open()
            raise
        finally:
            flight.callers -= 1
            if self._cancel_unused and not flight.callers:
                flight.task.cancel()
                self._remove(key, flight)  # not later: the next caller must not join a task that is being cancelled

    def close(self, error: Callable[[], Exception]) -> None:
        """Cancel every task; their callers, and all later ones, get an exception made by `error`."""
        self._close_error = error
        for flight in self._flights.values():
            flight.task.cancel()

    def _check_open(self) -> None:
        if self._close_error:
            raise self._close_error() from None

    def _start(self, key: K, work: Callable[[], Awaitable[T]]) -> _Flight[T]:
        async def await_work() -> T:
            return await work()

        flight = self._flights[key] = _Flight(asyncio.create_task(await_work(), name=f"{self._name} {key}"))
        flight.task.add_done_callback(lambda task: self._finish(key, flight, task))
        return flight

    def _finish(self, key: K, flight: _Flight[T], task: asyncio.Task[T]) -> None:
        self._remove(key, flight)
        if not task.cancelled():
            task.exception()  # marked as retrieved: every caller may have left

    def _remove(self, key: K, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class SingleFlight(Generic[T]):
    """Runs one function for all callers; its result is cached for `keep_s` seconds, an exception is not cached.

    Cancellation is as in `KeyedSingleFlight`.
    """

    def __init__(
        self, work: Callable[[], Awaitable[T]], *, keep_s: float, clock: Clock, cancel_unused: bool = True
    ) -> None:
        self._work = work
        self._keep_s = keep_s
        self._clock = clock
        self._flights: KeyedSingleFlight[str, T] = KeyedSingleFlight("single-flight", cancel_unused=cancel_unused)
        self._key = getattr(work, "__qualname__", type(work).__name__)
        self._cached: tuple[float, T] | None = None

    @property
    def is_running(self) -> bool:
        """Whether `get` would join running work."""
        return self._flights.is_running(self._key)

    async def get(self) -> T:
        """The cached result, else that of the running work, else of new work."""
        if self._cached is not None and self._clock.monotonic() - self._cached[0] < self._keep_s:
            return self._cached[1]
        return await self._flights.run(self._key, self._run)

    async def _run(self) -> T:
        result = await self._work()
        self._cached = (self._clock.monotonic(), result)
        return result
