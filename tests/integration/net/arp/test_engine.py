"""ARP engine on real interfaces: finds hosts, ignores forged frames, survives floods, leaks nothing."""

import asyncio
import dataclasses
import time

import pytest

from pi_orchestrator.net.arp import engine as arp
from pi_orchestrator.net.arp.engine import ArpEngine
from tests.support import lan
from tests.support.arp_player import invented_mac
from tests.support.engines import Scan, descriptors, inside, scanning
from tests.support.waiting import HANG_S, eventually

A, B, C = "24:6F:28:AA:00:01", "24:6F:28:BB:00:02", "24:6F:28:CC:00:03"
HOST = "10.77.0.50"


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site:
        yield site


@pytest.fixture
async def player(site):
    async with site.player() as player:
        yield player


@pytest.fixture
async def scan(site):
    async with scanning(site, ArpEngine) as scan:
        yield scan


def hosts_of(count, *, first=10):
    """{address: MAC} of invented hosts."""
    return {f"10.77.0.{first + number}": invented_mac(number, "24:6F:29") for number in range(count)}


async def test_sweep_ends_when_all_have_answered(site, player, monkeypatch):
    monkeypatch.setattr(arp, "MIN_WAIT_S", HANG_S)
    monkeypatch.setattr(arp, "MAX_WAIT_S", HANG_S)
    async with scanning(site, ArpEngine) as scan, asyncio.timeout(HANG_S):
        hosts = hosts_of(20)
        await player.play(hosts)
        await scan.sweep(*hosts)
        assert {mac for mac, _ in scan.bound} == set(hosts.values())
        assert scan.engine.counters.requests == 20, "no second round"


async def test_timeout_adapts_to_reply_times(player, scan):
    """Replies after 0.25 s; one address never answers, so the engine waits for its timeout."""
    await player.play(hosts_of(20))
    await player.set_behaviour(late=0.25)
    slow = [await scan.sweep(*hosts_of(21)) for _ in range(2)][-1]
    await player.set_behaviour()
    quick = [await scan.sweep(*hosts_of(21)) for _ in range(4)][-1]
    assert len(scan.bound) == 20
    assert quick < slow - 0.1


async def test_each_silent_address_is_requested_twice(player, scan):
    hosts = hosts_of(60)
    await player.play(hosts)
    await player.set_behaviour(skip=1)
    await scan.sweep()
    assert scan.bound == {(mac, address) for address, mac in hosts.items()}
    requested = await player.requests()
    assert {len(requested[address]) for address in hosts} == {2}
    assert {len(requested[f"10.77.0.{number}"]) for number in range(200, 255)} == {2}
    assert "10.77.0.1" not in requested, "own address"


async def test_sweep_finds_most_hosts_if_a_third_of_requests_is_lost(player, site):
    async with scanning(site, ArpEngine, rounds=5) as scan:
        hosts = hosts_of(60)
        await player.play(hosts)
        await player.set_behaviour(ignore=0.33)
        await scan.sweep(expected=hosts)
        assert len(scan.bound) >= 58, "a host misses all six requests with a probability of 1/770"


async def test_sleeping_camera_is_woken_by_unicast(tmp_path):
    async with lan.opened(tmp_path, cameras=3, broker=False) as site, scanning(site, ArpEngine) as scan:
        await scan.sweep()
        all_bound = {(camera.mac, camera.address) for camera in site.cameras}
        assert scan.bound == all_bound
        asleep = await put_camera_to_sleep(site)
        scan.forget()
        await scan.sweep()
        assert scan.bound == all_bound - {(asleep.mac, asleep.address)}
        scan.forget()
        await scan.sweep(expected=[asleep.address])
        assert scan.bound == all_bound


async def put_camera_to_sleep(site):
    """Block broadcasts for one camera and return it; for a few percent of MACs the interface cannot block them."""
    for camera in site.cameras:
        await site.block_broadcasts(camera)
        if (await site.arp_request(camera.address, within=0.1))[camera.address] == set():
            return camera
        site.unblock_broadcasts(camera)
    raise AssertionError("no camera sleeps")


async def test_all_claimants_are_reported(player, scan):
    await player.play({HOST: [A, B], "10.77.0.51": C})
    await scan.sweep()
    assert scan.bound == {(A, HOST), (B, HOST), (C, "10.77.0.51")}
    assert await scan.probe(HOST) == {A, B}
    assert await scan.probe("10.77.0.51") == {C}
    assert await scan.probe("10.77.0.52", within=0.05) == set()


