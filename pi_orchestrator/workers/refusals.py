"""Refusals on their way into the audit: repeats are counted, floods are bounded, and rows are written in groups."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.bucket import TokenBucket
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import AuditEntry, Code, Stage
from pi_orchestrator.errors import StorageError
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage import onboarding
from pi_orchestrator.storage.database import Database, Tx

FIRST_WINDOW_S = 60.0
LONGEST_WINDOW_S = 3600.0
REMEMBERED = 4096
FLOOD_BURST = 1000
FLOOD_PER_S = 1.0
RETRY_S = 5.0
COUNTS_FLUSH_S = 60.0

log = get_logger(__name__)


@dataclass(slots=True)
class _Last:
    written_at: float
    window_s: float
    repeats: int = 0


class Refusals:
    """Collects audit rows and counts; `take` and `take_counts` hand them over to be stored.

    The same refusal of the same MAC is written once in 60 s. One that goes on is written ever more rarely, up to
    once an hour, with the number of repeats: a camera that nobody lets in must not wear out the card. The rows
    in all are bounded too, so that invented MACs cannot fill it.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._last: OrderedDict[tuple[Mac, Code | None], _Last] = OrderedDict()
        self._flood = TokenBucket(capacity=FLOOD_BURST, rate=FLOOD_PER_S, now=clock.monotonic())
        self._entries: list[AuditEntry] = []
        self._counts: Counter[str] = Counter()
        self._some = asyncio.Event()

    def add(self, entry: AuditEntry) -> None:
        """Count a refusal, and keep its row unless it only repeats."""
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
        self._keep(entry.mac, entry.code, _Last(now, window_s))
        self._entries.append(entry)
        self._some.set()

    def remember(self, mac: Mac, code: Code) -> None:
        """A row for this refusal was written elsewhere."""
        self._keep(mac, code, _Last(self._clock.monotonic(), FIRST_WINDOW_S))

    def count_already_onboarded(self) -> None:
        """A registered camera appeared again."""
        self._counts["already_onboarded"] += 1

    async def wait(self, timeout_s: float) -> None:
        """Until there is a row to write, or so long: repeats are only counts, which can wait."""
        await self._clock.wait(self._some, timeout_s)

    def take(self) -> list[AuditEntry]:
        """The rows to write; they are the caller's now."""
        self._some.clear()
        entries, self._entries = self._entries, []
        return entries

    def take_counts(self) -> dict[str, int]:
        """What to add to the stored counters; it is the caller's now."""
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    def give_back(self, entries: list[AuditEntry], counts: dict[str, int]) -> None:
        """They could not be stored: keep them for the next time, as many as a flood may leave."""
        self._entries = [*entries, *self._entries][:FLOOD_BURST]
        self._counts.update(counts)
        self._some.set()

    async def run(self, database: Database) -> None:
        """Store what is collected as it comes, until cancelled."""
        while True:
            await self.wait(COUNTS_FLUSH_S)
            try:
                await self.store(database)
            except StorageError as error:
                log.warning("refusals not stored yet", reason=error.message, details=error.details)
                await self._clock.sleep(RETRY_S)

    async def store(self, database: Database) -> None:
        """Store what is collected, in one transaction; StorageError leaves it for the next time."""
        entries, counts = self.take(), self.take_counts()
        if not entries and not counts:
            return

        async def job(tx: Tx) -> None:
            await onboarding.audit(tx, entries)
            await onboarding.count(tx, **counts)

        try:
            await database.write(job)
        except StorageError:
            self.give_back(entries, counts)
            raise

    def _keep(self, mac: Mac, code: Code | None, last: _Last) -> None:
        self._last[mac, code] = last
        self._last.move_to_end((mac, code))
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
