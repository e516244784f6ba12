"""A token bucket on monotonic time that can be stored and carried across a restart."""

from __future__ import annotations

from dataclasses import dataclass

EPSILON = 1e-9
"""Tolerance: rounding must not make a token late."""


@dataclass(frozen=True, slots=True)
class BucketState:
    """Tokens in a bucket, and when: `at` is monotonic seconds within the boot `boot_id`."""

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
        """Tokens available at `now`."""
        elapsed = max(0.0, now - self._at)
        return min(float(self.capacity), self._tokens + elapsed * self.rate)

    def take(self, now: float) -> bool:
        """Take one token; False if none is available."""
        tokens = self.tokens(now)
        if tokens < 1 - EPSILON:
            return False
        self._tokens = max(0.0, tokens - 1)
        self._at = now
        return True

    def wait_s(self, now: float) -> float:
        """Seconds until a token is available; 0 if one is."""
        missing = 1 - self.tokens(now)
        return missing / self.rate if missing > EPSILON else 0.0

    def resize(self, *, capacity: int, rate: float, now: float) -> None:
        """Change the limits; spent tokens stay spent."""
        self._tokens = min(float(capacity), self.tokens(now))
        self._at = now
        self.capacity = capacity
        self.rate = rate

    def snapshot(self, *, now: float, boot_id: str) -> BucketState:
        """The state to store."""
        return BucketState(tokens=self.tokens(now), at=now, boot_id=boot_id)

    def restore(self, state: BucketState, *, now: float, boot_id: str) -> None:
        """Continue from a stored state. After a reboot, only the time since boot counts as elapsed."""
        elapsed = max(0.0, now - state.at) if state.boot_id == boot_id else now
        self._tokens = min(float(self.capacity), max(0.0, state.tokens) + elapsed * self.rate)
        self._at = now
