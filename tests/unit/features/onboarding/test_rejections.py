"""RejectionLog: every rejection is counted, few are written. RetryBackoff: failed cameras wait."""

import asyncio

import pytest

from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.onboarding.backoff import (
    BASE_S,
    CAP_S,
    MAX_MESSAGE_CHARS,
    LastFailure,
    RetryBackoff,
    retry_rule,
)
from pi_orchestrator.features.onboarding.backoff import MAX_TRACKED as BACKOFF_MAX_TRACKED
from pi_orchestrator.features.onboarding.onboarding_event import OnboardingEvent, Stage
from pi_orchestrator.features.onboarding.policy import RejectionCode
from pi_orchestrator.features.onboarding.rejections import FLOOD_BURST, LONGEST_WINDOW_S, MAX_TRACKED, RejectionLog
from pi_orchestrator.features.onboarding.remedies import remedy_for

MAC = Mac("24:6F:28:B0:F7:F1")
OTHER = Mac("24:6F:28:B0:F7:F2")


def numbered_mac(number):
    return Mac("24:6F:28:" + ":".join(f"{number:06X}"[i : i + 2] for i in (0, 2, 4)))


def rejection(mac=MAC, code=RejectionCode.DENIED, stage=Stage.REJECTED):
    return OnboardingEvent(mac=mac, stage=stage, code=code, message="on the deny list")


@pytest.fixture
def rejections(clock):
    return RejectionLog(clock=clock)


def written(rejections):
    return [(entry.mac, entry.code) for entry in rejections.take()]


async def test_repeat_in_window_is_only_counted(rejections, clock):
    for _ in range(6):
        rejections.add(rejection())
        await clock.advance(11.9)
    assert written(rejections) == [(MAC, RejectionCode.DENIED)]
    assert rejections.take_counts() == {"rejected_by_policy": 6}


async def test_repeat_after_window_is_written(rejections, clock):
    for _ in range(3):
        rejections.add(rejection())
    await clock.advance(60)
    rejections.add(rejection())
    assert [entry.message for entry in rejections.take()] == [
        "on the deny list",
        "on the deny list (2 repeats since the last row)",
    ]


async def test_other_reason_or_camera_is_written(rejections):
    rejections.add(rejection())
    rejections.add(rejection(code=VerificationCode.SUBNET_NOT_ALLOWED))
    rejections.add(rejection(OTHER))
    assert written(rejections) == [
        (MAC, RejectionCode.DENIED),
        (MAC, VerificationCode.SUBNET_NOT_ALLOWED),
        (OTHER, RejectionCode.DENIED),
    ]


async def test_reasons_are_limited_separately(rejections, clock):
    for _ in range(10):
        rejections.add(rejection(code=VerificationCode.SUBNET_NOT_ALLOWED))
        rejections.add(rejection(code=RejectionCode.NO_ADDRESS, stage=Stage.FAILED))
        await clock.advance(5)
    assert sorted(written(rejections)) == [(MAC, RejectionCode.NO_ADDRESS), (MAC, VerificationCode.SUBNET_NOT_ALLOWED)]
    assert rejections.take_counts() == {"rejected_by_policy": 10, "failed": 10}


