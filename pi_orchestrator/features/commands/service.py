"""Commands with a single answer."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Literal

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.error_codes import ErrorCode, VerificationCode
from pi_orchestrator.core.errors import CommandError, FieldError, MqttUnavailableError, VerificationError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.validation import parse_camera_object
from pi_orchestrator.features.cameras.address_resolver import AddressResolver
from pi_orchestrator.features.commands.channel import CommandChannel, PendingCommand
from pi_orchestrator.features.commands.model import (
    MAX_MESSAGE_BYTES,
    Action,
    Phase,
    clean_answer,
    refusal_reason,
    sender_names,
)

ANSWER_S = 5.0
WORKING_S = 10.0
"""Timeout after the camera has acknowledged the command."""


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """The answer of a camera, safe to show; `request_id` is that of the MQTT command, or a new id for HTTP."""

    request_id: str
    answer: dict[str, Any]
    via: Literal["mqtt", "http"] = "mqtt"


class CommandService:
    """`send` sends a command by MQTT or HTTP, `send_by_mqtt` by MQTT only."""

    def __init__(self, *, clock: Clock, channel: CommandChannel, addresses: AddressResolver) -> None:
        self._clock = clock
        self._channel = channel
        self._addresses = addresses

    def can_reach(self, mac: Mac) -> bool:
        """Whether a command can be sent to a camera by MQTT now."""
        return self._channel.can_reach(mac)

    def unreachable_reason(self, mac: Mac) -> str:
        """Why no command can be sent to a camera by MQTT."""
        reason = self._channel.refusal(mac)
        return f"not by MQTT: {reason}" if reason else "not reachable by MQTT"

    def is_connected_since(self, since: float) -> bool:
        """Whether the broker has been connected without a break since a monotonic time."""
        return self._channel.is_connected_since(since)

    def check_online(self, mac: Mac) -> None:
        """CameraOfflineError if a camera is offline or rebooting."""
        self._channel.check_online(mac)

    async def send(self, mac: Mac, action: Action, **fields: str) -> CommandAnswer:
        """Send a command by MQTT and return the answer; without MQTT, `ping` and `health_check` use HTTP.

        CameraOfflineError; CommandError if the camera refuses, does not answer or is not reachable;
        MqttUnavailableError if the command requires MQTT.
        """
        self.check_online(mac)
        if self.can_reach(mac):
            return await self.send_by_mqtt(mac, action, **fields)
        if action not in (Action.PING, Action.HEALTH_CHECK):
            if reason := self._channel.refusal(mac):
                raise MqttUnavailableError(f"{action} requires MQTT, and {reason}")
            raise MqttUnavailableError(f"{action} requires MQTT, and the camera is not reachable by MQTT")
        try:
            _, status = await self._addresses.proven(mac)
        except (FieldError, VerificationError) as error:
            code = (
                ErrorCode.DEVICE_TIMEOUT
                if getattr(error, "code", "") == VerificationCode.TIMEOUT
                else ErrorCode.DEVICE_UNREACHABLE
            )
            raise CommandError(f"the camera is not reachable by MQTT or HTTP: {error}", code=code) from None
        values = {"firmware_version": status.firmware_version, "rssi": status.rssi_dbm, "ssid": status.ssid}
        answer = {name: value for name, value in values.items() if value is not None}
        return CommandAnswer(uuid.uuid4().hex, answer, via="http")

    async def send_by_mqtt(self, mac: Mac, action: Action, **fields: str) -> CommandAnswer:
        """Send a command by MQTT and return the answer.

        CommandError if the camera refuses or does not answer, MqttUnavailableError if the command cannot be sent.
        """
        with self._channel.open(mac) as command:
            await self._channel.send(command, action, **fields)
            deadline = self._clock.monotonic() + ANSWER_S
            while True:
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0 or not await self._clock.wait(command.arrived, left_s):
                    raise CommandError("the camera did not answer in time", code=ErrorCode.DEVICE_TIMEOUT)
                for phase, answer in self._read(command):
                    if phase is Phase.ACK:
                        deadline = self._clock.monotonic() + WORKING_S
                        continue
                    if reason := refusal_reason(phase, answer):
                        raise CommandError(f"the camera refused: {reason}", code=ErrorCode.DEVICE_REJECTED)
                    return CommandAnswer(command.request_id, clean_answer(answer))

    def _read(self, command: PendingCommand) -> list[tuple[Phase, dict[str, Any]]]:
        answers = []
        with command.received() as messages:
            if not messages and command.failure:
                raise MqttUnavailableError(command.failure)
            for phase, payload in messages:
                try:
                    answer = parse_camera_object(payload, max_bytes=MAX_MESSAGE_BYTES)
                except FieldError as error:
                    raise CommandError(
                        f"invalid answer from the camera: {error}", code=ErrorCode.DEVICE_REJECTED
                    ) from None
                if command.is_foreign(sender_names(answer), answer.get("request_id")):
                    self._channel.messages["foreign"] += 1
                else:
                    answers.append((phase, answer))
        return answers
