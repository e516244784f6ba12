"""The pulse: is the daemon alive in all its parts? Only then does systemd's watchdog hear of it."""

from __future__ import annotations

import asyncio

from pi_orchestrator.clock import Clock
from pi_orchestrator.errors import StorageError
from pi_orchestrator.health import Health, State
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.systemd import Notifier
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import REPAIR, Database
from pi_orchestrator.supervisor import Beat

INTERVAL_S = 10.0
WRITER_TIMEOUT_S = 10.0
DATABASE = "database"

log = get_logger(__name__)


class PulseWorker:
    """Sends a no-op through the database writer, looks at every heartbeat, and feeds the watchdog if all is well."""

    def __init__(self, *, clock: Clock, health: Health, database: Database, roster: Roster, notifier: Notifier) -> None:
        self._clock = clock
        self._health = health
        self._database = database
        self._roster = roster
        self._notifier = notifier
        # Three pulses fit into the watchdog's patience, so one late pulse is not a restart.
        self._interval_s = min(INTERVAL_S, notifier.watchdog_s / 3) if notifier.watchdog_s else INTERVAL_S

    async def run(self, beat: Beat) -> None:
        """Pulse until cancelled."""
        while True:
            beat()
            await self.check()
            await self._clock.sleep(self._interval_s)

    async def check(self) -> bool:
        """One pulse; whether everything lives."""
        await asyncio.to_thread(self._clock.look)
        try:
            async with asyncio.timeout(WRITER_TIMEOUT_S):
                await self._database.ping()
        except (StorageError, TimeoutError) as error:
            self._health.set(DATABASE, State.FAILED, str(error) or "the writer does not answer")
            log.error("the database does not answer", reason=str(error))
            return False
        if self._database.damaged:
            self._health.set(DATABASE, State.DEGRADED, f"the file is damaged; {REPAIR}")
        else:
            self._health.set(DATABASE, State.OK)
        hung = self._health.stale()
        if hung:
            log.error("parts hang: the watchdog is not fed", parts=hung)
            return False
        self._notifier.alive()
        self._notifier.status(self._summary())
        return True

    def _summary(self) -> str:
        troubled = [
            f"{part.name}: {part.reason or part.state}"
            for part in self._health.components()
            if part.state in (State.FAILED, State.DEGRADED)
        ]
        return f"{len(self._roster)} cameras registered" + ("; " + "; ".join(troubled) if troubled else "")
