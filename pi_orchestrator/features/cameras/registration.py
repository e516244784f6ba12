"""Registration of cameras, for onboarding, provisioning and operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.core.events import CameraOnboarded, CameraRegistered
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras import exclusion_store
from pi_orchestrator.features.cameras import store as camera_store
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.exclusion_store import ExcludedCameras
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.devices import fingerprint_store
from pi_orchestrator.features.devices.fingerprint import Fingerprint
from pi_orchestrator.features.devices.model import Presence
from pi_orchestrator.storage import event_store
from pi_orchestrator.storage.database import Tx


class ExcludedError(OrchestratorError):
    """An operator has excluded this camera from automatic registration."""

    code = "DENIED"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCamera:
    """A camera to be registered, with its claims; `is_present`: it has just proved that it is online."""

    mac: Mac
    device_id: str | None
    ip: str | None
    firmware_version: str | None
    is_present: bool


class CameraRegistrar:
    """Registers cameras; updates cache and exclusions after each commit."""

    def __init__(
        self, *, cache: CameraCache, exclusions: ExcludedCameras, fingerprint_of: Callable[[Mac], Fingerprint]
    ) -> None:
        self.cache = cache
        self._fingerprint_of = fingerprint_of
        self.exclusions = exclusions

    async def register(
        self,
        tx: Tx,
        new: NewCamera,
        *,
        automatic: bool,
        place: tuple[str, int] | None = None,
        by: str | None = None,
        replaces: Mac | None = None,
        session_id: str | None = None,
    ) -> Camera:
        """Insert a camera, assign its container and position, publish it; its MAC must not be registered yet.

        If the camera is excluded: ExcludedError if `automatic`, else the exclusion is lifted.
        """
        if automatic:
            if exclusion := await exclusion_store.find(tx, new.mac):
                raise ExcludedError(exclusion.why)
        elif await exclusion_store.lift(tx, new.mac):
            tx.after_commit(lambda: self.exclusions.drop(new.mac))
        camera = await camera_store.register(
            tx,
            new.mac,
            device_id=new.device_id,
            ip=new.ip,
            firmware=new.firmware_version,
            by="auto" if automatic else "manual",
        )
        await fingerprint_store.remember(tx, camera.mac, self._fingerprint_of(camera.mac))
        if place:
            await camera_store.assign(tx, camera.mac, *place)
            camera = replace(camera, container_id=place[0], position=place[1], paired_at=tx.stamp.at)
        if new.is_present:
            # The camera has just answered: after a restart of the daemon it must not be offline.
            seen = tx.stamp
            await camera_store.save_presence(tx, [(camera.mac, Presence.ONLINE, seen.at, seen.boot_id, seen.monotonic)])
            camera = replace(camera, last_seen_at=seen.at)
        tx.after_commit(lambda: self.cache.put(camera))
        event_type = CameraOnboarded if automatic else CameraRegistered
        await event_store.append(
            tx, event_type(**camera_fields(camera), by=by, replaces=replaces, session_id=session_id)
        )
        return camera


def camera_fields(camera: Camera) -> dict[str, Any]:
    """Event fields: the camera, and its container and position if it has them."""
    fields: dict[str, Any] = {"mac": camera.mac, "device_id": camera.device_id}
    if camera.container_id is not None:
        fields |= {"container_id": camera.container_id, "position": camera.position}
    return fields
