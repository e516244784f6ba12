"""The contract of both scan engines, on real interfaces: each test runs with `ArpEngine` and `NeighbourEngine`."""

import asyncio
import gc

import pytest

from pi_orchestrator.net.arp.engine import ArpEngine
from pi_orchestrator.net.kernel.neighbours import NeighbourEngine
from tests.support import lan
from tests.support.arp_player import Player, invented_mac
from tests.support.engines import OtherInterface, descriptors, inside, scanning, use_short_kernel_timeouts
from tests.support.waiting import eventually

A, B, C = "24:6F:28:AA:00:01", "24:6F:28:BB:00:02", "24:6F:28:CC:00:03"
HOST, OTHER_HOST, UNUSED = "10.77.0.50", "10.77.0.51", "10.77.0.60"
SMALL = "10.77.0.0/26"
"""Small, because the kernel's table holds 1,024 neighbours of all namespaces, and other tests need some of them."""
REQUESTS = {ArpEngine: 2, NeighbourEngine: 3}
"""Requests to a silent address before an expected one is requested once more."""
IS_DOWN = "is down|unreachable"
IS_GONE = "No such device|is down|unreachable"


@pytest.fixture(params=[ArpEngine, NeighbourEngine], ids=["arp", "neighbour"])
def engine(request):
    return request.param


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, network=SMALL, broker=False) as site:
        use_short_kernel_timeouts(site)
        yield site


@pytest.fixture
async def player(site):
    async with site.player() as player:
        yield player


@pytest.fixture
async def scan(site, engine):
    async with scanning(site, engine) as scan:
        yield scan


async def wait_until_begun(sweep, scan):
    """Wait until a sweep has begun; the task must still run."""
    await eventually(lambda: scan.progress)
    assert not sweep.done()


async def test_sixty_cameras_are_found(tmp_path, engine):
    async with (
        lan.opened(tmp_path, cameras=60, network="10.77.0.0/25", broker=False) as site,
        scanning(site, engine) as scan,
    ):
        await scan.sweep()
        assert scan.bound == {(camera.mac, camera.address) for camera in site.cameras}
        assert scan.progress == sorted(scan.progress)
        assert (scan.progress[0], scan.progress[-1]) == (0.0, 1.0)


async def test_probe_returns_the_claimant(player, scan):
    await player.play({HOST: A, OTHER_HOST: C})
    assert await scan.probe(HOST) == {A}
    assert await scan.probe(OTHER_HOST) == {C}
    assert await scan.probe(UNUSED, within=0.2) == set()


async def test_probe_ignores_answer_to_earlier_sweep(player, scan):
    """A camera may leave an address while a sweep runs that it has already answered."""
    await player.play({HOST: A})
    sweep = asyncio.ensure_future(scan.sweep())
    await eventually(lambda: scan.bound == {(A, HOST)})
    await player.leave(HOST)
    await eventually(lambda: scan.clock.monotonic() - scan.seen[-1].at > 0.1)
    assert await scan.probe(HOST, within=0.2) == set()
    await sweep


async def test_missed_request_is_repeated(player, scan):
    hosts = {f"10.77.0.{number}": invented_mac(number) for number in range(10, 40)}
    await player.play(hosts)
    await player.set_behaviour(skip=1)
    await scan.sweep()
    assert scan.bound == {(mac, address) for address, mac in hosts.items()}


async def test_expected_address_is_requested_once_more(player, scan, engine):
    await player.play({HOST: A, OTHER_HOST: B})
    await player.set_behaviour(skip=REQUESTS[engine])
    await scan.sweep(HOST, OTHER_HOST, UNUSED, expected=[HOST])
    assert scan.bound == {(A, HOST)}


async def test_two_interfaces_with_one_subnet_are_separate(site, player, engine):
    site.pi.ip("link", "add", "ap1", "type", "veth", "peer", "name", "lan1", "netns", site.camera_ns.name)
    site.pi.ip("address", "add", "10.77.0.2/26", "dev", "ap1")
    site.pi.ip("link", "set", "ap1", "up")
    site.camera_ns.ip("link", "set", "lan1", "up")
    async with (
        Player(site.camera_ns, "lan1") as other,
        scanning(site, engine) as first,
        scanning(OtherInterface(site, "ap1"), engine) as second,
    ):
        await player.play({HOST: A})
        await other.play({HOST: B})
        await asyncio.gather(first.sweep(HOST), second.sweep(HOST))
        assert first.bound == {(A, HOST)}
        assert second.bound == {(B, HOST)}


