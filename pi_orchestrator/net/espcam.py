"""HTTP to a camera, which is a stranger until proven otherwise: bounded in time, bytes, headers and trust."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from pydantic import SecretStr

from pi_orchestrator.domain.capture import MAX_IMAGE_BYTES, Budget, is_jpeg
from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.onboarding import Code
from pi_orchestrator.domain.ssid import MAX_SSID_BYTES
from pi_orchestrator.domain.status import parse_device_id
from pi_orchestrator.domain.strict_json import clean_number, clean_text, parse_object
from pi_orchestrator.domain.wifi import Credentials, MqttAccess
from pi_orchestrator.errors import CaptureError, FieldError, OnboardingError, ProvisionError, RebootError

MAX_BODY_BYTES = 64 * 1024
_CAMERA_FIELDS = frozenset({"camera_initialized", "framesize"})
"""Of DeliCasa's firmware, and of the stock camera server."""
_UNLIMITED = aiohttp.ClientTimeout(total=None)
"""Each exchange has one limit of its own around it."""
_BROKEN = (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, OSError)


@dataclass(frozen=True, slots=True)
class CameraAnswer:
    """What `GET /status` said; `mac` is None where the firmware does not tell, `ssid` is the network that it is on.

    `is_camera` where it holds what only a camera's answer holds: other devices serve a `/status` too.
    """

    mac: Mac | None
    device_id: str | None
    firmware_version: str | None
    is_camera: bool
    rssi_dbm: int | None = None
    ssid: str | None = None


def new_session() -> aiohttp.ClientSession:
    """A session for cameras: no proxy, no cookies, no decompression, no connection kept."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0, ttl_dns_cache=None, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        headers={"User-Agent": "pi-orchestrator", "Accept": "application/json", "Accept-Encoding": "identity"},
    )


class EspCamClient:
    """Speaks to cameras by address; nothing that they send can cost more than its bounds."""

    def __init__(self, *, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._port = port

    async def status(self, address: str, *, timeout_s: float) -> CameraAnswer:
        """`GET /status`, parsed; the whole exchange takes at most `timeout_s`, OnboardingError says what went wrong."""
        try:
            async with asyncio.timeout(timeout_s):
                body = await self._get(f"http://{address}:{self._port}/status")
        except TimeoutError:
            raise _failure(Code.VERIFY_TIMEOUT, f"no answer from {address} within {timeout_s:g} s") from None
        return _parse(body)

    async def provision(
        self,
        address: str,
        *,
        credentials: Credentials,
        mqtt: MqttAccess,
        container_id: str | None,
        request_id: str,
        timeout_s: float,
    ) -> None:
        """`POST /provision`, sent once; returns when the camera has accepted, ProvisionError otherwise.

        The error says what happened in our words and has no context: a camera may echo what it was sent.
        """
        fields = {
            "ssid": credentials.ssid,
            "password": credentials.password,
            "mqtt": {"host": mqtt.host, "port": mqtt.port, "username": mqtt.username, "password": mqtt.password},
            "container_id": container_id,
            "request_id": request_id,
        }
        failure = await self._post(f"http://{address}:{self._port}/provision", fields, timeout_s=timeout_s)
        if failure is not None:
            raise failure

    async def capture(self, address: str, *, timeout_s: float, budget: Budget) -> bytes:
        """`GET /capture`: a JPEG; CaptureError says what came instead. What is being read counts against `budget`."""
        url = f"http://{address}:{self._port}/capture"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.get(
                    url, headers={"Accept": "image/jpeg"}, allow_redirects=False, timeout=_UNLIMITED
                ) as response,
            ):
                return await _read_picture(response, budget)
        except TimeoutError:
            raise CaptureError(
                f"no picture from {address} by HTTP within {timeout_s:g} s", code="CAPTURE_TIMEOUT"
            ) from None
        except FieldError as error:
            raise CaptureError(f"the answer to GET /capture is {error}") from None
        except aiohttp.ClientConnectorError as error:
            raise CaptureError(f"cannot connect to {address}: {_reason(error)}") from None
        except _BROKEN as error:
            raise CaptureError(f"the connection broke during GET /capture: {_brief(error)}") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise CaptureError(f"GET /capture was not answered in proper HTTP: {_brief(error)}") from None

    async def reboot(self, address: str, *, timeout_s: float) -> None:
        """`POST /reboot`; returns once the camera has accepted, RebootError otherwise."""
        url = f"http://{address}:{self._port}/reboot"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(url, data=b"", allow_redirects=False, timeout=_UNLIMITED) as response,
            ):
                if response.status not in {200, 202}:
                    raise RebootError(f"POST /reboot answered {response.status}")
        except TimeoutError:
            raise RebootError(f"POST /reboot was not answered within {timeout_s:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise RebootError(f"cannot connect to {address}: {_reason(error)}") from None
        except (*_BROKEN, aiohttp.ClientError, ValueError) as error:
            raise RebootError(f"POST /reboot was not answered in proper HTTP: {_brief(error)}") from None

    async def _get(self, url: str) -> bytes:
        try:
            async with self._session.get(url, allow_redirects=False, timeout=_UNLIMITED) as response:
                if response.status != 200:
                    raise _failure(Code.VERIFY_BAD_STATUS, f"GET /status answered {response.status}")
                return await _read_bounded(response)
        except FieldError as error:
            raise _failure(Code.VERIFY_BAD_BODY, f"the answer is {error}") from None
        except aiohttp.ClientConnectorError as error:
            raise _failure(Code.VERIFY_UNREACHABLE, f"cannot connect: {_reason(error)}") from None
        except _BROKEN as error:
            raise _failure(Code.VERIFY_BAD_BODY, f"the connection broke: {_brief(error)}") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise _failure(Code.VERIFY_BAD_BODY, f"not a proper HTTP answer: {_brief(error)}") from None

    async def _post(self, url: str, fields: dict[str, Any], *, timeout_s: float) -> ProvisionError | None:
        # Returned, not raised: an error that is raised while another is handled keeps that one, and its text, with it.
        body = _SecretBody(fields)
        code = "DEVICE_UNREACHABLE"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(url, data=body, allow_redirects=False, timeout=_UNLIMITED) as response,
            ):
                return await _refusal(response)
        except TimeoutError:
            code = "DEVICE_TIMEOUT"
            message = f"{'no answer' if body.sent else 'cannot connect'} within {timeout_s:g} s"
        except aiohttp.ClientConnectorError as error:
            message = f"cannot connect: {_reason(error)}"
        except _BROKEN:
            message = "the connection broke before the answer was there"
        except (aiohttp.ClientError, ValueError):
            message = "POST /provision was not answered in proper HTTP"
        return ProvisionError(message, code=code, may_have_arrived=body.sent)


class _SecretBody(aiohttp.BytesPayload):
    """A JSON body of which it is known whether any of it was `sent`; secrets are taken out of their wrapping here."""

    def __init__(self, fields: dict[str, Any]) -> None:
        # Plain UTF-8 is what the smallest parser reads. What has none is replaced: an error would show the whole text.
        text = json.dumps(_given(fields), default=_unwrapped, ensure_ascii=False)
        super().__init__(text.encode(errors="replace"), content_type="application/json")
        self.sent = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.sent = True
        await super().write_with_length(writer, content_length)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that have a value."""
    return {
        name: _given(value) if isinstance(value, dict) else value for name, value in fields.items() if value is not None
    }


