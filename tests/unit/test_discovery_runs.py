"""Discovery runs: one at a time, each with an id, progress, an outcome that is counted, and a place in history."""

import asyncio
import json
import sqlite3
from contextlib import asynccontextmanager, closing
from ipaddress import IPv4Interface, IPv4Network

import pytest

from pi_orchestrator.domain.presence import Presence, Windows
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.scan import ScanState
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.errors import NetworkError, NotFoundError, StorageError
from pi_orchestrator.events import Logged
from pi_orchestrator.net.links import Link
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.workers import discovery
from pi_orchestrator.workers.discovery import PENDING_KEPT, PERIODIC, QUIET_KEPT, DiscoveryWorker
from tests.support.clock import settle
from tests.support.waiting import eventually
from tests.unit.test_registry import CAMERA, A, B, C, ip, status

ACTOR = Actor(key_name="dashboard", peer="192.168.1.20", correlation_id="c-1", action="scan.start")
INTERVAL_S = 60.0
NO_MORE_SCANS = "CREATE TRIGGER broken BEFORE {} ON scans BEGIN SELECT RAISE(ABORT, 'the card is broken'); END"
COLUMNS = "id, requested_by, state, found, new, moved, gone, message, duration_ms"


class Scanner:
    """What the runs need of the scanner: sweeps do what `script` says, as long as `gate` is closed they wait."""

    def __init__(self, clock, registry):
        self._clock, self.registry = clock, registry
        self.off = False
        self.engine, self.network = "arp", IPv4Network("192.168.10.0/24")
        self.link = Link("wlan0", 3, None, True, True, (IPv4Interface("192.168.10.1/24"),))
        self.reason = ""
        self.on_look = None
        self.sweeps = 0
        self.script = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.progress = None

    async def look(self):
        if self.on_look:
            self.on_look()

    async def sweep(self, progress):
        self.sweeps += 1
        self.progress = progress
        for step in self.script:
            step()
        await self.gate.wait()

    def find(self, mac, address, source=Source.ARP, *, ago=0.0):
        now = self._clock.monotonic()
        self.registry.sight(Sighting(mac, source, now - ago, address, binds=True), now)

    def finds(self, *found):
        """From now on, a sweep sees these (MAC, address)."""
        self.script = [lambda mac=mac, address=address: self.find(mac, address) for mac, address in found]


class Site:
    def __init__(self, clock, hub, database):
        self.clock, self.hub, self.database = clock, hub, database
        self.registry = Registry(registered={CAMERA}, max_devices=500, windows=Windows(120, 600, INTERVAL_S))
        self.scanner = Scanner(clock, self.registry)
        self.worker = self.new_worker()
        self.events = []
        self.beats = 0

    def new_worker(self):
        return DiscoveryWorker(
            interval_s=INTERVAL_S,
            scanner=self.scanner,
            registry=self.registry,
            clock=self.clock,
            database=self.database,
        )

    async def scan(self, actor=ACTOR):
        """A run on demand, from start to end."""
        started = await self.worker.start(actor)
        return await self.ended(started.id)

    async def ended(self, scan_id):
        await eventually(lambda: self.worker.current is None or self.worker.current.id != scan_id)
        await self.stored()
        return await self.worker.get(scan_id)

    async def stored(self):
        """Let what is on its way to the database get there."""
        await settle()
        await self.database.ping()
        await settle()

    async def next_period(self):
        """A periodic run begins, and ends if the gate is open."""
        sweeps = self.scanner.sweeps
        await self.clock.advance(INTERVAL_S)
        assert self.scanner.sweeps == sweeps + 1
        await self.stored()

    @asynccontextmanager
    async def running(self):
        """The periodic runs; the first one has begun."""
        task = asyncio.create_task(self.worker.run(self._beat))
        await settle()
        await self.stored()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.stored()

    def _beat(self):
        self.beats += 1

    def on_disk(self, sql=f"SELECT {COLUMNS} FROM scans ORDER BY rowid"):
        with closing(sqlite3.connect(self.database.path)) as other:
            return other.execute(sql).fetchall()

    def states_on_disk(self):
        return [state for (state,) in self.on_disk("SELECT state FROM scans ORDER BY rowid")]

    def told(self, *types):
        rows = self.on_disk("SELECT type, payload FROM events ORDER BY id")
        return [(kind, json.loads(payload)) for kind, payload in rows if not types or kind in types]

    def actions(self):
        return self.on_disk("SELECT actor, action, target, outcome FROM operator_actions ORDER BY id")

    def break_scans(self, what="INSERT"):
        with closing(sqlite3.connect(self.database.path, isolation_level=None)) as other:
            other.execute(NO_MORE_SCANS.format(what))

    def mend_scans(self):
        with closing(sqlite3.connect(self.database.path, isolation_level=None)) as other:
            other.execute("DROP TRIGGER broken")


