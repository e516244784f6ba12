"""Empty datagrams to the discard port: they make the kernel send ARP requests through one interface."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.net.kernel.links import Link

DISCARD = 9
BURST = 64
"""Errors handled in one call, so that other tasks can run."""
BATCH_SIZE, PAUSE_S = 16, 0.002
MAX_PAUSES = 500
"""Limit of pauses in one `send`, made while the send buffer or the neighbour table is full. A full table is reported
only to sockets with IP_RECVERR."""
LINK_DOWN_ERRORS = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV, errno.ENXIO, errno.EBADF})

_BUFFER_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
_EARLIER_DATAGRAM_ERRORS = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH})
"""Errors of an earlier datagram: reported instead of sending the next one."""

_IP_PKTINFO, _IP_RECVERR = 8, 11
_ICMP, _UNREACHABLE, _PORT = 2, 3, 3
_PKTINFO = struct.Struct("=i4s4s")
_EXTENDED_ERROR = struct.Struct("=IBBBxII")
_OFFENDER = struct.Struct("=HH4s")
_ANY_ADDRESS = bytes(4)

log = get_logger(__name__)


class Datagrams:
    """Socket of one scan; `on_answer` is called with each host that answered "port unreachable" itself."""

    def __init__(
        self, *, clock: Clock, link: Link, source: IPv4Address | None, on_answer: Callable[[IPv4Address], None]
    ) -> None:
        self._clock = clock
        # Each datagram names its interface: another interface may have the same subnet.
        self._pktinfo = _PKTINFO.pack(link.index, source.packed if source else _ANY_ADDRESS, _ANY_ADDRESS)
        self._on_answer = on_answer
        self._socket: socket.socket | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Open the socket for the block; OSError if that fails."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            # Datagrams to an unresolved address stay in this buffer until it is resolved.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self._socket = sock
            loop.add_reader(sock, self._read, sock)
            try:
                yield
            finally:
                loop.remove_reader(sock)
                self._socket = None

    async def send(self, addresses: Sequence[IPv4Address]) -> None:
        """Send one datagram to each address, paced; skips addresses that fail. OSError if the link is down."""
        pauses_left, unsent = MAX_PAUSES, 0
        for number, address in enumerate(addresses, 1):
            while not self._try_send(address):
                if not pauses_left:
                    unsent += 1
                    break
                pauses_left -= 1
                await self._clock.sleep(PAUSE_S)
            if number % BATCH_SIZE == 0:
                await self._clock.sleep(PAUSE_S)
        if unsent:
            log.warning("kernel neighbour table full, addresses skipped", left_out=unsent)

    def _try_send(self, address: IPv4Address) -> bool:
        """Try to send; False while the send buffer or the neighbour table is full."""
        assert self._socket is not None, "called inside opened()"  # noqa: S101
        ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, self._pktinfo)]
        for _ in range(BURST):  # again after each error of an earlier datagram
            try:
                self._socket.sendmsg([b""], ancillary, socket.MSG_DONTROUTE, (str(address), DISCARD))
            except OSError as error:
                if error.errno in LINK_DOWN_ERRORS:
                    raise
                if error.errno in _BUFFER_FULL:
                    return False
                if error.errno not in _EARLIER_DATAGRAM_ERRORS:
                    log.debug("datagram not sent", address=str(address), error=str(error))
                    break
            else:
                break
        return True

    def _read(self, sock: socket.socket) -> None:
        for _ in range(BURST):
            try:
                _, control, _, (host, _port) = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                break
            for level, kind, data in control:
                if (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR) and _is_port_unreachable_from(host, data):
                    self._on_answer(IPv4Address(host))
        else:
            return  # more may be queued: the loop calls again
        # An error that did not fit into the queue, or unexpected data, would wake up the loop for ever.
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        with contextlib.suppress(OSError):
            for _ in range(BURST):
                sock.recv(1)


def _is_port_unreachable_from(host: str, error: bytes) -> bool:
    """Whether an error is "port unreachable" from the host itself, not from another host."""
    if len(error) < _EXTENDED_ERROR.size + _OFFENDER.size:
        return False
    _, *error_type, _, _ = _EXTENDED_ERROR.unpack_from(error)
    offender = _OFFENDER.unpack_from(error, _EXTENDED_ERROR.size)[2]
    return error_type == [_ICMP, _UNREACHABLE, _PORT] and offender == IPv4Address(host).packed
