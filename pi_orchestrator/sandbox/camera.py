"""One simulated ESP-CAM: an MQTT client and an HTTP server, both on an address of its own.

`run` is the wall socket: it gives the camera one life after another. A life begins with power-on (uptime 0),
listens for HTTP, stays connected to the broker, and ends by a reboot (clean), by `die` (abrupt: the broker
sends the last will) or with `run` itself (clean: DISCONNECT, no last will). A camera that was provisioned
reboots: its next life begins `rejoin_s` later, on the network that it was told of.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any, Final

import aiomqtt
from aiohttp import web

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.strict_json import clean_text
from pi_orchestrator.domain.wifi import MqttAccess
from pi_orchestrator.errors import FieldError
from pi_orchestrator.net.mqtt_client import MqttClient
from pi_orchestrator.sandbox.commands import FOREVER_S, CommandDesk, PictureError
from pi_orchestrator.sandbox.faults import Fault, bend_status, raw_server
from pi_orchestrator.sandbox.options import CameraOptions, IdStyle, MacStyle, TopicStyle
from pi_orchestrator.sandbox.picture import render_picture
from pi_orchestrator.sandbox.provisioning import Provisioned, Provisioning, ProvisionRequest
from pi_orchestrator.sandbox.server import cannot_listen, http_server

FIRMWARE: Final = "2.4.1"
RECONNECT_FIRST_S: Final = 0.2
RECONNECT_MAX_S: Final = 5.0
ADDRESS_EACH_S: Final = 0.05
_LIBRARY = logging.getLogger("pi_orchestrator.sandbox.mqtt")
_LIBRARY.propagate = False
_LIBRARY.addHandler(logging.NullHandler())  # a camera whose plug is pulled mid-sentence has nothing to report


OnEvent = Callable[["SimulatedCamera", str, str], None]
"""Called with the camera, what happened, and a detail for people.

