"""The kernel's neighbour table: which MAC has answered for an address. Needs no privilege.

`Neighbours` looks up single addresses. `NeighbourEngine` scans: a datagram to the discard port of an address makes
the kernel ask for it by ARP, and its answer comes as an event. What the kernel believes is told as it is:

* REACHABLE is proof, as old as the entry says; STALE, DELAY and PROBE are memories, hearsay until proven again.
* An unknown address is asked up to three times, a second apart, and then FAILED: a sweep with silent addresses
  takes 3 s. The table has room for 1,024 addresses of all networks together, so a large subnet goes in blocks.
* A STALE entry is used as it is: only 5 s after a datagram (`delay_first_probe_time`) does the kernel ask whether it
  still holds, by one ARP request a second. Nothing that needs no privilege shortens that: the entry cannot be
  deleted, and MSG_CONFIRM would have the kernel believe us instead of the device. But who lives answers the datagram
  itself, with "port unreachable" (so do lwIP and Linux), which IP_RECVERR hands to the socket that sent it, within a
  millisecond here. That the answer is for our datagram shows that the MAC it went to has the address. Only those
  that do not answer so (a firewall, ARP and nothing else) are waited for; everybody else is known at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.address import parse_ipv4
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.errors import FieldError
from pi_orchestrator.net.datagrams import Datagrams
from pi_orchestrator.net.engine import OnProgress, OnSighting
from pi_orchestrator.net.kernel_events import (
    DELAY,
    FAILED,
    INCOMPLETE,
    NOARP,
    PERMANENT,
    PROBE,
    REACHABLE,
    STALE,
    Entry,
    KernelEvents,
)
from pi_orchestrator.net.links import Link, is_host
from pi_orchestrator.net.netlink import Netlink

OWN_ADDRESSES_FOR_S = 10.0
BLOCK = 256
UNKNOWN_S = 3.6
"""The kernel gives an address up after three requests, one a second."""
STALE_S = 6.6
"""Its first question about a memory comes after 5 s, the second a second later."""
SAME_S = 0.05

_OLD = STALE | DELAY | PROBE
_KNOWN = REACHABLE | _OLD | NOARP | PERMANENT


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A binding of an address; `fresh` where the kernel has proof from the last seconds, not just a memory."""

    mac: Mac
    fresh: bool


class Neighbours:
    """Asks the kernel about single addresses; without netlink the answers are empty."""

    def __init__(self, *, clock: Clock, netlink: Netlink | None = None) -> None:
        self._clock = clock
        self._netlink = netlink or Netlink()
        self._own: frozenset[IPv4Address] = frozenset()
        self._own_at = float("-inf")

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    async def at(self, address: str) -> Neighbour | None:
        """Who the kernel knows at an address; None where it does not know."""
        try:
            entry = await self._netlink.neighbour(parse_ipv4(address))
        except FieldError:
            return None
        if entry is None or not entry.state & _KNOWN:
            return None
        return Neighbour(entry.mac, fresh=bool(entry.state & REACHABLE))

    async def own_addresses(self) -> frozenset[IPv4Address]:
        """This machine's IPv4 addresses, looked up at most once in 10 s."""
        now = self._clock.monotonic()
        if now - self._own_at >= OWN_ADDRESSES_FOR_S and (own := await self._netlink.own_addresses()) is not None:
            self._own = own
            self._own_at = now
        return self._own


@dataclass(slots=True, eq=False)
class _Line:
    """What the kernel has for an address, when it says that was proven, and when the MAC answered a datagram."""

    mac: Mac | None
    state: int
    proven_at: float
    answered_at: float = float("-inf")


@dataclass(slots=True, eq=False)
class _Wait:
    """Addresses of which the kernel has not decided yet: those whose state is still among `undecided`."""

    pending: set[IPv4Address]
    undecided: int
    over: asyncio.Event = field(default_factory=asyncio.Event)
    error: OSError | None = None

    def decide(self, address: IPv4Address, state: int) -> None:
        if not state & self.undecided:
            self.pending.discard(address)
            if not self.pending:
                self.over.set()


