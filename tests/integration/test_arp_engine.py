"""The ARP engine against real interfaces: found, not fooled, not flooded, and nothing left behind."""

import asyncio
import dataclasses
import gc
import time

import pytest

from pi_orchestrator.net import arp
from pi_orchestrator.net.arp import ArpEngine
from tests.support import lan
from tests.support.arp_player import Player, invented_mac
from tests.support.engines import Scan, descriptors, inside, scanning
from tests.support.waiting import eventually

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


def many(count, *, first=10):
    """{address: MAC} of invented hosts."""
    return {f"10.77.0.{first + number}": invented_mac(number, "24:6F:29") for number in range(count)}


async def test_sixty_cameras_are_found_at_once(tmp_path):
    async with lan.opened(tmp_path, cameras=60, broker=False) as site, scanning(site, ArpEngine) as scan:
        cpu, began = time.process_time(), scan.clock.monotonic()
        took = await scan.sweep()
        cpu = time.process_time() - cpu
        assert scan.bound == {(camera.mac, camera.address) for camera in site.cameras}
        assert len(scan.seen) == 60, "each is told once"
        # A machine that is busy with other tests is given five times as long as one of its own.
        assert max(seen.at for seen in scan.seen) - began <= 5 * 0.095
        assert took <= 5 * 0.9
        assert cpu <= 5 * 0.1
        assert scan.progress == sorted(scan.progress)
        assert (scan.progress[0], scan.progress[-1]) == (0.0, 1.0)


async def test_it_does_not_wait_when_everybody_has_answered(player, scan):
    hosts = many(20)
    await player.play(hosts)
    took = await scan.sweep(*hosts)
    assert {mac for mac, _ in scan.bound} == set(hosts.values())
    assert took < arp.LEAST_S
    assert scan.engine.counters.asked == 20


async def test_it_waits_longer_where_answers_take_longer(player, scan):
    """Here a quarter of a second; one is never there, and for that one it waits."""
    await player.play(many(20))
    await player.behave(late=0.25)
    slow = [await scan.sweep(*many(21)) for _ in range(2)][-1]
    await player.behave()
    quick = [await scan.sweep(*many(21)) for _ in range(4)][-1]
    assert len(scan.bound) == 20
    assert quick < slow - 0.1


async def test_who_misses_the_first_request_is_asked_again(player, scan):
    hosts = many(60)
    await player.play(hosts)
    await player.behave(skip=1)
    await scan.sweep()
    assert scan.bound == {(mac, address) for address, mac in hosts.items()}
    asked = await player.requests()
    assert {len(asked[address]) for address in hosts} == {2}
    assert {len(asked[f"10.77.0.{number}"]) for number in range(200, 255)} == {2}
    assert "10.77.0.1" not in asked, "its own address"


async def test_most_of_sixty_are_found_where_a_third_of_all_frames_is_lost(player, site):
    async with scanning(site, ArpEngine, rounds=5) as scan:
        hosts = many(60)
        await player.play(hosts)
        await player.behave(ignore=0.33)
        await scan.sweep(expected=hosts)
        assert len(scan.bound) >= 58, "one in 770 stays silent six times"


async def test_who_is_expected_is_asked_once_more(player, scan):
    hosts = many(30)
    await player.play(hosts)
    await player.behave(skip=2)
    await scan.sweep(expected=[*hosts][:10])
    assert {address for _, address in scan.bound} == {*[*hosts][:10]}


async def test_a_sleeping_camera_that_hears_no_broadcast_is_woken(tmp_path):
    async with lan.opened(tmp_path, cameras=3, broker=False) as site, scanning(site, ArpEngine) as scan:
        await scan.sweep()
        everybody = {(camera.mac, camera.address) for camera in site.cameras}
        assert scan.bound == everybody
        asleep = await somebody_asleep(site)
        scan.forget()
        await scan.sweep()
        assert scan.bound == everybody - {(asleep.mac, asleep.address)}
        scan.forget()
        await scan.sweep(expected=[asleep.address])
        assert scan.bound == everybody


async def somebody_asleep(site):
    """The filter of what an interface hears is a rough one: in a few cases of a hundred it lets broadcasts through."""
    for camera in site.cameras:
        await site.put_to_sleep(camera)
        if (await site.who_has(camera.address, within=0.1))[camera.address] == set():
            return camera
        site.wake(camera)
    raise AssertionError("no camera sleeps")


