"""ARP by hand: requests to a whole network within milliseconds, and an ear for everything that is said between.

Frames are made and taken apart by scapy. It takes some 80 µs for each, which is too much when somebody floods the
network. So a frame's raw bytes are looked at first: its form, whether it is forged, whether it answers a question.
Answers are taken apart at once; of what is said unasked, only as many as the budget allows.

* An answer is a reply to us, for an address that we have asked for and are still waiting for: proof of life and of
  the address. Everything else shows that its sender lives; the address that it claims is hearsay.
* A frame whose Ethernet source is not the MAC that it speaks for is forged, and dropped.
* The socket hears the interface go down (ENETDOWN) and works again by itself when it is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.bucket import TokenBucket
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.patience import Patience
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.arp_frames import (
    BROADCAST,
    ETH_P_ARP,
    FRAME,
    Frames,
    Heard,
    is_arp,
    is_forged,
    load_scapy,
    sender,
    sender_ip,
)
from pi_orchestrator.net.engine import OnProgress, OnSighting
from pi_orchestrator.net.links import Link, is_host

BATCH, PAUSE_S = 16, 0.002
FULL_S = 1.0
"""So long may the send queue stay full before the link counts as broken."""
LEAST_S, MOST_S = 0.1, 0.4
LAST_LEAST_S = 0.2
"""After the last question: a radio that saves power hears a broadcast only at every third beacon or so."""
LINGER_S = 0.02
"""Even when everybody has answered: a second one may claim an address."""
CLAIMANTS = 8
MOST_KNOWN = 4096
READS, TAKEN_APART = 64, 16
"""Frames read, and among them taken apart by scapy, before others have their turn in the loop."""
UNASKED_PER_S = 500
REST_S = 0.05
WARN_S = 60.0

_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
_SOL_PACKET, _PACKET_STATISTICS = 263, 6

log = get_logger(__name__)


@dataclass(slots=True)
class ArpCounters:
    """What has been heard since the start; `missed` were not looked at, by us or already by the kernel."""

    asked: int = 0
    answers: int = 0
    unasked: int = 0
    malformed: int = 0
    forged: int = 0
    foreign: int = 0
    missed: int = 0
    own_claimed: int = 0


@dataclass(slots=True, eq=False)
class _Question:
    """An address that somebody wants to know about, and who has answered for it."""

    asked_at: float
    wanted_by: int = 0
    answers: dict[bytes, Mac] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Round:
    """A sweep's addresses that are still silent."""

    silent: dict[bytes, None]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    error: OSError | None = None


