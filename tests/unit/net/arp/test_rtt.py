"""Reply timeout of the ARP engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.net.arp.rtt import RttEstimator

REPLY = st.floats(min_value=0, max_value=60, allow_nan=False)


def estimator():
    return RttEstimator(min_s=0.1, max_s=0.4)


def test_timeout_without_replies_is_maximum():
    assert estimator().timeout_s() == 0.4


def test_timeout_of_steady_replies_approaches_rtt():
    steady = estimator()
    for _ in range(50):
        steady.add(0.2)
    assert steady.timeout_s() == pytest.approx(0.2, abs=0.001)


def test_timeout_of_varying_replies_exceeds_slowest():
    varying = estimator()
    for number in range(50):
        varying.add((0.05, 0.15)[number % 2])
    assert 0.15 < varying.timeout_s() <= 0.4


def test_timeout_forgets_old_replies():
    changed = estimator()
    for _ in range(20):
        changed.add(2.0)
    assert changed.timeout_s() == 0.4
    for _ in range(60):
        changed.add(0.001)
    assert changed.timeout_s() == 0.1


@given(st.lists(REPLY))
def test_timeout_stays_within_limits(replies):
    any_estimator = estimator()
    for reply in replies:
        any_estimator.add(reply)
        assert 0.1 <= any_estimator.timeout_s() <= 0.4
