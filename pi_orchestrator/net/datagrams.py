"""Empty datagrams to the discard port, which make the kernel ask for an address through one interface."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address

from pi_orchestrator.clock import Clock
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.links import Link

DISCARD = 9
AT_ONCE = 64
BATCH, PAUSE_S = 16, 0.002
PATIENCE = 500
"""Pauses in all: so long may a send buffer or the neighbour table be full. Of the latter only a socket with
IP_RECVERR hears; to any other the kernel says that all is well."""
LINK_IS_GONE = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV, errno.ENXIO, errno.EBADF})

_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
_LATE_NEWS = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH})
"""Of an earlier datagram: the system tells it instead of sending the next one."""

_IP_PKTINFO, _IP_RECVERR = 8, 11
_ICMP, _UNREACHABLE, _PORT = 2, 3, 3
_PKTINFO = struct.Struct("=i4s4s")
_EXTENDED_ERROR = struct.Struct("=IBBBxII")
_OFFENDER = struct.Struct("=HH4s")
_ANYTHING = bytes(4)

log = get_logger(__name__)


class Datagrams:
    """A socket of its own for each scan; `on_answer` is told who answered "port unreachable" for itself."""

    def __init__(
        self, *, clock: Clock, link: Link, source: IPv4Address | None, on_answer: Callable[[IPv4Address], None]
    ) -> None:
        self._clock = clock
        # The interface goes with each datagram: another one may have the same subnet.
        self._way = _PKTINFO.pack(link.index, source.packed if source else _ANYTHING, _ANYTHING)
        self._on_answer = on_answer
        self._socket: socket.socket | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """For the length of the block; OSError where there are no sockets left."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            # Every datagram to an address that is not known yet lies in this buffer until it is.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self._socket = sock
            loop.add_reader(sock, self._read, sock)
            try:
                yield
            finally:
                loop.remove_reader(sock)
                self._socket = None

    async def send(self, addresses: Sequence[IPv4Address]) -> None:
        """One to each, paced; what cannot be sent to is left out. OSError when the link is gone."""
        patience, unsent = PATIENCE, 0
        for number, address in enumerate(addresses, 1):
            while not self._has_sent(address):
                if not patience:
                    unsent += 1
                    break
                patience -= 1
                await self._clock.sleep(PAUSE_S)
            if number % BATCH == 0:
                await self._clock.sleep(PAUSE_S)
        if unsent:
            log.warning("no room for all addresses in the kernel's neighbour table", left_out=unsent)

    def _has_sent(self, address: IPv4Address) -> bool:
        """False where there is no room just now."""
        assert self._socket is not None, "within opened()"  # noqa: S101
        way = [(socket.IPPROTO_IP, _IP_PKTINFO, self._way)]
        for _ in range(AT_ONCE):
            try:
                self._socket.sendmsg([b""], way, socket.MSG_DONTROUTE, (str(address), DISCARD))
            except OSError as error:
                if error.errno in LINK_IS_GONE:
                    raise
                if error.errno in _FULL:
                    return False
                if error.errno not in _LATE_NEWS:
                    log.debug("no datagram can be sent", address=str(address), error=str(error))
                    break
            else:
                break
        return True

    def _read(self, sock: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                _, control, _, (host, _port) = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                break
            for level, kind, data in control:
                if (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR) and _is_from(host, data):
                    self._on_answer(IPv4Address(host))
        else:
            return
        # An error that had no room in the queue, or data that nobody asked for, would wake the loop for ever.
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        with contextlib.suppress(OSError):
            for _ in range(AT_ONCE):
                sock.recv(1)


def _is_from(host: str, error: bytes) -> bool:
    """Whether the host itself says that it has no such port; others say that it is not there."""
    if len(error) < _EXTENDED_ERROR.size + _OFFENDER.size:
        return False
    _, *what, _, _ = _EXTENDED_ERROR.unpack_from(error)
    offender = _OFFENDER.unpack_from(error, _EXTENDED_ERROR.size)[2]
    return what == [_ICMP, _UNREACHABLE, _PORT] and offender == IPv4Address(host).packed