async def test_concurrent_sweeps_run_in_sequence(player, scan):
    await player.play({HOST: A})
    await asyncio.gather(scan.sweep(HOST), scan.sweep(HOST))
    assert scan.bound == {(A, HOST)}
    # One after the other: the progress of the first ends before that of the second begins.
    assert scan.progress.count(1.0) == 2
    assert scan.progress[: scan.progress.index(1.0)] == sorted(scan.progress[: scan.progress.index(1.0)])


async def test_interface_down_ends_sweep_until_up(site, player, scan):
    await player.play({HOST: A})
    before = descriptors()
    for _ in range(3):
        sweep = asyncio.ensure_future(scan.sweep())
        await eventually(lambda: scan.bound)
        site.down()
        with pytest.raises(OSError, match=IS_DOWN):
            await sweep
        with pytest.raises(OSError, match=IS_DOWN):
            await scan.sweep()
        site.up()
        await scan.wait_for_carrier()
        scan.forget()
    await scan.sweep(HOST)
    assert scan.bound == {(A, HOST)}
    assert descriptors() == before


async def test_removed_interface_ends_sweep(site, scan):
    sweep = asyncio.ensure_future(scan.sweep())
    await wait_until_begun(sweep, scan)
    site.unplug()
    with pytest.raises(OSError, match=IS_GONE):
        await sweep
    with pytest.raises(OSError, match=IS_GONE):
        await scan.sweep()
    with pytest.raises(OSError, match=IS_GONE):
        await scan.probe(HOST)
    # The interface returns with another name and index.
    site.pi.ip("link", "add", "other0", "type", "veth", "peer", "name", "other1")
    site.plug(name="ap7")
    scan.interface = "ap7"
    await scan.open()
    async with site.player() as player:
        await player.play({HOST: A})
        await scan.sweep(HOST)
    assert scan.bound == {(A, HOST)}


async def test_cancelled_sweep_leaks_nothing(player, scan):
    await player.play({HOST: A})
    before = descriptors()
    for milliseconds in (0, 1, 3, 10, 30, 100, 200):
        sweep = asyncio.ensure_future(scan.sweep())
        probing = asyncio.ensure_future(scan.probe(UNUSED))
        await asyncio.sleep(milliseconds / 1000)
        sweep.cancel()
        probing.cancel()
        await asyncio.wait([sweep, probing])
        assert sweep.cancelled()
        assert descriptors() == before
    scan.forget()
    await scan.sweep(HOST)
    assert scan.bound == {(A, HOST)}


async def test_close_ends_sweep_and_leaks_nothing(site, engine):
    with inside(site.pi):
        before = descriptors()
        for _ in range(5):
            async with scanning(site, engine) as scan:
                sweep = asyncio.ensure_future(scan.sweep())
                await wait_until_begun(sweep, scan)
                scan.close()
                with pytest.raises(OSError, match="closed|not open"):
                    await sweep
                with pytest.raises(OSError, match="not open"):
                    await scan.probe(HOST)
                scan.close()
                await scan.open()
                await scan.open()
        gc.collect()
        assert descriptors() == before


async def test_link_without_arp_is_rejected(site, engine):
    with inside(site.pi):
        before = descriptors()
        with pytest.raises(OSError, match="no ARP on lo"):
            async with scanning(OtherInterface(site, "lo"), engine):
                pass
        assert descriptors() == before


async def test_addresses_outside_subnet_bind_nothing(site, player, scan):
    site.pi.ip("address", "add", "10.78.0.1/24", "dev", "ap0")
    site.pi.ip("neigh", "replace", "10.78.0.50", "lladdr", B, "dev", "ap0", "nud", "reachable")
    await player.play({HOST: A})
    await player.send("10.78.0.51", C)
    await scan.sweep(HOST)
    assert scan.bound == {(A, HOST)}
    assert {str(sighting.ip) for sighting in scan.seen} == {HOST}
