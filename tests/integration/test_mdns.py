"""mDNS between two network namespaces: real multicast, with the library as it is at the daemon's end and its peer's.

The test's own thread is inside the Pi's namespace, so that sockets opened there belong to it; what is a camera's or a
stranger's is opened `at` the other end of the cable.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import socket
import struct
import time
import tracemalloc
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from pi_orchestrator.clock import Clock
from pi_orchestrator.net import mdns as module
from pi_orchestrator.net import mdns_session
from pi_orchestrator.net.mdns import Advert, Mdns, Service
from pi_orchestrator.net.mdns_intake import ROOM_BYTES
from tests.support.clock import FakeClock
from tests.support.netns import CLONE_NEWNET, Namespace
from tests.support.waiting import eventually

PI, CAMERA, ELSEWHERE = IPv4Interface("10.88.0.1/24"), "10.88.0.20", "10.99.0.1/24"
ADVERT = Advert(name="Pi Orchestrator", host="pi-orchestrator-1a2b", port=8081, id="1a2b", version="0.1.0", api="v1")
GROUP = ("224.0.0.251", 5353)


@contextlib.contextmanager
def at(namespace):
    """This thread in a namespace, and back."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", namespace.name).open() as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


def opened():
    """Descriptors and tasks of this process."""
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
    """Everything that there is to know of a service; `label` is its name, raw."""
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
    """Both ends of the cable."""

    def __init__(self, pi, camera):
        self.pi, self.camera = pi, camera
        self.opened = []
        self.sockets = []
        self.announcing = []

    async def peer(self):
        """The library at the camera's end."""
        with at(self.camera):
            peer = AsyncZeroconf(interfaces=[CAMERA])
            await peer.zeroconf.async_wait_for_start()
        self.opened.append(peer)
        return peer

    async def announce(self, peer, name, *, kind="_http._tcp", address=CAMERA, port=80, **properties):
        """A service that a camera offers, at once and without asking whether the name is free."""
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

    async def quiet(self):
        """Until nothing is being announced any more, by force."""
        for task in self.announcing:
            task.cancel()
        await asyncio.gather(*self.announcing, return_exceptions=True)

    def stranger(self, namespace=None, address=CAMERA):
        """A socket that says to everybody what it likes."""
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
            await site.quiet()
            for peer in site.opened:
                peer.zeroconf.generate_unregister_all_services()  # a goodbye would only take time
                await peer.async_close()
            for sock in site.sockets:
                sock.close()
            assert faults == [], "nothing is raised into the loop"


@pytest.fixture
def told():
    return []


@pytest.fixture
async def mdns(site, told):
    mdns = Mdns(clock=Clock(), advert=ADVERT, on_service=told.append)
    yield mdns
    await mdns.close()


async def find(peer, kind, name):
    """What somebody at the other end learns of a service; None after three seconds."""
    return await peer.async_get_service_info(f"{kind}.local.", f"{name}.{kind}.local.", timeout=3000)


async def test_a_camera_that_announces_itself_is_told(site, mdns, told):
    await mdns.open(addresses=[PI])
    peer = await site.peer()
    await site.announce(peer, "espcam b0f7f1", kind="_http._tcp")
    await site.announce(peer, "espcam b0f7f1", kind="_espcam._tcp", fw="2.4.1")
    await eventually(lambda: len({service.kind for service in told}) == 2)
    assert set(told) == {
        Service("espcam b0f7f1", "_http._tcp", IPv4Address(CAMERA)),
        Service("espcam b0f7f1", "_espcam._tcp", IPv4Address(CAMERA)),
    }
    assert set(mdns.services) == set(told)
    assert mdns.reason is None


async def test_a_camera_that_was_there_before_is_asked_for(site, mdns, told):
    peer = await site.peer()
    await site.announce(peer, "early", kind="_arduino._tcp")
    await mdns.open(addresses=[PI])
    await eventually(lambda: told == [Service("early", "_arduino._tcp", IPv4Address(CAMERA))])


async def test_the_daemon_can_be_found_by_both_its_services(site, mdns, told):
    await mdns.open(addresses=[PI])
    assert not logging.getLogger("zeroconf").isEnabledFor(logging.ERROR), "what it complains about is told as a reason"
    await eventually(lambda: mdns.advertised == "Pi Orchestrator")
    peer = await site.peer()
    for kind in ("_piorch._tcp", "_http._tcp"):
        info = await find(peer, kind, "Pi Orchestrator")
        assert info.properties == {b"id": b"1a2b", b"ver": b"0.1.0", b"api": b"v1"}
        assert (info.port, info.server) == (8081, "pi-orchestrator-1a2b.local.")
        assert info.parsed_addresses() == [str(PI.ip)]
    assert told == [], "its own services are no news"


