"""The circuit breakers of provisioning: one for the camera network as a whole, one for each camera that fails."""

from __future__ import annotations

from collections import OrderedDict

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.breaker import Breaker
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import CircuitOpenError

REMEMBERED = 1024


class Circuits:
    """`network` and `of(mac)`; `check` raises while one of the two is open."""

    def __init__(self, *, failures: int, reset_s: float, clock: Clock) -> None:
        self._failures = failures
        self._reset_s = reset_s
        self._clock = clock
        self._cameras: OrderedDict[Mac, Breaker] = OrderedDict()
        self.network = self._breaker()

    def of(self, mac: Mac) -> Breaker:
        """A camera's breaker."""
        breaker = self._cameras.setdefault(mac, self._breaker())
        self._cameras.move_to_end(mac)
        if len(self._cameras) > REMEMBERED:
            self._cameras.popitem(last=False)
        return breaker

    def check(self, mac: Mac | None = None) -> None:
        """CircuitOpenError, with the time until a next attempt, where nothing is to be tried now."""
        now = self._clock.monotonic()
        if wait_s := self.network.wait_s(now):
            raise CircuitOpenError(
                "one camera after another has failed; the network is left alone for a while", retry_after_s=wait_s
            )
        own = self._cameras.get(mac) if mac else None
        if own and (wait_s := own.wait_s(now)):
            raise CircuitOpenError(f"{mac} has failed again and again; it is left alone", retry_after_s=wait_s)

    def _breaker(self) -> Breaker:
        return Breaker(failures=self._failures, reset_s=self._reset_s)