async def test_everyone_who_answers_for_an_address_is_told(player, scan):
    await player.play({HOST: [A, B], "10.77.0.51": C})
    await scan.sweep()
    assert scan.bound == {(A, HOST), (B, HOST), (C, "10.77.0.51")}
    assert await scan.ask(HOST) == {A, B}
    assert await scan.ask("10.77.0.51") == {C}
    assert await scan.ask("10.77.0.52", within=0.05) == set()


async def test_asking_waits_for_the_late_and_repeats_what_was_lost(player, scan):
    await player.play({HOST: A})
    await player.behave(HOST, late=0.3)
    assert await scan.ask(HOST, within=0.1) == set()
    assert await scan.ask(HOST, within=0.6) == {A}
    await player.behave(HOST, skip=1)
    assert await scan.ask(HOST, within=0.1) == {A}


async def test_a_crowd_that_answers_for_one_address_is_cut_short(player, scan):
    await player.play({HOST: [invented_mac(number) for number in range(50)]})
    assert len(await scan.ask(HOST)) == arp.CLAIMANTS
    assert len(scan.seen) == arp.CLAIMANTS


async def test_what_is_said_unasked_is_life_but_no_binding(player, scan):
    await player.say(HOST, A)
    await player.say("10.77.0.51", B, kind="request")
    await player.say("10.77.0.52", C, kind="request", target="10.77.0.1")
    await eventually(lambda: len(scan.seen) == 3)
    assert scan.heard == {(A, HOST), (B, "10.77.0.51"), (C, "10.77.0.52")}
    assert not scan.bound


async def test_a_late_answer_is_life_but_no_binding(player, scan):
    await player.play({HOST: A})
    await player.behave(HOST, late=0.3)
    assert await scan.ask(HOST, within=0.05) == set()
    await eventually(lambda: scan.heard == {(A, HOST)})
    assert not scan.bound


async def test_who_claims_an_address_while_it_is_asked_for_has_not_answered(site, player, scan):
    """A gratuitous reply is for everybody; an answer is for us, for the address that we asked from."""
    asking = asyncio.ensure_future(scan.ask(HOST, within=0.5))
    await eventually(lambda: scan.engine.counters.asked)
    await player.say(HOST, A)
    await player.say(HOST, B, to=site.mac(), target="10.77.0.99")
    await player.say(HOST, C, to=site.mac(), target="10.77.0.1")
    assert await asking == {C}
    assert scan.heard == {(A, HOST), (B, HOST)}


async def test_a_host_that_probes_for_an_address_lives_and_has_none(player, scan):
    await player.say("0.0.0.0", A, kind="request", target=HOST)
    await eventually(lambda: scan.seen)
    assert scan.heard == {(A, None)}


async def test_lies_are_counted_and_believed_by_nobody(site, player, scan):
    counters = scan.engine.counters
    await player.play({HOST: A})
    await player.say(HOST, A, source=B, count=3)
    await player.say(HOST, site.mac(), count=2)
    await eventually(lambda: counters.forged == 5)
    await player.say("192.168.1.1", A)
    await player.say("10.77.0.255", A)
    await player.say("10.77.0.0", A)
    await eventually(lambda: counters.foreign == 3)
    await player.say(HOST, "01:00:5E:00:00:01")
    await player.say(HOST, "00:00:00:00:00:00")
    await eventually(lambda: counters.malformed == 2)
    assert scan.seen == []
    asking = asyncio.ensure_future(scan.ask(HOST))
    await eventually(lambda: counters.asked)
    await player.say(HOST, C, source=B, to=site.mac(), target="10.77.0.1")
    assert await asking == {A}
    assert counters.forged == 6


async def test_a_claim_to_the_pis_own_address_is_counted_and_told_once_a_minute(player, scan, capsys):
    await player.say("10.77.0.1", A, count=5)
    await player.say("10.77.0.1", B, kind="request", target=HOST)
    await eventually(lambda: scan.engine.counters.own_claimed == 6)
    assert scan.seen == []
    warnings = [line for line in capsys.readouterr().err.splitlines() if "claims this machine's address" in line]
    assert len(warnings) == 1
    assert A in warnings[0]


