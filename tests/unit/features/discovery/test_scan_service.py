"""Scans: one at a time, with id, progress, result and history.

An unchanged scan (periodic, and nothing is new, moved or gone) is stored later, with others in one commit.
"""

import asyncio
import json
import sqlite3
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from ipaddress import IPv4Interface, IPv4Network

import pytest

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.errors import NetworkError, NotFoundError, StorageError
from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.features.devices.model import Presence, Windows
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.discovery.model import ScanState
from pi_orchestrator.features.discovery.scan_service import MAX_PENDING, MAX_UNCHANGED_PENDING, PERIODIC, ScanService
from pi_orchestrator.net.kernel.links import Link
from tests.support.clock import settle
from tests.support.waiting import HANG_S, eventually
from tests.unit.features.devices.test_registry import CAMERA, A, B, C, ip, status

ACTOR = Actor(key_name="dashboard", peer="192.168.1.20", correlation_id="c-1", action="scan.start")
INTERVAL_S = 60.0
FAILING_WRITES = "CREATE TRIGGER broken BEFORE {} ON scans BEGIN SELECT RAISE(ABORT, 'the card is broken'); END"
COLUMNS = "id, requested_by, state, found, new, moved, gone, message, duration_ms"


class Scanner:
    """A scanner whose sweeps run `script` and wait while `gate` is closed."""

    def __init__(self, clock, registry):
        self._clock, self.registry = clock, registry
        self.off = False
        self.engine, self.network = "arp", IPv4Network("192.168.10.0/24")
        self.link = Link("wlan0", 3, None, True, True, (IPv4Interface("192.168.10.1/24"),))
        self.reason = ""
        self.on_refresh = None
        self.sweeps = 0
        self.script = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.progress = None

    async def refresh_link(self):
        if self.on_refresh:
            self.on_refresh()

    async def sweep(self, progress):
        self.sweeps += 1
        self.progress = progress
        for step in self.script:
            step()
        await self.gate.wait()

    def find(self, mac, address, source=Source.ARP, *, ago=0.0):
        now = self._clock.monotonic()
        self.registry.add_sighting(Sighting(mac, source, now - ago, address, binds=True), now)

    def set_found(self, *found):
        """Let every sweep find these (MAC, address) from now on."""
        self.script = [lambda mac=mac, address=address: self.find(mac, address) for mac, address in found]


class Site:
    """A scan service with its registry, its database and a fake scanner."""

    def __init__(self, clock, bus, database):
        self.clock, self.bus, self.database = clock, bus, database
        self.registry = DeviceRegistry(registered={CAMERA}, max_devices=500, windows=Windows(120, 600, INTERVAL_S))
        self.scanner = Scanner(clock, self.registry)
        self.worker = self.new_worker()
        self.events = []
        self.beats = 0

    def new_worker(self):
        return ScanService(
            interval_s=INTERVAL_S,
            scanner=self.scanner,
            registry=self.registry,
            clock=self.clock,
            database=self.database,
        )

    async def scan(self, actor=ACTOR):
        """Run a requested scan to its end."""
        started = await self.worker.start(actor)
        return await self.wait_for_end(started.id)

    async def wait_for_end(self, scan_id):
        """Wait for the end of a scan; returns the stored scan."""
        await eventually(lambda: self.worker.current is None or self.worker.current.id != scan_id)
        await self.wait_until_stored()
        return await self.worker.get(scan_id)

    async def wait_until_stored(self):
        """Wait until pending writes are in the database."""
        await settle()
        await self.database.ping()
        await settle()

    async def next_period(self):
        """Advance the clock to the next periodic scan; the scan ends if the gate is open."""
        sweeps = self.scanner.sweeps
        await self.clock.advance(INTERVAL_S)
        assert self.scanner.sweeps == sweeps + 1
        await self.wait_until_stored()

    @asynccontextmanager
    async def running(self):
        """Run periodic scans; the first one has started."""
        task = asyncio.create_task(self.worker.run(self._beat))
        await settle()
        await self.wait_until_stored()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.wait_until_stored()

    def _beat(self):
        self.beats += 1

    def on_disk(self, sql=f"SELECT {COLUMNS} FROM scans ORDER BY rowid"):
        with closing(sqlite3.connect(self.database.path)) as other:
            return other.execute(sql).fetchall()

    def states_on_disk(self):
        return [state for (state,) in self.on_disk("SELECT state FROM scans ORDER BY rowid")]

    def published(self, *types):
        rows = self.on_disk("SELECT type, payload FROM events ORDER BY id")
        return [(kind, json.loads(payload)) for kind, payload in rows if not types or kind in types]

    def actions(self):
        return self.on_disk("SELECT actor, action, target, outcome FROM operator_actions ORDER BY id")

    def fail_scan_writes(self, what="INSERT"):
        with closing(sqlite3.connect(self.database.path, isolation_level=None)) as other:
            other.execute(FAILING_WRITES.format(what))

    def restore_scan_writes(self):
        with closing(sqlite3.connect(self.database.path, isolation_level=None)) as other:
            other.execute("DROP TRIGGER broken")


