"""mDNS between two network namespaces, with real multicast and zeroconf at both ends.

The test thread is in the Pi's namespace; sockets of cameras and other senders are opened in the other namespace (`at`).
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import socket
import struct
import tracemalloc
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.net.mdns import service as module
from pi_orchestrator.net.mdns import session as mdns_session
from pi_orchestrator.net.mdns.intake import MAX_STORED_BYTES
from pi_orchestrator.net.mdns.service import Advert, Mdns, Service
from tests.support.clock import FakeClock
from tests.support.netns import CLONE_NEWNET, Namespace
from tests.support.waiting import HANG_S, eventually

PI, CAMERA, ELSEWHERE = IPv4Interface("10.88.0.1/24"), "10.88.0.20", "10.99.0.1/24"
ADVERT = Advert(name="Pi Orchestrator", host="pi-orchestrator-1a2b", port=8081, id="1a2b", version="0.1.0", api="v1")
GROUP = ("224.0.0.251", 5353)


@contextlib.contextmanager
def at(namespace):
    """Run the block in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", namespace.name).open() as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


def open_resources():
    """Number of descriptors and tasks of this process."""
    gc.collect()
    return descriptors(), len(asyncio.all_tasks())


def descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def packed(name):
    return b"".join(bytes([len(part)]) + part for part in name.encode().split(b".")) + b"\0"


def response(*records):
    """A message of records `(owner, type, ttl, data)`; type 12 PTR, 33 SRV, 16 TXT, 1 A."""
    body = b"".join(
        packed(owner) + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data for owner, kind, ttl, data in records
    )
    return struct.pack(">6H", 0, 0x8400, 0, len(records), 0, 0) + body


