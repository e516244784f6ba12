"""A byte budget: a common memory limit for pictures in transfer."""

from __future__ import annotations

from pi_orchestrator.core.errors import CaptureError


class ByteBudget:
    """Reserved bytes, up to a limit; a refused caller may retry after `retry_after_s` seconds."""

    def __init__(self, limit: int, *, retry_after_s: float) -> None:
        self.limit = limit
        self.used = 0
        self._retry_after_s = retry_after_s

    def take(self, size: int) -> bool:
        """Reserve bytes; False, with nothing reserved, if they do not fit."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def take_or_raise(self, size: int) -> int:
        """Reserve bytes and return their number; CaptureError if they do not fit."""
        if not self.take(size):
            raise CaptureError(
                "too many large pictures in transfer", retry_after_s=self._retry_after_s, is_camera_fault=False
            )
        return size

    def release(self, size: int) -> None:
        """Release reserved bytes."""
        self.used -= size