def _unwrapped(secret: SecretStr) -> str:
    return secret.get_secret_value()


async def _refusal(response: aiohttp.ClientResponse) -> ProvisionError | None:
    """What an answer to `POST /provision` means; None where the camera has accepted."""
    refused, unclear = "DEVICE_REJECTED", "DEVICE_UNREACHABLE"
    if 400 <= response.status < 500:
        return ProvisionError(
            f"the camera refused: POST /provision answered {response.status}", code=refused, may_have_arrived=False
        )
    if response.status not in {200, 202}:
        return ProvisionError(f"POST /provision answered {response.status}", code=unclear, may_have_arrived=True)
    try:
        accepted = parse_object(await _read_bounded(response), max_bytes=MAX_BODY_BYTES).get("accepted")
    except FieldError:
        accepted = None
    if accepted is True:
        return None
    if accepted is False:
        return ProvisionError("the camera did not accept", code=refused, may_have_arrived=False)
    return ProvisionError(
        "the answer to POST /provision does not say whether it is accepted", code=unclear, may_have_arrived=True
    )


async def _read_picture(response: aiohttp.ClientResponse, budget: Budget) -> bytes:
    if response.status != 200:
        raise FieldError(f"status {response.status}")
    kind = response.content_type
    if not kind.startswith("image/jp"):
        raise FieldError(f"{clean_text(kind, max_chars=40)}, not image/jpeg")
    jpeg = await _read_bounded(response, limit=MAX_IMAGE_BYTES, budget=budget)
    if not is_jpeg(jpeg):
        raise FieldError("no JPEG")
    return jpeg


async def _read_bounded(
    response: aiohttp.ClientResponse, *, limit: int = MAX_BODY_BYTES, budget: Budget | None = None
) -> bytes:
    """The body; FieldError says what it is instead of one that is read."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FieldError("compressed, which was not asked for")
    too_long = FieldError(f"over {limit // 1024} KiB")
    if (response.content_length or 0) > limit:
        raise too_long
    pieces: list[bytes] = []
    size = counted = 0
    try:
        async for piece in response.content.iter_chunked(65_536):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_long
            if budget:
                counted += budget.take_or_raise(len(piece))
        return b"".join(pieces)
    finally:
        if budget:
            budget.give(counted)


def _parse(body: bytes) -> CameraAnswer:
    try:
        fields: dict[str, Any] = parse_object(body, max_bytes=MAX_BODY_BYTES)
    except FieldError as error:
        raise _failure(Code.VERIFY_BAD_BODY, f"the answer is {error}") from None
    claimed = fields.get("mac", fields.get("mac_address"))
    mac = try_mac(claimed)
    if claimed is not None and mac is None:
        raise _failure(Code.VERIFY_BAD_BODY, "the answer's mac is no MAC address")
    return CameraAnswer(
        mac=mac,
        device_id=parse_device_id(fields.get("device_id"), mac),
        firmware_version=clean_text(fields.get("firmware_version"), max_chars=64),
        is_camera=not _CAMERA_FIELDS.isdisjoint(fields),
        rssi_dbm=int(rssi) if (rssi := clean_number(fields.get("rssi"), low=-127, high=-1)) else None,
        ssid=clean_text(fields.get("ssid"), max_chars=MAX_SSID_BYTES),
    )


def _failure(code: Code, message: str) -> OnboardingError:
    return OnboardingError(message, code=code)


def _reason(error: aiohttp.ClientConnectorError) -> str:
    number = error.os_error.errno
    return os.strerror(number) if number else type(error.os_error).__name__


def _brief(error: Exception) -> str:
    return clean_text(str(error), max_chars=80) or type(error).__name__
