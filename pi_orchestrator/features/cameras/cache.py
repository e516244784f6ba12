"""Registered cameras in memory, as of the last commit."""

from __future__ import annotations

from collections.abc import Iterator

from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.cameras.store import SELECT_CAMERA, camera_of
from pi_orchestrator.storage.database import Database


class CameraCache:
    """Registered cameras by MAC and by device id: a few hundred at most, read for every message."""

    def __init__(self) -> None:
        self._by_mac: dict[Mac, Camera] = {}
        self._by_device_id: dict[str, Mac] = {}
        self.revision = 0
        """Incremented by every change, so that a view knows whether its copy is current."""

    async def load(self, database: Database) -> None:
        """Fill from the database."""
        for row in await database.read(f"{SELECT_CAMERA} ORDER BY c.registered_at, c.mac"):
            self.put(camera_of(row))

    def put(self, camera: Camera) -> None:
        """Add or replace a camera."""
        newest = next(reversed(self._by_mac.values()), None)
        self._by_mac[camera.mac] = camera
        self._by_device_id[camera.device_id] = camera.mac
        if newest and camera.registered_at < newest.registered_at:
            # The camera has replaced another one and inherited its registration time.
            oldest_first = sorted(self._by_mac.values(), key=lambda entry: entry.registered_at)
            self._by_mac = {entry.mac: entry for entry in oldest_first}
        self.revision += 1

    def drop(self, mac: Mac) -> None:
        """Remove a camera, if present."""
        camera = self._by_mac.pop(mac, None)
        if camera is None:
            return
        if self._by_device_id.get(camera.device_id) == mac:
            del self._by_device_id[camera.device_id]
        self.revision += 1

    def get(self, mac: Mac) -> Camera | None:
        """The camera of a MAC."""
        return self._by_mac.get(mac)

    def mac_of(self, name: str) -> Mac | None:
        """The MAC of the registered camera with this device id or MAC (in any format); None if there is none."""
        # The MAC first: it is proved, but a device id is a claim, and may be the MAC of another camera.
        mac = try_mac(name)
        return mac if mac in self._by_mac else self._by_device_id.get(name)

    def __contains__(self, mac: object) -> bool:
        return mac in self._by_mac

    def __iter__(self) -> Iterator[Camera]:
        return iter(tuple(self._by_mac.values()))

    def __len__(self) -> int:
        return len(self._by_mac)
