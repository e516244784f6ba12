"""Circuit breakers of provisioning: one for the camera network, and one per camera."""

from __future__ import annotations

from collections import OrderedDict

from pi_orchestrator.core.circuit_breaker import Breaker
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import CircuitOpenError
from pi_orchestrator.core.mac import Mac

MAX_CAMERAS = 1024
FAILURES = 5
"""Consecutive failures that open a circuit."""
RESET_S = 30.0
"""Seconds for which a circuit is open before one trial is allowed."""


class Circuits:
    """The network's breaker, and one for each of the last MAX_CAMERAS cameras."""

    def __init__(self, *, clock: Clock, failures: int = FAILURES, reset_s: float = RESET_S) -> None:
        self._failures = failures
        self._reset_s = reset_s
        self._clock = clock
        self._cameras: OrderedDict[Mac, Breaker] = OrderedDict()
        self.network = self._breaker()

    def of(self, mac: Mac) -> Breaker:
        """The breaker of a camera, created if missing."""
        breaker = self._cameras.setdefault(mac, self._breaker())
        self._cameras.move_to_end(mac)
        if len(self._cameras) > MAX_CAMERAS:
            self._cameras.popitem(last=False)
        return breaker

    def check(self, mac: Mac | None = None) -> None:
        """Raise CircuitOpenError with the time to wait if the network's or the camera's circuit is open."""
        now = self._clock.monotonic()
        if wait_s := self.network.wait_s(now):
            raise CircuitOpenError("several cameras failed in a row; provisioning is suspended", retry_after_s=wait_s)
        breaker = self._cameras.get(mac) if mac else None
        if breaker and (wait_s := breaker.wait_s(now)):
            raise CircuitOpenError(f"{mac} failed several times in a row; wait, then retry it", retry_after_s=wait_s)

    def _breaker(self) -> Breaker:
        return Breaker(failures=self._failures, reset_s=self._reset_s)
