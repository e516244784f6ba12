"""Manual pairing and replacement of cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import ConflictError
from pi_orchestrator.core.events import CameraPaired, CameraReplaced
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras import exclusion_store
from pi_orchestrator.features.cameras import store as camera_store
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.cameras.registration import CameraRegistrar, NewCamera
from pi_orchestrator.features.cameras.service import CameraService, camera_not_found
from pi_orchestrator.features.containers import store
from pi_orchestrator.features.containers.model import MAX_CAMERAS, POSITIONS, Container, is_of_target, lowest_free
from pi_orchestrator.features.containers.service import require_container
from pi_orchestrator.features.devices.best_address import best_address
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.storage import audit_log
from pi_orchestrator.storage.database import Database, Tx


class PairingService:
    """Pair and replace, each in one transaction; `target` returns the id of the auto-onboarding container."""

    def __init__(
        self,
        *,
        database: Database,
        registry: DeviceRegistry,
        registrar: CameraRegistrar,
        cameras: CameraService,
        target: Callable[[], str],
    ) -> None:
        self._database = database
        self._registry = registry
        self._registrar = registrar
        self._cameras = cameras
        self._target = target

    async def pair(self, mac: Mac, container_id: str, position: int | None, actor: Actor) -> Camera:
        """Assign a camera to a position (None: the first free one); registers it if necessary."""

        async def job(tx: Tx) -> Camera:
            container = require_container(await store.find(tx, container_id), container_id)
            camera = await camera_store.find(tx, mac)
            if camera and camera.container_id == container_id and position in (None, camera.position):
                await audit_log.record(tx, actor, target=mac, outcome=audit_log.UNCHANGED)
                return camera
            if camera and camera.container_id:
                raise _already_assigned(camera, "remove it from that container first")
            place = (container_id, await self._choose_position(tx, container, position))
            await audit_log.record(tx, actor, target=mac)
            if camera is None:
                if len(self._registrar.cache) >= MAX_CAMERAS:
                    raise ConflictError(
                        f"the limit of {MAX_CAMERAS:,} cameras is reached",
                        details="unpair cameras that are no longer used",
                    )
                return await self._registrar.register(
                    tx, self._new_camera(mac), automatic=False, place=place, by=actor.key_name
                )
            await camera_store.assign(tx, mac, *place)
            placed = replace(camera, container_id=place[0], position=place[1], paired_at=tx.stamp.at)
            return await self._cameras.publish(tx, CameraPaired, placed, actor)

        return await self._database.write(job)

    async def replace(self, old: Mac, new: Mac, actor: Actor) -> Camera:
        """Replace a camera with new hardware, which takes over its name, position, registration and history."""
        if old == new:
            raise ConflictError(f"{old} cannot replace itself", details="set new_mac to the MAC of the new camera")
        target, by = f"{old} by {new}", actor.key_name

        async def job(tx: Tx) -> Camera:
            before, successor = await camera_store.find(tx, old), await camera_store.find(tx, new)
            if before is None:
                exclusion = await exclusion_store.find(tx, old)
                if successor is None or exclusion is None or exclusion.replaced_by != new:
                    raise camera_not_found(old, exclusion)
                await audit_log.record(tx, actor, target=target, outcome=audit_log.UNCHANGED)
                return successor
            if successor:
                self._check_may_move(successor)
                await camera_store.unassign(tx, new)
            await self._cameras.exclude(tx, before, actor, replaced_by=new)
            await exclusion_store.record_replacement(tx, old=old, new=new, by=by)
            await audit_log.record(tx, actor, target=target)
            if successor is None:
                successor = await self._registrar.register(
                    tx, self._new_camera(new), automatic=False, replaces=old, by=by
                )
            return await self._inherit(tx, before, successor, actor)

        return await self._database.write(job)

    async def _inherit(self, tx: Tx, before: Camera, successor: Camera, actor: Actor) -> Camera:
        camera = replace(
            successor,
            name=before.name or successor.name,
            registered_at=before.registered_at,
            container_id=before.container_id,
            position=before.position,
            paired_at=before.paired_at,
        )
        await camera_store.inherit(tx, camera.mac, name=camera.name, registered_at=camera.registered_at)
        if camera.container_id and camera.position:
            await camera_store.assign(tx, camera.mac, camera.container_id, camera.position, since=camera.paired_at)
        return await self._cameras.publish(tx, CameraReplaced, camera, actor, replaces=before.mac)

    def _check_may_move(self, camera: Camera) -> None:
        """ConflictError if an operator has assigned the new camera; if auto-onboarding has assigned it, it may move."""
        if camera.container_id and not is_of_target(camera.container_id, self._target()):
            raise _already_assigned(camera, "if it is the new camera, remove it from that container first")

    async def _choose_position(self, tx: Tx, container: Container, position: int | None) -> int:
        """The position, or for None the first free one; ConflictError if it is occupied or the container is full."""
        occupied = await camera_store.occupants(tx, container.id)
        if position is None:
            position = lowest_free(occupied)
        if position is None:
            raise ConflictError(
                f"all four positions of {container.title} are occupied",
                code=ErrorCode.POSITION_OCCUPIED,
                details="remove a camera from it, or choose another container",
            )
        if position in occupied:
            free = [str(other) for other in POSITIONS if other not in occupied]
            raise ConflictError(
                f"position {position} of {container.title} is occupied by {occupied[position]}",
                code=ErrorCode.POSITION_OCCUPIED,
                details=f"free positions: {', '.join(free) or 'none'}",
            )
        return position

    def _new_camera(self, mac: Mac) -> NewCamera:
        """A new camera with what the registry has of it; if nothing was received, only the MAC is set."""
        device = self._registry.get(mac)
        claims = device.claims if device else None
        return NewCamera(
            mac=mac,
            device_id=device.device_id if device else None,
            ip=best_address(self._registry, mac),
            firmware_version=claims.firmware_version if claims else None,
            is_present=False,
        )


def _already_assigned(camera: Camera, remedy: str) -> ConflictError:
    return ConflictError(
        f"{camera.device_id} is already assigned to {camera.container_id}, position {camera.position}",
        code=ErrorCode.CAMERA_ALREADY_ASSIGNED,
        details=remedy,
    )
