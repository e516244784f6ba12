"""Recovery worker: retries and reboots cameras without pictures, and records how reboots ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import CameraOfflineError, CaptureError, OrchestratorError, RebootError, StorageError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.events import CameraEvent, CameraReboot, CameraRemoved, CameraReplaced, Event
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.captures.recorder import CaptureRecorder
from pi_orchestrator.features.captures.service import CaptureService
from pi_orchestrator.features.commands.reboots import RebootService
from pi_orchestrator.features.devices.model import NEVER, Presence
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.recovery.ladder import RecoveryLadder
from pi_orchestrator.features.recovery.tracker import RecoveryTracker
from pi_orchestrator.storage import event_store
from pi_orchestrator.storage.database import Database, Tx

TICK_S = 1.0
MAX_CONCURRENT = 4
"""Cameras that recovery retries concurrently: most capture slots stay free for callers."""
REBOOT_SPACING_S = 30.0
"""Minimum time between automatic reboots: if many cameras fail together, the cause is not in the cameras."""
RECOVERY_ACTOR = Actor(key_name="remedy", peer="-", correlation_id="-", action="camera.reboot")

log = get_logger(__name__)


class RecoveryWorker:
    """Retries and reboots cameras, in one pass each second."""

    def __init__(
        self,
        *,
        clock: Clock,
        bus: EventBus,
        database: Database,
        registry: DeviceRegistry,
        cache: CameraCache,
        captures: CaptureService,
        reboots: RebootService,
        tracker: RecoveryTracker,
        recorder: CaptureRecorder,
    ) -> None:
        self._clock = clock
        self._bus = bus
        self._database = database
        self._registry = registry
        self._cache = cache
        self._captures = captures
        self._reboots = reboots
        self._tracker = tracker
        self._recorder = recorder
        self._tasks: dict[Mac, asyncio.Task[None]] = {}
        self._rebooted_at = NEVER

    async def run(self, beat: Beat) -> None:
        """Tick until cancelled; then cancel captures, so that callers get an error, and flush the recorder."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_removals(), name="recovery-removals")
                while True:
                    beat()
                    await self.tick()
                    await self._clock.sleep(TICK_S)
        except asyncio.CancelledError:
            self._captures.close()
            raise
        finally:
            for task in self._tasks.values():
                task.cancel()
            await self._recorder.flush()

    async def tick(self) -> None:
        """One pass: collect ended reboots, start scheduled retries and reboots, and store events."""
        events = [self._reboot_event(outcome.mac, outcome.error) for outcome in self._reboots.collect_outcomes()]
        for mac, ladder in self._tracker.failing():
            if self._has_booted(mac, ladder):
                self._tracker.booted(mac)
        self._start_scheduled()
        await self._store_events([*events, *self._tracker.take_events()])
        await self._recorder.flush_if_due()

    async def _follow_removals(self) -> None:
        """Drop the picture and the recovery state of cameras that are no longer registered."""
        await self._bus.follow(
            CameraRemoved, CameraReplaced, handle=self._forget, pause=lambda: self._clock.sleep(TICK_S)
        )

    def _forget(self, event: CameraEvent) -> None:
        mac = event.replaces or event.mac
        if mac not in self._cache:
            self._captures.forget(mac)
            self._tracker.forget(mac)

    def _reboot_event(self, mac: Mac, error: str) -> CameraReboot:
        if error:
            log.warning("camera reboot failed", mac=mac, reason=error)
        else:
            log.info("camera reboot finished", mac=mac)
        if error:
            return CameraReboot(mac=mac, state="failed", reason=error)
        return CameraReboot(mac=mac, state="back")

    def _has_booted(self, mac: Mac, ladder: RecoveryLadder) -> bool:
        """Whether a camera has booted since its last failure without a request of the daemon."""
        device = self._registry.get(mac)
        if (
            device is None
            or device.last_status is None
            or device.last_message_at is None
            or device.last_status.uptime_s is None
        ):
            return False
        return (
            not self._reboots.is_rebooting(mac)
            and device.state is Presence.ONLINE
            and device.last_message_at - device.last_status.uptime_s
            > max(ladder.since, ladder.failed_at or ladder.since)
        )

    def _start_scheduled(self) -> None:
        now = self._clock.monotonic()
        reboots = self._to_reboot() if now - self._rebooted_at >= REBOOT_SPACING_S else set()
        for mac, ladder in self._tracker.failing():
            if len(self._tasks) >= MAX_CONCURRENT:
                return
            if mac in self._tasks or not self._is_available(mac):
                continue
            has_reconnected = self._has_reconnected(mac, ladder)
            is_scheduled = ladder.retry_at is not None and (has_reconnected or now >= ladder.retry_at)
            if mac in reboots and not has_reconnected:
                reboots, self._rebooted_at = set(), now
                self._start(mac, self._reboot(mac))
            elif is_scheduled and not self._reboots.is_rebooting(mac):
                ladder.tried_at = now
                self._start(mac, self._capture(mac))

    def _to_reboot(self) -> set[Mac]:
        """The cameras to reboot, except those that may share a topic: another camera may have caused their failures."""
        return {mac for mac in self._tracker.to_reboot() if self._registry.names.command_block_reason(mac) is None}

    def _is_available(self, mac: Mac) -> bool:
        device = self._registry.get(mac)
        is_present = device is not None and device.state in (Presence.ONLINE, Presence.IDLE)
        return is_present and mac in self._cache and not self._reboots.is_provisioning(mac)

    def _has_reconnected(self, mac: Mac, ladder: RecoveryLadder) -> bool:
        """Whether a camera has reconnected since its last capture; then a capture is tried at once, before a reboot."""
        device = self._registry.get(mac)
        return device is not None and device.mqtt_session_since > ladder.last_attempt_at

    def _start(self, mac: Mac, step: Coroutine[None, None, None]) -> None:
        task = self._tasks[mac] = asyncio.create_task(step, name=f"recovery {mac}")
        task.add_done_callback(lambda _: self._tasks.pop(mac, None))

    async def _capture(self, mac: Mac) -> None:
        with suppress(CaptureError, CameraOfflineError):  # counted by the tracker
            await self._captures.take(mac)

    async def _reboot(self, mac: Mac) -> None:
        """Reboot a camera, unless it gives a picture by HTTP: another client may have sent the failures by MQTT."""
        if await self._captures.answers_by_http(mac) or mac not in self._to_reboot():
            return
        try:
            await self._reboots.reboot(mac, actor=RECOVERY_ACTOR)
        except RebootError as error:
            self._tracker.reboot_failed(mac, f"REBOOT_FAILED: {error.message}")
        except OrchestratorError as error:
            log.warning("automatic reboot not possible", mac=mac, reason=error.message)

    async def _store_events(self, events: list[Event]) -> None:
        if not events:
            return

        async def job(tx: Tx) -> None:
            for event in events:
                await event_store.append(tx, event)

        try:
            await self._database.write(job)
        except StorageError as error:
            log.warning("recovery events not stored", reason=error.message, events=len(events))
