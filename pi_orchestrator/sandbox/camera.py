"""A simulated ESP32 camera: an MQTT client and an HTTP server, both on the camera's own address.

`run` boots the camera again and again. A boot starts at power-on (uptime 0), listens for HTTP, stays connected to the
broker, and ends by a reboot (clean), by `power_off` (abrupt: the broker sends the last will) or with `run` (clean:
DISCONNECT, no last will). A provisioned camera reboots: its next boot starts `rejoin_s` later, on the target network.
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

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.validation import clean_text
from pi_orchestrator.core.wifi import MqttAccess
from pi_orchestrator.net.mqtt.client import MqttClient
from pi_orchestrator.sandbox.commands import FOREVER_S, CommandHandler, PictureError
from pi_orchestrator.sandbox.faults import (
    LARGE_MESSAGE_BYTES,
    Fault,
    device_id_of,
    encode_status,
    raw_server,
    short_spelling,
    status_headers,
    status_with_fault,
)
from pi_orchestrator.sandbox.options import CameraOptions, IdStyle, MacStyle, TopicStyle
from pi_orchestrator.sandbox.picture import render_picture
from pi_orchestrator.sandbox.provisioning import Provisioned, Provisioning, ProvisionRequest
from pi_orchestrator.sandbox.server import UntypedResponse, cannot_listen, http_server

FIRMWARE: Final = "2.4.1"
RECONNECT_FIRST_S: Final = 0.2
RECONNECT_MAX_S: Final = 5.0
ADDRESS_RETRY_S: Final = 0.05
_LIBRARY_LOGGER = logging.getLogger("pi_orchestrator.sandbox.mqtt")
_LIBRARY_LOGGER.propagate = False
_LIBRARY_LOGGER.addHandler(logging.NullHandler())  # connections are cut on purpose, so the library's messages are noise


OnEvent = Callable[["SimulatedCamera", str, str], None]
"""Called with the camera, the event, and a detail text.

