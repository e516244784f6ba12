"""The waiting line: where cameras wait for a token.

Proven cameras come first: a device on the camera network answered for them (ARP, HTTP), or the access point lists them
as stations. Anybody who reaches the broker can invent cameras that only send messages, so those fill at most a part of
the line. Both kinds are in arrival order.

Pure: the token bucket and the concurrency limit decide which attempt may start; the worker runs it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.token_bucket import BucketState, TokenBucket
from pi_orchestrator.features.onboarding.attempt import OnboardingAttempt

MAX_WAITING = 1000
"""Maximum number of waiting cameras; any further camera is dropped and counted."""
MAX_UNPROVEN = 500
"""Maximum number of waiting cameras that are known from messages alone."""


class WaitingLine:
    """Waiting attempts, attempts in flight, and the limiter between them."""

    def __init__(
        self,
        *,
        clock: Clock,
        burst_size: int,
        max_per_minute: int,
        concurrency: int,
        has_proof: Callable[[Mac], bool] = lambda _: False,
    ) -> None:
        self._clock = clock
        self._has_proof = has_proof
        self._concurrency = concurrency
        self.bucket = TokenBucket(capacity=burst_size, rate=max_per_minute / 60, now=clock.monotonic())
        self.waiting: OrderedDict[Mac, OnboardingAttempt] = OrderedDict()
        self._proven: OrderedDict[Mac, OnboardingAttempt] = OrderedDict()
        self.in_flight: dict[Mac, OnboardingAttempt] = {}
        self.overflowed = 0

    @property
    def tokens(self) -> float:
        """Attempts that the limiter would allow now."""
        return self.bucket.tokens(self._clock.monotonic())

    @property
    def unproven(self) -> int:
        """Number of waiting cameras that are known from messages alone."""
        return len(self.waiting) - len(self._proven)

    def append(self, attempt: OnboardingAttempt) -> bool:
        """Add an attempt at the end of its kind. If there is no place, count the overflow and return False.

        In a full line, a proven camera takes the place of the newest unproven one, which counts as overflow.
        """
        is_proven = self._has_proof(attempt.mac)
        if not is_proven and self.unproven >= MAX_UNPROVEN:
            self.overflowed += 1
            return False
        if len(self.waiting) >= MAX_WAITING:
            self.overflowed += 1
            if not is_proven or not self._drop_newest_unproven():
                return False
        self.waiting[attempt.mac] = attempt
        if is_proven:
            self._proven[attempt.mac] = attempt
        return True

    def promote(self) -> None:
        """Move the waiting cameras that have been proven since they joined to the end of the proven ones."""
        for mac, attempt in self.waiting.items():
            if mac not in self._proven and self._has_proof(mac):
                self._proven[mac] = attempt

    def front(self) -> OnboardingAttempt | None:
        """The next attempt to start; None if the line is empty or `concurrency` attempts are in flight."""
        if len(self.in_flight) >= self._concurrency:
            return None
        return next(iter((self._proven or self.waiting).values()), None)

    def is_proven(self, mac: Mac) -> bool:
        """Whether a waiting camera was proven when it joined the line or at the last `promote`."""
        return mac in self._proven

    def position(self, mac: Mac) -> int | None:
        """The place of a waiting camera, 1 for the front; None if it does not wait."""
        if mac not in self.waiting:
            return None
        others = (waiting for waiting in self.waiting if waiting not in self._proven)
        line = list(self._proven) if mac in self._proven else [*self._proven, *others]
        return line.index(mac) + 1

    def start_in_s(self, position: int) -> float:
        """Seconds until a token for this position, if no other camera joins before it."""
        return max(0.0, position - self.tokens) / self.bucket.rate

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
        self._proven.pop(attempt.mac, None)

    def clear(self) -> None:
        """Remove every waiting attempt."""
        self.waiting.clear()
        self._proven.clear()

    def finish(self, mac: Mac) -> None:
        """Remove a finished attempt from those in flight."""
        self.in_flight.pop(mac, None)

    def wait_s(self) -> float:
        """Seconds until the front may start; infinite if a token would not help."""
        return float("inf") if self.front() is None else self.bucket.wait_s(self._clock.monotonic())

    def take_limited(self) -> list[OnboardingAttempt]:
        """The waiting attempts that were not returned before, if no token is left; empty otherwise."""
        if not self.waiting or self.bucket.wait_s(self._clock.monotonic()) <= 0:
            return []
        limited = [attempt for attempt in self.waiting.values() if not attempt.limited]
        for attempt in limited:
            attempt.limited = True
        return limited

    def _drop_newest_unproven(self) -> bool:
        newest = next((mac for mac in reversed(self.waiting) if mac not in self._proven), None)
        if newest is None:
            return False
        del self.waiting[newest]
        return True

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
