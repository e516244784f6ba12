"""Interfaces as the kernel has them: whatever happens to one, the next question has the truth."""

import asyncio
import gc
import socket
from ipaddress import IPv4Address, IPv4Interface

import pytest

from pi_orchestrator.clock import Clock
from pi_orchestrator.net import netlink as netlink_module
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.net.netlink import Netlink
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


async def becomes(netlink, name, **wanted):
    """The link, once it is as wanted: the kernel takes a moment to notice a carrier."""

    async def looked():
        link = await netlink.link(name)
        return link if all(getattr(link, field) == value for field, value in wanted.items()) else None

    return await eventually(looked, what=f"{name}: {wanted}")


async def test_an_interface_is_told_as_it_is(site, netlink):
    link = await becomes(netlink, "ap0", up=True)
    assert link.index == socket.if_nametoindex("ap0")
    assert link.mac == site.mac()
    assert link.asks
    assert link.addresses == (IPv4Interface("10.77.0.1/24"),)
    assert link.own() == {IPv4Address("10.77.0.1")}
    assert link.address_in(site.network) == IPv4Address("10.77.0.1")
    assert await netlink.links() == (await netlink.link("lo"), link)


async def test_whatever_happens_to_it_is_told(site, netlink):
    index = (await becomes(netlink, "ap0", up=True)).index
    site.beyond.ip("link", "set", "lan0", "down")
    assert (await becomes(netlink, "ap0", up=False)).addresses, "no carrier"
    site.beyond.ip("link", "set", "lan0", "up")
    await becomes(netlink, "ap0", up=True)
    site.down()
    assert not (await netlink.link("ap0")).up
    site.up()
    await becomes(netlink, "ap0", up=True)
    site.remove_address()
    link = await netlink.link("ap0")
    assert (link.up, link.addresses, link.address_in(site.network)) == (True, (), None)
    site.set_address("10.77.0.9")
    site.set_address("10.77.0.10")
    assert (await netlink.link("ap0")).own() == {IPv4Address("10.77.0.9"), IPv4Address("10.77.0.10")}
    site.rename("wlan9")
    assert await netlink.link("ap0") is None
    assert (await becomes(netlink, "wlan9", up=True)).index == index
    site.unplug()
    assert await netlink.link("wlan9") is None


@pytest.mark.parametrize("name", ["", "nothing", "a-name-that-is-far-too-long", "ap0\0", "%s", "é" * 8])
async def test_there_is_no_interface_of_this_name(netlink, name):
    assert await netlink.link(name) is None


async def test_nobody_can_be_asked_on_loopback_or_without_arp(site, netlink):
    loopback = await netlink.link("lo")
    assert (loopback.asks, loopback.mac, loopback.up) == (False, None, True)
    site.pi.ip("link", "set", "ap0", "arp", "off")
    assert not (await netlink.link("ap0")).asks


async def test_of_an_address_with_a_peer_ours_is_told(site, netlink):
    site.pi.ip("addr", "add", "10.77.0.7", "peer", "10.77.0.8/32", "dev", "ap0")
    assert (await netlink.link("ap0")).own() == {IPv4Address("10.77.0.1"), IPv4Address("10.77.0.7")}
    assert await netlink.own_addresses() == {IPv4Address(one) for one in ("127.0.0.1", "10.77.0.1", "10.77.0.7")}


async def test_own_addresses_are_looked_up_again_after_ten_seconds(site):
    clock = FakeClock()
    neighbours = Neighbours(clock=clock)
    assert IPv4Address("10.77.0.9") not in await neighbours.own_addresses()
    site.set_address("10.77.0.9")
    assert IPv4Address("10.77.0.9") not in await neighbours.own_addresses()
    await clock.advance(10)
    assert IPv4Address("10.77.0.9") in await neighbours.own_addresses()
    neighbours.close()


async def test_a_single_neighbour_is_known_afresh_or_from_memory_or_not_at_all(site):
    neighbours = Neighbours(clock=Clock())
    assert await neighbours.at(HOST) is None
    async with Player(site.beyond, "lan0") as player:
        await player.play({HOST: MAC})
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", (HOST, 9))
        known = await eventually(lambda: neighbours.at(HOST))
        assert (known.mac, known.fresh) == (MAC, True)
    site.pi.ip("neigh", "replace", HOST, "lladdr", MAC, "dev", "ap0", "nud", "stale")
    assert (await neighbours.at(HOST)).fresh is False
    for address in ("10.77.0.1", "192.0.2.1", "nowhere", "::1", "10.77.0.256", ""):
        assert await neighbours.at(address) is None, address
    neighbours.close()


async def test_nothing_stays_open_and_it_opens_again(site):
    netlink = Netlink()
    await netlink.link("ap0")
    netlink.close()
    await asyncio.sleep(0)
    before = descriptors()
    for _ in range(5):
        assert await netlink.link("ap0")
        asking = [asyncio.ensure_future(netlink.links()) for _ in range(3)]
        await asyncio.sleep(0)
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
        assert await netlink.link("ap0"), "whoever gave up is in nobody's way"
        netlink.close()
        netlink.close()
        await asyncio.sleep(0)
    gc.collect()
    assert descriptors() == before


async def test_a_socket_that_broke_is_replaced(site, netlink, monkeypatch):
    assert await netlink.link("ap0")
    broken = netlink._socket
    monkeypatch.setattr(broken, "link", _breaks)
    assert await netlink.link("ap0") is None
    assert await netlink.link("ap0")
    assert netlink._socket is not broken


async def _breaks(*_, **__):
    raise OSError(105, "No buffer space available")


async def test_a_question_that_gets_no_answer_ends(site, netlink, monkeypatch):
    assert await netlink.link("ap0")
    monkeypatch.setattr(netlink_module, "ANSWER_S", 0.05)
    monkeypatch.setattr(netlink._socket, "link", lambda *_, **__: asyncio.sleep(60))
    assert await netlink.link("ap0") is None
    assert await netlink.link("ap0")
