"""The recovery ladder of one camera."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.features.cameras.model import RecoveryState
from pi_orchestrator.features.recovery import ladder as recovery_ladder
from pi_orchestrator.features.recovery.ladder import (
    ATTEMPT_S,
    ESCALATE_AFTER_S,
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    REBOOT_INTERVAL_S,
    RecoveryLadder,
)

LIMIT = 3
STILL_SEEN = math.inf
"""Time of a last sighting: later than every failure, so that the camera may be rebooted."""


@pytest.fixture(scope="module", autouse=True)
def every_failure_counts():
    """Count each failure as a separate attempt, except in tests that use `attempt_limit`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery_ladder, "ATTEMPT_S", 0.0)
        yield


@pytest.fixture
def attempt_limit(monkeypatch):
    monkeypatch.setattr(recovery_ladder, "ATTEMPT_S", ATTEMPT_S)


def fail(ladder, times=1, *, now=100.0, auto_reboot=True, seen_at=STILL_SEEN):
    """Let captures fail; returns for each failure whether the camera must be rebooted."""
    options = {"seen_at": seen_at, "reboot_after": LIMIT, "auto_reboot": auto_reboot}
    return [ladder.capture_failed("no frame", now, **options) for _ in range(times)]


def test_failing_camera_is_retried_rebooted_and_escalated():
    ladder = RecoveryLadder()
    assert (ladder.state, ladder.retry_at, ladder.advice) == (RecoveryState.OK, None, "")
    assert fail(ladder, 2) == [False, False]
    assert (ladder.state, ladder.last_error) == (RecoveryState.RETRYING, "no frame")
    assert fail(ladder) == [True]
    ladder.reboot_requested(110.0)
    assert (ladder.state, ladder.since, ladder.retry_at) == (RecoveryState.REBOOTING, 110.0, None)
    ladder.reboot_finished(120.0)
    assert (ladder.state, ladder.failures) == (RecoveryState.RETRYING, 0), "not OK without a picture"
    assert fail(ladder, 3, now=130.0) == [False] * 3
    assert (ladder.state, ladder.since) == (RecoveryState.NEEDS_POWER_CYCLE, 130.0)
    assert "unplug" in ladder.advice


def test_repeats_within_one_attempt_are_one_failure(attempt_limit):
    ladder = RecoveryLadder()
    for seconds in (0, 1, 2, 5, 10, 20, ATTEMPT_S - 0.1):
        assert fail(ladder, now=100.0 + seconds) == [False]
    assert (ladder.failures, ladder.state, ladder.failed_at) == (1, RecoveryState.RETRYING, 100 + ATTEMPT_S - 0.1)
    assert [fail(ladder, now=100.0 + attempt * ATTEMPT_S) for attempt in (1, 2)] == [[False], [True]]
    assert ladder.failures == LIMIT


def test_scheduled_capture_delays_the_next_one_whatever_its_result():
    ladder = RecoveryLadder()
    fail(ladder, now=100.0)
    assert ladder.retry_at == 100.0 + FIRST_RETRY_S
    ladder.tried_at = 500.0
    assert (ladder.retry_at, ladder.failures, ladder.failed_at) == (500.0 + FIRST_RETRY_S, 1, 100.0)


def test_failure_after_success_or_reboot_counts_at_once(attempt_limit):
    ladder = RecoveryLadder()
    fail(ladder)
    ladder.capture_succeeded(101.0)
    fail(ladder, now=102.0)
    assert (ladder.failures, ladder.state) == (1, RecoveryState.RETRYING)
    ladder.reboot_requested(103.0)
    ladder.reboot_finished(110.0)
    fail(ladder, now=111.0)
    assert ladder.failures == 1


def test_success_resets_the_ladder_in_any_state():
    for step_count in range(4):
        ladder = RecoveryLadder()
        fail(ladder, LIMIT)
        if step_count > 0:
            ladder.reboot_requested(200.0)
        if step_count > 1:
            ladder.reboot_finished(200.0)
        if step_count > 2:
            fail(ladder, LIMIT)
        ladder.capture_succeeded(300.0)
        assert (ladder.state, ladder.failures, ladder.last_error, ladder.since) == (RecoveryState.OK, 0, "", 300.0)
        assert fail(ladder, LIMIT, now=200.0 + REBOOT_INTERVAL_S)[-1], "a later failure leads to a reboot again"


