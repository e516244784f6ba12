"""Neighbour engine on real interfaces, without privileges."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from ipaddress import IPv4Address

import pytest

from pi_orchestrator.net.kernel import events as kernel_events
from pi_orchestrator.net.kernel import neighbours
from pi_orchestrator.net.kernel.neighbours import NeighbourEngine
from tests.support import lan, process
from tests.support.arp_player import invented_mac
from tests.support.engines import scanning, use_short_kernel_timeouts
from tests.support.waiting import HANG_S, eventually

A, B, C = "24:6F:28:AA:00:01", "24:6F:28:BB:00:02", "24:6F:28:CC:00:03"
HOST, UNUSED = "10.77.0.50", "10.77.0.60"
SMALL = "10.77.0.0/26"
"""The kernel's table holds 1,024 neighbours of all namespaces, and other tests need some of them."""


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


def add_stale(site, hosts):
    """Add STALE neighbour entries, {address: MAC}."""
    site.pi.batch(f"neigh replace {address} lladdr {mac} dev ap0 nud stale" for address, mac in hosts.items())


def unconfirmed(scan):
    return {(sighting.mac, str(sighting.ip)) for sighting in scan.seen if not sighting.alive}


async def test_answers_are_reported_before_silent_addresses_end(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=20, network=SMALL, broker=False) as site,
        scanning(site, NeighbourEngine) as scan,
    ):
        expected = {(camera.mac, camera.address) for camera in site.cameras}
        sweep = asyncio.ensure_future(scan.sweep())
        await eventually(lambda: scan.bound == expected)
        assert not sweep.done()
        await sweep
        scan.forget()
        second_sweep_at = scan.clock.monotonic()
        await scan.sweep(*(camera.address for camera in site.cameras))
        assert scan.bound == expected
        assert min(seen.at for seen in scan.seen) < second_sweep_at, (
            "a recent confirmation is reported with its own time, without a new request"
        )


SWEEP_SCRIPT = """
import asyncio, json, sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.net.arp.engine import ArpEngine
from pi_orchestrator.net.kernel.neighbours import NeighbourEngine
from pi_orchestrator.net.kernel.netlink import Netlink

async def main():
    seen, net, netlink = [], IPv4Network("10.77.0.0/25"), Netlink()
    link = await netlink.link("ap0")
    netlink.close()
    engine = NeighbourEngine(clock=Clock(), on_sighting=seen.append)
    await engine.open(link, net)
    await engine.sweep(list(net.hosts()), expected=frozenset(), progress=lambda share: None)
    answering = await engine.probe(IPv4Address(sys.argv[1]), timeout_s=1)
    engine.close()
    try:
        await ArpEngine(clock=Clock(), on_sighting=seen.append).open(link, net)
    except PermissionError:
        bound = sorted({(sighting.mac, str(sighting.ip)) for sighting in seen if sighting.binds})
        loaded = [name for name in sys.modules if name.startswith("scapy")]
        status = Path("/proc/self/status").read_text().split()
        capabilities = status[status.index("CapEff:") + 1]
        found = {"capabilities": capabilities, "bound": bound, "answering": sorted(answering), "loaded": loaded}
        print(json.dumps(found))

asyncio.run(main())
"""


async def test_unprivileged_process_finds_sixty_cameras(tmp_path):
    async with lan.opened(tmp_path, cameras=60, network="10.77.0.0/25", broker=False) as site:
        first = site.cameras[0]
        found = await asyncio.create_subprocess_exec(
            *site.pi.prefix,
            *process.UNPRIVILEGED,
            *(sys.executable, "-W", "error", "-c", SWEEP_SCRIPT, first.address),
            stdout=asyncio.subprocess.PIPE,
            env=process.environment(),
        )
        out, _ = await asyncio.wait_for(found.communicate(), HANG_S)
        answer = json.loads(out)
        assert int(answer["capabilities"], 16) == 0
        assert answer["bound"] == sorted([camera.mac, camera.address] for camera in site.cameras)
        assert answer["answering"] == [first.mac]
        assert answer["loaded"] == [], "without CAP_NET_RAW scapy is not loaded"