@pytest.fixture
async def site(clock, hub, database):
    return Site(clock, hub, database)


# On demand.


async def test_a_run_on_demand_is_stored_and_told_when_it_is_asked_for(site):
    site.scanner.gate.clear()
    scan = await site.worker.start(ACTOR)
    assert (scan.state, scan.progress, scan.requested_by) == (ScanState.RUNNING, 0, "dashboard")
    assert (scan.engine, scan.interface, scan.subnet) == ("arp", "wlan0", "192.168.10.0/24")
    assert scan.started_at == site.clock.wall()
    assert site.on_disk() == [(scan.id, "dashboard", "running", 0, 0, 0, 0, None, None)]
    assert site.told() == [("scan.started", {"id": scan.id, "by": "dashboard"})]
    assert site.actions() == [("dashboard", "scan.start", scan.id, "ok")]
    site.scanner.gate.set()
    await site.ended(scan.id)


async def test_what_came_of_it_is_stored_and_told_at_once(site):
    site.scanner.finds((A, ip(5)), (B, ip(6)))
    with site.hub.subscribe(lambda event: isinstance(event, Logged)) as heard:
        scan = await site.scan()
        assert (scan.state, scan.progress, scan.found, scan.new) == (ScanState.DONE, 100, 2, 2)
        assert site.on_disk() == [(scan.id, "dashboard", "done", 2, 2, 0, 0, None, 0)]
        ended = {"id": scan.id, "state": "done", "found": 2, "new": 2, "moved": 0, "gone": 0}
        assert site.told("scan.ended") == [("scan.ended", ended)]
        heard.close()
        assert [event.type async for event in heard] == ["scan.started", "scan.ended"]


async def test_a_run_without_a_key_is_the_operators(site):
    scan = await site.scan(Actor(key_name="-", peer="-", correlation_id="-", action="scan.start"))
    assert scan.requested_by == "operator"


async def test_a_second_request_joins_the_run_under_way_and_is_on_record(site):
    site.scanner.gate.clear()
    first = await site.worker.start(ACTOR)
    second = await site.worker.start(Actor(key_name="other", peer="-", correlation_id="-", action="scan.start"))
    assert (second.id, second.requested_by) == (first.id, "dashboard")
    site.scanner.gate.set()
    await site.ended(first.id)
    assert site.scanner.sweeps == 1
    assert [(actor, target) for actor, _, target, _ in site.actions()] == [("dashboard", first.id), ("other", first.id)]


async def test_many_requests_at_once_are_one_run(site):
    site.scanner.gate.clear()
    scans = await asyncio.gather(*(site.worker.start(ACTOR) for _ in range(20)))
    assert len({scan.id for scan in scans}) == 1
    site.scanner.gate.set()
    await site.ended(scans[0].id)
    assert site.scanner.sweeps == 1
    assert len(site.on_disk()) == 1


async def test_after_a_run_has_ended_the_next_is_another(site):
    assert (await site.scan()).id != (await site.scan()).id


async def test_progress_goes_up_and_is_a_hundred_only_when_it_is_done(site):
    site.scanner.gate.clear()
    scan = await site.worker.start(ACTOR)
    await settle()
    seen = []
    for share in (0.0, 0.333, 0.5, 0.999, 1.0):
        site.scanner.progress(share)
        seen.append((site.worker.current.progress, (await site.worker.get(scan.id)).progress))
    assert seen == [(0, 0), (33, 33), (50, 50), (99, 99), (99, 99)]
    site.scanner.gate.set()
    assert (await site.ended(scan.id)).progress == 100
    assert site.worker.current is None
    assert site.worker.last.id == scan.id