def test_camera_not_seen_since_failure_is_not_rebooted():
    ladder = RecoveryLadder()
    assert not any(fail(ladder, 20, seen_at=99.0)), "not seen since the first failure"
    assert ladder.state is RecoveryState.RETRYING
    assert fail(ladder, now=130.0, seen_at=120.0) == [True]
    unseen = RecoveryLadder()
    fail(unseen, seen_at=99.0)
    fail(unseen, LIMIT, now=100 + ESCALATE_AFTER_S, seen_at=99.0)
    assert unseen.state is RecoveryState.NEEDS_POWER_CYCLE


def test_reboots_of_a_camera_are_limited():
    ladder, reboot_count = RecoveryLadder(), 0
    for now in range(0, 24 * 3600, 60):
        if fail(ladder, LIMIT, now=float(now))[-1]:
            reboot_count += 1
            ladder.reboot_requested(float(now))
            ladder.reboot_finished(now + 10.0)
        ladder.capture_succeeded(now + 20.0)
    assert reboot_count == 24 * 3600 / REBOOT_INTERVAL_S


def test_only_an_unrequested_boot_resets_the_ladder():
    ladder = RecoveryLadder()
    fail(ladder, LIMIT)
    ladder.reboot_requested(1.0)
    ladder.booted(2.0)
    assert ladder.state is RecoveryState.REBOOTING
    ladder.reboot_failed("it did not come back", 60.0)
    assert (ladder.state, ladder.last_error) == (RecoveryState.NEEDS_POWER_CYCLE, "it did not come back")
    ladder.booted(70.0)
    assert ladder.state is RecoveryState.OK


def test_reboot_of_a_healthy_camera_ends_in_ok():
    ladder = RecoveryLadder()
    ladder.reboot_requested(1.0)
    ladder.reboot_finished(9.0)
    assert (ladder.state, ladder.was_rebooted) == (RecoveryState.OK, False)
    ladder.reboot_finished(10.0)
    assert ladder.since == 9.0


def test_camera_is_escalated_without_reboot_if_auto_reboot_is_off():
    ladder = RecoveryLadder()
    assert not any(fail(ladder, 50, auto_reboot=False))
    assert ladder.state is RecoveryState.RETRYING
    fail(ladder, now=100.0 + ESCALATE_AFTER_S, auto_reboot=False)
    assert ladder.state is RecoveryState.NEEDS_POWER_CYCLE


def test_retry_delay_doubles_up_to_limit():
    ladder = RecoveryLadder()
    waits = []
    for _ in range(8):
        fail(ladder, auto_reboot=False)
        waits.append(ladder.retry_at - 100)
    assert waits == [FIRST_RETRY_S, 10, 20, 40, *[LONGEST_RETRY_S] * 4]
    ladder.reboot_failed("offline", 200.0)
    assert ladder.retry_at == 200 + ESCALATE_AFTER_S / 2


steps = st.sampled_from(["failure", "success", "reboot", "reboot finished", "reboot failed", "boot"])


@given(st.lists(steps, max_size=40), st.booleans())
def test_second_reboot_is_never_required_without_success(sequence, auto_reboot):
    ladder, second_reboots = RecoveryLadder(), 0
    for now, step in enumerate(sequence):
        match step:
            case "failure":
                second_reboots += fail(ladder, now=float(now), auto_reboot=auto_reboot)[0] and ladder.was_rebooted
            case "success":
                ladder.capture_succeeded(now)
            case "reboot":
                ladder.reboot_requested(now)
            case "reboot finished":
                ladder.reboot_finished(now)
            case "reboot failed":
                ladder.reboot_failed("offline", now)
            case "boot":
                ladder.booted(now)
        assert (ladder.state is RecoveryState.OK) == (ladder.advice == "")
        assert ladder.failures >= 0
    assert second_reboots == 0


@pytest.mark.parametrize("state", RecoveryState)
def test_advice_exists_for_every_state_but_ok(state):
    assert bool(RecoveryLadder(state=state).advice) is (state is not RecoveryState.OK)
