"""One onboarding attempt: verify the camera over HTTP, register and pair it in one transaction, or record its failure.

Every write reads the toggle within its own transaction. The database has one writer, which puts these reads and the
kill switch in one order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TypeVar

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import OrchestratorError, VerificationError
from pi_orchestrator.core.events import OnboardingFailed
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.token_bucket import BucketState
from pi_orchestrator.features.cameras import store as camera_store
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.cameras.registration import CameraRegistrar, ExcludedError, NewCamera
from pi_orchestrator.features.containers import store as container_store
from pi_orchestrator.features.devices.verifier import DeviceVerifier
from pi_orchestrator.features.onboarding import store
from pi_orchestrator.features.onboarding.backoff import RetryBackoff
from pi_orchestrator.features.onboarding.onboarding_event import OnboardingEvent, Stage
from pi_orchestrator.features.onboarding.outcomes import OutcomeRecorder
from pi_orchestrator.features.onboarding.policy import RejectionCode, RuleResult
from pi_orchestrator.net.camera_http import CameraAnswer
from pi_orchestrator.settings import AutoOnboardSettings
from pi_orchestrator.settings.model import Overflow
from pi_orchestrator.storage import event_store
from pi_orchestrator.storage.database import Database, Tx

T = TypeVar("T")

log = get_logger(__name__)


class OnboardingError(OrchestratorError):
    """A verified camera cannot be placed in the target container."""

    code: RejectionCode

    def __init__(self, message: str, *, code: RejectionCode) -> None:
        super().__init__(message, code=code)


class _DisabledError(Exception):
    """The kill switch was used during this attempt."""


@dataclass(slots=True)
class OnboardingAttempt:
    """A camera that waits for a token or is being verified.

    `limited`: an onboarding event says that it waits for a token. `settled`: its last onboarding event is queued.
    """

    mac: Mac
    ip: str | None
    device_id: str | None
    firmware_version: str | None
    limited: bool = False
    settled: bool = False

    def event(self, stage: Stage, **fields: object) -> OnboardingEvent:
        """An onboarding event of this camera, not stored yet."""
        base = OnboardingEvent(
            mac=self.mac,
            stage=stage,
            device_id=self.device_id,
            ip_address=self.ip,
            firmware_version=self.firmware_version,
        )
        return replace(base, **fields)  # type: ignore[arg-type]  # callers name fields of OnboardingEvent

    def rejection(self, failed_rule: RuleResult) -> OnboardingEvent:
        """The onboarding event for a rule that failed."""
        code = failed_rule.code or RejectionCode.NOT_ENABLED
        # A missing address violates no rule: the attempt was not possible.
        stage = Stage.FAILED if code is RejectionCode.NO_ADDRESS else Stage.REJECTED
        return self.event(stage, code=code, message=failed_rule.why)


class AttemptRunner:
    """Runs attempts: verification, registration, failure. Any number may run concurrently."""

    def __init__(
        self,
        *,
        settings: AutoOnboardSettings,
        clock: Clock,
        database: Database,
        registrar: CameraRegistrar,
        verifier: DeviceVerifier,
        outcomes: OutcomeRecorder,
        backoff: RetryBackoff,
        bucket_state: Callable[[], BucketState],
        proven_address: Callable[[Mac], IPv4Address | None],
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._database = database
        self._registrar = registrar
        self._verifier = verifier
        self._outcomes = outcomes
        self._backoff = backoff
        self._bucket_state = bucket_state
        self._proven_address = proven_address

    async def run(self, attempt: OnboardingAttempt) -> None:
        """Verify and pair one camera. Raises nothing, so that one camera cannot stop the others."""
        started = self._clock.monotonic()
        try:
            await self._begin(attempt)
            try:
                answer = await self._verifier.verify(
                    attempt.mac, attempt.ip or "", timeout_s=self.settings.verification_timeout_sec
                )
                await self._pair(attempt, answer, started)
            except ExcludedError as error:
                rule = RuleResult("deny", passed=False, why=error.message, code=RejectionCode.DENIED)
                self._outcomes.add(attempt.rejection(rule))
            except (OnboardingError, VerificationError) as error:
                await self._fail(attempt, error, started)
        except _DisabledError:
            log.info("onboarding stopped by the kill switch", mac=attempt.mac)
        except Exception:
            message = "internal error; see the daemon's log"
            self._backoff.record_failure(attempt.mac, None, message)
            self._outcomes.add(attempt.event(Stage.FAILED, message=message))
            log.exception("onboarding attempt crashed", mac=attempt.mac)

    async def _begin(self, attempt: OnboardingAttempt) -> None:
        """Store the attempt and the spent token before anything is sent to the camera."""
        bucket = self._bucket_state()

        async def job(tx: Tx) -> None:
            await store.append(tx, [attempt.event(Stage.DISCOVERED)])
            await store.save_bucket(tx, bucket)
            await store.count(tx, attempts=1)
            tx.after_commit(lambda: self._outcomes.count(attempts=1))

        await self._write_if_enabled(job)

    async def _pair(self, attempt: OnboardingAttempt, answer: CameraAnswer, started: float) -> None:
        verified_ms = self._elapsed_ms(started)
        settings = self.settings

        async def job(tx: Tx) -> Camera | None:
            camera = await _register(
                tx,
                attempt,
                answer,
                registrar=self._registrar,
                target=settings.target_container,
                overflow=settings.overflow,
                verified_ms=verified_ms,
                total_ms=self._elapsed_ms(started),
            )
            if camera:
                tx.after_commit(lambda: self._on_paired(camera))
            return camera

        camera = await self._write_if_enabled(job)
        if camera:
            log.info(
                "camera onboarded",
                mac=camera.mac,
                container=camera.container_id,
                position=camera.position,
                ms=self._elapsed_ms(started),
            )

    def _on_paired(self, camera: Camera) -> None:
        self._backoff.forget(camera.mac)
        self._outcomes.count(success=1)

    async def _fail(
        self, attempt: OnboardingAttempt, error: OnboardingError | VerificationError, started: float
    ) -> None:
        event = attempt.event(
            Stage.FAILED, code=error.code, message=error.message, duration_ms=self._elapsed_ms(started)
        )

        async def job(tx: Tx) -> None:
            await store.append(tx, [event])
            await store.count(tx, failed=1)
            await event_store.append(tx, OnboardingFailed(mac=attempt.mac, code=error.code, message=error.message))
            tx.after_commit(lambda: self._outcomes.count(failed=1))

        is_claimed = attempt.ip != str(self._proven_address(attempt.mac))
        self._backoff.record_failure(attempt.mac, error.code, error.message, is_claimed=is_claimed)
        attempt.settled = True  # its onboarding event is queued: the kill switch must not write another
        await self._write_if_enabled(job)
        log.warning("onboarding failed", mac=attempt.mac, code=error.code, reason=error.message)

    async def _write_if_enabled(self, job: Callable[[Tx], Awaitable[T]]) -> T:
        async def guarded(tx: Tx) -> T:
            if not await store.is_enabled(tx):
                raise _DisabledError
            return await job(tx)

        return await self._database.write(guarded)

    def _elapsed_ms(self, started: float) -> int:
        return round((self._clock.monotonic() - started) * 1000)


async def _register(
    tx: Tx,
    attempt: OnboardingAttempt,
    answer: CameraAnswer,
    *,
    registrar: CameraRegistrar,
    target: str,
    overflow: Overflow,
    verified_ms: int,
    total_ms: int,
) -> Camera | None:
    """Register and place a verified camera, with its onboarding events; None if it is already registered.

    ExcludedError if an operator has excluded it since the attempt started.
    """
    if await camera_store.is_registered(tx, attempt.mac):
        return None
    firmware_version = answer.firmware_version or attempt.firmware_version
    new_camera = NewCamera(
        mac=attempt.mac,
        device_id=answer.device_id or attempt.device_id,  # proved before claimed
        ip=attempt.ip,
        firmware_version=firmware_version,
        is_present=True,
    )
    camera = await registrar.register(tx, new_camera, automatic=True, place=await _place(tx, target, overflow))
    verified = replace(attempt, device_id=camera.device_id, firmware_version=firmware_version)
    await store.append(
        tx,
        [
            verified.event(Stage.VERIFIED, duration_ms=verified_ms),
            verified.event(Stage.REGISTERED, duration_ms=total_ms),
            verified.event(Stage.PAIRED, duration_ms=total_ms, container_id=camera.container_id),
        ],
    )
    await store.count(tx, success=1)
    return camera


async def _place(tx: Tx, target: str, overflow: Overflow) -> tuple[str, int]:
    """Container and position for the next camera; OnboardingError if no position is free."""
    container = await container_store.find(tx, target)
    if container is None:
        raise OnboardingError(
            f"target container {target} not found; check auto_onboard.target_container",
            code=RejectionCode.CONTAINER_UNKNOWN,
        )
    position = await container_store.free_position(tx, target)
    if position is not None:
        return target, position
    if overflow is Overflow.REJECT:
        raise OnboardingError(
            f"all four positions of container {target} are occupied", code=RejectionCode.CONTAINER_FULL
        )
    return await container_store.next_overflow(tx, target, container.title)