def announcement(label, address=CAMERA, *, kind="_http._tcp.local", ttl=4500):
    """A message with all records of a service; `label` is its name in bytes."""
    owner = bytes([len(label)]) + label + packed(kind)
    host = f"h{label.hex()[:20]}.local"
    service = struct.pack(">HHH", 0, 0, 80) + packed(host)
    records = [
        packed(kind) + struct.pack(">HHIH", 12, 1, ttl, len(owner)) + owner,
        owner + struct.pack(">HHIH", 33, 1, ttl, len(service)) + service,
        owner + struct.pack(">HHIH", 16, 1, ttl, 1) + b"\0",
        packed(host) + struct.pack(">HHIH", 1, 1, ttl, 4) + IPv4Address(address).packed,
    ]
    return struct.pack(">6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


class Site:
    """The two namespaces, the Pi and the camera."""

    def __init__(self, pi, camera):
        self.pi, self.camera = pi, camera
        self.peers = []
        self.sockets = []
        self.announcing = []

    async def peer(self):
        """A zeroconf in the camera's namespace."""
        with at(self.camera):
            peer = AsyncZeroconf(interfaces=[CAMERA])
            await peer.zeroconf.async_wait_for_start()
        self.peers.append(peer)
        return peer

    async def announce(self, peer, name, *, kind="_http._tcp", address=CAMERA, port=80, **properties):
        """Announce a service of a camera, without checking whether the name is free."""
        kind = f"{kind}.local."
        info = AsyncServiceInfo(
            *(kind, f"{name}.{kind}"),
            addresses=[IPv4Address(address).packed],
            port=port,
            properties=properties,
            server=f"{name.replace(' ', '-')}.local.",
        )
        self.announcing.append(await peer.async_register_service(info, cooperating_responders=True))
        return info

    async def cancel_announcements(self):
        """Cancel the running announcements."""
        for task in self.announcing:
            task.cancel()
        await asyncio.gather(*self.announcing, return_exceptions=True)

    def sender(self, namespace=None, address=CAMERA):
        """A socket that can send any multicast packet."""
        with at(namespace or self.camera):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        sock.bind((address, 5353))
        sock.setblocking(False)
        self.sockets.append(sock)
        return sock


@pytest.fixture
async def site():
    with Namespace.opened("pi") as pi, Namespace.opened("cam") as camera:
        pi.ip("link", "add", "ap0", "type", "veth", "peer", "name", "sta0", "netns", camera.name)
        pi.ip("addr", "add", str(PI), "dev", "ap0")
        camera.ip("addr", "add", f"{CAMERA}/24", "dev", "sta0")
        pi.ip("link", "set", "ap0", "up")
        camera.ip("link", "set", "sta0", "up")
        with at(pi):
            site = Site(pi, camera)
            faults = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
            yield site
            await site.cancel_announcements()
            for peer in site.peers:
                peer.zeroconf.generate_unregister_all_services()  # skips the unregister messages, which take time
                await peer.async_close()
            for sock in site.sockets:
                sock.close()
            assert faults == [], "no exceptions in the loop"


@pytest.fixture
def reported():
    return []


@pytest.fixture
async def mdns(site, reported):
    mdns = Mdns(clock=Clock(), advert=ADVERT, on_service=reported.append)
    yield mdns
    await mdns.close()


async def find(peer, kind, name):
    """Query a service from the other end; None after 3 s."""
    return await peer.async_get_service_info(f"{kind}.local.", f"{name}.{kind}.local.", timeout=3000)


async def test_announced_camera_is_reported(site, mdns, reported):
    await mdns.open(addresses=[PI])
    peer = await site.peer()
    await site.announce(peer, "espcam b0f7f1", kind="_http._tcp")
    await site.announce(peer, "espcam b0f7f1", kind="_espcam._tcp", fw="2.4.1")
    await eventually(lambda: len({service.kind for service in reported}) == 2)
    assert set(reported) == {
        Service("espcam b0f7f1", "_http._tcp", IPv4Address(CAMERA)),
        Service("espcam b0f7f1", "_espcam._tcp", IPv4Address(CAMERA)),
    }
    assert set(mdns.services) == set(reported)
    assert mdns.reason is None


async def test_camera_announced_before_open_is_found(site, mdns, reported):
    peer = await site.peer()
    await site.announce(peer, "early", kind="_arduino._tcp")
    await mdns.open(addresses=[PI])
    await eventually(lambda: reported == [Service("early", "_arduino._tcp", IPv4Address(CAMERA))])


async def test_daemon_advertises_both_services(site, mdns, reported):
    await mdns.open(addresses=[PI])
    assert not logging.getLogger("zeroconf").isEnabledFor(logging.ERROR), "its errors are reported as reason"
    await eventually(lambda: mdns.advertised == "Pi Orchestrator")
    peer = await site.peer()
    for kind in ("_piorch._tcp", "_http._tcp"):
        info = await find(peer, kind, "Pi Orchestrator")
        assert info.properties == {b"id": b"1a2b", b"ver": b"0.1.0", b"api": b"v1"}
        assert (info.port, info.server) == (8081, "pi-orchestrator-1a2b.local.")
        assert info.parsed_addresses() == [str(PI.ip)]
    assert reported == [], "own services are not reported"


async def test_withdrawn_service_is_removed(site, mdns, reported):
    await mdns.open(addresses=[PI])
    peer = await site.peer()
    info = await site.announce(peer, "brief")
    await eventually(lambda: mdns.services)
    await (await peer.async_unregister_service(info))
    await eventually(lambda: not mdns.services)


async def test_close_withdraws_and_leaks_nothing(site, mdns):
    peer = await site.peer()
    withdrawn = asyncio.Event()

    def changed(zeroconf, service_type, name, state_change):
        if state_change is ServiceStateChange.Removed:
            withdrawn.set()

    browser = AsyncServiceBrowser(peer.zeroconf, "_piorch._tcp.local.", handlers=[changed])
    await asyncio.sleep(0)
    before = open_resources()
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.advertised)
    assert open_resources() != before
    await mdns.close()
    assert (mdns.reason, mdns.advertised, mdns.services) == ("not opened", None, ())
    await asyncio.wait_for(withdrawn.wait(), HANG_S)
    assert open_resources() == before
    await browser.async_cancel()
    await mdns.close()


async def test_camera_is_found_again_after_interface_changes(site, mdns, reported):
    peer = await site.peer()
    await site.announce(peer, "steady")
    await site.cancel_announcements()
    await mdns.open(addresses=[PI])
    await mdns.close()
    before = open_resources()
    for number in range(4):
        site.pi.ip("link", "set", "ap0", "down")
        if number % 2:
            site.pi.ip("addr", "del", str(PI), "dev", "ap0")
        await mdns.open(addresses=[PI] if not number % 2 else [])
        if number % 2:
            assert mdns.reason == "the interface has no address"
            site.pi.ip("addr", "add", str(PI), "dev", "ap0")
        site.pi.ip("link", "set", "ap0", "up")
        reported.clear()
        await mdns.open(addresses=[PI])
        await eventually(lambda: reported, what="the camera is found again")
        await mdns.close()
        assert open_resources() == before
    assert mdns.reason == "not opened"


