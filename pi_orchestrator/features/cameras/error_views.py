"""The current error of a camera with its count, and its failed onboarding, as the API returns them."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.features.cameras.model import RecoveryState
from pi_orchestrator.features.cameras.ports import OnboardingFailure, Recovery
from pi_orchestrator.features.devices.model import Device
from pi_orchestrator.features.devices.views import ClockReading
from pi_orchestrator.http.model import ApiModel, Time


class OnboardingFailureView(ApiModel):
    """The last failed onboarding attempt of an unregistered camera; `failures`: in a row; no code: an internal error.

    From `next_attempt_at` on, the next message of the camera starts an attempt. `remedy`: what an operator can do.
    """

    code: str | None = None
    message: str
    failures: int
    failed_at: Time
    next_attempt_at: Time
    remedy: str


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


def current_error(
    device: Device | None, recovery: Recovery, failure: OnboardingFailure | None, *, now: float
) -> tuple[str | None, int]:
    """The current error, and how often this kind of error has occurred; (None, 0) if there is none."""
    if recovery.state is RecoveryState.NEEDS_POWER_CYCLE:
        is_reboot_error = recovery.last_error.startswith(ErrorCode.REBOOT_FAILED)
        text = recovery.last_error if is_reboot_error else f"needs power cycle: {recovery.last_error}"
        return text, max(1, recovery.failures)
    if device and device.unstable:
        return f"unstable: it {device.interruptions.summary(now)}", len(device.interruptions)
    if recovery.last_error:
        return recovery.last_error, max(1, recovery.failures)
    if failure:
        return f"not onboarded: {failure.text}", failure.failures
    return (device.last_error, device.error_count) if device and device.last_error else (None, 0)