async def test_how_long_it_took_is_measured_by_the_monotonic_clock(site):
    site.scanner.gate.clear()
    scan = await site.worker.start(ACTOR)
    await settle()
    await site.clock.advance(1.5)
    site.clock.jump_wall(1000 * (site.clock.wall() - site.clock.wall().replace(year=2025)))
    site.scanner.gate.set()
    assert (await site.ended(scan.id)).duration_ms == 1500


# Cancelled.


async def test_a_cancelled_run_keeps_what_it_has_found(site):
    site.scanner.finds((A, ip(5)))
    site.scanner.gate.clear()
    started = await site.worker.start(ACTOR)
    await settle()
    site.scanner.progress(0.4)
    scan = await site.worker.cancel(started.id, ACTOR)
    assert (scan.id, scan.state, scan.progress) == (started.id, ScanState.CANCELLED, 40)
    assert (scan.found, scan.new, scan.message) == (1, 1, "cancelled")
    assert site.registry.get(A).shown is Presence.ONLINE
    await site.stored()
    assert site.on_disk() == [(scan.id, "dashboard", "cancelled", 1, 1, 0, 0, "cancelled", 0)]
    assert [payload["state"] for _, payload in site.told("scan.ended")] == ["cancelled"]
    assert len(site.actions()) == 2
    assert site.worker.current is None


async def test_a_run_that_is_cancelled_before_its_first_step_ends_like_any_other(site):
    started = await site.worker.start(ACTOR)
    async with asyncio.timeout(2):
        scan = await site.worker.cancel(started.id, ACTOR)
    assert scan.state is ScanState.CANCELLED
    assert (await site.scan()).state is ScanState.DONE


async def test_cancelling_twice_at_once_is_cancelling_once(site):
    site.scanner.gate.clear()
    started = await site.worker.start(ACTOR)
    await settle()
    both = await asyncio.gather(*(site.worker.cancel(started.id, ACTOR) for _ in range(2)))
    assert [scan.state for scan in both] == [ScanState.CANCELLED] * 2
    await site.stored()
    assert len(site.told("scan.ended")) == 1


async def test_a_run_that_has_ended_is_left_as_it_is(site):
    scan = await site.scan()
    assert (await site.worker.cancel(scan.id, ACTOR)).state is ScanState.DONE
    assert site.states_on_disk() == ["done"]


async def test_cancelling_one_run_leaves_another_alone(site):
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
    assert (await site.ended(started.id)).state is ScanState.DONE


async def test_a_periodic_run_can_be_cancelled_and_the_next_one_comes_in_time(site):
    site.scanner.gate.clear()
    async with site.running():
        scan = await site.worker.cancel(site.worker.current.id, ACTOR)
        assert (scan.requested_by, scan.state) == (PERIODIC, ScanState.CANCELLED)
        await site.stored()
        assert site.states_on_disk() == ["cancelled"]
        site.scanner.gate.set()
        await site.next_period()
        assert site.worker.last.state is ScanState.DONE


# Failed.


async def test_a_run_that_loses_the_network_has_failed_and_says_why(site):
    def lose():
        raise NetworkError("wlan0 went away during the scan: Network is down")

    site.scanner.finds((A, ip(5)))
    site.scanner.script.append(lose)
    scan = await site.scan()
    assert (scan.state, scan.message) == (ScanState.FAILED, "wlan0 went away during the scan: Network is down")
    assert scan.found == 1
    assert site.states_on_disk() == ["failed"]
    site.scanner.script = []
    assert (await site.scan()).state is ScanState.DONE


async def test_an_unexpected_fault_ends_its_run_and_nothing_else(site):
    def stumble():
        raise ZeroDivisionError("secret detail")

    site.scanner.script = [stumble]
    async with site.running():
        assert site.worker.last.state is ScanState.FAILED
        assert "secret" not in site.worker.last.message
        scan = await site.scan()
        assert scan.state is ScanState.FAILED
        site.scanner.script = []
        await site.next_period()
        assert site.worker.last.state is ScanState.DONE


async def test_without_an_engine_a_request_is_told_what_is_missing(site):
    site.scanner.engine, site.scanner.reason = None, "wlan0 is down; waiting for it"
    with pytest.raises(NetworkError, match="nobody can be asked: wlan0 is down") as caught:
        await site.worker.start(ACTOR)
    assert caught.value.retry_after_s
    assert site.worker.current is None
    assert (site.on_disk(), site.told(), site.actions()) == ([], [], [])


