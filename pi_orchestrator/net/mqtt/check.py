"""Checks a broker by doing what the daemon does there: connect, subscribe, publish and receive.

The test messages are not retained and go to topics of an id that no camera has. They are empty, except one that is so
large that a broker should refuse it. The last will has the daemon's topic, so that the broker checks the same
permission, but it is empty, not retained, and discarded by the DISCONNECT.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiomqtt

from pi_orchestrator.net.mqtt.client import MAX_PACKET_BYTES, MqttClient, NoAnswerError, RefusedError
from pi_orchestrator.net.mqtt.delivery import LIMIT_S, Arrivals, undelivered
from pi_orchestrator.net.mqtt.session import ECHO_TOPIC, STATUS_TOPIC, SessionOpener
from pi_orchestrator.settings import MqttSettings

SILENCE_S = 5.0
TEST_BYTES = 2 * 1024 * 1024
"""Size of the message that a broker should refuse."""
LOGIN_CODES = (0x86, 0x87)
"""Reason codes with which a broker refuses a login."""
_TOO_LARGE = 0x95


@dataclass(slots=True)
class BrokerReport:
    """What a broker allows; None: not known."""

    error: str | None = None
    """Why the connection failed; then nothing else is known."""
    error_code: int | None = None
    """The broker's reason code, if it refused the connection."""
    protocol: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    """Filters that the broker refuses, with reasons."""
    undelivered: list[str] = field(default_factory=list)
    """Filters that it grants, without delivering their messages."""
    unproven: list[str] = field(default_factory=list)
    """By MQTT 3.1.1: filters whose messages do not come back; sending or receiving may not be allowed."""
    unpublished: dict[str, str] = field(default_factory=dict)
    """Topics that the daemon publishes on and the broker refuses, with reasons."""
    is_open_to_commands: bool | None = None
    """Whether a client without a user can send commands to cameras."""
    is_size_limited: bool | None = None
    """Whether the broker refuses messages of TEST_BYTES."""


async def check_broker(settings: MqttSettings, *, filters: Sequence[str], command_topic: str) -> BrokerReport:
    """Check a broker with the daemon's settings; `filters` are the daemon's, `command_topic` has one `+`."""
    report = BrokerReport()
    try:
        async with _session(settings) as session:
            await _Check(session, settings, report).run(filters, command_topic)
    except RefusedError as error:
        report.error, report.error_code = str(error), error.code
    except (aiomqtt.MqttError, OSError, UnicodeError) as error:
        report.error = str(error) or type(error).__name__
    return report


class _Session:
    """A connection, and the test topics on which it has received messages."""

    def __init__(self, client: MqttClient) -> None:
        self.client = client
        self.arrivals = Arrivals("doctor")

    async def read(self) -> None:
        """Read until the connection ends; messages for others are dropped."""
        while True:
            for message in await self.client.receive():
                self.arrivals.take(message.topic.value)

    async def publish(self, topic: str, payload: bytes = b"") -> RefusedError | None:
        """Publish with QoS 1; the refusal, if the broker gives one (MQTT 5)."""
        try:
            await self.client.while_receiving(
                self.client.publish(topic, payload, qos=1, timeout=LIMIT_S), silence_s=SILENCE_S
            )
        except RefusedError as error:
            return error
        return None

    async def subscribe(self, filters: Sequence[str]) -> dict[str, str]:
        """Subscribe; the refused filters, with reasons."""
        return await self.client.subscribe_filters(filters, silence_s=SILENCE_S, limit_s=LIMIT_S)


@asynccontextmanager
async def _session(settings: MqttSettings) -> AsyncIterator[_Session]:
    opener = SessionOpener(
        settings=settings, port=settings.port, monotonic=time.monotonic, logger=logging.getLogger("mqtt-library")
    )
    will = aiomqtt.Will(STATUS_TOPIC, b"", qos=1, retain=False)
    name, limit = f"{settings.client_id}-doctor-{secrets.token_hex(4)}", MAX_PACKET_BYTES
    try:
        client = await opener.open(name, will, max_packet_bytes=limit)
    except NoAnswerError:  # perhaps because of MQTT 5: after no answer, `open` tries 3.1.1
        client = await opener.open(name, will, max_packet_bytes=limit)
    session = _Session(client)
    reading = asyncio.create_task(session.read())
    try:
        yield session
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await client.close()


