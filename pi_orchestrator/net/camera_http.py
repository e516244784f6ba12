"""HTTP client for cameras. A camera is untrusted: time, body size and headers are bounded."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from pydantic import SecretStr

from pi_orchestrator.core.byte_budget import ByteBudget
from pi_orchestrator.core.error_codes import ErrorCode, VerificationCode
from pi_orchestrator.core.errors import CaptureError, FieldError, ProvisionError, RebootError, VerificationError
from pi_orchestrator.core.identifiers import parse_device_id
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.core.validation import clean_number, clean_text, parse_camera_object
from pi_orchestrator.core.wifi import MAX_SSID_BYTES, Credentials, MqttAccess
from pi_orchestrator.net.jpeg import MAX_IMAGE_BYTES, cut_jpeg, other_content_type

MAX_BODY_BYTES = 64 * 1024
PROBE_TIMEOUT_S = 4.0
"""For `GET /status` of a device that may not be a camera; settings define the timeout for a camera."""
_CAMERA_FIELDS = frozenset({"camera_initialized", "framesize"})
"""Fields that only cameras report. `camera_initialized`: DeliCasa firmware; `framesize`: stock CameraWebServer."""
_UNLIMITED = aiohttp.ClientTimeout(total=None)
"""Every request has its own `asyncio.timeout`."""
_CONNECTION_LOST = (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, OSError)


@dataclass(frozen=True, slots=True)
class CameraAnswer:
    """Response to `GET /status`; `mac` is None if the firmware does not report it, `ssid` is the joined network.

    `is_camera` is true if it has a field that only cameras have: other devices serve a `/status` too. `server` is its
    `Server` header (empty if missing), `header_names` are the names of all its headers.
    """

    mac: Mac | None
    device_id: str | None
    firmware_version: str | None
    is_camera: bool
    rssi_dbm: int | None = None
    ssid: str | None = None
    server: str = ""
    header_names: tuple[str, ...] = ()


BeforeWrite = Callable[[asyncio.WriteTransport | None], None]
"""Called with the transport immediately before credentials are written to it; VerificationError: nothing is written."""


def new_session(*, keeps_connection: bool = False, trace: aiohttp.TraceConfig | None = None) -> aiohttp.ClientSession:
    """An aiohttp session for requests to cameras: no proxy, no cookies, no decompression.

    `keeps_connection`: for one camera, whose requests share a connection. Otherwise each request has its own.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            force_close=not keeps_connection,
            limit=1 if keeps_connection else 0,
            ttl_dns_cache=None,
            use_dns_cache=False,
        ),
        trace_configs=[trace] if trace else None,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        headers={"User-Agent": "pi-orchestrator", "Accept": "application/json", "Accept-Encoding": "identity"},
    )


