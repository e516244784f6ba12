"""Who failed lately and must wait before it may try again: a camera that fails must not use up everyone's tokens."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.supervisor import full_jitter

BASE_S = 5.0
CAP_S = 600.0
REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class _Wait:
    failures: int
    until: float


class Retries:
    """Back-off per MAC with full jitter, bounded: the one that failed longest ago is forgotten first."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._waits: OrderedDict[Mac, _Wait] = OrderedDict()

    def must_wait(self, mac: Mac) -> bool:
        """Whether this camera failed too short a time ago."""
        wait = self._waits.get(mac)
        return wait is not None and self._clock.monotonic() < wait.until

    def failed(self, mac: Mac) -> None:
        """One more failure: the next wait may be twice as long."""
        before = self._waits.pop(mac, None)
        failures = before.failures if before else 0
        wait_s = full_jitter(failures, base_s=BASE_S, cap_s=CAP_S)
        self._waits[mac] = _Wait(failures + 1, self._clock.monotonic() + wait_s)
        if len(self._waits) > REMEMBERED:
            self._waits.popitem(last=False)

    def forget(self, mac: Mac) -> None:
        """It succeeded."""
        self._waits.pop(mac, None)
