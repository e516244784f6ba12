"""The kernel's neighbour table over netlink: which MAC has answered for an address. Needs no privilege."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.mac import Mac, try_mac
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
        netlink = await self._open()
        if netlink is None:
            return None
        found: Neighbour | None = None
        async for entry in await netlink.get_neighbours(family=_AF_INET):
            mac = try_mac(entry.get("NDA_LLADDR"))
            if mac and entry.get("NDA_DST") == address and entry["state"] & _NUD_KNOWN:
                found = Neighbour(mac, fresh=bool(entry["state"] & _NUD_REACHABLE))
        return found

    async def own_addresses(self) -> frozenset[IPv4Address]:
        """This machine's IPv4 addresses, looked up at most once in 10 s."""
        now = self._clock.monotonic()
        if now - self._own_at >= OWN_ADDRESSES_FOR_S and (netlink := await self._open()):
            self._own = frozenset(
                [IPv4Address(entry.get("IFA_ADDRESS")) async for entry in await netlink.get_addr(family=_AF_INET)]
            )
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