class CameraHttpClient:
    """HTTP requests to cameras by IP address."""

    def __init__(self, *, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self.port = port

    async def status(self, address: str, *, timeout_s: float) -> CameraAnswer:
        """Send `GET /status` and parse the response, within `timeout_s` in total; VerificationError otherwise."""
        try:
            async with asyncio.timeout(timeout_s):
                body, headers = await self._get_status(f"http://{address}:{self.port}/status")
        except TimeoutError:
            raise _verification_error(
                VerificationCode.TIMEOUT, f"no response from {address} within {timeout_s:g} s"
            ) from None
        return replace(_parse(body), server=headers.get("Server", ""), header_names=tuple(headers))

    async def provision(
        self,
        address: str,
        *,
        credentials: Credentials,
        mqtt: MqttAccess,
        container_id: str | None,
        request_id: str,
        timeout_s: float,
        before_write: BeforeWrite | None = None,
    ) -> None:
        """Send `POST /provision` once; returns when the camera has accepted, ProvisionError otherwise.

        The error has no text of the camera and no context: a camera may echo the credentials.
        """
        fields = {
            "ssid": credentials.ssid,
            "password": credentials.password,
            "mqtt": {"host": mqtt.host, "port": mqtt.port, "username": mqtt.username, "password": mqtt.password},
            "container_id": container_id,
            "request_id": request_id,
        }
        body = _SecretBody(fields, before_write)
        failure = await self._post_credentials(f"http://{address}:{self.port}/provision", body, timeout_s=timeout_s)
        if failure is not None:
            raise failure

    async def capture(self, address: str, *, timeout_s: float, budget: ByteBudget) -> bytes:
        """Send `GET /capture`: a JPEG without padding, else CaptureError. Bytes count against `budget` while read."""
        url = f"http://{address}:{self.port}/capture"
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
                f"no picture from {address} by HTTP within {timeout_s:g} s", code=ErrorCode.CAPTURE_TIMEOUT
            ) from None
        except FieldError as error:
            raise CaptureError(f"bad response to GET /capture: {error}") from None
        except aiohttp.ClientConnectorError as error:
            raise CaptureError(f"cannot connect to {address}: {_os_reason(error)}") from None
        except _CONNECTION_LOST as error:
            raise CaptureError(f"the connection was lost during GET /capture: {_short_text(error)}") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise CaptureError(f"invalid HTTP response to GET /capture: {_short_text(error)}") from None

    async def reboot(self, address: str, *, timeout_s: float) -> None:
        """Send `POST /reboot`; returns when the camera has accepted, RebootError otherwise."""
        url = f"http://{address}:{self.port}/reboot"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(url, data=b"", allow_redirects=False, timeout=_UNLIMITED) as response,
            ):
                if response.status not in {200, 202}:
                    raise RebootError(f"the camera answered POST /reboot with status {response.status}")
        except TimeoutError:
            raise RebootError(f"no response to POST /reboot within {timeout_s:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise RebootError(f"cannot connect to {address}: {_os_reason(error)}") from None
        except (*_CONNECTION_LOST, aiohttp.ClientError, ValueError) as error:
            raise RebootError(f"invalid HTTP response to POST /reboot: {_short_text(error)}") from None

    async def _get_status(self, url: str) -> tuple[bytes, Mapping[str, str]]:
        try:
            async with self._session.get(url, allow_redirects=False, timeout=_UNLIMITED) as response:
                if response.status != 200:
                    raise _verification_error(
                        VerificationCode.BAD_STATUS, f"bad response to GET /status: status {response.status}"
                    )
                return await _read_bounded(response), response.headers
        except FieldError as error:
            raise _verification_error(VerificationCode.BAD_BODY, f"bad response to GET /status: {error}") from None
        except aiohttp.ClientConnectorError as error:
            raise _verification_error(VerificationCode.UNREACHABLE, f"cannot connect: {_os_reason(error)}") from None
        except _CONNECTION_LOST as error:
            raise _verification_error(
                VerificationCode.BAD_BODY, f"the connection was lost: {_short_text(error)}"
            ) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise _verification_error(
                VerificationCode.BAD_BODY, f"invalid HTTP response: {_short_text(error)}"
            ) from None

    async def _post_credentials(self, url: str, body: _SecretBody, *, timeout_s: float) -> ProvisionError | None:
        # Returned, not raised: an error raised in an `except` block keeps the caught error and its text as its context.
        code = ErrorCode.DEVICE_UNREACHABLE
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(url, data=body, allow_redirects=False, timeout=_UNLIMITED) as response,
            ):
                return await _provision_error(response)
        except TimeoutError:
            code = ErrorCode.DEVICE_TIMEOUT
            message = f"{'no response' if body.sent else 'cannot connect'} within {timeout_s:g} s"
        except aiohttp.ClientConnectorError as error:
            message = f"cannot connect: {_os_reason(error)}"
        except _CONNECTION_LOST:
            message = "the connection was lost before the response"
        except (aiohttp.ClientError, ValueError):
            message = "invalid HTTP response to POST /provision"
        if body.refusal:
            return ProvisionError(body.refusal.message, code=body.refusal.code, may_have_arrived=False)
        return ProvisionError(message, code=code, may_have_arrived=body.sent)


