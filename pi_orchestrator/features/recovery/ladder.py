"""Escalation for a camera without pictures: retry, reboot, then notify the operator.

One ladder per camera. Only a picture proves that a reboot helped. A boot that the daemon did not request, such as a
power cycle, resets the ladder. A camera is rebooted only if it was seen while its captures failed: a camera that is
not seen is probably offline, and a queued command would reboot it after it has recovered. Times are monotonic seconds,
passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from pi_orchestrator.features.cameras.model import RecoveryState
from pi_orchestrator.features.captures import model as capture

ATTEMPT_S = capture.LIMIT_S
"""Failures within the time limit of one capture are one failure: impatient clients repeat a request several times."""
FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 60.0
ESCALATE_AFTER_S = 600.0
"""A camera that fails for this long and must not be rebooted needs an operator."""
REBOOT_INTERVAL_S = 1800.0
"""Minimum time between two reboots of one camera; a success between them does not shorten it."""


_ADVICE = {
    RecoveryState.OK: "",
    RecoveryState.RETRYING: "captures are retried automatically; check the camera's light and lens, or reboot it",
    RecoveryState.REBOOTING: "the camera is rebooting; wait a minute",
    RecoveryState.NEEDS_POWER_CYCLE: "unplug the camera, wait 5 seconds, and plug it in again",
}


@dataclass(slots=True)
class RecoveryLadder:
    """Recovery state of one camera. `since`: start of the state. `failures`: in a row since the last reboot.

    `counted_at`: time of the last failure that was counted; `failed_at`: that of the last one. `tried_at`: start of the
    last scheduled capture, whatever its result.

    `was_rebooted`: a reboot was accepted or has failed since the last reset (picture or boot). `rebooted_at`: the last
    accepted reboot, also from before the reset.
    """

    state: RecoveryState = RecoveryState.OK
    since: float = 0.0
    failures: int = 0
    failed_at: float | None = None
    counted_at: float | None = None
    tried_at: float = float("-inf")
    last_error: str = ""
    was_rebooted: bool = False
    rebooted_at: float | None = None

    @property
    def advice(self) -> str:
        """What an operator can do."""
        return _ADVICE[self.state]

    @property
    def last_attempt_at(self) -> float:
        """Time of the last failure or scheduled capture since the start of the state, or that start."""
        return max(self.since, self.failed_at or self.since, self.tried_at)

    @property
    def retry_at(self) -> float | None:
        """When the next capture is scheduled, monotonic seconds; None in the states OK and REBOOTING."""
        if self.state is RecoveryState.NEEDS_POWER_CYCLE:
            return self.last_attempt_at + ESCALATE_AFTER_S / 2  # it may have been repaired
        if self.state is not RecoveryState.RETRYING:
            return None
        wait_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** max(0, self.failures - 1))
        return self.last_attempt_at + wait_s

    def capture_failed(self, reason: str, now: float, *, seen_at: float, reboot_after: int, auto_reboot: bool) -> bool:
        """Count a failure by the fault of the camera, last seen at `seen_at`; return whether it must be rebooted.

        `reboot_after`: number of failures in a row before a reboot. Failures within ATTEMPT_S of a counted one are not
        counted.
        """
        self.failed_at, self.last_error = now, reason
        if self.failures and self.counted_at is not None and now - self.counted_at < ATTEMPT_S:
            return False
        self.failures += 1
        self.counted_at = now
        if self.state is RecoveryState.OK:
            self._set_state(RecoveryState.RETRYING, now)
        if self.state is not RecoveryState.RETRYING or self.failures < reboot_after:
            return False
        is_interval_over = self.rebooted_at is None or now - self.rebooted_at >= REBOOT_INTERVAL_S
        must_reboot = auto_reboot and is_interval_over and not self.was_rebooted and seen_at > self.since
        if self.was_rebooted or (not must_reboot and now - self.since >= ESCALATE_AFTER_S):
            self._set_state(RecoveryState.NEEDS_POWER_CYCLE, now)
        return must_reboot

    def capture_succeeded(self, now: float) -> None:
        """Reset the ladder after a picture."""
        self._reset(now)

    def reboot_requested(self, now: float) -> None:
        """Enter the state REBOOTING: the camera has accepted a reboot."""
        self.was_rebooted, self.rebooted_at = True, now
        self._set_state(RecoveryState.REBOOTING, now)

    def reboot_finished(self, now: float) -> None:
        """Return to RETRYING, or to OK without failures: the next capture shows whether the reboot helped."""
        if self.state is not RecoveryState.REBOOTING:
            return
        if not self.failures:
            self._reset(now)
            return
        self.failures = 0
        self._set_state(RecoveryState.RETRYING, now)

    def reboot_failed(self, reason: str, now: float) -> None:
        """Enter the state NEEDS_POWER_CYCLE: the camera did not reboot, or is not online again."""
        self.last_error, self.failed_at = reason, now
        self.was_rebooted = True
        self._set_state(RecoveryState.NEEDS_POWER_CYCLE, now)

    def booted(self, now: float) -> None:
        """Reset the ladder after a boot of the camera; no effect while a requested reboot runs."""
        if self.state is not RecoveryState.REBOOTING:
            self._reset(now)

    def _reset(self, now: float) -> None:
        self.failures, self.last_error, self.was_rebooted = 0, "", False
        self._set_state(RecoveryState.OK, now)

    def _set_state(self, state: RecoveryState, now: float) -> None:
        if state is not self.state:
            self.state, self.since = state, now