# Name conflicts.


async def test_taken_name_gets_a_number(site, mdns, reported):
    peer = await site.peer()
    await site.announce(peer, "Pi Orchestrator", kind="_piorch._tcp")
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.advertised)
    assert (mdns.advertised, mdns.reason) == ("Pi Orchestrator (2)", None)
    for kind in ("_piorch._tcp", "_http._tcp"):
        assert (await find(peer, kind, "Pi Orchestrator (2)")).parsed_addresses() == [str(PI.ip)]
    assert await peer.async_get_service_info("_http._tcp.local.", "Pi Orchestrator._http._tcp.local.", 50) is None


async def test_cameras_are_found_even_if_all_names_are_taken(site, mdns, reported, monkeypatch):
    monkeypatch.setattr(mdns_session, "MAX_NAME_ATTEMPTS", 2)
    peer = await site.peer()
    for name in ("Pi Orchestrator", "Pi Orchestrator (2)"):
        await site.announce(peer, name, kind="_http._tcp")
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.reason and "(2)" in mdns.reason)
    assert mdns.reason == "not advertised: the name 'Pi Orchestrator (2)' is already used on this network"
    assert mdns.advertised is None
    await site.announce(peer, "camera")
    await eventually(lambda: any(service.name == "camera" for service in reported))


# Failures.


async def test_missing_address_sets_reason(site, mdns):
    before = open_resources()
    await mdns.open(addresses=[IPv4Interface("10.88.0.9/24")])
    assert mdns.reason == "no interface has the address 10.88.0.9"
    assert open_resources() == before
    await mdns.open(addresses=[PI])
    assert mdns.reason is None


async def test_exclusively_used_port_sets_reason(site, mdns):
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind(("", 5353))
    before = open_resources()
    await mdns.open(addresses=[PI])
    assert mdns.reason == "port 5353 is used exclusively by another program; if avahi, set disallow-other-stacks=no"
    assert open_resources() == before
    other.close()
    await mdns.open(addresses=[PI])
    assert mdns.reason is None


async def test_shared_port_works(site, mdns, reported):
    """As with avahi: both receive multicast packets."""
    responder = site.sender(site.pi, str(PI.ip))
    assert responder.getsockname() == (str(PI.ip), 5353)
    await mdns.open(addresses=[PI])
    await site.announce(await site.peer(), "camera")
    await eventually(lambda: reported)


async def test_multicast_route_is_not_needed(site, mdns, reported):
    """The group is link-local and zeroconf sets the interface, so routes are not used."""
    for namespace in (site.pi, site.camera):
        namespace.ip("route", "add", "unreachable", "224.0.0.0/4")
    await mdns.open(addresses=[PI])
    await site.announce(await site.peer(), "camera")
    await eventually(lambda: reported)
    assert mdns.reason is None


async def test_interface_down_is_the_reason_until_a_packet(site, mdns, reported, caplog):
    await mdns.open(addresses=[PI])
    site.pi.ip("link", "set", "ap0", "down")
    await eventually(lambda: mdns.reason == "cannot send: Network is unreachable")
    site.pi.ip("link", "set", "ap0", "up")
    await site.announce(await site.peer(), "camera")
    await eventually(lambda: reported)
    await eventually(lambda: mdns.reason is None)
    assert [record for record in caplog.records if record.name.startswith("zeroconf")] == []


async def test_close_with_interface_down_frees_all_resources(site, mdns):
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.advertised)
    site.pi.ip("link", "set", "ap0", "down")
    before = open_resources()
    await mdns.close()
    assert open_resources() < before


async def test_precondition_error_opens_nothing(site):
    before = open_resources()
    assert module.precondition_error([PI]) is None
    assert module.precondition_error([IPv4Interface("10.88.0.9/24")]) == "no interface has the address 10.88.0.9"
    assert open_resources() == before