@pytest.fixture
async def site(clock, bus, database):
    return Site(clock, bus, database)


# Requested scans.


async def test_requested_scan_is_stored_and_published(site):
    site.scanner.gate.clear()
    scan = await site.worker.start(ACTOR)
    assert (scan.state, scan.progress, scan.requested_by) == (ScanState.RUNNING, 0, "dashboard")
    assert (scan.engine, scan.interface, scan.subnet) == ("arp", "wlan0", "192.168.10.0/24")
    assert scan.started_at == site.clock.wall()
    assert site.on_disk() == [(scan.id, "dashboard", "running", 0, 0, 0, 0, None, None)]
    assert site.published() == [("scan.started", {"id": scan.id, "by": "dashboard"})]
    assert site.actions() == [("dashboard", "scan.start", scan.id, "ok")]
    site.scanner.gate.set()
    await site.wait_for_end(scan.id)


async def test_scan_result_is_stored_immediately(site):
    site.scanner.set_found((A, ip(5)), (B, ip(6)))
    with site.bus.subscribe(StoredEvent) as published:
        scan = await site.scan()
        assert (scan.state, scan.progress, scan.found, scan.new) == (ScanState.DONE, 100, 2, 2)
        assert site.on_disk() == [(scan.id, "dashboard", "done", 2, 2, 0, 0, None, 0)]
        ended = {"id": scan.id, "state": "done", "found": 2, "new": 2, "moved": 0, "gone": 0}
        assert site.published("scan.ended") == [("scan.ended", ended)]
        published.close()
        assert [event.type async for event in published] == ["scan.started", "scan.ended"]


async def test_scan_without_key_is_by_operator(site):
    scan = await site.scan(Actor(key_name="-", peer="-", correlation_id="-", action="scan.start"))
    assert scan.requested_by == "operator"


async def test_second_request_joins_and_is_audited(site):
    site.scanner.gate.clear()
    first = await site.worker.start(ACTOR)
    second = await site.worker.start(Actor(key_name="other", peer="-", correlation_id="-", action="scan.start"))
    assert (second.id, second.requested_by) == (first.id, "dashboard")
    site.scanner.gate.set()
    await site.wait_for_end(first.id)
    assert site.scanner.sweeps == 1
    assert [(actor, target) for actor, _, target, _ in site.actions()] == [("dashboard", first.id), ("other", first.id)]


async def test_concurrent_requests_are_one_scan(site):
    site.scanner.gate.clear()
    scans = await asyncio.gather(*(site.worker.start(ACTOR) for _ in range(20)))
    assert len({scan.id for scan in scans}) == 1
    site.scanner.gate.set()
    await site.wait_for_end(scans[0].id)
    assert site.scanner.sweeps == 1
    assert len(site.on_disk()) == 1


async def test_request_after_end_is_new_scan(site):
    assert (await site.scan()).id != (await site.scan()).id


async def test_progress_rises_to_100_only_when_done(site):
    site.scanner.gate.clear()
    scan = await site.worker.start(ACTOR)
    await settle()
    seen = []
    for share in (0.0, 0.333, 0.5, 0.999, 1.0):
        site.scanner.progress(share)
        seen.append((site.worker.current.progress, (await site.worker.get(scan.id)).progress))
    assert seen == [(0, 0), (33, 33), (50, 50), (99, 99), (99, 99)]
    site.scanner.gate.set()
    assert (await site.wait_for_end(scan.id)).progress == 100
    assert site.worker.current is None
    assert site.worker.last.id == scan.id


