"""Sends a camera its credentials; never sends again while an earlier send may have arrived.

Identity is a MAC, proved on the connection that the credentials are sent on (`DeviceVerifier.proven_connection`), and
how the camera answered when it was first seen. Both can be copied by a device that imitates the camera.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.error_codes import ErrorCode, SessionCode, VerificationCode
from pi_orchestrator.core.errors import FieldError, ProvisionError, VerificationError
from pi_orchestrator.core.ipv4 import check_camera_address
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.supervisor import full_jitter
from pi_orchestrator.core.wifi import Credentials, is_same_ssid
from pi_orchestrator.features.allowlist import store as allowlist
from pi_orchestrator.features.devices import fingerprint_store
from pi_orchestrator.features.devices.best_address import best_address
from pi_orchestrator.features.devices.model import EXPECTED_RESTART_S, NEVER
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.verifier import DeviceVerifier
from pi_orchestrator.features.provisioning.circuits import Circuits
from pi_orchestrator.features.provisioning.credentials import CameraBroker, PasswordUnavailableError, SessionPasswords
from pi_orchestrator.features.provisioning.return_watch import POLL_S, PROBE_INTERVAL_S, ReturnWatch, settle_s
from pi_orchestrator.features.provisioning.session import Session
from pi_orchestrator.features.provisioning.session_device import Sent, SessionDevice, SessionDeviceState
from pi_orchestrator.features.provisioning.steps import DeviceFailedError, DeviceSteps
from pi_orchestrator.net.camera_http import CameraAnswer
from pi_orchestrator.net.kernel.neighbours import NeighbourTable
from pi_orchestrator.settings import Settings
from pi_orchestrator.storage.database import Database, Tx

PROOF_S = 1.0
"""Maximum age of a proof of identity when credentials are sent: an address can move to another device."""
MIN_REQUEST_S = 0.1
"""Minimum timeout of a request, also at the deadline."""
BACKOFF_S = 0.5
BACKOFF_CAP_S = 8.0
_DEVICE_CODES: Mapping[str, str] = {
    VerificationCode.TIMEOUT: ErrorCode.DEVICE_TIMEOUT,
    VerificationCode.UNREACHABLE: ErrorCode.DEVICE_UNREACHABLE,
}
_FINAL_CODES = frozenset(
    {
        ErrorCode.DEVICE_REJECTED,
        ErrorCode.DEVICE_NOT_IN_ALLOWLIST,
        VerificationCode.MAC_MISMATCH,
        VerificationCode.SUBNET_NOT_ALLOWED,
        ErrorCode.DATABASE_ERROR,
    }
)
"""Failures that another attempt would repeat."""


class CredentialDelivery:
    """Verifies a camera's identity, sends the credentials, and resolves sends without an answer."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        database: Database,
        steps: DeviceSteps,
        watch: ReturnWatch,
        passwords: SessionPasswords,
        broker: CameraBroker,
        registry: DeviceRegistry,
        neighbours: NeighbourTable,
        verifier: DeviceVerifier,
        circuits: Circuits,
    ) -> None:
        self._settings = settings.provisioning
        self._ap_subnet = settings.ap.subnet
        self._allow_loopback = settings.loopback_cameras
        self._clock = clock
        self._database = database
        self._steps = steps
        self._watch = watch
        self._passwords = passwords
        self._broker = broker
        self._registry = registry
        self._neighbours = neighbours
        self._verifier = verifier
        self._circuits = circuits

    async def run(self, session: Session, device: SessionDevice) -> SessionDevice:
        """Send until the camera has accepted the credentials; DeviceFailedError if it does not."""
        deadline = self._clock.monotonic() + session.config.provisioning_timeout_seconds
        if device.sent is not None:
            device = await self._resolve_delivery(session, device, deadline)
        attempt = 0
        while device.state is SessionDeviceState.PROVISIONING:
            try:
                device = await self._send(session, device, deadline)
            except (VerificationError, ProvisionError) as error:
                code = _DEVICE_CODES.get(error.code, error.code)
                may_have_arrived = isinstance(error, ProvisionError) and error.may_have_arrived
                if code in _FINAL_CODES:
                    raise DeviceFailedError(error.message, code=code, not_delivered=not may_have_arrived) from None
                device = await self._after_failed_attempt(
                    session, device, code, error.message, deadline, may_have_arrived=may_have_arrived
                )
                await self._clock.sleep(full_jitter(attempt, base_s=BACKOFF_S, cap_s=BACKOFF_CAP_S))
                attempt += 1
        return device

    async def _after_failed_attempt(
        self, session: Session, device: SessionDevice, code: str, why: str, deadline: float, *, may_have_arrived: bool
    ) -> SessionDevice:
        """Return the device, ready for another attempt or accepted after all; DeviceFailedError if neither."""
        now = self._clock.monotonic()
        breaker = self._circuits.of(device.mac)
        breaker.record_failure(now)
        if may_have_arrived:
            device = await self._steps.current(device)
            device = await self._resolve_delivery(session, device, deadline, DeviceFailedError(why, code=code))
            if device.state is not SessionDeviceState.PROVISIONING:
                return device
        if breaker.is_open or now >= deadline:
            raise DeviceFailedError(why, code=code, not_delivered=True)
        return device if may_have_arrived else await self._steps.take(device, lambda before: before.not_accepted(why))

    async def _send(self, session: Session, device: SessionDevice, deadline: float) -> SessionDevice:
        """Verify the camera's identity and send once, on the same connection; nothing slow may run between the two."""
        device = await self._steps.take(device, SessionDevice.identifying, starts_work=True)
        ip = await self._address(device)
        credentials, mqtt = await self._credentials(session), await self._broker.access()
        timeout_s = self._request_timeout_s(deadline)
        async with self._verifier.proven_connection(device.mac, ip, timeout_s=timeout_s) as connection:
            proven_at = self._clock.monotonic()
            device = await self._compare(device)
            sent = Sent(ip, self._clock.boot_id, proven_at)
            device = await self._steps.take(
                device, lambda before: before.sending(sent), starts_work=True, before_save=self._check_and_remember
            )
            if self._clock.monotonic() - proven_at > PROOF_S:
                raise ProvisionError(
                    f"identity not verified within the last {PROOF_S:g} s: storing the step took too long",
                    code=ErrorCode.DEVICE_TIMEOUT,
                    may_have_arrived=False,
                )
            before = self._registry.expect_restart(device.mac, self._clock.monotonic() + EXPECTED_RESTART_S)
            try:
                await connection.provision(
                    credentials=credentials,
                    mqtt=mqtt,
                    container_id=device.container_id,
                    request_id=_request_id(device),
                    timeout_s=timeout_s,
                )
            except ProvisionError as error:
                if not error.may_have_arrived:
                    self._registry.expect_restart(device.mac, before)
                raise
        return await self._steps.take(device, lambda before: before.accepted(self._clock.wall()))

    async def _compare(self, device: SessionDevice) -> SessionDevice:
        """Store in what the device answers differently now; DeviceFailedError if an operator must confirm that."""
        seen = self._registry.fingerprint_of(device.mac)
        changed = await fingerprint_store.compare(self._database.read, device.mac, seen)
        if changed != device.changed:
            device = await self._steps.take(
                device, lambda stored: replace(stored, changed=changed), before_save=self._remember
            )
        if changed and self._settings.confirm_changed:
            what = "; ".join(change.text for change in changed)
            raise DeviceFailedError(
                f"it answers differently than when it was first seen ({what}), so its MAC may be a copy; confirm the"
                " camera if it is yours",
                code=SessionCode.DEVICE_CHANGED,
                not_delivered=True,
            )
        return device

    async def _credentials(self, session: Session) -> Credentials:
        try:
            return await self._passwords.open(session)
        except PasswordUnavailableError as error:
            raise DeviceFailedError(error.message, code=error.code, not_delivered=True) from None

    async def _resolve_delivery(
        self, session: Session, device: SessionDevice, deadline: float, failure: DeviceFailedError | None = None
    ) -> SessionDevice:
        """Find out whether credentials that may have arrived were accepted; raise `failure` at the deadline."""
        failure = failure or DeviceFailedError(
            "the camera may have received its credentials, but was not seen again", code=ErrorCode.DEVICE_TIMEOUT
        )
        started_at, probed_at = self._clock.monotonic(), NEVER
        while True:
            if self._watch.return_address(session, device):
                return await self._steps.take(device, lambda before: before.accepted(self._clock.wall()))
            now = self._clock.monotonic()
            if now - probed_at >= PROBE_INTERVAL_S and device.sent:
                probed_at = now
                answer = await self._probe(device.mac, device.sent.ip, deadline)
                if answer and is_same_ssid(answer.ssid, session.target_ssid):
                    return await self._steps.take(device, lambda before: before.accepted(self._clock.wall()))
                if answer and now - started_at >= settle_s(answer.ssid):
                    return await self._steps.take(
                        device, lambda before: before.not_accepted("the camera did not accept the credentials")
                    )
            if now >= deadline:
                raise failure
            await self._clock.sleep(POLL_S)

    async def _probe(self, mac: Mac, ip: str, deadline: float) -> CameraAnswer | None:
        try:
            return await self._verifier.verify(mac, ip, timeout_s=self._request_timeout_s(deadline))
        except VerificationError:
            return None

    def _request_timeout_s(self, deadline: float) -> float:
        return min(self._settings.request_timeout_s, max(MIN_REQUEST_S, deadline - self._clock.monotonic()))

    async def _address(self, device: SessionDevice) -> str:
        """The camera's current address; VerificationError if credentials must not be sent to it."""
        ip = best_address(self._registry, device.mac, live_only=True, recorded=device.ip) or device.ip
        try:
            check_camera_address(
                ip,
                ap_subnet=self._ap_subnet,
                allowed=(self._ap_subnet,),
                own=await self._neighbours.own_addresses(),
                allow_loopback=self._allow_loopback,
            )
        except FieldError as error:
            raise VerificationError(str(error), code=VerificationCode.SUBNET_NOT_ALLOWED) from None
        return ip

    async def _check_and_remember(self, tx: Tx, device: SessionDevice) -> None:
        await self._check_listed(tx, device)
        await self._remember(tx, device)

    async def _remember(self, tx: Tx, device: SessionDevice) -> None:
        await fingerprint_store.remember(tx, device.mac, self._registry.fingerprint_of(device.mac))

    async def _check_listed(self, tx: Tx, device: SessionDevice) -> None:
        if not (device.unlisted and self._settings.allow_unlisted) and not await allowlist.is_listed(tx, device.mac):
            raise DeviceFailedError(
                "the camera is no longer on the allowlist", code=ErrorCode.DEVICE_NOT_IN_ALLOWLIST, not_delivered=True
            )


def _request_id(device: SessionDevice) -> str:
    """Id of one provisioning request: the same for repeated sends, a new one after a retry."""
    return str(uuid.uuid5(uuid.UUID(device.session_id), f"{device.mac} {device.retry_count}"))