class _Check:
    def __init__(self, session: _Session, settings: MqttSettings, report: BrokerReport) -> None:
        self._session = session
        self._settings = settings
        self._report = report

    async def run(self, filters: Sequence[str], command_topic: str) -> None:
        report, session = self._report, self._session
        report.protocol = "MQTT 5" if session.client.is_mqtt5 else "MQTT 3.1.1"
        test_topic = session.arrivals.topic(command_topic)
        report.refused = await session.subscribe(filters)
        await session.subscribe([test_topic])
        await self._check_publishing(test_topic)
        await self._check_delivery([name for name in filters if name not in report.refused])
        await self._check_commands(command_topic)
        await self._check_size()  # last: the broker may close the connection

    async def _check_publishing(self, command_topic: str) -> None:
        for topic in (ECHO_TOPIC, command_topic):
            if refusal := await self._session.publish(topic):
                self._report.unpublished[topic] = str(refusal)
        if not self._session.client.is_mqtt5 and await self._session.arrivals.missing([command_topic]):
            self._report.unpublished[command_topic] = "the message does not come back"

    async def _check_delivery(self, filters: Sequence[str]) -> None:
        """Send a message for each filter, and report the filters whose messages do not arrive.

        MQTT 3.1.1 has no refusal: there, messages that do not arrive are sent again without a user, as cameras may.
        """
        client, arrivals = self._session.client, self._session.arrivals
        if client.is_mqtt5:
            test = undelivered(client, arrivals, filters)
            self._report.undelivered = await client.while_receiving(test, silence_s=SILENCE_S)
            return
        sent = {arrivals.topic(name): name for name in filters}
        for topic in sent:
            await self._session.publish(topic)
        missing = await arrivals.missing(sent)
        if missing:
            with contextlib.suppress(aiomqtt.MqttError, OSError):
                async with _session(self._anonymous_settings()) as other:
                    for topic in missing:
                        await other.publish(topic)
            missing = await arrivals.missing(missing)
        self._report.unproven = [sent[topic] for topic in missing]

    def _anonymous_settings(self) -> MqttSettings:
        return self._settings.model_copy(update={"username": None, "password": None})

    async def _check_commands(self, command_topic: str) -> None:
        """Send a command without a user, to an id that no camera has."""
        session = self._session
        topic = session.arrivals.topic(command_topic, suffix="-any")
        await session.subscribe([topic])
        try:
            async with _session(self._anonymous_settings()) as other:
                is_refused = await other.publish(topic) is not None
                is_refusal_reported = other.client.is_mqtt5
        except RefusedError as error:
            self._report.is_open_to_commands = False if error.code in LOGIN_CODES else None
            return
        except (aiomqtt.MqttError, OSError):
            return
        if is_refused or is_refusal_reported:
            self._report.is_open_to_commands = not is_refused
            return
        self._report.is_open_to_commands = not await session.arrivals.missing([topic])

    async def _check_size(self) -> None:
        session, limit = self._session, self._session.client.broker_limit
        if limit is not None:
            self._report.is_size_limited = limit <= MAX_PACKET_BYTES
            return
        topic = session.arrivals.topic("piorch/doctor/+")
        if not session.client.is_mqtt5:
            await session.subscribe([topic])
        try:
            refusal = await session.publish(topic, bytes(TEST_BYTES))
        except NoAnswerError:
            return
        except aiomqtt.MqttError:
            self._report.is_size_limited = True  # the broker has closed the connection
            return
        if refusal is not None:
            self._report.is_size_limited = True if refusal.code == _TOO_LARGE else None
        elif session.client.is_mqtt5:
            self._report.is_size_limited = False
        else:
            self._report.is_size_limited = bool(await session.arrivals.missing([topic]))
