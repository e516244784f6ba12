"""A scan engine in this process, its sockets in a namespace, and what it saw."""

import asyncio
import contextlib
import ctypes
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pi_orchestrator.clock import Clock
from pi_orchestrator.net.netlink import Netlink
from tests.support.netns import CLONE_NEWNET

LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(namespace):
    """Sockets that this thread makes are the namespace's, until the end of the block."""
    with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", namespace.name).open() as there:
        _enter(there)
        try:
            yield
        finally:
            _enter(home)


def _enter(file):
    if LIBC.setns(file.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def descriptors():
    """What this process has open: {number: what}."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = entry.readlink()
    return found


class Scan:
    """An engine on one interface, and every sighting that it reported."""

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
        """Sweep the network, or these addresses alone; the seconds it took."""
        began = self.clock.monotonic()
        hosts = [IPv4Address(target) for target in targets] or list(self.network.hosts())
        wanted = frozenset(map(IPv4Address, expected))
        await self.engine.sweep(hosts, expected=wanted, progress=self.progress.append)
        return self.clock.monotonic() - began

    async def ask(self, address, within=0.5):
        return set(await self.engine.ask(IPv4Address(address), timeout_s=within))

    def forget(self):
        self.seen.clear()

    @property
    def bound(self):
        """Who answered for which address: {(MAC, address)}."""
        return {(one.mac, str(one.ip)) for one in self.seen if one.binds}

    @property
    def heard(self):
        """Who was alive, with an address that is hearsay: {(MAC, address or None)}."""
        return {(one.mac, one.ip and str(one.ip)) for one in self.seen if one.alive and not one.binds}


@contextlib.asynccontextmanager
async def scanning(site, kind, **options):
    """An open engine on the Pi of a Lan."""
    with inside(site.pi):
        scan = Scan(kind, network=site.network, interface=site.interface, **options)
        await scan.open()
        try:
            yield scan
        finally:
            scan.close()
            await asyncio.sleep(0)