`online`, `lost` (the broker), `rebooting`, `dead`; `provisioned` when it has left for another network (its address is
the one that it will have there), `joined` when it is there.
"""


class SimulatedCamera:
    """One camera; `run` acts until it is cancelled, `connected` and `reported` can be waited for."""

    def __init__(
        self,
        *,
        mac: Mac,
        address: IPv4Address,
        options: CameraOptions,
        fault: Fault | None = None,
        second_address: IPv4Address | None = None,
        start_delay: float = 0.0,
        dialling: asyncio.Semaphore | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        if fault is Fault.PROVISION_MOVED and second_address is None:
            raise FieldError("a camera that moves needs a second address")
        self.mac = mac
        self.device_id = f"espcam-{mac.replace(':', '').lower()[-6:]}"
        self.address = address
        self.options = options
        self.fault = fault
        self.second_address = second_address
        self.ssid = options.ssid
        self.start_delay = start_delay
        self.dialling = dialling
        self.on_event = on_event
        self.message_count = 0
        self.restarts = 0
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
        self._provisioning = Provisioning(fault=fault)
        self.desk = CommandDesk(
            mac=mac,
            device_id=self.device_id,
            fault=fault,
            health=self.http_status,
            picture=self._picture,
            restart=self.restart,
        )
        self._order: ProvisionRequest | None = None
        self._mqtt = MqttAccess(options.broker_host, options.broker_port)
        self._container_id: str | None = None
        self._joining = False
        self._looping = False

    @property
    def provisioned(self) -> list[Provisioned]:
        """The requests that changed something, in order."""
        return self._provisioning.provisioned

    @property
    def provision_requests(self) -> int:
        """How many `POST /provision` have come, whatever was made of them."""
        return self._provisioning.requests

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
            return f"delicasa/{self._container_id or self.options.container_id}/camera/{mac}/{kind}"
        if kind.startswith("response/"):
            return f"camera/{kind}"
        return f"camera/{kind}/{mac if self.options.id_style is IdStyle.MAC else self.device_id}"

    def status(self, state: str = "ONLINE") -> dict[str, Any]:
        """Give what it publishes over MQTT, with every field of the contract that it knows."""
        return (
            self._header(state)
            | {
                "ip": str(self.address),
                "rssi_dbm": self._rssi(),
                "free_heap_bytes": self._free_heap(),
                "uptime_ms": int(self.uptime_s * 1000),
                "firmware_version": FIRMWARE,
                "camera_initialized": True,
                "capture_ready": True,
                "message_count": self.message_count,
            }
            | self._network()
        )

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
        } | self._network()
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
                await self._obey_order()
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
        self.restarts += 1
        if self.fault is Fault.REBOOT_VANISH:
            self._power.clear()
        self._reboot(self.options.reboot_s)

    def _reboot(self, away_s: float) -> None:
        if self._life is not None and not self._life.done() and not self._life.cancelling():
            self._away_s, self._rebooting = away_s, True
            self._life.cancel()

    async def _end_life(self, *, abrupt: bool) -> None:
        if self._life is None or self._life.done():
            return
        # A life that is ending already must not be cancelled again: its clean-up would be cut short.
        if not self._life.cancelling():
            self._abrupt = abrupt
            self._life.cancel()
        await asyncio.wait([self._life])

    async def _obey_order(self) -> None:
        """Be off the air, then on the network that the last accepted request named, or on the old one again."""
        order, self._order = self._order, None
        if order is None:
            return
        ssid = order.credentials.ssid
        joins = self._can_join(order)
        if joins and self.fault is Fault.PROVISION_MOVED and self.second_address:
            self.address, self.second_address = self.second_address, self.address
        self._tell("provisioned", f"{clean_text(ssid)} {order.request_id}")
        if self.fault is Fault.PROVISION_VANISH:
            await asyncio.Event().wait()
        await asyncio.sleep(self.options.rejoin_s)
        if joins:
            self.ssid, self._mqtt, self._joining = ssid, order.mqtt, True
            self._container_id = order.container_id or self._container_id
            self._looping = self.fault is Fault.BOOT_LOOP
        self._provisioning.last_error = None if joins else f"cannot join {ssid}: authentication failed"

    def _can_join(self, order: ProvisionRequest) -> bool:
        key = self.options.wifi_password
        return self.fault is not Fault.WRONG_PASSWORD and key in {None, order.credentials.password.get_secret_value()}

    def _patience(self) -> float | None:
        if self.fault is not Fault.FLAPPING and not self._looping:
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
                sock = stack.enter_context(await self._socket())
                if self.fault is not None and self.fault.is_raw:
                    await stack.enter_async_context(raw_server(self.fault, sock=sock, status=self.http_status))
                else:
                    await stack.enter_async_context(http_server(sock, self._answer))
            yield

    async def _socket(self) -> socket.socket:
        while True:
            try:
                return socket.create_server((str(self.address), self.options.http_port), backlog=128)
            except OSError as exc:
                if not self.provisioned or exc.errno != errno.EADDRNOTAVAIL:
                    raise cannot_listen(self.address, self.options.http_port, exc) from exc
            await asyncio.sleep(ADDRESS_EACH_S)  # on another network an address is given, in that network's time

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.method, request.path:
            case "GET", "/status":
                return web.json_response(self.http_status())
            case "GET", "/capture":
                return await self._capture()
            case "POST", "/provision":
                return await self._provision(request)
            case "POST", "/reboot":
                response = await _sent(request, web.json_response({"rebooting": True}))
                if self.fault is not Fault.REBOOT_IGNORED:
                    self.restart()
                return response
            case _, "/status" | "/capture" | "/provision" | "/reboot":
                return web.json_response({"error": "method not allowed"}, status=405)
        return web.json_response({"error": "not found"}, status=404)

    async def _provision(self, request: web.BaseRequest) -> web.StreamResponse:
        self._provisioning.requests += 1
        body = await request.read()
        if self.fault is Fault.PROVISION_HANG:
            await asyncio.Event().wait()
        answer = self._provisioning.judge(body, leaving=self._order is not None)
        response: web.StreamResponse = web.json_response(answer.body, status=answer.status, reason=answer.reason)
        if answer.obey is None:
            return response
        self._order = answer.obey
        try:
            if self.fault is Fault.ANSWER_LOST and request.transport is not None:
                request.transport.abort()
                return response
            return await _sent(request, response)
        finally:
            self._reboot(0.0)  # whoever asked may have gone: what is accepted is done

    async def _capture(self) -> web.Response:
        try:
            jpeg = await self._picture()
        except PictureError as exc:
            return web.json_response({"error": str(exc)}, status=503)
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def _picture(self) -> bytes:
        if self.fault is Fault.CAPTURE_HANGS and not self.restarts:
            await asyncio.sleep(FOREVER_S)
        if self.fault is Fault.CAPTURE_ERROR:
            raise PictureError("frame buffer timeout")
        try:
            # Pillow reads files when it is imported and the picture takes milliseconds: not on the loop.
            jpeg = await asyncio.to_thread(render_picture, self.device_id, datetime.now(UTC))
        except ModuleNotFoundError:
            raise PictureError("pictures need Pillow: install the extra 'demo'") from None
        return jpeg[:-2] if self.fault is Fault.CAPTURE_NOT_JPEG else jpeg

    async def _stay_connected(self) -> None:
        link = MqttClient(
            self._mqtt.host,
            self._mqtt.port,
            username=self._mqtt.username,
            password=self._mqtt.password.get_secret_value() if self._mqtt.password else None,
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

        async def respond(suffix: str, payload: str) -> None:
            await link.publish(self.topic(f"response/{suffix}"), payload, qos=1)

        try:
            async with self.desk.open():
                async for message in link.messages:
                    await self.desk.obey(respond, message.payload)
        finally:
            reporting.cancel()
            await asyncio.wait([reporting])

    async def _report(self, link: MqttClient) -> None:
        if self._looping:
            return
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

    def _came_online(self) -> None:
        self.connected.set()
        self.reported.set()
        self._tell("online")
        if self._joining:
            self._joining = False
            self._tell("joined", clean_text(self.ssid) or "")

    def _tell(self, event: str, detail: str = "") -> None:
        if self.on_event is not None:
            self.on_event(self, event, detail)

    def _header(self, state: str) -> dict[str, Any]:
        mac = self.options.mac_style.spell(self.mac, self.message_count)
        return {"device_id": self.device_id, "mac": mac, "state": state, "timestamp": _now()}

    def _network(self) -> dict[str, Any]:
        told = {"container_id": self._container_id, "last_error": self._provisioning.last_error}
        return {"ssid": self.ssid} | {name: value for name, value in told.items() if value is not None}

    def _rssi(self) -> int:
        return -45 - int(self.mac[-2:], 16) % 30 + self._random.randint(-2, 2)

    def _free_heap(self) -> int:
        return 118_000 + self._random.randint(-4_000, 4_000)


async def _sent(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """The response, on its way already: what it leads to may cut the connection."""
    await response.prepare(request)
    await response.write_eof()
    return response


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
