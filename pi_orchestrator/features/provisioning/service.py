"""Operators' commands and queries for provisioning sessions.

Every command is one transaction, and the database runs them one after another, so the stored state decides concurrent
and repeated commands. A repeat of a completed command returns the current state. The worker is woken after each change
and does the work.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import SecretStr

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock, rfc3339
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import (
    ConflictError,
    ForbiddenError,
    MqttUnavailableError,
    NetworkError,
    NotFoundError,
    ValidationFailedError,
)
from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices import fingerprint_store
from pi_orchestrator.features.devices.fingerprint import changes_id
from pi_orchestrator.features.discovery.scanner import Scanner
from pi_orchestrator.features.provisioning import store
from pi_orchestrator.features.provisioning.circuits import Circuits
from pi_orchestrator.features.provisioning.credentials import SessionPasswords
from pi_orchestrator.features.provisioning.recorder import SessionRecorder
from pi_orchestrator.features.provisioning.session import Ending, Session, SessionConfig, SessionState
from pi_orchestrator.features.provisioning.session_device import SessionDevice, SessionDeviceState
from pi_orchestrator.features.provisioning.store import SessionPage
from pi_orchestrator.features.provisioning.views import discovered_event, status_event
from pi_orchestrator.net.mqtt.link import MqttConnection
from pi_orchestrator.settings import ProvisioningSettings
from pi_orchestrator.storage import audit_log
from pi_orchestrator.storage.database import Database, Tx

CLOSE_WAIT_S = 10.0
"""How long a request to close waits; running steps may take longer (CLOSE_GRACE_S of the worker)."""
MAX_OPEN = 32
"""Maximum number of open sessions; each is on another interface."""


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """Parameters of a new session; None means as configured."""

    network_interface: str | None = None
    target_ssid: str | None = None
    target_password: SecretStr | None = None
    config: SessionConfig = field(default_factory=SessionConfig)
    state: SessionState = SessionState.ACTIVE


@dataclass(frozen=True, slots=True)
class ProvisionAllCounts:
    """Numbers of devices after `provision_all`: queued by it, already under way, and skipped (not on the allowlist)."""

    queued: int
    under_way: int
    skipped: int


class SessionService:
    """Commands and queries. `on_change` is called after every change."""

    def __init__(
        self,
        *,
        settings: ProvisioningSettings,
        interface: str,
        clock: Clock,
        database: Database,
        passwords: SessionPasswords,
        mqtt: MqttConnection,
        scanner: Scanner,
        circuits: Circuits,
        recorder: SessionRecorder,
    ) -> None:
        self._settings = settings
        self._interface = interface
        self._clock = clock
        self._database = database
        self._passwords = passwords
        self._mqtt = mqtt
        self._scanner = scanner
        self._circuits = circuits
        self._recorder = recorder
        self._closed: dict[str, asyncio.Event] = {}
        self.on_change: Callable[[], None] = _ignore

    # Queries.

    async def get(self, session_id: str) -> Session:
        """A session; NotFoundError if there is none with this id."""
        return _require(await store.get(self._database.read, session_id), session_id)

    async def open_sessions(self) -> list[Session]:
        """Every session that is not closed, oldest first."""
        return await store.open_sessions(self._database.read)

    async def recoverable(self) -> list[Session]:
        """Sessions that a restart interrupted and that were not resumed yet."""
        return [session for session in await self.open_sessions() if session.interrupted]

    async def history(self, *, limit: int, offset: int) -> SessionPage:
        """Closed sessions, newest first."""
        return await store.history(self._database, limit=limit, offset=offset)

    async def devices(self, session_id: str, *, state: SessionDeviceState | None = None) -> list[SessionDevice]:
        """The devices of a session; NotFoundError for an unknown session."""
        await self.get(session_id)
        return await store.devices(self._database.read, session_id, state=state)

    def remaining_s(self, session: Session) -> float:
        """Seconds until the session expires without activity."""
        return self._recorder.remaining_s(session)

    async def snapshot(self, session_id: str | None) -> list[StoredEvent]:
        """One session, or every open one, as `session.status`, and its devices as `device.discovered`."""
        chosen = [await self.get(session_id)] if session_id else await self.open_sessions()
        events = []
        for session in chosen:
            at = rfc3339(session.updated_at)
            events.append(status_event(session).row(at=at))
            devices = await store.devices(self._database.read, session.id)
            events += [discovered_event(device).row(at=at) for device in devices]
        return events

    # Commands.

    async def start(self, request: SessionRequest, actor: Actor) -> Session:
        """Open a session; ConflictError if one is already open on the interface, or MAX_OPEN in total."""
        ssid, password = self._target_network(request)
        now = self._clock.wall()
        session = Session(
            id=str(uuid.uuid4()),
            state=request.state,
            network_interface=request.network_interface or self._interface,
            target_ssid=ssid,
            config=request.config,
            created_at=now,
            updated_at=now,
        )

        async def job(tx: Tx) -> Session:
            if other := await store.open_on_interface(tx.run, session.network_interface):
                raise ConflictError(
                    f"a session is already open on {session.network_interface}",
                    code=ErrorCode.SESSION_ALREADY_ACTIVE,
                    details=f"session {other.id} is {other.state}; close it first",
                )
            if len(await store.open_sessions(tx.run)) >= MAX_OPEN:
                raise ConflictError(f"the limit of {MAX_OPEN} open sessions is reached", details="close one first")
            await store.insert(tx, session, sealed)
            await audit_log.record(tx, actor, target=session.id)
            tx.after_commit(self.on_change)
            return await self._recorder.append_status(tx, session.id)

        async with self._passwords.rotation:
            sealed = await self._passwords.seal(session.id, password) if ssid else None
            return await self._database.write(job)

    async def pause(self, session_id: str, actor: Actor) -> Session:
        """Finish the running step of every device and start nothing new."""
        return await self._change(session_id, actor, Session.pause)

    async def resume(self, session_id: str, actor: Actor) -> Session:
        """Continue a paused session."""
        return await self._change(session_id, actor, Session.resume)

    async def recover(self, session_id: str, actor: Actor) -> Session:
        """Continue a session that a restart interrupted."""
        return await self._change(session_id, actor, Session.recover)

    async def close(self, session_id: str, actor: Actor, *, ending: Ending = Ending.CLOSED) -> Session:
        """End a session; wait up to CLOSE_WAIT_S until nothing is under way."""
        session = await self._change(session_id, actor, lambda session: session.close(ending))
        if session.is_open:
            closed = self._closed.setdefault(session_id, asyncio.Event())
            await self._clock.wait(closed, CLOSE_WAIT_S)
        return await self.get(session_id)

    async def discard(self, session_id: str, actor: Actor) -> None:
        """End a session immediately and cancel its running steps."""
        await self.close(session_id, actor, ending=Ending.DISCARDED)

    def mark_closed(self, session_id: str) -> None:
        """Wake callers of `close` that wait for this session; the worker calls it once the session is closed."""
        self._recorder.forget(session_id)
        if closed := self._closed.pop(session_id, None):
            closed.set()

    async def provision(self, session_id: str, mac: Mac, actor: Actor) -> SessionDevice:
        """Queue a device; a device that is under way or verified is returned unchanged."""

        def change(session: Session, device: SessionDevice, position: int) -> SessionDevice:
            if device.under_way or device.state is SessionDeviceState.VERIFIED:
                return device
            self._check_may_start(session, device)
            return device.queue(position)

        return await self._change_device(session_id, mac, actor, change)

    async def retry(self, session_id: str, mac: Mac, actor: Actor) -> SessionDevice:
        """Queue a failed device again; one that was retried and has not failed since is returned unchanged."""

        def change(session: Session, device: SessionDevice, position: int) -> SessionDevice:
            if device.retry_count and (device.under_way or device.state is SessionDeviceState.VERIFIED):
                return device
            retried = device.retry(position, max_retries=self._settings.max_retries)
            self._check_may_start(session, device)
            return retried

        return await self._change_device(session_id, mac, actor, change)

    async def confirm(self, session_id: str, mac: Mac, confirmed_id: str, actor: Actor) -> SessionDevice:
        """Accept how a changed device answers now, and queue it; a device without changes is returned unchanged.

        ConflictError if its changes are not those with `confirmed_id`.
        """

        def change(session: Session, device: SessionDevice, position: int) -> SessionDevice:
            if not device.changed:
                return device
            if changes_id(device.changed) != confirmed_id:
                raise ConflictError(
                    f"{mac} has other changes than those that were confirmed",
                    code=ErrorCode.DEVICE_INVALID_STATE,
                    details=f"they are now: {'; '.join(part.text for part in device.changed)}",
                )
            confirmed = device.confirm(position)
            if confirmed.under_way and not device.under_way:
                self._check_may_start(session, device)
            return confirmed

        return await self._change_device(session_id, mac, actor, change, accepts_changes=True)

    async def skip(self, session_id: str, mac: Mac, actor: Actor) -> SessionDevice:
        """Mark a device as failed with the code SKIPPED and cancel its running step; it can be retried."""

        def change(_session: Session, device: SessionDevice, _position: int) -> SessionDevice:
            return device.skip()

        return await self._change_device(session_id, mac, actor, change, starts=False)

    async def provision_all(self, session_id: str, actor: Actor, *, only_allowlisted: bool) -> ProvisionAllCounts:
        """Queue every device that may be provisioned and was not requested yet, in one transaction."""
        only_listed = only_allowlisted or not self._settings.allow_unlisted

        async def job(tx: Tx) -> ProvisionAllCounts:
            before = await self._session(tx, session_id)
            session = before.provision()
            devices = await store.devices(tx.run, session_id)
            waiting = [device for device in devices if device.state is SessionDeviceState.DISCOVERED]
            chosen = [device for device in waiting if device.in_allowlist or not only_listed]
            if chosen:
                self._check_can_provision(session)
                await self._save_activation(tx, before, session)
            position = await store.next_queue_position(tx.run, session_id)
            for number, device in enumerate(chosen):
                await self._recorder.save_step(
                    tx, device, device.queue(position + number, unlisted=not device.in_allowlist)
                )
            await audit_log.record(tx, actor, target=session_id)
            tx.after_commit(self.on_change)
            return ProvisionAllCounts(
                len(chosen), sum(device.under_way for device in devices), len(waiting) - len(chosen)
            )

        return await self._database.write(job)

    async def rotate_key(self, actor: Actor) -> int:
        """Seal every stored password with a new key and destroy the old key; return the number of passwords."""
        return await self._passwords.rotate(actor)

    async def _change(self, session_id: str, actor: Actor, change: Callable[[Session], Session]) -> Session:
        async def job(tx: Tx) -> Session:
            before = await self._session(tx, session_id)
            after = change(before)
            await audit_log.record(tx, actor, target=session_id, outcome=audit_log.change_outcome(after != before))
            if after == before:
                return before
            tx.after_commit(self.on_change)
            return await self._recorder.save(tx, after)

        return await self._database.write(job)

    async def _change_device(
        self,
        session_id: str,
        mac: Mac,
        actor: Actor,
        change: Callable[[Session, SessionDevice, int], SessionDevice],
        *,
        starts: bool = True,
        accepts_changes: bool = False,
    ) -> SessionDevice:
        """Apply a command to a device; if it `starts` provisioning, the discovery phase ends.

        `accepts_changes`: how the device answers now replaces how it answered when it was first seen.
        """

        async def job(tx: Tx) -> SessionDevice:
            before = await self._session(tx, session_id)
            before.check_not_closing()
            device = await store.device(tx.run, session_id, mac)
            if device is None:
                raise NotFoundError(f"{mac} is not in this session", code=ErrorCode.DEVICE_NOT_FOUND)
            after = change(before, device, await store.next_queue_position(tx.run, session_id))
            session = before.provision() if starts and after != device else before
            await audit_log.record(tx, actor, target=mac, outcome=audit_log.change_outcome(after != device))
            if after != device:
                if accepts_changes:
                    await fingerprint_store.accept(tx, mac)
                await self._save_activation(tx, before, session)
                await self._recorder.save_step(tx, device, after)
                tx.after_commit(self.on_change)
            return after

        return await self._database.write(job)

    async def _save_activation(self, tx: Tx, before: Session, session: Session) -> None:
        """Store the session if the request has ended its discovery phase."""
        if session != before:
            await self._recorder.save(tx, session)

    async def _session(self, tx: Tx, session_id: str) -> Session:
        return _require(await store.get(tx.run, session_id), session_id)

    def _check_may_start(self, session: Session, device: SessionDevice) -> None:
        """Raise an error if the device must not be provisioned now."""
        if not device.in_allowlist and not (device.unlisted and self._settings.allow_unlisted):
            raise ForbiddenError(
                f"{device.mac} is not on the allowlist",
                code=ErrorCode.DEVICE_NOT_IN_ALLOWLIST,
                details="add it to the allowlist, then try again",
            )
        self._circuits.check(device.mac)
        self._check_can_provision(session)

    def _check_can_provision(self, session: Session) -> None:
        """Raise an error if no device of the session can be provisioned now."""
        if not session.target_ssid:
            raise ConflictError(
                "the session has no target network",
                details="start a session with target_ssid, or set provisioning.target_ssid",
            )
        if session.network_interface != self._interface:
            raise NetworkError(f"cameras are discovered on {self._interface}, not on {session.network_interface}")
        self._circuits.check()
        if reason := self.precondition_error():
            raise reason

    def precondition_error(self) -> MqttUnavailableError | NetworkError | None:
        """The reason why no device can be provisioned now; None if provisioning is possible."""
        if not self._mqtt.connected:
            return MqttUnavailableError(
                "MQTT broker not connected, so provisioning could not be verified",
                details="check mqtt.host and /readyz",
            )
        if not self._scanner.off and self._scanner.engine is None:
            return NetworkError(
                f"camera network unreachable: {self._scanner.unavailable_reason}",
                details="find the cause and its fix: pi-orchestrator doctor",
            )
        return None

    def _target_network(self, request: SessionRequest) -> tuple[str, SecretStr]:
        """SSID and password of the target network; ValidationFailedError names what is missing."""
        configured = self._settings.target_ssid or ""
        ssid = configured if request.target_ssid is None else request.target_ssid
        password = request.target_password
        if password is not None and not ssid:
            raise ValidationFailedError("Validation failed", details="target_ssid: required with target_password")
        if password is None and ssid == configured:
            password = self._settings.target_password or SecretStr("")
        if password is None:
            raise ValidationFailedError(
                "Validation failed", details="target_password: required with target_ssid; empty for an open network"
            )
        return ssid, password


def _require(session: Session | None, session_id: str) -> Session:
    if session is None:
        raise NotFoundError("session not found", code=ErrorCode.SESSION_NOT_FOUND, details=session_id[:64])
    return session


def _ignore() -> None:
    """Default of `on_change`."""
