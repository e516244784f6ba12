"""Reboots: sends the command by MQTT or HTTP, and watches until the camera is online again or a timeout is over.

A reboot is finished when a message of the camera has an uptime that began after the command, or that is lower than
before. Because some firmware keeps its uptime over a reboot, it is also finished when the camera has ended its MQTT
session and opened a new one. A camera that uses MQTT must do one of the two: being seen on the network, or silent for a
while, is not enough. One without MQTT has rebooted if it is seen well after the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import (
    CommandError,
    ConflictError,
    FieldError,
    MqttUnavailableError,
    OrchestratorError,
    RebootError,
    VerificationError,
)
from pi_orchestrator.core.events import CameraReboot, Event
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.single_flight import KeyedSingleFlight
from pi_orchestrator.features.cameras.address_resolver import AddressResolver
from pi_orchestrator.features.commands.model import Action
from pi_orchestrator.features.commands.service import CommandService
from pi_orchestrator.features.devices.model import EXPECTED_RESTART_S, NEVER, REBOOT_S, Device, Presence
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.net.camera_http import CameraHttpClient
from pi_orchestrator.storage import audit_log, event_store
from pi_orchestrator.storage.database import Database, Tx

RETURN_TIMEOUT_S = 60.0
HTTP_TIMEOUT_S = 5.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RebootOutcome:
    """The result of a reboot; `error` is empty on success; an unknown result has an error too."""

    mac: Mac
    error: str = ""


@dataclass(slots=True)
class _Pending:
    """An accepted reboot, requested at `since`; `uptime_s` is the last uptime before that, received at `uptime_at`."""

    since: float
    uptime_s: float | None = None
    uptime_at: float = NEVER


class RebootObserver(Protocol):
    """Gets the progress of reboots."""

    def reboot_requested(self, mac: Mac) -> None:
        """Called when a camera has accepted a reboot."""

    def reboot_finished(self, mac: Mac) -> None:
        """Called when a camera is online again after a reboot, or the result cannot be known."""

    def reboot_failed(self, mac: Mac, reason: str) -> None:
        """Called when a camera did not reboot, or is not online again."""


def _never(_mac: Mac) -> bool:
    return False


class RebootService:
    """`reboot` starts a reboot; `collect_outcomes` returns those that have ended."""

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        registry: DeviceRegistry,
        commands: CommandService,
        addresses: AddressResolver,
        camera_http: CameraHttpClient,
        observer: RebootObserver,
    ) -> None:
        self.is_provisioning: Callable[[Mac], bool] = _never
        """Whether a camera is being provisioned, so that it must not be rebooted; set by provisioning."""
        self.revision = 0
        self._clock = clock
        self._database = database
        self._registry = registry
        self._commands = commands
        self._addresses = addresses
        self._camera_http = camera_http
        self._observer = observer
        # Goes on when all its callers are cancelled: the camera may have received the command and must be watched.
        self._requests: KeyedSingleFlight[Mac, None] = KeyedSingleFlight("reboot", cancel_unused=False)
        self._pending: dict[Mac, _Pending] = {}

    def is_rebooting(self, mac: Mac) -> bool:
        """Whether a reboot of a camera has been requested and has not ended."""
        return mac in self._pending

    def check_not_provisioning(self, mac: Mac) -> None:
        """ConflictError if a camera is being provisioned."""
        if self.is_provisioning(mac):
            message = "the camera is being provisioned"
            raise ConflictError(
                message, code=ErrorCode.DEVICE_ALREADY_PROVISIONING, details="wait until it is finished"
            )

    @contextmanager
    def expected_restart(self, mac: Mac) -> Iterator[None]:
        """Do not count the restart that the caller requests in the block as an interruption.

        After an error the restart is no longer expected, except after a timeout: then the camera may still restart.
        """
        before = self._registry.expect_restart(mac, self._clock.monotonic() + EXPECTED_RESTART_S)
        try:
            yield
        except OrchestratorError as error:
            if error.code != ErrorCode.DEVICE_TIMEOUT:
                self._registry.expect_restart(mac, before)
            raise

    async def reboot(self, mac: Mac, *, actor: Actor) -> None:
        """Reboot a camera; return once the camera has accepted. No command is sent if it is already rebooting.

        CameraOfflineError if it is offline, ConflictError while it is provisioned, RebootError if it does not accept.
        """
        self.check_not_provisioning(mac)
        device = self._registry.get(mac)
        is_rebooting = mac in self._pending or (device is not None and device.state is Presence.REBOOTING)
        if is_rebooting and not self._requests.is_running(mac):
            return await self._record(mac, actor, outcome=audit_log.UNCHANGED)
        return await self._requests.run(mac, lambda: self._reboot(mac, actor))

    def collect_outcomes(self) -> list[RebootOutcome]:
        """Return the reboots that have ended since the last call, and notify the observer."""
        now = self._clock.monotonic()
        ended = []
        for mac, pending in list(self._pending.items()):
            device, since = self._registry.get(mac), pending.since
            is_timed_out = now - since >= RETURN_TIMEOUT_S
            if device and _has_rebooted(device, pending):
                ended.append(RebootOutcome(mac))
                self._observer.reboot_finished(mac)
            elif is_timed_out and device and device.last_status and not self._commands.is_connected_since(since):
                error = "MQTT broker was not connected, so the reboot could not be verified"
                ended.append(RebootOutcome(mac, error))
                self._observer.reboot_finished(mac)
            elif is_timed_out:
                is_online = (
                    device is not None and (device.last_message_at or 0.0) > since and device.state is Presence.ONLINE
                )
                reason = f"the camera was not online again within {RETURN_TIMEOUT_S:g} s"
                if is_online:
                    reason = "the camera accepted the reboot but did not reboot"
                ended.append(RebootOutcome(mac, f"REBOOT_FAILED: {reason}"))
                self._observer.reboot_failed(mac, f"REBOOT_FAILED: {reason}")
            else:
                continue
            del self._pending[mac]
            self.revision += 1
        return ended

    async def _reboot(self, mac: Mac, actor: Actor) -> None:
        started_at, device = self._clock.monotonic(), self._registry.get(mac)
        pending = _Pending(started_at)
        if device and device.last_status and device.last_message_at is not None:
            pending = _Pending(started_at, device.last_status.uptime_s, device.last_message_at)
        with self.expected_restart(mac):
            await self._send_restart(mac, started_at)
        self._pending[mac] = pending
        self.revision += 1
        self._observer.reboot_requested(mac)
        log.info("camera reboot requested", mac=mac, actor=actor.key_name)
        await self._record(mac, actor, event=CameraReboot(mac=mac, state="requested"))

    async def _send_restart(self, mac: Mac, started_at: float) -> None:
        """Send the command; RebootError if the camera does not accept it by MQTT or HTTP."""
        self._commands.check_online(mac)
        is_reachable = self._commands.can_reach(mac)
        error = await self._send_by_mqtt(mac, started_at) if is_reachable else self._commands.unreachable_reason(mac)
        if error is not None:
            await self._send_by_http(mac, error)

    async def _send_by_mqtt(self, mac: Mac, started_at: float) -> str | None:
        """None if the camera has accepted, else the error."""
        try:
            await self._commands.send_by_mqtt(mac, Action.RESTART)
        except (CommandError, MqttUnavailableError) as error:
            device = self._registry.get(mac)
            # Some firmware reboots without an answer.
            return None if device and device.rebooting_since > started_at else error.message
        return None

    async def _send_by_http(self, mac: Mac, mqtt_error: str) -> None:
        try:
            ip, _ = await self._addresses.proven(mac)
            await self._camera_http.reboot(ip, timeout_s=HTTP_TIMEOUT_S)
        except (FieldError, VerificationError, RebootError) as error:
            message = f"the camera did not accept the reboot: {mqtt_error}"
            raise RebootError(message, details=f"by HTTP: {error}") from None

    async def _record(self, mac: Mac, actor: Actor, *, outcome: str = audit_log.OK, event: Event | None = None) -> None:
        async def job(tx: Tx) -> None:
            await audit_log.record(tx, actor, target=mac, outcome=outcome)
            if event:
                await event_store.append(tx, event)

        await self._database.write(job)


def _has_rebooted(device: Device, pending: _Pending) -> bool:
    """Whether a device has booted since the command, by the messages received since then."""
    last_message_at, status, since = device.last_message_at, device.last_status, pending.since
    if status is None or last_message_at is None or last_message_at <= since or device.state is not Presence.ONLINE:
        # A device that does not use MQTT has rebooted if it is seen well after the command.
        uses_mqtt = last_message_at is not None
        return not uses_mqtt and device.state is Presence.ONLINE and (device.alive_at or 0.0) > since + REBOOT_S
    if status.uptime_s is not None:
        has_lower_uptime = pending.uptime_s is not None and status.uptime_s < pending.uptime_s
        if has_lower_uptime or last_message_at - status.uptime_s > since:
            return True
    return _has_returned(device, pending, status.uptime_s)


def _has_returned(device: Device, pending: _Pending, uptime_s: float | None) -> bool:
    """Whether a device ended its MQTT session and opened a new one, or its uptime in a late one allows a reboot."""
    left_at, session_since = max(device.rebooting_since, device.mqtt_session_ended_at), device.mqtt_session_since
    if pending.since < left_at < session_since:
        return True
    if session_since <= pending.since + REBOOT_S:
        return False
    # Without a reboot, the uptime grows with the time. Half of that counts as no reboot: messages may be delayed.
    return (
        uptime_s is None
        or pending.uptime_s is None
        or uptime_s - pending.uptime_s < (session_since - pending.uptime_at) / 2
    )