async def test_a_request_has_the_scanner_look_again_first(site):
    site.scanner.engine = None
    site.scanner.on_look = lambda: setattr(site.scanner, "engine", "neighbour")
    assert (await site.scan()).engine == "neighbour"


async def test_an_unknown_run_is_not_found(site):
    with pytest.raises(NotFoundError, match="no scan 'nothing'"):
        await site.worker.get("nothing")


# What came of it, in numbers.


async def numbers(site):
    scan = await site.scan()
    return scan.found, scan.new, scan.moved, scan.gone


async def test_found_and_new_are_counted(site):
    site.scanner.finds((A, ip(5)), (B, ip(6)))
    assert await numbers(site) == (2, 2, 0, 0)
    await site.clock.advance(60)
    site.scanner.finds((A, ip(5)), (B, ip(6)), (C, ip(7)))
    assert await numbers(site) == (3, 1, 0, 0)


async def test_who_is_known_otherwise_and_did_not_answer_is_not_found(site):
    site.registry.hear(A, status(A), site.clock.monotonic())
    site.scanner.find(B, ip(6))
    await site.clock.advance(1)
    site.scanner.finds((C, ip(7)))
    assert (await numbers(site))[0] == 1


async def test_moves_are_counted(site):
    site.scanner.finds((A, ip(5)), (B, ip(6)))
    await numbers(site)
    await site.clock.advance(60)
    site.scanner.finds((A, ip(8)), (B, ip(6)))
    site.scanner.script.append(lambda: site.registry.verdict(ip(5), frozenset(), site.clock.monotonic()))
    assert await numbers(site) == (2, 0, 1, 0)


async def test_who_was_here_and_is_no_longer_is_gone_once_and_one_miss_is_not_gone(site):
    site.scanner.finds((A, ip(5)), (B, ip(6)))
    await numbers(site)
    site.scanner.finds((A, ip(5)))
    told = []
    for _ in range(12):
        await site.clock.advance(60)
        site.registry.settle(site.clock.monotonic())
        told.append((await numbers(site))[3])
    assert told == [0] * 9 + [1] + [0] * 2, "600 s after its last answer"


async def test_whoever_the_kernel_vouches_for_is_found_though_the_proof_is_some_seconds_old(site):
    site.scanner.script = [lambda: site.scanner.find(A, ip(5), Source.NEIGHBOUR, ago=8.0)]
    assert (await numbers(site))[0] == 1


async def test_who_comes_back_after_it_was_gone_is_not_new(site):
    site.scanner.finds((A, ip(5)))
    await numbers(site)
    await site.clock.advance(700)
    site.registry.settle(site.clock.monotonic())
    site.scanner.finds()
    assert await numbers(site) == (0, 0, 0, 1)
    await site.clock.advance(60)
    site.scanner.finds((A, ip(5)))
    assert await numbers(site) == (1, 0, 0, 0)


@pytest.mark.parametrize("was_here", [False, True])
async def test_a_camera_that_was_known_before_the_restart_is_not_new(site, was_here):
    now = site.clock.monotonic()
    site.registry.restore(CAMERA, Presence.ONLINE, alive_at=now - 10 if was_here else None, now=now)
    await site.worker.load()
    site.scanner.finds((CAMERA, ip(5)), (A, ip(6)))
    assert await numbers(site) == (2, 1, 0, 0)


async def test_a_first_answer_is_new_though_a_lease_was_known_before(site):
    now = site.clock.monotonic()
    site.registry.sight(Sighting(A, Source.LEASE, now, ip(5), alive=False), now)
    assert await numbers(site) == (0, 0, 0, 0)
    await site.clock.advance(5)
    site.scanner.finds((A, ip(5)))
    assert await numbers(site) == (1, 1, 0, 0)


async def test_what_happened_between_two_runs_counts_for_the_second(site):
    site.scanner.finds((A, ip(5)))
    await numbers(site)
    await site.clock.advance(20)
    site.scanner.find(A, ip(8))
    site.registry.verdict(ip(5), frozenset(), site.clock.monotonic())
    site.scanner.find(B, ip(6))
    await site.clock.advance(20)
    site.scanner.finds((A, ip(8)), (B, ip(6)))
    assert await numbers(site) == (2, 1, 1, 0)


# Periodic.


