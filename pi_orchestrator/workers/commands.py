"""Single commands to a camera, and the one answer that each has."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Literal

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.capture import MAX_MESSAGE_BYTES
from pi_orchestrator.domain.command import Action, Phase, clean_answer, names_in, refusal_in
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import Code
from pi_orchestrator.domain.strict_json import parse_object
from pi_orchestrator.errors import CommandError, FieldError, MqttUnavailableError, OnboardingError
from pi_orchestrator.workers.exchanges import Exchange, Exchanges
from pi_orchestrator.workers.whereabouts import Whereabouts

ANSWER_S = 5.0
WORKING_S = 10.0
"""How long one that has said that it has begun may take."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a camera answered, made safe to show; `request_id` is that of the command."""

    request_id: str
    answer: dict[str, Any]
    via: Literal["mqtt", "http"] = "mqtt"


class Commands:
    """`give` a command by the way that there is, or `ask` by MQTT alone."""

    def __init__(self, *, clock: Clock, exchanges: Exchanges, whereabouts: Whereabouts) -> None:
        self._clock = clock
        self._exchanges = exchanges
        self._whereabouts = whereabouts

    def reaches(self, mac: Mac) -> bool:
        """Whether a camera can be told anything by MQTT just now."""
        return self._exchanges.reaches(mac)

    def hears(self, since: float) -> bool:
        """Whether cameras could be heard on MQTT ever since a time."""
        return self._exchanges.hears(since)

    def check_here(self, mac: Mac) -> None:
        """CameraOfflineError where a camera is known to be away."""
        self._exchanges.check_here(mac)

    async def give(self, mac: Mac, action: Action, **fields: str) -> Answered:
        """The camera's answer; CommandError where it refuses, is silent or cannot be reached."""
        self.check_here(mac)
        if self.reaches(mac):
            return await self.ask(mac, action, **fields)
        if action not in (Action.PING, Action.HEALTH_CHECK):
            raise MqttUnavailableError(f"{action} goes by MQTT alone, which the camera cannot be reached by just now")
        try:
            _, said = await self._whereabouts.proven(mac, timeout_s=ANSWER_S)
        except (FieldError, OnboardingError) as error:
            code = "DEVICE_TIMEOUT" if getattr(error, "code", "") == Code.VERIFY_TIMEOUT else "DEVICE_UNREACHABLE"
            raise CommandError(f"the camera cannot be asked by HTTP: {error}", code=code) from None
        told = {"firmware_version": said.firmware_version, "rssi": said.rssi_dbm, "ssid": said.ssid}
        answer = {name: value for name, value in told.items() if value is not None}
        return Answered(uuid.uuid4().hex, answer, via="http")

    async def ask(self, mac: Mac, action: Action, **fields: str) -> Answered:
        """The camera's answer; CommandError where it refuses or is silent, MqttUnavailableError where it is unsent."""
        with self._exchanges.open(mac) as exchange:
            await self._exchanges.send(exchange, action, **fields)
            deadline = self._clock.monotonic() + ANSWER_S
            while True:
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0 or not await self._clock.wait(exchange.arrived, left_s):
                    raise CommandError("the camera did not answer in time", code="DEVICE_TIMEOUT")
                for phase, answer in self._read(exchange):
                    if phase is Phase.ACK:
                        deadline = self._clock.monotonic() + WORKING_S
                        continue
                    if why := refusal_in(phase, answer):
                        raise CommandError(f"the camera refused: {why}", code="DEVICE_REJECTED")
                    return Answered(exchange.request_id, clean_answer(answer))

    def _read(self, exchange: Exchange) -> list[tuple[Phase, dict[str, Any]]]:
        found = []
        with exchange.taking() as messages:
            if not messages and exchange.broken:
                raise MqttUnavailableError(exchange.broken)
            for phase, payload in messages:
                try:
                    answer = parse_object(payload, max_bytes=MAX_MESSAGE_BYTES)
                except FieldError as error:
                    raise CommandError(f"the camera's answer is {error}", code="DEVICE_REJECTED") from None
                if exchange.is_anothers_answer(names_in(answer), answer.get("request_id")):
                    self._exchanges.messages["foreign"] += 1
                else:
                    found.append((phase, answer))
        return found
