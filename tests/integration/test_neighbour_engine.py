"""The neighbour engine against real interfaces: what the kernel knows, told as what it is, with no privilege at all."""

import asyncio
import gc
import json
import socket
import subprocess
import sys
import time
from ipaddress import IPv4Address

import pytest

from pi_orchestrator.net import kernel_events, neighbours
from pi_orchestrator.net.neighbours import NeighbourEngine
from tests.support import lan, process
from tests.support.arp_player import Player, invented_mac
from tests.support.engines import descriptors, inside, scanning
from tests.support.waiting import eventually

A, B, C = "24:6F:28:AA:00:01", "24:6F:28:BB:00:02", "24:6F:28:CC:00:03"
HOST, NOBODY = "10.77.0.50", "10.77.0.60"
SMALL = "10.77.0.0/26"
"""The kernel's table has room for 1,024 neighbours of all namespaces: other tests need some of it too."""


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, network=SMALL, broker=False) as site:
        yield site


@pytest.fixture
async def player(site):
    async with site.player() as player:
        yield player


@pytest.fixture
async def scan(site):
    async with scanning(site, NeighbourEngine) as scan:
        yield scan


def impatient(site):
    """The kernel asks five times a second, and after one second whether a memory still holds."""
    site.pi.sysctl("ipv4/neigh/ap0/retrans_time_ms", 200)
    site.pi.sysctl("ipv4/neigh/ap0/delay_first_probe_time", 1)


def remember(site, hosts):
    """The kernel has known these {address: MAC}, some time ago."""
    site.pi.batch(f"neigh replace {address} lladdr {mac} dev ap0 nud stale" for address, mac in hosts.items())


def hearsay(scan):
    return {(one.mac, str(one.ip)) for one in scan.seen if not one.alive}


async def test_sixty_cameras_are_found(tmp_path):
    async with lan.opened(tmp_path, cameras=60, broker=False) as site, scanning(site, NeighbourEngine) as scan:
        cpu, began = time.process_time(), scan.clock.monotonic()
        took = await scan.sweep()
        cpu = time.process_time() - cpu
        wanted = {(camera.mac, camera.address) for camera in site.cameras}
        assert scan.bound == wanted
        assert max(seen.at for seen in scan.seen) - began <= 1, "the silent are waited for, the others are told at once"
        assert took <= neighbours.UNKNOWN_S + 1
        assert cpu <= 5 * 0.1
        assert scan.progress[-1] == 1.0
        scan.forget()
        again = scan.clock.monotonic()
        assert await scan.sweep(*(camera.address for camera in site.cameras)) < 1, "proof from the last seconds will do"
        assert scan.bound == wanted
        assert min(seen.at for seen in scan.seen) < again, "and is told to be as old as it is"


POWERLESS_SWEEP = """
import asyncio, json, sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from pi_orchestrator.clock import Clock
from pi_orchestrator.net.arp import ArpEngine
from pi_orchestrator.net.neighbours import NeighbourEngine
from pi_orchestrator.net.netlink import Netlink

async def main():
    seen, net, netlink = [], IPv4Network("10.77.0.0/25"), Netlink()
    link = await netlink.link("ap0")
    netlink.close()
    engine = NeighbourEngine(clock=Clock(), on_sighting=seen.append)
    await engine.open(link, net)
    await engine.sweep(list(net.hosts()), expected=frozenset(), progress=lambda share: None)
    asked = await engine.ask(IPv4Address(sys.argv[1]), timeout_s=1)
    engine.close()
    try:
        await ArpEngine(clock=Clock(), on_sighting=seen.append).open(link, net)
    except PermissionError:
        bound = sorted({(one.mac, str(one.ip)) for one in seen if one.binds})
        loaded = [name for name in sys.modules if name.startswith("scapy")]
        status = Path("/proc/self/status").read_text().split()
        capabilities = status[status.index("CapEff:") + 1]
        print(json.dumps({"capabilities": capabilities, "bound": bound, "asked": sorted(asked), "loaded": loaded}))

asyncio.run(main())
"""