async def test_the_network_is_scanned_each_interval(site):
    async with site.running():
        assert site.scanner.sweeps == 1
        for _ in range(5):
            await site.next_period()
        assert site.worker.last.requested_by == PERIODIC
        assert site.beats >= 25, "it shows that it lives between scans"


async def test_switched_off_there_are_no_periodic_runs(site):
    site.scanner.off, site.scanner.engine = True, None
    async with site.running():
        await site.clock.advance(600)
    assert site.scanner.sweeps == 0


async def test_without_an_engine_it_waits_and_scans_as_soon_as_there_is_one(site):
    site.scanner.engine = None
    async with site.running():
        await site.clock.advance(100)
        assert (site.scanner.sweeps, site.on_disk()) == (0, [])
        site.scanner.engine = "arp"
        await site.clock.advance(2)
        assert site.scanner.sweeps == 1


async def test_a_request_joins_a_periodic_run(site):
    site.scanner.gate.clear()
    async with site.running():
        scan = await site.worker.start(ACTOR)
        assert (scan.requested_by, site.scanner.sweeps) == (PERIODIC, 1)
        site.scanner.gate.set()
        await site.ended(scan.id)


async def test_a_periodic_run_waits_for_one_on_demand_and_comes_after_it(site):
    async with site.running():
        await site.clock.advance(INTERVAL_S - 1)
        site.scanner.gate.clear()
        scan = await site.worker.start(ACTOR)
        await site.clock.advance(30)
        assert (site.scanner.sweeps, site.worker.current.id) == (2, scan.id)
        site.scanner.gate.set()
        await site.ended(scan.id)
        await site.clock.advance(1)
        assert site.scanner.sweeps == 3


async def test_quiet_periodic_runs_cost_the_card_one_write_for_many(site):
    site.scanner.finds((A, ip(5)))
    async with site.running():
        assert len(site.on_disk()) == 1, "in the first one somebody was new"
        before = site.database.commits
        for count in range(1, QUIET_KEPT):
            await site.next_period()
            assert len(site.on_disk()) == 1, count
        pings = QUIET_KEPT - 1
        await site.next_period()
        assert len(site.on_disk()) == 1 + QUIET_KEPT
        assert site.database.commits - before <= pings + 2
        assert len(site.told("scan.ended")) == 1


async def test_an_eventful_periodic_run_is_stored_at_once_with_the_quiet_ones_before_it(site):
    async with site.running():
        for _ in range(3):
            await site.next_period()
        assert site.on_disk() == []
        site.scanner.finds((A, ip(5)))
        await site.next_period()
        assert [row[4] for row in site.on_disk()] == [0, 0, 0, 0, 1]
        assert [payload["new"] for _, payload in site.told("scan.ended")] == [1]


async def test_a_quiet_run_can_be_looked_at_before_it_is_stored(site):
    async with site.running():
        first = site.worker.last.id
        await site.next_period()
        assert site.on_disk() == []
        assert (await site.worker.get(first)).state is ScanState.DONE


async def test_stopping_ends_the_run_under_way_and_stores_everything(site):
    async with site.running():
        await site.next_period()
        site.scanner.gate.clear()
        await site.next_period()
    assert site.states_on_disk() == ["done", "done", "cancelled"]
    assert site.worker.current is None


async def test_stopping_between_two_runs_stores_the_quiet_ones(site):
    async with site.running():
        await site.next_period()
        assert site.on_disk() == []
    assert site.states_on_disk() == ["done", "done"]


# History.


async def test_history_is_newest_first_in_pages_without_the_run_under_way(site):
    ids = [(await site.scan()).id for _ in range(5)]
    site.scanner.gate.clear()
    now = await site.worker.start(ACTOR)
    page = await site.worker.history(limit=2, offset=0)
    assert ([scan.id for scan in page.scans], page.total) == ([ids[4], ids[3]], 5)
    page = await site.worker.history(limit=2, offset=4)
    assert ([scan.id for scan in page.scans], page.total) == ([ids[0]], 5)
    assert (await site.worker.history(limit=2, offset=5)).scans == []
    site.scanner.gate.set()
    await site.ended(now.id)


async def test_history_has_the_quiet_runs_too(site):
    async with site.running():
        await site.next_period()
        page = await site.worker.history(limit=10, offset=0)
        assert [scan.requested_by for scan in page.scans] == [PERIODIC, PERIODIC]
        assert len(site.on_disk()) == 2
        await site.worker.history(limit=10, offset=0)
        assert len(site.on_disk()) == 2


