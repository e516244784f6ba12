"""Scans: periodic and on demand, one at a time, each with an id, progress and a result; ended ones are stored.

A scan on demand is stored when it is requested and when it has ended. Periodic scans without changes are stored in
groups: one write per minute would be more than half of all writes to the SD card.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field, replace

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock, Stamp
from pi_orchestrator.core.errors import NetworkError, NotFoundError, StorageError
from pi_orchestrator.core.events import Event, ScanEnded, ScanStarted
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.core.write_behind import PendingWrites
from pi_orchestrator.features.devices.changes import Kind
from pi_orchestrator.features.devices.model import PRESENT_STATES
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.discovery import store as scans
from pi_orchestrator.features.discovery.model import Scan, ScanState
from pi_orchestrator.features.discovery.scanner import Scanner
from pi_orchestrator.features.discovery.store import ScanPage
from pi_orchestrator.storage import audit_log, event_store
from pi_orchestrator.storage.database import Database, Tx

PERIODIC = "periodic"
BEAT_S = 10.0
RETRY_S = 1.0
MAX_UNCHANGED_PENDING = 15
MAX_PENDING = 100

log = get_logger(__name__)


@dataclass(slots=True)
class _Run:
    """A running scan; `scan` holds its values so far, `progress` is its completed fraction, 0.0 to 1.0."""

    scan: Scan
    started: Stamp
    progress: float = 0.0
    task: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Ended:
    """An ended scan that is not stored yet.

    `is_notable`: on demand, not completed, or with changes; it is stored with an event, and at once.
    """

    scan: Scan
    started: Stamp
    is_notable: bool


@dataclass(frozen=True, slots=True)
class _Baseline:
    """State when the last scan ended: devices known and present, and the count of moves up to then."""

    known: frozenset[Mac] = frozenset()
    present: frozenset[Mac] = frozenset()
    moved: int = 0


class ScanService:
    """`start`, `cancel`, `get` and `history` are for operators; `run` scans periodically."""

    def __init__(
        self, *, interval_s: float, scanner: Scanner, registry: DeviceRegistry, clock: Clock, database: Database
    ) -> None:
        self.interval_s = interval_s
        self._scanner = scanner
        self._registry = registry
        self._clock = clock
        self._database = database
        self._running: _Run | None = None
        self._last: _Run | None = None
        self._baseline = _Baseline()
        self._pending: PendingWrites[_Ended] = PendingWrites(MAX_PENDING, rank=lambda ended: ended.is_notable)
        self._starting = asyncio.Lock()

    @property
    def current(self) -> Scan | None:
        """The running scan, with its progress; None if no scan is running."""
        return _with_progress(self._running) if self._running else None

    @property
    def last(self) -> Scan | None:
        """The scan that ended last; None before the first."""
        return self._last.scan if self._last else None

    async def load(self) -> None:
        """Mark scans that were running when the daemon stopped as interrupted, and restored devices as known."""
        await self._database.write(scans.interrupt)
        self._baseline = self._baseline_now()

    async def start(self, actor: Actor) -> Scan:
        """Start a scan, or join the running one; NetworkError if the network cannot be scanned."""
        async with self._starting:
            if joined := self._running:
                await self._record(joined, actor, outcome="joined")
                return _with_progress(joined)
            await self._scanner.refresh_link()
            run = self._begin(requested_by=actor.key_name if actor.key_name != "-" else "operator")
            started = ScanStarted(id=run.scan.id, by=run.scan.requested_by)
            try:
                await self._record(run, actor, event=started)
            except BaseException:
                self._running = None
                run.ended.set()
                raise
            if not run.ended.is_set():  # ended already if the daemon stopped while the scan was stored
                run.task = asyncio.create_task(self._execute(run), name="scan")
            return _with_progress(run)

    async def cancel(self, scan_id: str, actor: Actor) -> Scan:
        """Cancel a scan; devices already found remain in the list. No effect on an ended scan."""
        run, outcome = self._running, "had ended"
        if run and run.scan.id == scan_id and run.task:
            await self._cancel(run)
            outcome = "ok"
        scan = await self.get(scan_id)
        await self._database.write(lambda tx: audit_log.record(tx, actor, target=scan_id, outcome=outcome))
        return scan

    async def get(self, scan_id: str) -> Scan:
        """A running or ended scan; NotFoundError if the id is unknown."""
        for run in (self._running, self._last):
            if run and run.scan.id == scan_id:
                return _with_progress(run)
        pending = next((ended.scan for ended in self._pending if ended.scan.id == scan_id), None)
        found = pending or await scans.load(self._database, scan_id)
        if found is None:
            raise NotFoundError(f"scan {scan_id!r} not found")
        return found

    async def history(self, *, limit: int, offset: int) -> ScanPage:
        """Ended scans, newest first."""
        await self._store_pending()
        return await scans.page(self._database, limit=limit, offset=offset)

    async def run(self, beat: Beat) -> None:
        """Scan every `interval_s` until cancelled."""
        started_at = float("-inf")
        try:
            while True:
                beat()
                if not self._scanner.off and self._clock.monotonic() >= started_at + self.interval_s:
                    async with self._starting:
                        if self._running is None and self._scanner.engine:
                            self._start_periodic_scan()
                            started_at = self._clock.monotonic()
                await self._clock.sleep(self._pause_s(started_at))
        finally:
            if run := self._running:
                await self._cancel(run)
            await self._store_pending()

    def _pause_s(self, started_at: float) -> float:
        """Seconds until the next scan; at most BEAT_S, because the interval can be changed."""
        if self._scanner.off:
            return BEAT_S
        left_s = started_at + self.interval_s - self._clock.monotonic()
        return min(BEAT_S, max(0.05, left_s)) if self._scanner.engine else RETRY_S

    def _start_periodic_scan(self) -> None:
        run = self._begin(requested_by=PERIODIC)
        run.task = asyncio.create_task(self._execute(run), name="scan")

    def _begin(self, *, requested_by: str) -> _Run:
        engine, network = self._scanner.engine, self._scanner.network
        if engine is None or network is None or self._scanner.link is None:
            raise NetworkError(
                f"the camera network cannot be scanned: {self._scanner.unavailable_reason}", retry_after_s=RETRY_S
            )
        scan = Scan(
            id=str(uuid.uuid4()),
            requested_by=requested_by,
            engine=engine,
            interface=self._scanner.link.name,
            subnet=str(network),
            started_at=self._clock.wall(),
        )
        self._running = _Run(scan, self._clock.stamp())
        return self._running

    async def _record(self, run: _Run, actor: Actor, *, outcome: str = "ok", event: Event | None = None) -> None:
        """Store a running scan and audit its request; pending scans first, so that rows are in the order of scans."""
        with self._pending.taken() as pending:

            async def job(tx: Tx) -> None:
                await _save_ended(tx, pending)
                await scans.save(tx, run.scan, started=run.started)
                await audit_log.record(tx, actor, target=run.scan.id, outcome=outcome)
                if event:
                    await event_store.append(tx, event)

            await self._database.write(job)

    async def _cancel(self, run: _Run) -> None:
        """Cancel a running scan and wait for its end."""
        if run.task:
            run.task.cancel()
            await asyncio.wait([run.task])
        if not run.ended.is_set():  # cancelled before its first step
            self._end(run, ScanState.CANCELLED, "cancelled")
            await self._store_pending()

    async def _execute(self, run: _Run) -> None:
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
        except Exception as error:  # a failed scan must not end the worker: the next one may succeed
            state, message = ScanState.FAILED, "internal error; see the log"
            log.error("scan failed unexpectedly", exc_info=error)
        is_notable = self._end(run, state, message)
        if is_notable or len(self._pending) >= MAX_UNCHANGED_PENDING:
            await self._store_pending()

    def _end(self, run: _Run, state: ScanState, message: str | None) -> bool:
        """Record the result of a scan and queue it for storage; returns whether it is notable."""
        before, baseline = self._baseline, self._baseline_now()
        found = self._registry.proven_since(run.started.monotonic)
        scan = run.scan = replace(
            run.scan,
            state=state,
            message=message,
            found=len(found),
            new=len(found - before.known),
            moved=baseline.moved - before.moved,
            gone=len(before.present - baseline.present),
            duration_ms=round((self._clock.monotonic() - run.started.monotonic) * 1000),
        )
        self._baseline = baseline
        self._running, self._last = None, run
        is_changed = state is not ScanState.DONE or scan.new or scan.moved or scan.gone
        is_notable = bool(is_changed) or scan.requested_by != PERIODIC
        self._pending.add(_Ended(scan, run.started, is_notable))
        run.ended.set()
        if is_notable:
            log.info("scan ended", state=state, found=scan.found, new=scan.new, moved=scan.moved, gone=scan.gone)
        return is_notable

    def _baseline_now(self) -> _Baseline:
        devices = list(self._registry)
        return _Baseline(
            # A device with a lease only has not been found yet. One without evidence is a restored camera.
            known=frozenset(device.mac for device in devices if device.alive_at is not None or not device.evidence),
            present=frozenset(device.mac for device in devices if device.shown in PRESENT_STATES),
            moved=self._registry.counts[Kind.MOVED],
        )

    async def _store_pending(self) -> None:
        if not self._pending:
            return
        try:
            with self._pending.taken() as pending:
                await self._database.write(lambda tx: _save_ended(tx, pending))
        except StorageError as error:
            log.warning("scans not stored yet", reason=error.message, details=error.details)


async def _save_ended(tx: Tx, pending: list[_Ended]) -> None:
    for ended in pending:
        scan = ended.scan
        await scans.save(tx, scan, started=ended.started)
        if ended.is_notable:
            event = ScanEnded(
                id=scan.id, state=scan.state, found=scan.found, new=scan.new, moved=scan.moved, gone=scan.gone
            )
            await event_store.append(tx, event)


def _with_progress(run: _Run) -> Scan:
    is_complete = run.scan.state is ScanState.DONE
    return replace(run.scan, progress=100 if is_complete else min(99, round(100 * run.progress)))
