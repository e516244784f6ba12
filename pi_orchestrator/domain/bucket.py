"""A token bucket on monotonic time that can be stored and carried across a restart."""

from __future__ import annotations

from dataclasses import dataclass

EPSILON = 1e-9
"""Floating point must not make a token that is exactly due a moment late."""


@dataclass(frozen=True, slots=True)
class BucketState:
    """What a bucket held, and when: monotonic seconds within the boot `boot_id`."""

    tokens: float
    at: float
    boot_id: str


class TokenBucket:
    """Holds up to `capacity` tokens, refilled at `rate` per second; times are monotonic seconds."""

    def __init__(self, *, capacity: int, rate: float, now: float) -> None:
        self.capacity = capacity
        self.rate = rate
        self._tokens = float(capacity)
        self._at = now

    def tokens(self, now: float) -> float:
        """How many tokens are there at `now`."""
        elapsed = max(0.0, now - self._at)
        return min(float(self.capacity), self._tokens + elapsed * self.rate)

    def take(self, now: float) -> bool:
        """Take one token if one is there."""
        tokens = self.tokens(now)
        if tokens < 1 - EPSILON:
            return False
        self._tokens = max(0.0, tokens - 1)
        self._at = now
        return True

    def wait_s(self, now: float) -> float:
        """Seconds until a token is there; 0 when one is."""
        missing = 1 - self.tokens(now)
        return missing / self.rate if missing > EPSILON else 0.0

    def resize(self, *, capacity: int, rate: float, now: float) -> None:
        """Change the limits and keep what has been spent."""
        self._tokens = min(float(capacity), self.tokens(now))
        self._at = now
        self.capacity = capacity
        self.rate = rate

    def snapshot(self, *, now: float, boot_id: str) -> BucketState:
        """What to store."""
        return BucketState(tokens=self.tokens(now), at=now, boot_id=boot_id)

    def restore(self, state: BucketState, *, now: float, boot_id: str) -> None:
        """Go on from a stored state. After a reboot only the time since boot is sure to have passed."""
        elapsed = max(0.0, now - state.at) if state.boot_id == boot_id else now
        self._tokens = min(float(self.capacity), max(0.0, state.tokens) + elapsed * self.rate)
        self._at = now
