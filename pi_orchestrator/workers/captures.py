"""Pictures: one at a time of each camera, shared by all who ask meanwhile, and kept for those who ask a little later.

Over MQTT where the camera speaks it, else by HTTP, or when MQTT has failed. Sixteen cameras at once; the others wait
in line, and everyone has an answer in time. What is being put together and what is kept are bounded in bytes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain import capture
from pi_orchestrator.domain.capture import AT_ONCE, Assembly, Picture, Source, parse_answer
from pi_orchestrator.domain.command import Action, Phase
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import Code
from pi_orchestrator.domain.presence import NEVER
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.errors import (
    CameraOfflineError,
    CaptureError,
    FieldError,
    MqttUnavailableError,
    OnboardingError,
    OrchestratorError,
)
from pi_orchestrator.logs import mask_text
from pi_orchestrator.net.espcam import EspCamClient
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.workers.capture_record import CaptureRecord
from pi_orchestrator.workers.exchanges import Exchange, Exchanges
from pi_orchestrator.workers.reboots import Reboots
from pi_orchestrator.workers.remedies import Remedies
from pi_orchestrator.workers.whereabouts import Whereabouts

HTTP_S = 10.0
VERIFY_S = 4.0
PARSED_HERE_BYTES = 32 * 1024
"""What takes longer to read than a good message does is read in a thread."""
TIMES_KEPT = 10
REMEMBERED = 4096
MIB = 1024 * 1024


@dataclass(slots=True)
class _Flight:
    """A capture under way, who waits for it, and what went wrong with it so far."""

    task: asyncio.Task[Picture]
    callers: int = 0


class Captures:
    """`take` a picture of a camera; `last` is the newest that is still kept."""

    def __init__(
        self,
        *,
        cache_s: float,
        images_kept_mb: int,
        clock: Clock,
        registry: Registry,
        mqtt: MqttLink,
        exchanges: Exchanges,
        whereabouts: Whereabouts,
        espcam: EspCamClient,
        record: CaptureRecord,
        reboots: Reboots,
        remedies: Remedies,
    ) -> None:
        self.cache_s = cache_s
        self._kept_limit = images_kept_mb * MIB
        self._clock = clock
        self._registry = registry
        self._mqtt = mqtt
        self._exchanges = exchanges
        self._whereabouts = whereabouts
        self._espcam = espcam
        self._record = record
        self._reboots = reboots
        self._remedies = remedies
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._flights: dict[Mac, _Flight] = {}
        self._kept: OrderedDict[Mac, Picture] = OrderedDict()
        self._kept_bytes = 0
        self._times: OrderedDict[Mac, deque[int]] = OrderedDict()
        self._closed = False
        self.assembling = 0
        self.revision = 0
        self.outcomes: Counter[str] = Counter()

    async def take(self, mac: Mac, *, actor: Actor | None = None) -> Picture:
        """A picture at most `cache_s` old; CameraOfflineError or CaptureError where there is none in time.

        A caller that is cancelled leaves the others theirs; when the last one has left, the camera's work is dropped.
        """
        try:
            picture = await self._take(mac)
        except OrchestratorError as error:
            if actor:
                await self._record.asked(actor, mac, error.code)
                error.on_record = True
            raise
        if actor:
            await self._record.asked(actor, mac, "ok")
        return picture

    async def _take(self, mac: Mac) -> Picture:
        kept = self._kept.get(mac)
        if kept and self._clock.monotonic() - kept.at < self.cache_s:
            return replace(kept, source=Source.CACHE)
        if self._closed:
            raise CaptureError("the daemon is stopping", ours=True)
        flight = self._flights.get(mac)
        if flight is None:
            self._check_here(mac)
            flight = self._flights[mac] = _Flight(asyncio.create_task(self._fly(mac), name=f"capture {mac}"))
            flight.task.add_done_callback(_retrieve)
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.task.cancelled() and self._closed:
                raise CaptureError("the daemon is stopping", ours=True) from None
            raise
        finally:
            flight.callers -= 1
            if not flight.callers:
                flight.task.cancel()
                if self._flights.get(mac) is flight:
                    del self._flights[mac]

    def last(self, mac: Mac) -> Picture | None:
        """The newest picture of a camera, while it is kept."""
        picture = self._kept.get(mac)
        if picture:
            self._kept.move_to_end(mac)
        return picture

    def kept(self, mac: Mac) -> Picture | None:
        """The same, without counting as a use of it."""
        return self._kept.get(mac)

    def average_ms(self, mac: Mac) -> int | None:
        """How long its last captures took, on average."""
        times = self._times.get(mac)
        return round(sum(times) / len(times)) if times else None

    def forget(self, mac: Mac) -> None:
        """Let go of what is kept of a camera."""
        self.revision += 1
        self._times.pop(mac, None)
        if picture := self._kept.pop(mac, None):
            self._kept_bytes -= len(picture.jpeg)

    def close(self) -> None:
        """End what is under way; whoever waits for it is told so."""
        self._closed = True
        for flight in self._flights.values():
            flight.task.cancel()

    # One capture.

    async def _fly(self, mac: Mac) -> Picture:
        """One capture, and what it says about the camera."""
        try:
            picture = await self._shoot(mac)
        except OrchestratorError as error:
            error.message = mask_text(error.message)  # some of it may be the camera's own words
            error.details = mask_text(error.details) if error.details else None
            self.outcomes[error.code] += 1
            if isinstance(error, CaptureError) and not error.ours:
                device = self._registry.get(mac)
                heard_at = (device.alive_at if device else None) or NEVER
                self._remedies.failed(mac, f"{error.code}: {error.message}", heard_at=heard_at)
            raise
        self.outcomes[picture.source] += 1
        self._keep(mac, picture)
        self._remedies.succeeded(mac)
        self._record.captured(mac, picture)
        return picture

    async def _shoot(self, mac: Mac) -> Picture:
        trouble: list[CaptureError] = []
        in_line = True
        try:
            async with asyncio.timeout(capture.LIMIT_S), self._gate:
                in_line = False
                began = self._clock.monotonic()
                self.assembling += 1
                try:
                    jpeg, source = await self._photograph(mac, trouble)
                finally:
                    self.assembling -= 1
        except TimeoutError:
            if trouble:
                raise trouble[0] from None
            why = "its turn had not come: too many cameras were asked at once" if in_line else "the camera is too slow"
            message = f"no picture within {capture.LIMIT_S:g} s; {why}"
            raise CaptureError(message, code=capture.TIMEOUT, ours=in_line) from None
        now = self._clock.monotonic()
        return Picture(jpeg, self._clock.wall(), now, source, round((now - began) * 1000))

    async def _photograph(self, mac: Mac, trouble: list[CaptureError]) -> tuple[bytes, Source]:
        if self._exchanges.reaches(mac):
            try:
                return await self._by_mqtt(mac), Source.MQTT
            except CaptureError as error:
                if error.final:
                    raise
                trouble.append(error)
        try:
            return await self._by_http(mac), Source.HTTP
        except CaptureError as error:
            if not trouble:
                raise
            first = trouble[0]
            details = f"by HTTP: {error.message}"
            raise CaptureError(first.message, code=first.code, details=details, ours=first.ours) from None

    async def _by_mqtt(self, mac: Mac) -> bytes:
        with self._exchanges.open(mac) as exchange:
            assembly = Assembly(budget=self._exchanges.budget, now=self._clock.monotonic())
            try:
                await self._exchanges.send(exchange, Action.CAPTURE)
                while not assembly.whole:
                    left_s = assembly.due - self._clock.monotonic()
                    if left_s <= 0 or not await self._clock.wait(exchange.arrived, left_s):
                        raise assembly.overdue()
                    await self._take_in(exchange, assembly)
                return assembly.picture()
            except MqttUnavailableError as error:
                raise CaptureError(error.message, ours=True) from None
            finally:
                assembly.discard()

    async def _take_in(self, exchange: Exchange, assembly: Assembly) -> None:
        with exchange.taking() as messages:
            if not messages and exchange.broken:
                raise CaptureError(f"{exchange.broken} in the middle of a picture", ours=True)
            here = sum(len(payload) for _, payload in messages) <= PARSED_HERE_BYTES
            answers = _parsed(messages) if here else await asyncio.to_thread(_parsed, messages)
        for answer in answers:
            if exchange.is_anothers_answer(answer.names, answer.request_id):
                self._exchanges.messages["foreign"] += 1
                continue
            if assembly.whole:
                break
            assembly.take(answer.content, now=self._clock.monotonic())

    async def _by_http(self, mac: Mac) -> bytes:
        try:
            ip, _ = await self._whereabouts.proven(mac, timeout_s=VERIFY_S)
        except FieldError as error:
            raise CaptureError(f"it cannot be asked by HTTP: {error}", ours=True) from None
        except OnboardingError as error:
            if error.code == Code.VERIFY_UNREACHABLE and self._exchanges.seems_away(mac):
                raise CameraOfflineError(f"the camera is away: {error.message}") from None
            code = capture.TIMEOUT if error.code == Code.VERIFY_TIMEOUT else capture.FAILED
            # Nobody knows whether it would have answered by MQTT; and an address that is another's is no fault of it.
            ours = error.code == Code.MAC_MISMATCH or (not self._mqtt.connected and self._speaks_mqtt(mac))
            raise CaptureError(f"it cannot be asked by HTTP: {error.message}", code=code, ours=ours) from None
        return await self._espcam.capture(ip, timeout_s=HTTP_S, budget=self._exchanges.budget)

    def _check_here(self, mac: Mac) -> None:
        if self._reboots.is_rebooting(mac):
            raise CameraOfflineError("the camera is rebooting")
        self._exchanges.check_here(mac)

    def _speaks_mqtt(self, mac: Mac) -> bool:
        device = self._registry.get(mac)
        return device is not None and device.said is not None

    def _keep(self, mac: Mac, picture: Picture) -> None:
        self.revision += 1
        times = self._times.setdefault(mac, deque(maxlen=TIMES_KEPT))
        times.append(picture.took_ms)
        self._times.move_to_end(mac)
        if len(self._times) > REMEMBERED:
            self._times.popitem(last=False)
        if before := self._kept.pop(mac, None):
            self._kept_bytes -= len(before.jpeg)
        self._kept[mac] = picture
        self._kept_bytes += len(picture.jpeg)
        while self._kept_bytes > self._kept_limit:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.jpeg)


def _parsed(messages: Iterable[tuple[Phase, bytes]]) -> list[capture.Answer]:
    """Every message, read."""
    return [parse_answer(phase, payload) for phase, payload in messages]


def _retrieve(task: asyncio.Task[Picture]) -> None:
    if not task.cancelled():
        task.exception()
