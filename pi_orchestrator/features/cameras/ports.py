"""Protocols for what higher features add to a camera's view; `app/build.py` plugs them in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras.model import RecoveryState


class OnboardingFailure(Protocol):
    """The last failed onboarding attempt of a camera; times are monotonic seconds."""

    @property
    def text(self) -> str:
        """Code and message."""

    @property
    def code(self) -> str | None:
        """The code; None for an internal error."""

    @property
    def message(self) -> str:
        """The reason."""

    @property
    def failures(self) -> int:
        """Failed attempts in a row."""

    @property
    def failed_at(self) -> float:
        """Time of the failure."""

    @property
    def next_attempt_at(self) -> float:
        """Time from which the next message of the camera starts an attempt."""

    @property
    def remedy(self) -> str:
        """What an operator can do."""


class OnboardingActivity(Protocol):
    """Which cameras are being onboarded, and why others were not."""

    @property
    def revision(self) -> object:
        """Differs after each change."""

    def is_onboarding(self, mac: Mac) -> bool:
        """Whether an attempt of this camera is running."""

    def last_failure(self, mac: Mac) -> OnboardingFailure | None:
        """The last failed attempt of an unregistered camera; None if it has not failed."""


class RebootActivity(Protocol):
    """Which cameras are rebooting."""

    @property
    def revision(self) -> object:
        """Differs after each change."""

    def is_rebooting(self, mac: Mac) -> bool:
        """Whether a reboot was requested and the camera is not back yet."""


class Picture(Protocol):
    """The part of a picture that a camera's view needs."""

    @property
    def taken_at(self) -> datetime:
        """When the picture was taken, UTC."""


class LatestPicture(Protocol):
    """The last picture of each camera."""

    @property
    def revision(self) -> object:
        """Differs after each change."""

    def peek_last(self, mac: Mac) -> Picture | None:
        """The newest picture; None if it is not in memory."""

    def average_ms(self, mac: Mac) -> int | None:
        """Average duration of the camera's last captures, ms; None if there were no captures."""


class Recovery(Protocol):
    """The recovery of one camera; times are monotonic seconds."""

    @property
    def state(self) -> RecoveryState:
        """The current step."""

    @property
    def since(self) -> float:
        """Start of the current step."""

    @property
    def failures(self) -> int:
        """Failures in a row."""

    @property
    def failed_at(self) -> float | None:
        """Time of the last failure; None if there was no failure."""

    @property
    def last_error(self) -> str:
        """Message of the last failure."""

    @property
    def advice(self) -> str:
        """What an operator can do; empty if nothing."""


class RecoveryStatus(Protocol):
    """The recovery of every camera."""

    @property
    def revision(self) -> object:
        """Differs after each change."""

    def of(self, mac: Mac) -> Recovery:
        """The recovery of a camera; state OK if it has no failures."""


@dataclass(frozen=True, slots=True)
class _Healthy:
    state: RecoveryState = RecoveryState.OK
    since: float = 0.0
    failures: int = 0
    failed_at: float | None = None
    last_error: str = ""
    advice: str = ""


class _Unplugged:
    """Default of every port, until a feature is plugged in."""

    revision = 0

    def is_onboarding(self, mac: Mac) -> bool:
        del mac
        return False

    def last_failure(self, mac: Mac) -> OnboardingFailure | None:
        del mac
        return None

    def is_rebooting(self, mac: Mac) -> bool:
        del mac
        return False

    def peek_last(self, mac: Mac) -> Picture | None:
        del mac
        return None

    def average_ms(self, mac: Mac) -> int | None:
        del mac
        return None

    def of(self, mac: Mac) -> Recovery:
        del mac
        return _Healthy()


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraPorts:
    """What higher features add to a camera's view; by default nothing."""

    onboarding: OnboardingActivity = field(default_factory=_Unplugged)
    reboots: RebootActivity = field(default_factory=_Unplugged)
    pictures: LatestPicture = field(default_factory=_Unplugged)
    recovery: RecoveryStatus = field(default_factory=_Unplugged)

    @property
    def revision(self) -> object:
        """Differs after a change in any port."""
        return self.onboarding.revision, self.reboots.revision, self.pictures.revision, self.recovery.revision