async def test_duration_uses_monotonic_clock(site):
    site.scanner.gate.clear()
    scan = await site.worker.start(ACTOR)
    await settle()
    await site.clock.advance(1.5)
    site.clock.jump_wall(timedelta(days=365_000))
    site.scanner.gate.set()
    assert (await site.wait_for_end(scan.id)).duration_ms == 1500


# Cancel.


async def test_cancelled_scan_keeps_found_devices(site):
    site.scanner.set_found((A, ip(5)))
    site.scanner.gate.clear()
    started = await site.worker.start(ACTOR)
    await settle()
    site.scanner.progress(0.4)
    scan = await site.worker.cancel(started.id, ACTOR)
    assert (scan.id, scan.state, scan.progress) == (started.id, ScanState.CANCELLED, 40)
    assert (scan.found, scan.new, scan.message) == (1, 1, "cancelled")
    assert site.registry.get(A).shown is Presence.ONLINE
    await site.wait_until_stored()
    assert site.on_disk() == [(scan.id, "dashboard", "cancelled", 1, 1, 0, 0, "cancelled", 0)]
    assert [payload["state"] for _, payload in site.published("scan.ended")] == ["cancelled"]
    assert len(site.actions()) == 2
    assert site.worker.current is None


async def test_scan_cancelled_before_first_step_ends(site):
    started = await site.worker.start(ACTOR)
    async with asyncio.timeout(HANG_S):
        scan = await site.worker.cancel(started.id, ACTOR)
    assert scan.state is ScanState.CANCELLED
    assert (await site.scan()).state is ScanState.DONE


async def test_concurrent_cancels_are_one_cancel(site):
    site.scanner.gate.clear()
    started = await site.worker.start(ACTOR)
    await settle()
    both = await asyncio.gather(*(site.worker.cancel(started.id, ACTOR) for _ in range(2)))
    assert [scan.state for scan in both] == [ScanState.CANCELLED] * 2
    await site.wait_until_stored()
    assert len(site.published("scan.ended")) == 1


async def test_cancel_of_ended_scan_changes_nothing(site):
    scan = await site.scan()
    assert (await site.worker.cancel(scan.id, ACTOR)).state is ScanState.DONE
    assert site.states_on_disk() == ["done"]


async def test_cancel_leaves_other_scan_running(site):
    old = await site.scan()
    site.scanner.gate.clear()
    started = await site.worker.start(ACTOR)
    await settle()
    assert (await site.worker.cancel(old.id, ACTOR)).state is ScanState.DONE
    assert site.worker.current.id == started.id
    with pytest.raises(NotFoundError):
        await site.worker.cancel("nothing", ACTOR)
    assert site.worker.current.id == started.id
    site.scanner.gate.set()
    assert (await site.wait_for_end(started.id)).state is ScanState.DONE


async def test_cancelled_periodic_scan_is_repeated_on_time(site):
    site.scanner.gate.clear()
    async with site.running():
        scan = await site.worker.cancel(site.worker.current.id, ACTOR)
        assert (scan.requested_by, scan.state) == (PERIODIC, ScanState.CANCELLED)
        await site.wait_until_stored()
        assert site.states_on_disk() == ["cancelled"]
        site.scanner.gate.set()
        await site.next_period()
        assert site.worker.last.state is ScanState.DONE


# Failures.


async def test_scan_that_loses_network_fails_with_reason(site):
    def lose_network():
        raise NetworkError("wlan0 failed during the scan: Network is down")

    site.scanner.set_found((A, ip(5)))
    site.scanner.script.append(lose_network)
    scan = await site.scan()
    assert (scan.state, scan.message) == (ScanState.FAILED, "wlan0 failed during the scan: Network is down")
    assert scan.found == 1
    assert site.states_on_disk() == ["failed"]
    site.scanner.script = []
    assert (await site.scan()).state is ScanState.DONE


async def test_unexpected_error_ends_only_its_scan(site):
    def fail():
        raise ZeroDivisionError("secret detail")

    site.scanner.script = [fail]
    async with site.running():
        assert site.worker.last.state is ScanState.FAILED
        assert "secret" not in site.worker.last.message
        scan = await site.scan()
        assert scan.state is ScanState.FAILED
        site.scanner.script = []
        await site.next_period()
        assert site.worker.last.state is ScanState.DONE


