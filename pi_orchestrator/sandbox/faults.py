"""Faults of simulated cameras, and the HTTP servers that implement some of them.

Some faults need bytes that no HTTP library sends. Their server is plain TCP: one request, one bad answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any, Final, Self

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.sandbox.server import tcp_server

BYTE_INTERVAL_S: Final = 1.0
SHARED_ID: Final = "esp32cam"
BOMB_BYTES: Final = 16 * 1024 * 1024
MANY_HEADERS: Final = 10_000
_CHUNK: Final = b"A" * 65_536
_SPEC = re.compile(r"(?P<name>[a-z0-9-]+)(?::(?P<count>[0-9]{1,6}))?", re.ASCII)


LARGE_MESSAGE_BYTES: Final = 13 * 1024 * 1024


class Fault(StrEnum):
    """A fault of a simulated camera; `meaning` describes it in one line."""

    meaning: str

    SLOW = "slow", "/status: headers immediately, then one byte of the body per second"
    WRONG_MAC = "wrong-mac", "/status: MAC address of another camera"
    MAC_SHORT = "mac-short", "writes its MAC address without leading zeros, like 24:6F:28:8:0:1, everywhere"
    NO_MAC = "no-mac", "/status: camera settings and no MAC address, like stock firmware"
    BAD_JSON = "bad-json", "/status: truncated JSON"
    HTTP_500 = "http-500", "every request is answered with status 500"
    ENDLESS = "endless", "/status: a body that never ends"
    REDIRECT = "redirect", "every request is redirected to http://127.0.0.1/"
    SILENT = "silent", "accepts the connection and never answers"
    CLOSE = "close", "closes the connection before the answer is complete"
    GZIP_BOMB = "gzip-bomb", "answers with a few KiB of gzip that unpack to 16 MiB"
    MANY_HEADERS = "many-headers", "answers with 10,000 headers"
    TLS_BYTES = "tls-bytes", "answers plain HTTP with TLS bytes"
    FLAPPING = "flapping", "loses power every few seconds: last will, then online again"
    BOOT_LOOP = "boot-loop", "crashes a few seconds after every start and boots again at once, uptime 0"
    GHOST = "ghost", "a retained ONLINE message without a camera"
    LARGE_MESSAGE = "large-message", "every status is a retained message of 13 MiB, more than the daemon reads"
    NO_HTTP = "no-http", "MQTT only, no HTTP server"
    PROVISION_REJECT = "provision-reject", "/provision is rejected with status 422"
    PROVISION_HANG = "provision-hang", "/provision is never answered; /status is"
    PROVISION_500 = "provision-500", "/provision is answered with status 500 and changes nothing"
    PROVISION_FLAKY = "provision-flaky", "the first /provision is answered with status 500, the second is accepted"
    PROVISION_ECHO = "provision-echo", "/provision is rejected with the password in the answer and in last_error"
    PROVISION_VANISH = "provision-vanish", "accepts /provision, leaves its network and does not return"
    PROVISION_MOVED = "provision-moved", "accepts /provision and returns with another address"
    WRONG_PASSWORD = "wrong-password", "accepts /provision, cannot join, and returns to its old network"
    ANSWER_LOST = "answer-lost", "accepts /provision, but closes the connection before the answer"
    CLONED_MAC = "cloned-mac", "/status: other HTTP server and headers from the second answer on"
    PROVISION_BOOT_LOOP = "provision-boot-loop", "accepts /provision, then loses power soon after every start"
    CAPTURE_SHUFFLED = "capture-shuffled", "sends the chunks of a picture in random order"
    CAPTURE_DOUBLED = "capture-doubled", "sends every chunk of a picture twice"
    CAPTURE_MISSING = "capture-missing", "leaves out one chunk of every picture"
    CAPTURE_OVERSIZED = "capture-oversized", "announces pictures of 9 MiB"
    CAPTURE_WRONG_INDEX = "capture-wrong-index", "sends chunk indexes beyond the announced number"
    CAPTURE_NOT_JPEG = "capture-not-jpeg", "sends JPEG data without its end"
    CAPTURE_NO_ACK = "capture-no-ack", "does not answer capture commands over MQTT; HTTP works"
    CAPTURE_STALLS = "capture-stalls", "stops sending in the middle of a picture"
    CAPTURE_ERROR = "capture-error", "reports a sensor error for every picture"
    CAPTURE_FOREIGN = "capture-foreign", "answers capture commands with another camera's id"
    CAPTURE_REBOOTS = "capture-reboots", "reboots in the middle of a picture"
    CAPTURE_HANGS = "capture-hangs", "captures hang until the next reboot"
    PADDED_JPEG = "padded-jpeg", "every picture is followed by 512 zero bytes, by MQTT and HTTP"
    NO_CONTENT_TYPE = "no-content-type", "/capture: a picture without Content-Type; no pictures over MQTT"
    PADDED_JSON = "padded-json", "status and /status with a byte order mark, spaces and trailing zero bytes"
    BAD_STATUS = "bad-status", "status and /status with an unescaped quote, so that they are not JSON"
    PLAIN_WILL = "plain-will", "its last will is the plain text offline"
    UPTIME_KEPT = "uptime-kept", "reboots without a REBOOTING message, and its uptime continues"
    SHARED_ID = "shared-id", "has the device id esp32cam and its topics, like every camera with this fault"
    TOPIC_TAKEOVER = "topic-takeover", "publishes as the first healthy camera on a topic of its own, with errors"
    ID_REVERSED = "id-reversed", "its device id and topics are its MAC with the bytes in reverse order"
    REBOOT_IGNORED = "reboot-ignored", "confirms a restart but does not reboot"
    REBOOT_VANISH = "reboot-vanish", "reboots and stays offline until its power is cycled"

    def __new__(cls, value: str, meaning: str) -> Self:
        """A member with a text value and its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    @property
    def accepts_tcp(self) -> bool:
        """Whether a camera with this fault accepts TCP connections."""
        return self not in {Fault.GHOST, Fault.NO_HTTP}

    @property
    def uses_own_topic_id(self) -> bool:
        """Whether the fault sets the id in the camera's topics, so that `IdStyle` has no effect."""
        return self in {Fault.SHARED_ID, Fault.TOPIC_TAKEOVER, Fault.ID_REVERSED}

    @property
    def is_raw(self) -> bool:
        """Whether `raw_server` replaces the normal HTTP server."""
        return self in _RAW_ANSWERS


