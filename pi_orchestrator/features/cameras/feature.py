"""Cameras: registration, presence, addresses and views."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.metrics import Metric, counters, gauges
from pi_orchestrator.core.supervisor import Worker
from pi_orchestrator.features.cameras import routes
from pi_orchestrator.features.cameras.address_resolver import AddressResolver
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.exclusion_store import ExcludedCameras
from pi_orchestrator.features.cameras.model import camera_status
from pi_orchestrator.features.cameras.presence import PresenceWorker
from pi_orchestrator.features.cameras.registration import CameraRegistrar
from pi_orchestrator.features.cameras.service import CameraService
from pi_orchestrator.features.cameras.topic_check import TopicCheck
from pi_orchestrator.features.cameras.views import CameraViews
from pi_orchestrator.features.devices.feature import Devices
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.status_message import STATUS_TOPICS
from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.net.mqtt.link import MqttConnection
from pi_orchestrator.settings import Settings

ROUTES = routes.ROUTES
TAGS = {"cameras": "Cameras, live and registered"}


@dataclass(frozen=True, kw_only=True)
class Cameras(Feature):
    """The objects that other features use."""

    cache: CameraCache
    excluded: ExcludedCameras
    registrar: CameraRegistrar
    presence: PresenceWorker
    addresses: AddressResolver
    views: CameraViews
    service: CameraService


def build(res: Resources, *, devices: Devices, cache: CameraCache, may_repeat_secret: Callable[[Mac], bool]) -> Cameras:
    """Build the feature; the error text of a camera for which `may_repeat_secret` is true is withheld."""
    settings = res.settings
    excluded = ExcludedCameras()
    registrar = CameraRegistrar(cache=cache, exclusions=excluded, fingerprint_of=devices.registry.fingerprint_of)
    addresses = AddressResolver(
        ap_subnet=settings.ap.subnet,
        target_subnets=settings.provisioning.target_subnets,
        allow_loopback=settings.loopback_cameras,
        timeout_s=settings.auto_onboard.verification_timeout_sec,
        registry=devices.registry,
        cache=cache,
        neighbours=devices.neighbours,
        verifier=devices.verifier,
    )
    presence = PresenceWorker(
        ap_subnet=settings.ap.subnet,
        clock=res.clock,
        bus=res.bus,
        database=res.database,
        cache=cache,
        registry=devices.registry,
        unreadable=devices.unreadable,
        neighbours=devices.neighbours,
        may_repeat_secret=may_repeat_secret,
        topic_check=TopicCheck(clock=res.clock, registry=devices.registry, addresses=addresses, cache=cache),
    )
    for topic in STATUS_TOPICS:
        res.mqtt.route(topic, presence.on_message)
    views = CameraViews(cache=cache, registry=devices.registry, unreadable=devices.unreadable, clock=res.clock)
    service = CameraService(database=res.database, registry=devices.registry, registrar=registrar)

    async def load() -> None:
        await asyncio.gather(cache.load(res.database), excluded.load(res.database))
        await presence.load()

    async def snapshot(_session_id: str | None) -> list[StoredEvent]:
        return [views.list_event()]

    def reload(settings: Settings) -> None:
        addresses.timeout_s = settings.auto_onboard.verification_timeout_sec

    return Cameras(
        cache=cache,
        excluded=excluded,
        registrar=registrar,
        presence=presence,
        addresses=addresses,
        views=views,
        service=service,
        provides=(cache, excluded, views, service),
        workers=(Worker("presence", presence.run),),
        load=load,
        metrics=lambda: _metrics(cache, devices.registry, presence, res.mqtt),
        reload=reload,
        snapshot=snapshot,
    )


def _metrics(
    cache: CameraCache, registry: DeviceRegistry, presence: PresenceWorker, mqtt: MqttConnection
) -> Iterator[Metric]:
    states = Counter(
        camera_status(device=registry.get(camera.mac), registered=True, onboarding=False) for camera in cache
    )
    yield gauges("piorch_cameras", "Registered cameras by state.", "status", dict(sorted(states.items())))
    kinds = {**presence.messages, "discarded": mqtt.discarded, "evicted": registry.evicted}
    yield counters(
        "piorch_status_messages", "Status messages by how they were handled.", "kind", dict(sorted(kinds.items()))
    )
