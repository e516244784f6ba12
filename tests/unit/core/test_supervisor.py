"""The supervisor: a failing worker is restarted alone, with back-off, and given up after GIVE_UP_AFTER_S."""

import asyncio

import pytest
from structlog.testing import capture_logs

from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.supervisor import GIVE_UP_AFTER_S, STABLE_AFTER_S, Supervisor, Worker, full_jitter
from tests.support.clock import settle

CAP_S = 30.0


@pytest.fixture
def health(clock):
    return Health(clock=clock)


@pytest.fixture
async def supervisor(clock, health):
    supervisor = Supervisor(clock=clock, health=health)
    yield supervisor
    await supervisor.stop(grace_s=5)


ERROR = RuntimeError("boom")


class Failing:
    """A worker that records its starts, runs for `up_s`, and fails."""

    def __init__(self, clock, *, up_s=0.0, error=ERROR):
        self.clock, self.up_s, self.error = clock, up_s, error
        self.starts = []

    async def run(self, beat):
        self.starts.append(self.clock.monotonic())
        beat()
        await self.clock.sleep(self.up_s)
        if self.error:
            raise self.error

    def gaps(self):
        return [later - earlier - self.up_s for earlier, later in zip(self.starts, self.starts[1:], strict=False)]


class Steady:
    """A worker with a heartbeat each second."""

    def __init__(self, clock):
        self.clock = clock
        self.starts = self.beats = 0

    async def run(self, beat):
        self.starts += 1
        while True:
            beat()
            self.beats += 1
            await self.clock.sleep(1.0)


async def start(supervisor, *workers):
    for worker in workers:
        supervisor.start(worker)
    await settle()


async def test_failing_worker_is_restarted_alone(clock, health, supervisor):
    failing, steady = Failing(clock, up_s=1.0), Steady(clock)
    await start(supervisor, Worker("failing", failing.run), Worker("steady", steady.run))
    await clock.advance(60)
    assert len(failing.starts) >= 3
    failures = len(failing.starts) - 1 if health.get("failing").state is State.OK else len(failing.starts)
    assert health.get("failing").restarts == failures, "counted at the failure, before the next start"
    assert steady.starts == 1
    assert steady.beats == 61
    assert health.get("steady").restarts == 0
    assert health.get("steady").state is State.OK
    assert not supervisor.failed.is_set()


async def test_fault_is_visible_until_restart(clock, health, supervisor):
    failing = Failing(clock, up_s=1.0, error=ValueError("bad data"))
    await start(supervisor, Worker("failing", failing.run))
    assert health.get("failing").state is State.OK
    await clock.advance(1.0)
    assert (health.get("failing").state, health.get("failing").reason) == (State.FAILED, "ValueError: bad data")
    assert health.get("failing").restarts == 1
    await clock.advance(0.5)
    assert len(failing.starts) == 2
    assert health.get("failing").state is State.OK


async def test_restarts_back_off_with_jitter(clock, supervisor):
    failing = Failing(clock)
    await start(supervisor, Worker("failing", failing.run))
    await clock.advance(GIVE_UP_AFTER_S / 2)
    for attempt, gap in enumerate(failing.gaps()):
        ceiling = min(CAP_S, 0.5 * 2**attempt)
        assert ceiling / 10 - 1e-6 <= gap <= ceiling + 1e-6
    assert len(failing.starts) > 7


async def test_stable_minute_resets_back_off(clock, supervisor):
    failing = Failing(clock, up_s=STABLE_AFTER_S + 0.001)  # sums of floats may fall short of a minute
    await start(supervisor, Worker("failing", failing.run))
    await clock.advance(2 * GIVE_UP_AFTER_S)
    assert len(failing.starts) >= 2 * GIVE_UP_AFTER_S / (STABLE_AFTER_S + 1) - 1
    assert max(failing.gaps()) <= 0.5 + 1e-6
    assert not supervisor.failed.is_set()


async def test_failing_worker_is_given_up_in_the_end(clock, health, supervisor):
    failing, steady = Failing(clock, up_s=5.0), Steady(clock)
    await start(supervisor, Worker("failing", failing.run), Worker("steady", steady.run))
    await clock.advance(GIVE_UP_AFTER_S)
    assert not supervisor.failed.is_set(), "too early"
    await clock.advance(CAP_S + 6)
    assert supervisor.failed.is_set()
    assert health.get("failing").state is State.FAILED
    starts, beats = len(failing.starts), steady.beats
    await clock.advance(GIVE_UP_AFTER_S)
    assert len(failing.starts) == starts
    assert steady.beats == beats + GIVE_UP_AFTER_S


@pytest.mark.parametrize(
    "error, reason",
    [
        (None, "RuntimeError: the worker returned without being stopped"),
        (KeyError("x"), "KeyError: 'x'"),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [OSError("gone")])]), "OSError: gone"),
        (ExceptionGroup("tasks", [OSError("one"), OSError("two")]), "ExceptionGroup: tasks (2 sub-exceptions)"),
    ],
)
async def test_every_end_is_reported_by_root_cause(clock, health, supervisor, error, reason):
    await start(supervisor, Worker("failing", Failing(clock, error=error).run))
    assert health.get("failing").reason == reason
    assert health.get("failing").restarts == 1


async def test_cancelled_future_is_a_fault(clock, health, supervisor):
    starts = []

    async def run(beat):
        starts.append(clock.monotonic())
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    await start(supervisor, Worker("failing", run))
    await clock.advance(30)
    assert len(starts) > 3
    assert health.get("failing").reason.startswith("CancelledError")


async def test_heartbeats_are_per_worker(clock, health, supervisor):
    silent = asyncio.Event()

    async def run(beat):
        await silent.wait()

    await start(
        supervisor,
        Worker("steady", Steady(clock).run, stale_after_s=10),
        Worker("silent", run, stale_after_s=10),
        Worker("without heartbeat", run, stale_after_s=None),
    )
    await clock.advance(11)
    assert health.stale() == ["silent"]


async def test_worker_awaiting_restart_is_not_stale(clock, health, supervisor):
    await start(supervisor, Worker("failing", Failing(clock).run, stale_after_s=60))
    for _ in range(60):
        await clock.advance(5)
        assert health.stale() == []


async def test_stop_lets_workers_finish(clock, health):
    supervisor = Supervisor(clock=clock, health=health)
    finished = []

    async def run(beat):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            finished.append("flushed")

    await start(supervisor, Worker("first", run), Worker("second", run))
    await supervisor.stop(grace_s=5)
    assert finished == ["flushed", "flushed"]
    assert health.get("first").restarts == 0, "a stop is not a fault"


async def test_stop_waits_only_grace_time(clock, health):
    supervisor = Supervisor(clock=clock, health=health)
    release = asyncio.Event()

    async def run(beat):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    await start(supervisor, Worker("stubborn", run))
    with capture_logs() as logged:
        await supervisor.stop(grace_s=0.01)
    assert [entry["workers"] for entry in logged] == [["stubborn"]]
    release.set()
    await settle()


async def test_stop_without_workers_returns(clock, health):
    await Supervisor(clock=clock, health=health).stop(grace_s=1)


@pytest.mark.parametrize("attempt, ceiling", [(0, 0.5), (1, 1.0), (5, 16.0), (6, 30.0), (10_000, 30.0)])
def test_jitter_is_within_range(attempt, ceiling):
    waits = [full_jitter(attempt, base_s=0.5, cap_s=30.0) for _ in range(500)]
    assert min(waits) >= ceiling / 10
    assert max(waits) <= ceiling
    assert max(waits) - min(waits) > ceiling / 2, "values are spread"
