"""The waiting line: where cameras wait for a token, in arrival order.

Pure: the token bucket and the concurrency limit decide which attempt may start; the worker runs it.
"""

from __future__ import annotations

from collections import OrderedDict

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.token_bucket import BucketState, TokenBucket
from pi_orchestrator.features.onboarding.attempt import OnboardingAttempt

MAX_WAITING = 1000
"""Maximum number of waiting cameras; any further camera is dropped and counted."""


class WaitingLine:
    """Waiting attempts, attempts in flight, and the limiter between them."""

    def __init__(self, *, clock: Clock, burst_size: int, max_per_minute: int, concurrency: int) -> None:
        self._clock = clock
        self._concurrency = concurrency
        self.bucket = TokenBucket(capacity=burst_size, rate=max_per_minute / 60, now=clock.monotonic())
        self.waiting: OrderedDict[Mac, OnboardingAttempt] = OrderedDict()
        self.in_flight: dict[Mac, OnboardingAttempt] = {}
        self.overflowed = 0

    @property
    def tokens(self) -> float:
        """Attempts that the limiter would allow now."""
        return self.bucket.tokens(self._clock.monotonic())

    def append(self, attempt: OnboardingAttempt) -> bool:
        """Add an attempt at the end. If the line is full, count the overflow and return False."""
        if len(self.waiting) >= MAX_WAITING:
            self.overflowed += 1
            return False
        self.waiting[attempt.mac] = attempt
        return True

    def front(self) -> OnboardingAttempt | None:
        """The next attempt to start; None if the line is empty or `concurrency` attempts are in flight."""
        if len(self.in_flight) >= self._concurrency:
            return None
        return next(iter(self.waiting.values()), None)

    def start(self, attempt: OnboardingAttempt) -> bool:
        """Spend a token and move an attempt from waiting to in flight; False if no token is left."""
        if not self.bucket.take(self._clock.monotonic()):
            return False
        self.remove(attempt)
        self.in_flight[attempt.mac] = attempt
        return True

    def remove(self, attempt: OnboardingAttempt) -> None:
        """Remove a waiting attempt without spending a token."""
        del self.waiting[attempt.mac]

    def finish(self, mac: Mac) -> None:
        """Remove a finished attempt from those in flight."""
        self.in_flight.pop(mac, None)

    def wait_s(self) -> float:
        """Seconds until the front may start; infinite if a token would not help."""
        return float("inf") if self.front() is None else self.bucket.wait_s(self._clock.monotonic())

    def take_limited(self) -> list[OnboardingAttempt]:
        """If no token is left: the waiting attempts that were not returned before."""
        if not self.waiting or self.bucket.wait_s(self._clock.monotonic()) <= 0:
            return []
        limited = [attempt for attempt in self.waiting.values() if not attempt.limited]
        for attempt in limited:
            attempt.limited = True
        return limited

    def reconfigure(self, *, burst_size: int, max_per_minute: int, concurrency: int) -> None:
        """Change the limits; spent tokens stay spent."""
        self._concurrency = concurrency
        self.bucket.resize(capacity=burst_size, rate=max_per_minute / 60, now=self._clock.monotonic())

    def snapshot(self) -> BucketState:
        """The token bucket's state for storage."""
        return self.bucket.snapshot(now=self._clock.monotonic(), boot_id=self._clock.boot_id)

    def restore(self, state: BucketState) -> None:
        """Restore a stored token bucket."""
        self.bucket.restore(state, now=self._clock.monotonic(), boot_id=self._clock.boot_id)