async def test_stale_entry_is_unconfirmed_until_answer(site, player, scan):
    """The hosts answer ARP only, so only an ARP request can confirm them."""
    use_short_kernel_timeouts(site)
    await player.play({HOST: A})
    add_stale(site, {HOST: A, UNUSED: B})
    await eventually(lambda: unconfirmed(scan) == {(A, HOST), (B, UNUSED)})
    assert scan.bound == set()
    assert all(sighting.at < scan.clock.monotonic() - 1 for sighting in scan.seen), "not confirmed yet"
    scan.forget()
    await scan.sweep()
    assert scan.bound == {(A, HOST)}
    assert unconfirmed(scan) == {(A, HOST), (B, UNUSED)}
    assert not [sighting for sighting in scan.seen if sighting.alive and sighting.mac == B]


async def test_stale_entry_is_confirmed_by_datagram(tmp_path):
    """The kernel itself would send a request only after 5 s."""
    async with (
        lan.opened(tmp_path, cameras=20, network=SMALL, broker=False) as site,
        scanning(site, NeighbourEngine) as scan,
    ):
        site.camera_ns.sysctl("ipv4/icmp_ratemask", 0)  # no rate limit, because the cameras share one host
        hosts = {camera.address: camera.mac for camera in site.cameras}
        add_stale(site, hosts)
        await scan.sweep(*hosts)
        assert scan.bound == {(mac, address) for address, mac in hosts.items()}
        assert {sighting.detail for sighting in scan.seen if sighting.binds} == {"answered a datagram"}
        add_stale(site, hosts)
        assert await scan.probe(site.cameras[0].address) == {site.cameras[0].mac}


async def test_stale_entry_of_old_mac_is_not_confirmed(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=1, network=SMALL, broker=False) as site,
        scanning(site, NeighbourEngine) as scan,
    ):
        camera = site.cameras[0]
        use_short_kernel_timeouts(site)
        add_stale(site, {camera.address: B})
        await scan.sweep(camera.address)
        assert B not in {mac for mac, _ in scan.bound}
        assert await scan.probe(camera.address, within=3) == {camera.mac}


async def test_probe_returns_at_most_one_claimant(site, player, scan):
    use_short_kernel_timeouts(site)
    await player.play({HOST: A, "10.77.0.51": [B, C]})
    assert await scan.probe(HOST) == {A}
    assert await scan.probe(UNUSED, within=2) == set()
    assert len(await scan.probe("10.77.0.51")) == 1
    add_stale(site, {UNUSED: C})
    assert await scan.probe(UNUSED, within=0.2) == set(), "a STALE entry is no answer"
    site.pi.ip("neigh", "replace", UNUSED, "lladdr", C, "dev", "ap0", "nud", "permanent")
    assert await scan.probe(UNUSED, within=0.2) == set(), "a permanent entry is no answer"


async def test_kernel_changes_are_reported(site, player, scan):
    await player.play({HOST: A})
    with site.pi.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

        def is_reported():
            sock.sendto(b"", (HOST, 9))  # lost silently if other tests have filled the kernel's table
            return (A, HOST) in scan.bound

        await eventually(is_reported)
    # The kernel adds the sender of a request for the Pi as STALE; that is not an answer.
    await player.send("10.77.0.59", C, kind="request", target="10.77.0.1")
    await eventually(lambda: (C, "10.77.0.59") in unconfirmed(scan))
    assert C not in {mac for mac, _ in scan.bound}


