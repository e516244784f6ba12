"""Looks after cameras: one that gives no pictures is asked again, then rebooted; one that reboots is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.presence import NEVER, Presence
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.remedy import Ladder
from pi_orchestrator.errors import CameraOfflineError, CaptureError, OrchestratorError, RebootError, StorageError
from pi_orchestrator.events import Event, Hub, Logged
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage import event_log
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.supervisor import Beat
from pi_orchestrator.workers.capture_record import CaptureRecord
from pi_orchestrator.workers.captures import Captures
from pi_orchestrator.workers.reboots import Reboots
from pi_orchestrator.workers.remedies import Remedies

TICK_S = 1.0
AT_ONCE = 4
"""Cameras in trouble that are tried at the same time: those who ask for pictures come first."""
APART_S = 30.0
"""Between reboots that nobody asked for: what ails many cameras at once is not in the cameras."""
ITSELF = Actor(key_name="remedy", peer="-", correlation_id="-", action="camera.reboot")

log = get_logger(__name__)


class CareWorker:
    """Passes, one a second."""

    def __init__(
        self,
        *,
        clock: Clock,
        hub: Hub,
        database: Database,
        registry: Registry,
        roster: Roster,
        captures: Captures,
        reboots: Reboots,
        remedies: Remedies,
        record: CaptureRecord,
    ) -> None:
        self._clock = clock
        self._hub = hub
        self._database = database
        self._registry = registry
        self._roster = roster
        self._captures = captures
        self._reboots = reboots
        self._remedies = remedies
        self._record = record
        self._trying: dict[Mac, asyncio.Task[None]] = {}
        self._rebooted_at = NEVER

    async def run(self, beat: Beat) -> None:
        """Tick until cancelled; then whoever waits for a picture is told so, and what is not written is written."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forget_the_removed(), name="care-removed")
                while True:
                    beat()
                    await self.tick()
                    await self._clock.sleep(TICK_S)
        except asyncio.CancelledError:
            self._captures.close()
            raise
        finally:
            for task in self._trying.values():
                task.cancel()
            await self._record.flush()

    async def tick(self) -> None:
        """One pass: reboots that have ended, what is due to be tried, and what there is to tell."""
        events = [self._ended(outcome.mac, outcome.why) for outcome in self._reboots.settle()]
        for mac, ladder in self._remedies.in_trouble():
            if self._has_booted(mac, ladder):
                self._remedies.booted(mac)
        self._try_what_is_due()
        await self._tell([*events, *self._remedies.take()])
        await self._record.flush_if_due()

    async def _forget_the_removed(self) -> None:
        """Whoever was taken off the record leaves no picture and no trouble behind."""

        def wanted(event: Event) -> bool:
            return isinstance(event, Logged) and event.type in ("camera.removed", "camera.replaced")

        while True:
            with self._hub.subscribe(wanted) as removals:
                async for event in removals:
                    if isinstance(event, Logged):
                        self._forget(event)
            await self._clock.sleep(TICK_S)

    def _forget(self, event: Logged) -> None:
        mac = try_mac(event.payload.get("replaces", event.mac))
        if mac and mac not in self._roster:
            self._captures.forget(mac)
            self._remedies.forget(mac)

    def _ended(self, mac: Mac, why: str) -> Logged:
        if why:
            log.warning("camera is not back", mac=mac, reason=why)
        else:
            log.info("camera is back", mac=mac)
        state = {"state": "failed", "reason": why} if why else {"state": "back"}
        return Logged("camera.reboot", {"mac": mac, **state}, mac=mac)

    def _has_booted(self, mac: Mac, ladder: Ladder) -> bool:
        """Whether it has begun anew since it failed last, without having been told to."""
        device = self._registry.get(mac)
        if device is None or device.said is None or device.heard_at is None or device.said.uptime_s is None:
            return False
        return (
            not self._reboots.is_rebooting(mac)
            and device.state is Presence.ONLINE
            and device.heard_at - device.said.uptime_s > max(ladder.since, ladder.failed_at or ladder.since)
        )

    def _try_what_is_due(self) -> None:
        now = self._clock.monotonic()
        reboots = set(self._remedies.to_reboot() if now - self._rebooted_at >= APART_S else ())
        for mac, ladder in self._remedies.in_trouble():
            if len(self._trying) >= AT_ONCE:
                return
            if mac in self._trying or not self._is_here(mac):
                continue
            came_back = self._has_come_back(mac, ladder)
            if mac in reboots and not came_back:
                reboots, self._rebooted_at = set(), now
                self._begin(mac, self._reboot(mac))
            elif ladder.due is not None and (came_back or now >= ladder.due) and not self._reboots.is_rebooting(mac):
                self._begin(mac, self._capture(mac))

    def _is_here(self, mac: Mac) -> bool:
        device = self._registry.get(mac)
        here = device is not None and device.state in (Presence.ONLINE, Presence.IDLE)
        return here and mac in self._roster and not self._reboots.is_taken(mac)

    def _has_come_back(self, mac: Mac, ladder: Ladder) -> bool:
        """Whether it has joined anew since it failed last: it is asked at once, and before it is rebooted."""
        device = self._registry.get(mac)
        return device is not None and device.session_since > max(ladder.since, ladder.failed_at or ladder.since)

    def _begin(self, mac: Mac, trial: Coroutine[None, None, None]) -> None:
        task = self._trying[mac] = asyncio.create_task(trial, name=f"remedy {mac}")
        task.add_done_callback(lambda _: self._trying.pop(mac, None))

    async def _capture(self, mac: Mac) -> None:
        with suppress(CaptureError, CameraOfflineError):  # counted where it failed
            await self._captures.take(mac)

    async def _reboot(self, mac: Mac) -> None:
        try:
            await self._reboots.ask(mac, actor=ITSELF)
        except RebootError as error:
            self._remedies.stayed_away(mac, f"REBOOT_FAILED: {error.message}")
        except OrchestratorError as error:
            log.warning("camera not rebooted yet", mac=mac, reason=error.message)

    async def _tell(self, events: list[Logged]) -> None:
        if not events:
            return

        async def job(tx: Tx) -> None:
            for event in events:
                await event_log.append(tx, event)

        try:
            await self._database.write(job)
        except StorageError as error:
            log.warning("what happened to cameras is not on record", reason=error.message, events=len(events))
