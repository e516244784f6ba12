"""Rejections for the audit: repeats are counted, floods are bounded, and rows are written in batches."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.token_bucket import TokenBucket
from pi_orchestrator.core.write_behind import PendingWrites
from pi_orchestrator.features.onboarding import store as onboarding
from pi_orchestrator.features.onboarding.audit import AuditEntry, Stage
from pi_orchestrator.storage.database import Database, Tx

FIRST_WINDOW_S = 60.0
LONGEST_WINDOW_S = 3600.0
MAX_TRACKED = 4096
FLOOD_BURST = 1000
FLOOD_PER_S = 1.0
RETRY_S = 5.0
COUNTS_FLUSH_S = 60.0

log = get_logger(__name__)


@dataclass(slots=True)
class _LastRow:
    written_at: float
    window_s: float
    repeats: int = 0


class RejectionLog:
    """Collects audit rows and counts; `take` and `take_counts` return them for storage.

    The same rejection of the same MAC is written at most once in 60 s. While it repeats, the interval doubles up to
    an hour, and each row has the number of repeats: a camera that is never onboarded must not wear out the card.
    The total number of rows is bounded too, so that forged MACs cannot fill the card.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._last: BoundedDict[tuple[Mac, str | None], _LastRow] = BoundedDict(MAX_TRACKED)
        self._flood = TokenBucket(capacity=FLOOD_BURST, rate=FLOOD_PER_S, now=clock.monotonic())
        self._entries: PendingWrites[AuditEntry] = PendingWrites(FLOOD_BURST, drop_newest=True)
        self._counts: Counter[str] = Counter()
        self._has_rows = asyncio.Event()

    def add(self, entry: AuditEntry) -> None:
        """Count a rejection, and queue its row unless it is a repeat."""
        self._counts["failed" if entry.stage is Stage.FAILED else "rejected_by_policy"] += 1
        now = self._clock.monotonic()
        last = self._last.get((entry.mac, entry.code))
        window_s = FIRST_WINDOW_S
        if last:
            if now - last.written_at < last.window_s:
                last.repeats += 1
                return
            window_s = min(LONGEST_WINDOW_S, last.window_s * 2)
            if last.repeats:
                entry = replace(entry, message=f"{entry.message} ({last.repeats} repeats since the last row)")
        if not self._flood.take(now):
            return
        self._last[entry.mac, entry.code] = _LastRow(now, window_s)
        self._entries.add(entry)
        self._has_rows.set()

    def mark_written(self, mac: Mac, code: str) -> None:
        """Record that another writer has stored a row for this rejection."""
        self._last[mac, code] = _LastRow(self._clock.monotonic(), FIRST_WINDOW_S)

    def count_already_onboarded(self) -> None:
        """Count a registered camera that appeared again."""
        self._counts["already_onboarded"] += 1

    async def wait(self, timeout_s: float) -> None:
        """Wait for a row to write, at most `timeout_s`; counts alone do not end the wait."""
        await self._clock.wait(self._has_rows, timeout_s)

    def take(self) -> list[AuditEntry]:
        """Remove and return the rows to write."""
        self._has_rows.clear()
        return self._entries.take()

    def take_counts(self) -> dict[str, int]:
        """Remove and return the increments of the stored counters."""
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    def restore(self, entries: list[AuditEntry], counts: dict[str, int]) -> None:
        """Put back what could not be stored; beyond FLOOD_BURST rows the newest are dropped."""
        self._entries.restore(entries)
        self._counts.update(counts)
        self._has_rows.set()

    async def run(self, database: Database) -> None:
        """Store collected rows and counts until cancelled."""
        while True:
            await self.wait(COUNTS_FLUSH_S)
            try:
                await self.store(database)
            except StorageError as error:
                log.warning("rejections not stored, retrying", reason=error.message, details=error.details)
                await self._clock.sleep(RETRY_S)

    async def store(self, database: Database) -> None:
        """Store collected rows and counts in one transaction; on StorageError they stay collected."""
        entries, counts = self.take(), self.take_counts()
        if not entries and not counts:
            return

        async def job(tx: Tx) -> None:
            await onboarding.audit(tx, entries)
            await onboarding.count(tx, **counts)

        try:
            await database.write(job)
        except StorageError:
            self.restore(entries, counts)
            raise