class NeighbourEngine:
    """Scans with the kernel's own ARP (an `Engine`), and follows its neighbour table while open."""

    name = "neighbour"

    def __init__(self, *, clock: Clock, on_sighting: OnSighting) -> None:
        self._clock = clock
        self._on_sighting = on_sighting
        self._events = KernelEvents(
            clock=clock, on_neighbour=self._changed, on_dump=self._told_anew, on_link=self._link_changed
        )
        self._link: Link | None = None
        self._subnet = IPv4Network("0.0.0.0/0")
        self._table: dict[IPv4Address, _Line] = {}
        self._before: dict[IPv4Address, _Line] = {}
        self._waits: list[_Wait] = []
        self._sweeping = asyncio.Lock()

    async def open(self, link: Link, subnet: IPv4Network) -> None:
        """Follow the neighbour table of this link; OSError says why that cannot be."""
        self.close()
        if not link.asks:
            raise OSError(errno.EOPNOTSUPP, f"there is no ARP on {link.name}")
        self._link, self._subnet = link, subnet
        try:
            self._events.open(link.index)
            await self._events.dump()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop following; a sweep that runs ends with OSError. May be called twice."""
        self._events.close()
        self._link = None
        self._table, self._before = {}, {}
        self._lost(OSError(errno.ENOTCONN, "the scan engine is closed"))

    async def sweep(
        self, targets: Sequence[IPv4Address], *, expected: frozenset[IPv4Address], progress: OnProgress
    ) -> None:
        """Ask every address, `expected` ones that stay silent once more; OSError when the link goes away."""
        async with self._sweeping:
            link = self._open_link()
            began = self._clock.monotonic()
            await self._events.dump()
            for address, line in list(self._table.items()):
                self._tell(address, line)
            own = link.own()
            memories = [address for address in targets if self._is_memory(address)]
            others = [address for address in targets if address not in own and not self._is_memory(address)]
            with self._asking(link) as ask, self._waiting(memories, _OLD) as stale:
                await ask(memories)
                asked_at = self._clock.monotonic()
                for start in range(0, len(others), BLOCK):
                    progress(start / len(others))
                    await self._ask_unknown(ask, others[start : start + BLOCK])
                silent = [address for address in others if address in expected and not self._alive(address, began)]
                await self._ask_unknown(ask, silent)
                # The kernel may have heard of somebody meanwhile without having had an answer.
                if heard_of := {one for one in others if self._is_memory(one) and not self._alive(one, began)}:
                    stale.pending |= heard_of
                    asked_at = self._clock.monotonic()
                await self._until_over(stale, max(0.0, asked_at + STALE_S - self._clock.monotonic()))
        progress(1.0)

    async def ask(self, address: IPv4Address, *, timeout_s: float) -> frozenset[Mac]:
        """Who answers for an address as far as the kernel can tell, which is one at most; OSError as in `sweep`."""
        began = self._clock.monotonic()
        # That somebody did not answer may be old news, and to give up takes the kernel longer than it is worth here.
        with self._asking(self._open_link()) as ask, self._waiting([address], INCOMPLETE | _OLD | FAILED) as wait:
            for _ in range(2):
                await ask([address])
                if not self._alive(address, began):
                    await self._until_over(wait, timeout_s / 2)
                if self._alive(address, began):
                    break
        line = self._line(address)
        return frozenset({line.mac}) if line and line.mac and self._alive(address, began) else frozenset()

    @contextlib.contextmanager
    def _asking(self, link: Link) -> Iterator[Callable[[Sequence[IPv4Address]], Awaitable[None]]]:
        """A function that sends a datagram to each of many addresses."""
        asked: dict[IPv4Address, Mac | None] = {}
        datagrams = Datagrams(
            clock=self._clock,
            link=link,
            source=link.address_in(self._subnet),
            on_answer=lambda address: self._answered(address, asked.get(address)),
        )

        async def ask(addresses: Sequence[IPv4Address]) -> None:
            asked.update({address: line.mac for address in addresses if (line := self._line(address))})
            await datagrams.send(addresses)

        with datagrams.opened():
            yield ask

    async def _ask_unknown(
        self, ask: Callable[[Sequence[IPv4Address]], Awaitable[None]], addresses: Sequence[IPv4Address]
    ) -> None:
        unknown = [address for address in addresses if not self._state(address) & _KNOWN]
        with self._waiting(unknown, INCOMPLETE) as wait:
            await ask(addresses)
            await self._until_over(wait, UNKNOWN_S)

    @contextlib.contextmanager
    def _waiting(self, addresses: Sequence[IPv4Address], undecided: int) -> Iterator[_Wait]:
        wait = _Wait(set(addresses), undecided)
        self._waits.append(wait)
        try:
            yield wait
        finally:
            self._waits.remove(wait)

    async def _until_over(self, wait: _Wait, timeout_s: float) -> None:
        if wait.pending and wait.error is None:
            wait.over.clear()
            await self._clock.wait(wait.over, timeout_s)
        if wait.error is not None:
            raise wait.error

    def _told_anew(self, begins: bool) -> None:
        """The whole table follows, or that was all: what was not told again is gone."""
        self._before, self._table = (self._before | self._table, {}) if begins else ({}, self._table)

    def _changed(self, entry: Entry) -> None:
        """A line of the table is told, after a change or in a dump."""
        if not is_host(entry.ip, self._subnet):
            return
        before = self._line(entry.ip)
        self._before.pop(entry.ip, None)
        if entry.gone:
            # No decision: the kernel makes room, and whoever is being asked for gets a new line.
            self._table.pop(entry.ip, None)
        else:
            now = self._table[entry.ip] = _Line(entry.mac, entry.state, self._clock.monotonic() - entry.proven_s)
            if before is not None and before.mac == now.mac:
                now.answered_at = before.answered_at
            if before is None or _is_news(before, now):
                self._tell(entry.ip, now)
            for wait in self._waits:
                wait.decide(entry.ip, entry.state)

    def _tell(self, address: IPv4Address, line: _Line) -> None:
        if line.mac and line.state & _KNOWN:
            proven = bool(line.state & REACHABLE)
            detail = "answered the kernel" if proven else "in the kernel's memory"
            self._on_sighting(
                Sighting(line.mac, Source.NEIGHBOUR, line.proven_at, address, alive=proven, binds=proven, detail=detail)
            )

    def _answered(self, address: IPv4Address, asked: Mac | None) -> None:
        """Our datagram was answered; the MAC is the one that it went to, unless that has changed meanwhile."""
        line = self._line(address)
        if line is None or line.mac is None or line.mac != asked or not line.state & _KNOWN:
            return
        line.answered_at = self._clock.monotonic()
        self._on_sighting(
            Sighting(line.mac, Source.NEIGHBOUR, line.answered_at, address, binds=True, detail="answered a datagram")
        )
        for wait in self._waits:
            wait.decide(address, REACHABLE)

    def _link_changed(self, index: int, works: bool) -> None:
        if self._link is not None and index == self._link.index and not works:
            self._lost(OSError(errno.ENETDOWN, f"{self._link.name} has gone down"))

    def _lost(self, error: OSError) -> None:
        for wait in self._waits:
            wait.error = error
            wait.over.set()

    def _open_link(self) -> Link:
        if self._link is None:
            raise OSError(errno.ENOTCONN, "the scan engine is not open")
        return self._link

    def _line(self, address: IPv4Address) -> _Line | None:
        return self._table.get(address) or self._before.get(address)

    def _state(self, address: IPv4Address) -> int:
        line = self._line(address)
        return line.state if line else 0

    def _is_memory(self, address: IPv4Address) -> bool:
        return bool(self._state(address) & _OLD)

    def _alive(self, address: IPv4Address, since: float) -> bool:
        """Whether the kernel vouches for whoever is there, or an answer has come since."""
        line = self._line(address)
        return line is not None and (bool(line.state & REACHABLE) or line.answered_at >= since)


def _is_news(before: _Line, now: _Line) -> bool:
    if now.state & REACHABLE:
        return not before.state & REACHABLE or before.mac != now.mac or now.proven_at > before.proven_at + SAME_S
    return before.mac != now.mac or not before.state & _KNOWN
