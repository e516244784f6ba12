"""Cameras that may repeat a WiFi password in messages: provisioning was requested, and they are not verified yet."""

from __future__ import annotations

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.events import DeviceStateChanged
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.provisioning import store
from pi_orchestrator.features.provisioning.session_device import SessionDeviceState
from pi_orchestrator.storage.database import Database

PAUSE_S = 1.0
"""Pause before subscribing again after falling behind in the events."""

log = get_logger(__name__)


class SecretExposure:
    """Tracks cameras from before their credentials are sent until they are verified."""

    def __init__(self, *, bus: EventBus, database: Database, clock: Clock) -> None:
        self._bus = bus
        self._database = database
        self._clock = clock
        self._macs: set[Mac] = set()

    def covers(self, mac: Mac) -> bool:
        """Whether a text from this camera may hold a password."""
        return mac in self._macs

    async def load(self) -> None:
        """Read the set from the database; on failure it stays as it is."""
        try:
            self._macs = await store.exposed(self._database.read)
        except StorageError as error:
            log.warning("exposed cameras not loaded", reason=error.message)

    async def follow(self) -> None:
        """Apply the events of sessions until cancelled."""
        await self._bus.follow(
            DeviceStateChanged, handle=self._apply, prepare=self.load, pause=lambda: self._clock.sleep(PAUSE_S)
        )

    def _apply(self, event: DeviceStateChanged) -> None:
        if event.new_state == SessionDeviceState.PROVISIONING:
            self._macs.add(event.mac)
        elif event.new_state == SessionDeviceState.VERIFIED:
            self._macs.discard(event.mac)
