"""Interruptions of one device: restarts, lost MQTT sessions, and times that it went offline; whether it is unstable.

Pure; times are monotonic seconds, passed in. A camera that restarts again and again may be seen by ARP all the time, so
a restart is recorded even if the device never went offline. If it did go offline, this and the restart are one
interruption: `confirm_restart` replaces the OFFLINE entry.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

LIMIT = 4
WITHIN_S = 600.0
"""A device with LIMIT interruptions within this time is unstable."""
SETTLED_AFTER_S = 300.0
"""An unstable device is stable again after this time without an interruption."""
MINUTE_S = 60.0
MAX_KEPT = 100


class Interruption(StrEnum):
    """Kinds of interruptions, as texts for people."""

    RESTART = "restarted"
    SESSION_LOST = "lost its MQTT session"
    OFFLINE = "went offline"


@dataclass(slots=True)
class Interruptions:
    """The interruptions within WITHIN_S before the newest one, at most MAX_KEPT.

    `restarts` counts all restarts, also those that are no longer kept.
    """

    is_unstable: bool = False
    restarts: int = 0
    _entries: list[tuple[float, Interruption]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, kind: Interruption, now: float) -> None:
        """Record an interruption."""
        recent = [entry for entry in self._entries if now - entry[0] < WITHIN_S]
        self._entries = [*recent[1 - MAX_KEPT :], (now, kind)]
        self.restarts += kind is Interruption.RESTART
        self.is_unstable = self.is_unstable or len(self._entries) >= LIMIT

    def confirm_restart(self) -> None:
        """Turn the last entry from OFFLINE into RESTART: the device has returned, and has restarted meanwhile."""
        if self._entries and self._entries[-1][1] is Interruption.OFFLINE:
            self._entries[-1] = (self._entries[-1][0], Interruption.RESTART)
            self.restarts += 1

    def settle(self, now: float) -> bool:
        """End the instability after SETTLED_AFTER_S without an interruption; True if it ended now."""
        if not self.is_unstable or now - self._entries[-1][0] < SETTLED_AFTER_S:
            return False
        self.is_unstable = False
        self._entries.clear()
        return True

    def next_change_at(self, now: float) -> float:
        """When `is_unstable` or `summary` next changes without a new interruption; infinite for a stable device."""
        if not self.is_unstable:
            return float("inf")
        expiries = (at + MINUTE_S for at, _ in self._entries if at + MINUTE_S > now)
        return min(self._entries[-1][0] + SETTLED_AFTER_S, next(expiries, float("inf")))

    def summary(self, now: float) -> str:
        """What happened how often, such as `restarted 7 times in the last minute`; empty if nothing did."""
        counts, period = self._recent(now)
        return f"{_described(counts)} in the last {period}" if counts else ""

    def count(self, now: float) -> int:
        """The number of interruptions that `summary` counts."""
        return self._recent(now)[0].total()

    @property
    def last_at(self) -> float | None:
        """Time of the newest interruption; None if there is none."""
        return self._entries[-1][0] if self._entries else None

    def _recent(self, now: float) -> tuple[Counter[Interruption], str]:
        last_minute = self._counted(now, MINUTE_S)
        if last_minute.total() >= LIMIT:
            return last_minute, "minute"
        return self._counted(now, WITHIN_S), f"{WITHIN_S / 60:.0f} minutes"

    def _counted(self, now: float, within_s: float) -> Counter[Interruption]:
        return Counter(kind for at, kind in self._entries if now - at < within_s)


def _described(counts: Counter[Interruption]) -> str:
    return " and ".join(
        f"{kind} {'once' if counts[kind] == 1 else f'{counts[kind]} times'}" for kind in Interruption if counts[kind]
    )
