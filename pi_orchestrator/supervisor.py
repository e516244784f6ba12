"""Keeps workers running: each in a named task of its own, restarted alone, visible in health.

A worker that raises is restarted with full-jitter back-off. One that has not managed a stable minute within the
patience ends the process, because a daemon that is half dead for ever helps nobody and systemd can start afresh.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pi_orchestrator.clock import Clock
from pi_orchestrator.health import Health, State
from pi_orchestrator.logs import get_logger

STABLE_AFTER_S = 60.0
PATIENCE_S = 600.0

log = get_logger(__name__)


Beat = Callable[[], None]
"""A worker calls it to show that it lives."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A name, what to run, and how old its heartbeat may become before it counts as hung (None: never).

    One that `reports_itself` says in health when it works; of the others, running is enough.
    """

    name: str
    run: Callable[[Beat], Awaitable[None]]
    stale_after_s: float | None = 60.0
    reports_itself: bool = False


def full_jitter(attempt: int, *, base_s: float, cap_s: float) -> float:
    """Seconds to wait before attempt n+1: anywhere up to the capped exponential, never less than a tenth of it."""
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt, 32))
    return random.uniform(ceiling / 10, ceiling)  # noqa: S311  # spreads load, guards nothing


def _root_of(error: BaseException) -> BaseException:
    """The fault itself, out of the groups that task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class Supervisor:
    """Runs workers until stopped; `failed` is set when one cannot be kept up."""

    def __init__(self, *, clock: Clock, health: Health, restart_base_s: float = 0.5) -> None:
        self._clock = clock
        self._health = health
        self._restart_base_s = restart_base_s
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()

    def start(self, worker: Worker) -> None:
        """Begin to run a worker."""
        self._health.add(worker.name, stale_after_s=worker.stale_after_s)
        self._tasks.append(asyncio.create_task(self._keep_up(worker), name=worker.name))

    async def stop(self, *, grace_s: float) -> None:
        """Cancel every worker and wait; one that does not end in the grace time is named in the log."""
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=grace_s)
        if late:
            log.error("workers did not stop in time", workers=[task.get_name() for task in late])

    async def _keep_up(self, worker: Worker) -> None:
        attempt = 0
        unstable_since = self._clock.monotonic()
        while True:
            started = self._clock.monotonic()
            if worker.reports_itself:
                self._health.beat(worker.name)
            else:
                self._health.set(worker.name, State.OK)
            try:
                await worker.run(lambda: self._health.beat(worker.name))
                error: BaseException = RuntimeError("the worker ended by itself")
            except asyncio.CancelledError as caught:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                error = caught  # nobody stopped this worker: something that it waited for was cancelled
            except Exception as caught:  # noqa: BLE001  # the one place where any fault of a worker is contained
                error = _root_of(caught)
            now = self._clock.monotonic()
            if now - started >= STABLE_AFTER_S:
                attempt, unstable_since = 0, now
            self._health.count_restart(worker.name)
            self._health.set(worker.name, State.FAILED, f"{type(error).__name__}: {error}")
            # The first fault of a series is told in full, the rest briefly: a log is not a place to drown in.
            log.error("worker failed", worker=worker.name, attempt=attempt + 1, exc_info=None if attempt else error)
            if now - unstable_since > PATIENCE_S:
                log.critical("worker cannot be kept up", worker=worker.name)
                self.failed.set()
                return
            await self._clock.sleep(full_jitter(attempt, base_s=self._restart_base_s, cap_s=30.0))
            attempt += 1
