"""Watches the kernel's neighbour entry of one address while something secret is sent to it. Needs no privilege.

A TCP connection does not fix the MAC of its peer: each segment, a repeated one too, goes to the MAC that the entry has
at that moment, and any device of the network can change the entry with a gratuitous ARP request. To fix the entry
needs CAP_NET_ADMIN. So every change is received, from the first check on, and the last check runs immediately before
the secret is written: the kernel answers a request within the system call, without a turn of the event loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address

from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.errors import VerificationError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.net.kernel.events import (
    AF_INET,
    ATTRIBUTE,
    DEL_NEIGHBOUR,
    DELAY,
    GET_NEIGHBOUR,
    GROUP_NEIGHBOUR,
    HEADER,
    MAX_READS,
    NDA_DST,
    NDMSG,
    NEW_NEIGHBOUR,
    NOARP,
    PERMANENT,
    PROBE,
    REACHABLE,
    STALE,
    decode_attributes,
    decode_entry,
    decode_messages,
    open_socket,
)

_USABLE = REACHABLE | STALE | DELAY | PROBE | NOARP | PERMANENT
_REQUEST = 0x1
_NEW_ROUTE, _GET_ROUTE = 24, 26
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTA_DST, _RTA_OIF = 1, 4
_CHUNK = 8192


class NeighbourWatch:
    """Follows the entry of an address that must belong to `mac`; `on_other` is called once if it names another MAC.

    `other` is that MAC. Changes before the first `check` do not count.
    """

    def __init__(self, address: IPv4Address, mac: Mac, *, on_other: Callable[[], None]) -> None:
        self._address = address
        self._mac = mac
        self._on_other = on_other
        self._socket: socket.socket | None = None
        self._port = 0
        self._index = 0
        self._answer: tuple[int, bytes] | None = None
        self._is_armed = False
        self._has_lost_changes = False
        self.other: Mac | None = None

    def open(self) -> None:
        """Start to follow the entry; OSError if netlink is not available."""
        self._socket = open_socket(GROUP_NEIGHBOUR, on_readable=self._read)
        self._port = self._socket.getsockname()[0]

    def close(self) -> None:
        """Stop following; may be called twice."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def check(self) -> None:
        """Raise VerificationError unless the entry names the MAC, and has named no other since the first check.

        Does not wait: nothing else of this process runs between the kernel's answer and the return.
        """
        try:
            current = self._look_up()
        except OSError as error:
            raise VerificationError(
                f"the kernel's neighbour table cannot be read: {os.strerror(error.errno or 0)}",
                code=VerificationCode.UNREACHABLE,
            ) from None
        if self.other or (current and current != self._mac):
            raise VerificationError(
                f"{self._mac} was announced, but the kernel has {self.other or current} at {self._address}",
                code=VerificationCode.MAC_MISMATCH,
            )
        if current is None:
            raise VerificationError(
                f"the kernel has no MAC for {self._address}: it is not directly on the camera network",
                code=VerificationCode.UNREACHABLE,
            )
        if self._has_lost_changes:
            raise VerificationError(
                "the neighbour table changes too fast to be followed", code=VerificationCode.UNREACHABLE
            )
        self._is_armed = True

    def _look_up(self) -> Mac | None:
        """The MAC that the entry names now, None without a usable entry; earlier changes are processed first."""
        destination = ATTRIBUTE.pack(8, _RTA_DST) + self._address.packed
        route = self._request(_GET_ROUTE, _RTMSG.pack(AF_INET, 32, 0, 0, 0, 0, 0, 0, 0) + destination)
        if route is None or route[0] != _NEW_ROUTE:
            return None
        interface = dict(decode_attributes(route[1], _RTMSG.size)).get(_RTA_OIF, b"")
        if len(interface) != 4:
            return None
        (self._index,) = struct.unpack("=i", interface)
        destination = ATTRIBUTE.pack(8, NDA_DST) + self._address.packed
        found = self._request(GET_NEIGHBOUR, NDMSG.pack(AF_INET, self._index, 0, 0, 0) + destination)
        if found is None or found[0] != NEW_NEIGHBOUR:
            return None
        entry = decode_entry(found[1], self._index)
        return entry.mac if entry and entry.ip == self._address and entry.state & _USABLE else None

    def _request(self, kind: int, body: bytes) -> tuple[int, bytes] | None:
        """The kernel's answer, type and body; changes that arrived before it are processed first."""
        if self._socket is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._answer = None
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, _REQUEST, 1, 0) + body)
        while self._receive():
            pass
        return self._answer

    def _read(self) -> None:
        """Process changes as they arrive, a limited number per turn of the event loop."""
        for _ in range(MAX_READS):
            if not self._receive():
                return

    def _receive(self) -> bool:
        """Process one datagram; False if there is none."""
        if self._socket is None:
            return False
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            # ENOBUFS: the kernel has dropped notifications. A different entry is still seen by the next check.
            self._has_lost_changes = self._has_lost_changes or self._is_armed
            return error.errno == errno.ENOBUFS
        for kind, port, body in decode_messages(data):
            if port == self._port:
                self._answer = kind, body
            elif kind in (NEW_NEIGHBOUR, DEL_NEIGHBOUR) and self._is_armed:
                self._process_change(body)
        return True

    def _process_change(self, body: bytes) -> None:
        entry = decode_entry(body, self._index)
        if entry and entry.ip == self._address and entry.mac and entry.mac != self._mac and self.other is None:
            self.other = entry.mac
            self._on_other()
