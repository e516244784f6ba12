"""Onboarding events: what happened to a camera in an attempt, by stage."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pi_orchestrator.core.mac import Mac


class Stage(StrEnum):
    """The stages of onboarding events."""

    DISCOVERED = "discovered"
    VERIFIED = "verified"
    REGISTERED = "registered"
    PAIRED = "paired"
    FAILED = "failed"
    REJECTED = "rejected_by_policy"


@dataclass(frozen=True, slots=True)
class OnboardingEvent:
    """A row of the table `onboarding_audit`. `id` is 0 and `at` is None until it is stored."""

    mac: Mac
    stage: Stage
    code: str | None = None
    message: str | None = None
    device_id: str | None = None
    ip_address: str | None = None
    firmware_version: str | None = None
    container_id: str | None = None
    duration_ms: int | None = None
    id: int = 0
    at: datetime | None = None

    @property
    def failed(self) -> bool:
        """Whether the stage is a failure or a rejection; a camera that waits for a token is rejected, too."""
        return self.stage in (Stage.FAILED, Stage.REJECTED)
