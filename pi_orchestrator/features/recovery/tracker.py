"""Recovery state of all cameras, and its changes as events."""

from __future__ import annotations

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.events import CameraRecovery
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras.model import RecoveryState
from pi_orchestrator.features.recovery.ladder import RecoveryLadder

MAX_TRACKED = 4096
REPORT_INTERVAL_S = 600.0
"""Minimum time between two `retrying` events of a camera: occasional failures must not cause a write each."""
HEALTHY = RecoveryLadder()
"""The ladder of all cameras without failures."""


class RecoveryTracker:
    """The ladders, by MAC; observes captures and reboots. `take_events` returns the changes."""

    def __init__(self, *, auto_reboot: bool, reboot_after: int, clock: Clock) -> None:
        self.auto_reboot = auto_reboot
        self.reboot_after = reboot_after
        self._clock = clock
        self._ladders: BoundedDict[Mac, RecoveryLadder] = BoundedDict(
            MAX_TRACKED, on_drop=lambda mac, _: self.forget(mac)
        )
        self._reported: dict[Mac, RecoveryState] = {}
        self._quiet_until: dict[Mac, float] = {}
        self._to_reboot: set[Mac] = set()
        self.revision = 0

    def of(self, mac: Mac) -> RecoveryLadder:
        """The ladder of a camera."""
        return self._ladders.get(mac, HEALTHY)

    def failing(self) -> list[tuple[Mac, RecoveryLadder]]:
        """The cameras in a state other than OK."""
        return [(mac, ladder) for mac, ladder in self._ladders.items() if ladder.state is not RecoveryState.OK]

    def capture_failed(self, mac: Mac, reason: str, *, seen_at: float) -> None:
        """Record that a camera gave no picture; `seen_at` is when it was last seen, monotonic seconds."""
        ladder = self._ladders.setdefault(mac, RecoveryLadder(since=self._clock.monotonic()))
        self._ladders.touch(mac)
        must_reboot = ladder.capture_failed(
            reason,
            self._mark_changed(),
            seen_at=seen_at,
            reboot_after=self.reboot_after,
            auto_reboot=self.auto_reboot,
        )
        if must_reboot:
            self._to_reboot.add(mac)

    def capture_succeeded(self, mac: Mac) -> None:
        """Record that a camera gave a picture."""
        if mac in self._ladders:
            self._ladders[mac].capture_succeeded(self._mark_changed())
            self._to_reboot.discard(mac)

    def reboot_requested(self, mac: Mac) -> None:
        """Record that a camera has accepted a reboot."""
        self._ladders.setdefault(mac, RecoveryLadder()).reboot_requested(self._mark_changed())
        self._to_reboot.discard(mac)

    def reboot_finished(self, mac: Mac) -> None:
        """Record that a camera is online again after a reboot, or that the result cannot be known."""
        if mac in self._ladders:
            self._ladders[mac].reboot_finished(self._mark_changed())

    def reboot_failed(self, mac: Mac, reason: str) -> None:
        """Record that a camera did not reboot, or is not online again."""
        self._ladders.setdefault(mac, RecoveryLadder()).reboot_failed(reason, self._mark_changed())
        self._to_reboot.discard(mac)

    def booted(self, mac: Mac) -> None:
        """Record that a camera has booted without a request of the daemon."""
        if mac in self._ladders:
            self._ladders[mac].booted(self._mark_changed())
            self._to_reboot.discard(mac)

    def forget(self, mac: Mac) -> None:
        """Drop the recovery state of a camera."""
        self._ladders.pop(mac, None)
        self._reported.pop(mac, None)
        self._quiet_until.pop(mac, None)
        self._to_reboot.discard(mac)
        self.revision += 1

    def to_reboot(self) -> list[Mac]:
        """The cameras that must be rebooted."""
        return sorted(self._to_reboot) if self.auto_reboot else []

    def take_events(self) -> list[CameraRecovery]:
        """The state changes since the last call."""
        events: list[CameraRecovery] = []
        now = self._clock.monotonic()
        for mac, ladder in list(self._ladders.items()):
            reported = self._reported.get(mac, RecoveryState.OK)
            if ladder.state is reported:
                continue
            if (reported, ladder.state) == (RecoveryState.OK, RecoveryState.RETRYING):
                if now < self._quiet_until.get(mac, now):
                    continue
                self._quiet_until[mac] = now + REPORT_INTERVAL_S
            events.append(CameraRecovery(mac=mac, state=ladder.state, failures=ladder.failures, advice=ladder.advice))
            self._reported[mac] = ladder.state
            if ladder.state is RecoveryState.OK:
                del self._reported[mac]
        return events

    def _mark_changed(self) -> float:
        """Increase the revision; return the present monotonic time."""
        self.revision += 1
        return self._clock.monotonic()
