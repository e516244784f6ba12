"""Hosts that exist in ARP alone: a process with a packet socket plays any number of them, and lies when told to.

`Player` is the test's end; each of its orders is one line of JSON to this file, run as a program in a namespace.
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
NOBODY = "00:00:00:00:00:00"
LAYOUT = struct.Struct("!6s6sH HHBBH 6s4s6s4s")
KINDS = {"request": REQUEST, "reply": REPLY}


def frame(op, *, sender, target=("00:00:00:00:00:00", "0.0.0.0"), source=None, to=BROADCAST):
    """An ARP frame; `sender` and `target` are (MAC, address), `source` and `to` are of the Ethernet header."""
    pairs = [part for mac, address in (sender, target) for part in (_bytes(mac), IPv4Address(address).packed)]
    return LAYOUT.pack(_bytes(to), _bytes(source or sender[0]), ETH_P_ARP, 1, 0x0800, 6, 4, op, *pairs)


@dataclass(frozen=True)
class Arp:
    """A frame that was read."""

    to: str
    source: str
    op: int
    sender: str
    sender_ip: str
    target: str
    target_ip: str

    @classmethod
    def parse(cls, data):
        """None for what is not ARP over Ethernet."""
        if len(data) < LAYOUT.size:
            return None
        to, source, kind, *header, sender, sender_ip, target, target_ip = LAYOUT.unpack(data[: LAYOUT.size])
        if kind != ETH_P_ARP or header[:4] != [1, 0x0800, 6, 4]:
            return None
        ips = [str(IPv4Address(part)) for part in (sender_ip, target_ip)]
        return cls(_text(to), _text(source), header[4], _text(sender), ips[0], _text(target), ips[1])


def invented_mac(number, prefix="24:6F:28"):
    """The n-th MAC of those that `Player.invent` makes up."""
    return f"{prefix}:{number >> 16 & 255:02X}:{number >> 8 & 255:02X}:{number & 255:02X}"


def _bytes(mac):
    return bytes.fromhex(mac.replace(":", ""))


def _text(mac):
    return mac.hex(":").upper()


class Player:
    """The test's end: `async with Player(namespace, interface) as player`, then its orders."""

    def __init__(self, namespace, interface):
        self._where = (*namespace.prefix, sys.executable, __file__, interface)
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self):
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._where, stdin=pipe, stdout=pipe)
        try:
            await self._answer()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def play(self, hosts):
        """Be there: {address: MAC, or a list of MACs that all answer}; beside those that are played already."""
        await self._order(
            "play", hosts={str(ip): [macs] if isinstance(macs, str) else macs for ip, macs in hosts.items()}
        )

    async def leave(self, *addresses):
        """Be there no longer; without addresses: none is."""
        await self._order("leave", addresses=list(map(str, addresses)))

    async def swap(self, one, other):
        """Exchange the MACs of two played addresses."""
        await self._order("swap", one=str(one), other=str(other))

    async def behave(self, *addresses, ignore=0.0, skip=0, late=0.0):
        """How to answer from now on, for these addresses or for all that have no word of their own.

        `ignore`: this share of requests at random; `skip`: the next so many of each address; `late`: seconds.
        """
        await self._order("behave", addresses=list(map(str, addresses)), ignore=ignore, skip=skip, late=late)

    async def say(self, address, mac, *, kind="reply", target=None, source=None, to=BROADCAST, count=1, rate=1000):
        """Speak unasked, `count` times and at most `rate` a second.

        Gratuitous (about `address` itself) unless `target` names the address that is asked for or answered to;
        forged where `source`, the Ethernet sender, is not `mac`. Returns when the last frame is sent.
        """
        words = {"sender": [mac, str(address)], "target": str(target or address), "source": source, "to": to}
        await self._order("say", kind=kind, count=count, rate=rate, **words)

    async def invent(self, count, network, *, rate=5000, kind="reply", target=None, prefix="24:6F:28"):
        """Say that so many MACs (see `invented_mac`) are at addresses of this network, in turn; the seconds it took.

        Replies teach a kernel nothing. Requests for an address that it has (`target`) fill its neighbour table,
        of which the machine has one for all namespaces: other tests would feel it.
        """
        words = {"count": count, "network": str(network), "rate": rate, "prefix": prefix}
        return await self._order("invent", kind=kind, target=target and str(target), **words)

    async def requests(self, *, forget=False):
        """Requests on the wire so far, whoever they were for: {address: [(monotonic s, to everyone?), …]}."""
        seen = await self._order("requests", forget=forget)
        return {address: [tuple(request) for request in requests] for address, requests in seen.items()}

    async def replies(self):
        """How many replies have been sent, by address."""
        return await self._order("replies")

    async def _order(self, order, **words):
        async with self._one_at_a_time:
            self._process.stdin.write(json.dumps({"order": order, **words}).encode() + b"\n")
            return await self._answer()

    async def _answer(self):
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        assert line, "the ARP player has ended"
        return json.loads(line)


