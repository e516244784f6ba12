"""How each camera's pictures go: what is being done about those that fail, for the API to show and the log to keep."""

from __future__ import annotations

from collections import OrderedDict

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.remedy import Ladder, Remedy
from pi_orchestrator.events import Logged

REMEMBERED = 4096
QUIET_S = 600.0
"""Between two times that a camera is told to have failed: one that fails now and then is no news, and each a write."""
GOOD = Ladder()
"""Of a camera that nothing is known against."""


class Remedies:
    """The ladders, by MAC; `take` what has to be told."""

    def __init__(self, *, auto_reboot: bool, reboot_after: int, clock: Clock) -> None:
        self.auto_reboot = auto_reboot
        self.reboot_after = reboot_after
        self._clock = clock
        self._ladders: OrderedDict[Mac, Ladder] = OrderedDict()
        self._told: dict[Mac, Remedy] = {}
        self._quiet_until: dict[Mac, float] = {}
        self._to_reboot: set[Mac] = set()
        self.revision = 0

    def of(self, mac: Mac) -> Ladder:
        """Where a camera stands."""
        return self._ladders.get(mac, GOOD)

    def in_trouble(self) -> list[tuple[Mac, Ladder]]:
        """The cameras that something is being done about, or should be."""
        return [(mac, one) for mac, one in self._ladders.items() if one.state is not Remedy.OK]

    def failed(self, mac: Mac, why: str, *, heard_at: float) -> None:
        """It gave no picture, and that is its own fault; `heard_at` is when it was heard or seen last."""
        ladder = self._ladders.setdefault(mac, Ladder(since=self._clock.monotonic()))
        self._ladders.move_to_end(mac)
        now, limit = self._now(), self.reboot_after
        if ladder.failed(why, now, heard_at=heard_at, limit=limit, auto_reboot=self.auto_reboot):
            self._to_reboot.add(mac)
        while len(self._ladders) > REMEMBERED:
            self.forget(next(iter(self._ladders)))

    def succeeded(self, mac: Mac) -> None:
        """It gave a picture."""
        if mac in self._ladders:
            self._ladders[mac].succeeded(self._now())
            self._to_reboot.discard(mac)

    def reboots(self, mac: Mac) -> None:
        """It has been told to reboot."""
        self._ladders.setdefault(mac, Ladder()).reboots(self._now())
        self._to_reboot.discard(mac)

    def came_back(self, mac: Mac) -> None:
        """It has rebooted as it was told to."""
        if mac in self._ladders:
            self._ladders[mac].came_back(self._now())

    def stayed_away(self, mac: Mac, why: str) -> None:
        """It was told to reboot and did not, or did not come back."""
        self._ladders.setdefault(mac, Ladder()).stayed_away(why, self._now())
        self._to_reboot.discard(mac)

    def booted(self, mac: Mac) -> None:
        """It has booted without being told to."""
        if mac in self._ladders:
            self._ladders[mac].booted(self._now())
            self._to_reboot.discard(mac)

    def forget(self, mac: Mac) -> None:
        """Nothing is known against it any more."""
        self._ladders.pop(mac, None)
        self._told.pop(mac, None)
        self._quiet_until.pop(mac, None)
        self._to_reboot.discard(mac)
        self.revision += 1

    def to_reboot(self) -> list[Mac]:
        """The cameras that a reboot is due for."""
        return sorted(self._to_reboot) if self.auto_reboot else []

    def take(self) -> list[Logged]:
        """What has changed since the last call, as events."""
        events, now = [], self._clock.monotonic()
        for mac, ladder in list(self._ladders.items()):
            told = self._told.get(mac, Remedy.OK)
            if ladder.state is told:
                continue
            if (told, ladder.state) == (Remedy.OK, Remedy.RETRYING):
                if now < self._quiet_until.get(mac, now):
                    continue
                self._quiet_until[mac] = now + QUIET_S
            payload = {"mac": mac, "state": ladder.state, "failures": ladder.failures, "advice": ladder.advice}
            events.append(Logged("camera.remedy", payload, mac=mac))
            self._told[mac] = ladder.state
            if ladder.state is Remedy.OK:
                del self._told[mac]
        return events

    def _now(self) -> float:
        self.revision += 1
        return self._clock.monotonic()
