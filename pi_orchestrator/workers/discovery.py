"""Discovery runs: periodic and on demand, one at a time, each with an id, progress, an outcome and a place in history.

A run on demand is stored when it is asked for and when it has ended. Of the periodic ones, those in which nothing
happened are stored many at a time, because one a minute would be most of what the card ever has to bear.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field, replace

from pi_orchestrator.clock import Clock, Stamp
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.presence import HERE
from pi_orchestrator.domain.registry import Kind, Registry
from pi_orchestrator.domain.scan import Scan, ScanState
from pi_orchestrator.errors import NetworkError, NotFoundError, StorageError
from pi_orchestrator.events import Logged
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage import actions, event_log, scans
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.storage.scans import ScanPage
from pi_orchestrator.supervisor import Beat
from pi_orchestrator.workers.scanner import Scanner

PERIODIC = "periodic"
BEAT_S = 10.0
RETRY_S = 1.0
QUIET_KEPT = 15
PENDING_KEPT = 100

log = get_logger(__name__)


@dataclass(slots=True)
class _Run:
    """A run under way; `scan` is what is known of it so far."""

    scan: Scan
    started: Stamp
    progress: float = 0.0
    task: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run that has ended and is not stored yet; what was `eventful` is told as an event when it is."""

    scan: Scan
    started: Stamp
    eventful: bool


@dataclass(frozen=True, slots=True)
class _Before:
    """How things stood when the last run ended: who was known and here, and how many had moved until then."""

    known: frozenset[Mac] = frozenset()
    here: frozenset[Mac] = frozenset()
    moved: int = 0


