"""The kernel's neighbour table over netlink: which MAC has answered for an address. Needs no privilege."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.address import parse_ipv4
from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.errors import FieldError
from pi_orchestrator.logs import get_logger

OWN_ADDRESSES_FOR_S = 10.0

_AF_INET = 2
_NUD_REACHABLE = 0x02
_NUD_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # reachable, stale, delay, probe, noarp, permanent

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A binding of an address; `fresh` where the kernel has proof from the last seconds, not just a memory."""

    mac: Mac
    fresh: bool


class Neighbours:
    """Asks the kernel; without netlink the answers are empty."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._netlink: Any = None
        self._refused = False
        self._opening = asyncio.Lock()
        self._own: frozenset[IPv4Address] = frozenset()
        self._own_at = float("-inf")

    def close(self) -> None:
        """Close the netlink socket."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    async def at(self, address: str) -> Neighbour | None:
        """Who the kernel knows at an address; None where it does not know."""
        try:
            destination = str(parse_ipv4(address))
        except FieldError:
            return None
        netlink = await self._open()
        if netlink is None:
            return None
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415  # loaded by now

        try:
            # Only this one entry: to decode the table of a full network would hold up the loop for milliseconds.
            for route in await netlink.route("get", dst=destination):
                for entry in await netlink.neigh("get", dst=destination, ifindex=route.get("RTA_OIF")):
                    mac = try_mac(entry.get("NDA_LLADDR"))
                    if mac and entry["state"] & _NUD_KNOWN:
                        return Neighbour(mac, fresh=bool(entry["state"] & _NUD_REACHABLE))
        except NetlinkError:
            return None  # no way there, or nobody known there
        return None

    async def own_addresses(self) -> frozenset[IPv4Address]:
        """This machine's IPv4 addresses, looked up at most once in 10 s."""
        now = self._clock.monotonic()
        if now - self._own_at >= OWN_ADDRESSES_FOR_S and (netlink := await self._open()):
            entries = [entry async for entry in await netlink.get_addr(family=_AF_INET)]
            # Where there is a peer, IFA_ADDRESS is the peer's, and only IFA_LOCAL is ours.
            self._own = frozenset(IPv4Address(entry.get("IFA_LOCAL") or entry.get("IFA_ADDRESS")) for entry in entries)
            self._own_at = now
        return self._own

    async def _open(self) -> Any:
        """The netlink socket, opened at first use; None where there is no netlink."""
        async with self._opening:
            if self._netlink is None and not self._refused:
                # The library is 8 MiB and a tenth of a second: not in the loop, and not before it is needed.
                linux = await asyncio.to_thread(_load_library)
                try:
                    self._netlink = linux.AsyncIPRoute()
                except OSError as error:
                    self._refused = True
                    log.warning("no netlink: addresses cannot be checked against the kernel", error=str(error))
        return self._netlink


def _load_library() -> Any:
    from pyroute2.iproute import linux  # noqa: PLC0415  # loaded in a thread, at first use

    return linux
