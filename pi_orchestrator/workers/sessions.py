"""What operators ask of provisioning sessions: every command is one transaction, and the writer puts them in order.

Two who act at once, or one who repeats himself, are so decided by what is stored. The worker hears of each change and
does the work. A repeat of what is done already is answered with how it stands.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import SecretStr

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.candidate import Candidate, CandidateState
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.session import Ending, Session, SessionConfig, SessionState
from pi_orchestrator.errors import (
    ConflictError,
    ForbiddenError,
    MqttUnavailableError,
    NetworkError,
    NotFoundError,
    StorageError,
    ValidationFailedError,
)
from pi_orchestrator.events import Logged
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.settings import ProvisioningSettings
from pi_orchestrator.storage import actions, sessions
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.storage.sessions import SessionPage
from pi_orchestrator.storage.vault import Vault
from pi_orchestrator.workers.circuits import Circuits
from pi_orchestrator.workers.scanner import Scanner
from pi_orchestrator.workers.session_record import SessionRecord, candidate_fields, session_fields

CLOSE_WAIT_S = 10.0
MAX_OPEN = 32

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a session is started with; what is None is as configured."""

    network_interface: str | None = None
    target_ssid: str | None = None
    target_password: SecretStr | None = None
    config: SessionConfig = field(default_factory=SessionConfig)
    state: SessionState = SessionState.ACTIVE


@dataclass(frozen=True, slots=True)
class Batch:
    """What came of asking for every camera: how many were put in line, were so already, and were left out."""

    queued: int
    under_way: int
    skipped: int


