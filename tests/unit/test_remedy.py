"""The ladder of a camera that gives no pictures."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain.remedy import AGAIN_S, FIRST_RETRY_S, LONGEST_RETRY_S, PATIENCE_S, Ladder, Remedy

LIMIT = 3


def fail(ladder, times=1, *, now=100.0, auto_reboot=True, heard_at=math.inf):
    given = {"heard_at": heard_at, "limit": LIMIT, "auto_reboot": auto_reboot}
    return [ladder.failed("no frame", now, **given) for _ in range(times)]


def test_it_is_tried_again_then_rebooted_then_left_to_a_person():
    ladder = Ladder()
    assert (ladder.state, ladder.due, ladder.advice) == (Remedy.OK, None, "")
    assert fail(ladder, 2) == [False, False]
    assert (ladder.state, ladder.trouble) == (Remedy.RETRYING, "no frame")
    assert fail(ladder) == [True]
    ladder.reboots(110.0)
    assert (ladder.state, ladder.since, ladder.due) == (Remedy.REBOOTING, 110.0, None)
    ladder.came_back(120.0)
    assert (ladder.state, ladder.failures) == (Remedy.RETRYING, 0), "whether it helped, a picture shows"
    assert fail(ladder, 3, now=130.0) == [False] * 3
    assert (ladder.state, ladder.since) == (Remedy.NEEDS_POWER_CYCLE, 130.0)
    assert "unplug" in ladder.advice


def test_a_picture_ends_it_from_anywhere():
    for steps in range(4):
        ladder = Ladder()
        fail(ladder, LIMIT)
        for step in (ladder.reboots, ladder.came_back, lambda now, ladder=ladder: fail(ladder, LIMIT))[:steps]:
            step(200.0)
        ladder.succeeded(300.0)
        assert (ladder.state, ladder.failures, ladder.trouble, ladder.since) == (Remedy.OK, 0, "", 300.0)
        assert fail(ladder, LIMIT, now=200.0 + AGAIN_S)[-1], "and the next time it is rebooted again"


def test_one_that_is_silent_too_is_away_and_rebooted_only_when_it_is_heard_and_fails():
    ladder = Ladder()
    assert not any(fail(ladder, 20, heard_at=99.0)), "not heard since the first failure"
    assert ladder.state is Remedy.RETRYING
    assert fail(ladder, now=130.0, heard_at=120.0) == [True]
    unheard = Ladder()
    fail(unheard, heard_at=99.0)
    fail(unheard, LIMIT, now=100 + PATIENCE_S, heard_at=99.0)
    assert unheard.state is Remedy.NEEDS_POWER_CYCLE, "nobody can tell of it but a person"


def test_one_that_works_for_a_while_after_each_reboot_is_not_rebooted_all_day():
    ladder, reboots = Ladder(), 0
    for now in range(0, 24 * 3600, 60):
        if fail(ladder, LIMIT, now=float(now))[-1]:
            reboots += 1
            ladder.reboots(float(now))
            ladder.came_back(now + 10.0)
        ladder.succeeded(now + 20.0)
    assert reboots == 24 * 3600 / AGAIN_S


def test_a_boot_that_nobody_asked_for_begins_afresh_and_one_that_was_asked_for_does_not():
    ladder = Ladder()
    fail(ladder, LIMIT)
    ladder.reboots(1.0)
    ladder.booted(2.0)
    assert ladder.state is Remedy.REBOOTING
    ladder.stayed_away("it did not come back", 60.0)
    assert (ladder.state, ladder.trouble) == (Remedy.NEEDS_POWER_CYCLE, "it did not come back")
    ladder.booted(70.0)
    assert ladder.state is Remedy.OK


def test_a_reboot_by_an_operator_of_a_camera_that_works_is_no_trouble():
    ladder = Ladder()
    ladder.reboots(1.0)
    ladder.came_back(9.0)
    assert (ladder.state, ladder.was_rebooted) == (Remedy.OK, False)
    ladder.came_back(10.0)
    assert ladder.since == 9.0


def test_without_auto_reboot_it_is_tried_for_a_while_and_then_left_to_a_person():
    ladder = Ladder()
    assert not any(fail(ladder, 50, auto_reboot=False))
    assert ladder.state is Remedy.RETRYING
    fail(ladder, now=100.0 + PATIENCE_S, auto_reboot=False)
    assert ladder.state is Remedy.NEEDS_POWER_CYCLE


def test_it_is_asked_again_ever_more_rarely_and_seldom_once_a_person_is_waited_for():
    ladder = Ladder()
    waits = []
    for _ in range(8):
        fail(ladder, auto_reboot=False)
        waits.append(ladder.due - 100)
    assert waits == [FIRST_RETRY_S, 10, 20, 40, *[LONGEST_RETRY_S] * 4]
    ladder.stayed_away("gone", 200.0)
    assert ladder.due == 200 + PATIENCE_S / 2


steps = st.sampled_from(["fail", "good", "reboots", "back", "away", "boot"])


@given(st.lists(steps, max_size=40), st.booleans())
def test_whatever_happens_it_is_never_rebooted_twice_for_one_trouble(story, auto):
    ladder, asked = Ladder(), 0
    for now, step in enumerate(story):
        match step:
            case "fail":
                asked += fail(ladder, now=float(now), auto_reboot=auto)[0] and ladder.was_rebooted
            case "good":
                ladder.succeeded(now)
            case "reboots":
                ladder.reboots(now)
            case "back":
                ladder.came_back(now)
            case "away":
                ladder.stayed_away("away", now)
            case "boot":
                ladder.booted(now)
        assert (ladder.state is Remedy.OK) == (ladder.advice == "")
        assert ladder.failures >= 0
    assert asked == 0


@pytest.mark.parametrize("state", Remedy)
def test_every_step_but_ok_says_what_to_do(state):
    assert bool(Ladder(state=state).advice) is (state is not Remedy.OK)