async def test_a_process_without_any_capability_finds_sixty_cameras(tmp_path):
    async with lan.opened(tmp_path, cameras=60, network="10.77.0.0/25", broker=False) as site:
        first = site.cameras[0]
        found = await asyncio.create_subprocess_exec(
            *site.pi.prefix,
            *process.POWERLESS,
            *(sys.executable, "-W", "error", "-c", POWERLESS_SWEEP, first.address),
            stdout=asyncio.subprocess.PIPE,
            env=process.environment(),
        )
        out, _ = await asyncio.wait_for(found.communicate(), 30)
        answer = json.loads(out)
        assert int(answer["capabilities"], 16) == 0
        assert answer["bound"] == sorted([camera.mac, camera.address] for camera in site.cameras)
        assert answer["asked"] == [first.mac]
        assert answer["loaded"] == [], "without the right to it, scapy is not even loaded"


async def test_who_misses_the_kernels_first_request_is_found_by_its_second(site, player, scan):
    impatient(site)
    hosts = {f"10.77.0.{number}": invented_mac(number) for number in range(10, 40)}
    await player.play(hosts)
    await player.behave(skip=1)
    await scan.sweep()
    assert scan.bound == {(mac, address) for address, mac in hosts.items()}
    assert hearsay(scan) == set()


async def test_who_is_expected_is_asked_once_more(site, player, scan):
    impatient(site)
    await player.play({HOST: A, NOBODY: B})
    await player.behave(skip=3)
    await scan.sweep(HOST, NOBODY, "10.77.0.61", expected=[HOST])
    assert scan.bound == {(A, HOST)}


async def test_a_memory_is_hearsay_until_it_is_proven(site, player, scan):
    """Neither host speaks IP, so nothing but the kernel's own question can prove them."""
    impatient(site)
    await player.play({HOST: A})
    remember(site, {HOST: A, NOBODY: B})
    await eventually(lambda: hearsay(scan) == {(A, HOST), (B, NOBODY)})
    assert scan.bound == set()
    assert all(one.at < scan.clock.monotonic() - 1 for one in scan.seen), "nobody has proven them yet"
    scan.forget()
    took = await scan.sweep()
    assert scan.bound == {(A, HOST)}
    assert hearsay(scan) == {(A, HOST), (B, NOBODY)}
    assert took < 4
    assert not [one for one in scan.seen if one.alive and one.mac == B]


async def test_a_memory_that_answers_a_datagram_is_proven_at_once(tmp_path):
    """Here the kernel itself would ask only after five seconds."""
    async with (
        lan.opened(tmp_path, cameras=20, network=SMALL, broker=False) as site,
        scanning(site, NeighbourEngine) as scan,
    ):
        site.beyond.sysctl("ipv4/icmp_ratemask", 0)  # cameras are not one host, each with its own limit
        hosts = {camera.address: camera.mac for camera in site.cameras}
        remember(site, hosts)
        took = await scan.sweep(*hosts)
        assert scan.bound == {(mac, address) for address, mac in hosts.items()}
        assert {one.detail for one in scan.seen if one.binds} == {"answered a datagram"}
        assert took < 1
        remember(site, hosts)
        assert await scan.ask(site.cameras[0].address) == {site.cameras[0].mac}


async def test_a_memory_of_another_mac_is_not_proven_by_whoever_has_the_address_now(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=1, network=SMALL, broker=False) as site,
        scanning(site, NeighbourEngine) as scan,
    ):
        camera = site.cameras[0]
        impatient(site)
        remember(site, {camera.address: B})
        await scan.sweep(camera.address)
        assert B not in {mac for mac, _ in scan.bound}
        assert await scan.ask(camera.address, within=3) == {camera.mac}


async def test_asking_tells_one_or_nobody(site, player, scan):
    impatient(site)
    await player.play({HOST: A, "10.77.0.51": [B, C]})
    assert await scan.ask(HOST) == {A}
    assert await scan.ask(NOBODY, within=2) == set()
    assert len(await scan.ask("10.77.0.51")) == 1
    remember(site, {NOBODY: C})
    assert await scan.ask(NOBODY, within=0.2) == set(), "a memory is no answer"
    site.pi.ip("neigh", "replace", NOBODY, "lladdr", C, "dev", "ap0", "nud", "permanent")
    assert await scan.ask(NOBODY, within=0.2) == set(), "nor is what the kernel was told"


async def test_what_the_kernel_learns_is_told_as_it_happens(site, player, scan):
    await player.play({HOST: A})
    with site.pi.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

        def is_told():
            sock.sendto(b"", (HOST, 9))  # lost without a word where other tests have filled the kernel's table
            return (A, HOST) in scan.bound

        await eventually(is_told)
    # Who asks for the Pi is remembered; that is not yet an answer to anything.
    await player.say("10.77.0.59", C, kind="request", target="10.77.0.1")
    await eventually(lambda: (C, "10.77.0.59") in hearsay(scan))
    assert C not in {mac for mac, _ in scan.bound}


