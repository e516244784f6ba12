"""The circuit breaker: when it opens, for how long, and which attempts are probes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.circuit_breaker import MAX_FACTOR, Breaker
from pi_orchestrator.core.errors import CircuitOpenError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.provisioning.circuits import MAX_CAMERAS, Circuits
from tests.support.clock import FakeClock


def opened(at=0.0):
    breaker = Breaker(failures=3, reset_s=30)
    assert [breaker.record_failure(at) for _ in range(3)] == [False, False, True]
    return breaker


def test_breaker_opens_after_failures_in_row():
    breaker = Breaker(failures=3, reset_s=30)
    for _ in range(5):
        assert not breaker.record_failure(0)
        assert not breaker.record_failure(0)
        breaker.record_success()
    assert not breaker.is_open
    assert breaker.begin_attempt(0)
    assert opened().is_open


def test_open_breaker_refuses_attempts():
    breaker = opened(at=100)
    assert breaker.wait_s(100) == 30
    assert breaker.wait_s(129) == 1
    assert not breaker.begin_attempt(129.9)


def test_half_open_breaker_allows_one_probe():
    breaker = opened()
    assert breaker.begin_attempt(30)
    assert not breaker.begin_attempt(30), "only one probe"
    breaker.record_success()
    assert not breaker.is_open
    assert breaker.begin_attempt(30)
    assert breaker.begin_attempt(30)
    assert not breaker.record_failure(30), "the count starts at zero"


def test_failed_probe_doubles_wait():
    breaker, now = opened(), 0.0
    for expected in (60, 120, 240, 240, 240):
        now += breaker.wait_s(now)
        assert breaker.begin_attempt(now)
        assert breaker.record_failure(now)
        assert breaker.wait_s(now) == expected
    assert expected == 30 * MAX_FACTOR
    breaker.record_success()
    assert [breaker.record_failure(now) for _ in range(3)] == [False, False, True]
    assert breaker.wait_s(now) == 30, "reset by the success"


def test_late_failure_is_ignored_while_open():
    breaker = opened()
    for _ in range(5):
        assert not breaker.record_failure(10)
    assert breaker.wait_s(10) == 20


def test_late_failure_after_wait_reopens_breaker():
    breaker = opened()
    assert breaker.record_failure(31)
    assert breaker.wait_s(31) == 60


def test_cancelled_probe_allows_next_probe():
    breaker = opened()
    assert breaker.begin_attempt(30)
    breaker.end_attempt()
    assert breaker.begin_attempt(30)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["begin_attempt", "record_failure", "record_success", "end_attempt"]), st.floats(0, 100)
        ),
        max_size=60,
    )
)
def test_any_steps_leave_breaker_usable(steps):
    breaker, now = Breaker(failures=2, reset_s=10), 0.0
    for method, delay in steps:
        now += delay
        getattr(breaker, method)(*([now] if method in ("begin_attempt", "record_failure") else []))
        assert 0 <= breaker.wait_s(now) <= 10 * MAX_FACTOR + 1e-9
        assert breaker.is_open or breaker.begin_attempt(now)
    breaker.end_attempt()
    # 1e-9: the sum may be a little less than the exact time.
    assert breaker.begin_attempt(now + breaker.wait_s(now) + 1e-9)


async def test_circuit_refuses_its_camera_or_the_whole_network():
    """The circuit of a camera refuses only that camera; the circuit of the network refuses every camera."""
    clock = FakeClock()
    circuits = Circuits(failures=2, reset_s=30, clock=clock)
    mac, other = Mac("24:6F:28:00:00:10"), Mac("24:6F:28:00:00:20")
    for _ in range(2):
        circuits.of(mac).record_failure(clock.monotonic())
    circuits.check(other)
    circuits.check()
    with pytest.raises(CircuitOpenError) as refused:
        circuits.check(mac)
    assert (refused.value.code, refused.value.retry_after_s) == ("CIRCUIT_OPEN", 30)
    await clock.advance(30)
    circuits.check(mac)
    for _ in range(2):
        circuits.network.record_failure(clock.monotonic())
    for checked in (None, other):
        with pytest.raises(CircuitOpenError):
            circuits.check(checked)


def test_number_of_circuits_is_limited():
    circuits = Circuits(failures=1, reset_s=30, clock=FakeClock())
    for number in range(MAX_CAMERAS + 10):
        circuits.of(Mac(f"24:6F:28:00:{number >> 8:02X}:{number & 255:02X}"))
    assert len(circuits._cameras) == MAX_CAMERAS
