"""ARP-only hosts: a process with a packet socket simulates any number of them, and sends forged frames on request.

`Player` is the client in the test. Each order is one line of JSON to this module, which runs as a program in a
namespace.
"""

import asyncio
import contextlib
import ctypes
import json
import random
import socket
import struct
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

ETH_P_ALL, ETH_P_ARP = 3, 0x0806
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
REQUEST, REPLY = 1, 2
BROADCAST = "FF:FF:FF:FF:FF:FF"
ZERO_MAC = "00:00:00:00:00:00"
LAYOUT = struct.Struct("!6s6sH HHBBH 6s4s6s4s")
OPERATIONS = {"request": REQUEST, "reply": REPLY}


def frame(op, *, sender, target=(ZERO_MAC, "0.0.0.0"), source=None, to=BROADCAST):
    """Build an ARP frame; `sender` and `target` are (MAC, address), `source` and `to` are Ethernet MACs."""
    parts = [part for mac, address in (sender, target) for part in (_bytes(mac), IPv4Address(address).packed)]
    return LAYOUT.pack(_bytes(to), _bytes(source or sender[0]), ETH_P_ARP, 1, 0x0800, 6, 4, op, *parts)


@dataclass(frozen=True)
class Arp:
    """A received ARP frame."""

    to: str
    source: str
    op: int
    sender: str
    sender_ip: str
    target: str
    target_ip: str

    @classmethod
    def parse(cls, data):
        """Parse a frame; None if it is not ARP for IPv4 over Ethernet."""
        if len(data) < LAYOUT.size:
            return None
        to, source, kind, *header, sender, sender_ip, target, target_ip = LAYOUT.unpack(data[: LAYOUT.size])
        if kind != ETH_P_ARP or header[:4] != [1, 0x0800, 6, 4]:
            return None
        ips = [str(IPv4Address(part)) for part in (sender_ip, target_ip)]
        return cls(_text(to), _text(source), header[4], _text(sender), ips[0], _text(target), ips[1])


def invented_mac(number, prefix="24:6F:28"):
    """The n-th MAC that `Player.announce_macs` generates."""
    return f"{prefix}:{number >> 16 & 255:02X}:{number >> 8 & 255:02X}:{number & 255:02X}"


def _bytes(mac):
    return bytes.fromhex(mac.replace(":", ""))


def _text(mac):
    return mac.hex(":").upper()


class Player:
    """Client of the player process: `async with Player(namespace, interface) as player`."""

    def __init__(self, namespace, interface):
        self._command = (*namespace.prefix, sys.executable, "-m", "tests.support.arp_player", interface)
        self._lock = asyncio.Lock()
        self._running = contextlib.AsyncExitStack()

    async def __aenter__(self):
        from tests.support.process import connected  # imported here: the player process does not need it

        async with contextlib.AsyncExitStack() as stack:
            self._process = await stack.enter_async_context(connected(*self._command))
            await self._answer()
            self._running = stack.pop_all()
        return self

    async def __aexit__(self, *_):
        await self._running.aclose()

    async def play(self, hosts):
        """Add hosts: {address: MAC, or a list of MACs that all reply}."""
        await self._order(
            "play", hosts={str(ip): [macs] if isinstance(macs, str) else macs for ip, macs in hosts.items()}
        )

    async def leave(self, *addresses):
        """Remove hosts; without addresses, all of them."""
        await self._order("leave", addresses=list(map(str, addresses)))

    async def swap(self, first, second):
        """Exchange the MACs of two hosts."""
        await self._order("swap", first=str(first), second=str(second))

    async def set_behaviour(self, *addresses, ignore=0.0, skip=0, late=0.0):
        """Set how these addresses reply; without addresses, set the default and drop all per-address behaviour.

        `ignore`: share of requests ignored at random (0 to 1). `skip`: number of requests to ignore first, per address.
        `late`: delay of a reply in seconds.
        """
        await self._order("set_behaviour", addresses=list(map(str, addresses)), ignore=ignore, skip=skip, late=late)

    async def send(self, address, mac, *, kind="reply", target=None, source=None, to=BROADCAST, count=1, rate=1000):
        """Send unsolicited frames, `count` times and at most `rate` per second; returns after the last frame.

        The frame is gratuitous unless `target` is another address, and forged if `source` (the Ethernet sender) is
        not `mac`.
        """
        args = {"sender": [mac, str(address)], "target": str(target or address), "source": source, "to": to}
        await self._order("send", kind=kind, count=count, rate=rate, **args)

    async def announce_macs(self, count, network, *, rate=5000, kind="reply", target=None, prefix="24:6F:28"):
        """Announce `count` generated MACs (see `invented_mac`) at addresses of this network; returns the duration (s).

        The kernel ignores unsolicited replies. Requests for one of its own addresses (`target`) fill its neighbour
        table, which all namespaces of the machine share: this can disturb other tests.
        """
        args = {"count": count, "network": str(network), "rate": rate, "prefix": prefix}
        return await self._order("announce_macs", kind=kind, target=target and str(target), **args)

    async def requests(self, *, forget=False):
        """All ARP requests seen so far, by target address: {address: [(monotonic seconds, is broadcast), …]}."""
        seen = await self._order("requests", forget=forget)
        return {address: [tuple(request) for request in requests] for address, requests in seen.items()}

    async def replies(self):
        """Number of replies sent: {address: count}."""
        return await self._order("replies")

    async def _order(self, order, **args):
        async with self._lock:
            self._process.stdin.write(json.dumps({"order": order, **args}).encode() + b"\n")
            return await self._answer()

    async def _answer(self):
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        assert line, "the ARP player process has exited"
        return json.loads(line)


