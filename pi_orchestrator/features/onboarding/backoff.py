"""Back-off per camera: a camera that keeps failing must not use up the tokens of the others."""

from __future__ import annotations

from dataclasses import dataclass

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.supervisor import full_jitter

BASE_S = 5.0
CAP_S = 600.0
MAX_TRACKED = 4096


@dataclass(frozen=True, slots=True)
class _Wait:
    failures: int
    until: float


class RetryBackoff:
    """Exponential back-off per MAC with full jitter. Holds at most MAX_TRACKED MACs; drops the oldest."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._waits: BoundedDict[Mac, _Wait] = BoundedDict(MAX_TRACKED)

    def must_wait(self, mac: Mac) -> bool:
        """Whether the camera failed too recently to try again."""
        wait = self._waits.get(mac)
        return wait is not None and self._clock.monotonic() < wait.until

    def failed(self, mac: Mac) -> None:
        """Record a failure; the upper limit of the next wait doubles, up to CAP_S."""
        previous = self._waits.get(mac)
        failures = previous.failures if previous else 0
        wait_s = full_jitter(failures, base_s=BASE_S, cap_s=CAP_S)
        self._waits[mac] = _Wait(failures + 1, self._clock.monotonic() + wait_s)

    def forget(self, mac: Mac) -> None:
        """Clear the history of a camera that succeeded."""
        self._waits.pop(mac, None)
