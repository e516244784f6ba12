"""Reads the device id of a camera by HTTP, while it is not certain which MQTT topic is the camera's own."""

from __future__ import annotations

import asyncio

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import FieldError, VerificationError
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.features.cameras.address_resolver import AddressResolver
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.net.camera_http import CameraAnswer

PASS_S = 1.0
MAX_CONCURRENT = 4

log = get_logger(__name__)


class TopicCheck:
    """`run_pass` checks cameras whose topic is not certain; only an answer from a proved address counts."""

    def __init__(
        self, *, clock: Clock, registry: DeviceRegistry, addresses: AddressResolver, cache: CameraCache
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._cache = cache
        registry.names.may_be_shared = self._may_be_shared
        self._addresses = addresses

    async def run(self) -> None:
        """One pass every PASS_S, until cancelled."""
        while True:
            await self.run_pass()
            await self._clock.sleep(PASS_S)

    async def run_pass(self) -> None:
        """Check at most MAX_CONCURRENT cameras."""
        macs = self._registry.names.take_checks(self._clock.monotonic(), MAX_CONCURRENT)
        await asyncio.gather(*(self._check(mac) for mac in macs))

    def _may_be_shared(self, mac: Mac, name: str) -> bool:
        """Whether a registered camera that has not published since the start may use the device id of `mac`.

        In the record, only one camera has a device id; if others claim the same one, their MAC is stored as device id.
        """
        return any(
            camera.mac != mac
            and (camera.device_id == name or try_mac(camera.device_id) is not None)
            and self._registry.names.topic_of(camera.mac) is None
            for camera in self._cache
        )

    async def _answer(self, mac: Mac) -> CameraAnswer | None:
        """The verified HTTP answer of a camera; None if there is none.

        Tried are its best known address, then those in messages on second topics, which were not applied.
        """
        others = {rival.ip for rival in self._registry.names.rivals(mac) if rival.ip}
        for ip in (None, *sorted(others)):
            try:
                return (await self._addresses.proven(mac, at=ip))[1]
            except (FieldError, VerificationError) as error:
                log.debug("camera did not name its device id", mac=mac, ip=ip, reason=str(error))
        return None

    async def _check(self, mac: Mac) -> None:
        answer = await self._answer(mac)
        if answer is None:
            return
        if self._registry.confirm_device_id(mac, answer.device_id, self._clock.monotonic()):
            log.warning("camera has another topic than assumed", mac=mac, topic=self._registry.names.topic_of(mac))
