"""Netlink notifications: changes of neighbours, links and addresses.

A flood on the network causes thousands of notifications per second. So they are decoded by hand (1 µs each, pyroute2
needs 30 µs and more), a limited number per callback. Beyond a budget the socket is closed for a while. After lost
notifications the whole neighbour table is dumped again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.core.token_bucket import TokenBucket

INCOMPLETE, REACHABLE, STALE, DELAY, PROBE, FAILED, NOARP, PERMANENT = (1 << bit for bit in range(8))
"""Neighbour states (NUD_*), as the kernel's bits."""

MAX_READS = 64
"""Reads per callback, so that other tasks can run."""
NOTIFICATIONS_PER_S = 2000
PAUSE_S = 0.25
DUMP_TIMEOUT_S = 5.0
"""A dump takes milliseconds; after this timeout it counts as failed."""

_GROUP_LINK, GROUP_NEIGHBOUR, _GROUP_ADDRESS = 0x1, 0x4, 0x10
_ERROR, _DONE = 2, 3
_NEW_LINK, _DEL_LINK, _NEW_ADDRESS, _DEL_ADDRESS = 16, 17, 20, 21
NEW_NEIGHBOUR, DEL_NEIGHBOUR, GET_NEIGHBOUR = 28, 29, 30
_REQUEST_DUMP = 0x301
AF_INET = 2
_UP_AND_RUNNING = 0x41
_PROXY = 0x08
NDA_DST, _NDA_LLADDR, _NDA_CACHEINFO, _NDA_IFINDEX = 1, 2, 3, 8
HEADER = struct.Struct("=IHHII")
NDMSG = struct.Struct("=BxxxiHBB")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
ATTRIBUTE = struct.Struct("=HH")
_TICKS = os.sysconf("SC_CLK_TCK")
_CHUNK = 8192

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the neighbour table; `confirmed_s`: seconds since the MAC was last confirmed."""

    ip: IPv4Address
    mac: Mac | None
    state: int
    confirmed_s: float
    is_deleted: bool = False


OnNeighbour = Callable[[Entry], None]
OnLink = Callable[[int, bool], None]
"""Called with the index of a changed interface, and False if it was removed, is down or has no carrier.
Index 0: notifications may have been lost."""


def open_socket(groups: int, *, on_readable: Callable[[], None]) -> socket.socket:
    """A netlink socket that receives the notifications of these groups; OSError if netlink is not available."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((0, groups))
        asyncio.get_running_loop().add_reader(sock, on_readable)
    except BaseException:
        sock.close()
        raise
    return sock


class KernelEvents:
    """Notifications for the neighbours of one interface (`on_neighbour`), for links and addresses (`on_link`), or both.

    `dump`, and a loss of notifications, report the whole table: `on_dump(True)`, `on_neighbour` for each entry,
    `on_dump(False)`. An interrupted dump starts again.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        on_neighbour: OnNeighbour | None = None,
        on_dump: Callable[[bool], None] | None = None,
        on_link: OnLink | None = None,
    ) -> None:
        self._clock = clock
        self._on_neighbour = on_neighbour
        self._on_dump = on_dump
        self._on_link = on_link
        self._index = 0
        self._socket: socket.socket | None = None
        self._port = 0
        self._paused: asyncio.TimerHandle | None = None
        self._budget = TokenBucket(capacity=NOTIFICATIONS_PER_S, rate=NOTIFICATIONS_PER_S, now=0.0)
        self._dump_done = asyncio.Event()
        self._dumping = False
        self._dump_again = False

    def open(self, index: int = 0) -> None:
        """Start listening; `index` is the interface of the neighbours. OSError if netlink is not available."""
        self.close()
        self._index = index
        self._listen()

    def close(self) -> None:
        """Stop listening; may be called twice, and `open` starts again."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        self._close_socket()
        self._dump_done.set()

    async def dump(self) -> None:
        """Report every neighbour of the interface; OSError if the kernel does not answer."""
        if self._is_open():
            self._dump_done.clear()
            self._start_dump()
            if await self._clock.wait(self._dump_done, DUMP_TIMEOUT_S) and self._is_open():
                return
        raise OSError(errno.EIO, "no answer from the kernel about its neighbour table")

    def _is_open(self) -> bool:
        return self._socket is not None or self._paused is not None

    def _listen(self) -> None:
        groups = GROUP_NEIGHBOUR if self._on_neighbour else 0
        groups |= _GROUP_LINK | _GROUP_ADDRESS if self._on_link else 0
        self._socket = open_socket(groups, on_readable=self._read)
        self._port = self._socket.getsockname()[0]

    def _close_socket(self) -> None:
        self._dumping = self._dump_again = False
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _start_dump(self) -> None:
        # One dump at a time per socket; changes during a dump arrive as notifications.
        if self._socket is not None and not self._dumping:
            self._socket.send(_dump_request(self._index))
            self._dumping = True
            if self._on_dump:
                self._on_dump(True)

    def _read(self) -> None:
        for _ in range(MAX_READS):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                self._recover(error)
                return
            sock = self._socket
            for kind, port, body in decode_messages(data):
                self._process(kind, body, is_answer=port == self._port)
                if self._socket is not sock:
                    return  # closed by the budget, or by a callback

    def _process(self, kind: int, body: bytes, *, is_answer: bool) -> None:
        if is_answer and kind in (_DONE, _ERROR):
            self._on_dump_end()
        elif not is_answer and not self._budget.take(self._clock.monotonic()):
            self._pause()
        elif kind in (NEW_NEIGHBOUR, DEL_NEIGHBOUR) and self._on_neighbour:
            entry = decode_entry(body, self._index, is_deleted=kind == DEL_NEIGHBOUR)
            if entry is not None:
                self._on_neighbour(entry)
        elif self._on_link and (change := decode_link(kind, body)):
            self._on_link(*change)

    def _on_dump_end(self) -> None:
        again = self._dump_again
        self._dumping = self._dump_again = False
        if self._on_dump:
            self._on_dump(False)
        if again:
            self._dump_all()
        else:
            self._dump_done.set()

    def _recover(self, error: OSError) -> None:
        """Recover after lost notifications (ENOBUFS: the kernel dropped some) or another socket error."""
        log.debug("kernel notifications lost", error=str(error))
        if error.errno == errno.ENOBUFS:
            self._dump_all()
        else:
            self._pause()

    def _dump_all(self) -> None:
        if self._on_link:
            self._on_link(0, True)
        if self._on_neighbour:
            # A running dump may already have passed the entries of the lost notifications.
            self._dump_again = self._dumping
            try:
                self._start_dump()
            except OSError:
                self._pause()

    def _pause(self) -> None:
        """Close the socket for a while after a flood or an error; then open a new one and dump the whole table."""
        self._close_socket()
        self._paused = asyncio.get_running_loop().call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._paused = None
        try:
            self._listen()
        except OSError as error:
            log.warning("kernel notifications unavailable", error=str(error))
            self._pause()
        else:
            self._dump_all()