async def test_neighbours_elsewhere_and_outside_the_subnet_are_not_told(site, scan):
    site.pi.ip("link", "add", "ap1", "type", "veth", "peer", "name", "lan1", "netns", site.beyond.name)
    site.pi.ip("link", "set", "ap1", "up")
    site.pi.ip("address", "add", "10.78.0.1/24", "dev", "ap0")
    site.pi.ip("neigh", "replace", HOST, "lladdr", A, "dev", "ap1", "nud", "reachable")
    site.pi.ip("neigh", "replace", "10.78.0.50", "lladdr", B, "dev", "ap0", "nud", "reachable")
    site.pi.ip("neigh", "replace", "10.77.0.51", "lladdr", "01:00:5e:00:00:01", "dev", "ap0", "nud", "reachable")
    site.pi.ip("neigh", "replace", "10.77.0.52", "lladdr", C, "dev", "ap0", "nud", "reachable")
    await eventually(lambda: scan.seen)
    assert scan.bound == {(C, "10.77.0.52")}


async def test_of_two_interfaces_with_one_subnet_each_finds_its_own(site, player):
    site.pi.ip("link", "add", "ap1", "type", "veth", "peer", "name", "lan1", "netns", site.beyond.name)
    site.pi.ip("address", "add", "10.77.0.2/26", "dev", "ap1")
    site.pi.ip("link", "set", "ap1", "up")
    site.beyond.ip("link", "set", "lan1", "up")
    async with (
        Player(site.beyond, "lan1") as other,
        scanning(site, NeighbourEngine) as one,
        scanning(_On(site, "ap1"), NeighbourEngine) as two,
    ):
        await player.play({HOST: A})
        await other.play({HOST: B})
        await asyncio.gather(one.sweep(HOST), two.sweep(HOST))
        assert one.bound == {(A, HOST)}
        assert two.bound == {(B, HOST)}


class _On:
    """The same Pi, by another interface."""

    def __init__(self, site, interface):
        self.pi, self.network, self.interface = site.pi, site.network, interface


async def test_a_large_network_goes_in_blocks_that_the_kernels_table_has_room_for(site, player, scan, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 20)
    impatient(site)
    hosts = {str(site.network[3 * number + 2]): invented_mac(number) for number in range(20)}
    await player.play(hosts)
    await scan.sweep()
    assert scan.bound == {(mac, address) for address, mac in hosts.items()}
    asked = await player.requests()
    addresses = [str(address) for address in site.network.hosts()][1:]
    for start in (0, 20):
        first, second = addresses[start : start + 20], addresses[start + 20 : start + 40]
        last_of_first = max(at for address in first for at, _ in asked[address])
        assert last_of_first < min(at for address in second for at, _ in asked[address]), (
            "one is settled, then the next"
        )


async def test_a_storm_of_changes_costs_a_bounded_amount_and_the_end_of_it_is_known(site, scan):
    """The kernel throws away what is not read in time, and says so."""
    last = {f"10.77.0.{number}": invented_mac(number, "24:6F:2A") for number in range(20, 40)}
    for turn in range(10):
        # The loop stands still meanwhile, so that the socket runs over.
        site.pi.batch(
            f"neigh replace {address} lladdr {invented_mac(turn * 50 + number)} dev ap0 nud stale"
            for number in range(25)
            for address in last
        )
        await asyncio.sleep(0)
    remember(site, last)
    await eventually(lambda: {(mac, address) for address, mac in last.items()} <= hearsay(scan))
    latest = {}
    for one in scan.seen:
        latest[str(one.ip)] = one.mac
    assert latest == last
    assert len(scan.seen) <= 2 * kernel_events.PER_SECOND
    async with site.player() as player:
        await player.play({HOST: A})
        scan.forget()
        await scan.sweep(HOST)
        assert scan.bound == {(A, HOST)}


async def has_carrier(scan):
    """The kernel takes a moment to notice that the other end is there again."""

    async def looked():
        return (await scan.link()).up

    await eventually(looked)


async def test_a_carrier_that_is_lost_ends_a_sweep(site, scan):
    """Nothing that is sent would fail; the kernel forgets whom it was looking for."""
    await has_carrier(scan)
    sweep = asyncio.ensure_future(scan.sweep(HOST, NOBODY))
    await eventually(lambda: len(scan.engine._waits) == 2)
    site.beyond.ip("link", "set", "lan0", "down")
    with pytest.raises(OSError, match="gone down"):
        await sweep


