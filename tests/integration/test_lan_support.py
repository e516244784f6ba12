"""The network that other tests stand on: what they take for granted is proven here."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest

from tests.support import lan
from tests.support.arp_player import BROADCAST, ETH_P_ARP, SO_RCVBUFFORCE, Arp, invented_mac
from tests.support.waiting import eventually

PLAYED = "24:6F:28:EE:00:{:02X}"


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, cameras=60, broker=False) as site:
        yield site


@pytest.mark.parametrize("count, network", [(60, "10.77.0.0/24"), (250, "10.77.0.0/23")])
async def test_each_address_is_answered_for_by_its_own_mac_alone(tmp_path, count, network):
    async with lan.opened(tmp_path, cameras=count, network=network, broker=False) as site:
        expected = {camera.address: {camera.mac} for camera in site.cameras}
        assert len(expected) == count
        nobody = str(site.network[-2])
        assert await site.who_has(*expected, nobody, within=1) == expected | {nobody: set()}


async def test_what_a_simulated_camera_sends_leaves_with_its_own_mac(tmp_path):
    async with lan.opened(tmp_path, cameras=60) as site, site.fleet(interval=1):
        # The broker has been spoken to from each address: the kernel has asked back, or was asked, for every one.
        known = site.neighbours()
        assert {camera.address: known[camera.address][0] for camera in site.cameras} == {
            camera.address: camera.mac for camera in site.cameras
        }
        async with site.pi.session() as session:
            for camera in site.cameras[::20]:
                async with session.get(f"http://{camera.address}/status") as answer:
                    assert (await answer.json())["mac"] == camera.mac


async def test_cameras_swap_addresses_and_say_so(tmp_path):
    async with lan.opened(tmp_path, cameras=2) as site, site.camera_player() as cameras:
        one, other = site.cameras
        await cameras.start(one, other)
        await cameras.stop(one)
        await cameras.die(other)
        site.swap(one, other)
        await cameras.start(one, other)
        async with site.pi.session() as session:
            for camera in (one, other):
                async with session.get(f"http://{camera.address}/status") as answer:
                    assert (await answer.json())["mac"] == camera.mac
                assert site.neighbours()[camera.address][0] == camera.mac


@pytest.mark.parametrize("powerless", [False, True])
async def test_the_daemon_in_there_pairs_every_camera(tmp_path, powerless):
    async with lan.opened(tmp_path, cameras=20) as site, site.daemon(powerless=powerless) as daemon, site.fleet():
        capabilities = Path(f"/proc/{daemon.pid}/status").read_text().split("CapEff:")[1].split()[0]
        assert (int(capabilities, 16) == 0) is powerless

        async def all_are_online():
            return len((await daemon.api.get("/api/v1/cameras")).data["cameras"]) == 20

        await eventually(all_are_online)
        assert (await site.admin.get("/api/v1/keys")).status == 200


async def test_a_sleeping_camera_hears_no_broadcast_and_a_mute_one_no_request(site):
    asleep, mute, off, awake = site.cameras[:4]
    await site.put_to_sleep(asleep)
    site.make_mute(mute)
    site.switch_off(off)
    addresses = [camera.address for camera in site.cameras[:4]]
    silent = {camera.address: set() for camera in (asleep, mute, off)}
    assert await site.who_has(*addresses) == silent | {awake.address: {awake.mac}}
    # IP goes on: the sleeping one asks the Pi itself, and the Pi need not ask the mute one.
    for camera in (asleep, mute):
        assert await site.beyond.run(_reaches, camera.address, site)
    site.wake(asleep)
    site.switch_on(off)
    assert (await site.who_has(*addresses))[asleep.address] == {asleep.mac}
    assert await site.beyond.run(_reaches, off.address, site)


async def test_addresses_are_swapped_and_moved(site):
    one, other, third = site.cameras[:3]
    before = one.address, other.address, third.address
    site.swap(one, other)
    site.move(third, "10.77.0.240")
    expected = {before[0]: {other.mac}, before[1]: {one.mac}, before[2]: set(), "10.77.0.240": {third.mac}}
    assert await site.who_has(*expected) == expected
    for camera in (one, other, third):
        assert await site.beyond.run(_reaches, camera.address, site)
        assert site.neighbours()[camera.address][0] == camera.mac


async def test_the_interface_goes_and_comes(site):
    camera = site.cameras[5]
    answered = {camera.address: {camera.mac}}
    index = site.pi.ip("link", "show", "ap0").split(":")[0]
    site.down()
    site.up()
    site.remove_address()
    assert "10.77.0.1" not in site.pi.ip("address")
    site.set_address()
    assert await site.who_has(camera.address) == answered
    site.unplug()
    assert "ap0" not in site.pi.ip("link")
    site.plug()
    assert site.pi.ip("link", "show", "ap0").split(":")[0] != index
    site.rename("ap7")
    assert await site.who_has(camera.address) == answered


async def test_the_player_answers_as_it_is_told(site):
    camera = site.cameras[0]
    async with site.player() as player:
        late, skipping, deaf, double, gone = (f"10.77.0.{number}" for number in range(200, 205))
        hosts = {address: PLAYED.format(number) for number, address in enumerate((late, skipping, deaf, gone))}
        await player.play(hosts | {double: [PLAYED.format(10), PLAYED.format(11)]})
        await player.leave(gone)
        await player.behave(late, late=0.4)
        await player.behave(skipping, skip=1)
        await player.behave(deaf, ignore=1.0)
        wanted = (camera.address, late, skipping, deaf, double, gone)
        both = {PLAYED.format(10), PLAYED.format(11)}
        nobody = dict.fromkeys((late, skipping, deaf, gone), set())
        assert await site.who_has(*wanted) == nobody | {camera.address: {camera.mac}, double: both}

        async def it_has_answered():
            return (await player.replies()).get(late) == 1

        await eventually(it_has_answered)
        await player.swap(skipping, late)
        await player.behave()
        expected = {skipping: {hosts[late]}, late: {hosts[skipping]}}
        assert await site.who_has(late, skipping) == expected
        seen = await player.requests(forget=True)
        assert {address: len(requests) for address, requests in seen.items()} == dict.fromkeys(wanted, 1) | {
            late: 2,
            skipping: 2,
        }
        assert all(to_everyone for requests in seen.values() for _, to_everyone in requests)
        assert await player.requests() == {}


async def test_the_player_loses_a_share_of_requests(site):
    async with site.player() as player:
        addresses = [f"10.77.0.{number}" for number in range(100, 250)]
        await player.play({address: PLAYED.format(number) for number, address in enumerate(addresses)})
        await player.behave(ignore=0.3)
        found = await site.who_has(*addresses)
        assert 0.55 < sum(map(bool, found.values())) / len(addresses) < 0.85


async def test_the_player_lies_and_shouts(site):
    async with site.player() as player, _listening(site) as heard:
        await player.say(site.address, PLAYED.format(1), source=PLAYED.format(2), count=5)
        await player.say("10.77.0.9", PLAYED.format(3), kind="request", target=site.address)
        await eventually(lambda: len(heard) >= 6)
        assert {(arp.op, arp.source, arp.sender, arp.sender_ip, arp.target_ip, arp.to) for arp in heard} == {
            (2, PLAYED.format(2), PLAYED.format(1), site.address, site.address, BROADCAST),
            (1, PLAYED.format(3), PLAYED.format(3), "10.77.0.9", site.address, BROADCAST),
        }
        assert site.neighbours()["10.77.0.9"][0] == PLAYED.format(3)
        heard.clear()
        took = await player.invent(10_000, site.network, rate=10_000)
        assert 0.9 < took < 3
        await eventually(lambda: len(heard) >= 10_000)
        assert {arp.sender for arp in heard} == {invented_mac(number) for number in range(10_000)}


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_nothing_is_left_behind(tmp_path, ending):
    names, before = set(), _children()

    async def some_test():
        async with lan.opened(tmp_path, cameras=3) as site, site.player(), site.fleet(), site.daemon():
            names.update((site.pi.name, site.beyond.name))
            assert names <= _namespaces()
            if ending == "failed":
                raise KeyError
            await asyncio.Event().wait()

    task = asyncio.create_task(some_test())
    if ending == "cancelled":
        await eventually(lambda: names)
        task.cancel()
    await asyncio.wait([task])
    assert isinstance(task.exception(), KeyError) if ending == "failed" else task.cancelled()
    assert not names & _namespaces()
    assert _children() == before


def _reaches(address, site):
    """Whether a TCP connection from this address gets as far as the Pi, which refuses it."""
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.bind((address, 0))
        return sock.connect_ex((site.address, 9)) == 111


@contextlib.asynccontextmanager
async def _listening(site):
    """Every ARP frame that comes to the Pi, as a growing list."""
    heard = []

    def read():
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(Arp.parse(sock.recv(2048)))

    with site.pi.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        sock.bind((site.interface, ETH_P_ARP))
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock, read)
        yield heard
        asyncio.get_running_loop().remove_reader(sock)


def _namespaces():
    return {file.name for file in Path("/run/netns").iterdir()}


def _children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
