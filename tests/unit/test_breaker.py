"""The circuit breaker: when it opens, how long, and who may look whether things work again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain.breaker import LONGEST, Breaker
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import CircuitOpenError
from pi_orchestrator.workers.circuits import REMEMBERED, Circuits
from tests.support.clock import FakeClock


def opened(at=0.0):
    breaker = Breaker(failures=3, reset_s=30)
    assert [breaker.failed(at) for _ in range(3)] == [False, False, True]
    return breaker


def test_it_opens_after_failures_in_a_row_only():
    breaker = Breaker(failures=3, reset_s=30)
    for _ in range(5):
        assert not breaker.failed(0)
        assert not breaker.failed(0)
        breaker.succeeded()
    assert not breaker.is_open
    assert breaker.take(0)
    assert opened().is_open


def test_while_open_nothing_is_tried_and_it_says_for_how_long():
    breaker = opened(at=100)
    assert breaker.wait_s(100) == 30
    assert breaker.wait_s(129) == 1
    assert not breaker.take(129.9)


def test_half_open_lets_one_through_and_that_one_decides():
    breaker = opened()
    assert breaker.take(30)
    assert not breaker.take(30), "one alone"
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.take(30)
    assert breaker.take(30)
    assert not breaker.failed(30), "the count begins anew"


def test_a_probe_that_fails_doubles_the_wait_up_to_a_limit():
    breaker, now = opened(), 0.0
    for expected in (60, 120, 240, 240, 240):
        now += breaker.wait_s(now)
        assert breaker.take(now)
        assert breaker.failed(now)
        assert breaker.wait_s(now) == expected
    assert expected == 30 * LONGEST
    breaker.succeeded()
    assert [breaker.failed(now) for _ in range(3)] == [False, False, True]
    assert breaker.wait_s(now) == 30, "and after a success it is short again"


def test_what_was_under_way_when_it_opened_changes_nothing():
    breaker = opened()
    for _ in range(5):
        assert not breaker.failed(10)
    assert breaker.wait_s(10) == 20


def test_a_failure_after_the_wait_opens_it_again_even_if_nobody_took_the_probe():
    breaker = opened()
    assert breaker.failed(31)
    assert breaker.wait_s(31) == 60


def test_a_probe_that_shows_nothing_leaves_its_place_to_the_next():
    breaker = opened()
    assert breaker.take(30)
    breaker.release()
    assert breaker.take(30)


@given(st.lists(st.tuples(st.sampled_from(["take", "failed", "succeeded", "release"]), st.floats(0, 100)), max_size=60))
def test_whatever_happens_it_is_never_shut_for_good(steps):
    breaker, now = Breaker(failures=2, reset_s=10), 0.0
    for word, later in steps:
        now += later
        getattr(breaker, word)(*([now] if word in ("take", "failed") else []))
        assert 0 <= breaker.wait_s(now) <= 10 * LONGEST + 1e-9
        assert breaker.is_open or breaker.take(now)
    breaker.release()
    assert breaker.take(now + breaker.wait_s(now))


async def test_a_cameras_circuit_is_its_own_and_the_networks_is_everybodys():
    clock = FakeClock()
    circuits = Circuits(failures=2, reset_s=30, clock=clock)
    one, other = Mac("24:6F:28:00:00:10"), Mac("24:6F:28:00:00:20")
    for _ in range(2):
        circuits.of(one).failed(clock.monotonic())
    circuits.check(other)
    circuits.check()
    with pytest.raises(CircuitOpenError) as refused:
        circuits.check(one)
    assert (refused.value.code, refused.value.retry_after_s) == ("CIRCUIT_OPEN", 30)
    await clock.advance(30)
    circuits.check(one)
    for _ in range(2):
        circuits.network.failed(clock.monotonic())
    for mac in (None, other):
        with pytest.raises(CircuitOpenError):
            circuits.check(mac)


def test_strangers_cannot_fill_the_memory():
    circuits = Circuits(failures=1, reset_s=30, clock=FakeClock())
    for number in range(REMEMBERED + 10):
        circuits.of(Mac(f"24:6F:28:00:{number >> 8:02X}:{number & 255:02X}"))
    assert len(circuits._cameras) == REMEMBERED
