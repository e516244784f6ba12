"""One answer for all who ask at once."""

import asyncio

import pytest

from pi_orchestrator.net.shared import Shared


class Oracle:
    """Counts questions, and answers when `answer_now` is set: with its number, or with what it is told to raise."""

    def __init__(self):
        self.asked = self.given_up = 0
        self.answer_now = asyncio.Event()
        self.error = None

    async def __call__(self):
        self.asked += 1
        number = self.asked
        try:
            await self.answer_now.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.error:
            raise self.error
        return number


@pytest.fixture
def oracle():
    return Oracle()


async def asking(shared, count):
    tasks = [asyncio.create_task(shared.get()) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_who_asks_at_once_shares_and_who_asks_soon_gets_the_same(oracle, clock):
    shared = Shared(oracle, keep_s=5, clock=clock)
    tasks = await asking(shared, 10)
    assert shared.under_way
    oracle.answer_now.set()
    assert await asyncio.gather(*tasks) == [1] * 10
    assert not shared.under_way
    await clock.advance(4.9)
    assert await shared.get() == 1
    await clock.advance(0.2)
    assert await shared.get() == 2


async def test_who_leaves_does_not_take_it_from_the_others(oracle, clock):
    shared = Shared(oracle, keep_s=0, clock=clock)
    first, second = await asking(shared, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    oracle.answer_now.set()
    assert await second == 1
    assert oracle.given_up == 0


async def test_when_all_have_left_it_is_given_up_and_the_next_one_asks_anew(oracle, clock):
    shared = Shared(oracle, keep_s=5, clock=clock)
    tasks = await asking(shared, 3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not shared.under_way
    oracle.answer_now.set()
    assert await shared.get() == 2
    assert oracle.given_up == 1


async def test_an_error_is_everybodys_and_is_not_kept(oracle, clock):
    shared = Shared(oracle, keep_s=5, clock=clock)
    oracle.error = ValueError("no")
    tasks = await asking(shared, 3)
    oracle.answer_now.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3
    oracle.error = None
    assert await shared.get() == 2
