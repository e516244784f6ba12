"""What the kernel says unasked: neighbours that come, change and go, and links and addresses that do.

Whoever floods the network makes the kernel speak thousands of times a second. So these messages are read raw
(1 µs each, where a library takes 30 and more), a few at a time; beyond a budget they are not read at all, and
when the kernel has thrown some away, the neighbour table is told anew from the start.
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

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.bucket import TokenBucket
from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.logs import get_logger

INCOMPLETE, REACHABLE, STALE, DELAY, PROBE, FAILED, NOARP, PERMANENT = (1 << bit for bit in range(8))
"""The states of a neighbour, as the kernel's bits."""

AT_ONCE = 64
"""Messages read before others have their turn in the loop."""
PER_SECOND = 2000
REST_S = 0.25
DUMP_S = 5.0
"""A dump takes milliseconds; a kernel that says nothing for so long is broken."""

_GROUP_LINK, _GROUP_NEIGHBOUR, _GROUP_ADDRESS = 0x1, 0x4, 0x10
_ERROR, _DONE = 2, 3
_NEW_LINK, _DEL_LINK, _NEW_ADDRESS, _DEL_ADDRESS = 16, 17, 20, 21
_NEW_NEIGHBOUR, _DEL_NEIGHBOUR, _GET_NEIGHBOUR = 28, 29, 30
_REQUEST_DUMP = 0x301
_AF_INET = 2
_UP_AND_RUNNING = 0x41
_PROXY = 0x08
_NDA_DST, _NDA_LLADDR, _NDA_CACHEINFO, _NDA_IFINDEX = 1, 2, 3, 8
_HEADER = struct.Struct("=IHHII")
_NDMSG = struct.Struct("=BxxxiHBB")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_ATTRIBUTE = struct.Struct("=HH")
_TICKS = os.sysconf("SC_CLK_TCK")
_CHUNK = 8192

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the neighbour table; `proven_s` ago the address was last proven to be the MAC's."""

    ip: IPv4Address
    mac: Mac | None
    state: int
    proven_s: float
    gone: bool = False


OnNeighbour = Callable[[Entry], None]
OnLink = Callable[[int, bool], None]
"""Told the index of an interface of which something changed, and False where it is gone, off or without carrier;
index 0 where something may have been missed."""


class KernelEvents:
    """One socket for the neighbours of one interface (`on_neighbour`), for links and addresses (`on_link`), or both.

    Whenever something was missed, and for `dump`, the whole table is told: `on_dump(True)`, each entry as if it had
    changed, `on_dump(False)`; after a break it begins again.
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
        self._resting: asyncio.TimerHandle | None = None
        self._budget = TokenBucket(capacity=PER_SECOND, rate=PER_SECOND, now=0.0)
        self._told = asyncio.Event()
        self._dumping = False
        self._dump_again = False

    def open(self, index: int = 0) -> None:
        """Begin to listen; `index` is the interface whose neighbours are told. OSError where there is no netlink."""
        self.close()
        self._index = index
        self._listen()

    def close(self) -> None:
        """Stop listening; may be called twice, and `open` begins anew."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self._let_go()
        self._told.set()

    async def dump(self) -> None:
        """Have every neighbour of the interface told; OSError when the kernel does not."""
        if self._is_open():
            self._told.clear()
            self._start_dump()
            if await self._clock.wait(self._told, DUMP_S) and self._is_open():
                return
        raise OSError(errno.EIO, "the kernel does not tell its neighbour table")

    def _is_open(self) -> bool:
        return self._socket is not None or self._resting is not None

    def _listen(self) -> None:
        groups = _GROUP_NEIGHBOUR if self._on_neighbour else 0
        groups |= _GROUP_LINK | _GROUP_ADDRESS if self._on_link else 0
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sock.bind((0, groups))
            self._port = sock.getsockname()[0]
            asyncio.get_running_loop().add_reader(sock, self._read)
        except BaseException:
            sock.close()
            raise
        self._socket = sock

    def _let_go(self) -> None:
        self._dumping = self._dump_again = False
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _start_dump(self) -> None:
        # One at a time on a socket; what changes meanwhile is told as an event.
        if self._socket is not None and not self._dumping:
            self._socket.send(_dump_request(self._index))
            self._dumping = True
            if self._on_dump:
                self._on_dump(True)

    def _read(self) -> None:
        for _ in range(AT_ONCE):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                self._missed(error)
                return
            sock = self._socket
            for kind, port, body in _messages(data):
                self._take(kind, body, asked=port == self._port)
                if self._socket is not sock:
                    return  # too much was said, or who was told closed it

    def _take(self, kind: int, body: bytes, *, asked: bool) -> None:
        if asked and kind in (_DONE, _ERROR):
            self._dump_is_over()
        elif not asked and not self._budget.take(self._clock.monotonic()):
            self._rest()
        elif kind in (_NEW_NEIGHBOUR, _DEL_NEIGHBOUR) and self._on_neighbour:
            entry = entry_of(body, self._index, gone=kind == _DEL_NEIGHBOUR)
            if entry is not None:
                self._on_neighbour(entry)
        elif self._on_link and (change := link_of(kind, body)):
            self._on_link(*change)

    def _dump_is_over(self) -> None:
        again = self._dump_again
        self._dumping = self._dump_again = False
        if self._on_dump:
            self._on_dump(False)
        if again:
            self._tell_anew()
        else:
            self._told.set()

    def _missed(self, error: OSError) -> None:
        """The kernel had more to say than was read, and threw it away (ENOBUFS), or the socket is broken."""
        log.debug("kernel events were missed", error=str(error))
        if error.errno == errno.ENOBUFS:
            self._tell_anew()
        else:
            self._rest()

    def _tell_anew(self) -> None:
        if self._on_link:
            self._on_link(0, True)
        if self._on_neighbour:
            # A dump that is under way may have passed the place of what was missed.
            self._dump_again = self._dumping
            try:
                self._start_dump()
            except OSError:
                self._rest()

    def _rest(self) -> None:
        """Too much is said: hear nothing for a while, then begin anew with a new socket and the whole table."""
        self._let_go()
        self._resting = asyncio.get_running_loop().call_later(REST_S, self._resume)

    def _resume(self) -> None:
        self._resting = None
        try:
            self._listen()
        except OSError as error:
            log.warning("the kernel's events cannot be heard", error=str(error))
            self._rest()
        else:
            self._tell_anew()


