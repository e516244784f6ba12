"""Operator commands on containers, each one transaction.

The database writer serialises the commands; the camera cache is updated after each commit. A repeated command returns
the current state and appends no event.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import ConflictError, NotFoundError
from pi_orchestrator.core.events import CameraUnassigned, ContainerCreated, ContainerDeleted, ContainerUpdated
from pi_orchestrator.features.cameras import store as camera_store
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.cameras.service import camera_event, camera_not_found
from pi_orchestrator.features.containers import store
from pi_orchestrator.features.containers.model import MAX_CONTAINERS, Container
from pi_orchestrator.storage import audit_log, event_store
from pi_orchestrator.storage.database import Database, Tx

REPEAT_S = 30.0
"""A second request with the same texts within this time returns the container that the first one created."""


class ContainerService:
    """Commands for containers and their cameras; `target` returns the id of the auto-onboarding container."""

    def __init__(self, *, database: Database, cache: CameraCache, target: Callable[[], str]) -> None:
        self._database = database
        self._cache = cache
        self._target = target

    async def create(self, actor: Actor, *, label: str | None, description: str | None) -> Container:
        """Create a container; ConflictError if there are `MAX_CONTAINERS` already."""

        async def job(tx: Tx) -> Container:
            repeated = await store.find_repeated_create(tx, label=label, description=description, within_s=REPEAT_S)
            if repeated:
                await audit_log.record(tx, actor, target=repeated.id, outcome=audit_log.UNCHANGED)
                return repeated
            if await store.count(tx) >= MAX_CONTAINERS:
                raise ConflictError(
                    f"the limit of {MAX_CONTAINERS:,} containers is reached", details="delete empty containers"
                )
            container = await store.insert(tx, str(uuid.uuid4()), label=label, description=description)
            await store.append_event(tx, ContainerCreated, container)
            await audit_log.record(tx, actor, target=container.id)
            return container

        return await self._database.write(job)

    async def change(self, container_id: str, fields: Mapping[str, str | None], actor: Actor) -> Container:
        """Change label and description; missing fields do not change."""

        async def job(tx: Tx) -> Container:
            before = require_container(await store.find(tx, container_id), container_id)
            after = replace(before, **fields)  # type: ignore[arg-type]  # only label and description
            is_changed = after != before
            await audit_log.record(tx, actor, target=container_id, outcome=audit_log.change_outcome(is_changed))
            if not is_changed:
                return before
            after = replace(after, updated_at=tx.stamp.at)
            await store.save(tx, after)
            await store.append_event(tx, ContainerUpdated, after)
            return after

        return await self._database.write(job)

    async def delete(self, container_id: str, actor: Actor) -> None:
        """Delete an empty container; ConflictError if it has cameras or is the auto-onboarding target."""

        async def job(tx: Tx) -> None:
            container = await store.find(tx, container_id)
            await audit_log.record(
                tx, actor, target=container_id, outcome=audit_log.removal_outcome(container is not None)
            )
            if container is None:
                return
            if occupied := await camera_store.occupants(tx, container_id):
                raise ConflictError(
                    f"{container.title} has cameras on {len(occupied)} of 4 positions",
                    code=ErrorCode.CONTAINER_HAS_CAMERAS,
                    details=f"remove these cameras from it first: {', '.join(occupied.values())}",
                )
            if container_id == self._target():
                raise ConflictError(
                    f"{container.title} is the target of auto-onboarding",
                    details="set auto_onboard.target_container to another container and restart, then delete this one",
                )
            await store.remove(tx, container_id)
            await store.append_event(tx, ContainerDeleted, container)

        await self._database.write(job)

    async def unassign(self, container_id: str, name: str, actor: Actor) -> Camera:
        """Remove a camera from a container; it stays registered."""
        mac = self._cache.mac_of(name)

        async def job(tx: Tx) -> Camera:
            require_container(await store.find(tx, container_id), container_id)
            camera = await camera_store.find(tx, mac) if mac else None
            if camera is None:
                raise camera_not_found(name)
            is_in_container = camera.container_id == container_id
            await audit_log.record(tx, actor, target=camera.mac, outcome=audit_log.removal_outcome(is_in_container))
            if not is_in_container:
                return camera
            await camera_store.unassign(tx, camera.mac)
            unassigned = replace(camera, container_id=None, position=None, paired_at=None)
            tx.after_commit(lambda: self._cache.put(unassigned))
            # The event has the container and position that the camera leaves.
            await event_store.append(tx, camera_event(CameraUnassigned, camera, actor))
            return unassigned

        return await self._database.write(job)


def require_container(container: Container | None, container_id: str) -> Container:
    """Return the container; NotFoundError if it is None."""
    if container is None:
        raise NotFoundError(
            f"container {container_id[:64]!r} does not exist",
            code=ErrorCode.CONTAINER_NOT_FOUND,
            details="list the containers to find its id",
        )
    return container
