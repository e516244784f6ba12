"""One simulated ESP-CAM: an MQTT client and an HTTP server, both on an address of its own.

`run` is the wall socket: it gives the camera one life after another. A life begins with power-on (uptime 0),
listens for HTTP, stays connected to the broker, and ends by a reboot (clean), by `die` (abrupt: the broker
sends the last will) or with `run` itself (clean: DISCONNECT, no last will).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any, Final

import aiomqtt
from aiohttp import web

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import StartupError
from pi_orchestrator.net.mqtt_client import MqttClient
from pi_orchestrator.sandbox.faults import Fault, bend_status, raw_server
from pi_orchestrator.sandbox.options import CameraOptions, IdStyle, MacStyle, TopicStyle
from pi_orchestrator.sandbox.picture import render_picture

FIRMWARE: Final = "2.4.1"
RECONNECT_FIRST_S: Final = 0.2
RECONNECT_MAX_S: Final = 5.0
_LIBRARY = logging.getLogger("pi_orchestrator.sandbox.mqtt")
_LIBRARY.propagate = False
_LIBRARY.addHandler(logging.NullHandler())  # a camera whose plug is pulled mid-sentence has nothing to report
_REQUEST_ID = re.compile(r"[A-Za-z0-9:._-]{1,64}", re.ASCII)


OnEvent = Callable[["SimulatedCamera", str, str], None]
"""Called with the camera, `online` / `lost` / `rebooting` / `dead`, and a detail for people."""


class SimulatedCamera:
    """One camera; `run` acts until it is cancelled, `connected` and `reported` can be waited for."""

    def __init__(
        self,
        *,
        mac: Mac,
        address: IPv4Address,
        options: CameraOptions,
        fault: Fault | None = None,
        start_delay: float = 0.0,
        dialling: asyncio.Semaphore | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.mac = mac
        self.device_id = f"espcam-{mac.replace(':', '').lower()[-6:]}"
        self.address = address
        self.options = options
        self.fault = fault
        self.start_delay = start_delay
        self.dialling = dialling
        self.on_event = on_event
        self.message_count = 0
        self.connected = asyncio.Event()
        self.reported = asyncio.Event()
        self._random = random.Random(mac)  # noqa: S311 - jitter and readings that tests can repeat
        self._booted_at = time.monotonic()
        self._power = asyncio.Event()
        self._power.set()
        self._life: asyncio.Task[None] | None = None
        self._abrupt = False
        self._away_s = 0.0
        self._rebooting = False

    @property
    def url(self) -> str:
        """Where its HTTP server listens, with no slash at the end."""
        return f"http://{self.address}:{self.options.http_port}"

    @property
    def uptime_s(self) -> float:
        """Seconds since its last power-on or reboot."""
        return time.monotonic() - self._booted_at

    def topic(self, kind: str, turn: int = 0) -> str:
        """Name the topic of `status`, `command` or `response/...`; `turn` as for `MacStyle.spell`."""
        mac = self.options.mac_style.spell(self.mac, turn)
        if self.options.topic_style is TopicStyle.DELICASA:
            return f"delicasa/{self.options.container_id}/camera/{mac}/{kind}"
        if kind.startswith("response/"):
            return f"camera/{kind}"
        return f"camera/{kind}/{mac if self.options.id_style is IdStyle.MAC else self.device_id}"

    def status(self, state: str = "ONLINE") -> dict[str, Any]:
        """Give what it publishes over MQTT, with every field of the contract that it knows."""
        return self._header(state) | {
            "ip": str(self.address),
            "rssi_dbm": self._rssi(),
            "free_heap_bytes": self._free_heap(),
            "uptime_ms": int(self.uptime_s * 1000),
            "firmware_version": FIRMWARE,
            "camera_initialized": True,
            "capture_ready": True,
            "ssid": self.options.ssid,
            "message_count": self.message_count,
        }

    def http_status(self) -> dict[str, Any]:
        """Give what `GET /status` answers; a fault of the body is already in it."""
        body = {
            "device_id": self.device_id,
            "mac": self.options.mac_style.spell(self.mac, self.message_count),
            "firmware_version": FIRMWARE,
            "rssi": self._rssi(),
            "free_heap": self._free_heap(),
            "uptime": int(self.uptime_s),
            "camera_initialized": True,
            "ssid": self.options.ssid,
        }
        return bend_status(self.fault, body, mac=self.mac)

    async def run(self) -> None:
        """Be this camera until cancelled, then leave cleanly; StartupError where it cannot listen."""
        await asyncio.sleep(self.start_delay)
        try:
            while True:
                await self._power.wait()
                self._abrupt = self._rebooting = False
                self._life = asyncio.create_task(self._live(), name=self.device_id)
                await asyncio.wait([self._life], timeout=self._patience())
                if not self._life.done():  # only a flapping camera has an end to its patience
                    await self._end_life(abrupt=True)
                elif not self._life.cancelled():
                    self._life.result()
                away, self._away_s = self._away_s, 0.0
                await asyncio.sleep(away)
        finally:
            await self._end_life(abrupt=False)

    async def die(self) -> None:
        """Lose power: the sockets drop, the broker sends the last will; dead until `revive`."""
        self._power.clear()
        await self._end_life(abrupt=True)
        self._tell("dead")

    def revive(self) -> None:
        """Give power again after `die`."""
        self._power.set()

    def restart(self) -> None:
        """Reboot as the command does: REBOOTING, away for `reboot_s`, back with uptime 0."""
        if self._life is not None and not self._life.done() and not self._life.cancelling():
            self._away_s, self._rebooting = self.options.reboot_s, True
            self._life.cancel()

    async def _end_life(self, *, abrupt: bool) -> None:
        if self._life is None or self._life.done():
            return
        # A life that is ending already must not be cancelled again: its clean-up would be cut short.
        if not self._life.cancelling():
            self._abrupt = abrupt
            self._life.cancel()
        await asyncio.wait([self._life])

    def _patience(self) -> float | None:
        if self.fault is not Fault.FLAPPING:
            return None
        self._away_s = self.options.flap_s * self._random.uniform(0.25, 0.5)
        return self.options.flap_s * self._random.uniform(0.5, 1.0)

    async def _live(self) -> None:
        self._booted_at = time.monotonic()
        self.message_count = 0
        async with self._listening():
            attempt = 0
            while True:
                began = time.monotonic()
                try:
                    await self._stay_connected()
                except aiomqtt.MqttError as exc:
                    self._tell("lost", str(exc))
                # A connection that was short-lived counts as a failed one: two fleets with the same
                # client ids would otherwise throw each other out as fast as they can.
                attempt = 0 if time.monotonic() - began > RECONNECT_MAX_S else attempt + 1
                longest = min(RECONNECT_MAX_S, RECONNECT_FIRST_S * 2**attempt)
                await asyncio.sleep(self._random.uniform(0.05, longest))

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if self.fault is None or self.fault.listens:
                try:
                    await stack.enter_async_context(self._http_server())
                except OSError as exc:
                    raise self._cannot_listen(exc) from exc
            yield

    @contextlib.asynccontextmanager
    async def _http_server(self) -> AsyncIterator[None]:
        host, port = str(self.address), self.options.http_port
        if self.fault is not None and self.fault.is_raw:
            async with raw_server(self.fault, host=host, port=port, status=self.http_status):
                yield
            return
        server = web.Server(self._answer, access_log=None, keepalive_timeout=5)
        runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield
        finally:
            await runner.cleanup()

    def _cannot_listen(self, exc: OSError) -> StartupError:
        remedy = {
            errno.EADDRNOTAVAIL: "choose a network inside 127.0.0.0/8, or give the machine the address first",
            errno.EADDRINUSE: "another program listens there: choose another port or network",
            errno.EACCES: "ports below 1024 need privilege: choose another port",
        }.get(exc.errno or 0, "choose another address or port")
        where = f"{self.address}:{self.options.http_port}"
        return StartupError(f"cannot listen on {where}: {os.strerror(exc.errno or 0)}", remedy=remedy)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.method, request.path:
            case "GET", "/status":
                return web.json_response(self.http_status())
            case "GET", "/capture":
                return await self._capture()
            case "POST", "/reboot":
                response = web.json_response({"rebooting": True})
                await response.prepare(request)
                await response.write_eof()  # the answer leaves before the reboot cuts the connection
                self.restart()
                return response
            case _, "/status" | "/capture" | "/reboot":
                return web.json_response({"error": "method not allowed"}, status=405)
        return web.json_response({"error": "not found"}, status=404)

    async def _capture(self) -> web.Response:
        try:
            # Pillow reads files when it is imported and the picture takes milliseconds: not on the loop.
            jpeg = await asyncio.to_thread(render_picture, self.device_id, datetime.now(UTC))
        except ModuleNotFoundError:
            return web.json_response({"error": "pictures need Pillow: install the extra 'demo'"}, status=503)
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def _stay_connected(self) -> None:
        link = MqttClient(
            self.options.broker_host,
            self.options.broker_port,
            identifier=self.device_id,
            keepalive=self.options.keepalive,
            bind_address=str(self.address),
            timeout=5,
            will=self._will(),
            logger=_LIBRARY,
        )
        async with self.dialling or contextlib.nullcontext():
            await link.open()
        try:
            await (self._haunt(link) if self.fault is Fault.GHOST else self._serve(link))
        except asyncio.CancelledError:
            if self._rebooting:
                self._tell("rebooting")
                with contextlib.suppress(aiomqtt.MqttError):
                    await self._publish_status(link, "REBOOTING")
            raise
        finally:
            self.connected.clear()
            await (link.drop() if self._abrupt else link.close())

    def _will(self) -> aiomqtt.Will | None:
        if self.fault is Fault.GHOST:
            return None
        payload = json.dumps(self._header("OFFLINE") | {"reason": "last_will"})
        return aiomqtt.Will(self.topic("status"), payload, qos=1, retain=self.options.retain)

    async def _serve(self, link: MqttClient) -> None:
        spellings = 4 if self.options.mac_style is MacStyle.MIXED else 1
        await link.subscribe([(self.topic("command", turn), 1) for turn in range(spellings)])
        await self._publish_status(link, qos=1)
        self._came_online()
        reporting = asyncio.create_task(self._report(link), name=f"{self.device_id} status")
        try:
            async for message in link.messages:
                await self._obey(link, message.payload)
        finally:
            reporting.cancel()
            await asyncio.wait([reporting])

    async def _report(self, link: MqttClient) -> None:
        await asyncio.sleep(self._random.uniform(0, self.options.interval))
        # A lost connection is the reader's to notice; here it only ends the reports.
        with contextlib.suppress(aiomqtt.MqttError):
            while True:
                await self._publish_status(link)
                await asyncio.sleep(self.options.interval)

    async def _haunt(self, link: MqttClient) -> None:
        # One message, ever: said again after a reconnect, it would be a live camera's.
        await link.publish(self.topic("status"), json.dumps(self.status()), qos=1, retain=True)
        self._came_online()
        try:
            await asyncio.Event().wait()
        finally:
            with contextlib.suppress(aiomqtt.MqttError):  # leave no litter on the broker
                await link.publish(self.topic("status"), b"", qos=1, retain=True)

    async def _publish_status(self, link: MqttClient, state: str = "ONLINE", *, qos: int = 0) -> None:
        self.message_count += 1
        topic = self.topic("status", self.message_count)
        await link.publish(topic, json.dumps(self.status(state)), qos=qos, retain=self.options.retain)

    async def _obey(self, link: MqttClient, payload: object) -> None:
        command = _parse_command(payload)
        if command is None:
            await self._respond(link, "_invalid/error", success=False, error="not a command")
            return
        action, request_id = command
        if action not in {"ping", "restart"}:
            error = f"this simulated camera knows ping and restart, not {action[:40]}"
            await self._respond(link, f"{request_id}/error", request_id=request_id, success=False, error=error)
            return
        await self._respond(link, request_id, request_id=request_id, success=True, action=action)
        if action == "restart":
            self.restart()

    async def _respond(self, link: MqttClient, suffix: str, *, success: bool, **fields: str) -> None:
        state = {"success": success, "status": "complete" if success else "error"}
        if not success:
            state |= {"error_code": "UNSUPPORTED_COMMAND", "error_category": "command"}
        answer = {"device_id": self.device_id, "timestamp": _now()} | state | fields
        await link.publish(self.topic(f"response/{suffix}"), json.dumps(answer), qos=1)

    def _came_online(self) -> None:
        self.connected.set()
        self.reported.set()
        self._tell("online")

    def _tell(self, event: str, detail: str = "") -> None:
        if self.on_event is not None:
            self.on_event(self, event, detail)

    def _header(self, state: str) -> dict[str, Any]:
        mac = self.options.mac_style.spell(self.mac, self.message_count)
        return {"device_id": self.device_id, "mac": mac, "state": state, "timestamp": _now()}

    def _rssi(self) -> int:
        return -45 - int(self.mac[-2:], 16) % 30 + self._random.randint(-2, 2)

    def _free_heap(self) -> int:
        return 118_000 + self._random.randint(-4_000, 4_000)


def _parse_command(payload: object) -> tuple[str, str] | None:
    try:
        command = json.loads(payload) if isinstance(payload, bytes) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(command, dict):
        return None
    action, request_id = command.get("action"), command.get("request_id")
    if not isinstance(action, str) or not isinstance(request_id, str):
        return None
    return (action, request_id) if _REQUEST_ID.fullmatch(request_id) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
