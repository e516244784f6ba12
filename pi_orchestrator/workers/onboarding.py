"""Auto-onboarding: from a camera's first message to a paired row.

A camera that is seen is judged by the policy. What passes goes into the waiting line, in arrival order, and
leaves it when the token bucket and the number of attempts under way allow. An attempt is: `discovered` and the
spent token on disk, then the HTTP verification, then camera, position and audit in one transaction.

The kill switch wins over everything: each write of an attempt asks the database, within its own transaction,
whether onboarding is still on, and the one writer puts those questions and the switch in one order.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.bucket import TokenBucket
from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import (
    AuditEntry,
    Code,
    Facts,
    Mode,
    Policy,
    Stage,
    Verdict,
    first_refusal,
    judge,
)
from pi_orchestrator.errors import OnboardEnableError, OnboardingError, StorageError
from pi_orchestrator.events import CameraContradicted, CameraSeen, Event, Hub, Logged
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.espcam import CameraAnswer
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.settings import AutoOnboardSettings
from pi_orchestrator.storage import actions, cameras, containers, event_log, onboarding
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.storage.onboarding import Metrics
from pi_orchestrator.supervisor import Beat
from pi_orchestrator.workers.attempt import Candidate, pair
from pi_orchestrator.workers.identity import Verifier
from pi_orchestrator.workers.refusals import Refusals
from pi_orchestrator.workers.registration import DismissedError, Registrar
from pi_orchestrator.workers.retries import Retries

TARGET_LABEL = "Auto-onboarded"
IDLE_S = 10.0
INBOX_LIMIT = 8192

T = TypeVar("T")

log = get_logger(__name__)


@dataclass(slots=True)
class _Attempt:
    candidate: Candidate
    task: asyncio.Task[None]


@dataclass(slots=True)
class _Line:
    """Who waits, in arrival order, and who is being verified."""

    waiting: OrderedDict[Mac, Candidate] = field(default_factory=OrderedDict)
    in_flight: dict[Mac, _Attempt] = field(default_factory=dict)
    overflowed: int = 0


class _StoppedError(Exception):
    """The kill switch was thrown while this attempt was under way."""


class OnboardingWorker:
    """Judges, verifies, registers and pairs; `enable`, `disable` and `explain` are for operators."""

    def __init__(
        self,
        *,
        settings: AutoOnboardSettings,
        ap_subnet: IPv4Network,
        clock: Clock,
        hub: Hub,
        database: Database,
        registrar: Registrar,
        neighbours: Neighbours,
        verifier: Verifier,
    ) -> None:
        self.settings = settings
        self._ap_subnet = ap_subnet
        self._clock = clock
        self._hub = hub
        self._database = database
        self._registrar = registrar
        self._roster = registrar.roster
        self._neighbours = neighbours
        self._verifier = verifier
        self._bucket = TokenBucket(
            capacity=settings.burst_size, rate=settings.max_per_minute / 60, now=clock.monotonic()
        )
        self._refusals = Refusals(clock=clock)
        self._line = _Line()
        self._retries = Retries(clock=clock)
        self._own: frozenset[IPv4Address] = frozenset()
        self._wake = asyncio.Event()
        self._toggle = asyncio.Lock()
        self._up = False
        self.enabled = False
        self.metrics = Metrics()

    # What operators and the API ask for.

    @property
    def running(self) -> bool:
        """Whether cameras are being onboarded just now."""
        return self._up and self.enabled and self.settings.mode is Mode.DEV

    @property
    def waiting(self) -> int:
        """How many cameras stand in line."""
        return len(self._line.waiting)

    @property
    def overflowed(self) -> int:
        """How many cameras were turned away because the line was full."""
        return self._line.overflowed

    @property
    def tokens(self) -> float:
        """How many attempts the limiter would allow right now."""
        return self._bucket.tokens(self._clock.monotonic())

    @property
    def under_way(self) -> frozenset[Mac]:
        """The cameras that are being verified right now."""
        return frozenset(self._line.in_flight)

    def is_onboarding(self, mac: Mac) -> bool:
        """Whether this camera is being verified right now."""
        return mac in self._line.in_flight

    async def enable(self, actor: Actor) -> None:
        """Switch on, durably; OnboardEnableError unless the mode is `dev`."""
        if self.settings.mode is not Mode.DEV:
            raise OnboardEnableError("auto-onboard mode must be 'dev' to enable")
        async with self._toggle:

            async def job(tx: Tx) -> None:
                await onboarding.set_enabled(tx, enabled=True)
                await actions.record(tx, actor)
                # Before the event, whose hearers announce every camera that is here.
                tx.after_commit(self._enabled)
                await event_log.append(tx, Logged("onboarding.enabled", {"by": actor.key_name}))

            await self._database.write(job)

    async def disable(self, actor: Actor) -> None:
        """The kill switch: durable, and nothing is registered after this returns."""
        async with self._toggle:
            self.enabled = False
            stopped = list(self._line.in_flight.values())
            for attempt in stopped:
                attempt.task.cancel()
            self._line.waiting.clear()
            pending, counts = self._refusals.take(), Counter(self._refusals.take_counts())

            async def job(tx: Tx) -> None:
                await onboarding.set_enabled(tx, enabled=False)
                rows = [
                    attempt.candidate.entry(Stage.REJECTED, code=Code.NOT_ENABLED, message="stopped by the kill switch")
                    for attempt in stopped
                    if not attempt.candidate.settled and not await cameras.is_registered(tx, attempt.candidate.mac)
                ]
                await onboarding.audit(tx, [*pending, *rows])
                await onboarding.count(tx, **(counts + Counter(rejected_by_policy=len(rows))))
                await actions.record(tx, actor)
                await event_log.append(tx, Logged("onboarding.disabled", {"by": actor.key_name}))
                tx.after_commit(lambda: self._count(rejected_by_policy=len(rows)))

            try:
                await self._database.write(job)
            except StorageError:
                # Off in memory, which is the safe side; but whoever threw the switch must know that it did not hold.
                self._refusals.give_back(pending, dict(counts))
                log.error("the kill switch is thrown but not stored: it would not survive a restart")
                raise
            finally:
                await asyncio.gather(*(attempt.task for attempt in stopped), return_exceptions=True)
            for attempt in stopped:
                self._refusals.remember(attempt.candidate.mac, Code.NOT_ENABLED)

    async def reset_metrics(self, actor: Actor) -> None:
        """Set the counters to zero."""
        self._refusals.take_counts()

        async def job(tx: Tx) -> None:
            await onboarding.reset_metrics(tx)
            await actions.record(tx, actor)
            tx.after_commit(self._reset)

        await self._database.write(job)

    async def explain(self, mac: Mac, ip: str | None) -> list[Verdict]:
        """Every rule's verdict for a camera, without doing anything."""
        await self._look_around()
        return list(judge(self._policy(), self._facts(mac, ip, tokens=self.tokens)))

    def reconfigure(self, settings: AutoOnboardSettings) -> None:
        """Take new settings; what the limiter has spent stays spent."""
        self.settings = settings
        for attempt in self._line.in_flight.values():
            candidate = attempt.candidate
            if first_refusal(self._policy(), self._facts(candidate.mac, candidate.ip, tokens=1)):
                attempt.task.cancel()  # judged anew, and refused, at its next message
        self._bucket.resize(
            capacity=settings.burst_size, rate=settings.max_per_minute / 60, now=self._clock.monotonic()
        )
        self._wake.set()

    def _reset(self) -> None:
        self.metrics = Metrics()

    def _enabled(self) -> None:
        self.enabled = True
        self._wake.set()

    # The worker.

    async def load(self) -> None:
        """Go on from the stored state; the configuration gives only the very first toggle value."""
        first = self.settings.enabled
        target = self.settings.target_container

        async def job(tx: Tx) -> None:
            await onboarding.init_state(tx, enabled=first)
            await containers.ensure(tx, target, label=TARGET_LABEL)

        await self._database.write(job)
        state = await onboarding.load_state(self._database)
        self.enabled = state.enabled
        self.metrics = state.metrics
        if state.bucket:
            self._bucket.restore(state.bucket, now=self._clock.monotonic(), boot_id=self._clock.boot_id)

    async def run(self, beat: Beat) -> None:
        """Listen, serve the line and write refusals until cancelled."""
        self._up = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="onboarding-listen")
                tasks.create_task(self._refusals.run(self._database), name="onboarding-refusals")
                await self._serve_line(beat)
        finally:
            self._up = False
            running = [attempt.task for attempt in self._line.in_flight.values()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await self._refusals.store(self._database)

    async def _listen(self) -> None:
        while True:
            with self._hub.subscribe(_is_for_us, maxsize=INBOX_LIMIT) as seen:
                async for event in seen:
                    if isinstance(event, CameraSeen):
                        await self._look_around()
                        self.consider(event)
                    elif isinstance(event, CameraContradicted) and self.running:
                        self._count(failed=1)
                        self._refusals.add(AuditEntry(event.mac, Stage.FAILED, Code.MAC_MISMATCH, event.message))
            log.warning("more cameras than can be looked at; they will be seen again at their next message")
            await self._clock.sleep(1.0)

    def consider(self, seen: CameraSeen) -> None:
        """One pass for one camera: refuse it, or put it in line."""
        if seen.trigger not in self.settings.triggers:
            return
        mac = seen.mac
        if mac in self._roster:
            if seen.appeared and self.enabled and self.settings.mode is Mode.DEV:
                self._refusals.count_already_onboarded()
                self._count(already_onboarded=1)
            return
        known = self._line.waiting.get(mac)
        if known is not None:
            known.ip = seen.ip or known.ip
            return
        if mac in self._line.in_flight or self._retries.must_wait(mac):
            return
        candidate = Candidate(mac, seen.ip, seen.device_id, seen.firmware_version)
        # The line decides about tokens; every other rule is final now.
        verdict = first_refusal(self._policy(), self._facts(mac, seen.ip, tokens=1))
        if verdict:
            self._refuse(candidate, verdict)
            return
        if len(self._line.waiting) >= self.settings.queue_limit:
            self._line.overflowed += 1
            return
        self._line.waiting[mac] = candidate
        self._advance()
        if self._line.waiting:
            self._wake.set()  # the line sleeps until the next token, and it may have slept with nobody in it

    async def _serve_line(self, beat: Beat) -> None:
        while True:
            beat()
            self._wake.clear()
            self._advance()
            wait_s = IDLE_S
            if self._line.waiting and len(self._line.in_flight) < self.settings.concurrency:
                wait_s = min(IDLE_S, self._bucket.wait_s(self._clock.monotonic()))
            await self._clock.wait(self._wake, wait_s)

    def _advance(self) -> None:
        """Take from the front of the line whatever tokens and concurrency allow."""
        waiting, in_flight = self._line.waiting, self._line.in_flight
        while waiting and len(in_flight) < self.settings.concurrency:
            candidate = next(iter(waiting.values()))
            verdict = first_refusal(self._policy(), self._facts(candidate.mac, candidate.ip, tokens=1))
            if verdict is None and not self._bucket.take(self._clock.monotonic()):
                break
            del waiting[candidate.mac]
            if verdict:
                self._refuse(candidate, verdict)
            else:
                task = asyncio.create_task(self._attempt(candidate), name=f"onboard-{candidate.mac}")
                in_flight[candidate.mac] = _Attempt(candidate, task)
                task.add_done_callback(lambda _, mac=candidate.mac: self._finished(mac))  # type: ignore[misc]
        if waiting and self._bucket.wait_s(self._clock.monotonic()) > 0:
            self._tell_limited()

    def _tell_limited(self) -> None:
        for candidate in self._line.waiting.values():
            if not candidate.limited:
                candidate.limited = True
                self._refuse(
                    candidate,
                    Verdict("rate", passed=False, why="it waits for a token", code=Code.ONBOARD_RATE_LIMITED),
                )

    def _finished(self, mac: Mac) -> None:
        self._line.in_flight.pop(mac, None)
        self._wake.set()

    async def _attempt(self, candidate: Candidate) -> None:
        """Verify and pair one camera; whatever its fault, it stays its own."""
        started = self._clock.monotonic()
        try:
            await self._begin(candidate)
            try:
                answer = await self._verifier.verify(
                    candidate.mac, candidate.ip or "", timeout_s=self.settings.verification_timeout_sec
                )
                await self._pair(candidate, answer, started)
            except DismissedError as error:
                self._refuse(candidate, Verdict("deny", passed=False, why=error.message, code=Code.DENIED))
            except OnboardingError as error:
                await self._fail(candidate, error, started)
        except _StoppedError:
            log.info("onboarding stopped by the kill switch", mac=candidate.mac)
        except Exception:
            # A fault of ours met by one camera's data must not take the others down with it.
            self._retries.failed(candidate.mac)
            self._count(failed=1)
            self._refusals.add(candidate.entry(Stage.FAILED, message="a fault of the daemon; its log has the details"))
            log.exception("onboarding attempt broke", mac=candidate.mac)

    async def _begin(self, candidate: Candidate) -> None:
        bucket = self._bucket.snapshot(now=self._clock.monotonic(), boot_id=self._clock.boot_id)

        async def job(tx: Tx) -> None:
            await onboarding.audit(tx, [candidate.entry(Stage.DISCOVERED)])
            await onboarding.save_bucket(tx, bucket)
            await onboarding.count(tx, attempts=1)
            tx.after_commit(lambda: self._count(attempts=1))

        await self._write_if_enabled(job)

    async def _pair(self, candidate: Candidate, answer: CameraAnswer, started: float) -> None:
        verified_ms = self._elapsed_ms(started)
        settings = self.settings

        async def job(tx: Tx) -> Camera | None:
            camera = await pair(
                tx,
                candidate,
                answer,
                registrar=self._registrar,
                target=settings.target_container,
                overflow=settings.overflow,
                verified_ms=verified_ms,
                total_ms=self._elapsed_ms(started),
            )
            if camera:
                tx.after_commit(lambda: self._paired(camera))
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

    def _paired(self, camera: Camera) -> None:
        self._retries.forget(camera.mac)
        self._count(success=1)

    async def _fail(self, candidate: Candidate, error: OnboardingError, started: float) -> None:
        entry = candidate.entry(
            Stage.FAILED,
            code=Code(error.code),
            message=error.message,
            duration_ms=self._elapsed_ms(started),
        )

        async def job(tx: Tx) -> None:
            await onboarding.audit(tx, [entry])
            await onboarding.count(tx, failed=1)
            payload = {"mac": candidate.mac, "code": error.code, "message": error.message}
            await event_log.append(tx, Logged("camera.onboarding_failed", payload, mac=candidate.mac))
            tx.after_commit(lambda: self._count(failed=1))

        self._retries.failed(candidate.mac)
        candidate.settled = True  # its row is on the way: the kill switch must not write a second one
        await self._write_if_enabled(job)
        log.warning("onboarding failed", mac=candidate.mac, code=error.code, reason=error.message)

    async def _write_if_enabled(self, job: Callable[[Tx], Awaitable[T]]) -> T:
        async def guarded(tx: Tx) -> T:
            if not await onboarding.is_enabled(tx):
                raise _StoppedError
            return await job(tx)

        return await self._database.write(guarded)

    # Refusals.

    def _refuse(self, candidate: Candidate, verdict: Verdict) -> None:
        code = verdict.code or Code.NOT_ENABLED
        # No address is no rule that the camera broke: it could not be tried.
        stage = Stage.FAILED if code is Code.NO_ADDRESS else Stage.REJECTED
        self._count(**{"failed" if stage is Stage.FAILED else "rejected_by_policy": 1})
        self._refusals.add(candidate.entry(stage, code=code, message=verdict.why))

    # Small things.

    def _count(self, **more: int) -> None:
        self.metrics.add(self._clock.wall(), **more)

    async def _look_around(self) -> None:
        self._own = await self._neighbours.own_addresses()

    def _policy(self) -> Policy:
        settings = self.settings
        return Policy(
            mode=settings.mode,
            ap_subnet=self._ap_subnet,
            subnet_allowlist=settings.subnet_allowlist,
            deny=frozenset(settings.deny),
            own=self._own,
            allow_loopback=settings.allow_loopback,
        )

    def _facts(self, mac: Mac, ip: str | None, *, tokens: float) -> Facts:
        dismissal = self._registrar.dismissed.get(mac)
        return Facts(
            mac=mac,
            ip=ip,
            enabled=self.enabled,
            registered=mac in self._roster,
            tokens=tokens,
            dismissed=dismissal.why if dismissal else None,
        )

    def _elapsed_ms(self, started: float) -> int:
        return round((self._clock.monotonic() - started) * 1000)


def _is_for_us(event: Event) -> bool:
    return isinstance(event, CameraSeen | CameraContradicted)
