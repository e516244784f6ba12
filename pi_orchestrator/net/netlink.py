"""Questions to the kernel over netlink: links, addresses, single neighbours. Needs no privilege.

pyroute2 asks and decodes here, one socket for all questions. What the kernel says unasked is read elsewhere
(kernel_events.py): it comes in storms, and this library takes 0.03 to 0.5 ms for each message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, TypeVar

from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.links import Link

T = TypeVar("T")

LONGEST_NAME = 15
ANSWER_S = 5.0
"""The kernel answers within a millisecond, unless the socket was closed under the question."""

_AF_INET = 2
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_NOARP = 0x1, 0x8, 0x40, 0x80
_ARPHRD_ETHER = 1

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TableEntry:
    """A line of the neighbour table: the MAC, and its state as the kernel's bits."""

    mac: Mac
    state: int


class Netlink:
    """The one netlink socket for questions, opened at the first; without netlink all answers are empty."""

    def __init__(self) -> None:
        self._socket: Any = None
        self._refused = False
        self._opening = asyncio.Lock()

    def close(self) -> None:
        """Close the socket; the next question opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def link(self, name: str) -> Link | None:
        """An interface as it is now; None where there is none of this name."""
        if not 0 < len(name.encode()) <= LONGEST_NAME:
            return None

        async def ask(netlink: Any) -> Link | None:
            for message in await netlink.link("get", ifname=name):
                link = _link(message, (await _addresses(netlink)).get(message["index"], ()))
                return link if link.name == name else None  # the kernel reads a name up to its first NUL
            return None

        return await self._ask(ask, nothing=None)

    async def links(self) -> tuple[Link, ...]:
        """Every interface of this machine."""

        async def ask(netlink: Any) -> tuple[Link, ...]:
            messages = [message async for message in await netlink.link("dump")]
            addresses = await _addresses(netlink)
            return tuple(_link(message, addresses.get(message["index"], ())) for message in messages)

        return await self._ask(ask, nothing=())

    async def own_addresses(self) -> frozenset[IPv4Address] | None:
        """This machine's IPv4 addresses; None where the kernel cannot be asked."""

        async def ask(netlink: Any) -> frozenset[IPv4Address]:
            return frozenset(one.ip for ones in (await _addresses(netlink)).values() for one in ones)

        return await self._ask(ask, nothing=None)

    async def neighbour(self, address: IPv4Address) -> TableEntry | None:
        """Whom the kernel has for an address on the way that leads there; None where it has nobody."""
        destination = str(address)

        async def ask(netlink: Any) -> TableEntry | None:
            # Only this one entry: to decode the table of a full network would hold up the loop for milliseconds.
            for route in await netlink.route("get", dst=destination):
                for entry in await netlink.neigh("get", dst=destination, ifindex=route.get("RTA_OIF")):
                    if mac := try_mac(entry.get("NDA_LLADDR")):
                        return TableEntry(mac, entry["state"])
            return None

        return await self._ask(ask, nothing=None)

    async def _ask(self, question: Callable[[Any], Awaitable[T]], *, nothing: T) -> T:
        """What the kernel answers; `nothing` where it refuses (no such link, no way there) or cannot be asked."""
        netlink = await self._open()
        if netlink is None:
            return nothing
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415  # loaded by now

        try:
            async with asyncio.timeout(ANSWER_S):
                return await question(netlink)
        except NetlinkError:
            return nothing
        except OSError as error:
            # A socket that had an error is of no more use to the library: the next question gets a new one.
            log.warning("netlink failed", error=str(error) or "no answer")
            if self._socket is netlink:
                self.close()
            return nothing

    async def _open(self) -> Any:
        """The socket, opened at first use; None where there is no netlink."""
        async with self._opening:
            if self._socket is None and not self._refused:
                # The library is 8 MiB and a tenth of a second: not in the loop, and not before it is needed.
                linux = await asyncio.to_thread(_load_library)
                try:
                    netlink = linux.AsyncIPRoute()
                    # By itself it does so at the first question: at two at once twice, and one is never closed.
                    await netlink.setup_endpoint()
                    self._socket = netlink
                except OSError as error:
                    self._refused = True
                    log.warning("no netlink: the kernel cannot be asked about links and addresses", error=str(error))
        return self._socket


async def _addresses(netlink: Any) -> dict[int, tuple[IPv4Interface, ...]]:
    found: dict[int, tuple[IPv4Interface, ...]] = {}
    async for message in await netlink.addr("dump", family=_AF_INET):
        # Where there is a peer, IFA_ADDRESS is the peer's, and only IFA_LOCAL is ours.
        text = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
        address = IPv4Interface(f"{text}/{message['prefixlen']}")
        found[message["index"]] = (*found.get(message["index"], ()), address)
    return found


def _link(message: Any, addresses: tuple[IPv4Interface, ...]) -> Link:
    flags = message["flags"]
    mac = try_mac(message.get("IFLA_ADDRESS"))
    speaks_arp = message["ifi_type"] == _ARPHRD_ETHER and not flags & (_IFF_LOOPBACK | _IFF_NOARP)
    return Link(
        name=message.get("IFLA_IFNAME"),
        index=message["index"],
        mac=mac,
        # "Running" is the kernel's own summary of carrier and operational state.
        up=bool(flags & _IFF_UP and flags & _IFF_RUNNING),
        asks=speaks_arp and mac is not None,
        addresses=addresses,
    )


def _load_library() -> Any:
    from pyroute2.iproute import linux  # noqa: PLC0415  # loaded in a thread, at first use

    return linux