def parse_faults(specs: Iterable[str], *, count: int) -> list[Fault | None]:
    """Parse `["slow:2", "ghost"]` into one entry per camera, healthy ones (None) first; FieldError."""
    by_name = {fault.value: fault for fault in Fault}
    faults: list[Fault] = []
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise FieldError(f"{spec[:40]!r} is not a fault. Use NAME or NAME:COUNT, with one of: {', '.join(by_name)}")
        if match["name"] not in by_name:
            raise FieldError(f"unknown fault {match['name'][:40]!r}. Use one of: {', '.join(by_name)}")
        faults += [by_name[match["name"]]] * int(match["count"] or 1)
        if len(faults) > count:
            raise FieldError(f"more faults than cameras ({count}): increase --count or remove faults")
    return [None] * (count - len(faults)) + faults


def other_mac(mac: Mac) -> Mac:
    """A MAC of the same vendor that cannot belong to the same ESP32 as `mac`."""
    digits = f"{int(mac.replace(':', ''), 16) ^ 0x80_0000:012X}"
    return Mac(":".join(digits[i : i + 2] for i in range(0, 12, 2)))


def short_spelling(mac: Mac) -> str:
    """A MAC without leading zeros: `24:6F:28:8:0:1`."""
    return ":".join(f"{int(group, 16):X}" for group in mac.split(":"))


def reversed_mac(mac: Mac) -> str:
    """The MAC with its bytes in reverse order, without separators; it may be a multicast address."""
    return "".join(mac.split(":")[::-1]).lower()


def device_id_of(fault: Fault | None, mac: Mac) -> str:
    """The device id of a camera with this fault."""
    digits = mac.replace(":", "").lower()[-6:]
    match fault:
        case Fault.SHARED_ID:
            return SHARED_ID
        case Fault.TOPIC_TAKEOVER:
            return f"evil-{digits}"
        case Fault.ID_REVERSED:
            return reversed_mac(mac)
    return f"espcam-{digits}"


