"""Last failure and back-off of each camera: one that keeps failing must not use up the tokens of the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.supervisor import full_jitter
from pi_orchestrator.features.onboarding.policy import Code, RuleResult
from pi_orchestrator.features.onboarding.remedies import remedy_for

BASE_S = 5.0
CAP_S = 600.0
MAX_TRACKED = 4096
MAX_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True)
class LastFailure:
    """The last failed attempt of a camera, and how many failed in a row; times are monotonic seconds.

    `code` is None for an internal error. From `next_attempt_at` on, the next message of the camera starts an attempt.
    `is_claimed`: the attempt was at an address that is known from messages alone.
    """

    code: Code | None
    message: str
    failures: int
    failed_at: float
    next_attempt_at: float
    is_claimed: bool = False

    @property
    def text(self) -> str:
        """Code and message in one text."""
        return f"{self.code}: {self.message}" if self.code else self.message

    @property
    def remedy(self) -> str:
        """What an operator can do."""
        return remedy_for(self.code)


class RetryBackoff:
    """Exponential back-off per MAC with full jitter. Holds at most MAX_TRACKED MACs; drops the oldest.

    A failure at a claimed address does not delay a camera with a proven address: anybody can claim an address for it.
    """

    def __init__(self, *, clock: Clock, has_address: Callable[[Mac], bool] = lambda _: False) -> None:
        self._clock = clock
        self._has_address = has_address
        self._failures: BoundedDict[Mac, LastFailure] = BoundedDict(MAX_TRACKED)
        self.revision = 0

    def must_wait(self, mac: Mac) -> bool:
        """Whether the camera failed too recently to try again."""
        failure = self.last(mac)
        return failure is not None and self._clock.monotonic() < failure.next_attempt_at

    def last(self, mac: Mac) -> LastFailure | None:
        """The last failed attempt; None if the camera has not failed since its last success."""
        failure = self._failures.get(mac)
        if failure and failure.is_claimed and self._has_address(mac):
            return replace(failure, next_attempt_at=min(failure.next_attempt_at, self._clock.monotonic()))
        return failure

    def record_failure(self, mac: Mac, code: Code | None, message: str, *, is_claimed: bool = False) -> None:
        """Record a failure; the upper limit of the next wait doubles, up to CAP_S."""
        previous, now = self._failures.get(mac), self._clock.monotonic()
        if previous and previous.is_claimed and not is_claimed:
            previous = None
        failures = previous.failures if previous else 0
        wait_s = full_jitter(failures, base_s=BASE_S, cap_s=CAP_S)
        self._failures[mac] = LastFailure(
            code, message[:MAX_MESSAGE_CHARS], failures + 1, now, now + wait_s, is_claimed
        )
        self.revision += 1

    def forget(self, mac: Mac) -> None:
        """Clear the history of a camera that succeeded."""
        self._failures.pop(mac, None)
        self.revision += 1


def retry_rule(failure: LastFailure, *, now: float) -> RuleResult:
    """The result of the rule `retry`: whether a camera that failed may be tried again."""
    times = "once" if failure.failures == 1 else f"{failure.failures} times in a row"
    why = f"onboarding failed {times}: {failure.text}"
    wait_s = failure.next_attempt_at - now
    if wait_s > 0:
        return RuleResult("retry", False, f"{why}; next attempt in {wait_s:.0f} s; {failure.remedy}", failure.code)
    return RuleResult("retry", True, f"{why}; next attempt with its next message; {failure.remedy}")
