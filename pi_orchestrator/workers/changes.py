"""What happened to devices, on its way to the event log: told once, and never faster than the card can bear."""

from __future__ import annotations

from collections.abc import Iterable

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.bucket import TokenBucket
from pi_orchestrator.domain.camera import CameraStatus, camera_status
from pi_orchestrator.domain.mac import Mac, is_local
from pi_orchestrator.domain.presence import Presence
from pi_orchestrator.domain.registry import Change, Kind, Registry
from pi_orchestrator.events import Logged
from pi_orchestrator.storage.cameras import Roster

STRANGERS_AT_ONCE = 300
STRANGERS_PER_S = 0.2
"""Anyone on the network can invent devices; what is told of strangers is bounded, of cameras it is not."""

_WORDS = {Presence.CLAIMED: CameraStatus.CONNECTING, Presence.FLAPPING: CameraStatus.ERROR}
"""A camera's former state in the words of the API, where it is not the same word."""


class Changes:
    """Collects changes and turns them into events; a state that came and went in between is no event."""

    def __init__(self, *, clock: Clock, roster: Roster, registry: Registry) -> None:
        self._clock = clock
        self._roster = roster
        self._registry = registry
        self._states: dict[Mac, Presence] = {}
        self._others: list[Change] = []
        self._budget = TokenBucket(capacity=STRANGERS_AT_ONCE, rate=STRANGERS_PER_S, now=clock.monotonic())
        self.untold = 0

    def collect(self) -> list[Mac]:
        """Take what has happened since the last call; returns those whose retained claim has proved true."""
        confirmed = []
        for change in self._registry.drain():
            if change.kind is not Kind.STATE or change.before is None:
                self._take_other(change)
                continue
            if change.registered:
                self._states.setdefault(change.mac, change.before)
            if change.before is Presence.CLAIMED and change.after is Presence.ONLINE:
                confirmed.append(change.mac)
        return confirmed

    def changed(self) -> set[Mac]:
        """The cameras whose state changed."""
        return set(self._states)

    def take(self) -> tuple[dict[Mac, Presence], list[Change]]:
        """Everything that was collected, to be stored; `give_back` what could not be."""
        taken = self._states, self._others
        self._states, self._others = {}, []
        return taken

    def give_back(self, states: dict[Mac, Presence], others: list[Change]) -> None:
        """Keep what could not be stored for the next time; when it becomes too much, the oldest of strangers goes."""
        self._states |= states  # a state counts from what was told last
        kept = others + self._others
        excess = max(0, len(kept) - STRANGERS_AT_ONCE)
        self.untold += excess
        # Strangers go first, and of equals the oldest.
        order = sorted(range(len(kept)), key=lambda at: (self._is_of_camera(kept[at]), at))
        self._others = [kept[at] for at in sorted(order[excess:])]

    def events(self, states: dict[Mac, Presence], others: Iterable[Change]) -> list[Logged]:
        """What was taken, as events."""
        found = [self._other(change) for change in others]
        for mac, before in states.items():
            device = self._registry.get(mac)
            if device is None or device.shown is before:
                continue
            status = camera_status(device=device, registered=True, onboarding=False)
            payload = {"mac": mac, "status": status.value, "previous": _WORDS.get(before, before).value}
            found.append(Logged("camera.status_changed", payload, mac=mac))
            if device.shown is Presence.FLAPPING:
                found.append(Logged("device.flapping", {"mac": mac, "drops": len(device.drops)}, mac=mac))
        return found

    def _take_other(self, change: Change) -> None:
        if self._is_of_camera(change) or self._budget.take(self._clock.monotonic()):
            self._others.append(change)
        else:
            self.untold += 1

    def _is_of_camera(self, change: Change) -> bool:
        return any(mac in self._roster for mac in (change.mac, *change.macs))

    def _other(self, change: Change) -> Logged:
        payload: dict[str, object] = {"mac": change.mac}
        if change.ip:
            payload["ip"] = str(change.ip)
        if change.previous_ip:
            payload["previous_ip"] = str(change.previous_ip)
        if change.macs:
            payload["macs"] = list(change.macs)
        if change.ips:
            payload["ips"] = [str(address) for address in change.ips]
        if change.kind is Kind.FOUND:
            payload["locally_administered"] = is_local(change.mac)
            payload["near"] = self._registry.near(change.mac)
        return Logged(f"device.{change.kind}", payload, mac=change.mac)