class ArpEngine:
    """Scans with ARP frames of its own (an `Engine`), and listens while open; needs CAP_NET_RAW."""

    name = "arp"

    def __init__(self, *, clock: Clock, on_sighting: OnSighting, rounds: int = 2) -> None:
        self._clock = clock
        self._on_sighting = on_sighting
        self._rounds = rounds
        self._patience = Patience(least=LEAST_S, most=MOST_S)
        self._budget = TokenBucket(capacity=UNASKED_PER_S, rate=UNASKED_PER_S, now=0.0)
        self._socket: socket.socket | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._frames: Frames | None = None
        self._subnet = IPv4Network("0.0.0.0/0")
        self._own: frozenset[bytes] = frozenset()
        self._questions: dict[bytes, _Question] = {}
        self._known: dict[bytes, bytes] = {}
        self._sweep: _Round | None = None
        self._sweeping = asyncio.Lock()
        self._warned_at = float("-inf")
        self.counters = ArpCounters()

    async def open(self, link: Link, subnet: IPv4Network) -> None:
        """Begin to listen on this link; OSError says why that cannot be (PermissionError without CAP_NET_RAW)."""
        self.close()
        if not link.asks or link.mac is None:
            raise OSError(errno.EOPNOTSUPP, f"there is no ARP on {link.name}")
        # Protocol 0 hears nothing until it is bound. First, because without the right to it scapy is not needed.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            library = await asyncio.to_thread(load_scapy)
            frames = Frames(library, mac=link.mac, address=link.address_in(subnet))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            # Bound to ARP alone (not to all protocols) it does not hear what it says itself.
            sock.bind((link.name, ETH_P_ARP))
            if socket.if_nametoindex(link.name) != link.index:
                raise OSError(errno.ENODEV, f"{link.name} has become another interface")
            asyncio.get_running_loop().add_reader(sock, self._read)
        except BaseException:
            sock.close()
            raise
        self.close()
        self._socket, self._frames, self._subnet = sock, frames, subnet
        self._own = frozenset(address.packed for address in link.own())

    def close(self) -> None:
        """Stop listening; a sweep that runs ends with OSError. May be called twice."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        self._known.clear()
        self._lost(OSError(errno.ENOTCONN, "the scan engine is closed"))

    async def sweep(
        self, targets: Sequence[IPv4Address], *, expected: frozenset[IPv4Address], progress: OnProgress
    ) -> None:
        """Ask every address, `expected` ones that stay silent once more; OSError when the link goes away."""
        async with self._sweeping:
            packed = [address.packed for address in targets]
            sweep = _Round(dict.fromkeys(address for address in packed if address not in self._own))
            with self._asking() as asked:
                self._sweep = sweep
                try:
                    await self._ask_in_rounds(sweep, asked, {one.packed for one in expected}, progress)
                finally:
                    self._sweep = None
                    self._count_missed()
        progress(1.0)

    async def ask(self, address: IPv4Address, *, timeout_s: float) -> frozenset[Mac]:
        """Everyone who answers for an address within `timeout_s`; OSError when there is no link to ask on."""
        with self._asking() as asked:
            for _ in range(2):  # one of them may be lost
                await self._ask(address.packed, asked)
                await self._clock.sleep(timeout_s / 2)
            return frozenset(self._questions[address.packed].answers.values())

    async def _ask_in_rounds(
        self, sweep: _Round, asked: set[bytes], expected: set[bytes], progress: OnProgress
    ) -> None:
        for number in range(self._rounds):
            last = number == self._rounds - 1
            addresses = list(sweep.silent)
            for start in range(0, len(addresses), BATCH):
                progress((number + start / len(addresses)) / self._rounds)
                for address in addresses[start : start + BATCH]:
                    if address in sweep.silent:
                        await self._ask(address, asked)
                await self._clock.sleep(PAUSE_S)
            await self._answered(sweep, least=LAST_LEAST_S if last else 0.0)
            if not sweep.silent:
                return
        if missing := [address for address in sweep.silent if address in expected]:
            for address in missing:
                # A radio that sleeps through broadcasts is woken for a frame of its own.
                if known := self._known.get(address):
                    await self._send(address, to=known)
                await self._ask(address, asked)
            await self._answered(sweep, least=LAST_LEAST_S)

    async def _answered(self, sweep: _Round, *, least: float) -> None:
        """Wait until everybody has answered or nobody else is likely to."""
        since = self._clock.monotonic()
        while sweep.silent and sweep.error is None:
            left = since + max(least, self._patience.wait_s()) - self._clock.monotonic()
            if left <= 0:
                break
            await self._clock.wait(sweep.over, left)
        if not sweep.silent:
            await self._clock.sleep(LINGER_S)
        if sweep.error is not None:
            raise sweep.error

    @contextlib.contextmanager
    def _asking(self) -> Iterator[set[bytes]]:
        """A set of addresses that are being asked for; what comes from them is an answer until the end of the block."""
        asked: set[bytes] = set()
        if self._resting is not None:
            self._resting.cancel()
            self._listen_again()
        try:
            yield asked
        finally:
            for address in asked:
                question = self._questions[address]
                question.wanted_by -= 1
                if not question.wanted_by:
                    del self._questions[address]

    async def _ask(self, address: bytes, asked: set[bytes]) -> None:
        question = self._questions.get(address)
        if question is None:
            question = self._questions[address] = _Question(self._clock.monotonic())
        if address not in asked:
            question.wanted_by += 1
            asked.add(address)
        await self._send(address)

    async def _send(self, address: bytes, to: bytes = BROADCAST) -> None:
        """One request; waits where the queue is full."""
        deadline = self._clock.monotonic() + FULL_S
        while True:
            if self._socket is None or self._frames is None:
                raise OSError(errno.ENOTCONN, "the scan engine is not open")
            try:
                self._socket.send(self._frames.request(address, to))
            except OSError as error:
                if error.errno not in _FULL or self._clock.monotonic() > deadline:
                    raise
                await self._clock.sleep(PAUSE_S)
            else:
                self.counters.asked += 1
                return

    def _read(self) -> None:
        dear = 0
        for _ in range(READS):
            if self._socket is None or self._resting is not None:
                return
            try:
                frame = self._socket.recv(FRAME)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self._lost(error)
                return
            dear += self._hear(frame)
            if dear >= TAKEN_APART:
                return

    def _hear(self, frame: bytes) -> bool:
        """Look at a frame's bytes; whether it was worth being taken apart."""
        if not is_arp(frame):
            self.counters.malformed += 1
            return False
        if is_forged(frame):
            self.counters.forged += 1
            return False
        question = self._questions.get(sender_ip(frame))
        if question is not None and self._frames and self._frames.is_for_us(frame):
            if sender(frame) in question.answers or len(question.answers) >= CLAIMANTS:
                return False
        elif self._budget.take(self._clock.monotonic()):
            question = None
        else:
            self.counters.missed += 1
            self._rest()
            return False
        self._understand(frame, question)
        return True

    def _understand(self, frame: bytes, question: _Question | None) -> None:
        assert self._frames is not None, "frames come while open"  # noqa: S101
        heard = self._frames.take_apart(frame)
        if heard is None:
            self.counters.malformed += 1
        elif heard.mac == self._frames.mac:
            self.counters.forged += 1  # we do not hear ourselves: somebody speaks in our name
        elif heard.ip is not None and heard.ip.packed in self._own:
            self._own_is_claimed(heard)
        elif heard.ip is not None and not is_host(heard.ip, self._subnet):
            self.counters.foreign += 1
        else:
            now = self._clock.monotonic()
            if question is not None:
                self._note_answer(frame, heard.mac, question, now)
            self.counters.unasked += question is None
            binds = question is not None
            detail = "answered" if binds else "said" if heard.ip else "was looking for an address"
            self._on_sighting(Sighting(heard.mac, Source.ARP, now, heard.ip, binds=binds, detail=detail))

    def _note_answer(self, frame: bytes, mac: Mac, question: _Question, now: float) -> None:
        address = sender_ip(frame)
        self.counters.answers += 1
        if not question.answers:
            # After a second request it may be the answer to the first: then it took this long, and less otherwise.
            self._patience.note(now - question.asked_at)
        question.answers[sender(frame)] = mac
        if address in self._known or len(self._known) < MOST_KNOWN:
            self._known[address] = sender(frame)
        if self._sweep is not None:
            self._sweep.silent.pop(address, None)
            if not self._sweep.silent:
                self._sweep.over.set()

    def _own_is_claimed(self, heard: Heard) -> None:
        self.counters.own_claimed += 1
        now = self._clock.monotonic()
        if now - self._warned_at >= WARN_S:
            self._warned_at = now
            log.warning("another device claims this machine's address", mac=heard.mac, address=str(heard.ip))

    def _rest(self) -> None:
        """Too much is said and nobody waits for an answer: leave it to the kernel to throw it away for a while."""
        if not self._questions and self._socket is not None and self._resting is None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            self._resting = loop.call_later(REST_S, self._listen_again)

    def _listen_again(self) -> None:
        self._resting = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _lost(self, error: OSError) -> None:
        if self._sweep is not None:
            self._sweep.error = error
            self._sweep.over.set()

    def _count_missed(self) -> None:
        """Add what the kernel had no room for; it forgets the number when it is asked."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
                self.counters.missed += struct.unpack("=II", statistics)[1]
