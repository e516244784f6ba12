"""Auto-onboarding: from a camera's first message to its place in a container.

The policy is evaluated for each camera that is seen. A camera that passes joins the waiting line (`line.py`), proven
cameras before those known from messages alone. It leaves the line when the token bucket and the concurrency limit
allow; then its attempt runs (`attempt.py`). This file has the control (enable, kill switch, settings, explain) and the
loop.

The kill switch has priority: each write of an attempt reads the toggle within its own transaction, and the database's
single writer serializes these reads and the switch.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.errors import OnboardEnableError, StorageError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.events import CameraSeen, MacContradicted, OnboardingDisabled, OnboardingEnabled
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.features.cameras import store as camera_store
from pi_orchestrator.features.cameras.registration import CameraRegistrar
from pi_orchestrator.features.containers import store as container_store
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.verifier import DeviceVerifier
from pi_orchestrator.features.onboarding import store
from pi_orchestrator.features.onboarding.attempt import AttemptRunner, OnboardingAttempt
from pi_orchestrator.features.onboarding.backoff import LastFailure, RetryBackoff, retry_rule
from pi_orchestrator.features.onboarding.line import WaitingLine
from pi_orchestrator.features.onboarding.onboarding_event import OnboardingEvent, Stage
from pi_orchestrator.features.onboarding.outcomes import OutcomeRecorder
from pi_orchestrator.features.onboarding.policy import (
    Facts,
    Policy,
    RejectionCode,
    RuleResult,
    evaluate,
    first_failed_rule,
)
from pi_orchestrator.features.onboarding.store import Metrics
from pi_orchestrator.net.kernel.neighbours import NeighbourTable
from pi_orchestrator.settings import AutoOnboardSettings
from pi_orchestrator.settings.model import Mode
from pi_orchestrator.storage import audit_log, event_store
from pi_orchestrator.storage.database import Database, Tx

TARGET_LABEL = "Auto-onboarded"
IDLE_S = 10.0
OVERFLOW_LOG_S = 60.0
INBOX_LIMIT = 8192
_RATE_LIMITED = RuleResult("rate", passed=False, why="waiting for a token", code=RejectionCode.ONBOARD_RATE_LIMITED)

log = get_logger(__name__)


class OnboardingWorker:
    """Onboards cameras. Operators use `enable`, `disable` and `explain`."""

    def __init__(
        self,
        *,
        settings: AutoOnboardSettings,
        ap_subnet: IPv4Network,
        clock: Clock,
        bus: EventBus,
        database: Database,
        registrar: CameraRegistrar,
        neighbours: NeighbourTable,
        registry: DeviceRegistry,
        verifier: DeviceVerifier,
    ) -> None:
        self.settings = settings
        self._ap_subnet = ap_subnet
        self._clock = clock
        self._bus = bus
        self._database = database
        self._registrar = registrar
        self._neighbours = neighbours
        self._outcomes = OutcomeRecorder(clock=clock)
        self._proven_address = registry.address_of
        self._backoff = RetryBackoff(clock=clock, has_address=lambda mac: registry.address_of(mac) is not None)
        self.line = WaitingLine(
            clock=clock,
            burst_size=settings.burst_size,
            max_per_minute=settings.max_per_minute,
            concurrency=settings.concurrency,
            has_proof=lambda mac: registry.is_proven(mac, clock.monotonic()),
        )
        self._runner = AttemptRunner(
            settings=settings,
            clock=clock,
            database=database,
            registrar=registrar,
            verifier=verifier,
            outcomes=self._outcomes,
            backoff=self._backoff,
            bucket_state=self.line.snapshot,
            proven_address=registry.address_of,
        )
        self._tasks: dict[Mac, asyncio.Task[None]] = {}
        self._own_addresses: frozenset[IPv4Address] = frozenset()
        self._wake = asyncio.Event()
        self._toggle = asyncio.Lock()
        self._started = False
        self._overflow_logged_at = float("-inf")
        self.enabled = False

    # State, for operators and the API.

    @property
    def running(self) -> bool:
        """Whether cameras are being onboarded now."""
        return self._started and self.enabled and self.settings.mode is Mode.DEV

    @property
    def metrics(self) -> Metrics:
        """Counters since the last reset."""
        return self._outcomes.metrics

    @property
    def waiting(self) -> int:
        """Number of cameras in the waiting line."""
        return len(self.line.waiting)

    @property
    def unproven(self) -> int:
        """Number of waiting cameras that are known from messages alone."""
        return self.line.unproven

    @property
    def overflowed(self) -> int:
        """Number of cameras dropped because the waiting line was full."""
        return self.line.overflowed

    @property
    def tokens(self) -> float:
        """Attempts that the limiter would allow now."""
        return self.line.tokens

    @property
    def in_flight(self) -> frozenset[Mac]:
        """Cameras that are being verified now."""
        return frozenset(self.line.in_flight)

    @property
    def revision(self) -> object:
        """A value that differs after each change of `in_flight` or of a camera's last failure."""
        return self.in_flight, self._backoff.revision

    def is_onboarding(self, mac: Mac) -> bool:
        """Whether this camera is being verified now."""
        return mac in self.line.in_flight

    def last_failure(self, mac: Mac) -> LastFailure | None:
        """The last failed attempt of an unregistered camera; None if it has not failed."""
        return None if mac in self._registrar.cache else self._backoff.last(mac)

    # Control.

    async def enable(self, actor: Actor) -> None:
        """Enable onboarding, durably; OnboardEnableError unless the mode is `dev`."""
        if self.settings.mode is not Mode.DEV:
            raise OnboardEnableError("auto-onboard mode must be 'dev' to enable")
        async with self._toggle:

            async def job(tx: Tx) -> None:
                await store.set_enabled(tx, enabled=True)
                await audit_log.record(tx, actor)
                # Before the event: its subscribers publish every present camera, and these must be evaluated.
                tx.after_commit(self._on_enabled)
                await event_store.append(tx, OnboardingEnabled(by=actor.key_name))

            await self._database.write(job)

    async def disable(self, actor: Actor) -> None:
        """Disable onboarding, durably (kill switch); no camera is onboarded after this returns."""
        async with self._toggle:
            self.enabled = False
            stopped, tasks = list(self.line.in_flight.values()), list(self._tasks.values())
            for task in tasks:
                task.cancel()
            self.line.clear()
            rejections = self._outcomes.rejections
            pending, counts = rejections.take(), Counter(rejections.take_counts())

            async def job(tx: Tx) -> None:
                await store.set_enabled(tx, enabled=False)
                rejected = [
                    attempt.event(Stage.REJECTED, code=RejectionCode.NOT_ENABLED, message="stopped by the kill switch")
                    for attempt in stopped
                    if not attempt.settled and not await camera_store.is_registered(tx, attempt.mac)
                ]
                await store.append(tx, [*pending, *rejected])
                await store.count(tx, **(counts + Counter(rejected_by_policy=len(rejected))))
                await audit_log.record(tx, actor)
                await event_store.append(tx, OnboardingDisabled(by=actor.key_name))
                tx.after_commit(lambda: self._outcomes.count(rejected_by_policy=len(rejected)))

            try:
                await self._database.write(job)
            except StorageError:
                # Stays disabled in memory, which is safe; the operator must know that it is not durable.
                rejections.restore(pending, dict(counts))
                log.error("kill switch not stored, onboarding disabled only until restart")
                raise
            finally:
                await asyncio.gather(*tasks, return_exceptions=True)
            for attempt in stopped:
                rejections.mark_written(attempt.mac, RejectionCode.NOT_ENABLED)

    async def reset_metrics(self, actor: Actor) -> None:
        """Set the counters to zero."""
        self._outcomes.rejections.take_counts()

        async def job(tx: Tx) -> None:
            await store.reset_metrics(tx)
            await audit_log.record(tx, actor)
            tx.after_commit(self._outcomes.reset)

        await self._database.write(job)

    async def explain(self, mac: Mac, ip: str | None) -> list[RuleResult]:
        """Every rule's result for a camera, without side effects; after a failed attempt also that of `retry`."""
        await self._read_own_addresses()
        results = list(evaluate(self._policy(), self._facts(mac, ip, tokens=self.tokens)))
        if failure := self.last_failure(mac):
            results.append(retry_rule(failure, now=self._clock.monotonic()))
        return results

    def reconfigure(self, settings: AutoOnboardSettings) -> None:
        """Apply new settings; spent tokens stay spent."""
        self.settings = self._runner.settings = settings
        for mac, attempt in self.line.in_flight.items():
            if self._failed_rule(mac, attempt.ip):
                self._tasks[mac].cancel()  # the camera's next message is evaluated, and rejected
        self.line.reconfigure(
            burst_size=settings.burst_size,
            max_per_minute=settings.max_per_minute,
            concurrency=settings.concurrency,
        )
        self._wake.set()

    def _on_enabled(self) -> None:
        self.enabled = True
        self._wake.set()

    # The loop.

    async def load(self) -> None:
        """Continue from the stored state; the settings give only the initial toggle value."""
        initial = self.settings.enabled
        target = self.settings.target_container

        async def job(tx: Tx) -> None:
            await store.init_state(tx, enabled=initial)
            await container_store.ensure(tx, target, label=TARGET_LABEL)

        await self._database.write(job)
        state = await store.load_state(self._database)
        self.enabled = state.enabled
        self._outcomes.metrics = state.metrics
        if state.bucket:
            self.line.restore(state.bucket)

    async def run(self, beat: Beat) -> None:
        """Receive events, serve the waiting line and store rejections until cancelled."""
        rejections = self._outcomes.rejections
        self._started = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(), name="onboarding-events")
                tasks.create_task(rejections.run(self._database), name="onboarding-rejections")
                await self._serve_line(beat)
        finally:
            self._started = False
            running = list(self._tasks.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await rejections.store(self._database)

    async def _receive(self) -> None:
        while True:
            with self._bus.subscribe(CameraSeen, MacContradicted, maxsize=INBOX_LIMIT) as events:
                async for event in events:
                    if isinstance(event, CameraSeen):
                        await self._read_own_addresses()
                        self.consider(event)
                    elif isinstance(event, MacContradicted) and self.running:
                        self._outcomes.add(
                            OnboardingEvent(event.mac, Stage.FAILED, VerificationCode.MAC_MISMATCH, event.message)
                        )
            log.warning("camera event queue full, dropped cameras are evaluated at their next message")
            await self._clock.sleep(1.0)

    def consider(self, seen: CameraSeen) -> None:
        """Evaluate the policy for a camera: reject it, or add it to the waiting line."""
        if seen.trigger not in self.settings.triggers:
            return
        mac = seen.mac
        if mac in self._registrar.cache:
            if seen.appeared and self.enabled and self.settings.mode is Mode.DEV:
                self._outcomes.add_already_onboarded()
            return
        waiting = self.line.waiting.get(mac)
        if waiting is not None:
            waiting.ip = seen.ip or waiting.ip
            return
        if mac in self.line.in_flight or self._backoff.must_wait(mac):
            return
        attempt = OnboardingAttempt(mac, self._address(mac, seen.ip), seen.device_id, seen.firmware_version)
        failed_rule = self._failed_rule(mac, attempt.ip)
        if failed_rule:
            self._outcomes.add(attempt.rejection(failed_rule))
            return
        if not self.line.append(attempt):
            self._log_overflow()
            return
        self._start_ready()
        if self.line.waiting:
            self._wake.set()  # if the line was empty, the loop may sleep beyond the next token

    def _log_overflow(self) -> None:
        """Log that the line has no place, at most once in OVERFLOW_LOG_S."""
        now = self._clock.monotonic()
        if now - self._overflow_logged_at >= OVERFLOW_LOG_S:
            self._overflow_logged_at = now
            log.warning(
                "onboarding line full, cameras dropped until their next message",
                waiting=self.waiting,
                known_from_messages_alone=self.unproven,
                dropped=self.overflowed,
            )

    async def _serve_line(self, beat: Beat) -> None:
        while True:
            beat()
            self._wake.clear()
            self._start_ready()
            await self._clock.wait(self._wake, min(IDLE_S, self.line.wait_s()))

    def _start_ready(self) -> None:
        """Start attempts from the front of the line while tokens and concurrency allow."""
        if self.line.wait_s() <= 0:
            self.line.promote()
        while attempt := self.line.front():
            attempt.ip = self._address(attempt.mac, attempt.ip)
            failed_rule = self._failed_rule(attempt.mac, attempt.ip)
            if failed_rule:
                self.line.remove(attempt)
                self._outcomes.add(attempt.rejection(failed_rule))
            elif self.line.start(attempt):
                self._start(attempt)
            else:
                break
        for attempt in self.line.take_limited():
            self._outcomes.add(attempt.rejection(_RATE_LIMITED))

    def _start(self, attempt: OnboardingAttempt) -> None:
        mac = attempt.mac
        task = self._tasks[mac] = asyncio.create_task(self._runner.run(attempt), name=f"onboard-{mac}")
        task.add_done_callback(lambda _: self._finished(mac))

    def _finished(self, mac: Mac) -> None:
        del self._tasks[mac]
        self.line.finish(mac)
        self._wake.set()

    # The policy.

    def _address(self, mac: Mac, claimed: str | None) -> str | None:
        return str(self._proven_address(mac) or claimed or "") or None

    def _failed_rule(self, mac: Mac, ip: str | None) -> RuleResult | None:
        """The first failed rule, without the rule `rate`: the waiting line enforces the rate limit."""
        return first_failed_rule(self._policy(), self._facts(mac, ip, tokens=1))

    async def _read_own_addresses(self) -> None:
        self._own_addresses = await self._neighbours.own_addresses()

    def _policy(self) -> Policy:
        return Policy.of(self.settings, ap_subnet=self._ap_subnet, own_addresses=self._own_addresses)

    def _facts(self, mac: Mac, ip: str | None, *, tokens: float) -> Facts:
        exclusion = self._registrar.exclusions.get(mac)
        return Facts(
            mac=mac,
            ip=ip,
            enabled=self.enabled,
            registered=mac in self._registrar.cache,
            tokens=tokens,
            exclusion_reason=exclusion.why if exclusion else None,
        )
