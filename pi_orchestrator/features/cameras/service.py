"""Commands of operators for registered cameras: each is one transaction.

The database writer runs them in order; cache and exclusions are updated after each commit. A command that changes
nothing returns the current state and publishes no event.
"""

from __future__ import annotations

from dataclasses import replace

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import ConflictError, NotFoundError
from pi_orchestrator.core.events import CameraEvent, CameraRemoved, CameraRenamed, ExclusionLifted
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras import exclusion_store, store
from pi_orchestrator.features.cameras.exclusions import Exclusion, Reason
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.cameras.registration import CameraRegistrar, camera_fields
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.storage import audit_log, event_store
from pi_orchestrator.storage.database import Database, Tx


class CameraService:
    """Renames and unpairs cameras, and lifts exclusions."""

    def __init__(self, *, database: Database, registry: DeviceRegistry, registrar: CameraRegistrar) -> None:
        self._database = database
        self._registry = registry
        self._registrar = registrar

    async def rename(self, mac: Mac, name: str | None, actor: Actor) -> Camera:
        """Set the name of a camera, or remove it (None), so its device id is shown; ConflictError if not registered."""

        async def job(tx: Tx) -> Camera:
            camera = await store.find(tx, mac)
            if camera is None:
                raise ConflictError(
                    f"{mac} is not registered", details="pair it first: only registered cameras have a name"
                )
            is_changed = name != camera.name
            await audit_log.record(tx, actor, target=mac, outcome=audit_log.change_outcome(is_changed))
            if not is_changed:
                return camera
            await store.rename(tx, mac, name)
            return await self.publish(tx, CameraRenamed, replace(camera, name=name), actor)

        return await self._database.write(job)

    async def unpair(self, mac: Mac, actor: Actor) -> Exclusion:
        """Unregister a camera; auto-onboarding does not register it again."""

        async def job(tx: Tx) -> Exclusion:
            camera = await store.find(tx, mac)
            if camera is None:
                exclusion = await exclusion_store.find(tx, mac)
                if exclusion is None:
                    raise camera_not_found(mac)
                await audit_log.record(tx, actor, target=mac, outcome=audit_log.UNCHANGED)
                return exclusion
            exclusion = await self.exclude(tx, camera, actor)
            await event_store.append(tx, camera_event(CameraRemoved, camera, actor))
            await audit_log.record(tx, actor, target=mac)
            return exclusion

        return await self._database.write(job)

    async def lift(self, mac: Mac, actor: Actor) -> None:
        """Delete an exclusion: the camera may be onboarded again."""

        async def job(tx: Tx) -> None:
            is_lifted = await exclusion_store.lift(tx, mac)
            await audit_log.record(tx, actor, target=mac, outcome=audit_log.removal_outcome(is_lifted))
            if is_lifted:
                tx.after_commit(lambda: self._registrar.exclusions.drop(mac))
                await event_store.append(tx, ExclusionLifted(mac=mac, by=actor.key_name))

        await self._database.write(job)

    async def exclude(self, tx: Tx, camera: Camera, actor: Actor, *, replaced_by: Mac | None = None) -> Exclusion:
        """Unregister and exclude a camera within a transaction."""
        exclusion = Exclusion(
            mac=camera.mac,
            reason=Reason.REPLACED if replaced_by else Reason.UNPAIRED,
            device_id=camera.device_id,
            by=actor.key_name,
            at=tx.stamp.at,
            name=camera.name,
            replaced_by=replaced_by,
        )
        await store.remove(tx, camera.mac)
        await exclusion_store.insert(tx, exclusion)
        tx.after_commit(lambda: self._apply_exclusion(exclusion))
        return exclusion

    def _apply_exclusion(self, exclusion: Exclusion) -> None:
        self._registrar.cache.drop(exclusion.mac)
        self._registrar.exclusions.put(exclusion)
        self._registry.release(exclusion.mac)

    async def publish(
        self, tx: Tx, event_type: type[CameraEvent], camera: Camera, actor: Actor, *, replaces: Mac | None = None
    ) -> Camera:
        """Append the event of a change within its transaction, and update the cache after the commit."""
        tx.after_commit(lambda: self._registrar.cache.put(camera))
        await event_store.append(tx, camera_event(event_type, camera, actor, replaces=replaces))
        return camera


def camera_event(
    event_type: type[CameraEvent], camera: Camera, actor: Actor, *, replaces: Mac | None = None
) -> CameraEvent:
    """The event for a change by an operator."""
    return event_type(**camera_fields(camera), name=camera.name or None, by=actor.key_name, replaces=replaces)


def camera_not_found(name: str, exclusion: Exclusion | None = None) -> NotFoundError:
    """The error for a camera that is not registered; `exclusion` explains why."""
    return NotFoundError(
        f"camera {name[:64]!r} is not registered",
        code=ErrorCode.CAMERA_NOT_FOUND,
        details=exclusion.why if exclusion else "see the list of cameras for the registered ones",
    )
