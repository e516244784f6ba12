"""Clocks. A Pi boots with a wrong wall clock that jumps later, so durations are never measured with it.

`wall` is for display and stored rows, `monotonic` (CLOCK_BOOTTIME) for ages, rates and timeouts. A stored monotonic
time is valid only within the boot `boot_id`.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
_TIME_ERROR = 5  # TIME_ERROR of adjtimex(2): the clock is not synchronised
_EARLIEST_PLAUSIBLE = datetime(2026, 1, 1, tzinfo=UTC)
_TIME_IF_DAMAGED = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stamp:
    """One moment, as it is stored in every row: wall time `at`, and whether it was `trusted` (see `Clock.trusted`)."""

    at: datetime
    boot_id: str
    monotonic: float
    trusted: bool


class Clock:
    """The machine's clocks; tests substitute their own."""

    def __init__(self) -> None:
        self.boot_id = _BOOT_ID
        self._trusted = False

    def wall(self) -> datetime:
        """The current time: aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since boot, suspended time included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def trusted(self) -> bool:
        """Whether the wall clock had been set from the network when `refresh` was last called."""
        return self._trusted

    def refresh(self) -> None:
        """Update `trusted`; reads the file system."""
        self._trusted = _clock_is_set(self.wall())

    def stamp(self) -> Stamp:
        """The current time, to be stored in a row."""
        return Stamp(self.wall(), self.boot_id, self.monotonic(), self.trusted())

    async def sleep(self, seconds: float) -> None:
        """Sleep; changes of the wall clock have no effect."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for an event; False on timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                return await event.wait()
        except TimeoutError:
            return False


def rfc3339(moment: datetime) -> str:
    """Format as `2026-01-22T15:00:00.123456Z`; text order is time order."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_rfc3339(text: str) -> datetime:
    """Parse a stored time into an aware datetime (without zone: UTC).

    1970-01-01 if the text is damaged, because damaged rows must not prevent a start.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _TIME_IF_DAMAGED
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _clock_is_set(wall: datetime) -> bool:
    if _SYNCHRONISED.exists():
        return True
    # adjtimex(2) without modes only reads. A system call filter may forbid it (-1): then only check plausibility.
    status = _LIBC.adjtimex(ctypes.create_string_buffer(512))
    if status >= 0:
        return bool(status != _TIME_ERROR)
    return wall >= _EARLIEST_PLAUSIBLE


_LIBC = ctypes.CDLL(None, use_errno=True)
