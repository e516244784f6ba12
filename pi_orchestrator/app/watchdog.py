"""Watchdog: systemd is notified only while every worker and the database are alive."""

from __future__ import annotations

import asyncio
from collections.abc import Sized

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.net.host.systemd import Notifier
from pi_orchestrator.storage.database import DAMAGE_REMEDY, Database

INTERVAL_S = 10.0
WRITER_TIMEOUT_S = 10.0
DATABASE = "database"

log = get_logger(__name__)


class WatchdogWorker:
    """Sends a no-op through the database writer, checks all heartbeats, and notifies systemd if nothing hangs."""

    def __init__(self, *, clock: Clock, health: Health, database: Database, cameras: Sized, notifier: Notifier) -> None:
        self._clock = clock
        self._health = health
        self._database = database
        self._cameras = cameras
        self._notifier = notifier
        # Three checks per watchdog period, so that one late check does not cause a restart.
        self._interval_s = min(INTERVAL_S, notifier.watchdog_s / 3) if notifier.watchdog_s else INTERVAL_S

    async def run(self, beat: Beat) -> None:
        """Check until cancelled."""
        while True:
            beat()
            await self.check()
            await self._clock.sleep(self._interval_s)

    async def check(self) -> bool:
        """Run one check; notifies systemd and returns True if everything is alive. Also refreshes `Clock.trusted`."""
        await asyncio.to_thread(self._clock.refresh)
        try:
            async with asyncio.timeout(WRITER_TIMEOUT_S):
                await self._database.ping()
        except (StorageError, TimeoutError) as error:
            self._health.set(DATABASE, State.FAILED, str(error) or "the writer does not respond")
            log.error("database not responding", reason=str(error))
            return False
        if self._database.damaged:
            self._health.set(DATABASE, State.DEGRADED, f"the file is damaged; {DAMAGE_REMEDY}")
        else:
            self._health.set(DATABASE, State.OK)
        stale = self._health.stale()
        if stale:
            log.error("workers hang, watchdog not notified", workers=stale)
            return False
        self._notifier.alive()
        self._notifier.status(self._summary())
        return True

    def _summary(self) -> str:
        failures = [
            f"{component.name}: {component.reason or component.state}"
            for component in self._health.components()
            if component.state in (State.FAILED, State.DEGRADED)
        ]
        return "; ".join([f"{len(self._cameras)} cameras registered", *failures])
