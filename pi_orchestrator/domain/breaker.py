"""A circuit breaker: after several failures in a row nothing is tried for a while, then one attempt decides.

Times are monotonic seconds, passed in.
"""

from __future__ import annotations

LONGEST = 8
"""Each failed probe doubles the wait, up to this many times the first one."""


class Breaker:
    """Closed while things work; open after `failures` in a row, for `reset_s`; then half open for one probe."""

    def __init__(self, *, failures: int, reset_s: float) -> None:
        self._limit = failures
        self._reset_s = reset_s
        self._failures = 0
        self._factor = 1
        self._open_until: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether it has not closed again since it opened."""
        return self._open_until is not None

    def wait_s(self, now: float) -> float:
        """Seconds until the next attempt may be made; 0 when it may be made now."""
        return max(0.0, self._open_until - now) if self._open_until is not None else 0.0

    def take(self, now: float) -> bool:
        """Begin an attempt, if it may be made: any while closed, one alone when half open."""
        if self._open_until is None:
            return True
        if now < self._open_until or self._probing:
            return False
        self._probing = True
        return True

    def release(self) -> None:
        """The attempt has ended without showing whether things work."""
        self._probing = False

    def succeeded(self) -> None:
        """Things work."""
        self._failures, self._factor, self._open_until, self._probing = 0, 1, None, False

    def failed(self, now: float) -> bool:
        """They do not; True when this opened the circuit."""
        self._failures += 1
        if self._open_until is not None:
            if now < self._open_until:
                return False  # one that was under way already: it tells nothing new
            self._factor = min(LONGEST, 2 * self._factor)
        elif self._failures < self._limit:
            return False
        self._probing = False
        self._open_until = now + self._reset_s * self._factor
        return True
