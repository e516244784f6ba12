"""Changes of devices, in order, stored until the change feed drains them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.model import Presence

MAX_CHANGES = 4096


class Kind(StrEnum):
    """Kinds of changes."""

    FOUND = "found"
    STATE = "state"
    MOVED = "moved"
    ADDRESSES = "multiple_addresses"
    CONFLICT = "conflict"
    CONFLICT_OVER = "conflict_resolved"
    PROXY = "answers_for_many"
    ID_CONFLICT = "id_conflict"
    ID_CONFLICT_OVER = "id_conflict_resolved"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a device; the kind determines which fields are set.

    Only STATE has `registered` (whether it was a registered camera), `before` and `after` (its published states).
    """

    kind: Kind
    mac: Mac
    registered: bool = False
    before: Presence | None = None
    after: Presence | None = None
    ip: IPv4Address | None = None
    previous_ip: IPv4Address | None = None
    macs: tuple[Mac, ...] = ()
    ips: tuple[IPv4Address, ...] = ()
    device_id: str | None = None
    topic: str | None = None


class ChangeLog:
    """Changes in order, bounded; `counts` is the number of all changes by kind, including dropped ones."""

    def __init__(self, *, registered: Container[Mac]) -> None:
        self._registered = registered
        self._changes: deque[Change] = deque(maxlen=2 * MAX_CHANGES)
        self.counts: Counter[Kind] = Counter()

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, change: Change) -> None:
        """Append a change. While MAX_CHANGES or more are stored, changes of unregistered devices are dropped.

        While twice as many are stored, each appended change replaces the oldest one.
        """
        self.counts[change.kind] += 1
        if len(self._changes) < MAX_CHANGES or any(mac in self._registered for mac in (change.mac, *change.macs)):
            self._changes.append(change)

    def drain(self) -> list[Change]:
        """Return the changes since the last call, in order."""
        changes = list(self._changes)
        self._changes.clear()
        return changes
