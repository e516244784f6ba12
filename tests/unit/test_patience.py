"""How long the scanner waits for answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain.patience import Patience

REPLY = st.floats(min_value=0, max_value=60, allow_nan=False)


def patience():
    return Patience(least=0.1, most=0.4)


def test_it_is_as_long_as_allowed_before_any_answer():
    assert patience().wait_s() == 0.4


def test_steady_answers_make_it_a_little_longer_than_they_take():
    steady = patience()
    for _ in range(50):
        steady.note(0.2)
    assert steady.wait_s() == pytest.approx(0.2, abs=0.001)


def test_answers_that_vary_make_it_longer_than_the_slowest():
    varying = patience()
    for number in range(50):
        varying.note((0.05, 0.15)[number % 2])
    assert 0.15 < varying.wait_s() <= 0.4


def test_it_forgets_what_was_long_ago():
    changed = patience()
    for _ in range(20):
        changed.note(2.0)
    assert changed.wait_s() == 0.4
    for _ in range(60):
        changed.note(0.001)
    assert changed.wait_s() == 0.1


@given(st.lists(REPLY))
def test_it_keeps_within_its_limits(replies):
    any_patience = patience()
    for reply in replies:
        any_patience.note(reply)
        assert 0.1 <= any_patience.wait_s() <= 0.4
