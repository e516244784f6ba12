"""Cameras that an operator took out: known by MAC, so that they do not come back by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pi_orchestrator.domain.mac import Mac


class Reason(StrEnum):
    """Why a camera was taken out."""

    UNPAIRED = "unpaired"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Dismissal:
    """Who took a camera out, when and why; `device_id` and `name` are what it was called."""

    mac: Mac
    reason: Reason
    device_id: str
    by: str
    at: datetime
    name: str | None = None
    replaced_by: Mac | None = None

    @property
    def why(self) -> str:
        """The reason in words, and what would bring the camera back."""
        who = "without a key" if self.by == "-" else f"by {self.by}"
        what = f"replaced by {self.replaced_by}" if self.reason is Reason.REPLACED else "unpaired"
        return f"it was {what} ({who}, {self.at:%Y-%m-%d %H:%M} UTC); pair it by hand, or lift the dismissal"
