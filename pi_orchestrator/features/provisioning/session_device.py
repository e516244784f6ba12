"""One camera in a provisioning session, as a pure state machine whose every step is stored before it is taken.

`discovered` → `provisioning` → `provisioned` → `verifying` → `verified`, from each of the first four to `failed`, and
from there back by a retry. Progress shows the steps within a state. `sent` is set while the camera may have the
credentials: they are not sent again until this is resolved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum, StrEnum

from pi_orchestrator.core.error_codes import ErrorCode, SessionCode
from pi_orchestrator.core.errors import ConflictError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.fingerprint import FingerprintChange

INVALID = ErrorCode.DEVICE_INVALID_STATE


class SessionDeviceState(StrEnum):
    """State of a camera in its session."""

    DISCOVERED = "discovered"
    PROVISIONING = "provisioning"
    PROVISIONED = "provisioned"
    VERIFYING = "verifying"
    VERIFIED = "verified"
    FAILED = "failed"


class Step(IntEnum):
    """Steps of provisioning; the values are the published progress in percent."""

    WAITING = 0
    IDENTIFYING = 10
    SENDING = 30
    PROVISIONED = 50
    RETURNING = 60
    READING_BACK = 85
    VERIFIED = 100


UNDER_WAY = frozenset({SessionDeviceState.PROVISIONING, SessionDeviceState.PROVISIONED, SessionDeviceState.VERIFYING})
ACCEPTED_CREDENTIALS = frozenset(
    {SessionDeviceState.PROVISIONED, SessionDeviceState.VERIFYING, SessionDeviceState.VERIFIED}
)


@dataclass(frozen=True, slots=True)
class Sent:
    """Address and time of a send of credentials; monotonic seconds within the boot `boot_id`."""

    ip: str
    boot_id: str
    monotonic: float


@dataclass(frozen=True, slots=True)
class SessionDevice:
    """A camera of a session; `rssi` in dBm (0: unknown).

    `queued`: its position in the queue, kept afterwards; None if its provisioning was never requested. `unlisted`:
    requested although it is not on the allowlist. `in_allowlist` and `container_id` come from the allowlist, and
    `changed` (what it answers differently than when it was first seen) from the fingerprints, at the time of reading.
    """

    session_id: str
    mac: Mac
    ip: str
    discovered_at: datetime
    state: SessionDeviceState = SessionDeviceState.DISCOVERED
    progress: int = Step.WAITING
    rssi: int = 0
    firmware_version: str = ""
    retry_count: int = 0
    queued: int | None = None
    unlisted: bool = False
    error_code: str | None = None
    error_message: str | None = None
    provisioned_at: datetime | None = None
    verified_at: datetime | None = None
    sent: Sent | None = None
    in_allowlist: bool = False
    container_id: str | None = None
    changed: tuple[FingerprintChange, ...] = ()

    @property
    def under_way(self) -> bool:
        """Whether its provisioning was requested, and it is neither verified nor failed."""
        return self.state in UNDER_WAY

    @property
    def skipped(self) -> bool:
        """Whether an operator has skipped it."""
        return self.state is SessionDeviceState.FAILED and self.error_code == SessionCode.SKIPPED

    @property
    def awaits_confirmation(self) -> bool:
        """Whether it was not sent the credentials because it has changed since it was first seen."""
        return self.state is SessionDeviceState.FAILED and self.error_code == SessionCode.DEVICE_CHANGED

    def queue(self, position: int, *, unlisted: bool = False) -> SessionDevice:
        """Request its provisioning, at this queue position; ConflictError unless it is `discovered`."""
        if self.state is not SessionDeviceState.DISCOVERED:
            raise ConflictError(
                f"{self.mac} is {self.state}",
                code=INVALID,
                details="retry it instead" if self.state is SessionDeviceState.FAILED else None,
            )
        return replace(
            self, state=SessionDeviceState.PROVISIONING, progress=Step.WAITING, queued=position, unlisted=unlisted
        )

    def retry(self, position: int, *, max_retries: int) -> SessionDevice:
        """Request its provisioning again; ConflictError if it has not failed, or after `max_retries`."""
        if self.under_way:
            raise ConflictError(f"{self.mac} is already {self.state}", code=ErrorCode.DEVICE_ALREADY_PROVISIONING)
        if self.state is not SessionDeviceState.FAILED:
            raise ConflictError(f"{self.mac} is {self.state}; only a failed camera can be retried", code=INVALID)
        if self.retry_count >= max_retries:
            raise ConflictError(
                f"{self.mac} was already retried {self.retry_count} times",
                code=ErrorCode.MAX_RETRIES_EXCEEDED,
                details=f"last failure: {self.error_code}: {self.error_message}",
            )
        return replace(
            self,
            state=SessionDeviceState.PROVISIONING,
            progress=Step.WAITING,
            queued=position,
            # A retry after a skip counts only once: the count must be above 0 to detect a repeated retry request.
            retry_count=max(1, self.retry_count) if self.skipped else self.retry_count + 1,
            error_code=None,
            error_message=None,
        )

    def confirm(self, position: int) -> SessionDevice:
        """Accept how it answers now, and request its provisioning.

        A device that waits for this confirmation is queued again; that is no retry. One that was requested before and
        does not wait only loses its changes.
        """
        confirmed = replace(self, changed=())
        if self.state is SessionDeviceState.DISCOVERED:
            return confirmed.queue(position)
        if not self.awaits_confirmation:
            return confirmed
        return replace(
            confirmed,
            state=SessionDeviceState.PROVISIONING,
            progress=Step.WAITING,
            queued=position,
            error_code=None,
            error_message=None,
        )

    def skip(self) -> SessionDevice:
        """Mark it as failed with the code SKIPPED; ConflictError if it is verified."""
        if self.skipped:
            return self
        if self.state is SessionDeviceState.VERIFIED:
            raise ConflictError(f"{self.mac} is verified and cannot be skipped", code=INVALID)
        return replace(
            self,
            state=SessionDeviceState.FAILED,
            error_code=SessionCode.SKIPPED,
            error_message="skipped by the operator",
        )

    def identifying(self) -> SessionDevice:
        """Start to verify its identity."""
        self._expect(SessionDeviceState.PROVISIONING)
        return replace(self, progress=Step.IDENTIFYING)

    def sending(self, sent: Sent) -> SessionDevice:
        """Start to send the credentials; from now on it may have them."""
        self._expect(SessionDeviceState.PROVISIONING)
        return replace(self, progress=Step.SENDING, ip=sent.ip, sent=sent)

    def not_accepted(self, why: str) -> SessionDevice:
        """Record that it certainly does not have the credentials that were sent."""
        self._expect(SessionDeviceState.PROVISIONING)
        return replace(self, progress=Step.IDENTIFYING, sent=None, error_message=why)

    def accepted(self, at: datetime) -> SessionDevice:
        """Record that it has accepted the credentials, or was seen on the target network."""
        self._expect(SessionDeviceState.PROVISIONING)
        if self.sent is None:
            raise ConflictError(f"no credentials were sent to {self.mac}", code=INVALID)
        return replace(
            self, state=SessionDeviceState.PROVISIONED, progress=Step.PROVISIONED, provisioned_at=at, error_message=None
        )

    def returning(self) -> SessionDevice:
        """Start to wait for it on the target network."""
        self._expect(SessionDeviceState.PROVISIONED, SessionDeviceState.VERIFYING)
        return replace(self, state=SessionDeviceState.VERIFYING, progress=Step.RETURNING)

    def reading_back(self, ip: str) -> SessionDevice:
        """Start to verify it at its new address."""
        self._expect(SessionDeviceState.VERIFYING)
        return replace(self, progress=Step.READING_BACK, ip=ip)

    def verified(self, at: datetime) -> SessionDevice:
        """Record that it was verified on the target network."""
        self._expect(SessionDeviceState.VERIFYING)
        return replace(self, state=SessionDeviceState.VERIFIED, progress=Step.VERIFIED, verified_at=at)

    def failed(self, code: str, message: str, *, not_delivered: bool = False) -> SessionDevice:
        """Record a failure; `not_delivered` if it certainly does not have the credentials."""
        if self.state in (SessionDeviceState.VERIFIED, SessionDeviceState.FAILED):
            raise ConflictError(f"{self.mac} is already {self.state}", code=INVALID)
        return replace(
            self,
            state=SessionDeviceState.FAILED,
            error_code=code,
            error_message=message,
            sent=None if not_delivered else self.sent,
        )

    def _expect(self, *states: SessionDeviceState) -> None:
        if self.state not in states:
            raise ConflictError(f"{self.mac} is {self.state}", code=INVALID)
