"""Netlink requests on real interfaces: every answer has the current state."""

import asyncio
import gc
import socket
from ipaddress import IPv4Address, IPv4Interface

import pytest

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.net.kernel import netlink as netlink_module
from pi_orchestrator.net.kernel.neighbours import NeighbourTable
from pi_orchestrator.net.kernel.netlink import Netlink
from tests.support import lan
from tests.support.arp_player import Player
from tests.support.clock import FakeClock
from tests.support.engines import descriptors, inside
from tests.support.waiting import eventually

HOST, MAC = "10.77.0.50", "24:6F:28:AA:00:01"


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site:
        with inside(site.pi):
            yield site


@pytest.fixture
async def netlink(site):
    netlink = Netlink()
    yield netlink
    netlink.close()
    await asyncio.sleep(0)


async def wait_for_link(netlink, name, **expected):
    """Wait until a link has the expected fields, and return it: the kernel notices a carrier with a delay."""

    async def has_fields():
        link = await netlink.link(name)
        return link if all(getattr(link, field) == value for field, value in expected.items()) else None

    return await eventually(has_fields, what=f"{name}: {expected}")


async def test_link_is_read(site, netlink):
    link = await wait_for_link(netlink, "ap0", up=True)
    assert link.index == socket.if_nametoindex("ap0")
    assert link.mac == site.mac()
    assert link.supports_arp
    assert link.addresses == (IPv4Interface("10.77.0.1/24"),)
    assert link.own_addresses() == {IPv4Address("10.77.0.1")}
    assert link.address_in(site.network) == IPv4Address("10.77.0.1")
    assert await netlink.links() == (await netlink.link("lo"), link)


async def test_link_changes_are_read(site, netlink):
    index = (await wait_for_link(netlink, "ap0", up=True)).index
    site.camera_ns.ip("link", "set", "lan0", "down")
    assert (await wait_for_link(netlink, "ap0", up=False)).addresses, "no carrier"
    site.camera_ns.ip("link", "set", "lan0", "up")
    await wait_for_link(netlink, "ap0", up=True)
    site.down()
    assert not (await netlink.link("ap0")).up
    site.up()
    await wait_for_link(netlink, "ap0", up=True)
    site.remove_address()
    link = await netlink.link("ap0")
    assert (link.up, link.addresses, link.address_in(site.network)) == (True, (), None)
    site.set_address("10.77.0.9")
    site.set_address("10.77.0.10")
    assert (await netlink.link("ap0")).own_addresses() == {IPv4Address("10.77.0.9"), IPv4Address("10.77.0.10")}
    site.rename("wlan9")
    assert await netlink.link("ap0") is None
    assert (await wait_for_link(netlink, "wlan9", up=True)).index == index
    site.unplug()
    assert await netlink.link("wlan9") is None


@pytest.mark.parametrize("name", ["", "nothing", "a-name-that-is-far-too-long", "ap0\0", "%s", "é" * 8])
async def test_unknown_link_is_none(netlink, name):
    assert await netlink.link(name) is None


async def test_loopback_and_noarp_have_no_arp(site, netlink):
    loopback = await netlink.link("lo")
    assert (loopback.supports_arp, loopback.mac, loopback.up) == (False, None, True)
    site.pi.ip("link", "set", "ap0", "arp", "off")
    assert not (await netlink.link("ap0")).supports_arp


async def test_own_address_of_peer_link_is_the_local_one(site, netlink):
    site.pi.ip("addr", "add", "10.77.0.7", "peer", "10.77.0.8/32", "dev", "ap0")
    assert (await netlink.link("ap0")).own_addresses() == {IPv4Address("10.77.0.1"), IPv4Address("10.77.0.7")}
    assert await netlink.own_addresses() == {IPv4Address(text) for text in ("127.0.0.1", "10.77.0.1", "10.77.0.7")}


async def test_own_addresses_are_cached_for_10_s(site):
    clock = FakeClock()
    neighbours = NeighbourTable(clock=clock)
    assert IPv4Address("10.77.0.9") not in await neighbours.own_addresses()
    site.set_address("10.77.0.9")
    assert IPv4Address("10.77.0.9") not in await neighbours.own_addresses()
    await clock.advance(10)
    assert IPv4Address("10.77.0.9") in await neighbours.own_addresses()
    neighbours.close()


async def test_single_neighbour_is_looked_up(site):
    neighbours = NeighbourTable(clock=Clock())
    assert await neighbours.at(HOST) is None
    async with Player(site.camera_ns, "lan0") as player:
        await player.play({HOST: MAC})
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", (HOST, 9))
        neighbour = await eventually(lambda: neighbours.at(HOST))
        assert (neighbour.mac, neighbour.fresh) == (MAC, True)
    site.pi.ip("neigh", "replace", HOST, "lladdr", MAC, "dev", "ap0", "nud", "stale")
    assert (await neighbours.at(HOST)).fresh is False
    for address in ("10.77.0.1", "192.0.2.1", "nowhere", "::1", "10.77.0.256", ""):
        assert await neighbours.at(address) is None, address
    neighbours.close()


async def opened_and_closed():
    """A closed Netlink whose library is loaded, and the open descriptors."""
    netlink = Netlink()
    await netlink.link("ap0")
    netlink.close()
    await asyncio.sleep(0)
    return netlink, descriptors()


async def test_close_leaks_nothing_and_reopens(site):
    netlink, before = await opened_and_closed()
    for _ in range(5):
        assert await netlink.link("ap0")
        tasks = [asyncio.ensure_future(netlink.links()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert await netlink.link("ap0"), "cancelled requests do not block"
        netlink.close()
        netlink.close()
        await asyncio.sleep(0)
    gc.collect()
    assert descriptors() == before


async def test_cancelled_open_leaks_nothing(site):
    netlink, before = await opened_and_closed()
    for turns in range(40):
        task = asyncio.ensure_future(netlink.link("ap0"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        netlink.close()
    opening = [task for task in asyncio.all_tasks() if task.get_name() == "netlink-open"]
    await asyncio.gather(*opening)
    await eventually(lambda: descriptors() == before)


async def test_broken_socket_is_replaced(site, netlink, monkeypatch):
    assert await netlink.link("ap0")
    broken = netlink._socket
    monkeypatch.setattr(broken, "link", _fail)
    assert await netlink.link("ap0") is None
    assert await netlink.link("ap0")
    assert netlink._socket is not broken


async def _fail(*_, **__):
    raise OSError(105, "No buffer space available")


async def test_unanswered_request_times_out(site, netlink, monkeypatch):
    assert await netlink.link("ap0")
    monkeypatch.setattr(netlink_module, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(netlink._socket, "link", lambda *_, **__: asyncio.sleep(60))
    assert await netlink.link("ap0") is None
    assert await netlink.link("ap0")
