"""Questions to the kernel over netlink: links, addresses, single neighbours. Needs no privilege.

One socket for all questions, which are asked one after the other. What the kernel says unasked is read elsewhere
(kernel_events.py): it comes in storms.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import TypeVar

from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.kernel_socket import KernelSocket, RefusedError, attribute, attributes
from pi_orchestrator.net.links import Link

T = TypeVar("T")

LONGEST_NAME = 15
ANSWER_S = 5.0
"""The kernel answers within a millisecond, unless the socket was closed under the question."""

_AF_INET = 2
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_NOARP = 0x1, 0x8, 0x40, 0x80
_ARPHRD_ETHER = 1
_GET_LINK, _GET_ADDRESS, _GET_ROUTE, _GET_NEIGHBOUR = 18, 22, 26, 30
_IFLA_ADDRESS, _IFLA_IFNAME = 1, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF = 1, 4
_NDA_DST, _NDA_LLADDR = 1, 2
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TableEntry:
    """A line of the neighbour table: the MAC, and its state as the kernel's bits."""

    mac: Mac
    state: int


class Netlink:
    """The one netlink socket for questions, opened at the first; without netlink all answers are empty."""

    def __init__(self) -> None:
        self._socket: KernelSocket | None = None
        self._refused = False
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """Close the socket; the next question opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def link(self, name: str) -> Link | None:
        """An interface as it is now; None where there is none of this name."""
        if not 0 < len(name.encode()) <= LONGEST_NAME:
            return None

        async def ask(kernel: KernelSocket) -> Link | None:
            question = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
            for _, body in await kernel.ask(_GET_LINK, question):
                link = _link(body, await _addresses(kernel))
                return link if link.name == name else None  # the kernel reads a name up to its first NUL
            return None

        return await self._ask(ask, nothing=None)

    async def links(self) -> tuple[Link, ...]:
        """Every interface of this machine."""

        async def ask(kernel: KernelSocket) -> tuple[Link, ...]:
            answers = await kernel.ask(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0), dump=True)
            addresses = await _addresses(kernel)
            return tuple(_link(body, addresses) for _, body in answers)

        return await self._ask(ask, nothing=())

    async def own_addresses(self) -> frozenset[IPv4Address] | None:
        """This machine's IPv4 addresses; None where the kernel cannot be asked."""

        async def ask(kernel: KernelSocket) -> frozenset[IPv4Address]:
            return frozenset(one.ip for ones in (await _addresses(kernel)).values() for one in ones)

        return await self._ask(ask, nothing=None)

    async def neighbour(self, address: IPv4Address) -> TableEntry | None:
        """Whom the kernel has for an address on the way that leads there; None where it has nobody."""

        async def ask(kernel: KernelSocket) -> TableEntry | None:
            way = _ROUTE.pack(_AF_INET, 32, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, address.packed)
            for _, body in await kernel.ask(_GET_ROUTE, way):
                interface = attributes(body, _ROUTE.size).get(_RTA_OIF, b"")
                if len(interface) == 4:
                    return await _table_entry(kernel, address, *struct.unpack("=i", interface))
            return None

        return await self._ask(ask, nothing=None)

    async def _ask(self, question: Callable[[KernelSocket], Awaitable[T]], *, nothing: T) -> T:
        """What the kernel answers; `nothing` where it refuses (no such link, no way there) or cannot be asked."""
        try:
            async with asyncio.timeout(ANSWER_S), self._turn:
                kernel = self._open()
                if kernel is None:
                    return nothing
                try:
                    return await question(kernel)
                except RefusedError:
                    return nothing
                except BaseException:
                    # What is still on its way belongs to nobody: the next question gets a new socket.
                    self.close()
                    raise
        except OSError as error:
            log.warning("netlink failed", error=str(error) or "no answer")
            return nothing

    def _open(self) -> KernelSocket | None:
        """The socket, opened at first use; None where there is no netlink."""
        if self._socket is None and not self._refused:
            try:
                self._socket = KernelSocket(socket.NETLINK_ROUTE)
            except OSError as error:
                self._refused = True
                log.warning("no netlink: the kernel cannot be asked about links and addresses", error=str(error))
        return self._socket


async def _table_entry(kernel: KernelSocket, address: IPv4Address, interface: int) -> TableEntry | None:
    # Only this one entry: to decode the table of a full network would hold up the loop for milliseconds.
    question = _NEIGHBOUR.pack(_AF_INET, interface, 0, 0, 0) + attribute(_NDA_DST, address.packed)
    for _, body in await kernel.ask(_GET_NEIGHBOUR, question):
        if mac := _mac(attributes(body, _NEIGHBOUR.size).get(_NDA_LLADDR)):
            return TableEntry(mac, _NEIGHBOUR.unpack_from(body)[2])
    return None


async def _addresses(kernel: KernelSocket) -> dict[int, tuple[IPv4Interface, ...]]:
    found: dict[int, tuple[IPv4Interface, ...]] = {}
    for _, body in await kernel.ask(_GET_ADDRESS, _ADDRESS.pack(_AF_INET, 0, 0, 0, 0), dump=True):
        family, prefix, _, _, index = _ADDRESS.unpack_from(body)
        told = attributes(body, _ADDRESS.size)
        # Where there is a peer, IFA_ADDRESS is the peer's, and only IFA_LOCAL is ours.
        packed = told.get(_IFA_LOCAL) or told.get(_IFA_ADDRESS) or b""
        if family == _AF_INET and len(packed) == 4:
            found[index] = (*found.get(index, ()), IPv4Interface((packed, prefix)))
    return found


def _link(body: bytes, addresses: dict[int, tuple[IPv4Interface, ...]]) -> Link:
    _, kind, index, flags, _ = _LINK.unpack_from(body)
    told = attributes(body, _LINK.size)
    mac = _mac(told.get(_IFLA_ADDRESS))
    speaks_arp = kind == _ARPHRD_ETHER and not flags & (_IFF_LOOPBACK | _IFF_NOARP)
    return Link(
        name=told.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", errors="replace"),
        index=index,
        mac=mac,
        # "Running" is the kernel's own summary of carrier and operational state.
        up=bool(flags & _IFF_UP and flags & _IFF_RUNNING),
        asks=speaks_arp and mac is not None,
        addresses=addresses.get(index, ()),
    )


def _mac(packed: bytes | None) -> Mac | None:
    return try_mac(packed.hex(":")) if packed and len(packed) == 6 else None