class _SecretBody(aiohttp.BytesPayload):
    """A JSON body with the secrets in plain text; records whether any of it was `sent`, or in `refusal` why not."""

    def __init__(self, fields: dict[str, Any], before_write: BeforeWrite | None) -> None:
        # Plain UTF-8, no escapes: every parser reads it. Lone surrogates are replaced: their error would show the text.
        text = json.dumps(_without_none(fields), default=_reveal, ensure_ascii=False)
        super().__init__(text.encode(errors="replace"), content_type="application/json")
        self.sent = False
        self.refusal: VerificationError | None = None
        self._before_write = before_write

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        # No await may come between this check and the write: the write reaches the kernel before other tasks run.
        if self._before_write:
            try:
                self._before_write(writer.transport)
            except VerificationError as error:
                self.refusal = error
                raise
        self.sent = True
        await super().write_with_length(writer, content_length)


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, at all levels, that are not None."""
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if value is not None
    }


def _reveal(secret: SecretStr) -> str:
    return secret.get_secret_value()


async def _provision_error(response: aiohttp.ClientResponse) -> ProvisionError | None:
    """The error that a response to `POST /provision` means; None if the camera has accepted."""
    # `unclear`: the camera may have accepted; the caller must find out before it sends the credentials again.
    rejected, unclear = ErrorCode.DEVICE_REJECTED, ErrorCode.DEVICE_UNREACHABLE
    if 400 <= response.status < 500:
        return ProvisionError(
            f"the camera rejected POST /provision with status {response.status}", code=rejected, may_have_arrived=False
        )
    if response.status not in {200, 202}:
        return ProvisionError(
            f"the camera answered POST /provision with status {response.status}", code=unclear, may_have_arrived=True
        )
    try:
        accepted = parse_camera_object(await _read_bounded(response), max_bytes=MAX_BODY_BYTES).get("accepted")
    except FieldError:
        accepted = None
    if accepted is True:
        return None
    if accepted is False:
        return ProvisionError("the camera rejected the credentials", code=rejected, may_have_arrived=False)
    return ProvisionError(
        "the response to POST /provision has no boolean field `accepted`", code=unclear, may_have_arrived=True
    )


async def _read_picture(response: aiohttp.ClientResponse, budget: ByteBudget) -> bytes:
    if response.status != 200:
        raise FieldError(f"status {response.status}")
    if kind := other_content_type(response.headers.get("Content-Type")):
        raise FieldError(f"{kind}, not image/jpeg")
    jpeg = cut_jpeg(await _read_bounded(response, limit=MAX_IMAGE_BYTES, budget=budget))
    if jpeg is None:
        raise FieldError("not a JPEG")
    return jpeg


async def _read_bounded(
    response: aiohttp.ClientResponse, *, limit: int = MAX_BODY_BYTES, budget: ByteBudget | None = None
) -> bytes:
    """The body; FieldError if it is compressed or over `limit` bytes."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FieldError("compressed, although identity was requested")
    too_large = FieldError(f"over {limit // 1024} KiB")
    if (response.content_length or 0) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = counted = 0
    try:
        async for chunk in response.content.iter_chunked(65_536):
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise too_large
            if budget:
                counted += budget.take_or_raise(len(chunk))
        return b"".join(chunks)
    finally:
        if budget:
            budget.release(counted)


def _parse(body: bytes) -> CameraAnswer:
    try:
        fields: dict[str, Any] = parse_camera_object(body, max_bytes=MAX_BODY_BYTES)
    except FieldError as error:
        raise _verification_error(VerificationCode.BAD_BODY, f"bad response to GET /status: {error}") from None
    claimed_mac = fields.get("mac", fields.get("mac_address"))
    mac = try_mac(claimed_mac)
    if claimed_mac is not None and mac is None:
        raise _verification_error(
            VerificationCode.BAD_BODY, "bad response to GET /status: its mac is not a MAC address"
        )
    return CameraAnswer(
        mac=mac,
        device_id=parse_device_id(fields.get("device_id"), mac),
        firmware_version=clean_text(fields.get("firmware_version"), max_chars=64),
        is_camera=not _CAMERA_FIELDS.isdisjoint(fields),
        rssi_dbm=int(rssi) if (rssi := clean_number(fields.get("rssi"), low=-127, high=-1)) else None,
        ssid=clean_text(fields.get("ssid"), max_chars=MAX_SSID_BYTES),
    )


def _verification_error(code: VerificationCode, message: str) -> VerificationError:
    return VerificationError(message, code=code)


def _os_reason(error: aiohttp.ClientConnectorError) -> str:
    number = error.os_error.errno
    return os.strerror(number) if number else type(error.os_error).__name__


def _short_text(error: Exception) -> str:
    return clean_text(str(error), max_chars=80) or type(error).__name__