class Sessions:
    """Commands and questions; `on_change` is called after every change."""

    def __init__(
        self,
        *,
        settings: ProvisioningSettings,
        interface: str,
        clock: Clock,
        database: Database,
        vault: Vault,
        mqtt: MqttLink,
        scanner: Scanner,
        circuits: Circuits,
        record: SessionRecord,
    ) -> None:
        self._settings = settings
        self._interface = interface
        self._clock = clock
        self._database = database
        self._vault = vault
        self._mqtt = mqtt
        self._scanner = scanner
        self._circuits = circuits
        self._record = record
        self._endings: dict[str, asyncio.Event] = {}
        self._rotating = asyncio.Lock()
        self.on_change: Callable[[], None] = _nobody

    # Questions.

    async def get(self, session_id: str) -> Session:
        """A session; NotFoundError."""
        return _known(await sessions.get(self._database.read, session_id), session_id)

    async def opened(self) -> list[Session]:
        """Every session that has not ended, oldest first."""
        return await sessions.unended(self._database.read)

    async def recoverable(self) -> list[Session]:
        """The sessions that a restart cut off and nobody has resumed."""
        return [session for session in await self.opened() if session.interrupted]

    async def history(self, *, limit: int, offset: int) -> SessionPage:
        """Sessions that have ended, newest first."""
        return await sessions.history(self._database, limit=limit, offset=offset)

    async def candidates(self, session_id: str, *, state: CandidateState | None = None) -> list[Candidate]:
        """The cameras of a session; NotFoundError."""
        await self.get(session_id)
        return await sessions.candidates(self._database.read, session_id, state=state)

    def left_s(self, session: Session) -> float:
        """Seconds until it ends if nothing happens in it."""
        return self._record.left_s(session)

    async def snapshot(self, session_id: str | None) -> list[Logged]:
        """One session, or every open one, as `session.status`, and its devices as `device.discovered`."""
        chosen = [await self.get(session_id)] if session_id else await self.opened()
        told = []
        for session in chosen:
            fields = session_fields(session)
            at = fields["updated_at"]
            told.append(Logged("session.status", {"session": fields}, session_id=session.id, at=at))
            for one in await sessions.candidates(self._database.read, session.id):
                device = candidate_fields(one)
                payload = {name: device[name] for name in ("mac", "ip", "rssi", "firmware_version", "in_allowlist")}
                payload["device"] = device
                told.append(Logged("device.discovered", payload, mac=one.mac, session_id=session.id, at=at))
        return told

    # Commands.

    async def start(self, wish: Wish, actor: Actor) -> Session:
        """Open a session; ConflictError names the one that is open on the interface already."""
        ssid, password = self._credentials(wish)
        now = self._clock.wall()
        session = Session(
            id=str(uuid.uuid4()),
            state=wish.state,
            network_interface=wish.network_interface or self._interface,
            target_ssid=ssid,
            config=wish.config,
            created_at=now,
            updated_at=now,
        )

        async def seal() -> sessions.Sealed:
            return await asyncio.to_thread(self._vault.seal, password.get_secret_value(), purpose=purpose(session.id))

        async def job(tx: Tx) -> Session:
            if other := await sessions.open_on(tx.run, session.network_interface):
                raise ConflictError(
                    f"a session is open on {session.network_interface} already",
                    code="SESSION_ALREADY_ACTIVE",
                    details=f"session {other.id} is {other.state}; close it first",
                )
            if len(await sessions.unended(tx.run)) >= MAX_OPEN:
                raise ConflictError(f"{MAX_OPEN} sessions are open already", details="close one first")
            await sessions.insert(tx, session, sealed)
            await actions.record(tx, actor, target=session.id)
            tx.after_commit(self.on_change)
            return await self._record.tell(tx, session.id)

        # Sealed under a key that is about to be forgotten, it could never be opened.
        async with self._rotating:
            sealed = await seal() if ssid else None
            return await self._database.write(job)

    async def pause(self, session_id: str, actor: Actor) -> Session:
        """Start nothing new."""
        return await self._change(session_id, actor, Session.pause)

    async def resume(self, session_id: str, actor: Actor) -> Session:
        """Go on."""
        return await self._change(session_id, actor, Session.resume)

    async def recover(self, session_id: str, actor: Actor) -> Session:
        """Go on after a restart."""
        return await self._change(session_id, actor, Session.recover)

    async def close(self, session_id: str, actor: Actor, *, ending: Ending = Ending.CLOSED) -> Session:
        """End a session once nothing runs any more; waits for that, but not for long."""
        session = await self._change(session_id, actor, lambda session: session.close(ending))
        if session.is_open:
            ended = self._endings.setdefault(session_id, asyncio.Event())
            await self._clock.wait(ended, CLOSE_WAIT_S)
        return await self.get(session_id)

    async def discard(self, session_id: str, actor: Actor) -> None:
        """End a session for good; what runs is cut off."""
        await self.close(session_id, actor, ending=Ending.DISCARDED)

    def has_ended(self, session_id: str) -> None:
        """The worker's word that a session is closed."""
        self._record.forget(session_id)
        if ended := self._endings.pop(session_id, None):
            ended.set()

    async def provision(self, session_id: str, mac: Mac, actor: Actor) -> Candidate:
        """Put a camera in line; one that is, or has been through, is answered with how it stands."""

        def ask(session: Session, one: Candidate, place: int) -> Candidate:
            if one.under_way or one.state is CandidateState.VERIFIED:
                return one
            self._check(session, one)
            return one.queue(place)

        return await self._change_one(session_id, mac, actor, ask)

    async def retry(self, session_id: str, mac: Mac, actor: Actor) -> Candidate:
        """Put a camera that failed in line again; one that was retried and has not failed since is left as it is."""

        def ask(session: Session, one: Candidate, place: int) -> Candidate:
            if one.retry_count and (one.under_way or one.state is CandidateState.VERIFIED):
                return one
            again = one.retry(place, max_retries=self._settings.max_retries)
            self._check(session, one)
            return again

        return await self._change_one(session_id, mac, actor, ask)

    async def skip(self, session_id: str, mac: Mac, actor: Actor) -> Candidate:
        """Take a camera out of the batch; what is being done to it is broken off."""

        def ask(_session: Session, one: Candidate, _place: int) -> Candidate:
            return one.skip()

        return await self._change_one(session_id, mac, actor, ask, starts=False)

    async def provision_all(self, session_id: str, actor: Actor, *, only_allowlisted: bool) -> Batch:
        """Put every camera in line that was not asked for yet and may be; one transaction for all."""
        strict = only_allowlisted or not self._settings.allow_unlisted

        async def job(tx: Tx) -> Batch:
            before = await self._in(tx, session_id)
            session = before.provision()
            everyone = await sessions.candidates(tx.run, session_id)
            waiting = [one for one in everyone if one.state is CandidateState.DISCOVERED]
            chosen = [one for one in waiting if one.in_allowlist or not strict]
            if chosen:
                self._check_network(session)
                await self._begin(tx, before, session)
            place = await sessions.next_place(tx.run, session_id)
            for number, one in enumerate(chosen):
                await self._record.changed(tx, one, one.queue(place + number, unlisted=not one.in_allowlist))
            await actions.record(tx, actor, target=session_id)
            tx.after_commit(self.on_change)
            return Batch(len(chosen), sum(one.under_way for one in everyone), len(waiting) - len(chosen))

        return await self._database.write(job)

    async def rotate_key(self, actor: Actor) -> int:
        """Seal every stored password under a new key and forget the old one; how many there are."""
        async with self._rotating:
            await asyncio.to_thread(self._vault.begin_rotation)
            stored = await sessions.passwords(self._database.read)
            renewed = await asyncio.to_thread(self._renewed, stored)

            async def job(tx: Tx) -> int:
                still = await sessions.passwords(tx.run)
                for session_id, sealed in renewed.items():
                    if session_id in still:
                        await sessions.put_password(tx, session_id, sealed)
                await actions.record(tx, actor, target=f"{len(renewed)} passwords")
                return len(renewed)

            count = await self._database.write(job)
            await asyncio.to_thread(self._vault.end_rotation)
            await self._database.scrub()
            return count

    def _renewed(self, stored: dict[str, sessions.Sealed]) -> dict[str, sessions.Sealed]:
        renewed = {}
        for session_id, sealed in stored.items():
            try:
                text = self._vault.open(sealed, purpose=purpose(session_id))
            except StorageError as error:
                log.error("a stored password stays as it is", session_id=session_id, reason=error.message)
            else:
                renewed[session_id] = self._vault.seal(text, purpose=purpose(session_id))
        return renewed

    # Inside.

    async def _change(self, session_id: str, actor: Actor, change: Callable[[Session], Session]) -> Session:
        async def job(tx: Tx) -> Session:
            before = await self._in(tx, session_id)
            after = change(before)
            await actions.record(tx, actor, target=session_id, outcome="ok" if after != before else "was so already")
            if after == before:
                return before
            tx.after_commit(self.on_change)
            return await self._record.save(tx, after)

        return await self._database.write(job)

    async def _change_one(
        self,
        session_id: str,
        mac: Mac,
        actor: Actor,
        change: Callable[[Session, Candidate, int], Candidate],
        *,
        starts: bool = True,
    ) -> Candidate:
        async def job(tx: Tx) -> Candidate:
            before = await self._in(tx, session_id)
            before.check_open()
            one = await sessions.candidate(tx.run, session_id, mac)
            if one is None:
                raise NotFoundError(f"{mac} is not in this session", code="DEVICE_NOT_FOUND")
            after = change(before, one, await sessions.next_place(tx.run, session_id))
            session = before.provision() if starts and after != one else before
            await actions.record(tx, actor, target=mac, outcome="ok" if after != one else "was so already")
            if after != one:
                await self._begin(tx, before, session)
                await self._record.changed(tx, one, after)
                tx.after_commit(self.on_change)
            return after

        return await self._database.write(job)

    async def _begin(self, tx: Tx, before: Session, session: Session) -> None:
        """Asking for cameras ends the time in which they are only looked for."""
        if session != before:
            await self._record.save(tx, session)

    async def _in(self, tx: Tx, session_id: str) -> Session:
        return _known(await sessions.get(tx.run, session_id), session_id)

    def _check(self, session: Session, one: Candidate) -> None:
        """Whether a camera may be started on now."""
        if not one.in_allowlist and not (one.unlisted and self._settings.allow_unlisted):
            raise ForbiddenError(
                f"{one.mac} is not on the allowlist", code="DEVICE_NOT_IN_ALLOWLIST", details="add it, then try again"
            )
        self._circuits.check(one.mac)
        self._check_network(session)

    def _check_network(self, session: Session) -> None:
        if not session.target_ssid:
            raise ConflictError(
                "the session has no network to send cameras to",
                details="start one with target_ssid, or configure provisioning.target_ssid",
            )
        if session.network_interface != self._interface:
            raise NetworkError(f"cameras are looked for on {self._interface}, not on {session.network_interface}")
        self._circuits.check()
        if reason := self.obstacle():
            raise reason

    def obstacle(self) -> MqttUnavailableError | NetworkError | None:
        """What keeps any camera from being started on just now."""
        if not self._mqtt.connected:
            return MqttUnavailableError(
                "the broker is away: nobody would hear a camera come back", details="see /readyz"
            )
        if not self._scanner.off and self._scanner.engine is None:
            return NetworkError(
                f"the camera network cannot be reached: {self._scanner.reason}",
                details="what is missing, and how to mend it: pi-orchestrator doctor",
            )
        return None

    def _credentials(self, wish: Wish) -> tuple[str, SecretStr]:
        """Where cameras are sent, and with what; ValidationFailedError names what is missing."""
        configured = self._settings.target_ssid or ""
        ssid = configured if wish.target_ssid is None else wish.target_ssid
        password = wish.target_password
        if password is not None and not ssid:
            raise ValidationFailedError("Validation failed", details="target_ssid: needed with target_password")
        if password is None and ssid == configured:
            password = self._settings.target_password or SecretStr("")
        if password is None:
            raise ValidationFailedError(
                "Validation failed", details="target_password: needed with target_ssid; empty for an open network"
            )
        return ssid, password


def purpose(session_id: str) -> str:
    """What a session's password is sealed for: it opens as nothing else."""
    return f"password of session {session_id}"


def _known(session: Session | None, session_id: str) -> Session:
    if session is None:
        raise NotFoundError("there is no such session", code="SESSION_NOT_FOUND", details=session_id[:64])
    return session


def _nobody() -> None:
    """Nobody listens yet."""
