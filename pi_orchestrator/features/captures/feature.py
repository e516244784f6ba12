"""Captures: one at a time for each camera, shared by callers and cached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pi_orchestrator.core.metrics import Metric, counters, gauge
from pi_orchestrator.features.cameras.feature import Cameras
from pi_orchestrator.features.captures import routes
from pi_orchestrator.features.captures.recorder import CaptureRecorder
from pi_orchestrator.features.captures.service import CaptureObserver, CaptureService
from pi_orchestrator.features.commands.channel import CommandChannel
from pi_orchestrator.features.commands.feature import Commands
from pi_orchestrator.features.devices.feature import Devices
from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.settings import Settings

ROUTES = routes.ROUTES
TAGS = {"captures": "Pictures, reboots and other commands"}


@dataclass(frozen=True, kw_only=True)
class Captures(Feature):
    """The parts that other features use."""

    service: CaptureService
    recorder: CaptureRecorder


def build(
    res: Resources, *, devices: Devices, cameras: Cameras, commands: Commands, observer: CaptureObserver
) -> Captures:
    """Build the service; `observer` gets the result of each capture."""
    settings = res.settings.cameras
    recorder = CaptureRecorder(clock=res.clock, database=res.database)
    service = CaptureService(
        cache_s=settings.capture_cache_s,
        clock=res.clock,
        registry=devices.registry,
        mqtt=res.mqtt,
        channel=commands.channel,
        addresses=cameras.addresses,
        camera_http=res.camera_http,
        recorder=recorder,
        reboots=commands.reboots,
        observer=observer,
    )

    def reload(settings: Settings) -> None:
        service.cache_s = settings.cameras.capture_cache_s

    return Captures(
        service=service,
        recorder=recorder,
        provides=(service,),
        metrics=lambda: _metrics(service, commands.channel),
        reloadable=frozenset({"cameras.capture_cache_s"}),
        reload=reload,
    )


def _metrics(service: CaptureService, channel: CommandChannel) -> Iterator[Metric]:
    outcomes = {outcome.lower(): number for outcome, number in sorted(service.outcomes.items())}
    yield counters("piorch_captures", "Captures by source or error.", "outcome", outcomes)
    yield gauge("piorch_captures_in_assembly", "Captures in progress.", service.assembling)
    yield gauge("piorch_capture_held_bytes", "Bytes of incomplete pictures.", channel.budget.used)
