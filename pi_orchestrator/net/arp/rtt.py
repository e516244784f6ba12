"""Round-trip time estimate, calculated as TCP does (RFC 6298)."""

from __future__ import annotations


class RttEstimator:
    """Reply timeout in seconds, from smoothed reply times and their variation; between `min_s` and `max_s`."""

    def __init__(self, *, min_s: float, max_s: float) -> None:
        self.min_s = min_s
        self.max_s = max_s
        self._smoothed: float | None = None
        self._variation = 0.0

    def add(self, reply_s: float) -> None:
        """Add the time between a request and its reply, in seconds."""
        if self._smoothed is None:
            self._smoothed, self._variation = reply_s, reply_s / 2
            return
        self._variation += (abs(self._smoothed - reply_s) - self._variation) / 4
        self._smoothed += (reply_s - self._smoothed) / 8

    def timeout_s(self) -> float:
        """How long to wait for replies after the last request, in seconds; `max_s` before the first reply."""
        if self._smoothed is None:
            return self.max_s
        return min(self.max_s, max(self.min_s, self._smoothed + 4 * self._variation))
