"""The token bucket: never more grants than capacity and rate allow, also over restarts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.token_bucket import BucketState, TokenBucket

CAPACITY, RATE = 5, 10 / 60


def bucket(now=0.0, *, capacity=CAPACITY, rate=RATE):
    return TokenBucket(capacity=capacity, rate=rate, now=now)


def drain(full, now):
    granted = 0
    while full.take(now):
        granted += 1
    return granted


def test_new_bucket_grants_its_capacity():
    assert drain(bucket(), 0.0) == CAPACITY


def test_token_is_available_on_time():
    empty = bucket()
    drain(empty, 0.0)
    assert empty.wait_s(0.0) == pytest.approx(6.0)
    assert not empty.take(5.999)
    assert empty.take(6.0)
    assert not empty.take(11.999)
    assert empty.take(12.0)


def test_wait_s_is_long_enough():
    empty = bucket(rate=1 / 3)
    drain(empty, 0.0)
    now = 0.0
    for _ in range(1000):
        now += empty.wait_s(now)
        assert empty.take(now)


def test_tokens_never_exceed_capacity():
    full = bucket()
    assert full.tokens(1e9) == CAPACITY
    assert drain(full, 1e9) == CAPACITY


def test_time_going_back_adds_no_tokens():
    empty = bucket(now=100.0)
    drain(empty, 100.0)
    assert empty.tokens(50.0) == 0
    assert not empty.take(50.0)


def test_resize_keeps_spent_tokens():
    used = bucket()
    drain(used, 0.0)
    used.resize(capacity=100, rate=1.0, now=0.0)
    assert drain(used, 0.0) == 0
    assert drain(used, 10.0) == 10


def test_resize_to_smaller_drops_tokens():
    full = bucket()
    full.resize(capacity=2, rate=RATE, now=0.0)
    assert drain(full, 0.0) == 2


def test_restore_in_same_boot_continues():
    used = bucket(now=1000.0)
    drain(used, 1000.0)
    stored = used.snapshot(now=1001.0, boot_id="boot-1")
    after = bucket(now=1013.0)
    after.restore(stored, now=1013.0, boot_id="boot-1")
    assert drain(after, 1013.0) == 2


def test_restore_after_reboot_refills_for_uptime():
    used = bucket(now=50_000.0)
    drain(used, 50_000.0)
    stored = used.snapshot(now=50_000.0, boot_id="boot-1")
    after = bucket(now=13.0)
    after.restore(stored, now=13.0, boot_id="boot-2")
    assert drain(after, 13.0) == 2


@pytest.mark.parametrize("tokens, granted", [(-5.0, 0), (1e12, CAPACITY), (float("inf"), CAPACITY)])
def test_restore_of_invalid_state_is_clamped(tokens, granted):
    restored = bucket()
    restored.restore(BucketState(tokens, at=1000.0, boot_id="boot-1"), now=1000.0, boot_id="boot-1")
    assert drain(restored, 1000.0) == granted


def test_restored_fraction_grants_nothing():
    restored = bucket()
    restored.restore(BucketState(0.5, at=1000.0, boot_id="boot-1"), now=1000.0, boot_id="boot-1")
    assert drain(restored, 1000.0) == 0


def test_restore_of_future_time_adds_nothing():
    restored = bucket()
    restored.restore(BucketState(0.0, at=9999.0, boot_id="boot-1"), now=10.0, boot_id="boot-1")
    assert restored.tokens(10.0) == 0


CAPACITIES = st.integers(1, 20)
RATES = st.floats(1 / 60, 100, allow_nan=False)
STEPS = st.lists(
    st.tuples(st.floats(0, 30, allow_nan=False), st.integers(0, 10), st.sampled_from(["wait", "restart", "reboot"])),
    max_size=40,
)


@given(CAPACITIES, RATES, STEPS)
def test_grants_in_any_window_are_limited(capacity, rate, steps):
    """For any order of waits, bursts, restarts and reboots; `true_time` is a clock that no reboot resets."""
    limiter = bucket(capacity=capacity, rate=rate)
    true_time = boot_time = 0.0
    boot = 1
    grants = []
    for wait, tries, event in steps:
        if event != "wait":
            stored = limiter.snapshot(now=true_time - boot_time, boot_id=f"boot-{boot}")
            true_time += wait
            if event == "reboot":
                boot, boot_time = boot + 1, true_time - wait / 2
            limiter = bucket(true_time - boot_time, capacity=capacity, rate=rate)
            limiter.restore(stored, now=true_time - boot_time, boot_id=f"boot-{boot}")
        else:
            true_time += wait
        grants += [true_time for _ in range(tries) if limiter.take(true_time - boot_time)]
    for i, start in enumerate(grants):
        for j, end in enumerate(grants[i:], start=1):
            assert j <= capacity + rate * (end - start) + 1e-6


@given(CAPACITIES, RATES, st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=50))
def test_take_after_wait_s_succeeds(capacity, rate, pauses):
    limiter = bucket(capacity=capacity, rate=rate)
    now = 0.0
    for pause in pauses:
        now += pause
        now += limiter.wait_s(now)
        assert limiter.take(now)
