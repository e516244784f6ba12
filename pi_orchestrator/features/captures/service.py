"""Captures: one at a time per camera, shared by concurrent callers and returned again for `cache_s` seconds.

MQTT is used if the camera is connected to the broker; HTTP is used otherwise, or if MQTT fails. HTTP is used first for
HTTP_FIRST_S after recovery got a picture by HTTP of a camera whose captures by MQTT failed. At most
`MAX_CONCURRENT` cameras at a time; the others wait within the same time limit. Incomplete and stored pictures are
bounded in bytes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.errors import (
    CameraOfflineError,
    CaptureError,
    FieldError,
    MqttUnavailableError,
    OrchestratorError,
    VerificationError,
)
from pi_orchestrator.core.logging import mask_text
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.single_flight import KeyedSingleFlight
from pi_orchestrator.features.cameras.address_resolver import AddressResolver
from pi_orchestrator.features.captures import model as capture
from pi_orchestrator.features.captures.model import MAX_CONCURRENT, Assembly, Picture, Source, parse_answer
from pi_orchestrator.features.captures.recorder import CaptureRecorder
from pi_orchestrator.features.commands.channel import CommandChannel, PendingCommand
from pi_orchestrator.features.commands.model import Action, Phase
from pi_orchestrator.features.commands.reboots import RebootService
from pi_orchestrator.features.devices.model import NEVER
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.net.camera_http import CameraHttpClient
from pi_orchestrator.net.mqtt.link import MqttConnection

HTTP_S = 10.0
HTTP_FIRST_S = 600.0
INLINE_PARSE_BYTES = 32 * 1024
"""Larger messages are parsed in a thread; an ordinary message is smaller."""
DURATIONS_KEPT = 10
MAX_TRACKED = 4096
STORED_BYTES = 16 * 1024 * 1024
"""Memory for the last pictures of all cameras together."""


class CaptureObserver(Protocol):
    """Gets the result of each capture, except failures that are not the camera's fault."""

    def capture_failed(self, mac: Mac, reason: str, *, seen_at: float) -> None:
        """Called if a camera failed to give a picture; `seen_at` is when it was last seen, monotonic seconds."""

    def capture_succeeded(self, mac: Mac) -> None:
        """Called after a camera gave a picture."""