async def test_an_answer_for_a_mac_that_has_changed_meanwhile_proves_nothing(site, scan):
    remember(site, {HOST: A})
    await eventually(lambda: hearsay(scan) == {(A, HOST)})
    scan.forget()
    scan.engine._answered(IPv4Address(HOST), B)
    scan.engine._answered(IPv4Address(HOST), None)
    scan.engine._answered(IPv4Address(NOBODY), None)
    assert scan.seen == []
    scan.engine._answered(IPv4Address(HOST), A)
    assert scan.bound == {(A, HOST)}


async def test_an_interface_that_goes_down_during_a_sweep_ends_it_and_one_that_comes_back_is_swept(site, player, scan):
    await player.play({HOST: A})
    before = descriptors()
    for _ in range(3):
        sweep = asyncio.ensure_future(scan.sweep())
        await eventually(lambda: scan.bound)
        began = time.monotonic()
        site.down()
        with pytest.raises(OSError, match="gone down|unreachable"):
            await sweep
        assert time.monotonic() - began < 1
        with pytest.raises(OSError, match="unreachable|down"):
            await scan.sweep()
        site.up()
        await has_carrier(scan)
        scan.forget()
    await scan.sweep(HOST)
    assert scan.bound == {(A, HOST)}
    assert descriptors() == before


async def test_an_interface_that_goes_away_ends_a_sweep(site, scan):
    sweep = asyncio.ensure_future(scan.sweep())
    await eventually(lambda: scan.engine._waits)
    site.unplug()
    with pytest.raises(OSError, match="gone down|No such device|unreachable"):
        await sweep
    with pytest.raises(OSError, match="No such device|unreachable"):
        await scan.sweep()
    with pytest.raises(OSError, match="No such device|unreachable"):
        await scan.ask(HOST)
    cpu = time.process_time()
    await asyncio.sleep(0.2)
    assert time.process_time() - cpu < 0.1


async def test_a_sweep_can_be_cancelled_at_any_moment(site, player, scan):
    await player.play({HOST: A})
    before = descriptors()
    for milliseconds in (0, 1, 3, 10, 30, 100):
        sweep = asyncio.ensure_future(scan.sweep())
        asking = asyncio.ensure_future(scan.ask(NOBODY))
        await asyncio.sleep(milliseconds / 1000)
        sweep.cancel()
        asking.cancel()
        await asyncio.wait([sweep, asking])
        assert sweep.cancelled()
        assert scan.engine._waits == []
        assert descriptors() == before
    scan.forget()
    await scan.sweep(HOST)
    assert scan.bound == {(A, HOST)}


async def test_closing_ends_a_sweep_and_may_be_done_twice_and_leaves_nothing_open(site):
    with inside(site.pi):
        before = descriptors()
        for _ in range(5):
            async with scanning(site, NeighbourEngine) as scan:
                sweep = asyncio.ensure_future(scan.sweep())
                await eventually(lambda scan=scan: scan.engine._waits)
                scan.close()
                with pytest.raises(OSError, match="closed|not open"):
                    await sweep
                with pytest.raises(OSError, match="not open"):
                    await scan.ask(HOST)
                scan.close()
                await scan.open()
                await scan.open()
        gc.collect()
        assert descriptors() == before


async def test_a_link_on_which_nobody_can_be_asked_is_refused(site):
    with inside(site.pi):
        before = descriptors()
        with pytest.raises(OSError, match="no ARP on lo"):
            async with scanning(_On(site, "lo"), NeighbourEngine):
                pass
        assert descriptors() == before


async def test_data_that_nobody_asked_for_does_not_keep_the_loop_busy(site, player, scan):
    """Whoever answers the datagram with another, or with many."""
    await player.play({HOST: A})
    with scan.engine._asking(await scan.link()) as ask:
        await ask([IPv4Address(HOST)])
        port = next(int(line.split()[3].rsplit(":", 1)[1]) for line in _udp(site))
        with site.pi.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(200):
                sock.sendto(b"x", ("10.77.0.1", port))
        await asyncio.sleep(0.05)
        cpu = time.process_time()
        await asyncio.sleep(0.2)
        assert time.process_time() - cpu < 0.05


def _udp(site):
    return subprocess.run(
        [*site.pi.prefix, "ss", "-Hanu"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
