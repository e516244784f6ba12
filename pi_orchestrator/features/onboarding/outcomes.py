"""Outcomes of onboarding: counted in memory immediately; rejections are queued for storage."""

from __future__ import annotations

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.features.onboarding.onboarding_event import OnboardingEvent, Stage
from pi_orchestrator.features.onboarding.rejections import RejectionLog
from pi_orchestrator.features.onboarding.store import Metrics


class OutcomeRecorder:
    """Counters since the last reset, and onboarding events that are not stored yet.

    `count` updates the counters in memory; `rejections` updates those on disk for the events that it queues.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.metrics = Metrics()
        self.rejections = RejectionLog(clock=clock)

    def count(self, **increments: int) -> None:
        """Add to counters in memory by name; the caller stores the same increments on disk."""
        self.metrics.add(self._clock.wall(), **increments)

    def add(self, event: OnboardingEvent) -> None:
        """Count a failure or rejection and queue its onboarding event."""
        self.count(**{"failed" if event.stage is Stage.FAILED else "rejected_by_policy": 1})
        self.rejections.add(event)

    def add_already_onboarded(self) -> None:
        """Count a registered camera that appeared again."""
        self.rejections.count_already_onboarded()
        self.count(already_onboarded=1)

    def reset(self) -> None:
        """Set the counters in memory to zero."""
        self.metrics = Metrics()
