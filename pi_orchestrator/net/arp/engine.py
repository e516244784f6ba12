"""Scan engine with its own ARP frames: probes a network within milliseconds and listens to all ARP traffic.

scapy builds and parses the frames. It needs some 80 µs per frame, which is too slow in an ARP flood. So the raw bytes
are checked first: the format, whether the frame is forged, and whether it replies to a pending request. Replies are
always parsed, unsolicited frames only within a budget.

* A reply to this link for an address with a pending request proves that the device is present and has the address.
  Any other frame proves that its sender is present; its address is only a claim.
* A frame whose Ethernet source differs from its ARP sender MAC is forged and dropped.
* The socket reports when the interface goes down (ENETDOWN), and works again, without reopening, when it is up.
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

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.core.token_bucket import TokenBucket
from pi_orchestrator.net.arp.frames import (
    BROADCAST,
    ETH_P_ARP,
    FRAME_BYTES,
    ArpSender,
    Frames,
    is_arp,
    is_forged,
    load_scapy,
    sender_ip,
    sender_mac,
)
from pi_orchestrator.net.arp.rtt import RttEstimator
from pi_orchestrator.net.kernel.links import Link, is_host
from pi_orchestrator.net.scan_engine import OnProgress, OnSighting

ROUNDS = 2
"""Requests per scan to an address that does not answer."""
BATCH_SIZE, PAUSE_S = 16, 0.002
"""Requests per batch, and the pause after a batch and while the send queue is full."""
SEND_TIMEOUT_S = 1.0
"""How long the send queue may stay full before the sweep fails."""
MIN_WAIT_S, MAX_WAIT_S = 0.1, 0.4
"""Limits of the reply timeout, which follows the measured reply times."""
LAST_ROUND_WAIT_S = 0.2
"""Minimum wait after the last request: a radio in power save receives broadcasts only at about every third beacon."""
LINGER_S = 0.02
"""Wait after the last address has replied, because a second device may claim an address."""
MAX_CLAIMANTS = 8
MAX_KNOWN_MACS = 4096
MAX_READS, MAX_PARSED = 64, 16
"""Frames read, and frames parsed by scapy, per callback, so that other tasks can run."""
UNSOLICITED_PER_S = 500
READ_PAUSE_S = 0.05
WARN_INTERVAL_S = 60.0

_QUEUE_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
_SOL_PACKET, _PACKET_STATISTICS = 263, 6

log = get_logger(__name__)


@dataclass(slots=True)
class ArpCounters:
    """Frames since the start.

    `requests`: sent. `replies`: new answers to pending requests; repeated ones are not counted. `unsolicited`: all
    other valid frames. `malformed`: not ARP for IPv4, or a MAC that cannot be a device's. `forged`: two different
    source MACs, or this link's own MAC. `foreign`: the sender address is no host of the network. `own_claimed`: the
    sender address is one of this machine. `missed`: not parsed, because the budget was used up, or
    dropped by the kernel.
    """

    requests: int = 0
    replies: int = 0
    unsolicited: int = 0
    malformed: int = 0
    forged: int = 0
    foreign: int = 0
    missed: int = 0
    own_claimed: int = 0


@dataclass(slots=True, eq=False)
class _Request:
    """An address with a pending request: number of waiting callers, and the MACs that have answered, with the time.

    A reply from before `probed_at`, the start of the last probe, counts for the sweep only.
    """

    requested_at: float
    probed_at: float = float("-inf")
    waiters: int = 0
    replies: dict[bytes, tuple[Mac, float]] = field(default_factory=dict)

    def accepts_reply_of(self, mac: bytes) -> bool:
        """Whether a reply of this MAC is new, and there is space for it."""
        if mac in self.replies:
            return self.replies[mac][1] < self.probed_at
        return len(self.replies) < MAX_CLAIMANTS


@dataclass(slots=True, eq=False)
class _Sweep:
    """The state of a sweep: the addresses that have not answered yet."""

    silent: dict[bytes, None]
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: OSError | None = None


class ArpEngine:
    """An `Engine` (`net/scan_engine.py`) that sends ARP frames and listens while open; needs CAP_NET_RAW."""

    name = "arp"

    def __init__(self, *, clock: Clock, on_sighting: OnSighting, rounds: int = ROUNDS) -> None:
        self._clock = clock
        self._on_sighting = on_sighting
        self._rounds = rounds
        self._rtt = RttEstimator(min_s=MIN_WAIT_S, max_s=MAX_WAIT_S)
        self._unsolicited_budget = TokenBucket(capacity=UNSOLICITED_PER_S, rate=UNSOLICITED_PER_S, now=0.0)
        self._socket: socket.socket | None = None
        self._read_paused: asyncio.TimerHandle | None = None
        self._frames: Frames | None = None
        self._subnet = IPv4Network("0.0.0.0/0")
        self._own: frozenset[bytes] = frozenset()
        self._requests: dict[bytes, _Request] = {}
        self._known_macs: dict[bytes, bytes] = {}
        self._sweep: _Sweep | None = None
        self._sweep_lock = asyncio.Lock()
        self._warned_at = float("-inf")
        self.counters = ArpCounters()

    async def open(self, link: Link, subnet: IPv4Network) -> None:
        """Start listening on this link; OSError with the reason if that fails (PermissionError: no CAP_NET_RAW)."""
        self.close()
        if not link.supports_arp or link.mac is None:
            raise OSError(errno.EOPNOTSUPP, f"no ARP on {link.name}")
        # Protocol 0 receives nothing until bind. Opened first: without CAP_NET_RAW it is useless to load scapy.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            library = await asyncio.to_thread(load_scapy)
            frames = Frames(library, mac=link.mac, address=link.address_in(subnet))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            # Bound to ARP only: a socket for all protocols would also receive its own frames.
            sock.bind((link.name, ETH_P_ARP))
            if socket.if_nametoindex(link.name) != link.index:
                raise OSError(errno.ENODEV, f"{link.name} was replaced by another interface")
            asyncio.get_running_loop().add_reader(sock, self._read)
        except BaseException:
            sock.close()
            raise
        self.close()
        self._socket, self._frames, self._subnet = sock, frames, subnet
        self._own = frozenset(address.packed for address in link.own_addresses())

    def close(self) -> None:
        """Stop listening; a running sweep ends with OSError. May be called twice."""
        if self._read_paused is not None:
            self._read_paused.cancel()
            self._read_paused = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        self._known_macs.clear()
        self._fail_sweep(OSError(errno.ENOTCONN, "the scan engine is closed"))

    async def sweep(
        self, targets: Sequence[IPv4Address], *, expected: frozenset[IPv4Address], progress: OnProgress
    ) -> None:
        """Probe every target; probe `expected` addresses that stay silent once more. OSError if the link fails."""
        async with self._sweep_lock:
            packed = [address.packed for address in targets]
            sweep = _Sweep(dict.fromkeys(address for address in packed if address not in self._own))
            with self._requesting() as requested:
                self._sweep = sweep
                try:
                    await self._run_rounds(sweep, requested, {address.packed for address in expected}, progress)
                finally:
                    self._sweep = None
                    self._count_missed()
        progress(1.0)

    async def probe(self, address: IPv4Address, *, timeout_s: float) -> frozenset[Mac]:
        """The MACs that answer for an address; always takes `timeout_s`: several may answer. OSError without a link."""
        began = self._clock.monotonic()
        with self._requesting() as requested:
            for _ in range(2):  # one request may be lost
                await self._request(address.packed, requested, probed_at=began)
                await self._clock.sleep(timeout_s / 2)
            # Replies to a sweep from before this probe do not count: the device may have left the address since.
            return frozenset(mac for mac, at in self._requests[address.packed].replies.values() if at >= began)

    async def _run_rounds(
        self, sweep: _Sweep, requested: set[bytes], expected: set[bytes], progress: OnProgress
    ) -> None:
        for number in range(self._rounds):
            is_last = number == self._rounds - 1
            addresses = list(sweep.silent)
            for start in range(0, len(addresses), BATCH_SIZE):
                progress((number + start / len(addresses)) / self._rounds)
                for address in addresses[start : start + BATCH_SIZE]:
                    if address in sweep.silent:
                        await self._request(address, requested)
                await self._clock.sleep(PAUSE_S)
            await self._wait_for_replies(sweep, min_s=LAST_ROUND_WAIT_S if is_last else 0.0)
            if not sweep.silent:
                return
        if missing := [address for address in sweep.silent if address in expected]:
            for address in missing:
                # A radio in power save misses broadcasts but is woken up for unicast frames.
                if mac := self._known_macs.get(address):
                    await self._send(address, destination=mac)
                await self._request(address, requested)
            await self._wait_for_replies(sweep, min_s=LAST_ROUND_WAIT_S)

    async def _wait_for_replies(self, sweep: _Sweep, *, min_s: float) -> None:
        """Wait until all addresses have answered or the reply timeout, at least `min_s`, is over."""
        since = self._clock.monotonic()
        while sweep.silent and sweep.error is None:
            left = since + max(min_s, self._rtt.timeout_s()) - self._clock.monotonic()
            if left <= 0:
                break
            await self._clock.wait(sweep.done, left)
        if not sweep.silent:
            await self._clock.sleep(LINGER_S)
        if sweep.error is not None:
            raise sweep.error

    @contextlib.contextmanager
    def _requesting(self) -> Iterator[set[bytes]]:
        """Yield the set to pass to `_request`; replies of its addresses count as answers until the block ends."""
        requested: set[bytes] = set()
        if self._read_paused is not None:
            self._read_paused.cancel()
            self._resume_reading()
        try:
            yield requested
        finally:
            for address in requested:
                request = self._requests[address]
                request.waiters -= 1
                if not request.waiters:
                    del self._requests[address]

    async def _request(self, address: bytes, requested: set[bytes], *, probed_at: float = float("-inf")) -> None:
        request = self._requests.get(address)
        if request is None:
            request = self._requests[address] = _Request(self._clock.monotonic())
        if address not in requested:
            request.waiters += 1
            requested.add(address)
            request.probed_at = max(probed_at, request.probed_at)
        await self._send(address)

    async def _send(self, address: bytes, destination: bytes = BROADCAST) -> None:
        """Send one request; waits while the send queue is full."""
        deadline = self._clock.monotonic() + SEND_TIMEOUT_S
        while True:
            if self._socket is None or self._frames is None:
                raise OSError(errno.ENOTCONN, "the scan engine is not open")
            try:
                self._socket.send(self._frames.request(address, destination))
            except OSError as error:
                if error.errno not in _QUEUE_FULL or self._clock.monotonic() > deadline:
                    raise
                await self._clock.sleep(PAUSE_S)
            else:
                self.counters.requests += 1
                return

    def _read(self) -> None:
        parsed = 0
        for _ in range(MAX_READS):
            if self._socket is None or self._read_paused is not None:
                return
            try:
                frame = self._socket.recv(FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self._fail_sweep(error)
                return
            parsed += self._on_frame(frame)
            if parsed >= MAX_PARSED:
                return

    def _on_frame(self, frame: bytes) -> bool:
        """Check the raw bytes of a frame; returns whether it was parsed."""
        if not is_arp(frame):
            self.counters.malformed += 1
            return False
        if is_forged(frame):
            self.counters.forged += 1
            return False
        request = self._requests.get(sender_ip(frame))
        if request is not None and self._frames and self._frames.is_reply_to_us(frame):
            if not request.accepts_reply_of(sender_mac(frame)):
                return False
        elif self._unsolicited_budget.take(self._clock.monotonic()):
            request = None
        else:
            self.counters.missed += 1
            self._pause_reading()
            return False
        self._parse_and_report(frame, request)
        return True

    def _parse_and_report(self, frame: bytes, request: _Request | None) -> None:
        assert self._frames is not None, "called while open"  # noqa: S101
        sender = self._frames.parse(frame)
        if sender is None:
            self.counters.malformed += 1
        elif sender.mac == self._frames.mac:
            self.counters.forged += 1  # own frames are not received: another host uses this MAC
        elif sender.ip is not None and sender.ip.packed in self._own:
            self._on_own_claimed(sender)
        elif sender.ip is not None and not is_host(sender.ip, self._subnet):
            self.counters.foreign += 1
        else:
            now = self._clock.monotonic()
            if request is not None:
                self._add_reply(frame, sender.mac, request, now)
            self.counters.unsolicited += request is None
            binds = request is not None
            detail = "ARP reply" if binds else "ARP frame" if sender.ip else "ARP address probe"
            self._on_sighting(Sighting(sender.mac, Source.ARP, now, sender.ip, binds=binds, detail=detail))

    def _add_reply(self, frame: bytes, mac: Mac, request: _Request, now: float) -> None:
        address = sender_ip(frame)
        self.counters.replies += 1
        if not request.replies:
            # After a second request the reply may be to the first one, so this is the upper bound of the reply time.
            self._rtt.add(now - request.requested_at)
        request.replies[sender_mac(frame)] = mac, now
        if address in self._known_macs or len(self._known_macs) < MAX_KNOWN_MACS:
            self._known_macs[address] = sender_mac(frame)
        if self._sweep is not None:
            self._sweep.silent.pop(address, None)
            if not self._sweep.silent:
                self._sweep.done.set()

    def _on_own_claimed(self, sender: ArpSender) -> None:
        self.counters.own_claimed += 1
        now = self._clock.monotonic()
        if now - self._warned_at >= WARN_INTERVAL_S:
            self._warned_at = now
            log.warning("own address claimed by another device", mac=sender.mac, address=str(sender.ip))

    def _pause_reading(self) -> None:
        """In a flood with no request pending, stop reading for a while, so that the kernel drops the frames."""
        if not self._requests and self._socket is not None and self._read_paused is None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            self._read_paused = loop.call_later(READ_PAUSE_S, self._resume_reading)

    def _resume_reading(self) -> None:
        self._read_paused = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _fail_sweep(self, error: OSError) -> None:
        if self._sweep is not None:
            self._sweep.error = error
            self._sweep.done.set()

    def _count_missed(self) -> None:
        """Add the frames that the kernel dropped; reading the statistics resets them."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
                self.counters.missed += struct.unpack("=II", statistics)[1]
