"""How a camera comes onto the record: the one way for auto-onboarding, provisioning and operators."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import Code
from pi_orchestrator.domain.presence import Presence
from pi_orchestrator.errors import OnboardingError
from pi_orchestrator.events import Logged
from pi_orchestrator.storage import cameras, containers, dismissed, event_log
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import Tx
from pi_orchestrator.storage.dismissed import Dismissed


class DismissedError(OnboardingError):
    """An operator has taken this camera out: it does not come back by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """A camera to be registered: by the claims that it made, `here` where it has just proved to be."""

    mac: Mac
    device_id: str | None
    ip: str | None
    firmware_version: str | None
    here: bool


class Registrar:
    """Registers and takes out, and keeps what is in memory of both as of the last commit."""

    def __init__(self, *, roster: Roster, dismissed: Dismissed) -> None:
        self.roster = roster
        self.dismissed = dismissed

    async def register(
        self,
        tx: Tx,
        newcomer: Newcomer,
        *,
        automatic: bool,
        place: tuple[str, int] | None = None,
        **told: Any,
    ) -> Camera:
        """Insert a camera, place it and tell of it, with what else is `told`; its MAC must not be registered yet.

        DismissedError where an operator took it out and nobody asked for it by hand, which lifts that.
        """
        if automatic:
            if found := await dismissed.find(tx, newcomer.mac):
                raise DismissedError(found.why, code=Code.DENIED)
        elif await dismissed.lift(tx, newcomer.mac):
            tx.after_commit(lambda: self.dismissed.drop(newcomer.mac))
        camera = await cameras.register(
            tx,
            newcomer.mac,
            device_id=newcomer.device_id,
            ip=newcomer.ip,
            firmware=newcomer.firmware_version,
            by="auto" if automatic else "manual",
        )
        if place:
            await containers.assign(tx, camera.mac, *place)
            camera = replace(camera, container_id=place[0], position=place[1], paired_at=tx.stamp.at)
        if newcomer.here:
            # It has just answered: a restart a moment from now must not call it offline.
            seen = tx.stamp
            await cameras.save_presence(tx, [(camera.mac, Presence.ONLINE, seen.at, seen.boot_id, seen.monotonic)])
            camera = replace(camera, last_seen_at=seen.at)
        tx.after_commit(lambda: self.roster.put(camera))
        kind = "camera.onboarded" if automatic else "camera.registered"
        await event_log.append(tx, Logged(kind, place_of(camera) | told, mac=camera.mac))
        return camera


def place_of(camera: Camera) -> dict[str, Any]:
    """Which camera, and where it stands, for an event."""
    named: dict[str, Any] = {"mac": camera.mac, "device_id": camera.device_id}
    if camera.container_id is not None:
        named |= {"container_id": camera.container_id, "position": camera.position}
    return named