async def test_probe_waits_and_repeats(player, scan):
    await player.play({HOST: A})
    await player.set_behaviour(HOST, late=0.3)
    assert await scan.probe(HOST, within=0.1) == set()
    assert await scan.probe(HOST, within=0.6) == {A}
    await player.set_behaviour(HOST, skip=1)
    assert await scan.probe(HOST, within=0.1) == {A}


async def test_claimants_are_limited(player, scan):
    await player.play({HOST: [invented_mac(number) for number in range(50)]})
    assert len(await scan.probe(HOST)) == arp.MAX_CLAIMANTS
    assert len(scan.seen) == arp.MAX_CLAIMANTS


async def test_unsolicited_frame_binds_nothing(player, scan):
    await player.send(HOST, A)
    await player.send("10.77.0.51", B, kind="request")
    await player.send("10.77.0.52", C, kind="request", target="10.77.0.1")
    await eventually(lambda: len(scan.seen) == 3)
    assert scan.unbound == {(A, HOST), (B, "10.77.0.51"), (C, "10.77.0.52")}
    assert not scan.bound


async def test_late_reply_binds_nothing(player, scan):
    await player.play({HOST: A})
    await player.set_behaviour(HOST, late=0.3)
    assert await scan.probe(HOST, within=0.05) == set()
    await eventually(lambda: scan.unbound == {(A, HOST)})
    assert not scan.bound


async def test_gratuitous_reply_during_probe_binds_nothing(site, player, scan):
    """An answer is addressed to this link and its address; a gratuitous reply is not."""
    probing = asyncio.ensure_future(scan.probe(HOST, within=0.5))
    await eventually(lambda: scan.engine.counters.requests)
    await player.send(HOST, A)
    await player.send(HOST, B, to=site.mac(), target="10.77.0.99")
    await player.send(HOST, C, to=site.mac(), target="10.77.0.1")
    assert await probing == {C}
    assert scan.unbound == {(A, HOST), (B, HOST)}


async def test_arp_probe_of_unused_address_has_no_sender_address(player, scan):
    await player.send("0.0.0.0", A, kind="request", target=HOST)
    await eventually(lambda: scan.seen)
    assert scan.unbound == {(A, None)}


async def test_forged_frames_are_counted_and_ignored(site, player, scan):
    counters = scan.engine.counters
    await player.play({HOST: A})
    await player.send(HOST, A, source=B, count=3)
    await player.send(HOST, site.mac(), count=2)
    await eventually(lambda: counters.forged == 5)
    await player.send("192.168.1.1", A)
    await player.send("10.77.0.255", A)
    await player.send("10.77.0.0", A)
    await eventually(lambda: counters.foreign == 3)
    await player.send(HOST, "01:00:5E:00:00:01")
    await player.send(HOST, "00:00:00:00:00:00")
    await eventually(lambda: counters.malformed == 2)
    assert scan.seen == []
    probing = asyncio.ensure_future(scan.probe(HOST))
    await eventually(lambda: counters.requests)
    await player.send(HOST, C, source=B, to=site.mac(), target="10.77.0.1")
    assert await probing == {A}
    assert counters.forged == 6


async def test_own_address_claim_is_logged_once_a_minute(player, scan, capsys):
    await player.send("10.77.0.1", A, count=5)
    await player.send("10.77.0.1", B, kind="request", target=HOST)
    await eventually(lambda: scan.engine.counters.own_claimed == 6)
    assert scan.seen == []
    warnings = [
        line for line in capsys.readouterr().err.splitlines() if "own address claimed by another device" in line
    ]
    assert len(warnings) == 1
    assert A in warnings[0]


class LoopTurns:
    """Counts the frames that an engine reads during the block: all, and the most in one turn of the event loop."""

    def __init__(self, engine, monkeypatch):
        self.frames = self.most_frames = self._in_turn = 0
        read = engine._on_frame

        def counted(frame):
            self.frames += 1
            self._in_turn += 1
            self.most_frames = max(self.most_frames, self._in_turn)
            return read(frame)

        monkeypatch.setattr(engine, "_on_frame", counted)

    async def __aenter__(self):
        self._task = asyncio.create_task(self._begin_turns())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _begin_turns(self):
        while True:
            self._in_turn = 0
            await asyncio.sleep(0)