async def test_missing_zeroconf_sets_reason(site, mdns, monkeypatch):
    def fail():
        raise ImportError("no module named zeroconf")

    monkeypatch.setattr(module, "_load_library", fail)
    await mdns.open(addresses=[PI])
    assert mdns.reason == "cannot load zeroconf: no module named zeroconf"


async def test_failed_task_sets_reason(site):
    def fail_on_service(service):
        raise LookupError("unknown")

    mdns = Mdns(clock=Clock(), advert=ADVERT, on_service=fail_on_service)
    await mdns.open(addresses=[PI])
    site.sender().sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: mdns.reason == "internal error: LookupError('unknown')")
    await mdns.close()


async def test_cancelled_open_leaks_nothing(site, mdns):
    await mdns.open(addresses=[PI])
    await mdns.close()
    before = open_resources()
    for steps in range(8):
        opening = asyncio.create_task(mdns.open(addresses=[PI]))
        while descriptors() == before[0] and not opening.done():
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await mdns.close()
        assert open_resources() == before, steps


async def test_cancelled_close_leaks_nothing(site, mdns):
    await mdns.open(addresses=[PI])
    await mdns.close()
    before = open_resources()
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.advertised)
    for steps in (1, 2, 3, 5, 50):
        closing = asyncio.create_task(mdns.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await eventually(lambda: open_resources() == before)
        await mdns.open(addresses=[PI])


# Hostile packets.


async def test_other_addresses_and_types_are_ignored(site, mdns, reported):
    """Addresses outside the camera network, the Pi's own address, and other service types."""
    await mdns.open(addresses=[PI])
    sender = site.sender()
    sender.sendto(announcement(b"elsewhere", "10.99.0.7"), GROUP)
    sender.sendto(announcement(b"myself", str(PI.ip)), GROUP)
    sender.sendto(announcement(b"printer", kind="_ipp._tcp.local"), GROUP)
    sender.sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: reported)
    assert [service.name for service in reported] == ["camera"]


async def test_names_are_clean(site, mdns, reported):
    """A name with control characters is rejected; other unprintable characters are removed."""
    await mdns.open(addresses=[PI])
    sender = site.sender()
    sender.sendto(announcement(b"cam\x1b[2J\r\n"), GROUP)
    sender.sendto(announcement("Kamera \N{RIGHT-TO-LEFT OVERRIDE}☕ 1".encode()), GROUP)
    await eventually(lambda: reported)
    assert [service.name for service in reported] == ["Kamera ☕ 1"]
    assert mdns.reason is None


async def test_other_network_is_ignored(site, mdns, reported):
    """The wildcard socket receives from every group that any program has joined."""
    site.pi.ip("link", "add", "eth0", "type", "veth", "peer", "name", "lan0", "netns", site.camera.name)
    site.pi.ip("addr", "add", ELSEWHERE, "dev", "eth0")
    site.camera.ip("addr", "add", "10.99.0.7/24", "dev", "lan0")
    site.pi.ip("link", "set", "eth0", "up")
    site.camera.ip("link", "set", "lan0", "up")
    other = site.sender(site.pi, "10.99.0.1")
    other.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP[0]) + socket.inet_aton("10.99.0.1")
    )
    await mdns.open(addresses=[PI])
    packet_filter = mdns._session._packet_filter
    before = packet_filter.rejected
    site.sender(address="10.99.0.7").sendto(announcement(b"from-the-lan"), GROUP)
    await eventually(
        lambda: packet_filter.rejected > before, what="the packet reached the daemon's socket and was rejected"
    )
    site.sender().sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: reported)
    assert [service.name for service in reported] == ["camera"]


async def test_invalid_packets_are_ignored(site, mdns, reported):
    await mdns.open(addresses=[PI])
    sender = site.sender()
    good = announcement(b"camera")
    for cut in range(0, len(good), 3):
        sender.sendto(good[:cut], GROUP)
        sender.sendto(good[:cut] + b"\xc0\x0c" * 20, GROUP)
    sender.sendto(b"\xff" * 8000, GROUP)
    sender.sendto(good, GROUP)
    await eventually(lambda: reported)
    assert {service.name for service in reported} == {"camera"}
    assert mdns.reason is None


