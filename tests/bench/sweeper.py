"""One scan engine in a separate process: each input line starts a sweep, each output line is its cost as JSON.

`sweeper ENGINE INTERFACE SUBNET MAC,…`; ENGINE is `arp`, `neighbour`, or `bare` (only a packet socket).
"""

import asyncio
import json
import socket
import sys
import time
from ipaddress import IPv4Network
from pathlib import Path

WAIT_S = 5.0
ETH_P_ARP = 0x0806


class Sightings:
    """The expected MACs that this sweep has found, and the seconds until all were found."""

    def __init__(self, macs):
        self.macs = macs
        self.start()

    def start(self):
        self.started = time.perf_counter()
        self.found, self.all_found_s = set(), None

    def add(self, mac):
        if mac in self.macs:
            self.found.add(mac)
        if len(self.found) == len(self.macs) and self.all_found_s is None:
            self.all_found_s = time.perf_counter() - self.started


class BareScanner:
    """The minimal scanner: send all requests, read until all hosts have replied."""

    def __init__(self, sightings, interface, subnet):
        self.sightings = sightings
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.sock.bind((interface, ETH_P_ARP))
        self.sock.settimeout(WAIT_S)
        mac = self.sock.getsockname()[4]
        own_address = subnet[1].packed
        header = (
            b"\xff" * 6 + mac + ETH_P_ARP.to_bytes(2) + bytes.fromhex("0001080006040001") + mac + own_address + bytes(6)
        )
        self.frames = [header + address.packed for address in subnet.hosts()]

    async def sweep(self):
        for data in self.frames:
            self.sock.send(data)
        while self.sightings.all_found_s is None:
            data = self.sock.recv(128)
            if data[20:22] == b"\0\2":
                self.sightings.add(data[22:28].hex(":").upper())


async def engine(name, sightings, interface, subnet):
    """Open an engine as the daemon does; returns `sweep()`."""
    from pi_orchestrator.core.clock import Clock
    from pi_orchestrator.net.kernel.netlink import Netlink

    if name == "arp":
        from pi_orchestrator.net.arp.engine import ArpEngine as Engine
    else:
        from pi_orchestrator.net.kernel.neighbours import NeighbourEngine as Engine

    def on_sighting(sighting):
        if sighting.alive:
            sightings.add(sighting.mac)

    netlink = Netlink()
    link = await netlink.link(interface)
    netlink.close()
    opened = Engine(clock=Clock(), on_sighting=on_sighting)
    await opened.open(link, subnet)
    targets = list(subnet.hosts())

    async def sweep():
        await opened.sweep(targets, expected=frozenset(), progress=lambda share: None)

    return sweep


async def main(name, interface, subnet, macs):
    net, sightings = IPv4Network(subnet), Sightings(set(macs.split(",")))
    sweep = (
        BareScanner(sightings, interface, net).sweep
        if name == "bare"
        else await engine(name, sightings, interface, net)
    )
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        cpu = time.process_time()
        sightings.start()
        await sweep()
        result = {
            "all_found_s": sightings.all_found_s,
            "finished_s": time.perf_counter() - sightings.started,
            "found": len(sightings.found),
            "cpu_s": time.process_time() - cpu,
            "peak_mib": _peak_mib(),
        }
        print(json.dumps(result), flush=True)


def _peak_mib():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