class CaptureService:
    """`take` takes a picture of a camera; `last` returns the newest one in memory."""

    def __init__(
        self,
        *,
        cache_s: float,
        clock: Clock,
        registry: DeviceRegistry,
        mqtt: MqttConnection,
        channel: CommandChannel,
        addresses: AddressResolver,
        camera_http: CameraHttpClient,
        recorder: CaptureRecorder,
        reboots: RebootService,
        observer: CaptureObserver,
    ) -> None:
        self.cache_s = cache_s
        self._clock = clock
        self._registry = registry
        self._mqtt = mqtt
        self._channel = channel
        self._addresses = addresses
        self._camera_http = camera_http
        self._recorder = recorder
        self._reboots = reboots
        self._observer = observer
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self.running: KeyedSingleFlight[Mac, Picture] = KeyedSingleFlight("capture")
        self._pictures: BoundedDict[Mac, Picture] = BoundedDict(STORED_BYTES, size_of=lambda picture: len(picture.jpeg))
        self._durations_ms: BoundedDict[Mac, deque[int]] = BoundedDict(MAX_TRACKED)
        self._http_first_until: BoundedDict[Mac, float] = BoundedDict(MAX_TRACKED)
        self.assembling = 0
        self.revision = 0
        self.outcomes: Counter[str] = Counter()

    async def take(self, mac: Mac, *, actor: Actor | None = None) -> Picture:
        """Return a picture at most `cache_s` old; CameraOfflineError, or CaptureError on failure or timeout.

        Cancelling one caller does not affect the others; when the last one is cancelled, the capture is too.
        """
        try:
            picture = await self._take(mac)
        except OrchestratorError as error:
            if actor:
                await self._recorder.record_request(actor, mac, error.code)
                error.is_audited = True
            raise
        if actor:
            await self._recorder.record_request(actor, mac, "ok")
        return picture

    async def _take(self, mac: Mac) -> Picture:
        stored = self._pictures.get(mac)
        if stored and self._clock.monotonic() - stored.at < self.cache_s:
            return replace(stored, source=Source.CACHE)
        if not self.running.is_running(mac):
            self._check_online(mac)
        return await self.running.run(mac, lambda: self._capture(mac))

    async def answers_by_http(self, mac: Mac) -> bool:
        """Request a picture by HTTP at the proven address; False on failure. Only a success counts as a capture."""
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(capture.LIMIT_S), self._slots:
                jpeg = await self._fetch_by_http(mac)
        except (OrchestratorError, TimeoutError):
            return False
        now = self._clock.monotonic()
        picture = Picture(jpeg, self._clock.wall(), now, Source.HTTP, round((now - started) * 1000))
        self._http_first_until[mac] = now + HTTP_FIRST_S
        self._record_picture(mac, picture)
        return True

    def last(self, mac: Mac) -> Picture | None:
        """The newest picture of a camera, or None if it is not in memory."""
        picture = self._pictures.get(mac)
        if picture:
            self._pictures.touch(mac)
        return picture

    def peek_last(self, mac: Mac) -> Picture | None:
        """As `last`, but the picture does not count as used; the one unused for longest is dropped first."""
        return self._pictures.get(mac)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the pictures in memory."""
        return self._pictures.total_size

    def average_ms(self, mac: Mac) -> int | None:
        """Average duration of the last captures of a camera, or None if there were none."""
        durations = self._durations_ms.get(mac)
        return round(sum(durations) / len(durations)) if durations else None

    def forget(self, mac: Mac) -> None:
        """Drop the picture and the durations of a camera."""
        self.revision += 1
        self._durations_ms.pop(mac, None)
        self._http_first_until.pop(mac, None)
        self._pictures.pop(mac, None)

    def close(self) -> None:
        """Cancel every capture; callers get a CaptureError."""
        self.running.close(lambda: CaptureError("the daemon is stopping", is_camera_fault=False))

    # One capture.

    async def _capture(self, mac: Mac) -> Picture:
        """Capture, and report the result to the observer and the recorder.

        While commands by MQTT to the camera are refused, a failure is not its fault: it might have answered by MQTT.
        """
        is_refused = self._channel.refusal(mac) is not None
        try:
            picture = await self._capture_in_time(mac)
        except OrchestratorError as error:
            error.message = mask_text(error.message)  # it may contain text from the camera
            error.details = mask_text(error.details) if error.details else None
            self.outcomes[error.code] += 1
            is_refused = is_refused or self._channel.refusal(mac) is not None
            if isinstance(error, CaptureError) and error.is_camera_fault and not is_refused:
                device = self._registry.get(mac)
                seen_at = (device.alive_at if device else None) or NEVER
                self._observer.capture_failed(mac, f"{error.code}: {error.message}", seen_at=seen_at)
            raise
        self._record_picture(mac, picture)
        return picture

    def _record_picture(self, mac: Mac, picture: Picture) -> None:
        self.outcomes[picture.source] += 1
        self._store(mac, picture)
        self._observer.capture_succeeded(mac)
        self._recorder.record_picture(mac, picture)

    async def _capture_in_time(self, mac: Mac) -> Picture:
        """Capture within `LIMIT_S`, the wait for a slot included."""
        mqtt_errors: list[CaptureError] = []
        is_waiting = True
        try:
            async with asyncio.timeout(capture.LIMIT_S), self._slots:
                is_waiting = False
                started = self._clock.monotonic()
                self.assembling += 1
                try:
                    jpeg, source = await self._fetch(mac, mqtt_errors)
                finally:
                    self.assembling -= 1
        except TimeoutError:
            if mqtt_errors:
                raise mqtt_errors[0] from None
            reason = "too many captures at the same time" if is_waiting else "the camera is too slow"
            message = f"no picture within {capture.LIMIT_S:g} s: {reason}"
            raise CaptureError(message, code=capture.TIMEOUT, is_camera_fault=not is_waiting) from None
        now = self._clock.monotonic()
        return Picture(jpeg, self._clock.wall(), now, source, round((now - started) * 1000))

    async def _fetch(self, mac: Mac, mqtt_errors: list[CaptureError]) -> tuple[bytes, Source]:
        """The JPEG, and how it was obtained; the error of a failed attempt by MQTT is appended to `mqtt_errors`."""
        if self._channel.can_reach(mac) and (jpeg := await self._fetch_by_http_first(mac)):
            return jpeg, Source.HTTP
        if self._channel.can_reach(mac):
            try:
                return await self._fetch_by_mqtt(mac), Source.MQTT
            except CaptureError as error:
                if error.final:
                    raise
                mqtt_errors.append(error)
        try:
            return await self._fetch_by_http(mac), Source.HTTP
        except CaptureError as error:
            if not mqtt_errors:
                raise
            first = mqtt_errors[0]
            details = f"by HTTP: {error.message}"
            raise CaptureError(
                first.message, code=first.code, details=details, is_camera_fault=first.is_camera_fault
            ) from None

    async def _fetch_by_http_first(self, mac: Mac) -> bytes | None:
        """The JPEG, if HTTP is used first for the camera now; None if it is not, or on failure."""
        if self._clock.monotonic() >= self._http_first_until.get(mac, NEVER):
            return None
        try:
            return await self._fetch_by_http(mac)
        except (CaptureError, CameraOfflineError):
            self._http_first_until.pop(mac, None)
            return None

    async def _fetch_by_mqtt(self, mac: Mac) -> bytes:
        with self._channel.open(mac) as command:
            assembly = Assembly(budget=self._channel.budget, now=self._clock.monotonic())
            try:
                await self._channel.send(command, Action.CAPTURE)
                while not assembly.is_complete:
                    left_s = assembly.deadline - self._clock.monotonic()
                    if left_s <= 0 or not await self._clock.wait(command.arrived, left_s):
                        raise assembly.timeout_error()
                    await self._receive(command, assembly)
                return assembly.picture()
            except MqttUnavailableError as error:
                raise CaptureError(error.message, is_camera_fault=False) from None
            finally:
                assembly.discard()

    async def _receive(self, command: PendingCommand, assembly: Assembly) -> None:
        """Add the received messages to the assembly; CaptureError if the command has failed."""
        with command.received() as messages:
            if not messages and command.failure:
                raise CaptureError(f"{command.failure} during the capture", is_camera_fault=False)
            is_small = sum(len(payload) for _, payload in messages) <= INLINE_PARSE_BYTES
            answers = _parse(messages) if is_small else await asyncio.to_thread(_parse, messages)
        if command.is_void:  # an id conflict was found while the messages were parsed
            raise CaptureError(command.failure or "", is_camera_fault=False)
        for answer in answers:
            if command.is_foreign(answer.names, answer.request_id):
                self._channel.messages["foreign"] += 1
                continue
            if assembly.is_complete:
                break
            assembly.take(answer.content, now=self._clock.monotonic())

    async def _fetch_by_http(self, mac: Mac) -> bytes:
        try:
            ip, _ = await self._addresses.proven(mac)
        except FieldError as error:
            raise CaptureError(f"no capture by HTTP: {error}", is_camera_fault=False) from None
        except VerificationError as error:
            if error.code == VerificationCode.UNREACHABLE and self._channel.is_offline(mac):
                raise CameraOfflineError(f"the camera is offline: {error.message}") from None
            code = capture.TIMEOUT if error.code == VerificationCode.TIMEOUT else capture.FAILED
            # Not the camera's fault: another device has the address, or the camera might have answered by MQTT.
            is_camera_fault = error.code != VerificationCode.MAC_MISMATCH and (
                self._mqtt.connected or not self._uses_mqtt(mac)
            )
            raise CaptureError(
                f"no capture by HTTP: {error.message}", code=code, is_camera_fault=is_camera_fault
            ) from None
        return await self._camera_http.capture(ip, timeout_s=HTTP_S, budget=self._channel.budget)

    def _check_online(self, mac: Mac) -> None:
        if self._reboots.is_rebooting(mac):
            raise CameraOfflineError("the camera is rebooting")
        self._channel.check_online(mac)

    def _uses_mqtt(self, mac: Mac) -> bool:
        device = self._registry.get(mac)
        return device is not None and device.last_status is not None

    def _store(self, mac: Mac, picture: Picture) -> None:
        self.revision += 1
        self._durations_ms.setdefault(mac, deque(maxlen=DURATIONS_KEPT)).append(picture.took_ms)
        self._durations_ms.touch(mac)
        self._pictures[mac] = picture


def _parse(messages: Iterable[tuple[Phase, bytes]]) -> list[capture.Answer]:
    return [parse_answer(phase, payload) for phase, payload in messages]
