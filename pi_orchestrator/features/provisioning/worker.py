"""The worker of provisioning sessions: intake, provisioning in queue order, expiry and closing.

Each pass acts on the stored state, so it also continues what a restart, a crash or another operator has left.
At most `concurrency` devices are provisioned at the same time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.error_codes import ErrorCode, SessionCode
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.features.provisioning import store
from pi_orchestrator.features.provisioning.circuits import Circuits
from pi_orchestrator.features.provisioning.intake import DeviceIntake
from pi_orchestrator.features.provisioning.provisioner import DeviceProvisioner, Failure
from pi_orchestrator.features.provisioning.recorder import SessionRecorder
from pi_orchestrator.features.provisioning.secret_exposure import SecretExposure
from pi_orchestrator.features.provisioning.service import SessionService
from pi_orchestrator.features.provisioning.session import Ending, Session, SessionState
from pi_orchestrator.features.provisioning.session_device import SessionDevice, Step
from pi_orchestrator.features.provisioning.steps import ProvisioningInterruptedError
from pi_orchestrator.storage.database import Database, Tx

PASS_S, NO_SESSION_PASS_S = 0.5, 10.0
"""Maximum time between two passes, with and without an open session."""
CLOSE_GRACE_S = 30.0
"""Time for running steps to finish when an operator closes the session."""
RETRY_S = 1.0
"""Pause after a database error."""

log = get_logger(__name__)

_Key = tuple[str, Mac]
"""Session id and MAC of a device."""


class ProvisioningWorker:
    """Processes the open sessions after every change that `service` makes, and periodically."""

    def __init__(
        self,
        *,
        interface: str,
        concurrency: int,
        clock: Clock,
        database: Database,
        service: SessionService,
        provisioner: DeviceProvisioner,
        intake: DeviceIntake,
        recorder: SessionRecorder,
        circuits: Circuits,
        exposure: SecretExposure,
    ) -> None:
        self._interface = interface
        self._concurrency = concurrency
        self._clock = clock
        self._database = database
        self._provisioner = provisioner
        self._intake = intake
        self._recorder = recorder
        self._circuits = circuits
        self._exposure = exposure
        self._running: dict[_Key, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._state_entered_at: dict[tuple[str, SessionState], float] = {}
        self._warned: set[str] = set()
        self._retry_at = float("-inf")
        self.outcomes: Counter[str] = Counter(verified=0, failed=0)
        self._service = service
        service.on_change = self._wake.set

    @property
    def under_way(self) -> int:
        """Number of devices that are being provisioned now."""
        return len(self._running)

    def is_provisioning(self, mac: Mac) -> bool:
        """Whether a camera is being provisioned now."""
        return any(mac == other for _, other in self._running)

    @property
    def circuit_open(self) -> bool:
        """Whether provisioning is suspended because several devices failed in a row."""
        return self._circuits.network.is_open

    async def load(self) -> None:
        """Pause every session that was open when the daemon stopped, and close those that were closing."""

        async def job(tx: Tx) -> None:
            for session in await store.open_sessions(tx.run):
                interrupted = session.interrupt()
                if interrupted != session:
                    await self._recorder.save(tx, interrupted)

        await self._database.write(job)
        await self._exposure.load()
        for session in await store.open_sessions(self._database.read):
            if session.state is SessionState.CLOSING:
                await self._finish(session)
            else:
                if self._clock.trusted():  # else its age is unknown
                    self._recorder.restore_idle_time(session, self._clock.wall())
                log.warning("session interrupted by restart", session_id=session.id, remedy="resume or discard it")

    async def run(self, beat: Beat) -> None:
        """Run passes until cancelled: after every change, and every PASS_S while a session is open."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._exposure.follow(), name="provisioning-exposure")
                while True:
                    beat()
                    self._wake.clear()
                    has_sessions = await self._pass_or_wait()
                    await self._clock.wait(self._wake, PASS_S if has_sessions else NO_SESSION_PASS_S)
        finally:
            # Cancelled between two steps: the next start continues from what is stored.
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _pass_or_wait(self) -> bool:
        try:
            return await self.run_pass()
        except StorageError as error:
            log.warning("provisioning delayed, database error", reason=error.message, details=error.details)
            await self._clock.sleep(RETRY_S)
            return True

    async def run_pass(self) -> bool:
        """Process every open session once; return whether there is any."""
        open_sessions = await store.open_sessions(self._database.read)
        for session in open_sessions:
            queue = await store.under_way(self._database.read, session.id)
            await self._cancel_skipped(session, {device.mac for device in queue})
            if session.state is SessionState.CLOSING:
                await self._close(session)
                continue
            if await self._expire(session):
                continue
            await self._intake.run_pass(session)
            if session.state is SessionState.DISCOVERING and self._in_state_s(session) >= (
                session.config.discovery_timeout_seconds
            ):
                await self._activate(session)
            if session.can_provision and session.network_interface == self._interface:
                running = {mac for _, mac in self._running}  # of all sessions: a camera has at most one task
                await self._start_ready(session, [device for device in queue if device.mac not in running])
        return bool(open_sessions)

    # Provisioning.

    async def _start_ready(self, session: Session, waiting: list[SessionDevice]) -> None:
        now = self._clock.monotonic()
        if now < self._retry_at or self._service.precondition_error():
            return
        network = self._circuits.network
        for device in waiting:
            is_trial = network.is_open
            if len(self._running) >= self._concurrency or not network.begin_attempt(now):
                return
            key = (session.id, device.mac)
            self._running[key] = task = asyncio.create_task(self._run(session, device), name=f"provision-{device.mac}")
            task.add_done_callback(partial(self._done, key, is_trial))

    def _done(self, key: _Key, is_trial: bool, _task: asyncio.Task[None]) -> None:
        if is_trial:
            self._circuits.network.end_attempt()  # also if it was cancelled before its first step
        self._running.pop(key, None)
        self._wake.set()

    async def _run(self, session: Session, device: SessionDevice) -> None:
        """Provision one device; its failure never affects another."""
        try:
            await self._count_outcome(session, await self._outcome(session, device))
        except ProvisioningInterruptedError:
            log.debug("provisioning interrupted", mac=device.mac)
        except StorageError as error:
            self._retry_at = self._clock.monotonic() + RETRY_S
            log.warning("device delayed, database error", mac=device.mac, reason=error.message, details=error.details)

    async def _outcome(self, session: Session, device: SessionDevice) -> Failure | None:
        try:
            return await self._provisioner.run(session, device)
        except (ProvisioningInterruptedError, StorageError):
            raise
        except Exception:
            log.exception("provisioning failed unexpectedly", mac=device.mac)
            await self._fail(session.id, device.mac, ErrorCode.INTERNAL_ERROR, "internal error; see the daemon's log")
            return Failure(ErrorCode.INTERNAL_ERROR, is_network_fault=False)

    async def _count_outcome(self, session: Session, failure: Failure | None) -> None:
        """Count a device's outcome; enough network faults in a row open the network's circuit."""
        network = self._circuits.network
        self.outcomes["failed" if failure else "verified"] += 1
        if failure is None:
            network.record_success()
        elif failure.is_network_fault and network.record_failure(now := self._clock.monotonic()):
            wait_s = network.wait_s(now)
            log.warning(
                "provisioning suspended, several devices failed in a row", code=failure.code, seconds=round(wait_s)
            )
            message = f"several cameras failed in a row ({failure.code}); provisioning continues in {wait_s:.0f} s"

            async def job(tx: Tx) -> None:
                await self._recorder.append_error(
                    tx, session.id, code=ErrorCode.CIRCUIT_OPEN, message=message, retry_after_s=wait_s
                )

            await self._database.write(job)

    async def _fail(self, session_id: str, mac: Mac, code: str, message: str) -> None:
        async def job(tx: Tx) -> None:
            device = await store.device(tx.run, session_id, mac)
            if device and device.under_way:
                await self._recorder.save_step(tx, device, device.failed(code, message))

        await self._database.write(job)

    async def _cancel_skipped(self, session: Session, queued: set[Mac]) -> None:
        """Cancel the tasks of skipped devices; the task of a device that has just ended may finish."""
        for session_id, mac in list(self._running):
            if session_id != session.id or mac in queued:
                continue
            device = await store.device(self._database.read, session_id, mac)
            task = self._running.get((session_id, mac))
            if task and (device is None or device.skipped):
                task.cancel()

    # Expiry.

    def _in_state_s(self, session: Session) -> float:
        """Seconds since the first call for the session in its present state."""
        now = self._clock.monotonic()
        return now - self._state_entered_at.setdefault((session.id, session.state), now)

    async def _activate(self, session: Session) -> None:
        """End the discovery phase, if it has not ended yet."""

        async def job(tx: Tx) -> None:
            current = await store.get(tx.run, session.id)
            if current and current.activate() != current:
                await self._recorder.save(tx, current.activate())

        await self._database.write(job)

    async def _expire(self, session: Session) -> bool:
        """Warn before an idle session expires, then end it; True if it was ended."""
        remaining_s = self._recorder.remaining_s(session)
        if remaining_s > session.warning_s:
            self._warned.discard(session.id)
            return False

        async def job(tx: Tx) -> None:
            current = await store.get(tx.run, session.id)
            if current is None or current.updated_at != session.updated_at:
                return  # changed since this pass has read it
            if remaining_s <= 0:
                await self._recorder.save(tx, current.close(Ending.EXPIRED))
            else:
                message = f"the session expires in {remaining_s:.0f} s without activity"
                await self._recorder.append_error(tx, session.id, code=SessionCode.SESSION_EXPIRING, message=message)

        if remaining_s <= 0 or session.id not in self._warned:
            self._warned.add(session.id)
            await self._database.write(job)
            self._wake.set()
        return remaining_s <= 0

    # Closing.

    async def _close(self, session: Session) -> None:
        """Close a session once nothing runs, or after CLOSE_GRACE_S; immediately if it expired or was discarded."""
        grace_s = CLOSE_GRACE_S if session.ending is Ending.CLOSED else 0.0
        running = [task for (session_id, _), task in self._running.items() if session_id == session.id]
        if running and self._in_state_s(session) < grace_s:
            return
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._finish(session)

    async def _finish(self, session: Session) -> None:
        async def job(tx: Tx) -> None:
            current = await store.get(tx.run, session.id)
            if current is None or not current.is_open:
                return
            for device in await store.under_way(tx.run, session.id):
                missed = "started" if device.progress == Step.WAITING else "finished"
                after = device.failed(SessionCode.SESSION_CLOSED, f"the session ended before this camera was {missed}")
                await self._recorder.save_step(tx, device, after)
            await store.erase_password(tx, session.id)
            await self._recorder.save(tx, current.closed(tx.stamp.at))

        await self._database.write(job)
        self._state_entered_at = {key: at for key, at in self._state_entered_at.items() if key[0] != session.id}
        self._warned.discard(session.id)
        self._intake.forget(session.id)
        try:
            await self._database.erase_deleted_content()
        except StorageError as error:
            log.warning("write-ahead log not truncated", reason=error.message)
        self._service.mark_closed(session.id)
        log.info("session closed", session_id=session.id, ending=session.ending)