Events: `online`, `lost` (the connection to the broker), `rebooting`, `dead` (without power), `provisioned` (it has left
for another network; its address is already the new one), `joined` (it is on that network).
"""


class SimulatedCamera:
    """One camera; `run` runs it until cancelled.

    `connected` is set while it is connected to the broker; `reported` stays set after its first status message.
    `message_count` counts status messages since the last boot, `restarts` the reboots by command or fault.
    With the fault topic-takeover, its messages have the MAC `victim`.
    """

    def __init__(
        self,
        *,
        mac: Mac,
        address: IPv4Address,
        options: CameraOptions,
        fault: Fault | None = None,
        second_address: IPv4Address | None = None,
        start_delay: float = 0.0,
        connect_limit: asyncio.Semaphore | None = None,
        on_event: OnEvent | None = None,
        victim: Mac | None = None,
    ) -> None:
        if fault is Fault.TOPIC_TAKEOVER and victim is None:
            raise FieldError("the fault topic-takeover needs a camera without a fault")
        if fault is Fault.PROVISION_MOVED and second_address is None:
            raise FieldError("the fault provision-moved needs a second address")
        self.mac = mac
        self.device_id = device_id_of(fault, mac)
        self.published_mac = victim if victim and fault is Fault.TOPIC_TAKEOVER else mac
        """The MAC in its MQTT messages."""
        self.address = address
        self.options = options
        self.fault = fault
        self.second_address = second_address
        self.ssid = options.ssid
        self.start_delay = start_delay
        self.connect_limit = connect_limit
        self.on_event = on_event
        self.message_count = 0
        self.restarts = 0
        self.connected = asyncio.Event()
        self.reported = asyncio.Event()
        self._random = random.Random(mac)  # noqa: S311 - jitter and readings that tests can repeat
        self._booted_at = time.monotonic()
        self._power = asyncio.Event()
        self._power.set()
        self._boot: asyncio.Task[None] | None = None
        self._power_lost = False
        self._off_s = 0.0
        self._rebooting = False
        self.provisioning = Provisioning(fault=fault)
        self.commands = CommandHandler(
            mac=mac,
            device_id=self.device_id,
            fault=lambda: self.fault,
            health=self.http_status,
            picture=self._picture,
            restart=self.restart,
        )
        self._accepted: ProvisionRequest | None = None
        self._mqtt = MqttAccess(options.broker_host, options.broker_port)
        self._container_id: str | None = None
        self._status_answers = 0
        self._is_joining = False
        self._is_boot_looping = False

    @property
    def provisioned(self) -> list[Provisioned]:
        """The accepted requests in order, without repeats."""
        return self.provisioning.provisioned

    @property
    def provision_requests(self) -> int:
        """Number of `POST /provision` received, accepted or not."""
        return self.provisioning.requests

    @property
    def url(self) -> str:
        """Base URL of its HTTP server, without a slash at the end."""
        return f"http://{self.address}:{self.options.http_port}"

    @property
    def has_booted(self) -> bool:
        """Whether it has been switched on."""
        return self._boot is not None

    @property
    def uptime_s(self) -> float:
        """Seconds since the last power-on or reboot."""
        return time.monotonic() - self._booted_at

    def topic(self, kind: str, turn: int = 0) -> str:
        """The topic of `status`, `command` or `response/...`; `turn` as for `MacStyle.spell`."""
        mac = self._spell_mac(self.mac, turn)
        if self.options.topic_style is TopicStyle.DELICASA:
            return f"delicasa/{self._container_id or self.options.container_id}/camera/{mac}/{kind}"
        if kind.startswith("response/"):
            return f"camera/{kind}"
        has_mac_topic = self.options.id_style is IdStyle.MAC and not (self.fault and self.fault.uses_own_topic_id)
        return f"camera/{kind}/{mac if has_mac_topic else self.device_id}"

    def status(self, state: str = "ONLINE") -> dict[str, Any]:
        """The MQTT status message, with all fields of the contract that it supports."""
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
        """The body of `GET /status`, including a fault of the body."""
        body = {
            "device_id": self.device_id,
            "mac": self._spell_mac(self.mac, self.message_count),
            "firmware_version": FIRMWARE,
            "rssi": self._rssi(),
            "free_heap": self._free_heap(),
            "uptime": int(self.uptime_s),
            "camera_initialized": True,
        } | self._network()
        return status_with_fault(self.fault, body, mac=self.mac)

    async def run(self) -> None:
        """Run the camera until cancelled, then disconnect cleanly; StartupError if it cannot listen."""
        await asyncio.sleep(self.start_delay)
        try:
            while True:
                await self._power.wait()
                self._power_lost = self._rebooting = False
                self._boot = asyncio.create_task(self._run_boot(), name=self.device_id)
                await asyncio.wait([self._boot], timeout=self._boot_limit_s())
                if not self._boot.done():  # the boot of an unstable camera reached its time limit
                    await self._end_boot(power_lost=True)
                elif not self._boot.cancelled():
                    self._boot.result()
                off_s, self._off_s = self._off_s, 0.0
                await asyncio.sleep(off_s)
                await self._switch_network()
        finally:
            await self._end_boot(power_lost=False)

    async def power_off(self) -> None:
        """Lose power until `power_on`: the sockets drop and the broker sends the last will."""
        self._power.clear()
        await self._end_boot(power_lost=True)
        self._notify("dead")

    def power_on(self) -> None:
        """Restore power after `power_off`."""
        self._power.set()

    def restart(self) -> None:
        """Reboot as by command: publish REBOOTING, stay off for `reboot_s`, return with uptime 0."""
        self.restarts += 1
        if self.fault is Fault.REBOOT_VANISH:
            self._power.clear()
        self._reboot(self.options.reboot_s)

    def _reboot(self, off_s: float) -> None:
        if self._boot is not None and not self._boot.done() and not self._boot.cancelling():
            self._off_s, self._rebooting = off_s, True
            self._boot.cancel()

    async def _end_boot(self, *, power_lost: bool) -> None:
        if self._boot is None or self._boot.done():
            return
        # A boot that is already ending must not be cancelled again: its cleanup would be interrupted.
        if not self._boot.cancelling():
            self._power_lost = power_lost
            self._boot.cancel()
        await asyncio.wait([self._boot])

    async def _switch_network(self) -> None:
        """After an accepted request: stay off for `rejoin_s`, then join its network, or return to the old network."""
        request, self._accepted = self._accepted, None
        if request is None:
            return
        ssid = request.credentials.ssid
        joins = self._can_join(request)
        if joins and self.fault is Fault.PROVISION_MOVED and self.second_address:
            self.address, self.second_address = self.second_address, self.address
        self._notify("provisioned", f"{clean_text(ssid)} {request.request_id}")
        if self.fault is Fault.PROVISION_VANISH:
            await asyncio.Event().wait()
        await asyncio.sleep(self.options.rejoin_s)
        if joins:
            self.ssid, self._mqtt, self._is_joining = ssid, request.mqtt, True
            self._container_id = request.container_id or self._container_id
            self._is_boot_looping = self.fault is Fault.PROVISION_BOOT_LOOP
        self.provisioning.last_error = None if joins else f"cannot join {ssid}: authentication failed"

    def _can_join(self, request: ProvisionRequest) -> bool:
        expected = self.options.wifi_password
        given = request.credentials.password.get_secret_value()
        return self.fault is not Fault.WRONG_PASSWORD and (expected is None or expected == given)

    def _boot_limit_s(self) -> float | None:
        """Time until this boot loses power, None if it does not; also sets the time off after it."""
        if self.fault not in (Fault.FLAPPING, Fault.BOOT_LOOP) and not self._is_boot_looping:
            return None
        self._off_s = 0.0 if self.fault is Fault.BOOT_LOOP else self.options.flap_s * self._random.uniform(0.25, 0.5)
        return self.options.flap_s * self._random.uniform(0.5, 1.0)

    async def _run_boot(self) -> None:
        if self.fault is not Fault.UPTIME_KEPT:
            self._booted_at = time.monotonic()
        self.message_count = 0
        async with self._listening():
            attempt = 0
            while True:
                started = time.monotonic()
                try:
                    await self._run_connection()
                except aiomqtt.MqttError as exc:
                    self._notify("lost", str(exc))
                # A short connection counts as a failure: otherwise two fleets with the same client ids would
                # disconnect each other without a pause.
                attempt = 0 if time.monotonic() - started > RECONNECT_MAX_S else attempt + 1
                max_wait_s = min(RECONNECT_MAX_S, RECONNECT_FIRST_S * 2**attempt)
                await asyncio.sleep(self._random.uniform(0.05, max_wait_s))

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if self.fault is None or self.fault.accepts_tcp:
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
            await asyncio.sleep(ADDRESS_RETRY_S)  # the address of the target network may be assigned later

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.method, request.path:
            case "GET", "/status":
                body = encode_status(self.fault, self.http_status())
                self._status_answers += 1
                headers = status_headers(self.fault, answers=self._status_answers - 1)
                return web.Response(body=body, content_type="application/json", headers=headers)
            case "GET", "/capture":
                return await self._capture()
            case "POST", "/provision":
                return await self._provision(request)
            case "POST", "/reboot":
                response = await _send_now(request, web.json_response({"rebooting": True}))
                if self.fault is not Fault.REBOOT_IGNORED:
                    self.restart()
                return response
            case _, "/status" | "/capture" | "/provision" | "/reboot":
                return web.json_response({"error": "method not allowed"}, status=405)
        return web.json_response({"error": "not found"}, status=404)

    async def _provision(self, request: web.BaseRequest) -> web.StreamResponse:
        self.provisioning.requests += 1
        body = await request.read()
        if self.fault is Fault.PROVISION_HANG:
            await asyncio.Event().wait()
        answer = self.provisioning.handle(body, is_leaving=self._accepted is not None)
        response: web.StreamResponse = web.json_response(answer.body, status=answer.status, reason=answer.reason_phrase)
        if answer.accepted is None:
            return response
        self._accepted = answer.accepted
        try:
            if self.fault is Fault.ANSWER_LOST and request.transport is not None:
                request.transport.abort()
                return response
            return await _send_now(request, response)
        finally:
            self._reboot(0.0)  # also if the client has disconnected: the request is accepted

    async def _capture(self) -> web.Response:
        try:
            jpeg = await self._picture()
        except PictureError as exc:
            return web.json_response({"error": str(exc)}, status=503)
        if self.fault is Fault.NO_CONTENT_TYPE:
            return UntypedResponse(body=jpeg)
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def _picture(self) -> bytes:
        if self.fault is Fault.CAPTURE_HANGS and not self.restarts:
            await asyncio.sleep(FOREVER_S)
        if self.fault in (Fault.CAPTURE_ERROR, Fault.TOPIC_TAKEOVER):
            raise PictureError("frame buffer timeout")
        try:
            # Not on the event loop: importing Pillow reads files, and drawing takes milliseconds.
            jpeg = await asyncio.to_thread(render_picture, self.device_id, datetime.now(UTC))
        except ModuleNotFoundError:
            raise PictureError("pictures need Pillow: install pi-orchestrator[demo]") from None
        if self.fault is Fault.PADDED_JPEG:
            return jpeg + bytes(512)
        return jpeg[:-2] if self.fault is Fault.CAPTURE_NOT_JPEG else jpeg

    async def _run_connection(self) -> None:
        link = MqttClient(
            self._mqtt.host,
            self._mqtt.port,
            username=self._mqtt.username,
            password=self._mqtt.password.get_secret_value() if self._mqtt.password else None,
            identifier=f"espcam-{self.mac}" if self.fault is Fault.SHARED_ID else self.device_id,
            keepalive=self.options.keepalive,
            bind_address=str(self.address),
            timeout=5,
            will=self._will(),
            logger=_LIBRARY_LOGGER,
        )
        async with self.connect_limit or contextlib.nullcontext():
            await link.open()
        try:
            await (self._run_ghost(link) if self.fault is Fault.GHOST else self._run_online(link))
        except asyncio.CancelledError:
            self._power_lost |= self._rebooting and self.fault is Fault.UPTIME_KEPT  # it does not disconnect cleanly
            if self._rebooting and not self._power_lost:
                self._notify("rebooting")
                with contextlib.suppress(aiomqtt.MqttError):
                    await self._publish_status(link, "REBOOTING")
            raise
        finally:
            self.connected.clear()
            await (link.drop() if self._power_lost else link.close())

    def _will(self) -> aiomqtt.Will | None:
        if self.fault is Fault.GHOST:
            return None
        payload = json.dumps(self._header("OFFLINE") | {"reason": "last_will"})
        if self.fault is Fault.PLAIN_WILL:
            payload = "offline"
        return aiomqtt.Will(self.topic("status"), payload, qos=1, retain=self.options.retain)

    async def _run_online(self, link: MqttClient) -> None:
        spellings = 4 if self.options.mac_style is MacStyle.MIXED else 1
        await link.subscribe([(self.topic("command", turn), 1) for turn in range(spellings)])
        await self._publish_status(link, qos=1)
        self._set_online()
        reporting = asyncio.create_task(self._report(link), name=f"{self.device_id} status")

        async def respond(suffix: str, payload: str) -> None:
            await link.publish(self.topic(f"response/{suffix}"), payload, qos=1)

        try:
            async with self.commands.open():
                async for message in link.messages:
                    await self.commands.handle(respond, message.payload)
        finally:
            reporting.cancel()
            await asyncio.wait([reporting])
            if self.fault is Fault.LARGE_MESSAGE:
                with contextlib.suppress(aiomqtt.MqttError):  # remove the retained message from the broker
                    await link.publish(self.topic("status", self.message_count), b"", qos=1, retain=True)

    async def _report(self, link: MqttClient) -> None:
        if self._is_boot_looping:
            return
        await asyncio.sleep(self._random.uniform(0, self.options.interval))
        # The reader of messages handles a lost connection; here it only ends the reports.
        with contextlib.suppress(aiomqtt.MqttError):
            while True:
                await self._publish_status(link)
                await asyncio.sleep(self.options.interval)

    async def _run_ghost(self, link: MqttClient) -> None:
        # Publish only once: a repeat after a reconnect would look like a live camera.
        await link.publish(self.topic("status"), json.dumps(self.status()), qos=1, retain=True)
        self._set_online()
        try:
            await asyncio.Event().wait()
        finally:
            with contextlib.suppress(aiomqtt.MqttError):  # remove the retained message from the broker
                await link.publish(self.topic("status"), b"", qos=1, retain=True)

    async def _publish_status(self, link: MqttClient, state: str = "ONLINE", *, qos: int = 0) -> None:
        self.message_count += 1
        topic = self.topic("status", self.message_count)
        payload, retain = encode_status(self.fault, self.status(state)), self.options.retain
        if self.fault is Fault.LARGE_MESSAGE:
            payload, retain = payload.ljust(LARGE_MESSAGE_BYTES), True
        await link.publish(topic, payload, qos=qos, retain=retain)

    def _set_online(self) -> None:
        self.connected.set()
        self.reported.set()
        self._notify("online")
        if self._is_joining:
            self._is_joining = False
            self._notify("joined", clean_text(self.ssid) or "")

    def _notify(self, event: str, detail: str = "") -> None:
        if self.on_event is not None:
            self.on_event(self, event, detail)

    def _header(self, state: str) -> dict[str, Any]:
        mac = self._spell_mac(self.published_mac, self.message_count)
        return {"device_id": self.device_id, "mac": mac, "state": state, "timestamp": _now()}

    def _spell_mac(self, mac: Mac, turn: int) -> str:
        if self.fault is Fault.MAC_SHORT:
            return short_spelling(mac)
        return self.options.mac_style.spell(mac, turn)

    def _network(self) -> dict[str, Any]:
        optional = {"container_id": self._container_id, "last_error": self.provisioning.last_error}
        return {"ssid": self.ssid} | {name: value for name, value in optional.items() if value is not None}

    def _rssi(self) -> int:
        return -45 - int(self.mac[-2:], 16) % 30 + self._random.randint(-2, 2)

    def _free_heap(self) -> int:
        return 118_000 + self._random.randint(-4_000, 4_000)


async def _send_now(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Send the response before returning, because the reboot that follows closes the connection."""
    await response.prepare(request)
    await response.write_eof()
    return response


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
