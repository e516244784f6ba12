"""Maintenance: keeps the tables within their limits, once an hour."""

from __future__ import annotations

from pi_orchestrator.clock import Clock
from pi_orchestrator.settings import StorageSettings
from pi_orchestrator.storage import actions, event_log, idempotency, onboarding, scans, sessions
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.supervisor import Beat

INTERVAL_S = 3600.0
FIRST_AFTER_S = 60.0
EVENTS_KEPT = 10_000
AUDIT_KEPT = 200_000
ACTIONS_KEPT = 50_000
ANSWERS_KEPT = 10_000
SCANS_KEPT = 2_000
SESSIONS_KEPT = 500
IDEMPOTENCY_HOURS = 24


class MaintenanceWorker:
    """Deletes what is over its number, and what is over its age where both the clock and the row's time are sure."""

    def __init__(self, *, settings: StorageSettings, clock: Clock, database: Database) -> None:
        self._settings = settings
        self._clock = clock
        self._database = database

    async def run(self, beat: Beat) -> None:
        """A pass an hour, until cancelled."""
        await self._clock.sleep(FIRST_AFTER_S)
        while True:
            beat()
            await self.clean()
            await self._clock.sleep(INTERVAL_S)

    async def clean(self) -> None:
        """One pass."""
        days = self._settings.retention_days

        async def job(tx: Tx) -> None:
            await event_log.trim(tx, keep=EVENTS_KEPT)
            await onboarding.trim_audit(tx, keep=AUDIT_KEPT)
            await actions.trim(tx, keep=ACTIONS_KEPT)
            await scans.trim(tx, keep=SCANS_KEPT)
            await sessions.trim(tx, keep=SESSIONS_KEPT)
            await idempotency.trim(tx, keep=ANSWERS_KEPT)
            if tx.stamp.trusted:
                await onboarding.clean_audit(tx, days=days, trusted_only=True)
                await actions.clean(tx, days=days)
                await idempotency.clean(tx, hours=IDEMPOTENCY_HOURS)

        await self._database.write(job)