async def test_announcement_flood_is_bounded(site, mdns, reported, monkeypatch):
    clock = FakeClock()
    mdns._clock = clock
    await mdns.open(addresses=[PI])
    peer = await site.peer()
    await site.announce(peer, "steady")
    await eventually(lambda: reported)
    sender = site.sender()
    tasks = len(asyncio.all_tasks()) + len(mdns_session.ADVERTISED)
    tracemalloc.start()
    try:
        for number in range(1500):
            clock._monotonic += 0.02  # at the admitted rate
            sender.sendto(announcement(b"ghost-%d" % number, ttl=1_000_000_000), GROUP)
            await asyncio.sleep(0)
        await eventually(
            lambda: mdns._session._packet_filter.rejected >= 1500 - MAX_STORED_BYTES // len(announcement(b"ghost-0"))
        )
        assert mdns.reason == "too many announcements: new ones are ignored for a while"
        await eventually(mdns._session._queries.empty)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 8 * 1024 * 1024
    assert len(mdns.services) <= 256
    assert len(asyncio.all_tasks()) <= tasks
    reported.clear()
    await _wait_until_all_received(mdns, sender, monkeypatch)
    clock._monotonic += 61
    sender.sendto(announcement(b"last"), GROUP)
    await eventually(
        lambda: any(service.name == "steady" for service in reported), what="the present services are requested again"
    )
    await site.announce(peer, "new")
    await eventually(
        lambda: any(service.name == "new" for service in reported), what="announcements are received again"
    )
    assert {"steady", "new"} <= {service.name for service in mdns.services}
    assert len(mdns.services) < 30, "only services of the last packets remain"
    assert mdns.reason is None


async def _wait_until_all_received(mdns, sender, monkeypatch):
    """Wait until nothing sent before is left in a socket: sockets deliver in order, so markers come last."""
    packet_filter, markers = mdns._session._packet_filter, []
    admits = packet_filter.admits

    def count_markers(data, source):
        markers.extend([source] if b"marker" in data else [])
        return admits(data, source)

    def send_marker():
        sender.sendto(announcement(b"marker"), GROUP)
        return len(markers) >= 4

    monkeypatch.setattr(packet_filter, "admits", count_markers)
    await eventually(send_marker)


async def test_unanswered_queries_block_nothing(site, mdns, reported, monkeypatch):
    """With more names without an address than queue places, a complete announcement is still reported."""
    monkeypatch.setattr(mdns_session, "RESOLVE_TIMEOUT_S", 0.1)
    await mdns.open(addresses=[PI])
    sender = site.sender()
    tasks = len(asyncio.all_tasks()) + len(mdns_session.ADVERTISED)
    for number in range(200):
        sender.sendto(response(("_http._tcp.local", 12, 4500, b"\4g%03d" % number + packed("_http._tcp.local"))), GROUP)
    await eventually(lambda: mdns._session._queries.qsize() > mdns_session.MAX_QUERIES // 2)
    assert len(asyncio.all_tasks()) <= tasks
    await eventually(mdns._session._queries.empty)
    sender.sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: reported)
    assert [service.name for service in reported] == ["camera"]


async def test_changing_service_is_queried_once(site, mdns, reported):
    await mdns.open(addresses=[PI])
    sender = site.sender()
    name = b"\5ghost" + packed("_http._tcp.local")
    sender.sendto(response(("_http._tcp.local", 12, 4500, name)), GROUP)
    for number in range(40):
        sender.sendto(response(("ghost._http._tcp.local", 16, 4500, b"\3n%02d" % number)), GROUP)
    sender.sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: reported)
    assert mdns._session._queries.empty()
    assert [service.name for service in reported] == ["camera"]


async def test_clear_deletes_pending_queries(site, mdns, reported, monkeypatch):
    monkeypatch.setattr(mdns_session, "RESOLVE_TIMEOUT_S", 3600.0)  # no query times out
    await mdns.open(addresses=[PI])
    sender = site.sender()
    for number in range(60):
        name = b"\4g%03d" % number + packed("_http._tcp.local")
        sender.sendto(response(("_http._tcp.local", 12, 4500, name)), GROUP)
    await eventually(lambda: mdns._session._queries.qsize() > 30)
    await _wait_until_all_received(mdns, sender, monkeypatch)
    mdns._session._filter_full.set()
    await eventually(mdns._session._queries.empty)
