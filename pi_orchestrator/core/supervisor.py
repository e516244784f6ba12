"""Keeps workers running: each in its own named task, restarted individually, with its state in health.

A worker that raises is restarted after a random wait, longer after each failure. If it has failed for GIVE_UP_AFTER_S
and no run has lasted STABLE_AFTER_S, the process ends, so that systemd starts it again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.logging import get_logger

STABLE_AFTER_S = 60.0
GIVE_UP_AFTER_S = 600.0

log = get_logger(__name__)


Beat = Callable[[], None]
"""Records a heartbeat of the worker."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A background task: its name, its function, and the heartbeat age at which it counts as hung (None: never).

    With `reports_itself` the worker sets its state in health; otherwise it is OK while it runs.
    """

    name: str
    run: Callable[[Beat], Awaitable[None]]
    stale_after_s: float | None = 60.0
    reports_itself: bool = False


def full_jitter(attempt: int, *, base_s: float, cap_s: float) -> float:
    """A random wait, s: from a tenth of `base_s * 2**attempt` (at most `cap_s`) up to all of it."""
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt, 32))
    return random.uniform(ceiling / 10, ceiling)  # noqa: S311  # not security relevant


def _root_cause(error: BaseException) -> BaseException:
    """The error itself, without the groups that task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class Supervisor:
    """Runs workers until stopped; `failed` is set when it does not restart a worker any more."""

    def __init__(self, *, clock: Clock, health: Health, restart_base_s: float = 0.5) -> None:
        self._clock = clock
        self._health = health
        self._restart_base_s = restart_base_s
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()

    def start(self, worker: Worker) -> None:
        """Start a worker."""
        self._health.add(worker.name, stale_after_s=worker.stale_after_s)
        self._tasks.append(asyncio.create_task(self._run_and_restart(worker), name=worker.name))

    async def stop(self, *, grace_s: float) -> None:
        """Cancel every worker and wait up to `grace_s`; log the names of those that have not ended."""
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=grace_s)
        if late:
            log.error("workers did not stop in time", workers=[task.get_name() for task in late])

    async def _run_and_restart(self, worker: Worker) -> None:
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
                error: BaseException = RuntimeError("the worker returned without being stopped")
            except asyncio.CancelledError as caught:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                error = caught  # the worker was not stopped: something that it awaited was cancelled
            except Exception as caught:  # noqa: BLE001  # the one place where any fault of a worker is contained
                error = _root_cause(caught)
            now = self._clock.monotonic()
            if now - started >= STABLE_AFTER_S:
                attempt, unstable_since = 0, now
            self._health.count_restart(worker.name)
            self._health.set(worker.name, State.FAILED, f"{type(error).__name__}: {error}")
            # Only the first fault of a series has a traceback, so that repeats do not flood the log.
            log.error("worker failed", worker=worker.name, attempt=attempt + 1, exc_info=None if attempt else error)
            if now - unstable_since > GIVE_UP_AFTER_S:
                log.critical("worker keeps failing, giving up", worker=worker.name)
                self.failed.set()
                return
            await self._clock.sleep(full_jitter(attempt, base_s=self._restart_base_s, cap_s=30.0))
            attempt += 1
