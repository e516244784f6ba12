"""Commands to cameras by MQTT, each with its own request id, and reboots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pi_orchestrator.core.metrics import Metric, counters
from pi_orchestrator.features.cameras.feature import Cameras
from pi_orchestrator.features.commands import routes
from pi_orchestrator.features.commands.channel import CommandChannel
from pi_orchestrator.features.commands.model import RESPONSE_TOPICS
from pi_orchestrator.features.commands.reboots import RebootObserver, RebootService
from pi_orchestrator.features.commands.service import CommandService
from pi_orchestrator.features.devices.feature import Devices
from pi_orchestrator.features.feature import Feature, Resources

ROUTES = routes.ROUTES
TAGS: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Commands(Feature):
    """The parts that other features use."""

    channel: CommandChannel
    service: CommandService
    reboots: RebootService


def build(res: Resources, *, devices: Devices, cameras: Cameras, observer: RebootObserver) -> Commands:
    """Build the channel, which receives the answers of cameras; `observer` gets the progress of reboots."""
    channel = CommandChannel(mqtt=res.mqtt, registry=devices.registry, cache=cameras.cache)
    for topic in RESPONSE_TOPICS:
        res.mqtt.route(topic, channel.on_response)
    service = CommandService(clock=res.clock, channel=channel, addresses=cameras.addresses)
    reboots = RebootService(
        clock=res.clock,
        database=res.database,
        registry=devices.registry,
        commands=service,
        addresses=cameras.addresses,
        camera_http=res.camera_http,
        observer=observer,
    )

    def metrics() -> Iterator[Metric]:
        kinds = dict(sorted(channel.messages.items()))
        yield counters("piorch_response_messages", "Answer messages of cameras by result.", "kind", kinds)

    return Commands(channel=channel, service=service, reboots=reboots, provides=(service, reboots), metrics=metrics)
