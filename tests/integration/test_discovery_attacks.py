"""Lies on the wire: forged and gratuitous ARP, floods, invented MACs, and addresses that no camera can have."""

import asyncio

from tests.bench.process import memory_mib
from tests.support import lan
from tests.support.discovery import device, devices, events, has_status, scanned
from tests.support.waiting import eventually

AUTO = "/api/v1/onboarding/auto"
WITHOUT_BROKER = {"broker_port": 9, "reported": False}
"""A camera that is on the network and serves HTTP, and finds no broker."""
QUIET = {"probe": False, "mdns": False}


async def registered(daemon, count):
    async def all_paired():
        return (await daemon.api.get("/api/v1/espcam/paired")).data["total"] == count

    await eventually(all_paired, within=20, what=f"{count} cameras are registered")


async def last_word(daemon, mac):
    """The last audit row of a camera, once there is one that ends an attempt."""

    async def told():
        rows = (await daemon.api.get(f"{AUTO}/events/{mac}")).data["events"]
        return rows and rows[0]["stage"] != "discovered" and rows[0]

    row = await eventually(told, within=15, what=f"{mac} is paired or refused")
    return row["stage"], row.get("error_code"), row.get("error_message", "")


async def test_ten_thousand_invented_macs_neither_fill_the_memory_nor_push_out_a_camera(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=8) as site,
        site.daemon(cameras={"max_devices": 500}, discovery=QUIET | {"interval_s": 5}) as daemon,
        site.player() as player,
        site.fleet(interval=2),
    ):
        await registered(daemon, 8)
        await scanned(daemon)
        before = memory_mib(daemon.pid)[0]
        for kind in ("reply", "request"):
            await player.invent(10_000, site.network, kind=kind, rate=5000)
        # And now they answer: every address belongs to another MAC at every scan.
        for scan in range(3):
            await player.play({f"10.77.0.{n}": f"24:6F:29:{scan:02X}:{n:02X}:00" for n in range(100, 250)})
            await scanned(daemon)
        known = await devices(daemon, limit=5000)
        assert len(known) <= 500 + 8
        assert {camera.mac for camera in site.cameras} <= known.keys()
        assert {known[camera.mac]["status"] for camera in site.cameras} == {"online"}
        assert {known[camera.mac]["ip_address"] for camera in site.cameras} == {
            camera.address for camera in site.cameras
        }
        assert memory_mib(daemon.pid)[0] - before < 12
        assert len(await events(site, "device.found")) <= 300 + 20, "what strangers cause on the card is bounded"
        async with asyncio.timeout(1):
            assert (await daemon.api.get("/health")).status == 200
        assert daemon.entries("worker failed") == []


async def test_a_gratuitous_flood_does_not_keep_a_scan_from_finding_everyone(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=20, broker=False) as site,
        site.daemon(connected=False, discovery=QUIET | {"interval_s": 3600}) as daemon,
        site.player() as player,
    ):
        flood = asyncio.create_task(player.invent(30_000, site.network, rate=10_000))
        try:
            scan = await scanned(daemon)
            if scan["found"] < 20:
                scan = await scanned(daemon)
        finally:
            await flood
        known = await devices(daemon)
        assert {camera.mac for camera in site.cameras} <= known.keys()
        assert scan["state"] == "done"


async def test_what_nobody_was_asked_is_believed_of_nobody(tmp_path):
    """A stranger's unasked word makes no device, and does not move one that is known."""
    async with (
        lan.opened(tmp_path, cameras=2, broker=False) as site,
        site.daemon(connected=False, discovery=QUIET | {"interval_s": 3600}) as daemon,
        site.player() as player,
    ):
        victim, other = site.cameras
        await scanned(daemon)
        stranger = "24:6F:28:EE:00:10"
        await player.say(victim.address, stranger, kind="reply", count=50, rate=500)
        await player.say("10.77.0.200", stranger, kind="request", target=site.address, count=5)
        await player.say("10.77.0.201", victim.mac, kind="reply", count=20)  # the victim's MAC somewhere else
        await player.say("10.77.0.202", "24:6F:28:EE:00:20", source=stranger, count=20)  # forged
        await scanned(daemon)
        known = await devices(daemon)
        assert known.keys() == {victim.mac, other.mac}
        assert known[victim.mac]["ip_addresses"] == [victim.address]
        assert known[victim.mac]["conflict"] == []


