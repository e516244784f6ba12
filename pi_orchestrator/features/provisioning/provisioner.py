"""Provisions one camera, from its place in the queue to its verification on the target network.

Verify its identity → store that credentials are sent, if it is still on the allowlist → send → wait for a message from
the target network → verify it there. Every step is stored before it is taken. If a send may have arrived without
an answer (lost response, crash), the provisioner first looks for the camera: it is on the target network, or it is
still at its old address and can be sent the credentials again.
"""

from __future__ import annotations

from dataclasses import dataclass

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.error_codes import ErrorCode, SessionCode
from pi_orchestrator.core.errors import FieldError, VerificationError
from pi_orchestrator.core.wifi import is_same_ssid
from pi_orchestrator.features.allowlist import store as allowlist
from pi_orchestrator.features.cameras import store as cameras
from pi_orchestrator.features.cameras.registration import CameraRegistrar, NewCamera
from pi_orchestrator.features.containers import store as containers
from pi_orchestrator.features.devices import fingerprint_store
from pi_orchestrator.features.devices.model import NEVER
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.verifier import DeviceVerifier
from pi_orchestrator.features.provisioning.circuits import Circuits
from pi_orchestrator.features.provisioning.delivery import CredentialDelivery
from pi_orchestrator.features.provisioning.return_watch import (
    POLL_S,
    PROBE_INTERVAL_S,
    SETTLED_S,
    ListeningTime,
    ReturnWatch,
    check_target_address,
    confirms_return,
)
from pi_orchestrator.features.provisioning.session import Session
from pi_orchestrator.features.provisioning.session_device import SessionDevice, SessionDeviceState
from pi_orchestrator.features.provisioning.steps import DeviceFailedError, DeviceSteps
from pi_orchestrator.net.camera_http import CameraAnswer
from pi_orchestrator.net.kernel.neighbours import NeighbourTable
from pi_orchestrator.net.mqtt.link import MqttConnection
from pi_orchestrator.settings import Settings
from pi_orchestrator.storage.database import Tx

_NETWORK_FAULTS = frozenset(
    {
        ErrorCode.DEVICE_UNREACHABLE,
        ErrorCode.DEVICE_TIMEOUT,
        SessionCode.VERIFICATION_TIMEOUT,
        SessionCode.WRONG_NETWORK,
    }
)
"""Failures that indicate a network fault if several cameras in a row have them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a device failed, and whether the network may be the cause."""

    code: str
    is_network_fault: bool


