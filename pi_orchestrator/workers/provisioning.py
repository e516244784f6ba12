"""Provisioning sessions at work: who joins, whose turn it is, what has expired, what can be closed.

The stored state says what is to be done, and a pass does it: so a restart, a second operator or a crash in the middle
of anything leaves nothing that the next pass would not see. A bounded number of cameras is under way at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.candidate import Candidate, Step
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.session import Ending, Session, SessionState
from pi_orchestrator.errors import StorageError
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage import sessions
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.supervisor import Beat
from pi_orchestrator.workers.circuits import Circuits
from pi_orchestrator.workers.delivery import Delivery, Failed, HandedBackError
from pi_orchestrator.workers.joining import Joining
from pi_orchestrator.workers.session_record import SessionRecord
from pi_orchestrator.workers.sessions import Sessions

IDLE_S = 10.0
PASS_S = 0.5
CLOSE_GRACE_S = 30.0
AFTER_TROUBLE_S = 1.0

log = get_logger(__name__)

_Key = tuple[str, Mac]


class ProvisioningWorker:
    """`run` passes over the open sessions; `sessions` is what operators command."""

    def __init__(
        self,
        *,
        interface: str,
        concurrency: int,
        clock: Clock,
        database: Database,
        sessions: Sessions,
        delivery: Delivery,
        joining: Joining,
        record: SessionRecord,
        circuits: Circuits,
    ) -> None:
        self._interface = interface
        self._concurrency = concurrency
        self._clock = clock
        self._database = database
        self._delivery = delivery
        self._joining = joining
        self._record = record
        self._circuits = circuits
        self._running: dict[_Key, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._since: dict[tuple[str, SessionState], float] = {}
        self._warned: set[str] = set()
        self._hold_until = float("-inf")
        self.outcomes: Counter[str] = Counter(verified=0, failed=0)
        self.sessions = sessions
        sessions.on_change = self._wake.set

    @property
    def under_way(self) -> int:
        """How many cameras something is being done to right now."""
        return len(self._running)

    def is_provisioning(self, mac: Mac) -> bool:
        """Whether something is being done to a camera right now."""
        return any(mac == one for _, one in self._running)

    @property
    def circuit_open(self) -> bool:
        """Whether nothing is started because camera after camera has failed."""
        return self._circuits.network.is_open

    async def load(self) -> None:
        """Whatever was open when the daemon ended waits for somebody to resume it; what was closing is closed."""

        async def job(tx: Tx) -> None:
            for session in await sessions.unended(tx.run):
                interrupted = session.interrupt()
                if interrupted != session:
                    await self._record.save(tx, interrupted)

        await self._database.write(job)
        for session in await sessions.unended(self._database.read):
            if session.state is SessionState.CLOSING:
                await self._finish(session)
            else:
                if self._clock.trusted():  # else nobody knows how long it has waited already
                    self._record.has_waited(session, self._clock.wall())
                log.warning("a session was interrupted: resume or discard it", session_id=session.id)

    async def run(self, beat: Beat) -> None:
        """A pass whenever something has changed and twice a second while a session is open, until cancelled."""
        try:
            while True:
                beat()
                self._wake.clear()
                busy = await self._pass_or_wait()
                await self._clock.wait(self._wake, PASS_S if busy else IDLE_S)
        finally:
            # Cut off between two steps: what is stored says where to go on.
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_or_wait(self) -> bool:
        try:
            return await self.pass_once()
        except StorageError as error:
            log.warning("provisioning waits for the database", reason=error.message, details=error.details)
            await self._clock.sleep(AFTER_TROUBLE_S)
            return True

    async def pass_once(self) -> bool:
        """Look at every open session once; whether there is one."""
        unended = await sessions.unended(self._database.read)
        for session in unended:
            line = await sessions.in_line(self._database.read, session.id)
            await self._cut_off_skipped(session, {one.mac for one in line})
            if session.state is SessionState.CLOSING:
                await self._close(session)
                continue
            if await self._expire(session):
                continue
            await self._joining.pass_once(session)
            if session.state is SessionState.DISCOVERING and self._in_state_s(session) >= (
                session.config.discovery_timeout_seconds
            ):
                await self._advance(session)
            if session.runs and session.network_interface == self._interface:
                under_way = {mac for _, mac in self._running}  # in whichever session: a camera has one owner at a time
                await self._start_some(session, [one for one in line if one.mac not in under_way])
        return bool(unended)

    # Whose turn it is.

    async def _start_some(self, session: Session, waiting: list[Candidate]) -> None:
        now = self._clock.monotonic()
        if now < self._hold_until or self.sessions.obstacle():
            return
        network = self._circuits.network
        for one in waiting:
            probes = network.is_open
            if len(self._running) >= self._concurrency or not network.take(now):
                return
            key = (session.id, one.mac)
            self._running[key] = task = asyncio.create_task(self._deliver(session, one), name=f"provision-{one.mac}")
            task.add_done_callback(partial(self._done, key, probes))

    def _done(self, key: _Key, probed: bool, _task: asyncio.Task[None]) -> None:
        if probed:
            self._circuits.network.release()  # however it ended, cut off before its first step included
        self._running.pop(key, None)
        self._wake.set()

    async def _deliver(self, session: Session, one: Candidate) -> None:
        """One camera's turn; whatever its fault, it stays its own."""
        try:
            await self._learn(session, await self._ended(session, one))
        except HandedBackError:
            log.debug("a camera is not gone on with for now", mac=one.mac)
        except StorageError as error:
            self._hold_until = self._clock.monotonic() + AFTER_TROUBLE_S
            log.warning("a camera waits for the database", mac=one.mac, reason=error.message, details=error.details)

    async def _ended(self, session: Session, one: Candidate) -> Failed | None:
        try:
            return await self._delivery.run(session, one)
        except (HandedBackError, StorageError):
            raise
        except Exception:
            log.exception("provisioning a camera failed unexpectedly", mac=one.mac)
            await self._give_up(session.id, one.mac, "INTERNAL_ERROR", "an unexpected fault; see the log")
            return Failed("INTERNAL_ERROR", is_silence=False)

    async def _learn(self, session: Session, failed: Failed | None) -> None:
        """What one camera's end says about the way to all of them."""
        network = self._circuits.network
        self.outcomes["failed" if failed else "verified"] += 1
        if failed is None:
            network.succeeded()
        elif failed.is_silence and network.failed(now := self._clock.monotonic()):
            wait_s = network.wait_s(now)
            log.warning("camera after camera fails: provisioning waits", code=failed.code, seconds=round(wait_s))
            message = f"camera after camera fails ({failed.code}): the rest waits {wait_s:.0f} s"

            async def job(tx: Tx) -> None:
                await self._record.trouble(tx, session.id, code="CIRCUIT_OPEN", message=message, retry_after_s=wait_s)

            await self._database.write(job)

    async def _give_up(self, session_id: str, mac: Mac, code: str, message: str) -> None:
        async def job(tx: Tx) -> None:
            one = await sessions.candidate(tx.run, session_id, mac)
            if one and one.under_way:
                await self._record.changed(tx, one, one.failed(code, message))

        await self._database.write(job)

    async def _cut_off_skipped(self, session: Session, in_line: set[Mac]) -> None:
        """Whoever was skipped meanwhile is not gone on with; who has just come to an end is let finish."""
        for session_id, mac in list(self._running):
            if session_id != session.id or mac in in_line:
                continue
            one = await sessions.candidate(self._database.read, session_id, mac)
            task = self._running.get((session_id, mac))
            if task and (one is None or one.skipped):
                task.cancel()

    # Time.

    def _in_state_s(self, session: Session) -> float:
        now = self._clock.monotonic()
        return now - self._since.setdefault((session.id, session.state), now)

    async def _advance(self, session: Session) -> None:
        async def job(tx: Tx) -> None:
            current = await sessions.get(tx.run, session.id)
            if current and current.activate() != current:
                await self._record.save(tx, current.activate())

        await self._database.write(job)

    async def _expire(self, session: Session) -> bool:
        """Warn of the end of a session in which nothing happens, then end it; True when it was ended."""
        left_s = self._record.left_s(session)
        if left_s > session.warning_s:
            self._warned.discard(session.id)
            return False

        async def job(tx: Tx) -> None:
            current = await sessions.get(tx.run, session.id)
            if current is None or current.updated_at != session.updated_at:
                return  # something has happened in it after all
            if left_s <= 0:
                await self._record.save(tx, current.close(Ending.EXPIRED))
            else:
                message = f"the session ends in {left_s:.0f} s unless something happens in it"
                await self._record.trouble(tx, session.id, code="SESSION_EXPIRING", message=message)

        if left_s <= 0 or session.id not in self._warned:
            self._warned.add(session.id)
            await self._database.write(job)
            self._wake.set()
        return left_s <= 0

    # The end.

    async def _close(self, session: Session) -> None:
        """Close it once nothing runs any more, or after the time that was left to what does."""
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
            current = await sessions.get(tx.run, session.id)
            if current is None or not current.is_open:
                return
            for one in await sessions.in_line(tx.run, session.id):
                why = "it was not begun with" if one.progress == Step.WAITING else "it was not done yet"
                after = one.failed("SESSION_CLOSED", f"the session ended: {why}")
                await self._record.changed(tx, one, after)
            await sessions.erase_password(tx, session.id)
            await self._record.save(tx, current.ended(tx.stamp.at))

        await self._database.write(job)
        self._since = {key: at for key, at in self._since.items() if key[0] != session.id}
        self._warned.discard(session.id)
        self._joining.forget(session.id)
        try:
            await self._database.scrub()
        except StorageError as error:
            log.warning("the write-ahead log is emptied later", reason=error.message)
        self.sessions.has_ended(session.id)
        log.info("session closed", session_id=session.id, ending=session.ending)