def decode_entry(body: bytes, index: int, *, is_deleted: bool = False) -> Entry | None:
    """Decode an IPv4 neighbour message of this interface; None for any other."""
    if len(body) < NDMSG.size:
        return None
    family, interface, state, flags, _ = NDMSG.unpack_from(body)
    if family != AF_INET or interface != index or flags & _PROXY:
        return None
    attributes = dict(decode_attributes(body, NDMSG.size))
    address = attributes.get(NDA_DST, b"")
    if len(address) != 4:
        return None
    lladdr = attributes.get(_NDA_LLADDR, b"")
    cache = attributes.get(_NDA_CACHEINFO, b"")
    ticks = struct.unpack_from("=I", cache)[0] if len(cache) >= 4 else 0
    mac = try_mac(lladdr.hex(":")) if len(lladdr) == 6 else None
    return Entry(IPv4Address(address), mac, state, ticks / _TICKS, is_deleted)


def decode_link(kind: int, body: bytes) -> tuple[int, bool] | None:
    """Interface index, and whether the link works (True for an address message); None for any other message."""
    if kind in (_NEW_LINK, _DEL_LINK) and len(body) >= _IFINFO.size:
        family, _, index, flags, _ = _IFINFO.unpack_from(body)
        if family == 0:  # other families are about bridge ports, not about the link
            return index, kind == _NEW_LINK and flags & _UP_AND_RUNNING == _UP_AND_RUNNING
    if kind in (_NEW_ADDRESS, _DEL_ADDRESS) and len(body) >= _IFADDR.size:
        return _IFADDR.unpack_from(body)[4], True
    return None


def _dump_request(index: int) -> bytes:
    body = NDMSG.pack(AF_INET, 0, 0, 0, 0) + ATTRIBUTE.pack(8, _NDA_IFINDEX) + struct.pack("=i", index)
    return HEADER.pack(HEADER.size + len(body), GET_NEIGHBOUR, _REQUEST_DUMP, 1, 0) + body


def decode_messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, port, body) of each message of a read; the port is that of the requesting socket, 0 for notifications."""
    offset = 0
    while offset + HEADER.size <= len(data):
        size, kind, _, _, port = HEADER.unpack_from(data, offset)
        if size < HEADER.size or offset + size > len(data):
            return
        yield kind, port, data[offset + HEADER.size : offset + size]
        offset += (size + 3) & ~3


def decode_attributes(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute of a message body from `offset` on."""
    while offset + ATTRIBUTE.size <= len(body):
        size, kind = ATTRIBUTE.unpack_from(body, offset)
        if size < ATTRIBUTE.size or offset + size > len(body):
            return
        yield kind, body[offset + ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3
