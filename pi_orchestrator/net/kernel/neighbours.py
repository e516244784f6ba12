"""Scan engine that uses the kernel's neighbour table and ARP. Needs no privilege.

`NeighbourTable` looks up single addresses. `NeighbourEngine` scans: a datagram to the discard port of an address makes
the kernel send ARP requests for it, and the result arrives as a notification.

* REACHABLE proves that the device answered, at the time that the entry states. STALE, DELAY and PROBE are claims until
  the kernel confirms them again.
* The kernel sends up to three requests for an unknown address, one per second, then sets it to FAILED: a sweep with
  silent addresses takes 3 s. The table holds 1,024 addresses of all networks, so a large subnet is swept in blocks.
* The kernel uses a STALE entry unchecked. It sends an ARP request only 5 s after a datagram
  (`delay_first_probe_time`), then one per second. Without privileges this cannot be shortened: the entry cannot be
  deleted, and MSG_CONFIRM would confirm it without an answer from the device. But a device answers the datagram itself
  with "port unreachable" (lwIP and Linux do), and IP_RECVERR returns that to the sending socket within a
  millisecond. The answer proves that the MAC to which the datagram went has the address. Only devices that do not
  answer the datagram (firewall, ARP only) have to be waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.ipv4 import parse_ipv4
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.net.kernel.datagrams import Datagrams
from pi_orchestrator.net.kernel.events import (
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
from pi_orchestrator.net.kernel.links import Link, is_host
from pi_orchestrator.net.kernel.netlink import Netlink
from pi_orchestrator.net.scan_engine import OnProgress, OnSighting

OWN_ADDRESSES_CACHE_S = 10.0
BLOCK_SIZE = 256
UNKNOWN_WAIT_S = 3.6
"""The kernel sends three requests, one per second, before it sets an address to FAILED."""
STALE_WAIT_S = 6.6
"""The kernel sends the first request for a STALE entry after 5 s, the second one a second later."""
SAME_CONFIRMATION_S = 0.05
"""Two calculated times of one confirmation may differ by less than this."""
CONFIRMATION_RESOLUTION_S = 0.02
"""The kernel counts the age of a confirmation in ticks of 4 to 10 ms."""

_UNCONFIRMED = STALE | DELAY | PROBE
_KNOWN = REACHABLE | _UNCONFIRMED | NOARP | PERMANENT


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The MAC of an address; `fresh`: REACHABLE, so by default the device confirmed it at most 45 s ago."""

    mac: Mac
    fresh: bool


class NeighbourTable:
    """Looks up single addresses in the kernel; without netlink all results are empty."""

    def __init__(self, *, clock: Clock, netlink: Netlink | None = None) -> None:
        self._clock = clock
        self._netlink = netlink or Netlink()
        self._own: frozenset[IPv4Address] = frozenset()
        self._own_read_at = float("-inf")

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    async def at(self, address: str) -> Neighbour | None:
        """The neighbour at an address; None if the kernel has no usable entry."""
        try:
            entry = await self._netlink.neighbour(parse_ipv4(address))
        except FieldError:
            return None
        if entry is None or not entry.state & _KNOWN:
            return None
        return Neighbour(entry.mac, fresh=bool(entry.state & REACHABLE))

    async def own_addresses(self) -> frozenset[IPv4Address]:
        """This machine's IPv4 addresses, cached for 10 s."""
        now = self._clock.monotonic()
        if (
            now - self._own_read_at >= OWN_ADDRESSES_CACHE_S
            and (own := await self._netlink.own_addresses()) is not None
        ):
            self._own = own
            self._own_read_at = now
        return self._own


@dataclass(slots=True, eq=False)
class _TrackedEntry:
    """A neighbour entry, with the times of its last confirmation and of the last answer to a datagram (monotonic s)."""

    mac: Mac | None
    state: int
    confirmed_at: float
    answered_at: float = float("-inf")


@dataclass(slots=True, eq=False)
class _Wait:
    """A wait for the addresses in `pending`: an address is removed when its state is not in `undecided`."""

    pending: set[IPv4Address]
    undecided: int
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: OSError | None = None

    def update(self, address: IPv4Address, state: int) -> None:
        if not state & self.undecided:
            self.pending.discard(address)
            if not self.pending:
                self.done.set()


