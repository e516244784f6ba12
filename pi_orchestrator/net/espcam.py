"""HTTP to a camera, which is a stranger until proven otherwise: bounded in time, bytes, headers and trust."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp

from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.onboarding import Code
from pi_orchestrator.domain.status import parse_device_id
from pi_orchestrator.domain.strict_json import clean_number, clean_text, parse_object
from pi_orchestrator.errors import FieldError, OnboardingError

MAX_BODY_BYTES = 64 * 1024
_CAMERA_FIELDS = frozenset({"camera_initialized", "framesize"})
"""Of DeliCasa's firmware, and of the stock camera server."""


@dataclass(frozen=True, slots=True)
class CameraAnswer:
    """What `GET /status` said; `mac` is None where the firmware does not tell.

    `is_camera` where it holds what only a camera's answer holds: other devices serve a `/status` too.
    """

    mac: Mac | None
    device_id: str | None
    firmware_version: str | None
    is_camera: bool
    rssi_dbm: int | None = None


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
    """Asks cameras by address; every failure is an OnboardingError with a code of the contract."""

    def __init__(self, *, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._port = port

    async def status(self, address: str, *, timeout_s: float) -> CameraAnswer:
        """`GET /status`, parsed; the whole exchange takes at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                body = await self._get(f"http://{address}:{self._port}/status")
        except TimeoutError:
            raise _failure(Code.VERIFY_TIMEOUT, f"no answer from {address} within {timeout_s:g} s") from None
        return _parse(body)

    async def _get(self, url: str) -> bytes:
        try:
            async with self._session.get(
                url, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=None)
            ) as response:
                if response.status != 200:
                    raise _failure(Code.VERIFY_BAD_STATUS, f"GET /status answered {response.status}")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise _failure(Code.VERIFY_BAD_BODY, "the answer is compressed, which was not asked for")
                return await _read_bounded(response)
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or str(error.os_error)
            raise _failure(Code.VERIFY_UNREACHABLE, f"cannot connect: {reason}") from None
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise _failure(Code.VERIFY_BAD_BODY, f"the connection broke: {_brief(error)}") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise _failure(Code.VERIFY_BAD_BODY, f"not a proper HTTP answer: {_brief(error)}") from None


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    if (response.content_length or 0) > MAX_BODY_BYTES:
        raise _failure(Code.VERIFY_BAD_BODY, f"the answer is over {MAX_BODY_BYTES // 1024} KiB")
    body = bytearray()
    async for chunk in response.content.iter_chunked(8192):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _failure(Code.VERIFY_BAD_BODY, f"the answer is over {MAX_BODY_BYTES // 1024} KiB")
    return bytes(body)


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
    )


def _failure(code: Code, message: str) -> OnboardingError:
    return OnboardingError(message, code=code)


def _brief(error: Exception) -> str:
    return clean_text(str(error), max_chars=80) or type(error).__name__