async def test_a_service_that_says_goodbye_is_forgotten(site, mdns, told):
    await mdns.open(addresses=[PI])
    peer = await site.peer()
    info = await site.announce(peer, "brief")
    await eventually(lambda: mdns.services)
    await (await peer.async_unregister_service(info))
    await eventually(lambda: not mdns.services)


async def test_closing_says_goodbye_within_a_second_and_leaves_nothing_open(site, mdns):
    peer = await site.peer()
    gone = asyncio.Event()

    def changed(zeroconf, service_type, name, state_change):
        if state_change is ServiceStateChange.Removed:
            gone.set()

    browser = AsyncServiceBrowser(peer.zeroconf, "_piorch._tcp.local.", handlers=[changed])
    await asyncio.sleep(0)
    before = opened()
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.advertised)
    assert opened() != before
    began = time.monotonic()
    await mdns.close()
    assert time.monotonic() - began < 1
    assert (mdns.reason, mdns.advertised, mdns.services) == ("not opened", None, ())
    await asyncio.wait_for(gone.wait(), 5)
    assert opened() == before
    await browser.async_cancel()
    await mdns.close()


async def test_opened_and_closed_as_the_interface_comes_and_goes(site, mdns, told):
    peer = await site.peer()
    await site.announce(peer, "steady")
    await site.quiet()
    await mdns.open(addresses=[PI])
    await mdns.close()
    before = opened()
    for round_ in range(4):
        site.pi.ip("link", "set", "ap0", "down")
        if round_ % 2:
            site.pi.ip("addr", "del", str(PI), "dev", "ap0")
        await mdns.open(addresses=[PI] if not round_ % 2 else [])
        if round_ % 2:
            assert mdns.reason == "no interface with no address"
            site.pi.ip("addr", "add", str(PI), "dev", "ap0")
        site.pi.ip("link", "set", "ap0", "up")
        told.clear()
        await mdns.open(addresses=[PI])
        await eventually(lambda: told, what="the camera is found again")
        await mdns.close()
        assert opened() == before
    assert mdns.reason == "not opened"


# Names.


async def test_a_name_that_is_taken_gets_a_number(site, mdns, told):
    peer = await site.peer()
    await site.announce(peer, "Pi Orchestrator", kind="_piorch._tcp")
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.advertised)
    assert (mdns.advertised, mdns.reason) == ("Pi Orchestrator (2)", None)
    for kind in ("_piorch._tcp", "_http._tcp"):
        assert (await find(peer, kind, "Pi Orchestrator (2)")).parsed_addresses() == [str(PI.ip)]
    assert await peer.async_get_service_info("_http._tcp.local.", "Pi Orchestrator._http._tcp.local.", 50) is None


async def test_where_every_name_is_taken_it_listens_all_the_same(site, mdns, told, monkeypatch):
    monkeypatch.setattr(mdns_session, "NAMES_TRIED", 2)
    peer = await site.peer()
    for name in ("Pi Orchestrator", "Pi Orchestrator (2)"):
        await site.announce(peer, name, kind="_http._tcp")
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.reason and "(2)" in mdns.reason)
    assert mdns.reason == "not advertised: the name 'Pi Orchestrator (2)' is taken on this network"
    assert mdns.advertised is None
    await site.announce(peer, "camera")
    await eventually(lambda: any(service.name == "camera" for service in told))


# What does not work, and why.


async def test_an_address_that_no_interface_has(site, mdns):
    before = opened()
    await mdns.open(addresses=[IPv4Interface("10.88.0.9/24")])
    assert mdns.reason == "no interface with 10.88.0.9"
    assert opened() == before
    await mdns.open(addresses=[PI])
    assert mdns.reason is None


async def test_a_program_that_keeps_the_port_for_itself(site, mdns):
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind(("", 5353))
    before = opened()
    await mdns.open(addresses=[PI])
    assert mdns.reason == "another program keeps port 5353 for itself (avahi: set disallow-other-stacks=no)"
    assert opened() == before
    other.close()
    await mdns.open(addresses=[PI])
    assert mdns.reason is None


async def test_beside_a_responder_that_shares_the_port(site, mdns, told):
    """As avahi does: both hear what is said to everybody."""
    beside = site.stranger(site.pi, str(PI.ip))
    assert beside.getsockname() == (str(PI.ip), 5353)
    await mdns.open(addresses=[PI])
    await site.announce(await site.peer(), "camera")
    await eventually(lambda: told)


