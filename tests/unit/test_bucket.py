"""The token bucket: never more than its capacity and its rate allow, across restarts too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain.bucket import BucketState, TokenBucket

CAPACITY, RATE = 5, 10 / 60


def bucket(now=0.0, *, capacity=CAPACITY, rate=RATE):
    return TokenBucket(capacity=capacity, rate=rate, now=now)


def drain(full, now):
    granted = 0
    while full.take(now):
        granted += 1
    return granted


def test_a_new_bucket_grants_its_capacity_and_no_more():
    assert drain(bucket(), 0.0) == CAPACITY


def test_a_token_comes_exactly_when_it_is_due():
    empty = bucket()
    drain(empty, 0.0)
    assert empty.wait_s(0.0) == pytest.approx(6.0)
    assert not empty.take(5.999)
    assert empty.take(6.0)
    assert not empty.take(11.999)
    assert empty.take(12.0)


def test_the_wait_that_is_told_is_long_enough():
    empty = bucket(rate=1 / 3)
    drain(empty, 0.0)
    now = 0.0
    for _ in range(1000):
        now += empty.wait_s(now)
        assert empty.take(now)


def test_it_never_holds_more_than_its_capacity():
    full = bucket()
    assert full.tokens(1e9) == CAPACITY
    assert drain(full, 1e9) == CAPACITY


def test_time_that_goes_backwards_gives_nothing():
    empty = bucket(now=100.0)
    drain(empty, 100.0)
    assert empty.tokens(50.0) == 0
    assert not empty.take(50.0)


def test_a_resize_keeps_what_was_spent():
    used = bucket()
    drain(used, 0.0)
    used.resize(capacity=100, rate=1.0, now=0.0)
    assert drain(used, 0.0) == 0
    assert drain(used, 10.0) == 10


def test_a_smaller_bucket_loses_what_does_not_fit():
    full = bucket()
    full.resize(capacity=2, rate=RATE, now=0.0)
    assert drain(full, 0.0) == 2


def test_a_restart_within_a_boot_goes_on_where_it_was():
    used = bucket(now=1000.0)
    drain(used, 1000.0)
    stored = used.snapshot(now=1001.0, boot_id="boot-1")
    after = bucket(now=1013.0)
    after.restore(stored, now=1013.0, boot_id="boot-1")
    assert drain(after, 1013.0) == 2


def test_after_a_reboot_only_the_time_since_boot_counts():
    used = bucket(now=50_000.0)
    drain(used, 50_000.0)
    stored = used.snapshot(now=50_000.0, boot_id="boot-1")
    after = bucket(now=13.0)
    after.restore(stored, now=13.0, boot_id="boot-2")
    assert drain(after, 13.0) == 2


@pytest.mark.parametrize("tokens, granted", [(-5.0, 0), (1e12, CAPACITY), (float("inf"), CAPACITY), (0.5, 0)])
def test_a_stored_state_that_makes_no_sense_does_no_harm(tokens, granted):
    restored = bucket()
    restored.restore(BucketState(tokens, at=1000.0, boot_id="boot-1"), now=1000.0, boot_id="boot-1")
    assert drain(restored, 1000.0) == granted


def test_a_stored_time_in_the_future_gives_nothing():
    restored = bucket()
    restored.restore(BucketState(0.0, at=9999.0, boot_id="boot-1"), now=10.0, boot_id="boot-1")
    assert restored.tokens(10.0) == 0


CAPACITIES = st.integers(1, 20)
RATES = st.floats(1 / 60, 100, allow_nan=False)
STEPS = st.lists(
    st.tuples(st.floats(0, 30, allow_nan=False), st.integers(0, 10), st.sampled_from(["go on", "restart", "reboot"])),
    max_size=40,
)


@given(CAPACITIES, RATES, STEPS)
def test_no_window_has_more_grants_than_capacity_and_rate_allow(capacity, rate, steps):
    """Whatever the order of waits, bursts, restarts and reboots; `true` is a clock that no reboot resets."""
    limiter = bucket(capacity=capacity, rate=rate)
    true = boot_began = 0.0
    boot = 1
    grants = []
    for wait, tries, event in steps:
        if event != "go on":
            stored = limiter.snapshot(now=true - boot_began, boot_id=f"boot-{boot}")
            true += wait
            if event == "reboot":
                boot, boot_began = boot + 1, true - wait / 2
            limiter = bucket(true - boot_began, capacity=capacity, rate=rate)
            limiter.restore(stored, now=true - boot_began, boot_id=f"boot-{boot}")
        else:
            true += wait
        grants += [true for _ in range(tries) if limiter.take(true - boot_began)]
    for i, start in enumerate(grants):
        for j, end in enumerate(grants[i:], start=1):
            assert j <= capacity + rate * (end - start) + 1e-6


@given(CAPACITIES, RATES, st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=50))
def test_who_waits_as_told_is_never_turned_away(capacity, rate, pauses):
    limiter = bucket(capacity=capacity, rate=rate)
    now = 0.0
    for pause in pauses:
        now += pause
        now += limiter.wait_s(now)
        assert limiter.take(now)