class DiscoveryWorker:
    """`start`, `cancel`, `get` and `history` are for operators; `run` scans periodically."""

    def __init__(
        self, *, interval_s: float, scanner: Scanner, registry: Registry, clock: Clock, database: Database
    ) -> None:
        self.interval_s = interval_s
        self._scanner = scanner
        self._registry = registry
        self._clock = clock
        self._database = database
        self._now: _Run | None = None
        self._last: _Run | None = None
        self._before = _Before()
        self._pending: list[_Ended] = []
        self._starting = asyncio.Lock()

    @property
    def current(self) -> Scan | None:
        """The run under way, with its progress."""
        return _with_progress(self._now) if self._now else None

    @property
    def last(self) -> Scan | None:
        """The run that ended last."""
        return self._last.scan if self._last else None

    async def load(self) -> None:
        """Say of runs that the last end of the daemon cut off that it did; who was known then is not new."""
        await self._database.write(scans.interrupt)
        self._before = self._standing()

    async def start(self, actor: Actor) -> Scan:
        """Begin a run, or join the one under way; NetworkError when nobody can be asked."""
        async with self._starting:
            if joined := self._now:
                await self._record(joined, actor, outcome="joined")
                return _with_progress(joined)
            await self._scanner.look()
            run = self._begin(requested_by=actor.key_name if actor.key_name != "-" else "operator")
            started = Logged("scan.started", {"id": run.scan.id, "by": run.scan.requested_by})
            try:
                await self._record(run, actor, event=started)
            except BaseException:
                self._now = None
                run.ended.set()
                raise
            if not run.ended.is_set():  # or the daemon has stopped while the run was recorded
                run.task = asyncio.create_task(self._carry_out(run), name="scan")
            return _with_progress(run)

    async def cancel(self, scan_id: str, actor: Actor) -> Scan:
        """End a run early; what it has found stays found. One that has ended is left as it is."""
        run, outcome = self._now, "had ended"
        if run and run.scan.id == scan_id and run.task:
            await self._cut_off(run)
            outcome = "ok"
        scan = await self.get(scan_id)
        await self._database.write(lambda tx: actions.record(tx, actor, target=scan_id, outcome=outcome))
        return scan

    async def get(self, scan_id: str) -> Scan:
        """A run of now or of the past; NotFoundError."""
        for run in (self._now, self._last):
            if run and run.scan.id == scan_id:
                return _with_progress(run)
        pending = next((one.scan for one in self._pending if one.scan.id == scan_id), None)
        found = pending or await scans.load(self._database, scan_id)
        if found is None:
            raise NotFoundError(f"there is no scan {scan_id!r}")
        return found

    async def history(self, *, limit: int, offset: int) -> ScanPage:
        """Ended runs, newest first."""
        await self._store_pending()
        return await scans.page(self._database, limit=limit, offset=offset)

    async def run(self, beat: Beat) -> None:
        """Scan every interval until cancelled."""
        began = float("-inf")
        try:
            while True:
                beat()
                if not self._scanner.off and self._clock.monotonic() >= began + self.interval_s:
                    async with self._starting:
                        if self._now is None and self._scanner.engine:
                            self._scan_periodically()
                            began = self._clock.monotonic()
                await self._clock.sleep(self._pause_s(began))
        finally:
            if run := self._now:
                await self._cut_off(run)
            await self._store_pending()

    def _pause_s(self, began: float) -> float:
        """Until the next run is due; never long, because the interval can be changed."""
        if self._scanner.off:
            return BEAT_S
        left = began + self.interval_s - self._clock.monotonic()
        return min(BEAT_S, max(0.05, left)) if self._scanner.engine else RETRY_S

    def _scan_periodically(self) -> None:
        run = self._begin(requested_by=PERIODIC)
        run.task = asyncio.create_task(self._carry_out(run), name="scan")

    def _begin(self, *, requested_by: str) -> _Run:
        engine, network = self._scanner.engine, self._scanner.network
        if engine is None or network is None or self._scanner.link is None:
            raise NetworkError(f"nobody can be asked: {self._scanner.reason}", retry_after_s=RETRY_S)
        scan = Scan(
            id=str(uuid.uuid4()),
            requested_by=requested_by,
            engine=engine,
            interface=self._scanner.link.name,
            subnet=str(network),
            started_at=self._clock.wall(),
        )
        self._now = _Run(scan, self._clock.stamp())
        return self._now

    async def _record(self, run: _Run, actor: Actor, *, outcome: str = "ok", event: Logged | None = None) -> None:
        """Store a run whose id is about to be told, after those before it: history is in their order."""
        pending, self._pending = self._pending, []

        async def job(tx: Tx) -> None:
            await self._save_pending(tx, pending)
            await scans.save(tx, run.scan, started=run.started)
            await actions.record(tx, actor, target=run.scan.id, outcome=outcome)
            if event:
                await event_log.append(tx, event)

        try:
            await self._database.write(job)
        except BaseException:
            self._keep(pending)
            raise

    async def _cut_off(self, run: _Run) -> None:
        """End a run early."""
        if run.task:
            run.task.cancel()
            await asyncio.wait([run.task])
        if not run.ended.is_set():  # it had not come to its first step
            self._end(run, ScanState.CANCELLED, "cancelled")
            await self._store_pending()

    async def _carry_out(self, run: _Run) -> None:
        def progress(share: float) -> None:
            run.progress = share

        state, message = ScanState.DONE, None
        try:
            await self._scanner.sweep(progress)
        except asyncio.CancelledError:
            state, message = ScanState.CANCELLED, "cancelled"
        except NetworkError as error:
            state, message = ScanState.FAILED, error.message
            log.warning("scan failed", reason=error.message)
        except Exception as error:  # one run's fault is told and ends with it: the next may do better
            state, message = ScanState.FAILED, "an unexpected fault; see the log"
            log.error("scan failed unexpectedly", exc_info=error)
        self._end(run, state, message)
        if self._pending[-1].eventful or len(self._pending) >= QUIET_KEPT:
            await self._store_pending()

    def _end(self, run: _Run, state: ScanState, message: str | None) -> None:
        before, standing = self._before, self._standing()
        found = self._registry.proved(since=run.started.monotonic)
        scan = run.scan = replace(
            run.scan,
            state=state,
            message=message,
            found=len(found),
            new=len(found - before.known),
            moved=standing.moved - before.moved,
            gone=len(before.here - standing.here),
            duration_ms=round((self._clock.monotonic() - run.started.monotonic) * 1000),
        )
        self._before = standing
        self._now, self._last = None, run
        happened = state is not ScanState.DONE or scan.new or scan.moved or scan.gone
        eventful = bool(happened) or scan.requested_by != PERIODIC
        self._pending.append(_Ended(scan, run.started, eventful))
        run.ended.set()
        if eventful:
            log.info("scan ended", state=state, found=scan.found, new=scan.new, moved=scan.moved, gone=scan.gone)

    def _standing(self) -> _Before:
        devices = list(self._registry)
        return _Before(
            # One of whom only a lease speaks has not been met yet.
            known=frozenset(one.mac for one in devices if one.alive_at is not None or not one.evidence),
            here=frozenset(one.mac for one in devices if one.shown in HERE),
            moved=self._registry.counts[Kind.MOVED],
        )

    async def _store_pending(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        try:
            await self._database.write(lambda tx: self._save_pending(tx, pending))
        except StorageError as error:
            log.warning("scans not stored yet", reason=error.message, details=error.details)
            self._keep(pending)

    async def _save_pending(self, tx: Tx, pending: list[_Ended]) -> None:
        for one in pending:
            await scans.save(tx, one.scan, started=one.started)
            if one.eventful:
                numbers = {name: getattr(one.scan, name) for name in ("found", "new", "moved", "gone")}
                await event_log.append(
                    tx, Logged("scan.ended", {"id": one.scan.id, "state": one.scan.state, **numbers})
                )

    def _keep(self, pending: list[_Ended]) -> None:
        """They could not be stored: keep them for the next time, the eventful ones before the others."""
        kept = [*pending, *self._pending]
        while len(kept) > PENDING_KEPT:
            kept.remove(next((one for one in kept if not one.eventful), kept[0]))
        self._pending = kept


def _with_progress(run: _Run) -> Scan:
    ended = run.scan.state is ScanState.DONE
    return replace(run.scan, progress=100 if ended else min(99, round(100 * run.progress)))