async def test_request_without_engine_fails_with_reason(site):
    site.scanner.engine, site.scanner.unavailable_reason = None, "wlan0 is down; waiting for it"
    with pytest.raises(NetworkError, match="the camera network cannot be scanned: wlan0 is down") as caught:
        await site.worker.start(ACTOR)
    assert caught.value.retry_after_s
    assert site.worker.current is None
    assert (site.on_disk(), site.published(), site.actions()) == ([], [], [])


async def test_request_checks_interface_first(site):
    site.scanner.engine = None
    site.scanner.on_refresh = lambda: setattr(site.scanner, "engine", "neighbour")
    assert (await site.scan()).engine == "neighbour"


async def test_unknown_scan_is_not_found(site):
    with pytest.raises(NotFoundError, match="scan 'nothing' not found"):
        await site.worker.get("nothing")


# Counts.


async def scan_counts(site):
    scan = await site.scan()
    return scan.found, scan.new, scan.moved, scan.gone


async def test_found_and_new_are_counted(site):
    site.scanner.set_found((A, ip(5)), (B, ip(6)))
    assert await scan_counts(site) == (2, 2, 0, 0)
    await site.clock.advance(60)
    site.scanner.set_found((A, ip(5)), (B, ip(6)), (C, ip(7)))
    assert await scan_counts(site) == (3, 1, 0, 0)


async def test_silent_known_device_is_not_found(site):
    site.registry.apply_live_status(A, status(A), site.clock.monotonic())
    site.scanner.find(B, ip(6))
    await site.clock.advance(1)
    site.scanner.set_found((C, ip(7)))
    assert (await scan_counts(site))[0] == 1


async def test_moves_are_counted(site):
    site.scanner.set_found((A, ip(5)), (B, ip(6)))
    await scan_counts(site)
    await site.clock.advance(60)
    site.scanner.set_found((A, ip(8)), (B, ip(6)))
    site.scanner.script.append(lambda: site.registry.resolve_probe(ip(5), frozenset(), site.clock.monotonic()))
    assert await scan_counts(site) == (2, 0, 1, 0)


async def test_gone_device_is_counted_once(site):
    site.scanner.set_found((A, ip(5)), (B, ip(6)))
    await scan_counts(site)
    site.scanner.set_found((A, ip(5)))
    gone_counts = []
    for _ in range(12):
        await site.clock.advance(60)
        site.registry.expire(site.clock.monotonic())
        gone_counts.append((await scan_counts(site))[3])
    assert gone_counts == [0] * 9 + [1] + [0] * 2, "600 s after its last answer"


async def test_device_confirmed_by_kernel_is_found(site):
    site.scanner.script = [lambda: site.scanner.find(A, ip(5), Source.NEIGHBOUR, ago=8.0)]
    assert (await scan_counts(site))[0] == 1


async def test_returned_device_is_not_new(site):
    site.scanner.set_found((A, ip(5)))
    await scan_counts(site)
    await site.clock.advance(700)
    site.registry.expire(site.clock.monotonic())
    site.scanner.set_found()
    assert await scan_counts(site) == (0, 0, 0, 1)
    await site.clock.advance(60)
    site.scanner.set_found((A, ip(5)))
    assert await scan_counts(site) == (1, 0, 0, 0)


@pytest.mark.parametrize("was_seen", [False, True])
async def test_restored_camera_is_not_new(site, was_seen):
    now = site.clock.monotonic()
    site.registry.restore(CAMERA, Presence.ONLINE, alive_at=now - 10 if was_seen else None, now=now)
    await site.worker.load()
    site.scanner.set_found((CAMERA, ip(5)), (A, ip(6)))
    assert await scan_counts(site) == (2, 1, 0, 0)


async def test_device_known_by_lease_is_new_at_first_answer(site):
    now = site.clock.monotonic()
    site.registry.add_sighting(Sighting(A, Source.LEASE, now, ip(5), alive=False), now)
    assert await scan_counts(site) == (0, 0, 0, 0)
    await site.clock.advance(5)
    site.scanner.set_found((A, ip(5)))
    assert await scan_counts(site) == (1, 1, 0, 0)


async def test_change_between_scans_counts_for_second(site):
    site.scanner.set_found((A, ip(5)))
    await scan_counts(site)
    await site.clock.advance(20)
    site.scanner.find(A, ip(8))
    site.registry.resolve_probe(ip(5), frozenset(), site.clock.monotonic())
    site.scanner.find(B, ip(6))
    await site.clock.advance(20)
    site.scanner.set_found((A, ip(8)), (B, ip(6)))
    assert await scan_counts(site) == (2, 1, 1, 0)