async def test_sweep_during_flood_finds_all(player, scan, monkeypatch):
    hosts = hosts_of(60)
    await player.play(hosts)
    counters = scan.engine.counters
    async with LoopTurns(scan.engine, monkeypatch) as turns:
        began = time.monotonic()
        flood = asyncio.ensure_future(player.announce_macs(10_000, "10.77.0.0/24", rate=20_000))
        await eventually(lambda: counters.unsolicited)
        # The player runs its commands one by one; it answers requests during the flood as well.
        for _ in range(2):
            await scan.sweep()
        await flood
        duration = time.monotonic() - began
    assert {mac for mac, address in scan.bound} == set(hosts.values())
    assert counters.replies >= 60
    assert counters.unsolicited <= arp.UNSOLICITED_PER_S * (1 + duration)
    assert len(scan.seen) == counters.unsolicited + counters.replies
    assert counters.missed > 5000
    assert 0 < turns.most_frames <= arp.MAX_READS, "other tasks run in between"


@pytest.fixture
def low_limit(monkeypatch):
    """Lower the limit for unsolicited frames, so that a flood from a slow machine is over it, too."""
    monkeypatch.setattr(arp, "UNSOLICITED_PER_S", 50)


async def test_flood_without_sweep_pauses_reading(low_limit, player, scan, monkeypatch):
    counters = scan.engine.counters
    async with LoopTurns(scan.engine, monkeypatch) as turns:
        duration = await player.announce_macs(20_000, "10.77.0.0/24", rate=20_000)
    assert arp.UNSOLICITED_PER_S <= counters.unsolicited <= arp.UNSOLICITED_PER_S * (2 + duration)
    assert turns.frames < 10_000, "the kernel drops most of the flood"
    await player.play({HOST: A})

    async def is_answered():  # the kernel may drop a reply while its buffer is full of the flood
        return await scan.probe(HOST) == {A}

    await eventually(is_answered)
    before = counters.unsolicited
    await player.send(HOST, B)
    await eventually(lambda: counters.unsolicited > before)


async def test_interface_down_after_requests_ends_sweep(site, scan):
    sweep = asyncio.ensure_future(scan.sweep(HOST))
    await eventually(lambda: scan.engine.counters.requests == 2)
    site.down()
    with pytest.raises(OSError, match="Network is down"):
        await sweep


async def test_interface_without_address_sweeps(site, player, scan):
    site.remove_address()
    await scan.open()
    await player.play(hosts_of(5))
    await scan.sweep()
    assert len(scan.bound) == 5


async def test_large_network_is_swept(tmp_path):
    async with (
        lan.opened(tmp_path, network="10.77.0.0/22", broker=False) as site,
        site.player() as player,
        scanning(site, ArpEngine) as scan,
    ):
        hosts = {str(site.network[4 * number + 2]): invented_mac(number) for number in range(250)}
        await player.play(hosts)
        await scan.sweep()
        assert scan.bound == {(mac, address) for address, mac in hosts.items()}


async def test_late_second_claimant_is_reported(site, player, scan, monkeypatch):
    monkeypatch.setattr(arp, "LINGER_S", 1.0)
    async with site.player() as other:
        await player.play({HOST: A})
        await other.play({HOST: B})
        await other.set_behaviour(late=0.1)
        await scan.sweep(HOST)
    assert scan.bound == {(A, HOST), (B, HOST)}
    assert scan.engine.counters.requests == 1


async def test_repeated_reply_is_reported_once(player, scan):
    await player.play({HOST: [A, A, B, A]})
    assert await scan.probe(HOST) == {A, B}
    assert sorted(sighting.mac for sighting in scan.seen) == [A, B]
    assert scan.engine.counters.replies == 2


async def test_probe_resumes_reading_after_flood(low_limit, player, scan, monkeypatch):
    monkeypatch.setattr(arp, "READ_PAUSE_S", 60)
    await player.play({HOST: A})

    async def is_paused():
        await player.announce_macs(3000, "10.77.0.0/24", rate=100_000)
        return scan.engine._read_paused

    await eventually(is_paused)
    assert await eventually(lambda: scan.probe(HOST, within=1)) == {A}


async def test_replaced_interface_is_rejected(site):
    with inside(site.pi):
        scan = Scan(ArpEngine, network=site.network)
        link = await scan.link()
        before = descriptors()
        with pytest.raises(OSError, match="another interface"):
            await scan.engine.open(dataclasses.replace(link, index=link.index + 1), site.network)
        assert descriptors() == before
