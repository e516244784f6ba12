"""How long is it worth waiting for answers? Learned from those that came, as TCP does (RFC 6298)."""

from __future__ import annotations


class Patience:
    """Seconds to wait, from smoothed reply times and their variation, between `least` and `most`."""

    def __init__(self, *, least: float, most: float) -> None:
        self.least = least
        self.most = most
        self._smoothed: float | None = None
        self._variation = 0.0

    def note(self, reply_s: float) -> None:
        """An answer came so long after its question."""
        if self._smoothed is None:
            self._smoothed, self._variation = reply_s, reply_s / 2
            return
        self._variation += (abs(self._smoothed - reply_s) - self._variation) / 4
        self._smoothed += (reply_s - self._smoothed) / 8

    def wait_s(self) -> float:
        """How long after the last question an answer may still be expected; `most` as long as none has come."""
        if self._smoothed is None:
            return self.most
        return min(self.most, max(self.least, self._smoothed + 4 * self._variation))