# Periodic scans.


async def test_network_is_scanned_each_interval(site):
    async with site.running():
        assert site.scanner.sweeps == 1
        for _ in range(5):
            await site.next_period()
        assert site.worker.last.requested_by == PERIODIC
        assert site.beats >= 25, "it beats between scans"


async def test_disabled_scanner_runs_no_periodic_scans(site):
    site.scanner.off, site.scanner.engine = True, None
    async with site.running():
        await site.clock.advance(600)
    assert site.scanner.sweeps == 0


async def test_periodic_scan_waits_for_engine(site):
    site.scanner.engine = None
    async with site.running():
        await site.clock.advance(100)
        assert (site.scanner.sweeps, site.on_disk()) == (0, [])
        site.scanner.engine = "arp"
        await site.clock.advance(2)
        assert site.scanner.sweeps == 1


async def test_request_joins_periodic_scan(site):
    site.scanner.gate.clear()
    async with site.running():
        scan = await site.worker.start(ACTOR)
        assert (scan.requested_by, site.scanner.sweeps) == (PERIODIC, 1)
        site.scanner.gate.set()
        await site.wait_for_end(scan.id)


async def test_periodic_scan_waits_for_requested_scan(site):
    async with site.running():
        await site.clock.advance(INTERVAL_S - 1)
        site.scanner.gate.clear()
        scan = await site.worker.start(ACTOR)
        await site.clock.advance(30)
        assert (site.scanner.sweeps, site.worker.current.id) == (2, scan.id)
        site.scanner.gate.set()
        await site.wait_for_end(scan.id)
        await site.clock.advance(1)
        assert site.scanner.sweeps == 3


async def test_unchanged_periodic_scans_are_stored_in_groups(site):
    site.scanner.set_found((A, ip(5)))
    async with site.running():
        assert len(site.on_disk()) == 1, "the first scan found a new device"
        before = site.database.commits
        for count in range(1, MAX_UNCHANGED_PENDING):
            await site.next_period()
            assert len(site.on_disk()) == 1, count
        pings = MAX_UNCHANGED_PENDING - 1  # `wait_until_stored` pings once per period
        await site.next_period()
        assert len(site.on_disk()) == 1 + MAX_UNCHANGED_PENDING
        assert site.database.commits - before <= pings + 2
        assert len(site.published("scan.ended")) == 1


async def test_scan_with_changes_is_stored_with_unchanged_ones(site):
    async with site.running():
        for _ in range(3):
            await site.next_period()
        assert site.on_disk() == []
        site.scanner.set_found((A, ip(5)))
        await site.next_period()
        assert [row[4] for row in site.on_disk()] == [0, 0, 0, 0, 1]
        assert [payload["new"] for _, payload in site.published("scan.ended")] == [1]


async def test_unchanged_scan_is_readable_before_stored(site):
    async with site.running():
        first = site.worker.last.id
        await site.next_period()
        assert site.on_disk() == []
        assert (await site.worker.get(first)).state is ScanState.DONE


async def test_stop_ends_scan_and_stores_all(site):
    async with site.running():
        await site.next_period()
        site.scanner.gate.clear()
        await site.next_period()
    assert site.states_on_disk() == ["done", "done", "cancelled"]
    assert site.worker.current is None


async def test_stop_between_scans_stores_unchanged_ones(site):
    async with site.running():
        await site.next_period()
        assert site.on_disk() == []
    assert site.states_on_disk() == ["done", "done"]


# History.


async def test_history_is_paged_without_running_scan(site):
    ids = [(await site.scan()).id for _ in range(5)]
    site.scanner.gate.clear()
    running = await site.worker.start(ACTOR)
    page = await site.worker.history(limit=2, offset=0)
    assert ([scan.id for scan in page.scans], page.total) == ([ids[4], ids[3]], 5)
    page = await site.worker.history(limit=2, offset=4)
    assert ([scan.id for scan in page.scans], page.total) == ([ids[0]], 5)
    assert (await site.worker.history(limit=2, offset=5)).scans == []
    site.scanner.gate.set()
    await site.wait_for_end(running.id)