async def test_history_is_in_the_order_in_which_runs_took_place(site):
    async with site.running():
        await site.next_period()
        await site.clock.advance(5)
        demanded = await site.scan()
        await site.clock.advance(INTERVAL_S)
        await site.stored()
        page = await site.worker.history(limit=10, offset=0)
        times = [scan.started_at for scan in page.scans]
        assert times == sorted(times, reverse=True)
        assert len(times) == 4
        assert [scan.id for scan in page.scans].index(demanded.id) == 1


async def test_a_stored_run_reads_as_it_was(site):
    site.scanner.finds((A, ip(5)))
    scan = await site.scan()
    again = site.new_worker()
    assert await again.get(scan.id) == scan
    assert (await again.history(limit=1, offset=0)).scans == [scan]


async def test_a_run_that_the_end_of_the_daemon_cut_off_is_interrupted_at_the_next_start(site):
    done = await site.scan()
    site.scanner.gate.clear()
    cut_off = await site.worker.start(ACTOR)
    again = site.new_worker()
    await again.load()
    scan = await again.get(cut_off.id)
    assert (scan.state, scan.progress) == (ScanState.INTERRUPTED, 0)
    assert [one.id for one in (await again.history(limit=10, offset=0)).scans] == [cut_off.id, done.id]
    assert (await again.get(done.id)).state is ScanState.DONE
    site.scanner.gate.set()
    await site.ended(cut_off.id)


# When nothing can be written.


async def test_a_run_that_cannot_be_recorded_does_not_begin_and_the_next_one_can(site):
    site.break_scans()
    with pytest.raises(StorageError):
        await site.worker.start(ACTOR)
    assert (site.worker.current, site.scanner.sweeps) == (None, 0)
    assert (site.told(), site.actions()) == ([], [])
    site.mend_scans()
    assert (await site.scan()).state is ScanState.DONE


async def test_quiet_runs_are_not_lost_when_a_run_on_demand_could_not_be_recorded(site):
    async with site.running():
        await site.next_period()
        site.break_scans()
        with pytest.raises(StorageError):
            await site.worker.start(ACTOR)
        site.mend_scans()
        assert (await site.worker.history(limit=10, offset=0)).total == 2


async def test_an_outcome_that_could_not_be_stored_is_known_and_stored_later(site):
    site.scanner.finds((A, ip(5)))
    site.break_scans("UPDATE")
    scan = await site.scan()
    assert (scan.state, scan.found) == (ScanState.DONE, 1)
    assert site.states_on_disk() == ["running"]
    assert (await site.worker.history(limit=10, offset=0)).total == 0
    site.mend_scans()
    page = await site.worker.history(limit=10, offset=0)
    assert page.scans == [scan]


async def test_the_end_of_a_run_that_could_not_be_stored_is_told_when_it_is(site):
    site.break_scans("UPDATE")
    scan = await site.scan()
    site.mend_scans()
    await site.worker.history(limit=10, offset=0)
    assert [payload["id"] for _, payload in site.told("scan.ended")] == [scan.id]


async def test_periodic_runs_go_on_while_nothing_can_be_written_and_are_kept_in_bounds(site):
    site.break_scans()
    async with site.running():
        for _ in range(3 * QUIET_KEPT):
            await site.next_period()
        assert len(site.worker._pending) <= PENDING_KEPT
        site.mend_scans()
        page = await site.worker.history(limit=100, offset=0)
        assert page.total == len(page.scans) >= QUIET_KEPT - 1
        assert page.scans[0].id == site.worker.last.id, "the newest are kept"


async def test_a_run_on_demand_is_not_lost_among_quiet_ones_while_nothing_can_be_written(site, monkeypatch):
    monkeypatch.setattr(discovery, "PENDING_KEPT", QUIET_KEPT)
    scan = await site.worker.start(ACTOR)
    site.break_scans("UPDATE")
    await site.ended(scan.id)
    site.mend_scans()
    site.break_scans("INSERT")
    async with site.running():
        for _ in range(QUIET_KEPT + 2):
            await site.next_period()
        site.mend_scans()
        await site.worker.history(limit=1, offset=0)
        assert (await site.worker.get(scan.id)).state is ScanState.DONE
