"""What the handlers work with: handed over whole by the composition root."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pi_orchestrator.api.assets import Assets
from pi_orchestrator.api.sse import Streams
from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.health import Health
from pi_orchestrator.log_ring import LogRing
from pi_orchestrator.net.host import HostReader
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.net.vendors import Vendors
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.dismissed import Dismissed
from pi_orchestrator.workers.captures import Captures
from pi_orchestrator.workers.commands import Commands
from pi_orchestrator.workers.configuration import Configuration
from pi_orchestrator.workers.discovery import DiscoveryWorker
from pi_orchestrator.workers.inventory import Inventory
from pi_orchestrator.workers.joining import Joining
from pi_orchestrator.workers.onboarding import OnboardingWorker
from pi_orchestrator.workers.presence import PresenceWorker
from pi_orchestrator.workers.reboots import Reboots
from pi_orchestrator.workers.remedies import Remedies
from pi_orchestrator.workers.scanner import Scanner
from pi_orchestrator.workers.sessions import Sessions
from pi_orchestrator.workers.sources import SourcesWorker

if TYPE_CHECKING:
    from pi_orchestrator.api.auth import Keyring
    from pi_orchestrator.api.cameras import CameraViews
    from pi_orchestrator.api.metrics import MetricsPage
    from pi_orchestrator.api.network import Surroundings


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that answers are made from."""

    clock: Clock
    health: Health
    database: Database
    roster: Roster
    registry: Registry
    presence: PresenceWorker
    onboarding: OnboardingWorker
    scanner: Scanner
    discovery: DiscoveryWorker
    sources: SourcesWorker
    vendors: Vendors
    mqtt: MqttLink
    keyring: Keyring
    views: CameraViews
    streams: Streams
    provisioning: Sessions
    joining: Joining
    surroundings: Surroundings
    metrics: MetricsPage
    host: HostReader
    assets: Assets
    configuration: Configuration
    log_ring: LogRing
    captures: Captures
    commands: Commands
    reboots: Reboots
    remedies: Remedies
    inventory: Inventory
    dismissed: Dismissed
    one_bundle: asyncio.Lock = field(default_factory=asyncio.Lock)