# What the process does.


@dataclass
class Manner:
    """How requests for an address are answered."""

    ignore: float = 0.0
    skip: int = 0
    late: float = 0.0


class Orders:
    """Each method is an order."""

    def __init__(self, interface):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        _only_arp(self.sock)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        # All kinds of frames, or those for the MACs of macvlan interfaces on this one would not be seen.
        self.sock.bind((interface, ETH_P_ALL))
        self.sock.setblocking(False)
        self.hosts = {}
        self.manners = {}
        self.usual = {}
        self.seen = {}
        self.sent = {}
        self.random = random.Random(1)

    def play(self, hosts):
        self.hosts |= hosts

    def leave(self, addresses):
        for address in addresses or list(self.hosts):
            self.hosts.pop(address, None)

    def swap(self, one, other):
        self.hosts[one], self.hosts[other] = self.hosts[other], self.hosts[one]

    def behave(self, addresses, **manner):
        if addresses:
            self.manners |= {address: Manner(**manner) for address in addresses}
        else:
            self.usual = manner
            self.manners = {}

    async def say(self, kind, sender, target, source, to, count, rate):
        op = KINDS[kind]
        target_mac = NOBODY if op == REQUEST else to
        data = frame(op, sender=sender, target=(target_mac, target), source=source, to=to)
        await self._paced((data for _ in range(count)), rate)

    async def invent(self, kind, count, network, rate, target, prefix):
        net = IPv4Network(network)
        usable = max(1, net.num_addresses - 2)

        def frames():
            for number in range(count):
                address = str(net[1 + number % usable])
                yield frame(
                    KINDS[kind], sender=(invented_mac(number, prefix), address), target=(NOBODY, target or address)
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
            heard = Arp.parse(data)
            if kind == socket.PACKET_OUTGOING or heard is None or heard.op != REQUEST:
                continue
            self.seen.setdefault(heard.target_ip, []).append((time.monotonic(), heard.to == BROADCAST))
            if heard.target_ip in self.hosts and heard.sender_ip != heard.target_ip:
                self._answer(heard)

    def _answer(self, heard):
        address = heard.target_ip
        manner = self.manners.setdefault(address, Manner(**self.usual))
        if manner.skip:
            manner.skip -= 1
            return
        if self.random.random() < manner.ignore:
            return
        for mac in self.hosts[address]:
            data = frame(REPLY, sender=(mac, address), target=(heard.sender, heard.sender_ip), to=heard.sender)
            if manner.late:
                asyncio.get_running_loop().call_later(manner.late, self._send, data, address)
            else:
                self._send(data, address)

    def _send(self, data, address):
        with contextlib.suppress(OSError):  # the interface is down: nobody hears
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
        words = json.loads(line)
        result = getattr(orders, words.pop("order"))(**words)
        if asyncio.iscoroutine(result):
            result = await result
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
