"""Tasks that concurrent callers share: results, exceptions, cancellation, closing."""

import asyncio
import gc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.single_flight import KeyedSingleFlight, SingleFlight


class Work:
    """Counts its runs, and ends when `finish` is set: with the number of the run, or with `error`."""

    def __init__(self):
        self.runs = self.cancelled = 0
        self.finish = asyncio.Event()
        self.error = None

    async def __call__(self):
        self.runs += 1
        number = self.runs
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return number


class ClosedError(Exception):
    pass


@pytest.fixture
def work():
    return Work()


async def settle():
    for _ in range(4):
        await asyncio.sleep(0)


async def started(*calls):
    tasks = [asyncio.create_task(call) for call in calls]
    await settle()
    return tasks


async def cancel(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# SingleFlight.


async def test_concurrent_callers_share_run_and_result(work, clock):
    shared = SingleFlight(work, keep_s=5, clock=clock)
    tasks = await started(*(shared.get() for _ in range(10)))
    assert shared.is_running
    work.finish.set()
    assert await asyncio.gather(*tasks) == [1] * 10
    assert not shared.is_running
    await clock.advance(4.9)
    assert await shared.get() == 1
    await clock.advance(0.2)
    assert await shared.get() == 2


async def test_exception_reaches_all_callers_and_is_not_cached(work, clock):
    shared = SingleFlight(work, keep_s=5, clock=clock)
    work.error = ValueError("no")
    tasks = await started(*(shared.get() for _ in range(3)))
    work.finish.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3
    work.error = None
    assert await shared.get() == 2


async def test_cancelled_caller_affects_no_other(work, clock):
    shared = SingleFlight(work, keep_s=0, clock=clock)
    first, second = await started(shared.get(), shared.get())
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.finish.set()
    assert await second == 1
    assert work.cancelled == 0


async def test_work_is_cancelled_with_last_caller(work, clock):
    shared = SingleFlight(work, keep_s=5, clock=clock)
    await cancel(*await started(*(shared.get() for _ in range(3))))
    assert not shared.is_running
    work.finish.set()
    assert await shared.get() == 2
    assert work.cancelled == 1


async def test_unused_work_finishes_and_is_cached(work, clock):
    shared = SingleFlight(work, keep_s=5, clock=clock, cancel_unused=False)
    await cancel(*await started(shared.get()))
    assert shared.is_running
    work.finish.set()
    await settle()
    assert await shared.get() == 1
    assert (work.runs, work.cancelled) == (1, 0)


# KeyedSingleFlight.


async def test_keys_run_concurrently(work):
    shared = KeyedSingleFlight("test")
    tasks = await started(shared.run("a", work), shared.run("b", work), shared.run("a", work))
    assert (len(shared), shared.callers("a"), shared.callers("b"), shared.callers("c")) == (2, 2, 1, 0)
    work.finish.set()
    assert await asyncio.gather(*tasks) == [1, 2, 1]
    assert len(shared) == 0


async def test_caller_after_end_starts_new_task(work):
    shared = KeyedSingleFlight("test")
    work.finish.set()
    assert [await shared.run("a", work), await shared.run("a", work)] == [1, 2]


async def test_caller_never_joins_cancelled_task(work):
    shared = KeyedSingleFlight("test")
    (first,) = await started(shared.run("a", work))
    first.cancel()
    second = asyncio.create_task(shared.run("a", work))
    await asyncio.wait([first])
    work.finish.set()
    assert await second == 2


async def test_unused_task_can_be_joined(work):
    shared = KeyedSingleFlight("test", cancel_unused=False)
    await cancel(*await started(shared.run("a", work)))
    assert (shared.is_running("a"), shared.callers("a")) == (True, 0)
    (second,) = await started(shared.run("a", work))
    work.finish.set()
    assert await second == 1


async def test_exception_of_unused_task_is_retrieved(work):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    shared = KeyedSingleFlight("test", cancel_unused=False)
    await cancel(*await started(shared.run("a", work)))
    work.error = ValueError("no")
    work.finish.set()
    await settle()
    gc.collect()
    assert (reported, len(shared)) == ([], 0)


async def test_close_cancels_tasks_with_error(work):
    shared = KeyedSingleFlight("test")
    tasks = await started(shared.run("a", work), shared.run("a", work), shared.run("b", work))
    shared.close(ClosedError)
    assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [ClosedError] * 3
    assert (work.cancelled, len(shared)) == (2, 0)
    with pytest.raises(ClosedError):
        await shared.run("a", work)


async def test_close_before_first_step_raises_error(work):
    shared = KeyedSingleFlight("test")
    task = asyncio.create_task(shared.run("a", work))
    await asyncio.sleep(0)  # the caller has run, the work has not
    assert work.runs == 0
    shared.close(ClosedError)
    with pytest.raises(ClosedError):
        await task


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["cancel", "finish", "step"]), st.integers(0, 9)),
    ),
    max_size=40,
)


@given(calls=CALLS, cancel_unused=st.booleans())
def test_any_schedule_runs_one_task_per_key(calls, cancel_unused):
    async def schedule():
        shared = KeyedSingleFlight("test", cancel_unused=cancel_unused)
        running, max_running, callers, ends = Counter(), 0, [], {}

        async def run(key):
            nonlocal max_running
            running[key] += 1
            max_running = max(max_running, running[key])
            end = ends[key] = asyncio.Event()
            try:
                await end.wait()
                return key
            finally:
                running[key] -= 1

        for verb, number in calls:
            match verb:
                case "call":
                    callers.append((number, asyncio.create_task(shared.run(number, lambda key=number: run(key)))))
                case "cancel" if callers:
                    callers[number % len(callers)][1].cancel()
                case "finish" if number in ends:
                    ends[number].set()
                case "step":
                    await settle()
        await settle()
        for end in ends.values():
            end.set()
        await settle()
        for key, caller in callers:
            assert caller.done()
            assert caller.cancelled() or caller.result() == key
        assert max_running <= 1
        assert (len(shared), sum(running.values())) == (0, 0)

    asyncio.run(schedule())