def entry_of(body: bytes, index: int, *, gone: bool = False) -> Entry | None:
    """A neighbour message of IPv4 on this interface; None for any other."""
    if len(body) < _NDMSG.size:
        return None
    family, where, state, flags, _ = _NDMSG.unpack_from(body)
    if family != _AF_INET or where != index or flags & _PROXY:
        return None
    attributes = dict(_attributes(body, _NDMSG.size))
    address = attributes.get(_NDA_DST, b"")
    if len(address) != 4:
        return None
    link_address = attributes.get(_NDA_LLADDR, b"")
    cache = attributes.get(_NDA_CACHEINFO, b"")
    ticks = struct.unpack_from("=I", cache)[0] if len(cache) >= 4 else 0
    mac = try_mac(link_address.hex(":")) if len(link_address) == 6 else None
    return Entry(IPv4Address(address), mac, state, ticks / _TICKS, gone)


def link_of(kind: int, body: bytes) -> tuple[int, bool] | None:
    """The index that a message about a link or an address is of, and whether that link works; None for any other."""
    if kind in (_NEW_LINK, _DEL_LINK) and len(body) >= _IFINFO.size:
        family, _, index, flags, _ = _IFINFO.unpack_from(body)
        if family == 0:  # others are of a bridge's ports, and say nothing of the link
            return index, kind == _NEW_LINK and flags & _UP_AND_RUNNING == _UP_AND_RUNNING
    if kind in (_NEW_ADDRESS, _DEL_ADDRESS) and len(body) >= _IFADDR.size:
        return _IFADDR.unpack_from(body)[4], True
    return None


def _dump_request(index: int) -> bytes:
    body = _NDMSG.pack(_AF_INET, 0, 0, 0, 0) + _ATTRIBUTE.pack(8, _NDA_IFINDEX) + struct.pack("=i", index)
    return _HEADER.pack(_HEADER.size + len(body), _GET_NEIGHBOUR, _REQUEST_DUMP, 1, 0) + body


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, port of who asked, body) of each message in what was read at once; nobody asked for events."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, _, _, port = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size or offset + size > len(data):
            return
        yield kind, port, data[offset + _HEADER.size : offset + size]
        offset += (size + 3) & ~3


def _attributes(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + _ATTRIBUTE.size <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if size < _ATTRIBUTE.size or offset + size > len(body):
            return
        yield kind, body[offset + _ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3
