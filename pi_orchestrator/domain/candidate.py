"""One camera in a provisioning session, as a pure state machine whose every step is stored before it is taken.

`discovered` → `provisioning` → `provisioned` → `verifying` → `verified`, from each of the first four to `failed`, and
from there back by a retry. Progress tells the steps within a state. What was `sent` is known for as long as the
camera may have it: it is then looked for, before anything is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum, StrEnum

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import ConflictError

SKIPPED = "SKIPPED"
INVALID = "DEVICE_INVALID_STATE"


class CandidateState(StrEnum):
    """Where a camera stands in its session."""

    DISCOVERED = "discovered"
    PROVISIONING = "provisioning"
    PROVISIONED = "provisioned"
    VERIFYING = "verifying"
    VERIFIED = "verified"
    FAILED = "failed"


class Step(IntEnum):
    """What is being done, as the progress that is told of it."""

    WAITING = 0
    IDENTIFYING = 10
    SENDING = 30
    PROVISIONED = 50
    RETURNING = 60
    READING_BACK = 85
    VERIFIED = 100


UNDER_WAY = frozenset({CandidateState.PROVISIONING, CandidateState.PROVISIONED, CandidateState.VERIFYING})
TOOK_CREDENTIALS = frozenset({CandidateState.PROVISIONED, CandidateState.VERIFYING, CandidateState.VERIFIED})


@dataclass(frozen=True, slots=True)
class Sent:
    """When credentials may have left for which address; monotonic seconds within the boot `boot_id`."""

    ip: str
    boot_id: str
    monotonic: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A camera of a session as of one moment; `queued` is its place in line, `rssi` 0 where it is not known.

    `unlisted` where it was asked for though it is not on the allowlist. `in_allowlist` and `container_id` are the
    allowlist's word at the moment of reading.
    """

    session_id: str
    mac: Mac
    ip: str
    discovered_at: datetime
    state: CandidateState = CandidateState.DISCOVERED
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

    @property
    def under_way(self) -> bool:
        """Whether it was asked for and has not come to an end."""
        return self.state in UNDER_WAY

    @property
    def skipped(self) -> bool:
        """Whether it was taken out of the batch by a person."""
        return self.state is CandidateState.FAILED and self.error_code == SKIPPED

    def queue(self, place: int, *, unlisted: bool = False) -> Candidate:
        """Stand in line; ConflictError where it has had its turn."""
        if self.state is not CandidateState.DISCOVERED:
            raise ConflictError(
                f"{self.mac} is {self.state}",
                code=INVALID,
                details="retry it" if self.state is CandidateState.FAILED else None,
            )
        return replace(self, state=CandidateState.PROVISIONING, progress=Step.WAITING, queued=place, unlisted=unlisted)

    def retry(self, place: int, *, max_retries: int) -> Candidate:
        """Stand in line again after a failure; ConflictError when that was done too often."""
        if self.under_way:
            raise ConflictError(f"{self.mac} is {self.state} already", code="DEVICE_ALREADY_PROVISIONING")
        if self.state is not CandidateState.FAILED:
            raise ConflictError(f"{self.mac} is {self.state}, which is nothing to retry", code=INVALID)
        if self.retry_count >= max_retries:
            raise ConflictError(
                f"{self.mac} was retried {self.retry_count} times",
                code="MAX_RETRIES_EXCEEDED",
                details=f"it failed last with {self.error_code}: {self.error_message}",
            )
        return replace(
            self,
            state=CandidateState.PROVISIONING,
            progress=Step.WAITING,
            queued=place,
            # A skip uses up no retry but the first: by its count a retry that is sent again is known as a repeat.
            retry_count=max(1, self.retry_count) if self.skipped else self.retry_count + 1,
            error_code=None,
            error_message=None,
        )

    def skip(self) -> Candidate:
        """Take it out of the batch; ConflictError once it is done."""
        if self.skipped:
            return self
        if self.state is CandidateState.VERIFIED:
            raise ConflictError(f"{self.mac} is verified: there is nothing left to skip", code=INVALID)
        return replace(self, state=CandidateState.FAILED, error_code=SKIPPED, error_message="skipped by the operator")

    def identifying(self) -> Candidate:
        """Who it is will be asked now."""
        self._expect(CandidateState.PROVISIONING)
        return replace(self, progress=Step.IDENTIFYING)

    def sending(self, sent: Sent) -> Candidate:
        """The credentials leave now: from here on it may have them."""
        self._expect(CandidateState.PROVISIONING)
        return replace(self, progress=Step.SENDING, ip=sent.ip, sent=sent)

    def not_taken(self, why: str) -> Candidate:
        """It surely does not have the credentials that were sent."""
        self._expect(CandidateState.PROVISIONING)
        return replace(self, progress=Step.IDENTIFYING, sent=None, error_message=why)

    def accepted(self, at: datetime) -> Candidate:
        """It has said that it takes them, or was seen with them."""
        self._expect(CandidateState.PROVISIONING)
        if self.sent is None:
            raise ConflictError(f"nothing was sent to {self.mac}", code=INVALID)
        return replace(
            self, state=CandidateState.PROVISIONED, progress=Step.PROVISIONED, provisioned_at=at, error_message=None
        )

    def returning(self) -> Candidate:
        """It is awaited on the target network."""
        self._expect(CandidateState.PROVISIONED, CandidateState.VERIFYING)
        return replace(self, state=CandidateState.VERIFYING, progress=Step.RETURNING)

    def reading_back(self, ip: str) -> Candidate:
        """It is back, at this address, and will be asked who it is and where."""
        self._expect(CandidateState.VERIFYING)
        return replace(self, progress=Step.READING_BACK, ip=ip)

    def verified(self, at: datetime) -> Candidate:
        """It is what it said, where it was sent."""
        self._expect(CandidateState.VERIFYING)
        return replace(self, state=CandidateState.VERIFIED, progress=Step.VERIFIED, verified_at=at)

    def failed(self, code: str, message: str, *, has_nothing: bool = False) -> Candidate:
        """It has come to no good end; `has_nothing` where it surely did not take what was sent."""
        if self.state in (CandidateState.VERIFIED, CandidateState.FAILED):
            raise ConflictError(f"{self.mac} is {self.state} already", code=INVALID)
        return replace(
            self,
            state=CandidateState.FAILED,
            error_code=code,
            error_message=message,
            sent=None if has_nothing else self.sent,
        )

    def _expect(self, *states: CandidateState) -> None:
        if self.state not in states:
            raise ConflictError(f"{self.mac} is {self.state}", code=INVALID)