async def test_a_liar_that_answers_for_a_cameras_address_keeps_it_from_being_onboarded_by_him(tmp_path):
    async with lan.opened(tmp_path, cameras=1) as site, site.player() as player:
        (camera,) = site.cameras
        liar = "24:6F:28:EE:00:10"
        await player.play({camera.address: liar})
        async with site.camera_player() as cameras, site.daemon(discovery=QUIET) as daemon:
            await scanned(daemon)
            await site.announce(liar, camera.address)
            stage, code, why = await last_word(daemon, liar)
            assert (stage, code) == ("failed", "MAC_MISMATCH")
            assert camera.mac in why
            await cameras.start(camera, interval=1)
            stage, code, why = await last_word(daemon, camera.mac)
            assert (stage, code) == ("failed", "MAC_MISMATCH"), "whose address it is cannot be known"
            assert liar in why


async def test_the_announced_address_of_another_camera_is_a_mismatch(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=2) as site,
        site.camera_player() as cameras,
        site.daemon(discovery=QUIET) as daemon,
    ):
        honest, other = site.cameras
        await cameras.start(honest, interval=1)
        await registered(daemon, 1)
        await scanned(daemon)
        await site.announce(other.mac, honest.address)
        stage, code, why = await last_word(daemon, other.mac)
        assert (stage, code) == ("failed", "MAC_MISMATCH")
        assert honest.mac in why


async def test_addresses_that_no_camera_can_have_are_never_asked(tmp_path):
    async with lan.opened(tmp_path, cameras=1) as site, site.daemon(discovery=QUIET) as daemon:
        places = ("127.0.0.1", site.address, "10.77.0.0", "10.77.0.255", "169.254.169.254", "224.0.0.1", "192.0.2.1")
        for number, address in enumerate((*places, "::ffff:10.77.0.1", "localhost", "0x0a.77.0.10", "10.77.10")):
            mac = f"24:6F:28:0{number:X}:00:00"
            await site.announce(mac, address)
            stage, code, _ = await last_word(daemon, mac)
            assert (stage, code) == ("rejected_by_policy", "SUBNET_NOT_ALLOWED"), address


# Onboarding by what discovery knows.


async def test_a_camera_whose_message_gives_no_address_is_onboarded_where_discovery_knows_it(tmp_path):
    async with lan.opened(tmp_path, cameras=2) as site:
        known, unknown = site.cameras
        site.switch_off(unknown)
        async with site.camera_player() as cameras, site.daemon(discovery=QUIET) as daemon:
            await cameras.start(known, interval=30)
            await registered(daemon, 1)  # it told its address; now one that does not
            await site.announce(unknown.mac)
            assert (await last_word(daemon, unknown.mac))[:2] == ("failed", "NO_ADDRESS")
            site.switch_on(unknown)
            await cameras.start(unknown, **WITHOUT_BROKER)
            await scanned(daemon)
            await site.announce(unknown.mac)
            await registered(daemon, 2)
            paired = (await daemon.api.get(f"/api/v1/cameras/{unknown.mac}")).data
            assert paired["ip_address"] == unknown.address


async def test_a_camera_that_was_only_scanned_and_answers_is_onboarded_where_the_trigger_allows(tmp_path):
    async with lan.opened(tmp_path, cameras=2) as site:
        silent, nobody = site.cameras
        async with site.camera_player() as cameras:
            await cameras.start(silent, **WITHOUT_BROKER)
            async with site.daemon() as daemon:
                await eventually(lambda: _is_camera(daemon, silent), within=20)
                assert (await daemon.api.get("/api/v1/espcam/paired")).data["total"] == 0
                assert (await daemon.api.get(f"{AUTO}/events")).data["events"] == []
                listed = (await daemon.api.get("/api/v1/cameras")).data["cameras"]
                assert [(one["mac_address"], one["status"]) for one in listed] == [(silent.mac, "discovered")]
                await daemon.stop()
            async with site.daemon(auto_onboard={"triggers": ["mqtt", "scan"]}) as daemon:
                await registered(daemon, 1)
                (paired,) = (await daemon.api.get("/api/v1/espcam/paired")).data["cameras"]
                assert paired["mac_address"] == silent.mac
                assert await has_status(daemon, nobody.mac, "online")
                assert (await device(daemon, nobody))["is_camera"] is False
                sources = {one["source"] for one in (await device(daemon, silent))["evidence"]}
                assert sources == {"arp", "probe"}


async def _is_camera(daemon, camera):
    found = await device(daemon, camera)
    return found is not None and found["is_camera"]
