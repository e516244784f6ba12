"""Scan engines that run in this process, with their sockets in a network namespace."""

import asyncio
import contextlib
import ctypes
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.net.kernel.netlink import Netlink
from tests.support.netns import CLONE_NEWNET
from tests.support.waiting import eventually

LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(namespace):
    """Create the sockets of this thread in a namespace during the block."""
    with Path("/proc/thread-self/ns/net").open() as original, Path("/run/netns", namespace.name).open() as target:
        _enter(target)
        try:
            yield
        finally:
            _enter(original)


def _enter(file):
    if LIBC.setns(file.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def descriptors():
    """Open file descriptors of this process: {number: target}."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = entry.readlink()
    return found


class Scan:
    """An engine on one interface, and all sightings that it reported."""

    def __init__(self, kind, *, network, interface="ap0", **options):
        self.clock = Clock()
        self.seen = []
        self.progress = []
        self.engine = kind(clock=self.clock, on_sighting=self.seen.append, **options)
        self.network, self.interface = IPv4Network(network), interface

    async def open(self):
        await self.engine.open(await self.link(), self.network)

    async def link(self):
        netlink = Netlink()
        try:
            return await netlink.link(self.interface)
        finally:
            netlink.close()

    def close(self):
        self.engine.close()

    async def sweep(self, *targets, expected=()):
        """Sweep the network, or only these addresses; the duration in seconds."""
        began = self.clock.monotonic()
        hosts = [IPv4Address(target) for target in targets] or list(self.network.hosts())
        expected_addresses = frozenset(map(IPv4Address, expected))
        await self.engine.sweep(hosts, expected=expected_addresses, progress=self.progress.append)
        return self.clock.monotonic() - began

    async def probe(self, address, within=2.0):
        return set(await self.engine.probe(IPv4Address(address), timeout_s=within))

    async def wait_for_carrier(self):
        """Wait until the kernel has noticed the carrier."""

        async def has_link():
            return (await self.link()).up

        await eventually(has_link)

    def forget(self):
        self.seen.clear()

    @property
    def bound(self):
        """Sightings that bind a MAC to an address: {(MAC, address)}."""
        return {(item.mac, str(item.ip)) for item in self.seen if item.binds}

    @property
    def unbound(self):
        """Sightings of an alive device that bind no address: {(MAC, unverified address or None)}."""
        return {(item.mac, item.ip and str(item.ip)) for item in self.seen if item.alive and not item.binds}


class OtherInterface:
    """Replaces a Lan as `site` of `scanning`: the same Pi and network, but another interface."""

    def __init__(self, site, interface):
        self.pi, self.network, self.interface = site.pi, site.network, interface


def use_short_kernel_timeouts(site):
    """Make the kernel send five ARP requests per second, and the first one for a STALE entry after one second."""
    site.pi.sysctl("ipv4/neigh/ap0/retrans_time_ms", 200)
    site.pi.sysctl("ipv4/neigh/ap0/delay_first_probe_time", 1)


@contextlib.asynccontextmanager
async def scanning(site, kind, **options):
    """Open an engine on the Pi of a Lan; yields a Scan."""
    with inside(site.pi):
        scan = Scan(kind, network=site.network, interface=site.interface, **options)
        await scan.open()
        try:
            yield scan
        finally:
            scan.close()
            await asyncio.sleep(0)
