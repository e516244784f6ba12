"""The current error of a camera with its count, its diagnostics and failed onboarding, as the API returns them."""

from __future__ import annotations

from typing import NamedTuple

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.features.cameras.model import RecoveryState
from pi_orchestrator.features.cameras.ports import OnboardingFailure, Recovery
from pi_orchestrator.features.devices.model import Device
from pi_orchestrator.features.devices.views import ClockReading
from pi_orchestrator.http.model import ApiModel, Time


class OnboardingFailureView(ApiModel):
    """The last failed onboarding attempt of an unregistered camera; `code` is missing for an internal error.

    `failures`: number of failed attempts in a row. From `next_attempt_at` on, the next message of the camera starts an
    attempt. `remedy`: what an operator can do.
    """

    code: str | None = None
    message: str
    failures: int
    failed_at: Time
    next_attempt_at: Time
    remedy: str


class RemedyView(ApiModel):
    """The recovery of a camera that delivers no pictures, and what an operator can do."""

    state: RecoveryState
    since: Time | None = None
    failures: int
    advice: str


class Diagnostics(ApiModel):
    """Connection quality, errors and recovery of a camera.

    What `error_count` counts depends on `last_error`: failed captures in a row, the interruptions in the text, failed
    onboarding attempts in a row, or new error texts that the camera reported; 1 for a failed reboot.
    `last_error_time`: when an error of this kind last occurred.
    `unreadable`: what is wrong with the camera's last status message, if it could not be read.
    """

    connection_quality: str
    error_count: int
    last_error: str | None = None
    last_error_time: Time | None = None
    unreadable: str | None = None
    avg_capture_time_ms: int | None = None
    remedy: RemedyView


def onboarding_failure_view(failure: OnboardingFailure, now: ClockReading) -> OnboardingFailureView:
    """The view of a failure."""
    return OnboardingFailureView(
        code=failure.code,
        message=failure.message,
        failures=failure.failures,
        failed_at=now.moment(failure.failed_at) or "",
        next_attempt_at=now.moment(failure.next_attempt_at) or "",
        remedy=failure.remedy,
    )


def onboarding_reason(failure: OnboardingFailure, now: ClockReading) -> str:
    """Why a camera is not onboarded, when the next attempt comes and what to do, in one sentence."""
    wait_s = -now.age(failure.next_attempt_at)
    following = f"in {wait_s:.0f} s" if wait_s > 0 else "with its next message"
    times = "once" if failure.failures == 1 else f"{failure.failures} times in a row"
    return f"onboarding failed {times}: {failure.text}; next attempt {following}; {failure.remedy}"


class CurrentError(NamedTuple):
    """The current error of a camera, how often this kind of error has occurred, and when last, monotonic seconds."""

    text: str | None = None
    times: int = 0
    at: float | None = None


def current_error(
    device: Device | None, recovery: Recovery, failure: OnboardingFailure | None, *, now: float
) -> CurrentError:
    """The current error; without a text if there is none."""
    if recovery.state is RecoveryState.NEEDS_POWER_CYCLE:
        if recovery.last_error.startswith(ErrorCode.REBOOT_FAILED):
            return CurrentError(recovery.last_error, 1, recovery.failed_at)  # `failures` are failed captures
        text = f"needs power cycle: {recovery.last_error}"
        return CurrentError(text, max(1, recovery.failures), recovery.failed_at)
    if device and device.unstable:
        interruptions = device.interruptions
        text = f"unstable: it {interruptions.summary(now)}"
        return CurrentError(text, interruptions.count(now), interruptions.last_at)
    if recovery.last_error:
        return CurrentError(recovery.last_error, max(1, recovery.failures), recovery.failed_at)
    if failure:
        return CurrentError(f"not onboarded: {failure.text}", failure.failures, failure.failed_at)
    if device and device.last_error:
        return CurrentError(device.last_error, device.error_count, device.last_error_at)
    return CurrentError()
