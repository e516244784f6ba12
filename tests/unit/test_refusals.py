"""Refusals: counted always, written rarely."""

import asyncio

import pytest

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import AuditEntry, Code, Stage
from pi_orchestrator.workers.refusals import FLOOD_BURST, LONGEST_WINDOW_S, REMEMBERED, Refusals
from pi_orchestrator.workers.retries import BASE_S, CAP_S, Retries
from pi_orchestrator.workers.retries import REMEMBERED as RETRIES_REMEMBERED

MAC = Mac("24:6F:28:B0:F7:F1")
OTHER = Mac("24:6F:28:B0:F7:F2")


def mac(number):
    return Mac("24:6F:28:" + ":".join(f"{number:06X}"[i : i + 2] for i in (0, 2, 4)))


def refused(who=MAC, code=Code.DENIED, stage=Stage.REJECTED):
    return AuditEntry(mac=who, stage=stage, code=code, message="on the deny list")


@pytest.fixture
def refusals(clock):
    return Refusals(clock=clock)


def written(refusals):
    return [(entry.mac, entry.code) for entry in refusals.take()]


async def test_a_repeat_within_a_minute_is_counted_and_not_written(refusals, clock):
    for _ in range(6):
        refusals.add(refused())
        await clock.advance(11.9)
    assert written(refusals) == [(MAC, Code.DENIED)]
    assert refusals.take_counts() == {"rejected_by_policy": 6}


async def test_after_the_minute_it_is_written_again_with_its_repeats(refusals, clock):
    for _ in range(3):
        refusals.add(refused())
    await clock.advance(60)
    refusals.add(refused())
    assert [entry.message for entry in refusals.take()] == [
        "on the deny list",
        "on the deny list (2 repeats since the last row)",
    ]


async def test_another_reason_or_another_camera_is_written_at_once(refusals):
    refusals.add(refused())
    refusals.add(refused(code=Code.SUBNET_NOT_ALLOWED))
    refusals.add(refused(OTHER))
    assert written(refusals) == [(MAC, Code.DENIED), (MAC, Code.SUBNET_NOT_ALLOWED), (OTHER, Code.DENIED)]


async def test_reasons_that_take_turns_are_each_written_once_a_minute(refusals, clock):
    for _ in range(10):
        refusals.add(refused(code=Code.SUBNET_NOT_ALLOWED))
        refusals.add(refused(code=Code.NO_ADDRESS, stage=Stage.FAILED))
        await clock.advance(5)
    assert sorted(written(refusals)) == [(MAC, Code.NO_ADDRESS), (MAC, Code.SUBNET_NOT_ALLOWED)]
    assert refusals.take_counts() == {"rejected_by_policy": 10, "failed": 10}


async def test_a_refusal_that_goes_on_is_written_ever_more_rarely(refusals, clock):
    rows, day = [], 24 * 3600
    for second in range(0, day, 30):
        refusals.add(refused())
        rows += [second for _ in refusals.take()]
        await clock.advance(30)
    gaps = [later - earlier for earlier, later in zip(rows, rows[1:], strict=False)]
    assert gaps[:6] == [60, 120, 240, 480, 960, 1920]
    assert set(gaps[6:]) == {LONGEST_WINDOW_S}
    assert refusals.take_counts() == {"rejected_by_policy": day // 30}


async def test_a_row_written_elsewhere_counts_as_written(refusals, clock):
    refusals.remember(MAC, Code.NOT_ENABLED)
    refusals.add(refused(code=Code.NOT_ENABLED))
    assert written(refusals) == []
    await clock.advance(60)
    refusals.add(refused(code=Code.NOT_ENABLED))
    assert written(refusals) == [(MAC, Code.NOT_ENABLED)]


async def test_a_flood_of_invented_cameras_is_bounded_in_rows_and_memory(refusals, clock):
    for number in range(10_000):
        refusals.add(refused(mac(number)))
    assert len(refusals.take()) == FLOOD_BURST
    assert refusals.take_counts() == {"rejected_by_policy": 10_000}
    assert len(refusals._last) <= REMEMBERED
    for number in range(20_000, 30_000):
        refusals.add(refused(mac(number)))
    assert refusals.take() == []
    await clock.advance(100)
    for number in range(30_000, 40_000):
        refusals.add(refused(mac(number)))
    assert len(refusals.take()) == 100
    assert len(refusals._last) <= REMEMBERED


async def test_what_is_remembered_is_bounded_over_a_long_time(refusals, clock):
    for number in range(2 * REMEMBERED):
        refusals.add(refused(mac(number)))
        refusals.take()
        await clock.advance(1.0)
    assert len(refusals._last) == REMEMBERED


async def test_rows_and_counts_are_handed_over_once(refusals):
    refusals.add(refused())
    refusals.count_already_onboarded()
    assert len(refusals.take()) == 1
    assert refusals.take() == []
    assert refusals.take_counts() == {"rejected_by_policy": 1, "already_onboarded": 1}
    assert refusals.take_counts() == {}


async def test_what_could_not_be_stored_is_given_back_in_its_place(refusals):
    refusals.add(refused())
    first, counts = refusals.take(), refusals.take_counts()
    refusals.add(refused(OTHER))
    refusals.give_back(first, counts)
    assert written(refusals) == [(MAC, Code.DENIED), (OTHER, Code.DENIED)]
    assert refusals.take_counts() == {"rejected_by_policy": 2}


async def test_what_is_given_back_again_and_again_stays_bounded(refusals):
    refusals.give_back([refused(mac(number)) for number in range(5000)], {})
    assert len(refusals.take()) == FLOOD_BURST


async def test_waiting_ends_when_there_is_a_row(refusals):
    waiting = asyncio.create_task(refusals.wait(60))
    refusals.count_already_onboarded()
    await asyncio.sleep(0)
    assert not waiting.done()
    refusals.add(refused())
    await waiting
    refusals.take()
    again = asyncio.create_task(refusals.wait(60))
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


async def test_who_failed_must_wait_and_ever_longer(clock):
    retries = Retries(clock=clock)
    assert not retries.must_wait(MAC)
    for failures in range(10):
        retries.failed(MAC)
        ceiling = min(CAP_S, BASE_S * 2**failures)
        await clock.advance(ceiling / 10 - 0.01)
        assert retries.must_wait(MAC)
        assert not retries.must_wait(OTHER)
        await clock.advance(ceiling)
        assert not retries.must_wait(MAC)


async def test_success_ends_the_wait_and_its_history(clock):
    retries = Retries(clock=clock)
    for _ in range(8):
        retries.failed(MAC)
    retries.forget(MAC)
    assert not retries.must_wait(MAC)
    retries.failed(MAC)
    await clock.advance(BASE_S)
    assert not retries.must_wait(MAC)


def test_those_who_failed_longest_ago_are_forgotten_first(clock):
    retries = Retries(clock=clock)
    for number in range(RETRIES_REMEMBERED + 1):
        retries.failed(mac(number))
    assert not retries.must_wait(mac(0))
    assert retries.must_wait(mac(1))
    assert retries.must_wait(mac(RETRIES_REMEMBERED))
