"""Netlink requests: links, addresses, single neighbours. Needs no privilege.

pyroute2 sends and decodes them, with one socket for all requests. Notifications are read in `events.py`: they come in
floods, and pyroute2 needs 0.03 to 0.5 ms per message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, TypeVar

from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.net.kernel.links import Link

T = TypeVar("T")

MAX_NAME_BYTES = 15
ANSWER_TIMEOUT_S = 5.0
"""The kernel answers within a millisecond, unless the socket was closed during the request."""

_AF_INET = 2
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_NOARP = 0x1, 0x8, 0x40, 0x80
_ARPHRD_ETHER = 1

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TableEntry:
    """An entry of the neighbour table: the MAC, and its state as the kernel's bits (NUD_*)."""

    mac: Mac
    state: int


class Netlink:
    """The netlink socket for requests, opened at the first one; without netlink all results are empty."""

    def __init__(self) -> None:
        self._socket: Any = None
        self._is_unavailable = False
        self._opening: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Close the socket; the next request opens it again."""
        self._opening = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def link(self, name: str) -> Link | None:
        """The interface of this name in its current state; None if it does not exist or the request fails."""
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            return None

        async def request(netlink: Any) -> Link | None:
            for message in await netlink.link("get", ifname=name):
                link = _link(message, (await _addresses(netlink)).get(message["index"], ()))
                return link if link.name == name else None  # of a name with a NUL, the kernel reads the part before it
            return None

        return await self._run(request, default=None)

    async def links(self) -> tuple[Link, ...]:
        """All interfaces of this machine; empty if the request fails."""

        async def request(netlink: Any) -> tuple[Link, ...]:
            messages = [message async for message in await netlink.link("dump")]
            addresses = await _addresses(netlink)
            return tuple(_link(message, addresses.get(message["index"], ())) for message in messages)

        return await self._run(request, default=())

    async def own_addresses(self) -> frozenset[IPv4Address] | None:
        """This machine's IPv4 addresses; None if the request fails."""

        async def request(netlink: Any) -> frozenset[IPv4Address]:
            return frozenset(address.ip for group in (await _addresses(netlink)).values() for address in group)

        return await self._run(request, default=None)

    async def neighbour(self, address: IPv4Address) -> TableEntry | None:
        """The neighbour entry of an address on the interface of its route; None if missing or if the request fails."""
        destination = str(address)

        async def request(netlink: Any) -> TableEntry | None:
            # Only this entry: decoding the table of a full network would block the loop for milliseconds.
            for route in await netlink.route("get", dst=destination):
                for entry in await netlink.neigh("get", dst=destination, ifindex=route.get("RTA_OIF")):
                    if mac := try_mac(entry.get("NDA_LLADDR")):
                        return TableEntry(mac, entry["state"])
            return None

        return await self._run(request, default=None)

    async def _run(self, request: Callable[[Any], Awaitable[T]], *, default: T) -> T:
        """The result of a request; `default` if the kernel rejects it (no such link, no route) or netlink fails."""
        netlink = await self._open()
        if netlink is None:
            return default
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415  # loaded by now

        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await request(netlink)
        except NetlinkError:
            return default
        except OSError as error:
            # pyroute2 cannot use a socket after an error: the next request opens a new one.
            log.warning("netlink failed", error=str(error) or "no answer")
            if self._socket is netlink:
                self.close()
            return default

    async def _open(self) -> Any:
        """The socket, opened at first use; None if netlink is not available."""
        if self._socket is None and not self._is_unavailable:
            if self._opening is None:
                self._opening = asyncio.create_task(self._create(), name="netlink-open")
            # The library leaks a socket whose opening is cancelled, so a cancelled request does not cancel it.
            await asyncio.shield(self._opening)
        return self._socket

    async def _create(self) -> None:
        try:
            # Loading takes 100 ms and 8 MiB: done in a thread, at first use.
            linux = await asyncio.to_thread(_load_library)
            netlink = linux.AsyncIPRoute()
            # The library opens its socket at the first request; two at once would each open one, and one would leak.
            await netlink.setup_endpoint()
        except OSError as error:
            self._is_unavailable = True
            log.warning("netlink unavailable, links and addresses unknown", error=str(error))
        else:
            if self._opening is asyncio.current_task():
                self._socket = netlink
            else:
                netlink.close()  # `close` was called during the opening
        finally:
            if self._opening is asyncio.current_task():
                self._opening = None


async def _addresses(netlink: Any) -> dict[int, tuple[IPv4Interface, ...]]:
    addresses: dict[int, tuple[IPv4Interface, ...]] = {}
    async for message in await netlink.addr("dump", family=_AF_INET):
        # With a peer, IFA_ADDRESS is the peer's address and IFA_LOCAL the own one.
        text = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
        address = IPv4Interface(f"{text}/{message['prefixlen']}")
        addresses[message["index"]] = (*addresses.get(message["index"], ()), address)
    return addresses


def _link(message: Any, addresses: tuple[IPv4Interface, ...]) -> Link:
    flags = message["flags"]
    mac = try_mac(message.get("IFLA_ADDRESS"))
    supports_arp = message["ifi_type"] == _ARPHRD_ETHER and not flags & (_IFF_LOOPBACK | _IFF_NOARP)
    return Link(
        name=message.get("IFLA_IFNAME"),
        index=message["index"],
        mac=mac,
        # IFF_RUNNING combines carrier and operational state.
        up=bool(flags & _IFF_UP and flags & _IFF_RUNNING),
        supports_arp=supports_arp and mac is not None,
        addresses=addresses,
    )


def _load_library() -> Any:
    from pyroute2.iproute import linux  # noqa: PLC0415  # loaded in a thread, at first use

    return linux
