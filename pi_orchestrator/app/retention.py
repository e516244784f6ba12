"""Retention: deletes rows over the limits of their tables, once an hour."""

from __future__ import annotations

from collections.abc import Iterable

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.features.feature import RetentionRule
from pi_orchestrator.storage.database import Database, Tx

INTERVAL_S = 3600.0
START_DELAY_S = 60.0


class RetentionWorker:
    """Applies every rule once an hour: limits by number always, limits by age only while the clock is trusted."""

    def __init__(self, *, rules: Iterable[RetentionRule], clock: Clock, database: Database) -> None:
        self._rules = tuple(rules)
        self._clock = clock
        self._database = database

    async def run(self, beat: Beat) -> None:
        """Run a pass every hour, until cancelled."""
        await self._clock.sleep(START_DELAY_S)
        while True:
            beat()
            await self.run_once()
            await self._clock.sleep(INTERVAL_S)

    async def run_once(self) -> None:
        """Run one pass, in one transaction."""

        async def job(tx: Tx) -> None:
            for rule in self._rules:
                await rule.by_number(tx)
                if rule.by_age and tx.stamp.trusted:
                    await rule.by_age(tx)

        await self._database.write(job)
