"""Looks after cameras: writes down what was asked of them."""

from __future__ import annotations

import asyncio

from pi_orchestrator.clock import Clock
from pi_orchestrator.supervisor import Beat
from pi_orchestrator.workers.capture_record import CaptureRecord
from pi_orchestrator.workers.captures import Captures

TICK_S = 1.0


class CareWorker:
    """Passes, one a second."""

    def __init__(self, *, clock: Clock, captures: Captures, record: CaptureRecord) -> None:
        self._clock = clock
        self._captures = captures
        self._record = record

    async def run(self, beat: Beat) -> None:
        """Tick until cancelled; then whoever waits for a picture is told so, and what is not written is written."""
        try:
            while True:
                beat()
                await self.tick()
                await self._clock.sleep(TICK_S)
        except asyncio.CancelledError:
            self._captures.close()
            raise
        finally:
            await self._record.flush()

    async def tick(self) -> None:
        """One pass."""
        await self._record.flush_if_due()