async def test_write_interval_doubles_up_to_an_hour(rejections, clock):
    rows, day = [], 24 * 3600
    for second in range(0, day, 30):
        rejections.add(rejection())
        rows += [second for _ in rejections.take()]
        await clock.advance(30)
    gaps = [later - earlier for earlier, later in zip(rows, rows[1:], strict=False)]
    assert gaps[:6] == [60, 120, 240, 480, 960, 1920]
    assert set(gaps[6:]) == {LONGEST_WINDOW_S}
    assert rejections.take_counts() == {"rejected_by_policy": day // 30}


async def test_mark_written_starts_window(rejections, clock):
    rejections.mark_written(MAC, RejectionCode.NOT_ENABLED)
    rejections.add(rejection(code=RejectionCode.NOT_ENABLED))
    assert written(rejections) == []
    await clock.advance(60)
    rejections.add(rejection(code=RejectionCode.NOT_ENABLED))
    assert written(rejections) == [(MAC, RejectionCode.NOT_ENABLED)]


async def test_flood_is_bounded_in_rows_and_memory(rejections, clock):
    for number in range(10_000):
        rejections.add(rejection(numbered_mac(number)))
    assert len(rejections.take()) == FLOOD_BURST
    assert rejections.take_counts() == {"rejected_by_policy": 10_000}
    assert len(rejections._last) <= MAX_TRACKED
    for number in range(20_000, 30_000):
        rejections.add(rejection(numbered_mac(number)))
    assert rejections.take() == []
    await clock.advance(100)
    for number in range(30_000, 40_000):
        rejections.add(rejection(numbered_mac(number)))
    assert len(rejections.take()) == 100
    assert len(rejections._last) <= MAX_TRACKED


async def test_tracked_cameras_are_bounded(rejections, clock):
    for number in range(2 * MAX_TRACKED):
        rejections.add(rejection(numbered_mac(number)))
        rejections.take()
        await clock.advance(1.0)
    assert len(rejections._last) == MAX_TRACKED


async def test_rows_and_counts_are_taken_once(rejections):
    rejections.add(rejection())
    rejections.count_already_onboarded()
    assert len(rejections.take()) == 1
    assert rejections.take() == []
    assert rejections.take_counts() == {"rejected_by_policy": 1, "already_onboarded": 1}
    assert rejections.take_counts() == {}


async def test_restored_rows_keep_their_order(rejections):
    rejections.add(rejection())
    first, counts = rejections.take(), rejections.take_counts()
    rejections.add(rejection(OTHER))
    rejections.restore(first, counts)
    assert written(rejections) == [(MAC, RejectionCode.DENIED), (OTHER, RejectionCode.DENIED)]
    assert rejections.take_counts() == {"rejected_by_policy": 2}


async def test_restored_rows_are_bounded(rejections):
    rejections.restore([rejection(numbered_mac(number)) for number in range(5000)], {})
    assert len(rejections.take()) == FLOOD_BURST


async def test_wait_ends_when_a_row_is_added(rejections):
    waiting = asyncio.create_task(rejections.wait(60))
    rejections.count_already_onboarded()
    await asyncio.sleep(0)
    assert not waiting.done()
    rejections.add(rejection())
    await waiting
    rejections.take()
    again = asyncio.create_task(rejections.wait(60))
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


async def test_backoff_grows_with_failures(clock):
    backoff = RetryBackoff(clock=clock)
    assert not backoff.must_wait(MAC)
    for failures in range(10):
        backoff.record_failure(MAC, VerificationCode.TIMEOUT, "no answer")
        limit_s = min(CAP_S, BASE_S * 2**failures)
        await clock.advance(limit_s / 10 - 0.01)
        assert backoff.must_wait(MAC)
        assert not backoff.must_wait(OTHER)
        await clock.advance(limit_s)
        assert not backoff.must_wait(MAC)


def test_last_failure_has_reason_and_next_attempt(clock):
    backoff = RetryBackoff(clock=clock)
    assert backoff.last(MAC) is None
    for _ in range(9):
        backoff.record_failure(MAC, VerificationCode.TIMEOUT, "no answer " * 1000)
    failure = backoff.last(MAC)
    assert (failure.code, failure.failures, failure.failed_at) == ("VERIFY_TIMEOUT", 9, clock.monotonic())
    assert len(failure.message) == MAX_MESSAGE_CHARS
    assert failure.failed_at < failure.next_attempt_at <= failure.failed_at + CAP_S
    assert "signal" in failure.remedy
    backoff.forget(MAC)
    assert backoff.last(MAC) is None


@pytest.mark.parametrize("code", [*VerificationCode, RejectionCode.CONTAINER_FULL, RejectionCode.CONTAINER_UNKNOWN])
def test_every_failure_code_has_a_remedy(code):
    assert remedy_for(code) != remedy_for(None)


def test_retry_rule_fails_until_next_attempt():
    failure = LastFailure(VerificationCode.TIMEOUT, "no answer within 5 s", 9, failed_at=100.0, next_attempt_at=140.0)
    waiting, due = retry_rule(failure, now=110.0), retry_rule(failure, now=140.0)
    assert (waiting.passed, waiting.code, due.passed, due.code) == (False, "VERIFY_TIMEOUT", True, None)
    assert "failed 9 times in a row: VERIFY_TIMEOUT: no answer within 5 s; next attempt in 30 s; check" in waiting.why
    assert "next attempt with its next message" in due.why


async def test_success_resets_backoff(clock):
    backoff = RetryBackoff(clock=clock)
    for _ in range(8):
        backoff.record_failure(MAC, VerificationCode.TIMEOUT, "no answer")
    backoff.forget(MAC)
    assert not backoff.must_wait(MAC)
    backoff.record_failure(MAC, VerificationCode.TIMEOUT, "no answer")
    await clock.advance(BASE_S)
    assert not backoff.must_wait(MAC)


def test_failure_at_claimed_address_does_not_delay_a_proven_camera(clock):
    proven = set()
    backoff = RetryBackoff(clock=clock, has_address=proven.__contains__)
    for _ in range(9):
        backoff.record_failure(MAC, VerificationCode.UNREACHABLE, "cannot connect", is_claimed=True)
    assert backoff.must_wait(MAC)
    proven.add(MAC)
    assert not backoff.must_wait(MAC)
    assert backoff.last(MAC).next_attempt_at <= clock.monotonic()
    backoff.record_failure(MAC, VerificationCode.TIMEOUT, "no answer")
    assert backoff.must_wait(MAC)
    assert backoff.last(MAC).failures == 1


def test_backoff_drops_the_oldest_failure(clock):
    backoff = RetryBackoff(clock=clock)
    for number in range(BACKOFF_MAX_TRACKED + 1):
        backoff.record_failure(numbered_mac(number), VerificationCode.TIMEOUT, "no answer")
    assert not backoff.must_wait(numbered_mac(0))
    assert backoff.must_wait(numbered_mac(1))
    assert backoff.must_wait(numbered_mac(BACKOFF_MAX_TRACKED))