class DeviceProvisioner:
    """Takes one session device through its remaining steps."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        steps: DeviceSteps,
        delivery: CredentialDelivery,
        watch: ReturnWatch,
        registry: DeviceRegistry,
        registrar: CameraRegistrar,
        neighbours: NeighbourTable,
        verifier: DeviceVerifier,
        mqtt: MqttConnection,
        circuits: Circuits,
    ) -> None:
        self._target_networks = (settings.ap.subnet, *settings.provisioning.target_subnets)
        self._allow_loopback = settings.loopback_cameras
        self._request_timeout_s = settings.provisioning.request_timeout_s
        self._clock = clock
        self._steps = steps
        self._delivery = delivery
        self._watch = watch
        self._registry = registry
        self._registrar = registrar
        self._neighbours = neighbours
        self._verifier = verifier
        self._mqtt = mqtt
        self._circuits = circuits

    async def run(self, session: Session, device: SessionDevice) -> Failure | None:
        """Provision a device; None if it is verified. Raises ProvisioningInterruptedError and StorageError."""
        try:
            if device.state is SessionDeviceState.PROVISIONING:
                device = await self._delivery.run(session, device)
            await self._await_return(session, device)
        except DeviceFailedError as error:
            code, message, not_delivered = str(error.code), error.message, error.not_delivered
            await self._steps.take(device, lambda before: before.failed(code, message, not_delivered=not_delivered))
            return Failure(code, is_network_fault=code in _NETWORK_FAULTS)
        self._circuits.of(device.mac).record_success()
        return None

    async def _await_return(self, session: Session, device: SessionDevice) -> None:
        """Wait for a message from the target network, then verify the camera there.

        DeviceFailedError if it joins another network, or is not verified in time.
        """
        device = await self._steps.take(device, SessionDevice.returning, starts_work=True)
        timeout_s = session.config.verification_timeout_seconds
        started_at = self._clock.monotonic()
        listening = ListeningTime(float(timeout_s), started_at)
        probed_at, read_at, reason = NEVER, NEVER, "the camera did not return"
        while listening.left_s > 0:
            ip = self._watch.return_address(session, device)
            now = self._clock.monotonic()
            if now - probed_at >= PROBE_INTERVAL_S:
                if ip is None and device.sent and self._watch.names_no_network(device):
                    ip = device.sent.ip  # only its HTTP answer can show which network it is on
                if ip:
                    probed_at = now
                    device, problem = await self._read_back(session, device, ip, listening.left_s)
                    if problem is None:
                        return
                    reason = problem
            reported_ssid = self._watch.wrong_network(session, device, now)
            # Before SETTLED_S, a camera that has accepted may still answer from its old network.
            if reported_ssid and now - max(read_at + PROBE_INTERVAL_S, started_at + SETTLED_S) >= 0:
                read_at = now
                device, problem = await self._check_wrong_network(session, device, reported_ssid, listening.left_s)
                if problem is None:
                    return
                reason = problem
            listening.advance(now, is_connected=self._mqtt.connected)
            await self._clock.sleep(POLL_S)
        raise DeviceFailedError(f"not verified within {timeout_s} s: {reason}", code=SessionCode.VERIFICATION_TIMEOUT)

    async def _check_wrong_network(
        self, session: Session, device: SessionDevice, reported_ssid: str, left_s: float
    ) -> tuple[SessionDevice, str | None]:
        """Read by HTTP which network the camera is on, because any client can publish a message in its name.

        DeviceFailedError if it is on another network than the target; else a result as of `_read_back`.
        """
        for ip in self._watch.known_addresses(device):
            try:
                own = await self._neighbours.own_addresses()
                check_target_address(ip, self._target_networks, own=own, allow_loopback=self._allow_loopback)
                answer = await self._verifier.verify(device.mac, ip, timeout_s=min(self._request_timeout_s, left_s))
            except (FieldError, VerificationError):
                continue
            if is_same_ssid(answer.ssid, session.target_ssid):
                return await self._read_back(session, device, ip, left_s)
            if answer.ssid:
                raise DeviceFailedError(
                    f"the camera joined {answer.ssid!r} instead of {session.target_ssid!r}; check the password",
                    code=SessionCode.WRONG_NETWORK,
                    not_delivered=True,
                )
        return device, f"a message names the network {reported_ssid!r}, but the camera did not confirm it by HTTP"

    async def _read_back(
        self, session: Session, device: SessionDevice, ip: str, left_s: float
    ) -> tuple[SessionDevice, str | None]:
        """Verify the camera at its new address and store it as verified; return it, and the reason if that failed."""
        try:
            own = await self._neighbours.own_addresses()
            check_target_address(ip, self._target_networks, own=own, allow_loopback=self._allow_loopback)
            device = await self._steps.take(device, lambda before: before.reading_back(ip), starts_work=True)
            answer = await self._verifier.verify(device.mac, ip, timeout_s=min(self._request_timeout_s, left_s))
        except (FieldError, VerificationError) as error:
            return device, f"the camera reported from {ip}, but could not be verified there: {error}"
        has_moved = device.sent is not None and ip != device.sent.ip
        has_reported = self._watch.return_address(session, device) is not None
        if not confirms_return(answer.ssid, session.target_ssid, has_moved=has_moved, has_reported=has_reported):
            return device, f"the camera at {ip} does not report the target network, but {answer.ssid or 'none'}"

        async def register(tx: Tx, after: SessionDevice) -> None:
            await self._register(tx, after, answer)

        device = await self._steps.take(
            device, lambda before: before.verified(self._clock.wall()), before_save=register
        )
        return device, None

    async def _register(self, tx: Tx, device: SessionDevice, answer: CameraAnswer) -> None:
        """Mark the allowlist entry as used and register the camera, in the entry's container if a position is free."""
        await allowlist.mark_used(tx, device.mac)
        await fingerprint_store.remember(tx, device.mac, self._registry.fingerprint_of(device.mac))
        if await cameras.is_registered(tx, device.mac):
            return
        seen = self._registry.get(device.mac)
        camera = NewCamera(
            mac=device.mac,
            device_id=answer.device_id or (seen.device_id if seen else None),
            ip=device.ip,
            firmware_version=answer.firmware_version,
            is_present=True,
        )
        position = await containers.free_position_if_exists(tx, device.container_id) if device.container_id else None
        place = (device.container_id, position) if device.container_id and position else None
        await self._registrar.register(tx, camera, automatic=False, place=place, session_id=device.session_id)