async def test_no_multicast_route_is_needed(site, mdns, told):
    """The group is of the link, and the library names the interface: routes have no say."""
    for namespace in (site.pi, site.camera):
        namespace.ip("route", "add", "unreachable", "224.0.0.0/4")
    await mdns.open(addresses=[PI])
    await site.announce(await site.peer(), "camera")
    await eventually(lambda: told)
    assert mdns.reason is None


async def test_an_interface_that_goes_down_while_it_is_open_is_a_reason_until_something_is_heard(
    site, mdns, told, caplog
):
    await mdns.open(addresses=[PI])
    site.pi.ip("link", "set", "ap0", "down")
    await eventually(lambda: mdns.reason == "cannot send: Network is unreachable")
    site.pi.ip("link", "set", "ap0", "up")
    await site.announce(await site.peer(), "camera")
    await eventually(lambda: told)
    await eventually(lambda: mdns.reason is None)
    assert [record for record in caplog.records if record.name.startswith("zeroconf")] == []


async def test_closing_while_the_interface_is_down_takes_no_longer(site, mdns):
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.advertised)
    site.pi.ip("link", "set", "ap0", "down")
    before = opened()
    began = time.monotonic()
    await mdns.close()
    assert time.monotonic() - began < 1
    assert opened() < before


async def test_an_obstacle_is_told_without_opening_anything(site):
    before = opened()
    assert module.obstacle([PI]) is None
    assert module.obstacle([IPv4Interface("10.88.0.9/24")]) == "no interface with 10.88.0.9"
    assert opened() == before


async def test_without_the_library_it_is_off_and_says_so(site, mdns, monkeypatch):
    def gone():
        raise ImportError("no module named zeroconf")

    monkeypatch.setattr(module, "_load_library", gone)
    await mdns.open(addresses=[PI])
    assert mdns.reason == "zeroconf cannot be loaded: no module named zeroconf"


async def test_a_part_that_fails_is_a_reason(site):
    def failing(service):
        raise LookupError("who is that?")

    mdns = Mdns(clock=Clock(), advert=ADVERT, on_service=failing)
    await mdns.open(addresses=[PI])
    site.stranger().sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: mdns.reason == "a part of it has failed: LookupError('who is that?')")
    await mdns.close()


async def test_giving_up_in_the_middle_of_opening_leaves_nothing(site, mdns):
    await mdns.open(addresses=[PI])
    await mdns.close()
    before = opened()
    for steps in range(8):
        opening = asyncio.create_task(mdns.open(addresses=[PI]))
        while descriptors() == before[0] and not opening.done():
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await mdns.close()
        assert opened() == before, steps


async def test_giving_up_in_the_middle_of_closing_leaves_nothing(site, mdns):
    await mdns.open(addresses=[PI])
    await mdns.close()
    before = opened()
    await mdns.open(addresses=[PI])
    await eventually(lambda: mdns.advertised)
    for steps in (1, 2, 3, 5, 50):
        closing = asyncio.create_task(mdns.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await eventually(lambda: opened() == before)
        await mdns.open(addresses=[PI])


# Strangers.


async def test_what_is_no_cameras_address_is_not_told(site, mdns, told):
    """Neither one outside the camera network nor the Pi's own, and no other kind of service."""
    await mdns.open(addresses=[PI])
    stranger = site.stranger()
    stranger.sendto(announcement(b"elsewhere", "10.99.0.7"), GROUP)
    stranger.sendto(announcement(b"myself", str(PI.ip)), GROUP)
    stranger.sendto(announcement(b"printer", kind="_ipp._tcp.local"), GROUP)
    stranger.sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: told)
    assert [service.name for service in told] == ["camera"]


async def test_names_are_safe_to_show(site, mdns, told):
    """A name with control characters is none; what else cannot be shown is left out of it."""
    await mdns.open(addresses=[PI])
    stranger = site.stranger()
    stranger.sendto(announcement(b"cam\x1b[2J\r\n"), GROUP)
    stranger.sendto(announcement("Kamera \N{RIGHT-TO-LEFT OVERRIDE}☕ 1".encode()), GROUP)
    await eventually(lambda: told)
    assert [service.name for service in told] == ["Kamera ☕ 1"]
    assert mdns.reason is None


async def test_another_network_on_the_same_machine_is_not_listened_to(site, mdns, told):
    """The wildcard socket hears every group that any program has joined; the camera network alone counts."""
    site.pi.ip("link", "add", "eth0", "type", "veth", "peer", "name", "lan0", "netns", site.camera.name)
    site.pi.ip("addr", "add", ELSEWHERE, "dev", "eth0")
    site.camera.ip("addr", "add", "10.99.0.7/24", "dev", "lan0")
    site.pi.ip("link", "set", "eth0", "up")
    site.camera.ip("link", "set", "lan0", "up")
    other = site.stranger(site.pi, "10.99.0.1")
    other.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP[0]) + socket.inet_aton("10.99.0.1")
    )
    await mdns.open(addresses=[PI])
    intake = mdns._session._intake
    before = intake.refused
    site.stranger(address="10.99.0.7").sendto(announcement(b"from-the-lan"), GROUP)
    await eventually(lambda: intake.refused > before, what="the packet reached the daemon's socket and was refused")
    site.stranger().sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: told)
    assert [service.name for service in told] == ["camera"]


