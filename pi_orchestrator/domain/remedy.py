"""What is done about a camera that gives no pictures: tried again, rebooted, and in the end a person is asked for.

One ladder for each camera. Only a picture shows that a reboot has helped; a boot that nobody here asked for (a person
has unplugged it, say) begins afresh. Only one that was heard while it failed is rebooted: one that is silent, too, is
away, with all the others perhaps, and a command that waited for its return would hit it when it is well again. Times
are monotonic seconds, passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 60.0
PATIENCE_S = 600.0
"""Where a reboot is out of the question, a camera that fails for this long is left to a person."""
AGAIN_S = 1800.0
"""One that fails again and again is rebooted at most this often: each time it works for a while it begins afresh."""


class Remedy(StrEnum):
    """The steps of the ladder."""

    OK = "ok"
    RETRYING = "retrying"
    REBOOTING = "rebooting"
    NEEDS_POWER_CYCLE = "needs_power_cycle"


_ADVICE = {
    Remedy.OK: "",
    Remedy.RETRYING: "it is asked again by itself; look at its light and its lens, or reboot it",
    Remedy.REBOOTING: "wait a minute: it is being rebooted",
    Remedy.NEEDS_POWER_CYCLE: "unplug it, wait five seconds and plug it in again",
}


@dataclass(slots=True)
class Ladder:
    """Where one camera stands: since when, after how many failures in a row, and what the last one said."""

    state: Remedy = Remedy.OK
    since: float = 0.0
    failures: int = 0
    failed_at: float | None = None
    trouble: str = ""
    was_rebooted: bool = False
    rebooted_at: float | None = None

    @property
    def advice(self) -> str:
        """What a person can do."""
        return _ADVICE[self.state]

    @property
    def due(self) -> float | None:
        """When it should be asked for a picture again; None where nothing is to be tried."""
        if self.state is Remedy.NEEDS_POWER_CYCLE:
            return (self.failed_at or self.since) + PATIENCE_S / 2  # somebody may have seen to it
        if self.state is not Remedy.RETRYING:
            return None
        wait_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** max(0, self.failures - 1))
        return max(self.since, self.failed_at or self.since) + wait_s

    def failed(self, why: str, now: float, *, heard_at: float, limit: int, auto_reboot: bool) -> bool:
        """A capture failed by the fault of a camera that was heard last at `heard_at`; True where a reboot is due."""
        self.failures += 1
        self.failed_at, self.trouble = now, why
        if self.state is Remedy.OK:
            self._go(Remedy.RETRYING, now)
        if self.state is not Remedy.RETRYING or self.failures < limit:
            return False
        rested = self.rebooted_at is None or now - self.rebooted_at >= AGAIN_S
        due = auto_reboot and rested and not self.was_rebooted and heard_at > self.since
        if self.was_rebooted or (not due and now - self.since >= PATIENCE_S):
            self._go(Remedy.NEEDS_POWER_CYCLE, now)
        return due

    def succeeded(self, now: float) -> None:
        """A good picture."""
        self._afresh(now)

    def reboots(self, now: float) -> None:
        """It has been told to reboot."""
        self.was_rebooted, self.rebooted_at = True, now
        self._go(Remedy.REBOOTING, now)

    def came_back(self, now: float) -> None:
        """The reboot is over; whether it helped, the next picture shows."""
        if self.state is not Remedy.REBOOTING:
            return
        if not self.failures:
            self._afresh(now)
            return
        self.failures = 0
        self._go(Remedy.RETRYING, now)

    def stayed_away(self, why: str, now: float) -> None:
        """It was told to reboot and did not, or did not come back."""
        self.trouble, self.failed_at = why, now
        self.was_rebooted = True
        self._go(Remedy.NEEDS_POWER_CYCLE, now)

    def booted(self, now: float) -> None:
        """It has booted without being told to."""
        if self.state is not Remedy.REBOOTING:
            self._afresh(now)

    def _afresh(self, now: float) -> None:
        self.failures, self.trouble, self.was_rebooted = 0, "", False
        self._go(Remedy.OK, now)

    def _go(self, state: Remedy, now: float) -> None:
        if state is not self.state:
            self.state, self.since = state, now
