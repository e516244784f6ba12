"""The cameras whose device id is to be read by HTTP, and how often a conflict of names is reported.

Bounded: any client can invent MACs and names, so registered cameras are checked first and have limits of their own.
Time is monotonic seconds, passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.publishers import Publisher

MAX_CHECKS = 256
REPEAT_S = 60.0
"""Minimum time between two events that report the same conflict."""
CHECK_INTERVAL_S = 30.0
"""Minimum time between two checks of one camera."""


class CheckQueue:
    """The cameras whose device id is to be read by HTTP."""

    def __init__(self) -> None:
        self._queue: OrderedDict[Mac, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, mac: object) -> bool:
        return mac in self._queue

    def __iter__(self) -> Iterator[Mac]:
        return iter(tuple(self._queue))

    def request(self, publisher: Publisher, now: float) -> None:
        """Queue a check, unless one was made within CHECK_INTERVAL_S; registered cameras first."""
        mac = publisher.mac
        if now - publisher.checked_at < CHECK_INTERVAL_S or mac in self._queue:
            return
        if len(self._queue) >= MAX_CHECKS:
            self._queue.popitem()
        self._queue[mac] = None
        self._queue.move_to_end(mac, last=not publisher.is_registered)

    def pop(self) -> Mac | None:
        """Take the first camera; None if there is none."""
        return self._queue.popitem(last=False)[0] if self._queue else None

    def drop(self, mac: Mac) -> None:
        """Remove a camera, if present."""
        self._queue.pop(mac, None)


class ReportLimit:
    """Allows one report of each conflict per REPEAT_S; stores at most MAX_CHECKS conflicts without a registered camera.

    A registered camera has two limits: one for conflicts about its MAC, one for those about any other name.
    """

    def __init__(self) -> None:
        self._of_unknown: BoundedDict[str, float] = BoundedDict(MAX_CHECKS)
        self._of_cameras: dict[tuple[Mac, bool], float] = {}

    def may_report(self, name: str, now: float, *, camera: Mac | None) -> bool:
        """Whether a conflict may be reported now; `camera` is the first registered camera in it."""
        if camera is None:
            if now - self._of_unknown.get(name, float("-inf")) < REPEAT_S:
                return False
            self._of_unknown[name] = now
            return True
        key = (camera, name == camera)
        if now - self._of_cameras.get(key, float("-inf")) < REPEAT_S:
            return False
        self._of_cameras[key] = now
        return True

    def drop(self, mac: Mac) -> None:
        """Forget the reports about a registered camera."""
        for is_own in (False, True):
            self._of_cameras.pop((mac, is_own), None)
