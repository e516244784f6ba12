"""The daemon's MQTT connection: connects, subscribes, dispatches messages, reconnects, disconnects.

Handlers are plain functions, called in arrival order from one bounded queue. They must be quick: when the queue is
full, messages are dropped. `piorch/status` holds the state of the daemon: `online` after every connect, `offline` as
last will and at shutdown, both retained.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

import aiomqtt

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import MqttUnavailableError
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.supervisor import Beat, full_jitter
from pi_orchestrator.net.mqtt.client import MqttClient, PacketTooLargeError, RefusedError
from pi_orchestrator.net.mqtt.delivery import Arrivals, undelivered
from pi_orchestrator.net.mqtt.session import ECHO_TOPIC, REMEMBER_S, STATUS_TOPIC, SessionOpener
from pi_orchestrator.net.mqtt.subscriptions import Subscriptions
from pi_orchestrator.settings import MqttSettings

NAME = "mqtt"
SILENCE_S = 10.0
"""Time without any data from the broker after which a subscribe has failed."""
SUBSCRIBE_LIMIT_S = 300.0
"""Time limit of a subscribe; retained messages may come before the broker's answer."""
MAX_RETRY_DELAY_S = 2.0
MIN_STABLE_S = 5.0
LOG_INTERVAL_S = 60.0
"""Time between two warnings of one cause."""
MAX_CAUSES = 32
CHECK_RETRY_S = 60.0
"""Time until a check of the delivery without a result is repeated."""
MAX_UNFINISHED_CHECKS = 2
"""After this number of connections in a row that ended during the check, there is none for REMEMBER_S."""
NEVER = float("inf")

Handler = Callable[[str, bytes, bool], None]
"""Called with topic, payload, and whether the message was retained."""

log = get_logger(__name__)