async def test_neighbours_outside_subnet_are_ignored(site, scan):
    site.pi.ip("link", "add", "ap1", "type", "veth", "peer", "name", "lan1", "netns", site.camera_ns.name)
    site.pi.ip("link", "set", "ap1", "up")
    site.pi.ip("address", "add", "10.78.0.1/24", "dev", "ap0")
    site.pi.ip("neigh", "replace", HOST, "lladdr", A, "dev", "ap1", "nud", "reachable")
    site.pi.ip("neigh", "replace", "10.78.0.50", "lladdr", B, "dev", "ap0", "nud", "reachable")
    site.pi.ip("neigh", "replace", "10.77.0.51", "lladdr", "01:00:5e:00:00:01", "dev", "ap0", "nud", "reachable")
    site.pi.ip("neigh", "replace", "10.77.0.52", "lladdr", C, "dev", "ap0", "nud", "reachable")
    await eventually(lambda: scan.seen)
    assert scan.bound == {(C, "10.77.0.52")}


async def test_large_network_is_swept_in_blocks(site, player, scan, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", 20)
    use_short_kernel_timeouts(site)
    hosts = {str(site.network[3 * number + 2]): invented_mac(number) for number in range(20)}
    await player.play(hosts)
    await scan.sweep()
    assert scan.bound == {(mac, address) for address, mac in hosts.items()}
    requested = await player.requests()
    addresses = [str(address) for address in site.network.hosts()][1:]
    for start in (0, 20):
        first, second = addresses[start : start + 20], addresses[start + 20 : start + 40]
        last_of_first = max(at for address in first for at, _ in requested[address])
        assert last_of_first < min(at for address in second for at, _ in requested[address]), (
            "the second block starts after the first"
        )


async def test_flood_of_changes_is_bounded(site, scan):
    """The kernel drops notifications that are not read in time, and reports it."""
    last = {f"10.77.0.{number}": invented_mac(number, "24:6F:2A") for number in range(20, 40)}
    for turn in range(10):
        # Blocks the loop, so that the socket's buffer overflows.
        site.pi.batch(
            f"neigh replace {address} lladdr {invented_mac(turn * 50 + number)} dev ap0 nud stale"
            for number in range(25)
            for address in last
        )
        await asyncio.sleep(0)
    add_stale(site, last)
    await eventually(lambda: {(mac, address) for address, mac in last.items()} <= unconfirmed(scan))
    latest = {}
    for sighting in scan.seen:
        latest[str(sighting.ip)] = sighting.mac
    assert latest == last
    assert len(scan.seen) <= 2 * kernel_events.NOTIFICATIONS_PER_S
    async with site.player() as player:
        await player.play({HOST: A})
        scan.forget()
        await scan.sweep(HOST)
        assert scan.bound == {(A, HOST)}


async def test_lost_carrier_ends_sweep(site, scan):
    """Sending would not fail; the kernel deletes the pending entries."""
    await scan.wait_for_carrier()
    sweep = asyncio.ensure_future(scan.sweep(HOST, UNUSED))
    await eventually(lambda: scan.progress)
    site.camera_ns.ip("link", "set", "lan0", "down")
    with pytest.raises(OSError, match="is down"):
        await sweep


async def test_answer_after_mac_change_is_ignored(site, scan):
    add_stale(site, {HOST: A})
    await eventually(lambda: unconfirmed(scan) == {(A, HOST)})
    scan.forget()
    scan.engine._on_answer(IPv4Address(HOST), B)
    scan.engine._on_answer(IPv4Address(HOST), None)
    scan.engine._on_answer(IPv4Address(UNUSED), None)
    assert scan.seen == []
    scan.engine._on_answer(IPv4Address(HOST), A)
    assert scan.bound == {(A, HOST)}


async def test_removed_interface_does_not_busy_loop(site, scan):
    sweep = asyncio.ensure_future(scan.sweep())
    await eventually(lambda: scan.progress)
    site.unplug()
    with pytest.raises(OSError, match="is down|No such device|unreachable"):
        await sweep
    cpu = time.process_time()
    await asyncio.sleep(0.2)
    assert time.process_time() - cpu < 0.1


async def test_unexpected_data_does_not_busy_loop(site, player, scan):
    """A host that answers the datagram with many datagrams."""
    await player.play({HOST: A})
    with scan.engine._datagrams(await scan.link()) as send:
        await send([IPv4Address(HOST)])
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
