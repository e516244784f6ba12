"""Exclusions: cameras that an operator unpaired or replaced, by MAC; they are not onboarded again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pi_orchestrator.core.mac import Mac


class Reason(StrEnum):
    """Why a camera is excluded."""

    UNPAIRED = "unpaired"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """An excluded camera with its last device id and name; `by`: name of the operator's API key, `-` without a key."""

    mac: Mac
    reason: Reason
    device_id: str
    by: str
    at: datetime
    name: str | None = None
    replaced_by: Mac | None = None

    @property
    def why(self) -> str:
        """The reason as text, and how to register the camera again."""
        actor = "without a key" if self.by == "-" else f"by {self.by}"
        reason = f"replaced by {self.replaced_by}" if self.reason is Reason.REPLACED else "unpaired"
        return f"it was {reason} ({actor}, {self.at:%Y-%m-%d %H:%M} UTC); pair it manually, or lift the exclusion"
