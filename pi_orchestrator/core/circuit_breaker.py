"""A circuit breaker: after several failures in a row it refuses attempts for a while, then one probe decides.

Times are monotonic seconds, passed in.
"""

from __future__ import annotations

MAX_FACTOR = 8
"""Each failed probe doubles the wait, up to this multiple of `reset_s`."""


class Breaker:
    """Closed at first; open for `reset_s` after `failures` in a row; then half open: one probe at a time is allowed."""

    def __init__(self, *, failures: int, reset_s: float) -> None:
        self._limit = failures
        self._reset_s = reset_s
        self._failures = 0
        self._factor = 1
        self._open_until: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open or half open."""
        return self._open_until is not None

    def wait_s(self, now: float) -> float:
        """Seconds until the circuit is half open; 0 if it is closed or half open, even while a probe is running."""
        return max(0.0, self._open_until - now) if self._open_until is not None else 0.0

    def begin_attempt(self, now: float) -> bool:
        """Begin an attempt; False if it is not allowed (open, or half open with a probe running)."""
        if self._open_until is None:
            return True
        if now < self._open_until or self._probing:
            return False
        self._probing = True
        return True

    def end_attempt(self) -> None:
        """End an attempt that may have no result; the next one may begin."""
        self._probing = False

    def record_success(self) -> None:
        """Record a success: close the circuit."""
        self._failures, self._factor, self._open_until, self._probing = 0, 1, None, False

    def record_failure(self, now: float) -> bool:
        """Record a failure; True if it opened the circuit, also again after a failed probe."""
        self._failures += 1
        if self._open_until is not None:
            if now < self._open_until:
                return False  # an attempt from before the circuit opened
            self._factor = min(MAX_FACTOR, 2 * self._factor)
        elif self._failures < self._limit:
            return False
        self._probing = False
        self._open_until = now + self._reset_s * self._factor
        return True
