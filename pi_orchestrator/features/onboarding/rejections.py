"""Rejections as onboarding events: repeats are counted, their number is limited, and they are stored in batches."""

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
from pi_orchestrator.features.onboarding.onboarding_event import OnboardingEvent, Stage
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
class _LastEvent:
    written_at: float
    window_s: float
    repeats: int = 0


class RejectionLog:
    """Collects onboarding events and counts; `take` and `take_counts` return them for storage.

    The same rejection of the same MAC is written at most once in 60 s. While it repeats, the interval doubles up to
    an hour, and each event has the number of repeats: a camera that is never onboarded must not wear out the SD card.
    The total number of events is limited too, so that forged MACs cannot fill it.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._last: BoundedDict[tuple[Mac, str | None], _LastEvent] = BoundedDict(MAX_TRACKED)
        self._flood = TokenBucket(capacity=FLOOD_BURST, rate=FLOOD_PER_S, now=clock.monotonic())
        self._events: PendingWrites[OnboardingEvent] = PendingWrites(FLOOD_BURST, drop_newest=True)
        self._counts: Counter[str] = Counter()
        self._has_events = asyncio.Event()

    def add(self, event: OnboardingEvent) -> None:
        """Count a rejection; queue it unless it is a repeat or exceeds the limit of all events."""
        self._counts["failed" if event.stage is Stage.FAILED else "rejected_by_policy"] += 1
        now = self._clock.monotonic()
        last = self._last.get((event.mac, event.code))
        window_s = FIRST_WINDOW_S
        if last:
            if now - last.written_at < last.window_s:
                last.repeats += 1
                return
            window_s = min(LONGEST_WINDOW_S, last.window_s * 2)
            if last.repeats:
                event = replace(event, message=f"{event.message} ({last.repeats} repeats since the last row)")
        if not self._flood.take(now):
            return
        self._last[event.mac, event.code] = _LastEvent(now, window_s)
        self._events.add(event)
        self._has_events.set()

    def mark_written(self, mac: Mac, code: str) -> None:
        """Record that another writer has stored this rejection."""
        self._last[mac, code] = _LastEvent(self._clock.monotonic(), FIRST_WINDOW_S)

    def count_already_onboarded(self) -> None:
        """Count a registered camera that appeared again."""
        self._counts["already_onboarded"] += 1

    async def wait(self, timeout_s: float) -> None:
        """Wait for an event to store, at most `timeout_s`; counts alone do not end the wait."""
        await self._clock.wait(self._has_events, timeout_s)

    def take(self) -> list[OnboardingEvent]:
        """Remove and return the events to store."""
        self._has_events.clear()
        return self._events.take()

    def take_counts(self) -> dict[str, int]:
        """Remove and return the increments of the stored counters."""
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    def restore(self, events: list[OnboardingEvent], counts: dict[str, int]) -> None:
        """Put back what could not be stored; beyond FLOOD_BURST events the newest are dropped."""
        self._events.restore(events)
        self._counts.update(counts)
        self._has_events.set()

    async def run(self, database: Database) -> None:
        """Store collected events and counts until cancelled."""
        while True:
            await self.wait(COUNTS_FLUSH_S)
            try:
                await self.store(database)
            except StorageError as error:
                log.warning("rejections not stored, retrying", reason=error.message, details=error.details)
                await self._clock.sleep(RETRY_S)

    async def store(self, database: Database) -> None:
        """Store collected events and counts in one transaction; on StorageError they stay collected."""
        events, counts = self.take(), self.take_counts()
        if not events and not counts:
            return

        async def job(tx: Tx) -> None:
            await onboarding.append(tx, events)
            await onboarding.count(tx, **counts)

        try:
            await database.write(job)
        except StorageError:
            self.restore(events, counts)
            raise
