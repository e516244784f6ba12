"""What operators do to containers and to cameras on record: every command is one transaction.

The writer puts commands in order, so that of two who want the same place one gets it and the other is told who has
it; what is in memory follows each commit. A repeat of what is done already is answered with how it stands, and told
to nobody.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.container import (
    MAX_CAMERAS,
    MAX_CONTAINERS,
    POSITIONS,
    Container,
    free_position,
    is_of_target,
)
from pi_orchestrator.domain.dismissal import Dismissal, Reason
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.errors import ConflictError, NotFoundError
from pi_orchestrator.events import Logged
from pi_orchestrator.storage import actions, cameras, containers, dismissed, event_log
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.workers.registration import Newcomer, Registrar, place_of

REPEAT_S = 30.0
"""A container that is asked for again in the same words within this time is the one that was just made."""
NOTHING_NEW = "was so already"


class Inventory:
    """Containers, and who stands in them; `target` is the container that auto-onboarding pairs to."""

    def __init__(
        self, *, database: Database, registry: Registry, registrar: Registrar, target: Callable[[], str]
    ) -> None:
        self._database = database
        self._registry = registry
        self._registrar = registrar
        self._roster = registrar.roster
        self._target = target

    # Containers.

    async def create(self, actor: Actor, *, label: str | None, description: str | None) -> Container:
        """Make a container."""

        async def job(tx: Tx) -> Container:
            known = await containers.just_made(tx, label=label, description=description, within_s=REPEAT_S)
            if known:
                await actions.record(tx, actor, target=known.id, outcome=NOTHING_NEW)
                return known
            if await containers.count(tx) >= MAX_CONTAINERS:
                raise ConflictError(
                    f"there are {MAX_CONTAINERS:,} containers already", details="delete some that are empty"
                )
            container = await containers.insert(tx, str(uuid.uuid4()), label=label, description=description)
            await containers.tell(tx, "created", container)
            await actions.record(tx, actor, target=container.id)
            return container

        return await self._database.write(job)

    async def change(self, container_id: str, given: Mapping[str, str | None], actor: Actor) -> Container:
        """Write something else on a container; what is not given stays."""

        async def job(tx: Tx) -> Container:
            before = await _container(tx, container_id)
            after = replace(before, **given)  # type: ignore[arg-type]  # label and description alone
            changed = after != before
            await actions.record(tx, actor, target=container_id, outcome="ok" if changed else NOTHING_NEW)
            if not changed:
                return before
            after = replace(after, updated_at=tx.stamp.at)
            await containers.save(tx, after)
            await containers.tell(tx, "updated", after)
            return after

        return await self._database.write(job)

    async def delete(self, container_id: str, actor: Actor) -> None:
        """Delete an empty container; none that auto-onboarding pairs to."""

        async def job(tx: Tx) -> None:
            container = await containers.find(tx, container_id)
            await actions.record(tx, actor, target=container_id, outcome="ok" if container else "was not there")
            if container is None:
                return
            if taken := await containers.occupants(tx, container_id):
                raise ConflictError(
                    f"{len(taken)} of the four positions of {container.title} are taken",
                    code="CONTAINER_HAS_CAMERAS",
                    details=f"take these cameras out first: {', '.join(taken.values())}",
                )
            if container_id == self._target():
                raise ConflictError(
                    f"auto-onboarding puts cameras into {container.title}",
                    details="set auto_onboard.target_container to another container and restart, then delete this one",
                )
            await containers.remove(tx, container_id)
            await containers.tell(tx, "deleted", container)

        await self._database.write(job)

    # Places.

    async def pair(self, mac: Mac, container_id: str, position: int | None, actor: Actor) -> Camera:
        """Put a camera on a position (the first free one where none is given), registered by hand if it is not yet."""

        async def job(tx: Tx) -> Camera:
            container = await _container(tx, container_id)
            camera = await cameras.find(tx, mac)
            if camera and camera.container_id == container_id and position in (None, camera.position):
                await actions.record(tx, actor, target=mac, outcome=NOTHING_NEW)
                return camera
            if camera and camera.container_id:
                raise ConflictError(
                    f"{camera.device_id} stands in {camera.container_id} already, on position {camera.position}",
                    code="CAMERA_ALREADY_ASSIGNED",
                    details="take it out there first",
                )
            place = (container_id, await self._free(tx, container, position))
            await actions.record(tx, actor, target=mac)
            if camera is None:
                if len(self._roster) >= MAX_CAMERAS:
                    raise ConflictError(f"{MAX_CAMERAS:,} cameras are registered", details="unpair some first")
                return await self._registrar.register(
                    tx, self._newcomer(mac), automatic=False, place=place, by=actor.key_name
                )
            await containers.assign(tx, mac, *place)
            placed = replace(camera, container_id=place[0], position=place[1], paired_at=tx.stamp.at)
            return await self._tell(tx, "camera.paired", placed, actor)

        return await self._database.write(job)

    async def unassign(self, container_id: str, name: str, actor: Actor) -> Camera:
        """Take a camera out of a container; it stays registered."""
        mac = self._roster.find(name)

        async def job(tx: Tx) -> Camera:
            await _container(tx, container_id)
            camera = await cameras.find(tx, mac) if mac else None
            if camera is None:
                raise _no_camera(name)
            is_there = camera.container_id == container_id
            await actions.record(tx, actor, target=camera.mac, outcome="ok" if is_there else "was not there")
            if not is_there:
                return camera
            await containers.unassign(tx, camera.mac)
            without = replace(camera, container_id=None, position=None, paired_at=None)
            tx.after_commit(lambda: self._roster.put(without))
            # Told with the place that it leaves.
            await event_log.append(tx, _told("camera.unassigned", camera, actor))
            return without

        return await self._database.write(job)

    async def _free(self, tx: Tx, container: Container, position: int | None) -> int:
        """The position that is asked for, or the first one, if it is free."""
        taken = await containers.occupants(tx, container.id)
        if position is None:
            position = free_position(taken)
        if position is None:
            raise ConflictError(
                f"the four positions of {container.title} are taken",
                code="POSITION_OCCUPIED",
                details="take a camera out, or choose another container",
            )
        if position in taken:
            free = [str(other) for other in POSITIONS if other not in taken]
            raise ConflictError(
                f"position {position} of {container.title} is taken by {taken[position]}",
                code="POSITION_OCCUPIED",
                details=f"free: {', '.join(free) or 'none'}",
            )
        return position

    def _newcomer(self, mac: Mac) -> Newcomer:
        """A camera by what it has said so far; one that has said nothing is known by its MAC alone."""
        device = self._registry.get(mac)
        claims = device.claims if device else None
        address = self._registry.address_of(mac)
        return Newcomer(
            mac=mac,
            device_id=device.device_id if device else None,
            ip=str(address) if address else claims.ip if claims else None,
            firmware_version=claims.firmware_version if claims else None,
            here=False,
        )

    # Cameras on record.

    async def rename(self, mac: Mac, name: str | None, actor: Actor) -> Camera:
        """Call a registered camera something else, or by its device id again."""

        async def job(tx: Tx) -> Camera:
            camera = await cameras.find(tx, mac)
            if camera is None:
                raise ConflictError(f"{mac} is not registered", details="pair it first: only then it keeps a name")
            changed = name != camera.name
            await actions.record(tx, actor, target=mac, outcome="ok" if changed else NOTHING_NEW)
            if not changed:
                return camera
            await cameras.rename(tx, mac, name)
            return await self._tell(tx, "camera.renamed", replace(camera, name=name), actor)

        return await self._database.write(job)

    async def unpair(self, mac: Mac, actor: Actor) -> Dismissal:
        """Take a camera off the record; auto-onboarding does not bring it back."""

        async def job(tx: Tx) -> Dismissal:
            camera = await cameras.find(tx, mac)
            if camera is None:
                known = await dismissed.find(tx, mac)
                if known is None:
                    raise _no_camera(mac)
                await actions.record(tx, actor, target=mac, outcome=NOTHING_NEW)
                return known
            dismissal = await self._take_out(tx, camera, actor)
            await event_log.append(tx, _told("camera.removed", camera, actor))
            await actions.record(tx, actor, target=mac)
            return dismissal

        return await self._database.write(job)

    async def lift(self, mac: Mac, actor: Actor) -> None:
        """Let auto-onboarding take a camera again that was taken out."""

        async def job(tx: Tx) -> None:
            gone = await dismissed.lift(tx, mac)
            await actions.record(tx, actor, target=mac, outcome="ok" if gone else "was not there")
            if gone:
                tx.after_commit(lambda: self._registrar.dismissed.drop(mac))
                payload = {"mac": mac, "by": actor.key_name}
                await event_log.append(tx, Logged("camera.dismissal_lifted", payload, mac=mac))

        await self._database.write(job)

    async def replace(self, old: Mac, new: Mac, actor: Actor) -> Camera:
        """Let new hardware take over an old camera's name, place, registration and history."""
        if old == new:
            raise ConflictError(f"{old} does not replace itself", details="name the camera that takes over as new_mac")

        target, by = f"{old} by {new}", actor.key_name

        async def job(tx: Tx) -> Camera:
            before, heir = await cameras.find(tx, old), await cameras.find(tx, new)
            if before is None:
                known = await dismissed.find(tx, old)
                if heir is None or known is None or known.replaced_by != new:
                    raise _no_camera(old, known)
                await actions.record(tx, actor, target=target, outcome=NOTHING_NEW)
                return heir
            if heir:
                self._check_may_move(heir)
                await containers.unassign(tx, new)
            await self._take_out(tx, before, actor, replaced_by=new)
            await dismissed.record_replacement(tx, old=old, new=new, by=by)
            await actions.record(tx, actor, target=target)
            if heir is None:
                heir = await self._registrar.register(tx, self._newcomer(new), automatic=False, replaces=old, by=by)
            return await self._inherit(tx, before, heir, actor)

        return await self._database.write(job)

    async def _inherit(self, tx: Tx, before: Camera, heir: Camera, actor: Actor) -> Camera:
        camera = replace(
            heir,
            name=before.name or heir.name,
            registered_at=before.registered_at,
            container_id=before.container_id,
            position=before.position,
            paired_at=before.paired_at,
        )
        await cameras.inherit(tx, camera.mac, name=camera.name, registered_at=camera.registered_at)
        if camera.container_id and camera.position:
            await containers.assign(tx, camera.mac, camera.container_id, camera.position, since=camera.paired_at)
        return await self._tell(tx, "camera.replaced", camera, actor, replaces=before.mac)

    def _check_may_move(self, heir: Camera) -> None:
        """Where auto-onboarding has put the new hardware meanwhile it may leave; where a person has, it may not."""
        if heir.container_id and not is_of_target(heir.container_id, self._target()):
            raise ConflictError(
                f"{heir.device_id} stands in {heir.container_id} already, on position {heir.position}",
                code="CAMERA_ALREADY_ASSIGNED",
                details="take it out there first, if it is the one that replaces the other",
            )

    async def _take_out(self, tx: Tx, camera: Camera, actor: Actor, *, replaced_by: Mac | None = None) -> Dismissal:
        dismissal = Dismissal(
            mac=camera.mac,
            reason=Reason.REPLACED if replaced_by else Reason.UNPAIRED,
            device_id=camera.device_id,
            by=actor.key_name,
            at=tx.stamp.at,
            name=camera.name,
            replaced_by=replaced_by,
        )
        await cameras.remove(tx, camera.mac)
        await dismissed.insert(tx, dismissal)
        tx.after_commit(lambda: self._taken_out(dismissal))
        return dismissal

    def _taken_out(self, dismissal: Dismissal) -> None:
        self._roster.drop(dismissal.mac)
        self._registrar.dismissed.put(dismissal)
        self._registry.estrange(dismissal.mac)

    async def _tell(self, tx: Tx, kind: str, camera: Camera, actor: Actor, **more: str) -> Camera:
        tx.after_commit(lambda: self._roster.put(camera))
        await event_log.append(tx, _told(kind, camera, actor, **more))
        return camera


def _told(kind: str, camera: Camera, actor: Actor, **more: str) -> Logged:
    name = {"name": camera.name} if camera.name else {}
    return Logged(kind, place_of(camera) | name | more | {"by": actor.key_name}, mac=camera.mac)


async def _container(tx: Tx, container_id: str) -> Container:
    return found_container(await containers.find(tx, container_id), container_id)


def found_container(container: Container | None, container_id: str) -> Container:
    """The container; NotFoundError where there is none of this id."""
    if container is None:
        raise NotFoundError(
            f"there is no container {container_id[:64]!r}",
            code="CONTAINER_NOT_FOUND",
            details="the list of containers has those that there are",
        )
    return container


def _no_camera(name: str, known: Dismissal | None = None) -> NotFoundError:
    return NotFoundError(
        f"there is no camera {name[:64]!r} on record",
        code="CAMERA_NOT_FOUND",
        details=known.why if known else "the list of cameras has those that are registered",
    )
