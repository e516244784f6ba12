"""The waiting line: order of arrival, tokens, concurrency and its limits."""

import math

import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.onboarding import line
from pi_orchestrator.features.onboarding.attempt import OnboardingAttempt
from pi_orchestrator.features.onboarding.line import WaitingLine

FOREVER = math.inf


def attempt(number):
    return OnboardingAttempt(Mac(f"24:6F:28:00:00:{number:02X}"), "192.168.10.5", None, None)


def attempts(count):
    return [attempt(number) for number in range(count)]


def new_line(clock, *, burst_size=2, max_per_minute=6, concurrency=4):
    return WaitingLine(clock=clock, burst_size=burst_size, max_per_minute=max_per_minute, concurrency=concurrency)


def start_all(waiting_line):
    """Start attempts until the line stops; returns them in order of start."""
    started = []
    while (front := waiting_line.front()) and waiting_line.start(front):
        started.append(front)
    return started


@pytest.fixture
def waiting_line(clock):
    return new_line(clock)


def test_attempts_start_in_arrival_order(waiting_line):
    arrived = attempts(4)
    assert all(waiting_line.append(queued) for queued in arrived)
    assert start_all(waiting_line) == arrived[:2]
    assert list(waiting_line.in_flight.values()) == arrived[:2]
    assert list(waiting_line.waiting.values()) == arrived[2:]


async def test_next_attempt_waits_for_a_token(waiting_line, clock):
    for queued in attempts(4):
        waiting_line.append(queued)
    start_all(waiting_line)
    assert waiting_line.wait_s() == pytest.approx(10)
    await clock.advance(9.99)
    assert start_all(waiting_line) == []
    await clock.advance(0.011)
    assert start_all(waiting_line) == [attempt(2)]


def test_concurrency_limit_blocks_start(clock):
    waiting_line = new_line(clock, burst_size=5, concurrency=1)
    for queued in attempts(2):
        waiting_line.append(queued)
    assert start_all(waiting_line) == [attempt(0)]
    assert waiting_line.front() is None
    assert waiting_line.wait_s() == FOREVER, "a token would not help"
    waiting_line.finish(attempt(0).mac)
    assert start_all(waiting_line) == [attempt(1)]


def test_empty_line_waits_for_no_token(waiting_line):
    assert waiting_line.front() is None
    assert waiting_line.wait_s() == FOREVER


def test_removed_attempt_spends_no_token(waiting_line):
    for queued in attempts(3):
        waiting_line.append(queued)
    waiting_line.remove(waiting_line.front())
    assert waiting_line.tokens == 2
    assert start_all(waiting_line) == [attempt(1), attempt(2)]


def test_full_line_drops_attempts(waiting_line, monkeypatch):
    monkeypatch.setattr(line, "MAX_WAITING", 2)
    assert [waiting_line.append(queued) for queued in attempts(4)] == [True, True, False, False]
    assert waiting_line.overflowed == 2
    assert list(waiting_line.waiting.values()) == attempts(2)


def test_proven_cameras_come_first_in_arrival_order(clock):
    proven = set()
    waiting_line = WaitingLine(
        clock=clock, burst_size=10, max_per_minute=6, concurrency=10, has_proof=proven.__contains__
    )
    arrived = attempts(6)
    for queued in arrived[:4]:
        waiting_line.append(queued)
    proven |= {arrived[3].mac, arrived[5].mac}
    waiting_line.append(arrived[4])
    waiting_line.append(arrived[5])
    assert [waiting_line.position(queued.mac) for queued in arrived] == [2, 3, 4, 5, 6, 1], (
        "the proof of camera 3 is not noticed yet"
    )
    waiting_line.promote()
    assert (waiting_line.unproven, waiting_line.position(arrived[3].mac)) == (4, 2)
    assert start_all(waiting_line) == [arrived[number] for number in (5, 3, 0, 1, 2, 4)]
    assert waiting_line.position(arrived[0].mac) is None


def test_proven_camera_takes_place_in_a_full_line(clock, monkeypatch):
    monkeypatch.setattr(line, "MAX_WAITING", 4)
    monkeypatch.setattr(line, "MAX_UNPROVEN", 2)
    proven = {attempt(number).mac for number in range(10, 20)}
    waiting_line = WaitingLine(
        clock=clock, burst_size=1, max_per_minute=6, concurrency=1, has_proof=proven.__contains__
    )
    assert [waiting_line.append(queued) for queued in attempts(3)] == [True, True, False], (
        "some places are reserved for proven cameras"
    )
    assert [waiting_line.append(attempt(number)) for number in range(10, 15)] == [True, True, True, True, False]
    assert list(waiting_line.waiting) == [attempt(number).mac for number in (10, 11, 12, 13)]
    assert (waiting_line.unproven, waiting_line.overflowed) == (0, 4)


def test_time_to_a_token_grows_with_the_position(waiting_line):
    for queued in attempts(4):
        waiting_line.append(queued)
    assert [waiting_line.start_in_s(position) for position in (1, 2, 3, 4)] == [0, 0, 10, 20]


def test_cleared_line_is_empty(clock):
    waiting_line = WaitingLine(clock=clock, burst_size=1, max_per_minute=6, concurrency=1, has_proof=lambda _: True)
    waiting_line.append(attempt(1))
    waiting_line.clear()
    assert (waiting_line.front(), waiting_line.unproven, waiting_line.position(attempt(1).mac)) == (None, 0, None)


def test_attempts_that_wait_for_a_token_are_returned_once(waiting_line):
    for queued in attempts(3):
        waiting_line.append(queued)
    assert waiting_line.take_limited() == [], "a token is left"
    start_all(waiting_line)
    assert [limited.mac for limited in waiting_line.take_limited()] == [attempt(2).mac]
    assert waiting_line.take_limited() == []
    waiting_line.append(attempt(3))
    assert [limited.mac for limited in waiting_line.take_limited()] == [attempt(3).mac]


def test_attempts_that_wait_for_concurrency_are_not_returned(clock):
    """`take_limited` returns only attempts for which a token is missing."""
    waiting_line = new_line(clock, burst_size=5, concurrency=1)
    for queued in attempts(2):
        waiting_line.append(queued)
    start_all(waiting_line)
    assert waiting_line.take_limited() == []


async def test_new_limits_keep_spent_tokens(waiting_line, clock):
    for queued in attempts(6):
        waiting_line.append(queued)
    start_all(waiting_line)
    waiting_line.reconfigure(burst_size=10, max_per_minute=60, concurrency=3)
    assert waiting_line.tokens == 0
    await clock.advance(5)
    assert start_all(waiting_line) == [attempt(2)], "three may be in flight"


async def test_stored_tokens_are_restored(waiting_line, clock):
    for queued in attempts(2):
        waiting_line.append(queued)
    start_all(waiting_line)
    state = waiting_line.snapshot()
    await clock.advance(10)
    restarted = new_line(clock)
    restarted.restore(state)
    assert restarted.tokens == pytest.approx(1)
