"""Netlink by its bytes: a socket on which the kernel is asked, and how its messages are put together and taken apart.

It is spoken here without a library: the one there is costs 8 MiB and a tenth of a second, for a handful of questions.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR_CODE = struct.Struct("=i")
_TYPE_MASK = 0x3FFF  # the two highest bits of an attribute's type tell how it is packed
_ERROR, _DONE = 2, 3
_REQUEST, _MULTI, _INTERRUPTED, _DUMP = 0x1, 0x2, 0x10, 0x300
_PIECE = 65536  # the kernel sends no more at once


class RefusedError(OSError):
    """The kernel's own error in answer to a question; the socket is as good as before."""


class KernelSocket:
    """One question at a time; after any other error than RefusedError it is of no more use and must be closed."""

    def __init__(self, protocol: int, *, sock: socket.socket | None = None) -> None:
        self._socket = sock or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.setblocking(False)
        self._sequence = 0

    def close(self) -> None:
        """May be called twice."""
        self._socket.close()

    async def ask(self, kind: int, body: bytes, *, dump: bool = False) -> list[tuple[int, bytes]]:
        """(type, body) of every message that answers; OSError where the kernel refuses or makes no sense."""
        self._sequence += 1
        loop = asyncio.get_running_loop()
        flags = _REQUEST | (_DUMP if dump else 0)
        await loop.sock_sendall(self._socket, message(kind, flags, self._sequence, body))
        found: list[tuple[int, bytes]] = []
        while True:
            data = await loop.sock_recv(self._socket, _PIECE)
            for answer, its_flags, sequence, _, its_body in messages(data):
                if sequence != self._sequence:
                    continue  # for whoever gave up on it
                if answer in (_ERROR, _DONE):
                    _raise_error(its_body)
                    return found
                if its_flags & _INTERRUPTED:
                    raise RefusedError(errno.EINTR, "it changed while it was told")
                found.append((answer, its_body))
                if not its_flags & _MULTI:
                    return found


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message from this process to the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """(type, flags, sequence, port of who asked, body) of each message in what was read at once."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size or offset + size > len(data):
            return
        yield kind, flags, sequence, port, data[offset + _HEADER.size : offset + size]
        offset += (size + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded as the next one needs it."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Type → payload, up to the first that does not fit; of two of a type the first."""
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < _ATTRIBUTE.size or offset + size > len(data):
            break
        found.setdefault(kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + size])
        offset += (size + 3) & ~3
    return found


def _raise_error(body: bytes) -> None:
    """The error that ends an answer, if it does; 0 is an acknowledgement."""
    code = -_ERROR_CODE.unpack_from(body)[0] if len(body) >= _ERROR_CODE.size else 0
    if code > 0:
        raise RefusedError(code, os.strerror(code))