# The player process.


@dataclass
class Behaviour:
    """How requests for an address are answered; see `Player.set_behaviour`."""

    ignore: float = 0.0
    skip: int = 0
    late: float = 0.0


class Orders:
    """The orders of the player process; each public method is one."""

    def __init__(self, interface):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        _only_arp(self.sock)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        # ETH_P_ARP alone would miss frames for the MACs of macvlan interfaces on this interface.
        self.sock.bind((interface, ETH_P_ALL))
        self.sock.setblocking(False)
        self.hosts = {}
        self.behaviours = {}
        self.defaults = {}
        self.seen = {}
        self.sent = {}
        self.random = random.Random(1)

    def play(self, hosts):
        self.hosts |= hosts

    def leave(self, addresses):
        for address in addresses or list(self.hosts):
            self.hosts.pop(address, None)

    def swap(self, first, second):
        self.hosts[first], self.hosts[second] = self.hosts[second], self.hosts[first]

    def set_behaviour(self, addresses, **behaviour):
        if addresses:
            self.behaviours |= {address: Behaviour(**behaviour) for address in addresses}
        else:
            self.defaults = behaviour
            self.behaviours = {}

    async def send(self, kind, sender, target, source, to, count, rate):
        op = OPERATIONS[kind]
        target_mac = ZERO_MAC if op == REQUEST else to
        data = frame(op, sender=sender, target=(target_mac, target), source=source, to=to)
        await self._paced((data for _ in range(count)), rate)

    async def announce_macs(self, kind, count, network, rate, target, prefix):
        net = IPv4Network(network)
        usable = max(1, net.num_addresses - 2)

        def frames():
            for number in range(count):
                address = str(net[1 + number % usable])
                yield frame(
                    OPERATIONS[kind],
                    sender=(invented_mac(number, prefix), address),
                    target=(ZERO_MAC, target or address),
                )

        return await self._paced(frames(), rate)

    def requests(self, forget):
        seen = self.seen
        if forget:
            self.seen = {}
        return seen

    def replies(self):
        return self.sent

    def read(self):
        while True:
            try:
                data, (_, _, kind, *_) = self.sock.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:  # the interface went down
                return
            request = Arp.parse(data)
            if kind == socket.PACKET_OUTGOING or request is None or request.op != REQUEST:
                continue
            self.seen.setdefault(request.target_ip, []).append((time.monotonic(), request.to == BROADCAST))
            if request.target_ip in self.hosts and request.sender_ip != request.target_ip:
                self._answer(request)

    def _answer(self, request):
        address = request.target_ip
        behaviour = self.behaviours.setdefault(address, Behaviour(**self.defaults))
        if behaviour.skip:
            behaviour.skip -= 1
            return
        if self.random.random() < behaviour.ignore:
            return
        for mac in self.hosts[address]:
            data = frame(REPLY, sender=(mac, address), target=(request.sender, request.sender_ip), to=request.sender)
            if behaviour.late:
                asyncio.get_running_loop().call_later(behaviour.late, self._send, data, address)
            else:
                self._send(data, address)

    def _send(self, data, address):
        with contextlib.suppress(OSError):  # the interface is down
            self.sock.send(data)
            self.sent[address] = self.sent.get(address, 0) + 1

    async def _paced(self, frames, rate):
        began = time.monotonic()
        for number, data in enumerate(frames):
            ahead = began + number / rate - time.monotonic()
            if ahead > 0.001 or number % 64 == 0:
                await asyncio.sleep(max(0, ahead))
            with contextlib.suppress(OSError):
                self.sock.send(data)
        return time.monotonic() - began


def _only_arp(sock):
    """Attach a BPF program: load the EtherType at offset 12; accept ARP, drop any other frame."""
    code = struct.pack("HBBI" * 4, *(0x28, 0, 0, 12), *(0x15, 0, 1, ETH_P_ARP), *(6, 0, 0, 0xFFFF), *(6, 0, 0, 0))
    buffer = ctypes.create_string_buffer(code)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(buffer)))


async def main(interface):
    orders = Orders(interface)
    loop = asyncio.get_running_loop()
    loop.add_reader(orders.sock, orders.read)
    lines = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print("null", flush=True)
    while line := await lines.readline():
        args = json.loads(line)
        result = getattr(orders, args.pop("order"))(**args)
        if asyncio.iscoroutine(result):
            result = await result
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