def status_with_fault(fault: Fault | None, body: dict[str, Any], *, mac: Mac) -> dict[str, Any]:
    """The body of `/status` with this fault; unchanged for other faults."""
    if fault is Fault.WRONG_MAC:
        return body | {"mac": other_mac(mac)}
    if fault is Fault.NO_MAC:
        return dict(_STOCK_SETTINGS)
    return body


def encode_status(fault: Fault | None, fields: dict[str, Any]) -> bytes:
    """The bytes of a status message or of `/status` with this fault."""
    text = json.dumps(fields)
    if fault is Fault.BAD_STATUS:
        text = '{"location":"the "blue" room",' + text[1:]
    if fault is Fault.PADDED_JSON:
        text = f"\ufeff {text} \r\n" + "\0" * 16
    return text.encode()


def status_headers(fault: Fault | None, *, answers: int) -> dict[str, str]:
    """Headers of an answer to `/status` with this fault; `answers` is the number of earlier answers."""
    return {"Server": "lighttpd", "X-Powered-By": "PHP"} if fault is Fault.CLONED_MAC and answers else {}


def raw_server(
    fault: Fault, *, sock: socket.socket, status: Callable[[], dict[str, Any]]
) -> contextlib.AbstractAsyncContextManager[None]:
    """Serve `fault` on a bound socket; at the end every connection is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _RAW_ANSWERS[fault](reader, writer, json.dumps(status()).encode())

    return tcp_server(sock, answer)


def _answer(status: str, *headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {size}"]
    return "\r\n".join([*lines, *headers, "Connection: close", "", ""]).encode() + body


async def _slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_answer("200 OK", length=len(body)))
    for byte in body:
        await asyncio.sleep(BYTE_INTERVAL_S)
        writer.write(bytes((byte,)))
        await writer.drain()


async def _bad_json(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_answer("200 OK", body=body[: len(body) // 2]))


async def _http_500(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_answer("500 Internal Server Error", body=b'{"error":"camera init failed 0x20001"}'))


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
    writer.write(b'{"device_id":"')
    while True:
        writer.write(_CHUNK)
        await writer.drain()
        # A fast reader never fills the buffer, so drain alone would not yield.
        await asyncio.sleep(0.01)


async def _redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_answer("302 Found", "Location: http://127.0.0.1/"))


async def _silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter, __: bytes) -> None:
    while await reader.read(4096):
        pass


async def _close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_answer("200 OK", body=body[: len(body) // 2], length=len(body)))


async def _gzip_bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    bomb = await asyncio.to_thread(_bomb)
    writer.write(_answer("200 OK", "Content-Encoding: gzip", body=bomb))


async def _many_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_answer("200 OK", *(f"X-Pad-{n}: {n}" for n in range(MANY_HEADERS)), body=body))


async def _tls_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> None:
    await reader.read(1)
    # A ServerHello record of zeros, then the alert "handshake failure".
    writer.write(b"\x16\x03\x03\x00\x50\x02\x00\x00\x4c\x03\x03" + bytes(74) + b"\x15\x03\x03\x00\x02\x02\x28")


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(b'{"pad":"' + b"0" * BOMB_BYTES + b'"}', mtime=0)


_RawAnswer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]
_RAW_ANSWERS: Final[dict[Fault, _RawAnswer]] = {
    Fault.SLOW: _slow,
    Fault.BAD_JSON: _bad_json,
    Fault.HTTP_500: _http_500,
    Fault.ENDLESS: _endless,
    Fault.REDIRECT: _redirect,
    Fault.SILENT: _silent,
    Fault.CLOSE: _close,
    Fault.GZIP_BOMB: _gzip_bomb,
    Fault.MANY_HEADERS: _many_headers,
    Fault.TLS_BYTES: _tls_bytes,
}
_STOCK_SETTINGS: Final[dict[str, int]] = {
    "xclk": 20,
    "pixformat": 4,
    "framesize": 8,
    "quality": 10,
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "awb": 1,
    "aec": 1,
    "agc": 1,
    "hmirror": 0,
    "vflip": 0,
    "led_intensity": 0,
}