class MqttConnection:
    """The daemon's connection to its broker; calls `on_lost` whenever an established connection ends."""

    def __init__(self, *, settings: MqttSettings, port: int, clock: Clock, health: Health) -> None:
        self._settings = settings
        self.client_id = f"{settings.client_id}-{secrets.token_hex(4)}"
        """New in each process, because a client that connects with the same id disconnects the daemon."""
        self._port = port
        self._clock = clock
        self._health = health
        self._routes: list[tuple[str, list[str], Handler]] = []
        self._client: MqttClient | None = None
        self._discards = _DiscardCounter()
        self._opener = SessionOpener(
            settings=settings, port=port, monotonic=clock.monotonic, logger=self._discards.logger
        )
        self._subscriptions = Subscriptions(username=settings.username)
        self._reported_problem: str | None = None
        self._arrivals = Arrivals("check")
        self._check_at = NEVER
        self._no_check_before = 0.0
        self._unfinished_checks = 0
        self.on_lost: Callable[[], None] | None = None
        self._connected_at = 0.0
        self.too_large = 0
        """Messages dropped because of their size."""
        self._warnings = _WarningLimit(clock)
        self._is_outage_logged = False
        self.received = 0
        self.connections = 0

    def route(self, topic_filter: str, handler: Handler) -> None:
        """Subscribe a handler to a filter (`+`, no `#`) at every connect; call before `run`. The first match counts."""
        self._routes.append((topic_filter, topic_filter.split("/"), handler))
        self._subscriptions.add(topic_filter)

    @property
    def connected(self) -> bool:
        """Whether the broker is connected."""
        return self._client is not None

    @property
    def connected_since(self) -> float | None:
        """Time of the last connect, in monotonic seconds; None while disconnected."""
        return self._connected_at if self.connected else None

    @property
    def discarded(self) -> int:
        """Messages dropped because the queue was full."""
        return self._discards.count

    async def echo(self, *, within_s: float) -> float | None:
        """Seconds until the broker acknowledges an empty message, at most `within_s`; None while disconnected."""
        client = self._client
        if client is None:
            return None
        sent_at = self._clock.monotonic()
        try:
            await client.publish(ECHO_TOPIC, b"", qos=1, timeout=within_s)
        except aiomqtt.MqttError:
            return within_s if self.connected else None
        return self._clock.monotonic() - sent_at

    async def publish(self, topic: str, payload: bytes, *, timeout_s: float) -> None:
        """Publish a message (QoS 1, not retained); MqttUnavailableError unless the broker acknowledges it."""
        client = self._client
        if client is None:
            raise MqttUnavailableError("MQTT broker not connected")
        try:
            await client.publish(topic, payload, qos=1, timeout=timeout_s)
        except (aiomqtt.MqttError, ValueError) as error:
            raise MqttUnavailableError(f"the MQTT broker did not accept the message: {error}") from None

    async def run(self, beat: Beat) -> None:
        """Keep the connection up until cancelled."""
        attempt = early_disconnects = 0
        is_unreachable = False
        while True:
            beat()
            connections_before = self.connections
            try:
                await self._run_connection()
                reason = cause = "the broker closed the connection"
            except (aiomqtt.MqttError, OSError, UnicodeError) as error:
                reason = str(error) or type(error).__name__
                cause = type(error).__name__ if isinstance(error, PacketTooLargeError) else reason
                if isinstance(error, PacketTooLargeError):
                    self.too_large += 1
                    self._subscriptions.add_too_large(error, self._clock.monotonic())
            finally:
                self._client = None
            if self.connections > connections_before:
                # Disconnected right after several connects, perhaps by another client with this client id: back off.
                # If the broker was unreachable between these connects, this is an ordinary outage.
                is_short = self._clock.monotonic() - self._connected_at < MIN_STABLE_S
                early_disconnects = early_disconnects + 1 if is_short and not is_unreachable else 0
                attempt = early_disconnects
                is_unreachable = False
            else:
                attempt, is_unreachable = attempt + 1, True
            self._report_lost(reason, cause)
            await self._clock.sleep(full_jitter(attempt, base_s=0.25, cap_s=MAX_RETRY_DELAY_S))

    async def _run_connection(self) -> None:
        client = await self._opener.open(self.client_id, _WILL)
        client.on_skipped = self._report_skipped
        # Reads from the start: retained messages may arrive before the answer to the subscribe.
        reading = asyncio.create_task(self._read(client), name="mqtt-reader")
        try:
            await self._subscribe(client, self._subscriptions.wanted(self._clock.monotonic()))
            await self._publish_online(client)
            self._client = client
            self.connections += 1
            self._connected_at = self._clock.monotonic()
            report = log.info if self._is_outage_logged or self.connections == 1 else log.debug
            report("mqtt connected", host=self._settings.host, port=self._port)
            self._is_outage_logged = False
            await self._keep_subscribed(client, reading)
        finally:
            if self._client is not None and self.on_lost:
                self.on_lost()
            self._client = None
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()  # retrieved, so that asyncio does not log it
            # Publish `offline` here: after a DISCONNECT the broker does not send the last will.
            await _publish_offline(client)
            await client.close()

    async def _publish_online(self, client: MqttClient) -> None:
        online = client.publish(STATUS_TOPIC, "online", qos=1, retain=True, timeout=SUBSCRIBE_LIMIT_S)
        try:
            await client.while_receiving(online, silence_s=SILENCE_S)
            self._subscriptions.publish_refusal = None
        except RefusedError as error:
            self._subscriptions.publish_refusal = str(error)

    async def _read(self, client: MqttClient) -> None:
        while True:
            for message in await client.receive():
                self.received += 1
                self._dispatch(message.topic.value, message.payload, message.retain)

    async def _keep_subscribed(self, client: MqttClient, reading: asyncio.Task[None]) -> None:
        """Check the delivery, and subscribe again to what is missing, when it is time; until the connection ends."""
        self._check_at = self._clock.monotonic()
        while not reading.done():
            now = self._clock.monotonic()
            if due := self._subscriptions.due(now):
                await self._subscribe(client, due)
                self._check_at = now
            self._report_subscriptions()
            if client.is_mqtt5 and now >= max(self._check_at, self._no_check_before):
                await self._check_delivery(client, reading)
                self._report_subscriptions()
            check_at = max(self._check_at, self._no_check_before) if client.is_mqtt5 else NEVER
            next_at = min(self._subscriptions.next_due(), check_at)
            wait_s = max(0.1, next_at - self._clock.monotonic()) if next_at < NEVER else None
            await asyncio.wait([reading], timeout=wait_s)
        reading.result()

    async def _check_delivery(self, client: MqttClient, reading: asyncio.Task[None]) -> None:
        """Find the filters that the broker has granted without delivering their messages."""
        if self._unfinished_checks >= MAX_UNFINISHED_CHECKS:
            # This broker may close the connection instead of refusing a test message.
            self._no_check_before, self._unfinished_checks = self._clock.monotonic() + REMEMBER_S, 0
            return
        self._unfinished_checks += 1
        self._arrivals = Arrivals("check")
        filters, discarded = self._subscriptions.granted(), self.discarded
        test = undelivered(client, self._arrivals, filters)
        check = asyncio.ensure_future(client.while_receiving(test, silence_s=SILENCE_S))
        try:
            await asyncio.wait([check, reading], return_when=asyncio.FIRST_COMPLETED)
            if not check.done():
                return
            missing = check.result()
        finally:
            check.cancel()
            await asyncio.wait([check])
            if not check.cancelled():
                check.exception()  # retrieved, so that asyncio does not log it
        self._unfinished_checks = 0
        if discarded == self.discarded:
            self._subscriptions.add_undelivered(filters, missing, self._clock.monotonic())
            self._check_at = NEVER
        else:  # the test messages may be among those that were dropped
            self._check_at = self._clock.monotonic() + CHECK_RETRY_S

    async def _subscribe(self, client: MqttClient, filters: list[str]) -> None:
        refused = await client.subscribe_filters(filters, silence_s=SILENCE_S, limit_s=SUBSCRIBE_LIMIT_S)
        self._subscriptions.add_answer(filters, refused, self._clock.monotonic())

    def _report_subscriptions(self) -> None:
        problem = self._subscriptions.problem()
        if problem:
            self._health.set(NAME, State.DEGRADED, problem)
            if problem != self._reported_problem:
                report = log.warning if self._warnings.allows("subscriptions") else log.debug
                report("mqtt subscriptions incomplete", reason=problem, host=self._settings.host)
        else:
            self._health.set(NAME, State.OK, f"{self._settings.host}:{self._port}")
        self._reported_problem = problem

    def _dispatch(self, topic: str, payload: bytes, retained: bool) -> None:
        if self._arrivals.take(topic):
            return
        parts = topic.split("/")
        for topic_filter, patterns, handler in self._routes:
            if len(parts) == len(patterns) and all(
                pattern in ("+", part) for pattern, part in zip(patterns, parts, strict=True)
            ):
                self._subscriptions.add_topic(topic_filter, topic, self._clock.monotonic())
                handler(topic, payload, retained)
                return

    def _report_skipped(self, error: PacketTooLargeError) -> None:
        self.too_large += 1
        if self._warnings.allows("skipped"):
            log.warning("mqtt message too large, dropped", reason=str(error), count=self.too_large)

    def _report_lost(self, reason: str, cause: str) -> None:
        """Set the health, and warn once per outage but at most once a minute for each cause."""
        self._health.set(NAME, State.DEGRADED, reason)
        is_warned = not self._is_outage_logged and self._warnings.allows(cause)
        self._is_outage_logged = self._is_outage_logged or is_warned
        (log.warning if is_warned else log.debug)("mqtt not connected", reason=reason, host=self._settings.host)


class _WarningLimit:
    """Allows one warning a minute for each cause."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._again_at: BoundedDict[str, float] = BoundedDict(MAX_CAUSES)

    def allows(self, cause: str) -> bool:
        """Whether a warning is due; if so, it counts as logged."""
        now = self._clock.monotonic()
        if now < self._again_at.get(cause, 0.0):
            return False
        self._again_at[cause] = now + LOG_INTERVAL_S
        return True


_WILL = aiomqtt.Will(STATUS_TOPIC, "offline", qos=1, retain=True)


async def _publish_offline(client: aiomqtt.Client) -> None:
    try:
        await client.publish(STATUS_TOPIC, "offline", qos=0, retain=True, timeout=0.2)
    except aiomqtt.MqttError:
        log.debug("mqtt offline status not sent")


class _DiscardCounter(logging.Handler):
    """Counts messages that aiomqtt drops because its queue is full; aiomqtt reports them only in its log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        self.logger = logging.getLogger("mqtt-library")
        self.logger.propagate = False
        self.logger.handlers[:] = [self]

    def emit(self, record: logging.LogRecord) -> None:
        if "queue is full" in record.getMessage():
            self.count += 1
