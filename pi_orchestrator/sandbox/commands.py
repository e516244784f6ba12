"""MQTT commands of a simulated camera.

A capture answers with an ack, an info, its chunks and a complete message, any other command with one message. A capture
runs concurrently with other commands, so that a camera that hangs in a capture can still be restarted.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import aiomqtt

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.validation import clean_text
from pi_orchestrator.sandbox.faults import Fault, other_mac

FOREVER_S: Final = 1e9
CHUNK_BYTES: Final = 4096
OVERSIZED_BYTES: Final = 9 * 1024 * 1024
"""More than the daemon accepts (`net.jpeg.MAX_IMAGE_BYTES`)."""
RESOLUTIONS: Final = ("QVGA", "VGA", "SVGA", "XGA", "SXGA", "UXGA")
_REQUEST_ID = re.compile(r"[A-Za-z0-9:._-]{1,64}", re.ASCII)

Publish = Callable[[str, str], Awaitable[None]]
"""Publishes a payload; the arguments are the topic below `response/`, and the payload."""


class PictureError(Exception):
    """The camera cannot take a picture; the text is its error message."""


class CommandHandler:
    """Runs a camera's commands, and lists them in `received_actions`; `picture` and `restart` are the camera's."""

    def __init__(
        self,
        *,
        mac: Mac,
        device_id: str,
        fault: Callable[[], Fault | None],
        health: Callable[[], dict[str, Any]],
        picture: Callable[[], Awaitable[bytes]],
        restart: Callable[[], None],
    ) -> None:
        self.received_actions: list[str] = []
        self.resolution = "VGA"
        self._mac = mac
        self._device_id = device_id
        self._fault = fault
        self._health = health
        self._picture = picture
        self._restart = restart
        self._capturing: asyncio.Task[None] | None = None
        self._random = random.Random(mac)  # noqa: S311 - repeatable for tests

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run for one connection; a capture in progress is cancelled at its end."""
        try:
            yield
        finally:
            if self._capturing is not None:
                self._capturing.cancel()
                await asyncio.wait([self._capturing])
                self._capturing = None

    async def handle(self, publish: Publish, payload: object) -> None:
        """Run one command and publish its answer, or an error."""
        command = _parse(payload)
        if command is None:
            await self._publish_error(publish, "_invalid/error", "not a command")
            return
        action, request_id, fields = command
        self.received_actions.append(action)
        match action:
            case "capture":
                await self._start_capture(publish, request_id)
            case "ping":
                await self._publish_result(publish, request_id, action)
            case "health_check":
                await self._publish_result(publish, request_id, action, health=self._health())
            case "set_resolution":
                await self._set_resolution(publish, request_id, fields.get("resolution"))
            case "restart" | "reset":
                await self._publish_result(publish, request_id, action)
                if self._fault() is not Fault.REBOOT_IGNORED:
                    self._restart()
            case _:
                error = f"unsupported action: {clean_text(action, max_chars=40)}"
                await self._publish_error(publish, f"{request_id}/error", error, request_id=request_id)

    async def _set_resolution(self, publish: Publish, request_id: str, resolution: object) -> None:
        if resolution not in RESOLUTIONS:
            error = f"resolution must be one of {', '.join(RESOLUTIONS)}"
            await self._publish_error(
                publish, f"{request_id}/error", error, code="INVALID_PARAMETER", request_id=request_id
            )
            return
        self.resolution = str(resolution)
        await self._publish_result(publish, request_id, "set_resolution", resolution=self.resolution)

    async def _start_capture(self, publish: Publish, request_id: str) -> None:
        if self._fault() is Fault.NO_CONTENT_TYPE:
            await self._publish_error(publish, f"{request_id}/error", "no pictures over MQTT", request_id=request_id)
            return
        if self._capturing is not None and not self._capturing.done():
            await self._publish_error(publish, f"{request_id}/error", "busy", code="CAMERA_BUSY", request_id=request_id)
            return
        self._capturing = asyncio.create_task(self._capture(publish, request_id), name=f"{self._device_id} capture")

    async def _capture(self, publish: Publish, request_id: str) -> None:
        if self._fault() is Fault.CAPTURE_NO_ACK:
            await asyncio.sleep(FOREVER_S)
        # The reader of messages handles a lost connection.
        with contextlib.suppress(aiomqtt.MqttError):
            await self._send_picture(publish, request_id)

    async def _send_picture(self, publish: Publish, request_id: str) -> None:
        started = time.monotonic()
        header = {"request_id": request_id, "device_id": self._device_id}
        if self._fault() is Fault.CAPTURE_FOREIGN:
            header["device_id"] = f"espcam-{other_mac(self._mac).replace(':', '').lower()[-6:]}"
        await self._publish_json(publish, f"{request_id}/ack", header | {"action": "capture", "status": "in_progress"})
        try:
            jpeg = await self._picture()
        except PictureError as error:
            await self._publish_error(
                publish, f"{request_id}/error", str(error), code="CAPTURE_FAILED", request_id=request_id
            )
            return
        chunks = [jpeg[at : at + CHUNK_BYTES] for at in range(0, len(jpeg), CHUNK_BYTES)]
        size = OVERSIZED_BYTES if self._fault() is Fault.CAPTURE_OVERSIZED else len(jpeg)
        info = {"success": True, "image_size": size, "content_type": "image/jpeg", "total_size": size}
        timings = {"capture_ms": _elapsed_ms(started), "validate_ms": 0, "encode_ms": 0}
        info |= {"total_chunks": len(chunks), "timings": timings}
        await self._publish_json(publish, f"{request_id}/info", header | info)
        for sent, index in enumerate(self._chunk_order(len(chunks))):
            if self._fault() is Fault.CAPTURE_REBOOTS and sent == len(chunks) // 2:
                self._restart()
            if self._fault() is Fault.CAPTURE_STALLS and sent == len(chunks) // 2:
                await asyncio.sleep(FOREVER_S)
            chunk_index = index + len(chunks) if self._fault() is Fault.CAPTURE_WRONG_INDEX else index
            data = base64.b64encode(chunks[index]).decode()
            chunk = {"request_id": request_id, "chunk_index": chunk_index, "chunk_data": data}
            await publish(f"{request_id}/chunk", json.dumps(chunk))
        complete = {"success": True, "status": "complete", "chunks_sent": len(chunks), "total_chunks": len(chunks)}
        complete["timings"] = {"total_ms": _elapsed_ms(started)}
        await self._publish_json(publish, f"{request_id}/complete", header | complete)

    def _chunk_order(self, count: int) -> Iterator[int]:
        order = list(range(count))
        if self._fault() is Fault.CAPTURE_SHUFFLED:
            self._random.shuffle(order)
        if self._fault() is Fault.CAPTURE_DOUBLED:
            order = [index for index in order for _ in range(2)]
        if self._fault() is Fault.CAPTURE_MISSING:
            del order[count // 2]
        yield from order

    async def _publish_result(self, publish: Publish, request_id: str, action: str, **fields: object) -> None:
        header = {"request_id": request_id, "device_id": self._device_id, "action": action}
        await self._publish_json(publish, request_id, header | {"success": True, "status": "complete"} | fields)

    async def _publish_error(
        self, publish: Publish, suffix: str, error: str, *, code: str = "UNSUPPORTED_COMMAND", **fields: object
    ) -> None:
        result = {"success": False, "status": "error", "error": error, "error_code": code, "error_category": "command"}
        await self._publish_json(publish, suffix, {"device_id": self._device_id} | result | fields)

    async def _publish_json(self, publish: Publish, suffix: str, fields: dict[str, Any]) -> None:
        await publish(suffix, json.dumps(fields | {"timestamp": _now()}))


def _parse(payload: object) -> tuple[str, str, dict[str, Any]] | None:
    """Action, request id and all fields of a command; None if the payload is not a command."""
    try:
        command = json.loads(payload) if isinstance(payload, bytes) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(command, dict):
        return None
    action, request_id = command.get("action"), command.get("request_id")
    if not isinstance(action, str) or not isinstance(request_id, str):
        return None
    return (action, request_id, command) if _REQUEST_ID.fullmatch(request_id) else None


def _elapsed_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
