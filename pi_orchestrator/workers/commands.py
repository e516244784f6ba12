"""Single commands to a camera, and the one answer that each has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.capture import MAX_MESSAGE_BYTES
from pi_orchestrator.domain.command import Action, Phase, clean_answer, refusal_in
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.strict_json import parse_object
from pi_orchestrator.errors import CommandError, FieldError, MqttUnavailableError
from pi_orchestrator.workers.exchanges import Exchange, Exchanges

ANSWER_S = 5.0
WORKING_S = 10.0
"""How long one that has said that it has begun may take."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a camera answered, made safe to show; `request_id` is that of the command."""

    request_id: str
    answer: dict[str, Any]


class Commands:
    """`ask` sends one command by MQTT."""

    def __init__(self, *, clock: Clock, exchanges: Exchanges) -> None:
        self._clock = clock
        self._exchanges = exchanges

    def reaches(self, mac: Mac) -> bool:
        """Whether a camera can be told anything by MQTT just now."""
        return self._exchanges.reaches(mac)

    async def ask(self, mac: Mac, action: Action, **fields: str) -> Answered:
        """The camera's answer; CommandError where it refuses or is silent, MqttUnavailableError where it is not sent."""
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
                if exchange.is_anothers_message(answer):
                    self._exchanges.messages["foreign"] += 1
                else:
                    found.append((phase, answer))
        return found