class Lag:
    """The longest time that the loop was held up, and the CPU that was used, during the block."""

    async def __aenter__(self):
        self.worst, self.cpu = 0.0, time.process_time()
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_):
        self.cpu = time.process_time() - self.cpu
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _tick(self):
        # CPU of this thread between two turns: waiting for a busy machine is nobody's fault.
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            await asyncio.sleep(0.0005)
            self.worst = max(self.worst, time.thread_time() - before)


async def test_ten_thousand_invented_macs_cost_a_bounded_amount_and_the_living_are_found(player, scan):
    hosts = many(60)
    await player.play(hosts)
    counters = scan.engine.counters
    async with Lag() as lag:
        began = time.monotonic()
        flood = asyncio.ensure_future(player.invent(10_000, "10.77.0.0/24", rate=20_000))
        await eventually(lambda: counters.unasked)
        # The player's orders go one by one and its answers too: it replies when the flood is over, unless it may.
        sweeps = [await scan.sweep() for _ in range(2)]
        await flood
        spent = time.monotonic() - began
    assert {mac for mac, address in scan.bound} == set(hosts.values())
    assert counters.answers == 120
    assert counters.unasked <= arp.UNASKED_PER_S * (1 + spent)
    assert len(scan.seen) == counters.unasked + counters.answers
    assert counters.missed > 5000
    assert lag.worst < 0.03
    assert max(sweeps) < 3


async def test_a_flood_is_left_to_the_kernel_while_nobody_waits_for_an_answer(player, scan):
    counters = scan.engine.counters
    async with Lag() as lag:
        spent = await player.invent(20_000, "10.77.0.0/24", rate=20_000)
    assert arp.UNASKED_PER_S <= counters.unasked <= arp.UNASKED_PER_S * (2 + spent)
    assert lag.cpu < 0.5 * spent
    await player.play({HOST: A})
    assert await scan.ask(HOST) == {A}, "it listens at once when it asks"
    before = counters.unasked
    await player.say(HOST, B)
    await eventually(lambda: counters.unasked > before)


async def has_carrier(scan):
    """The kernel takes a moment to notice that the other end is there again."""

    async def looked():
        return (await scan.link()).up

    await eventually(looked)


async def test_an_interface_that_goes_down_when_all_have_been_asked_ends_a_sweep_too(site, scan):
    sweep = asyncio.ensure_future(scan.sweep(HOST))
    await eventually(lambda: scan.engine.counters.asked == 2)
    site.down()
    with pytest.raises(OSError, match="Network is down"):
        await sweep


async def test_an_interface_that_goes_down_during_a_sweep_ends_it_and_one_that_comes_back_is_swept(site, player, scan):
    hosts = many(10)
    await player.play(hosts)
    before = descriptors()
    for _ in range(3):
        sweep = asyncio.ensure_future(scan.sweep())
        await eventually(lambda: scan.bound)
        site.down()
        with pytest.raises(OSError, match="Network is down"):
            await sweep
        with pytest.raises(OSError, match="Network is down"):
            await scan.sweep()
        site.up()
        await has_carrier(scan)
        scan.forget()
    await scan.sweep()
    assert scan.bound == {(mac, address) for address, mac in hosts.items()}
    assert descriptors() == before


async def test_an_interface_that_goes_away_ends_a_sweep_and_does_not_keep_the_loop_busy(site, scan):
    sweep = asyncio.ensure_future(scan.sweep())
    await eventually(lambda: scan.engine.counters.asked)
    site.unplug()
    with pytest.raises(OSError, match="Network is down|No such device"):
        await sweep
    cpu = time.process_time()
    await asyncio.sleep(0.3)
    assert time.process_time() - cpu < 0.1
    with pytest.raises(OSError, match="No such device"):
        await scan.sweep()
    with pytest.raises(OSError, match="No such device"):
        await scan.ask(HOST)
    site.pi.ip("link", "add", "other0", "type", "veth", "peer", "name", "other1")  # it comes back as another number
    site.plug(name="ap7")
    scan.interface = "ap7"
    await scan.open()
    async with site.player() as player:
        await player.play({HOST: A})
        await scan.sweep()
    assert scan.bound == {(A, HOST)}


async def test_an_interface_without_an_address_asks_as_one_that_probes(site, player, scan):
    site.remove_address()
    await scan.open()
    await player.play(many(5))
    await scan.sweep()
    assert len(scan.bound) == 5


