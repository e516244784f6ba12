"""Composition root: builds every feature once and passes its dependencies by keyword; starts nothing.

To add a feature: import it, add it to FEATURES, and call its `build`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pi_orchestrator.app import base
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.metrics import Metric
from pi_orchestrator.edge_http.api import edge_api
from pi_orchestrator.edge_http.api_document import ApiDocument
from pi_orchestrator.edge_http.keyring import Identity
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.allowlist import feature as allowlist
from pi_orchestrator.features.api_keys import feature as api_keys
from pi_orchestrator.features.cameras import feature as cameras
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.ports import CameraPorts
from pi_orchestrator.features.captures import feature as captures
from pi_orchestrator.features.commands import feature as commands
from pi_orchestrator.features.configuration import feature as configuration
from pi_orchestrator.features.containers import feature as containers
from pi_orchestrator.features.devices import feature as devices
from pi_orchestrator.features.discovery import feature as discovery
from pi_orchestrator.features.events import feature as events
from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.features.legacy import feature as legacy
from pi_orchestrator.features.network import feature as network
from pi_orchestrator.features.onboarding import feature as onboarding
from pi_orchestrator.features.provisioning import feature as provisioning
from pi_orchestrator.features.recovery import feature as recovery
from pi_orchestrator.features.system import feature as system
from pi_orchestrator.http.endpoint import Api
from pi_orchestrator.http.metrics import MetricsPage

FEATURES = (
    devices,
    cameras,
    containers,
    discovery,
    allowlist,
    commands,
    captures,
    recovery,
    onboarding,
    provisioning,
    network,
    configuration,
    api_keys,
    events,
    system,
    legacy,
)
"""Every feature, lowest first. Each imports only from those before it; the architecture test checks that."""
ROUTES: tuple[Route, ...] = tuple(route for feature in FEATURES for route in feature.ROUTES)
TAGS = {name: text for feature in FEATURES for name, text in feature.TAGS.items()}


@dataclass(frozen=True, kw_only=True)
class Application:
    """The built features by name, and the API on top of them."""

    resources: Resources
    base: base.Base
    devices: devices.Devices
    cameras: cameras.Cameras
    containers: containers.Containers
    discovery: discovery.Discovery
    commands: commands.Commands
    captures: captures.Captures
    recovery: recovery.Recovery
    onboarding: onboarding.Onboarding
    provisioning: provisioning.Provisioning
    configuration: configuration.ConfigurationFeature
    api_keys: api_keys.ApiKeys
    events: events.Events
    features: tuple[Feature, ...]
    api: Api[Route, Identity]

    @property
    def reloadable(self) -> frozenset[str]:
        """Settings keys that features apply without a restart; `Daemon.reloadable` adds those of the daemon itself."""
        return frozenset().union(*(feature.reloadable for feature in self.features))


def build(res: Resources) -> Application:
    """Build every feature after those that it uses, then connect later ones to the ports of earlier ones."""
    exposure, tracker = provisioning.build_exposure(res), recovery.build_tracker(res)
    cache, document, sources = CameraCache(), ApiDocument(ROUTES, TAGS), MetricSources()
    base_ = base.build(res)
    devices_ = devices.build(res, registered=cache)
    cameras_ = cameras.build(res, devices=devices_, cache=cache, may_repeat_secret=exposure.covers)
    discovery_ = discovery.build(res, devices=devices_, cameras=cameras_)
    allowlist_ = allowlist.build(res)
    commands_ = commands.build(res, devices=devices_, cameras=cameras_, observer=tracker)
    captures_ = captures.build(res, devices=devices_, cameras=cameras_, commands=commands_, observer=tracker)
    recovery_ = recovery.build(
        res, tracker=tracker, devices=devices_, cameras=cameras_, commands=commands_, captures=captures_
    )
    onboarding_ = onboarding.build(res, devices=devices_, cameras=cameras_)
    containers_ = containers.build(
        res, devices=devices_, cameras=cameras_, target=lambda: onboarding_.worker.settings.target_container
    )
    provisioning_ = provisioning.build(res, exposure=exposure, devices=devices_, cameras=cameras_, discovery=discovery_)
    network_ = network.build(res)
    configuration_ = configuration.build(res)
    api_keys_ = api_keys.build(res)
    events_ = events.build(res)
    system_ = system.build(
        res,
        devices=devices_,
        cameras=cameras_,
        discovery=discovery_,
        configuration=configuration_,
        page=MetricsPage([sources.collect], namespace="piorch"),
        document=document,
    )
    legacy_ = legacy.build(res)

    # The order in which features are loaded and reloaded, and in which their workers start.
    features = (
        base_,
        devices_,
        cameras_,
        onboarding_,
        containers_,
        provisioning_,
        recovery_,
        discovery_,
        allowlist_,
        commands_,
        captures_,
        network_,
        configuration_,
        api_keys_,
        events_,
        system_,
        legacy_,
    )
    sources.features = features
    commands_.reboots.is_provisioning = provisioning_.worker.is_provisioning
    cameras_.views.ports = CameraPorts(
        onboarding=onboarding_.worker, reboots=commands_.reboots, pictures=captures_.service, recovery=tracker
    )
    # Reverse order: clients treat the camera list as the end of a snapshot, and an early feature provides it.
    events_.snapshots.sources = tuple(feature.snapshot for feature in reversed(features) if feature.snapshot)
    api = edge_api(
        authenticator=api_keys_.authenticator,
        keyring=api_keys_.keyring,
        streams=events_.streams,
        database=res.database,
        clock=res.clock,
        provided=provided_by(features),
    )
    return Application(
        resources=res,
        base=base_,
        devices=devices_,
        cameras=cameras_,
        containers=containers_,
        discovery=discovery_,
        commands=commands_,
        captures=captures_,
        recovery=recovery_,
        onboarding=onboarding_,
        provisioning=provisioning_,
        configuration=configuration_,
        api_keys=api_keys_,
        events=events_,
        features=features,
        api=api,
    )


def provided_by(features: Iterable[Feature]) -> dict[type, object]:
    """The objects that handlers request by type; TypeError if two features provide the same type."""
    provided: dict[type, object] = {}
    for value in (value for feature in features for value in feature.provides):
        # Tests pass a subclass of Clock; handlers request `Clock`.
        kind = Clock if isinstance(value, Clock) else type(value)
        if kind in provided:
            raise TypeError(f"{kind.__qualname__} is provided twice")
        provided[kind] = value
    return provided


@dataclass(slots=True)
class MetricSources:
    """Collects the metrics of `features`, which are set after construction: some are built after the metrics page."""

    features: tuple[Feature, ...] = ()

    def collect(self) -> Iterator[Metric]:
        """Every metric of every feature."""
        for feature in self.features:
            if feature.metrics:
                yield from feature.metrics()
