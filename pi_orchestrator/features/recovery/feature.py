"""Recovery of cameras without pictures: retry, reboot, and finally notify the operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pi_orchestrator.core.metrics import Metric, gauges
from pi_orchestrator.core.supervisor import Worker
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.cameras.feature import Cameras
from pi_orchestrator.features.cameras.model import RecoveryState
from pi_orchestrator.features.captures.feature import Captures
from pi_orchestrator.features.commands.feature import Commands
from pi_orchestrator.features.devices.feature import Devices
from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.features.recovery.tracker import RecoveryTracker
from pi_orchestrator.features.recovery.worker import RecoveryWorker
from pi_orchestrator.settings import Settings

ROUTES: tuple[Route, ...] = ()
TAGS: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Recovery(Feature):
    """The parts that other features use."""

    tracker: RecoveryTracker


def build_tracker(res: Resources) -> RecoveryTracker:
    """Build the tracker; captures and reboots need it as their observer."""
    settings = res.settings.cameras
    return RecoveryTracker(auto_reboot=settings.auto_reboot, reboot_after=settings.reboot_after, clock=res.clock)


def build(
    res: Resources,
    *,
    tracker: RecoveryTracker,
    devices: Devices,
    cameras: Cameras,
    commands: Commands,
    captures: Captures,
) -> Recovery:
    """Build the worker."""
    worker = RecoveryWorker(
        clock=res.clock,
        bus=res.bus,
        database=res.database,
        registry=devices.registry,
        cache=cameras.cache,
        captures=captures.service,
        reboots=commands.reboots,
        tracker=tracker,
        recorder=captures.recorder,
    )

    def reload(settings: Settings) -> None:
        tracker.auto_reboot = settings.cameras.auto_reboot
        tracker.reboot_after = settings.cameras.reboot_after

    def metrics() -> Iterator[Metric]:
        counts = Counter(ladder.state for _, ladder in tracker.failing())
        states = {state.value: counts[state] for state in RecoveryState if state is not RecoveryState.OK}
        yield gauges("piorch_cameras_in_trouble", "Cameras without pictures.", "remedy", states)

    return Recovery(
        tracker=tracker,
        workers=(Worker("care", worker.run),),
        metrics=metrics,
        reloadable=frozenset({"cameras.auto_reboot", "cameras.reboot_after"}),
        reload=reload,
    )
