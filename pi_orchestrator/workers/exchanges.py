"""Commands to cameras over MQTT, and their answers, each brought to the one who asked.

An answer is found by the request id in its topic, which is new and unguessable for each command: what nobody waits
for is dropped unread. What is read is checked for who it says that it is from, so that one camera's words are never
taken for another's.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pi_orchestrator.domain.camera import device_id_for
from pi_orchestrator.domain.capture import ASSEMBLED_BYTES, MAX_CHUNK_MESSAGE_BYTES, Budget
from pi_orchestrator.domain.command import Action, Phase, command_payload, command_topic, parse_response_topic
from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.presence import Presence
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.errors import CameraOfflineError, FieldError, MqttUnavailableError
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.storage.cameras import Roster

PUBLISH_S = 3.0


class Exchange:
    """One command and what came in answer to it: wait for `arrived`, then take all of it.

    `broken` says why nothing more will come.
    """

    def __init__(self, *, mac: Mac, budget: Budget, is_anothers: Callable[[str], bool]) -> None:
        self.mac = mac
        self.request_id = uuid.uuid4().hex
        self.arrived = asyncio.Event()
        self.broken: str | None = None
        self.is_anothers = is_anothers
        self._budget = budget
        self._inbox: deque[tuple[Phase, bytes]] = deque()
        self._held = 0

    def is_anothers_answer(self, names: Iterable[str], about: object) -> bool:
        """Whether an answer says that it is another camera's, or about another command."""
        return about not in (None, self.request_id) or any(map(self.is_anothers, names))

    def offer(self, phase: Phase, payload: bytes) -> None:
        """Keep a message until it is taken, as far as there is room."""
        if self.broken:
            return
        if self._held + len(payload) > MAX_CHUNK_MESSAGE_BYTES or not self._budget.take(len(payload)):
            self.break_off("it sent more than can be held")
            return
        self._held += len(payload)
        self._inbox.append((phase, payload))
        self.arrived.set()

    def break_off(self, why: str) -> None:
        """Nothing more will come."""
        self.broken = self.broken or why
        self.arrived.set()

    @contextmanager
    def taking(self) -> Iterator[list[tuple[Phase, bytes]]]:
        """Everything that has come, in order; it counts as held until the block ends."""
        taken = list(self._inbox)
        self._inbox.clear()
        if not self.broken:
            self.arrived.clear()
        try:
            yield taken
        finally:
            size = sum(len(payload) for _, payload in taken)
            self._held -= size
            self._budget.give(size)


class Exchanges:
    """Who waits for which answer; `on_response` is quick, whatever comes."""

    def __init__(self, *, mqtt: MqttLink, registry: Registry, roster: Roster) -> None:
        self._mqtt = mqtt
        self._registry = registry
        self._roster = roster
        self._open: dict[str, Exchange] = {}
        self.budget = Budget(ASSEMBLED_BYTES)
        self.messages: Counter[str] = Counter()
        mqtt.on_lost = self._break_all

    def on_response(self, topic: str, payload: bytes, retained: bool) -> None:
        """Take one MQTT message of a camera's answer."""
        if retained:
            self.messages["retained"] += 1  # an answer to a question of the past
            return
        try:
            request_id, phase, name = parse_response_topic(topic)
        except FieldError:
            self.messages["invalid"] += 1
            return
        exchange = self._open.get(request_id)
        if exchange is None:
            self.messages["unasked"] += 1
        elif name is not None and exchange.is_anothers(name):
            self.messages["foreign"] += 1
        else:
            self.messages["taken"] += 1
            exchange.offer(phase, payload)

    def check_here(self, mac: Mac) -> None:
        """CameraOfflineError where a camera is known to be away; without a broker nobody can know that."""
        device = self._registry.get(mac)
        if device and device.state is Presence.REBOOTING:
            raise CameraOfflineError("the camera is rebooting")
        if self._mqtt.connected and self.seems_away(mac):
            raise CameraOfflineError("the camera is away")

    def hears(self, since: float) -> bool:
        """Whether the broker has been there ever since a time."""
        return self._mqtt.connected_since is not None and self._mqtt.connected_since <= since

    def seems_away(self, mac: Mac) -> bool:
        """Whether nothing speaks for its being here."""
        device = self._registry.get(mac)
        return device is None or device.state is Presence.OFFLINE

    def reaches(self, mac: Mac) -> bool:
        """Whether a command can be sent to a camera by MQTT just now."""
        device = self._registry.get(mac)
        return (
            self._mqtt.connected
            and device is not None
            and device.said is not None
            and device.in_session
            and device.state is not Presence.OFFLINE
        )

    @contextmanager
    def open(self, mac: Mac) -> Iterator[Exchange]:
        """An exchange with a camera; its answers are listened for before anything is sent."""
        exchange = Exchange(mac=mac, budget=self.budget, is_anothers=lambda name: self._is_anothers(mac, name))
        self._open[exchange.request_id] = exchange
        try:
            yield exchange
        finally:
            del self._open[exchange.request_id]
            with exchange.taking():
                pass  # nobody will read what is left

    async def send(self, exchange: Exchange, action: Action, **fields: str) -> None:
        """Send the command of an exchange; MqttUnavailableError where it cannot be sent."""
        device = self._registry.get(exchange.mac)
        if device is None or device.said is None:
            raise MqttUnavailableError("the camera has not been heard on MQTT")
        try:
            topic = command_topic(device.said.topic)
        except FieldError as error:
            raise MqttUnavailableError(str(error)) from None
        await self._mqtt.publish(topic, command_payload(action, exchange.request_id, **fields), timeout_s=PUBLISH_S)

    def _break_all(self) -> None:
        for exchange in self._open.values():
            exchange.break_off("the MQTT broker went away")

    def _is_anothers(self, mac: Mac, name: str) -> bool:
        """Whether a name in an answer is not that of the camera that was asked."""
        spelt = try_mac(name)
        if spelt:
            return spelt != mac
        known = self._roster.find(name) or self._registry.find(name)
        if known:
            return known != mac
        device = self._registry.get(mac)
        claimed = device.device_id if device else None
        # One that never said its id may do so now; one that did has no other.
        return claimed is not None and name not in (claimed, device_id_for(mac, None))
