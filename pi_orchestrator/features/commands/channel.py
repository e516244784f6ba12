"""Sends commands to cameras by MQTT and routes each answer to the pending command.

The answer's topic has the request id, which is random for each command. Messages with an unknown id are dropped
unparsed. No camera can answer for another: a sender name in the topic is checked here; the caller that parses
the payload checks the sender names and the request id in it with `PendingCommand.is_foreign`. While cameras share a
topic, no command is sent to them, and their pending commands fail: either camera may have answered.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pi_orchestrator.core.byte_budget import ByteBudget
from pi_orchestrator.core.errors import CameraOfflineError, FieldError, MqttUnavailableError
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.model import device_id_for
from pi_orchestrator.features.commands.model import (
    BUDGET_BYTES,
    BUDGET_RETRY_S,
    MAX_CHUNK_MESSAGE_BYTES,
    Action,
    Phase,
    command_payload,
    command_topic,
    parse_response_topic,
)
from pi_orchestrator.features.devices.model import Presence
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.net.mqtt.link import MqttConnection

PUBLISH_S = 3.0


class PendingCommand:
    """One command and its answer messages: wait for `arrived`, then read them from `received`.

    `failure` is the reason if no more messages will arrive. `is_void`: another camera may have sent the messages.
    """

    def __init__(self, *, mac: Mac, budget: ByteBudget, is_other_camera: Callable[[str], bool]) -> None:
        self.mac = mac
        self.request_id = uuid.uuid4().hex
        self.arrived = asyncio.Event()
        self.failure: str | None = None
        self.is_void = False
        self.is_other_camera = is_other_camera
        self._budget = budget
        self._inbox: deque[tuple[Phase, bytes]] = deque()
        self._held_bytes = 0

    def is_foreign(self, names: Iterable[str], request_id: object) -> bool:
        """Whether an answer names another camera or another request id."""
        return request_id not in (None, self.request_id) or any(map(self.is_other_camera, names))

    def add(self, phase: Phase, payload: bytes) -> None:
        """Store a message until it is read; the command fails if its unread messages together are too large."""
        if self.failure:
            return
        if self._held_bytes + len(payload) > MAX_CHUNK_MESSAGE_BYTES or not self._budget.take(len(payload)):
            self.fail("the camera sent more data than the daemon can buffer")
            return
        self._held_bytes += len(payload)
        self._inbox.append((phase, payload))
        self.arrived.set()

    def fail(self, reason: str) -> None:
        """End the command; later messages are ignored."""
        self.failure = self.failure or reason
        self.arrived.set()

    def void(self, reason: str) -> None:
        """End the command and drop its unread messages."""
        self.is_void = True
        with self.received():
            self.fail(reason)

    @contextmanager
    def received(self) -> Iterator[list[tuple[Phase, bytes]]]:
        """Remove and yield the stored messages, in order; their bytes are released when the block ends."""
        messages = list(self._inbox)
        self._inbox.clear()
        if not self.failure:
            self.arrived.clear()
        try:
            yield messages
        finally:
            size = sum(len(payload) for _, payload in messages)
            self._held_bytes -= size
            self._budget.release(size)


class CommandChannel:
    """The pending commands, by request id; `on_response` does not parse payloads, so it is fast."""

    def __init__(self, *, mqtt: MqttConnection, registry: DeviceRegistry, cache: CameraCache) -> None:
        self._mqtt = mqtt
        self._registry = registry
        self._cache = cache
        self._open: dict[str, PendingCommand] = {}
        self.budget = ByteBudget(BUDGET_BYTES, retry_after_s=BUDGET_RETRY_S)
        self.messages: Counter[str] = Counter()
        mqtt.on_lost = self._fail_all
        registry.names.on_conflict = self._void_shared

    def on_response(self, topic: str, payload: bytes, retained: bool) -> None:
        """Route one MQTT message of an answer to its pending command."""
        if retained:
            self.messages["retained"] += 1  # the answer to an old command
            return
        try:
            request_id, phase, name = parse_response_topic(topic)
        except FieldError:
            self.messages["invalid"] += 1
            return
        command = self._open.get(request_id)
        if command is None:
            self.messages["unasked"] += 1
        elif name is not None and command.is_other_camera(name):
            self.messages["foreign"] += 1
        else:
            self.messages["taken"] += 1
            command.add(phase, payload)

    def check_online(self, mac: Mac) -> None:
        """CameraOfflineError if a camera is rebooting, or offline while the broker is connected.

        Without a broker it is not certain that an offline camera is really offline.
        """
        device = self._registry.get(mac)
        if device and device.state is Presence.REBOOTING:
            raise CameraOfflineError("the camera is rebooting")
        if self._mqtt.connected and self.is_offline(mac):
            raise CameraOfflineError("the camera is offline")

    def is_connected_since(self, since: float) -> bool:
        """Whether the broker has been connected without a break since a monotonic time."""
        return self._mqtt.connected_since is not None and self._mqtt.connected_since <= since

    def is_offline(self, mac: Mac) -> bool:
        """Whether a camera is unknown to the registry or offline."""
        device = self._registry.get(mac)
        return device is None or device.state is Presence.OFFLINE

    def can_reach(self, mac: Mac) -> bool:
        """Whether a command by MQTT would reach this camera now, and no other camera."""
        device = self._registry.get(mac)
        return self.refusal(mac) is None and (
            self._mqtt.connected
            and device is not None
            and device.last_status is not None
            and device.in_mqtt_session
            and device.state is not Presence.OFFLINE
        )

    def refusal(self, mac: Mac) -> str | None:
        """Why a command by MQTT could reach another camera; None if it could not."""
        return self._registry.names.command_block_reason(mac)

    @property
    def pending(self) -> int:
        """Number of pending commands."""
        return len(self._open)

    @contextmanager
    def open(self, mac: Mac) -> Iterator[PendingCommand]:
        """Register a pending command, so that no answer is missed; call `send` in the block."""
        command = PendingCommand(
            mac=mac, budget=self.budget, is_other_camera=lambda name: self._is_other_camera(mac, name)
        )
        self._open[command.request_id] = command
        try:
            yield command
        finally:
            del self._open[command.request_id]
            with command.received():
                pass  # release what was not read

    async def send(self, command: PendingCommand, action: Action, **fields: str) -> None:
        """Send a pending command; MqttUnavailableError if it cannot be sent."""
        if reason := self.refusal(command.mac):
            raise MqttUnavailableError(reason)
        status_topic = self._registry.names.topic_of(command.mac)
        if status_topic is None:
            raise MqttUnavailableError("no MQTT message received from the camera yet")
        try:
            topic = command_topic(status_topic)
        except FieldError as error:
            raise MqttUnavailableError(str(error)) from None
        await self._mqtt.publish(topic, command_payload(action, command.request_id, **fields), timeout_s=PUBLISH_S)

    def _fail_all(self) -> None:
        for command in self._open.values():
            command.fail("the MQTT broker disconnected")

    def _void_shared(self) -> None:
        for command in self._open.values():
            if reason := self.refusal(command.mac):
                command.void(reason)

    def _is_other_camera(self, mac: Mac, name: str) -> bool:
        """Whether a sender name is not a name of this camera."""
        if self._registry.names.uses(mac, name):
            return False  # even if the name is the MAC of another camera
        sender = try_mac(name) or self._cache.mac_of(name) or self._registry.mac_of(name)
        if sender:
            return sender != mac
        device = self._registry.get(mac)
        claimed = device.device_id if device else None
        # The name is unknown. A camera that has claimed no id may use it; one that has claimed an id may use only
        # that id, or the default id made from its MAC.
        return claimed is not None and name not in (claimed, device_id_for(mac, None))
