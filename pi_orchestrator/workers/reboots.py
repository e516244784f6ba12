"""Reboots: a camera told to, by MQTT or HTTP, and watched until it is back or is missed.

It is back when it says so itself and has counted its uptime afresh; being seen on the network shows only that it is
there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.command import Action
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.presence import REBOOT_S, Device, Presence
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.errors import (
    CommandError,
    ConflictError,
    FieldError,
    MqttUnavailableError,
    OnboardingError,
    RebootError,
)
from pi_orchestrator.events import Logged
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.espcam import EspCamClient
from pi_orchestrator.storage import actions, event_log
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.workers.commands import Commands
from pi_orchestrator.workers.remedies import Remedies
from pi_orchestrator.workers.whereabouts import Whereabouts

BACK_WITHIN_S = 60.0
HTTP_S = 5.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reboot ended; `why` it failed, empty where the camera is back."""

    mac: Mac
    why: str = ""


class Reboots:
    """`ask` for one; `settle` says which have ended."""

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        registry: Registry,
        commands: Commands,
        whereabouts: Whereabouts,
        espcam: EspCamClient,
        remedies: Remedies,
        is_taken: Callable[[Mac], bool],
    ) -> None:
        self.is_taken = is_taken
        """Whether a camera is being given credentials, which a reboot would come in the way of."""
        self._clock = clock
        self._database = database
        self._registry = registry
        self._commands = commands
        self._whereabouts = whereabouts
        self._espcam = espcam
        self._remedies = remedies
        self._asking: dict[Mac, asyncio.Task[None]] = {}
        self._since: dict[Mac, float] = {}

    def is_rebooting(self, mac: Mac) -> bool:
        """Whether a camera has been told to reboot and is not back yet."""
        return mac in self._since

    def check_free(self, mac: Mac) -> None:
        """ConflictError where a camera must not be interrupted."""
        if self.is_taken(mac):
            message = "the camera is being provisioned"
            raise ConflictError(message, code="DEVICE_ALREADY_PROVISIONING", details="wait until that is done")

    async def ask(self, mac: Mac, *, actor: Actor) -> None:
        """Have a camera rebooted; returns once it has accepted. One that is rebooting already is not told again."""
        self.check_free(mac)
        asking = self._asking.get(mac)
        device = self._registry.get(mac)
        if asking is None and (mac in self._since or (device and device.state is Presence.REBOOTING)):
            return await self._write(mac, actor, outcome="was so already")
        if asking is None:
            asking = self._asking[mac] = asyncio.create_task(self._ask(mac, actor), name=f"reboot {mac}")
            asking.add_done_callback(lambda task: self._asked(mac, task))
        # Whoever asked may go: a camera that is being told to reboot is watched all the same.
        return await asyncio.shield(asking)

    def settle(self) -> list[Outcome]:
        """The reboots that have ended since the last call."""
        now = self._clock.monotonic()
        ended = []
        for mac, since in list(self._since.items()):
            device = self._registry.get(mac)
            if device and _is_back(device, since):
                ended.append(Outcome(mac))
                self._remedies.came_back(mac)
            elif now - since >= BACK_WITHIN_S and device and device.said and not self._commands.hears(since):
                ended.append(Outcome(mac, "the MQTT broker was away: nobody could hear whether it came back"))
                self._remedies.came_back(mac)
            elif now - since >= BACK_WITHIN_S:
                here = device is not None and (device.heard_at or 0.0) > since and device.state is Presence.ONLINE
                why = "it said yes and did not reboot" if here else f"it did not come back within {BACK_WITHIN_S:g} s"
                ended.append(Outcome(mac, f"REBOOT_FAILED: {why}"))
                self._remedies.stayed_away(mac, f"REBOOT_FAILED: {why}")
            else:
                continue
            del self._since[mac]
        return ended

    def _asked(self, mac: Mac, task: asyncio.Task[None]) -> None:
        del self._asking[mac]
        if not task.cancelled():
            task.exception()

    async def _ask(self, mac: Mac, actor: Actor) -> None:
        before = self._clock.monotonic()
        await self._tell(mac, before)
        self._since[mac] = before
        self._remedies.reboots(mac)
        log.info("camera told to reboot", mac=mac, actor=actor.key_name)
        await self._write(mac, actor, event=Logged("camera.reboot", {"mac": mac, "state": "requested"}, mac=mac))

    async def _tell(self, mac: Mac, before: float) -> None:
        self._commands.check_here(mac)
        trouble = await self._by_mqtt(mac, before) if self._commands.reaches(mac) else "it is not on MQTT"
        if trouble is not None:
            await self._by_http(mac, trouble)

    async def _by_mqtt(self, mac: Mac, before: float) -> str | None:
        """None once it has accepted, else why not."""
        try:
            await self._commands.ask(mac, Action.RESTART)
        except (CommandError, MqttUnavailableError) as error:
            device = self._registry.get(mac)
            # One that is in a hurry answers by going.
            return None if device and device.rebooting_since > before else error.message
        return None

    async def _by_http(self, mac: Mac, trouble: str) -> None:
        try:
            ip, _ = await self._whereabouts.proven(mac, timeout_s=HTTP_S)
            await self._espcam.reboot(ip, timeout_s=HTTP_S)
        except (FieldError, OnboardingError, RebootError) as error:
            message = f"the camera could not be told to reboot: {trouble}"
            raise RebootError(message, details=f"by HTTP: {error}") from None

    async def _write(self, mac: Mac, actor: Actor, *, outcome: str = "ok", event: Logged | None = None) -> None:
        async def job(tx: Tx) -> None:
            await actions.record(tx, actor, target=mac, outcome=outcome)
            if event:
                await event_log.append(tx, event)

        await self._database.write(job)


def _is_back(device: Device, since: float) -> bool:
    """Whether a device has booted since then, by what it has said since then."""
    heard_at, said = device.heard_at, device.said
    if said is None or heard_at is None or heard_at <= since or device.state is not Presence.ONLINE:
        # One that does not speak on MQTT is back when it is seen well after it went.
        silent = heard_at is None
        return silent and device.state is Presence.ONLINE and (device.alive_at or 0.0) > since + REBOOT_S
    if said.uptime_s is not None:
        return heard_at - said.uptime_s > since
    return device.rebooting_since > since or device.session_since > since + REBOOT_S