async def test_noise_does_no_harm(site, mdns, told):
    await mdns.open(addresses=[PI])
    stranger = site.stranger()
    good = announcement(b"camera")
    for cut in range(0, len(good), 3):
        stranger.sendto(good[:cut], GROUP)
        stranger.sendto(good[:cut] + b"\xc0\x0c" * 20, GROUP)
    stranger.sendto(b"\xff" * 8000, GROUP)
    stranger.sendto(good, GROUP)
    await eventually(lambda: told)
    assert {service.name for service in told} == {"camera"}
    assert mdns.reason is None


async def test_a_storm_of_announcements_is_bounded_and_passes(site, mdns, told):
    clock = FakeClock()
    mdns._clock = clock
    await mdns.open(addresses=[PI])
    peer = await site.peer()
    await site.announce(peer, "steady")
    await eventually(lambda: told)
    stranger = site.stranger()
    tasks = len(asyncio.all_tasks()) + len(mdns_session.ADVERTISED)
    tracemalloc.start()
    try:
        for number in range(1500):
            clock._monotonic += 0.02  # as fast as packets are let in at all
            stranger.sendto(announcement(b"ghost-%d" % number, ttl=1_000_000_000), GROUP)
            await asyncio.sleep(0)
        await eventually(lambda: mdns._session._intake.refused >= 1500 - ROOM_BYTES // len(announcement(b"ghost-0")))
        assert mdns.reason == "too many announcements: new ones are not heard for a while"
        await eventually(mdns._session._questions.empty)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 8 * 1024 * 1024
    assert len(mdns.services) <= 256
    assert len(asyncio.all_tasks()) <= tasks
    told.clear()
    clock._monotonic += 61
    stranger.sendto(announcement(b"one too many"), GROUP)
    await eventually(lambda: any(service.name == "steady" for service in told), what="who is there is asked for anew")
    await site.announce(peer, "new")
    await eventually(lambda: any(service.name == "new" for service in told), what="it hears again")
    assert {"steady", "new"} <= {service.name for service in mdns.services}
    assert len(mdns.services) < 30, "but for the storm's last packets, its ghosts are forgotten"
    assert mdns.reason is None


async def test_services_that_never_answer_hold_up_nothing(site, mdns, told, monkeypatch):
    """More names without an address than questions can wait: a camera that tells everything is told all the same."""
    monkeypatch.setattr(mdns_session, "RESOLVE_S", 0.1)
    await mdns.open(addresses=[PI])
    stranger = site.stranger()
    tasks = len(asyncio.all_tasks()) + len(mdns_session.ADVERTISED)
    for number in range(200):
        stranger.sendto(
            response(("_http._tcp.local", 12, 4500, b"\4g%03d" % number + packed("_http._tcp.local"))), GROUP
        )
    await eventually(lambda: mdns._session._questions.qsize() > mdns_session.MAX_QUESTIONS // 2)
    assert len(asyncio.all_tasks()) <= tasks
    await eventually(mdns._session._questions.empty)
    stranger.sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: told)
    assert [service.name for service in told] == ["camera"]


async def test_one_that_changes_all_the_time_is_asked_for_once(site, mdns, told):
    await mdns.open(addresses=[PI])
    stranger = site.stranger()
    name = b"\5ghost" + packed("_http._tcp.local")
    stranger.sendto(response(("_http._tcp.local", 12, 4500, name)), GROUP)
    for number in range(40):
        stranger.sendto(response(("ghost._http._tcp.local", 16, 4500, b"\3n%02d" % number)), GROUP)
    stranger.sendto(announcement(b"camera"), GROUP)
    await eventually(lambda: told)
    assert mdns._session._questions.empty()
    assert [service.name for service in told] == ["camera"]


async def test_questions_that_wait_are_forgotten_with_what_raised_them(site, mdns, told):
    await mdns.open(addresses=[PI])
    stranger = site.stranger()
    for number in range(60):
        name = b"\4g%03d" % number + packed("_http._tcp.local")
        stranger.sendto(response(("_http._tcp.local", 12, 4500, name)), GROUP)
    await eventually(lambda: mdns._session._questions.qsize() > 30)
    mdns._session._full.set()
    await eventually(mdns._session._questions.empty, within=1)