class NeighbourEngine:
    """An `Engine` that lets the kernel send ARP requests, and follows its neighbour table while open."""

    name = "neighbour"

    def __init__(self, *, clock: Clock, on_sighting: OnSighting) -> None:
        self._clock = clock
        self._on_sighting = on_sighting
        self._events = KernelEvents(
            clock=clock, on_neighbour=self._on_neighbour, on_dump=self._on_dump, on_link=self._on_link
        )
        self._link: Link | None = None
        self._subnet = IPv4Network("0.0.0.0/0")
        self._table: dict[IPv4Address, _TrackedEntry] = {}
        self._before_dump: dict[IPv4Address, _TrackedEntry] = {}
        self._waits: list[_Wait] = []
        self._sweep_lock = asyncio.Lock()

    async def open(self, link: Link, subnet: IPv4Network) -> None:
        """Start following the neighbour table of this link; OSError with the reason if that fails."""
        self.close()
        if not link.supports_arp:
            raise OSError(errno.EOPNOTSUPP, f"no ARP on {link.name}")
        self._link, self._subnet = link, subnet
        try:
            self._events.open(link.index)
            await self._events.dump()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop following; a running sweep ends with OSError. May be called twice."""
        self._events.close()
        self._link = None
        self._table, self._before_dump = {}, {}
        self._fail_waits(OSError(errno.ENOTCONN, "the scan engine is closed"))

    async def sweep(
        self, targets: Sequence[IPv4Address], *, expected: frozenset[IPv4Address], progress: OnProgress
    ) -> None:
        """Probe every target; probe `expected` addresses that stay silent once more. OSError if the link fails."""
        async with self._sweep_lock:
            link = self._open_link()
            started_at = self._clock.monotonic()
            await self._events.dump()
            for address, entry in list(self._table.items()):
                self._report(address, entry)
            own = link.own_addresses()
            unconfirmed = [address for address in targets if self._is_unconfirmed(address)]
            others = [address for address in targets if address not in own and not self._is_unconfirmed(address)]
            with self._datagrams(link) as send, self._waiting(unconfirmed, _UNCONFIRMED) as wait:
                await send(unconfirmed)
                sent_at = self._clock.monotonic()
                for start in range(0, len(others), BLOCK_SIZE):
                    progress(start / len(others))
                    await self._resolve(send, others[start : start + BLOCK_SIZE])
                silent = [address for address in others if not self._is_reachable_or_answered(address, started_at)]
                await self._resolve(send, [address for address in silent if address in expected])
                # The kernel may have added an entry during the sweep, without a confirmation.
                if added := {
                    address
                    for address in others
                    if self._is_unconfirmed(address) and not self._is_reachable_or_answered(address, started_at)
                }:
                    wait.pending |= added
                    sent_at = self._clock.monotonic()
                await self._wait_for(wait, max(0.0, sent_at + STALE_WAIT_S - self._clock.monotonic()))
        progress(1.0)

    async def probe(self, address: IPv4Address, *, timeout_s: float) -> frozenset[Mac]:
        """The MAC that answers for an address, at most one; OSError if the engine is not open or the link fails."""
        started_at = self._clock.monotonic()
        # FAILED may be the result of an earlier probe, and the kernel needs longer than `timeout_s` to renew it.
        with (
            self._datagrams(self._open_link()) as send,
            self._waiting([address], INCOMPLETE | _UNCONFIRMED | FAILED) as wait,
        ):
            for _ in range(2):
                await send([address])
                if not self._is_confirmed(address, started_at):
                    await self._wait_for(wait, timeout_s / 2)
                if self._is_confirmed(address, started_at):
                    break
        entry = self._find(address)
        return (
            frozenset({entry.mac}) if entry and entry.mac and self._is_confirmed(address, started_at) else frozenset()
        )

    @contextlib.contextmanager
    def _datagrams(self, link: Link) -> Iterator[Callable[[Sequence[IPv4Address]], Awaitable[None]]]:
        """Yield a function that sends a datagram to each given address."""
        sent_to: dict[IPv4Address, Mac | None] = {}
        datagrams = Datagrams(
            clock=self._clock,
            link=link,
            source=link.address_in(self._subnet),
            on_answer=lambda address: self._on_answer(address, sent_to.get(address)),
        )

        async def send(addresses: Sequence[IPv4Address]) -> None:
            sent_to.update({address: entry.mac for address in addresses if (entry := self._find(address))})
            await datagrams.send(addresses)

        with datagrams.opened():
            yield send

    async def _resolve(
        self, send: Callable[[Sequence[IPv4Address]], Awaitable[None]], addresses: Sequence[IPv4Address]
    ) -> None:
        unknown = [address for address in addresses if not self._state(address) & _KNOWN]
        with self._waiting(unknown, INCOMPLETE) as wait:
            await send(addresses)
            await self._wait_for(wait, UNKNOWN_WAIT_S)

    @contextlib.contextmanager
    def _waiting(self, addresses: Sequence[IPv4Address], undecided: int) -> Iterator[_Wait]:
        wait = _Wait(set(addresses), undecided)
        self._waits.append(wait)
        try:
            yield wait
        finally:
            self._waits.remove(wait)

    async def _wait_for(self, wait: _Wait, timeout_s: float) -> None:
        if wait.pending and wait.error is None:
            wait.done.clear()
            await self._clock.wait(wait.done, timeout_s)
        if wait.error is not None:
            raise wait.error

    def _on_dump(self, begins: bool) -> None:
        """Start or end of a dump; the end removes the entries that it did not contain."""
        self._before_dump = self._before_dump | self._table if begins else {}
        if begins:
            self._table = {}

    def _on_neighbour(self, entry: Entry) -> None:
        """Update or remove an entry, from a notification or a dump."""
        if not is_host(entry.ip, self._subnet):
            return
        before = self._find(entry.ip)
        self._before_dump.pop(entry.ip, None)
        if entry.is_deleted:
            # Not a result: the kernel deletes entries to free space, and a pending address gets a new entry.
            self._table.pop(entry.ip, None)
        else:
            after = self._table[entry.ip] = _TrackedEntry(
                entry.mac, entry.state, self._clock.monotonic() - entry.confirmed_s
            )
            if before is not None and before.mac == after.mac:
                after.answered_at = before.answered_at
            if before is None or _is_new(before, after):
                self._report(entry.ip, after)
            for wait in self._waits:
                wait.update(entry.ip, entry.state)

    def _report(self, address: IPv4Address, entry: _TrackedEntry) -> None:
        if entry.mac and entry.state & _KNOWN:
            is_confirmed = bool(entry.state & REACHABLE)
            detail = "confirmed by the kernel" if is_confirmed else "unconfirmed entry of the kernel"
            self._on_sighting(
                Sighting(
                    entry.mac,
                    Source.NEIGHBOUR,
                    entry.confirmed_at,
                    address,
                    alive=is_confirmed,
                    binds=is_confirmed,
                    detail=detail,
                )
            )

    def _on_answer(self, address: IPv4Address, sent_to: Mac | None) -> None:
        """A datagram was answered; counts only if the address still has the MAC to which it was sent."""
        entry = self._find(address)
        if entry is None or entry.mac is None or entry.mac != sent_to or not entry.state & _KNOWN:
            return
        entry.answered_at = self._clock.monotonic()
        self._on_sighting(
            Sighting(entry.mac, Source.NEIGHBOUR, entry.answered_at, address, binds=True, detail="answered a datagram")
        )
        for wait in self._waits:
            wait.update(address, REACHABLE)

    def _on_link(self, index: int, is_up: bool) -> None:
        if self._link is not None and index == self._link.index and not is_up:
            self._fail_waits(OSError(errno.ENETDOWN, f"{self._link.name} is down"))

    def _fail_waits(self, error: OSError) -> None:
        for wait in self._waits:
            wait.error = error
            wait.done.set()

    def _open_link(self) -> Link:
        if self._link is None:
            raise OSError(errno.ENOTCONN, "the scan engine is not open")
        return self._link

    def _find(self, address: IPv4Address) -> _TrackedEntry | None:
        return self._table.get(address) or self._before_dump.get(address)

    def _state(self, address: IPv4Address) -> int:
        entry = self._find(address)
        return entry.state if entry else 0

    def _is_unconfirmed(self, address: IPv4Address) -> bool:
        return bool(self._state(address) & _UNCONFIRMED)

    def _is_reachable_or_answered(self, address: IPv4Address, since: float) -> bool:
        """Whether the entry is REACHABLE, or the device has answered a datagram since `since`."""
        entry = self._find(address)
        return entry is not None and (bool(entry.state & REACHABLE) or entry.answered_at >= since)

    def _is_confirmed(self, address: IPv4Address, since: float) -> bool:
        """Whether the device has answered since `since`. REACHABLE alone may be a confirmation from 30 s ago."""
        entry = self._find(address)
        if entry is None:
            return False
        is_recent = entry.confirmed_at >= since - CONFIRMATION_RESOLUTION_S
        return (bool(entry.state & REACHABLE) and is_recent) or entry.answered_at >= since


def _is_new(before: _TrackedEntry, after: _TrackedEntry) -> bool:
    """Whether a change must be reported: another MAC, a new confirmation, or an entry that was not usable before."""
    if after.state & REACHABLE:
        return (
            not before.state & REACHABLE
            or before.mac != after.mac
            or after.confirmed_at > before.confirmed_at + SAME_CONFIRMATION_S
        )
    return before.mac != after.mac or not before.state & _KNOWN
