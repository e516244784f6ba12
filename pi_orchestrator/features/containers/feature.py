"""Containers, and manual pairing and replacement of cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pi_orchestrator.features.cameras.feature import Cameras
from pi_orchestrator.features.containers import routes
from pi_orchestrator.features.containers.pairing import PairingService
from pi_orchestrator.features.containers.service import ContainerService
from pi_orchestrator.features.devices.feature import Devices
from pi_orchestrator.features.feature import Feature, Resources

ROUTES = routes.ROUTES
TAGS = {
    "containers": "Containers of four cameras, and the camera on each position",
    "pairing": "Manual registration, removal and replacement of cameras",
}


@dataclass(frozen=True, kw_only=True)
class Containers(Feature):
    """The parts that other features use."""

    service: ContainerService
    pairing: PairingService


def build(res: Resources, *, devices: Devices, cameras: Cameras, target: Callable[[], str]) -> Containers:
    """Build the services; `target` returns the id of the container that auto-onboarding pairs to."""
    service = ContainerService(database=res.database, cache=cameras.cache, target=target)
    pairing = PairingService(
        database=res.database,
        registry=devices.registry,
        registrar=cameras.registrar,
        cameras=cameras.service,
        target=target,
    )
    return Containers(service=service, pairing=pairing, provides=(service, pairing))