async def test_a_sweep_can_be_cancelled_at_any_moment(player, scan):
    hosts = many(60)
    await player.play(hosts)
    await scan.sweep()
    before = descriptors()
    for milliseconds in (0, 1, 3, 7, 20, 50, 90, 140, 200):
        sweep = asyncio.ensure_future(scan.sweep())
        asking = asyncio.ensure_future(scan.ask(HOST))
        await asyncio.sleep(milliseconds / 1000)
        sweep.cancel()
        asking.cancel()
        await asyncio.wait([sweep, asking])
        assert sweep.cancelled()
        assert scan.engine._questions == {}
        assert scan.engine._sweep is None
    scan.forget()
    await scan.sweep()
    assert len(scan.bound) == 60
    assert descriptors() == before


async def test_closing_ends_a_sweep_and_may_be_done_twice_and_leaves_nothing_open(site):
    with inside(site.pi):
        before = descriptors()
        for _ in range(5):
            async with scanning(site, ArpEngine) as scan:
                sweep = asyncio.ensure_future(scan.sweep())
                await eventually(lambda scan=scan: scan.engine.counters.asked)
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
            async with scanning(_On(site, "lo"), ArpEngine):
                pass
        assert descriptors() == before


class _On:
    """The same Pi, by another interface."""

    def __init__(self, site, interface):
        self.pi, self.network, self.interface = site.pi, site.network, interface


async def test_of_two_interfaces_with_one_subnet_each_finds_its_own(site, player):
    site.pi.ip("link", "add", "ap1", "type", "veth", "peer", "name", "lan1", "netns", site.beyond.name)
    site.pi.ip("address", "add", "10.77.0.2/24", "dev", "ap1")
    site.pi.ip("link", "set", "ap1", "up")
    site.beyond.ip("link", "set", "lan1", "up")
    async with (
        Player(site.beyond, "lan1") as other,
        scanning(site, ArpEngine) as one,
        scanning(_On(site, "ap1"), ArpEngine) as two,
    ):
        await player.play({HOST: A})
        await other.play({HOST: B})
        await asyncio.gather(one.sweep(HOST), two.sweep(HOST))
        assert one.bound == {(A, HOST)}
        assert two.bound == {(B, HOST)}


async def test_two_sweeps_at_once_go_one_after_the_other(player, scan):
    await player.play(many(3))
    await asyncio.gather(scan.sweep(), scan.sweep())
    assert len(scan.bound) == 3
    assert scan.engine.counters.answers == 6


async def test_a_large_network_is_swept_in_one_go(tmp_path):
    async with (
        lan.opened(tmp_path, network="10.77.0.0/22", broker=False) as site,
        site.player() as player,
        scanning(site, ArpEngine) as scan,
    ):
        hosts = {str(site.network[4 * number + 2]): invented_mac(number) for number in range(250)}
        await player.play(hosts)
        took = await scan.sweep()
        assert scan.bound == {(mac, address) for address, mac in hosts.items()}
        assert took < 3


async def test_a_second_claimant_is_heard_even_when_nobody_else_is_waited_for(site, player, scan, monkeypatch):
    monkeypatch.setattr(arp, "LINGER_S", 1.0)
    async with site.player() as other:
        await player.play({HOST: A})
        await other.play({HOST: B})
        await other.behave(late=0.1)
        await scan.sweep(HOST)
    assert scan.bound == {(A, HOST), (B, HOST)}
    assert scan.engine.counters.asked == 1


async def test_who_answers_twice_is_told_once(player, scan):
    await player.play({HOST: [A, A, B, A]})
    assert await scan.ask(HOST) == {A, B}
    assert sorted(one.mac for one in scan.seen) == [A, B]
    assert scan.engine.counters.answers == 2


async def test_a_question_ends_the_rest_after_a_flood(player, scan, monkeypatch):
    monkeypatch.setattr(arp, "REST_S", 60)
    await player.play({HOST: A})
    await player.invent(3000, "10.77.0.0/24", rate=100_000)
    await eventually(lambda: scan.engine._resting)
    assert await scan.ask(HOST, within=1) == {A}


async def test_an_interface_that_has_become_another_is_refused(site):
    with inside(site.pi):
        scan = Scan(ArpEngine, network=site.network)
        link = await scan.link()
        before = descriptors()
        with pytest.raises(OSError, match="another interface"):
            await scan.engine.open(dataclasses.replace(link, index=link.index + 1), site.network)
        assert descriptors() == before
