"""What can be wrong with a simulated camera, and the HTTP servers that are wrong on purpose.

The faults of the wire need bytes that no HTTP library would send, so they have a server of their own:
plain TCP, one request, one bad answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any, Final, Self

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import FieldError

DRIP_S: Final = 1.0
BOMB_BYTES: Final = 16 * 1024 * 1024
MANY_HEADERS: Final = 10_000
_CHUNK: Final = b"A" * 65_536
_SPEC = re.compile(r"(?P<name>[a-z0-9-]+)(?::(?P<count>[0-9]{1,6}))?", re.ASCII)


class Fault(StrEnum):
    """One way to misbehave; `meaning` says it in a line."""

    meaning: str

    SLOW = "slow", "sends the head of /status at once, then one byte of the body a second"
    WRONG_MAC = "wrong-mac", "/status names another camera's MAC address"
    NO_MAC = "no-mac", "stock firmware: /status holds camera settings and no MAC address"
    BAD_JSON = "bad-json", "/status is JSON that breaks off"
    HTTP_500 = "http-500", "every request is answered with status 500"
    ENDLESS = "endless", "the body of /status never ends"
    REDIRECT = "redirect", "every request is sent on to http://127.0.0.1/"
    SILENT = "silent", "accepts the connection and never answers"
    CLOSE = "close", "closes the connection in the middle of the answer"
    GZIP_BOMB = "gzip-bomb", "a few kilobytes of gzip that unpack to 16 MiB"
    MANY_HEADERS = "many-headers", "an answer with 10,000 headers"
    TLS_BYTES = "tls-bytes", "answers plain HTTP with TLS bytes"
    FLAPPING = "flapping", "loses power every few seconds: last will, then a new birth"
    GHOST = "ghost", "a retained ONLINE message of a camera that is not there"
    NO_HTTP = "no-http", "speaks MQTT, but nothing listens for HTTP"
    PROVISION_REJECT = "provision-reject", "/provision is refused with status 422"
    PROVISION_HANG = "provision-hang", "/provision is never answered; /status is"
    PROVISION_500 = "provision-500", "/provision is answered with status 500 and changes nothing"
    PROVISION_FLAKY = "provision-flaky", "the first /provision is answered with status 500, the next one accepted"
    PROVISION_ECHO = "provision-echo", "/provision is refused with the password in the answer and in last_error"
    PROVISION_VANISH = "provision-vanish", "accepts /provision, leaves its network and never returns"
    PROVISION_MOVED = "provision-moved", "accepts /provision and returns with another address"
    WRONG_PASSWORD = "wrong-password", "accepts /provision, cannot join, and returns to the network it came from"
    ANSWER_LOST = "answer-lost", "accepts /provision, but the connection is cut before the answer"
    BOOT_LOOP = "boot-loop", "once provisioned, it loses power soon after every birth"
    CAPTURE_SHUFFLED = "capture-shuffled", "the chunks of a picture come in another order"
    CAPTURE_DOUBLED = "capture-doubled", "every chunk of a picture comes twice"
    CAPTURE_MISSING = "capture-missing", "one chunk of every picture is never sent"
    CAPTURE_OVERSIZED = "capture-oversized", "announces pictures of 9 MiB"
    CAPTURE_WRONG_INDEX = "capture-wrong-index", "counts its chunks beyond those that it has announced"
    CAPTURE_NOT_JPEG = "capture-not-jpeg", "its pictures break off before their end"
    CAPTURE_NO_ACK = "capture-no-ack", "commands to take a picture are not answered; HTTP is"
    CAPTURE_STALLS = "capture-stalls", "falls silent in the middle of a picture"
    CAPTURE_ERROR = "capture-error", "says that its sensor gives no picture"
    CAPTURE_FOREIGN = "capture-foreign", "answers in the name of another camera"
    CAPTURE_REBOOTS = "capture-reboots", "reboots in the middle of a picture"
    CAPTURE_HANGS = "capture-hangs", "takes no picture until it has been rebooted"
    REBOOT_IGNORED = "reboot-ignored", "says yes to a restart and does not reboot"
    REBOOT_VANISH = "reboot-vanish", "reboots and does not come back until its power is cycled"

    def __new__(cls, value: str, meaning: str) -> Self:
        """Keep the value as text and the meaning beside it."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    @property
    def listens(self) -> bool:
        """Whether such a camera accepts TCP connections at all."""
        return self not in {Fault.GHOST, Fault.NO_HTTP}

    @property
    def is_raw(self) -> bool:
        """Whether its HTTP side is a server of this module instead of the healthy one."""
        return self in _ANSWERS


def parse_faults(specs: Iterable[str], *, count: int) -> list[Fault | None]:
    """`["slow:2", "ghost"]` for `count` cameras → one entry each, healthy (None) first; FieldError."""
    known = {fault.value: fault for fault in Fault}
    faults: list[Fault] = []
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise FieldError(f"{spec[:40]!r} is not a fault such as slow or slow:2; known: {', '.join(known)}")
        if match["name"] not in known:
            raise FieldError(f"there is no fault {match['name'][:40]!r}; known: {', '.join(known)}")
        faults += [known[match["name"]]] * int(match["count"] or 1)
        if len(faults) > count:
            raise FieldError(f"more faults than cameras, of which there are {count}")
    return [None] * (count - len(faults)) + faults


def other_mac(mac: Mac) -> Mac:
    """Make a MAC of the same vendor that is neither `mac` nor near it."""
    digits = f"{int(mac.replace(':', ''), 16) ^ 0x80_0000:012X}"
    return Mac(":".join(digits[i : i + 2] for i in range(0, 12, 2)))


def bend_status(fault: Fault | None, body: dict[str, Any], *, mac: Mac) -> dict[str, Any]:
    """Give what a camera with this fault sends in place of the healthy `body` of `/status`."""
    if fault is Fault.WRONG_MAC:
        return body | {"mac": other_mac(mac)}
    if fault is Fault.NO_MAC:
        return dict(_STOCK_SETTINGS)
    return body


@contextlib.asynccontextmanager
async def raw_server(fault: Fault, *, sock: socket.socket, status: Callable[[], dict[str, Any]]) -> AsyncIterator[None]:
    """Answer on a bound socket as `fault` says; on leaving, every connection is cut."""
    open_tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.dumps(status()).encode()
        task = asyncio.current_task()
        if task is None:  # pragma: no cover
            return
        open_tasks.add(task)
        try:
            await _ANSWERS[fault](reader, writer, body)
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the other side has gone or talks nonsense: nothing to answer
        except asyncio.CancelledError:
            pass  # the server ends; a task of asyncio's streams that ends cancelled is logged as an error
        finally:
            open_tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(handle, sock=sock)
    try:
        yield
    finally:
        server.close()
        closing = tuple(open_tasks)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        await server.wait_closed()


def _answer(status: str, *headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {size}"]
    return "\r\n".join([*lines, *headers, "Connection: close", "", ""]).encode() + body


async def _slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_answer("200 OK", length=len(body)))
    for byte in body:
        await asyncio.sleep(DRIP_S)
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
        # A reader as fast as the writer never fills the buffer, so drain alone would not yield.
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


_Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]
_ANSWERS: Final[dict[Fault, _Answer]] = {
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
