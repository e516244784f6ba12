"""Checks of the simulated LAN that other tests use."""

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path

import pytest

from tests.support import lan
from tests.support.arp_player import BROADCAST, ETH_P_ARP, SO_RCVBUFFORCE, Arp, invented_mac
from tests.support.fork_server import forked_processes
from tests.support.waiting import eventually

PLAYED = "24:6F:28:EE:00:{:02X}"


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, cameras=60, broker=False) as site:
        yield site


@pytest.mark.parametrize("count, network", [(60, "10.77.0.0/24"), (250, "10.77.0.0/23")])
async def test_each_address_has_one_mac(tmp_path, count, network):
    async with lan.opened(tmp_path, cameras=count, network=network, broker=False) as site:
        expected = {camera.address: {camera.mac} for camera in site.cameras}
        assert len(expected) == count
        unused = str(site.network[-2])
        assert await site.arp_request(*expected, unused, within=1) == expected | {unused: set()}


async def test_camera_frames_have_its_own_mac(tmp_path):
    async with lan.opened(tmp_path, cameras=60) as site, site.fleet(interval=1):
        # Each address has contacted the broker, so the kernel has an ARP entry for each.
        neighbours = site.neighbours()
        assert {camera.address: neighbours[camera.address][0] for camera in site.cameras} == {
            camera.address: camera.mac for camera in site.cameras
        }
        async with site.pi.session() as session:
            for camera in site.cameras[::20]:
                async with session.get(f"http://{camera.address}/status") as answer:
                    assert (await answer.json())["mac"] == camera.mac


async def test_swapped_cameras_report_new_addresses(tmp_path):
    async with lan.opened(tmp_path, cameras=2) as site, site.camera_player() as cameras:
        first, second = site.cameras
        await cameras.start(first, second)
        await cameras.stop(first)
        await cameras.cut_power(second)
        site.swap(first, second)
        await cameras.start(first, second)
        async with site.pi.session() as session:
            for camera in (first, second):
                async with session.get(f"http://{camera.address}/status") as answer:
                    assert (await answer.json())["mac"] == camera.mac
                assert site.neighbours()[camera.address][0] == camera.mac


@pytest.mark.parametrize("unprivileged", [False, True])
async def test_daemon_in_namespace_pairs_all_cameras(tmp_path, unprivileged):
    async with lan.opened(tmp_path, cameras=20) as site, site.daemon(unprivileged=unprivileged) as daemon, site.fleet():
        capabilities = Path(f"/proc/{daemon.pid}/status").read_text().split("CapEff:")[1].split()[0]
        assert (int(capabilities, 16) == 0) is unprivileged

        async def all_are_online():
            return len((await daemon.api.get("/api/v1/cameras")).data["cameras"]) == 20

        await eventually(all_are_online)
        assert (await site.admin.get("/api/v1/keys")).status == 200


async def test_sleeping_and_mute_cameras_do_not_answer_arp(site):
    asleep, mute, off, awake = site.cameras[:4]
    await site.block_broadcasts(asleep)
    site.disable_arp(mute)
    site.switch_off(off)
    addresses = [camera.address for camera in site.cameras[:4]]
    silent = {camera.address: set() for camera in (asleep, mute, off)}
    assert await site.arp_request(*addresses) == silent | {awake.address: {awake.mac}}
    # IP still works: the sleeping camera resolves the Pi, and the Pi need not resolve the mute camera.
    for camera in (asleep, mute):
        assert await site.camera_ns.run(_can_reach, camera.address, site)
    site.unblock_broadcasts(asleep)
    site.switch_on(off)
    assert (await site.arp_request(*addresses))[asleep.address] == {asleep.mac}
    assert await site.camera_ns.run(_can_reach, off.address, site)


async def test_addresses_swap_and_move(site):
    first, second, third = site.cameras[:3]
    before = first.address, second.address, third.address
    site.swap(first, second)
    site.move(third, "10.77.0.240")
    expected = {before[0]: {second.mac}, before[1]: {first.mac}, before[2]: set(), "10.77.0.240": {third.mac}}
    assert await site.arp_request(*expected) == expected
    for camera in (first, second, third):
        assert await site.camera_ns.run(_can_reach, camera.address, site)
        assert site.neighbours()[camera.address][0] == camera.mac


async def test_interface_can_be_removed_and_restored(site):
    camera = site.cameras[5]
    answered = {camera.address: {camera.mac}}
    index = site.pi.ip("link", "show", "ap0").split(":")[0]
    site.down()
    site.up()
    site.remove_address()
    assert "10.77.0.1" not in site.pi.ip("address")
    site.set_address()
    assert await site.arp_request(camera.address) == answered
    site.unplug()
    assert "ap0" not in site.pi.ip("link")
    site.plug()
    assert site.pi.ip("link", "show", "ap0").split(":")[0] != index
    site.rename("ap7")
    assert await site.arp_request(camera.address) == answered


