"""A circuit breaker: after several failures in a row it refuses attempts for a while, then one trial decides.

Times are monotonic seconds, passed in.
"""

from __future__ import annotations

MAX_FACTOR = 8
"""Each failed trial doubles the wait, up to this multiple of `reset_s`."""


class Breaker:
    """Closed at first; open for `reset_s` after `failures` in a row; then half open: one trial at a time is allowed."""

    def __init__(self, *, failures: int, reset_s: float) -> None:
        self._limit = failures
        self._reset_s = reset_s
        self._failures = 0
        self._factor = 1
        self._open_until: float | None = None
        self._is_trial_running = False

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open or half open."""
        return self._open_until is not None

    def wait_s(self, now: float) -> float:
        """Seconds until the circuit is half open; 0 if it is closed or half open, even while a trial is running."""
        return max(0.0, self._open_until - now) if self._open_until is not None else 0.0

    def begin_attempt(self, now: float) -> bool:
        """Begin an attempt; False if it is not allowed (open, or half open with a trial running)."""
        if self._open_until is None:
            return True
        if now < self._open_until or self._is_trial_running:
            return False
        self._is_trial_running = True
        return True

    def end_attempt(self) -> None:
        """End an attempt, even if no result was recorded for it; the next trial may begin."""
        self._is_trial_running = False

    def record_success(self) -> None:
        """Record a success: close the circuit."""
        self._failures, self._factor, self._open_until, self._is_trial_running = 0, 1, None, False

    def record_failure(self, now: float) -> bool:
        """Record a failure; True if it opened the circuit, for the first time or again after a failed trial."""
        self._failures += 1
        if self._open_until is not None:
            if now < self._open_until:
                return False  # an attempt from before the circuit opened
            self._factor = min(MAX_FACTOR, 2 * self._factor)
        elif self._failures < self._limit:
            return False
        self._is_trial_running = False
        self._open_until = now + self._reset_s * self._factor
        return True