async def test_history_includes_unchanged_scans(site):
    async with site.running():
        await site.next_period()
        page = await site.worker.history(limit=10, offset=0)
        assert [scan.requested_by for scan in page.scans] == [PERIODIC, PERIODIC]
        assert len(site.on_disk()) == 2
        await site.worker.history(limit=10, offset=0)
        assert len(site.on_disk()) == 2


async def test_history_is_in_scan_order(site):
    async with site.running():
        await site.next_period()
        await site.clock.advance(5)
        requested = await site.scan()
        await site.clock.advance(INTERVAL_S)
        await site.wait_until_stored()
        page = await site.worker.history(limit=10, offset=0)
        times = [scan.started_at for scan in page.scans]
        assert times == sorted(times, reverse=True)
        assert len(times) == 4
        assert [scan.id for scan in page.scans].index(requested.id) == 1


async def test_stored_scan_is_read_unchanged(site):
    site.scanner.set_found((A, ip(5)))
    scan = await site.scan()
    again = site.new_worker()
    assert await again.get(scan.id) == scan
    assert (await again.history(limit=1, offset=0)).scans == [scan]


async def test_interrupted_scan_is_marked_at_next_start(site):
    done = await site.scan()
    site.scanner.gate.clear()
    interrupted = await site.worker.start(ACTOR)
    restarted = site.new_worker()
    await restarted.load()
    scan = await restarted.get(interrupted.id)
    assert (scan.state, scan.progress) == (ScanState.INTERRUPTED, 0)
    assert [entry.id for entry in (await restarted.history(limit=10, offset=0)).scans] == [interrupted.id, done.id]
    assert (await restarted.get(done.id)).state is ScanState.DONE
    site.scanner.gate.set()
    await site.wait_for_end(interrupted.id)


# Failed writes.


async def test_scan_that_cannot_be_stored_does_not_start(site):
    site.fail_scan_writes()
    with pytest.raises(StorageError):
        await site.worker.start(ACTOR)
    assert (site.worker.current, site.scanner.sweeps) == (None, 0)
    assert (site.published(), site.actions()) == ([], [])
    site.restore_scan_writes()
    assert (await site.scan()).state is ScanState.DONE


async def test_unchanged_scans_are_kept_if_next_scan_cannot_be_stored(site):
    async with site.running():
        await site.next_period()
        site.fail_scan_writes()
        with pytest.raises(StorageError):
            await site.worker.start(ACTOR)
        site.restore_scan_writes()
        assert (await site.worker.history(limit=10, offset=0)).total == 2


async def test_unstored_result_is_readable_and_stored_later(site):
    site.scanner.set_found((A, ip(5)))
    site.fail_scan_writes("UPDATE")
    scan = await site.scan()
    assert (scan.state, scan.found) == (ScanState.DONE, 1)
    assert site.states_on_disk() == ["running"]
    assert (await site.worker.history(limit=10, offset=0)).total == 0
    site.restore_scan_writes()
    page = await site.worker.history(limit=10, offset=0)
    assert page.scans == [scan]


async def test_unstored_scan_end_is_published_later(site):
    site.fail_scan_writes("UPDATE")
    scan = await site.scan()
    site.restore_scan_writes()
    await site.worker.history(limit=10, offset=0)
    assert [payload["id"] for _, payload in site.published("scan.ended")] == [scan.id]


async def test_periodic_scans_continue_without_storage(site):
    site.fail_scan_writes()
    async with site.running():
        for _ in range(3 * MAX_UNCHANGED_PENDING):
            await site.next_period()
        assert len(site.worker._pending) <= MAX_PENDING
        site.restore_scan_writes()
        page = await site.worker.history(limit=100, offset=0)
        assert page.total == len(page.scans)
        assert page.total >= MAX_UNCHANGED_PENDING - 1
        assert page.scans[0].id == site.worker.last.id, "the newest scans are kept"


async def test_requested_scan_is_kept_longer_than_unchanged_ones_while_storage_fails(site):
    site.worker._pending.limit = MAX_UNCHANGED_PENDING
    scan = await site.worker.start(ACTOR)
    site.fail_scan_writes("UPDATE")
    await site.wait_for_end(scan.id)
    site.restore_scan_writes()
    site.fail_scan_writes("INSERT")
    async with site.running():
        for _ in range(MAX_UNCHANGED_PENDING + 2):
            await site.next_period()
        site.restore_scan_writes()
        await site.worker.history(limit=1, offset=0)
        assert (await site.worker.get(scan.id)).state is ScanState.DONE