async def test_player_answers_as_configured(site):
    camera = site.cameras[0]
    async with site.player() as player:
        late, skipping, ignoring, double, left = (f"10.77.0.{number}" for number in range(200, 205))
        hosts = {address: PLAYED.format(number) for number, address in enumerate((late, skipping, ignoring, left))}
        await player.play(hosts | {double: [PLAYED.format(10), PLAYED.format(11)]})
        await player.leave(left)
        await player.set_behaviour(late, late=0.4)
        await player.set_behaviour(skipping, skip=1)
        await player.set_behaviour(ignoring, ignore=1.0)
        addresses = (camera.address, late, skipping, ignoring, double, left)
        both = {PLAYED.format(10), PLAYED.format(11)}
        silent = dict.fromkeys((late, skipping, ignoring, left), set())
        assert await site.arp_request(*addresses) == silent | {camera.address: {camera.mac}, double: both}

        async def late_reply_sent():
            return (await player.replies()).get(late) == 1

        await eventually(late_reply_sent)
        await player.swap(skipping, late)
        await player.set_behaviour()
        expected = {skipping: {hosts[late]}, late: {hosts[skipping]}}
        assert await site.arp_request(late, skipping) == expected
        seen = await player.requests(forget=True)
        assert {address: len(requests) for address, requests in seen.items()} == dict.fromkeys(addresses, 1) | {
            late: 2,
            skipping: 2,
        }
        assert all(to_everyone for requests in seen.values() for _, to_everyone in requests)
        assert await player.requests() == {}


async def test_player_ignores_some_requests(site):
    async with site.player() as player:
        addresses = [f"10.77.0.{number}" for number in range(100, 250)]
        await player.play({address: PLAYED.format(number) for number, address in enumerate(addresses)})
        await player.set_behaviour(ignore=0.3)
        found = await site.arp_request(*addresses)
        assert 0.55 < sum(map(bool, found.values())) / len(addresses) < 0.85


async def test_player_forges_and_floods(site):
    async with site.player() as player, _capture_arp(site) as frames:
        await player.send(site.address, PLAYED.format(1), source=PLAYED.format(2), count=5)
        await player.send("10.77.0.9", PLAYED.format(3), kind="request", target=site.address)
        await eventually(lambda: len(frames) >= 6)
        assert {(arp.op, arp.source, arp.sender, arp.sender_ip, arp.target_ip, arp.to) for arp in frames} == {
            (2, PLAYED.format(2), PLAYED.format(1), site.address, site.address, BROADCAST),
            (1, PLAYED.format(3), PLAYED.format(3), "10.77.0.9", site.address, BROADCAST),
        }
        assert site.neighbours()["10.77.0.9"][0] == PLAYED.format(3)
        frames.clear()
        duration = await player.announce_macs(10_000, site.network, rate=10_000)
        assert duration > 0.9
        await eventually(lambda: len(frames) >= 10_000)
        assert {arp.sender for arp in frames} == {invented_mac(number) for number in range(10_000)}


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_lan_cleans_up(tmp_path, ending):
    names, before = set(), _children()

    async def sample_test():
        async with lan.opened(tmp_path, cameras=3) as site, site.player(), site.fleet(), site.daemon():
            names.update((site.pi.name, site.camera_ns.name))
            assert names <= _namespaces()
            if ending == "failed":
                raise KeyError
            await asyncio.Event().wait()

    task = asyncio.create_task(sample_test())
    if ending == "cancelled":
        await eventually(lambda: names)
        task.cancel()
    await asyncio.wait([task])
    assert isinstance(task.exception(), KeyError) if ending == "failed" else task.cancelled()
    assert not names & _namespaces()
    assert _children() == before


def _can_reach(address, site):
    """Whether a TCP connection from this address reaches the Pi, which refuses it."""
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.bind((address, 0))
        return sock.connect_ex((site.address, 9)) == errno.ECONNREFUSED


@contextlib.asynccontextmanager
async def _capture_arp(site):
    """All ARP frames that the Pi receives, as a growing list."""
    frames = []

    def read():
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(Arp.parse(sock.recv(2048)))

    with site.pi.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        sock.bind((site.interface, ETH_P_ARP))
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock, read)
        yield frames
        asyncio.get_running_loop().remove_reader(sock)


def _namespaces():
    return {file.name for file in Path("/run/netns").iterdir()}


def _children():
    forked = forked_processes()  # first: it may start the server
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split() + forked
