"""One camera, from its place in line to its proof on the target network; every step is on disk before it is taken.

Prove who it is → mark the credentials as sent, if the allowlist still has it → send → wait for it to speak from the
target network → ask it who and where it is. Where a send may have arrived though nobody said so (a lost answer, a
crash), the camera is looked for first: it is on the target network, or it is still here and can be sent to again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from pydantic import SecretStr

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.address import check_camera_address, parse_ipv4
from pi_orchestrator.domain.candidate import Candidate, CandidateState, Sent
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import Code
from pi_orchestrator.domain.presence import NEVER, Device
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.session import Session, SessionState
from pi_orchestrator.domain.status import Status
from pi_orchestrator.domain.wifi import Credentials, MqttAccess, names_network
from pi_orchestrator.errors import (
    ConflictError,
    FieldError,
    OnboardingError,
    OrchestratorError,
    ProvisionError,
    StorageError,
)
from pi_orchestrator.net.espcam import CameraAnswer, EspCamClient
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.settings import Settings
from pi_orchestrator.storage import allowlist, cameras, containers, sessions
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.storage.vault import Vault
from pi_orchestrator.supervisor import full_jitter
from pi_orchestrator.workers.circuits import Circuits
from pi_orchestrator.workers.identity import Verifier
from pi_orchestrator.workers.registration import Newcomer, Registrar
from pi_orchestrator.workers.session_record import SessionRecord
from pi_orchestrator.workers.sessions import purpose

PROOF_S = 1.0
"""Who has an address can change: what was proven longer ago than this is proven again before anything is sent."""
SHORTEST_S = 0.1
CAMERAS_RECONNECT_S = 10.0
"""After a broker was away, its cameras take a while to find it again."""
LOOK_S = 0.1
"""How often what has been heard of a camera is looked at; it costs no request."""
ASK_S = 1.0
STATUS_TIMEOUT_S = 3.0
SETTLED_S = 3.0
"""A camera that took its credentials leaves within this time; one that is still here after it did not take them."""
SETTLED_UNNAMED_S = 10.0
"""The same of a camera whose firmware does not say which network it is on."""
BACKOFF_S = 0.5
BACKOFF_CAP_S = 8.0
_CODES: Mapping[str, str] = {
    Code.VERIFY_TIMEOUT: "DEVICE_TIMEOUT",
    Code.VERIFY_UNREACHABLE: "DEVICE_UNREACHABLE",
}
_FINAL = frozenset(
    {"DEVICE_REJECTED", "DEVICE_NOT_IN_ALLOWLIST", Code.MAC_MISMATCH, Code.SUBNET_NOT_ALLOWED, "DATABASE_ERROR"}
)
_SILENCES = frozenset({"DEVICE_UNREACHABLE", "DEVICE_TIMEOUT", "VERIFICATION_TIMEOUT", "WRONG_NETWORK"})
"""What tells that something is wrong with the way to cameras rather than with this one."""


class HandedBackError(Exception):
    """The camera is not to be gone on with: its session was paused, or it was skipped or ended meanwhile."""


@dataclass(frozen=True, slots=True)
class Failed:
    """How a delivery failed, and whether that says something about the network."""

    code: str
    is_silence: bool


class DeliveryError(OrchestratorError):
    """A camera that comes to no good end; `has_nothing` where it surely does not have the credentials."""

    def __init__(self, message: str, *, code: str, has_nothing: bool = False) -> None:
        super().__init__(message, code=code)
        self.has_nothing = has_nothing


class Delivery:
    """`run` takes one camera as far as it goes."""

    def __init__(
        self,
        *,
        settings: Settings,
        mqtt_port: int,
        clock: Clock,
        database: Database,
        vault: Vault,
        registry: Registry,
        registrar: Registrar,
        neighbours: Neighbours,
        espcam: EspCamClient,
        verifier: Verifier,
        mqtt: MqttLink,
        record: SessionRecord,
        circuits: Circuits,
    ) -> None:
        self._settings = settings.provisioning
        self._ap_subnet = settings.ap.subnet
        self._allow_loopback = settings.auto_onboard.allow_loopback
        self._broker_host = settings.mqtt.host
        self._mqtt_port = mqtt_port
        self._clock = clock
        self._database = database
        self._vault = vault
        self._registry = registry
        self._registrar = registrar
        self._neighbours = neighbours
        self._espcam = espcam
        self._verifier = verifier
        self._mqtt = mqtt
        self._record = record
        self._circuits = circuits

    async def run(self, session: Session, one: Candidate) -> Failed | None:
        """Go on with a camera from where it stands: None once verified, HandedBackError where it must stop."""
        try:
            if one.state is CandidateState.PROVISIONING:
                one = await self._hand_over(session, one)
            await self._await_return(session, one)
        except DeliveryError as error:
            code, message, nothing = str(error.code), error.message, error.has_nothing
            await self._step(one, lambda now: now.failed(code, message, has_nothing=nothing))
            return Failed(code, code in _SILENCES)
        self._circuits.of(one.mac).succeeded()
        return None

    # The credentials.

    async def _hand_over(self, session: Session, one: Candidate) -> Candidate:
        """Send until the camera has taken the credentials, or time, patience or the camera says no."""
        deadline = self._clock.monotonic() + session.config.provisioning_timeout_seconds
        if one.sent is not None:
            one = await self._look_for(session, one, deadline)
        attempt = 0
        while one.state is CandidateState.PROVISIONING:
            try:
                one = await self._send(session, one, deadline)
            except (OnboardingError, ProvisionError) as error:
                code = _CODES.get(error.code, error.code)
                arrived = isinstance(error, ProvisionError) and error.may_have_arrived
                if code in _FINAL:
                    raise DeliveryError(error.message, code=code, has_nothing=not arrived) from None
                one = await self._after_trouble(session, one, code, error.message, deadline, may_have_it=arrived)
                await self._clock.sleep(full_jitter(attempt, base_s=BACKOFF_S, cap_s=BACKOFF_CAP_S))
                attempt += 1
        return one

    async def _after_trouble(
        self, session: Session, one: Candidate, code: str, why: str, deadline: float, *, may_have_it: bool
    ) -> Candidate:
        """Another attempt may follow; DeliveryError where enough has been tried."""
        now = self._clock.monotonic()
        breaker = self._circuits.of(one.mac)
        breaker.failed(now)
        if may_have_it:
            one = await self._look_for(session, await self._current(one), deadline, DeliveryError(why, code=code))
            if one.state is not CandidateState.PROVISIONING:
                return one
        if breaker.is_open or now >= deadline:
            raise DeliveryError(why, code=code, has_nothing=True)
        return one if may_have_it else await self._step(one, lambda before: before.not_taken(why))

    async def _send(self, session: Session, one: Candidate, deadline: float) -> Candidate:
        """Prove who it is and send once; nothing that takes time comes between the two."""
        one = await self._step(one, Candidate.identifying, begins=True)
        ip = await self._address(one)
        credentials, mqtt = await self._credentials(session), await self._broker()
        longest_s = min(self._settings.request_timeout_s, max(SHORTEST_S, deadline - self._clock.monotonic()))
        await self._verifier.verify(one.mac, ip, timeout_s=min(STATUS_TIMEOUT_S, longest_s), afresh=True)
        proven_at = self._clock.monotonic()
        sent = Sent(ip, self._clock.boot_id, self._clock.monotonic())
        one = await self._step(one, lambda now: now.sending(sent), begins=True, check=self._check_listed)
        if self._clock.monotonic() - proven_at > PROOF_S:
            raise ProvisionError(
                "storing the step took so long that the proof of who it is has aged",
                code="DEVICE_TIMEOUT",
                may_have_arrived=False,
            )
        await self._espcam.provision(
            ip,
            credentials=credentials,
            mqtt=mqtt,
            container_id=one.container_id,
            request_id=_request_id(one),
            timeout_s=longest_s,
        )
        return await self._step(one, lambda now: now.accepted(self._clock.wall()))

    async def _look_for(
        self, session: Session, one: Candidate, deadline: float, trouble: DeliveryError | None = None
    ) -> Candidate:
        """A camera that may have taken its credentials: accepted once seen with them, back in line if it has none.

        `trouble` is what it fails with where the time is up before that is known.
        """
        trouble = trouble or DeliveryError(
            "it may have taken its credentials, but was not seen again", code="DEVICE_TIMEOUT"
        )
        started, asked_at = self._clock.monotonic(), NEVER
        while True:
            if self._back_at(session, one):
                return await self._step(one, lambda now: now.accepted(self._clock.wall()))
            now = self._clock.monotonic()
            if now - asked_at >= ASK_S and one.sent:
                asked_at = now
                answer = await self._ask_who(one.mac, one.sent.ip)
                if answer and names_network(answer.ssid, session.target_ssid):
                    return await self._step(one, lambda now: now.accepted(self._clock.wall()))
                if answer and now - started >= (SETTLED_S if answer.ssid else SETTLED_UNNAMED_S):
                    return await self._step(one, lambda now: now.not_taken("it did not take the credentials"))
            if now >= deadline:
                raise trouble
            await self._clock.sleep(LOOK_S)

    # The proof.

    async def _await_return(self, session: Session, one: Candidate) -> None:
        """Wait for a live word from the target network, then ask the camera itself."""
        one = await self._step(one, Candidate.returning, begins=True)
        left_s, asked_at = float(session.config.verification_timeout_seconds), NEVER
        seen_at, deaf_until, why = self._clock.monotonic(), NEVER, "it did not come back"
        while left_s > 0:
            ip = self._back_at(session, one)
            now = self._clock.monotonic()
            if now - asked_at >= ASK_S:
                if ip is None and self._spoke_unnamed(one):
                    ip = one.sent.ip if one.sent else None  # which network it is on, only its own answer can tell
                if ip:
                    asked_at = now
                    one, trouble = await self._read_back(session, one, ip)
                    if trouble is None:
                        return
                    why = trouble
            self._check_wrong_network(session, one)
            # What nobody could have heard is not held against the camera.
            if not self._mqtt.connected:
                deaf_until = now + CAMERAS_RECONNECT_S
            elif now >= deaf_until:
                left_s -= now - seen_at
            seen_at = now
            await self._clock.sleep(LOOK_S)
        raise DeliveryError(
            f"{why} within {session.config.verification_timeout_seconds} s", code="VERIFICATION_TIMEOUT"
        )

    async def _read_back(self, session: Session, one: Candidate, ip: str) -> tuple[Candidate, str | None]:
        """Ask the camera at its new address; None and the end of it all where the answer is right, else the trouble."""
        try:
            self._check_target_address(ip, await self._neighbours.own_addresses())
            one = await self._step(one, lambda now: now.reading_back(ip), begins=True)
            answer = await self._verifier.verify(one.mac, ip, timeout_s=STATUS_TIMEOUT_S)
        except (FieldError, OnboardingError) as error:
            return one, f"it spoke from {ip}, but could not be verified there: {error}"
        moved = one.sent is not None and ip != one.sent.ip
        named = names_network(answer.ssid, session.target_ssid)
        if (answer.ssid and not named) or not (named or moved or self._back_at(session, one)):
            return one, f"at {ip} it says that it is on {answer.ssid or 'no network by name'}"

        async def admit(tx: Tx, after: Candidate) -> None:
            await self._admit(tx, after, answer)

        return await self._step(one, lambda now: now.verified(self._clock.wall()), check=admit), None

    async def _admit(self, tx: Tx, one: Candidate, answer: CameraAnswer) -> None:
        """A verified camera has used its entry, is registered, and stands where the entry says if there is room."""
        await allowlist.mark_used(tx, one.mac)
        if await cameras.is_registered(tx, one.mac):
            return
        device = self._registry.get(one.mac)
        newcomer = Newcomer(
            mac=one.mac,
            device_id=answer.device_id or (device.device_id if device else None),
            ip=one.ip,
            firmware_version=answer.firmware_version,
            here=True,
        )
        position = await containers.room_in(tx, one.container_id) if one.container_id else None
        place = (one.container_id, position) if one.container_id and position else None
        await self._registrar.register(tx, newcomer, automatic=False, place=place, session_id=one.session_id)

    # What is known of it.

    def _heard(self, one: Candidate) -> tuple[Device, Status] | None:
        """The camera and its last message as it came, if it has spoken since the credentials left."""
        device, sent = self._registry.get(one.mac), one.sent
        if device is None or device.heard_at is None or device.said is None or sent is None:
            return None
        return (device, device.said) if device.heard_at > self._since(sent) else None

    def _since(self, sent: Sent) -> float:
        # After a reboot of this machine everything that it hears came later.
        return sent.monotonic if sent.boot_id == self._clock.boot_id else NEVER

    def _back_at(self, session: Session, one: Candidate) -> str | None:
        """The address at which it has spoken from the target network; None while it has not."""
        heard = self._heard(one)
        if heard is None or one.sent is None:
            return None
        _, said = heard
        told = said.ip or str(self._registry.address_of(one.mac) or "") or None
        if names_network(said.ssid, session.target_ssid):
            return told
        return told if said.ssid is None and told != one.sent.ip else None

    def _spoke_unnamed(self, one: Candidate) -> bool:
        heard = self._heard(one)
        return heard is not None and heard[1].ssid is None

    def _check_wrong_network(self, session: Session, one: Candidate) -> None:
        """DeliveryError where it has rebooted since and is on another network than it was sent to."""
        heard = self._heard(one)
        if heard is None or one.sent is None:
            return
        device, said = heard
        # What its session began with is no proof: to a daemon that was restarted, everyone's is new.
        lived_s = (device.heard_at or NEVER) - self._since(one.sent)
        rebooted = said.uptime_s is not None and said.uptime_s < lived_s
        settled = self._clock.monotonic() - device.session_since >= SETTLED_S
        if said.ssid and rebooted and settled and not self._back_at(session, one):
            raise DeliveryError(
                f"it is back on {said.ssid!r} instead of {session.target_ssid!r}: is the password right?",
                code="WRONG_NETWORK",
                has_nothing=True,
            )

    async def _ask_who(self, mac: Mac, ip: str) -> CameraAnswer | None:
        try:
            return await self._verifier.verify(mac, ip, timeout_s=STATUS_TIMEOUT_S)
        except OnboardingError:
            return None

    async def _address(self, one: Candidate) -> str:
        """Where it is now; OnboardingError where that is nowhere that credentials may be sent to."""
        device = self._registry.get(one.mac)
        claimed = device.claims.ip if device and device.claims and device.heard_at is not None else None
        told = str(self._registry.address_of(one.mac) or "") or claimed or one.ip
        try:
            check_camera_address(
                told,
                ap_subnet=self._ap_subnet,
                allowed=(self._ap_subnet,),
                own=await self._neighbours.own_addresses(),
                allow_loopback=self._allow_loopback,
            )
        except FieldError as error:
            raise OnboardingError(str(error), code=Code.SUBNET_NOT_ALLOWED) from None
        return told

    def _check_target_address(self, ip: str, own: frozenset[IPv4Address]) -> None:
        address = parse_ipv4(ip)
        networks: tuple[IPv4Network, ...] = (self._ap_subnet, *self._settings.target_subnets)
        network = next((one for one in networks if address in one), None)
        if network is None:
            raise FieldError(f"{ip} is outside provisioning.target_subnets")
        check_camera_address(ip, ap_subnet=network, allowed=(network,), own=own, allow_loopback=self._allow_loopback)

    async def _credentials(self, session: Session) -> Credentials:
        """Opened for one send, and not kept."""
        trouble = StorageError("the session's password is gone")
        for _ in range(2):  # between reading and opening it, it may have been sealed anew
            sealed = await sessions.password(self._database.read, session.id)
            if sealed is None:
                break
            try:
                text = await asyncio.to_thread(self._vault.open, sealed, purpose=purpose(session.id))
            except StorageError as error:
                trouble = error
            else:
                return Credentials(session.target_ssid, SecretStr(text))
        raise DeliveryError(trouble.message, code=trouble.code, has_nothing=True)

    async def _broker(self) -> MqttAccess:
        """The broker as the camera will reach it: as configured, else the daemon's own, by an address that it knows."""
        settings, host = self._settings, self._settings.mqtt_host or self._broker_host
        if host == "localhost" or host.startswith("127."):
            own = await self._neighbours.own_addresses()
            host = next((str(address) for address in sorted(own) if address in self._ap_subnet), host)
        return MqttAccess(host, self._mqtt_port, settings.mqtt_username, settings.mqtt_password)

    # Steps.

    async def _step(
        self,
        one: Candidate,
        change: Callable[[Candidate], Candidate],
        *,
        begins: bool = False,
        check: Callable[[Tx, Candidate], Awaitable[None]] | None = None,
    ) -> Candidate:
        """Store a step; one that `begins` something is not taken while the session is paused."""

        async def job(tx: Tx) -> Candidate:
            session = await sessions.get(tx.run, one.session_id)
            before = await sessions.candidate(tx.run, one.session_id, one.mac)
            if session is None or before is None or not session.is_open or not before.under_way:
                raise HandedBackError
            if begins and session.state is SessionState.PAUSED:
                raise HandedBackError
            try:
                after = change(before)
            except ConflictError:
                raise HandedBackError from None  # it was skipped and asked for anew: that is another delivery's
            if check:
                await check(tx, after)
            await self._record.changed(tx, before, after)
            return after

        return await self._database.write(job)

    async def _check_listed(self, tx: Tx, one: Candidate) -> None:
        if not (one.unlisted and self._settings.allow_unlisted) and not await allowlist.is_listed(tx, one.mac):
            raise DeliveryError("it is not on the allowlist any more", code="DEVICE_NOT_IN_ALLOWLIST", has_nothing=True)

    async def _current(self, one: Candidate) -> Candidate:
        found = await sessions.candidate(self._database.read, one.session_id, one.mac)
        if found is None or not found.under_way:
            raise HandedBackError
        return found


def _request_id(one: Candidate) -> str:
    """Stable for what was asked of this camera once, so that a repeat is known as one; a retry asks anew."""
    return str(uuid.uuid5(uuid.UUID(one.session_id), f"{one.mac} {one.retry_count}"))
