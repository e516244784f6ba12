"""Attacks: forged and gratuitous ARP, floods, fake MACs, and invalid camera addresses."""

import asyncio

from tests.bench.process import memory_mib
from tests.support import lan
from tests.support.discovery import device, devices, events, has_status, run_scan
from tests.support.waiting import HANG_S, eventually

AUTO = "/api/v1/onboarding/auto"
WITHOUT_BROKER = {"broker_port": 9, "reported": False}
"""A camera with HTTP but without a broker."""
SCANS_ONLY = {"probe": False, "mdns": False}


async def registered(daemon, count):
    async def all_paired():
        return (await daemon.api.get("/api/v1/espcam/paired")).data["total"] == count

    await eventually(all_paired, what=f"{count} cameras are registered")


async def last_onboarding_event(daemon, mac):
    """(stage, code, message) of a camera's last onboarding event, after its attempt has ended."""

    async def final_event():
        events = (await daemon.api.get(f"{AUTO}/events/{mac}")).data["events"]
        return events and events[0]["stage"] != "discovered" and events[0]

    event = await eventually(final_event, what=f"{mac} is paired or refused")
    return event["stage"], event.get("error_code"), event.get("error_message", "")


async def test_flood_of_macs_is_bounded_and_keeps_cameras(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=8) as site,
        site.daemon(cameras={"max_devices": 500}, discovery=SCANS_ONLY | {"interval_s": 5}) as daemon,
        site.player() as player,
        site.fleet(interval=2),
    ):
        await registered(daemon, 8)
        await run_scan(daemon)
        before = memory_mib(daemon.pid)[0]
        for kind in ("reply", "request"):
            await player.announce_macs(10_000, site.network, kind=kind, rate=5000)
        # Answers to every scan: each address belongs to another MAC each time.
        for scan in range(3):
            await player.play({f"10.77.0.{n}": f"24:6F:29:{scan:02X}:{n:02X}:00" for n in range(100, 250)})
            await run_scan(daemon)
        found = await devices(daemon, limit=5000)
        assert len(found) <= 500 + 8
        assert {camera.mac for camera in site.cameras} <= found.keys()
        assert {found[camera.mac]["status"] for camera in site.cameras} == {"online"}
        assert {found[camera.mac]["ip_address"] for camera in site.cameras} == {
            camera.address for camera in site.cameras
        }
        assert memory_mib(daemon.pid)[0] - before < 12
        assert len(await events(site, "device.found")) <= 300 + 20, "writes caused by unregistered devices are bounded"
        async with asyncio.timeout(HANG_S):
            assert (await daemon.api.get("/health")).status == 200
        assert daemon.entries("worker failed") == []


async def test_gratuitous_flood_does_not_disturb_scan(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=20, broker=False) as site,
        site.daemon(connected=False, discovery=SCANS_ONLY | {"interval_s": 3600}) as daemon,
        site.player() as player,
    ):
        flood = asyncio.create_task(player.announce_macs(30_000, site.network, rate=10_000))
        try:
            scan = await run_scan(daemon)
            if scan["found"] < 20:
                scan = await run_scan(daemon)
        finally:
            await flood
        found = await devices(daemon)
        assert {camera.mac for camera in site.cameras} <= found.keys()
        assert scan["state"] == "done"


async def test_unsolicited_frames_are_not_trusted(tmp_path):
    """An unsolicited frame adds no device and moves none."""
    async with (
        lan.opened(tmp_path, cameras=2, broker=False) as site,
        site.daemon(connected=False, discovery=SCANS_ONLY | {"interval_s": 3600}) as daemon,
        site.player() as player,
    ):
        victim, other = site.cameras
        await run_scan(daemon)
        forged_mac = "24:6F:28:EE:00:10"
        await player.send(victim.address, forged_mac, kind="reply", count=50, rate=500)
        await player.send("10.77.0.200", forged_mac, kind="request", target=site.address, count=5)
        await player.send("10.77.0.201", victim.mac, kind="reply", count=20)  # the victim's MAC at another address
        # The Ethernet header of this frame has another source MAC than its ARP part.
        await player.send("10.77.0.202", "24:6F:28:EE:00:20", source=forged_mac, count=20)
        await run_scan(daemon)
        found = await devices(daemon)
        assert found.keys() == {victim.mac, other.mac}
        assert found[victim.mac]["ip_addresses"] == [victim.address]
        assert found[victim.mac]["conflict"] == []


async def test_forged_address_prevents_onboarding(tmp_path):
    async with lan.opened(tmp_path, cameras=1) as site, site.player() as player:
        (camera,) = site.cameras
        forger = "24:6F:28:EE:00:10"
        await player.play({camera.address: forger})
        async with site.camera_player() as cameras, site.daemon(discovery=SCANS_ONLY) as daemon:
            await run_scan(daemon)
            await site.announce(forger, camera.address)
            stage, code, why = await last_onboarding_event(daemon, forger)
            assert (stage, code) == ("failed", "MAC_MISMATCH")
            assert camera.mac in why
            await cameras.start(camera, interval=1)
            stage, code, why = await last_onboarding_event(daemon, camera.mac)
            assert (stage, code) == ("failed", "MAC_MISMATCH"), "the holder of the address is ambiguous"
            assert forger in why


async def test_announced_address_of_other_camera_is_mismatch(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=1) as site,
        site.camera_player() as cameras,
        site.daemon(discovery=SCANS_ONLY) as daemon,
    ):
        (honest,) = site.cameras
        invented = "24:6F:28:EE:00:20"  # has no proven address, which would precede the announced one
        await cameras.start(honest, interval=1)
        await registered(daemon, 1)
        await run_scan(daemon)
        await site.announce(invented, honest.address)
        stage, code, why = await last_onboarding_event(daemon, invented)
        assert (stage, code) == ("failed", "MAC_MISMATCH")
        assert honest.mac in why


async def test_invalid_camera_addresses_are_not_probed(tmp_path):
    async with lan.opened(tmp_path, cameras=1) as site, site.daemon(discovery=SCANS_ONLY) as daemon:
        addresses = ("127.0.0.1", site.address, "10.77.0.0", "10.77.0.255", "169.254.169.254", "224.0.0.1", "192.0.2.1")
        for number, address in enumerate((*addresses, "::ffff:10.77.0.1", "localhost", "0x0a.77.0.10", "10.77.10")):
            mac = f"24:6F:28:0{number:X}:00:00"
            await site.announce(mac, address)
            stage, code, _ = await last_onboarding_event(daemon, mac)
            assert (stage, code) == ("rejected_by_policy", "SUBNET_NOT_ALLOWED"), address


# Onboarding by discovery.


async def test_camera_without_address_is_onboarded_by_discovery(tmp_path):
    async with lan.opened(tmp_path, cameras=2) as site:
        with_address, without_address = site.cameras
        site.switch_off(without_address)
        async with site.camera_player() as cameras, site.daemon(discovery=SCANS_ONLY) as daemon:
            await cameras.start(with_address, interval=30)
            await registered(daemon, 1)  # this camera published its address; the next one does not
            await site.announce(without_address.mac)
            assert (await last_onboarding_event(daemon, without_address.mac))[:2] == ("failed", "NO_ADDRESS")
            site.switch_on(without_address)
            await cameras.start(without_address, **WITHOUT_BROKER)
            await run_scan(daemon)
            await site.announce(without_address.mac)
            await registered(daemon, 2)
            paired = (await daemon.api.get(f"/api/v1/cameras/{without_address.mac}")).data
            assert paired["ip_address"] == without_address.address


async def test_scanned_camera_is_onboarded_only_with_scan_trigger(tmp_path):
    async with lan.opened(tmp_path, cameras=2) as site:
        silent, other = site.cameras
        async with site.camera_player() as cameras:
            await cameras.start(silent, **WITHOUT_BROKER)
            async with site.daemon() as daemon:
                await eventually(lambda: _is_camera(daemon, silent))
                assert (await daemon.api.get("/api/v1/espcam/paired")).data["total"] == 0
                assert (await daemon.api.get(f"{AUTO}/events")).data["events"] == []
                listed = (await daemon.api.get("/api/v1/cameras")).data["cameras"]
                assert [(entry["mac_address"], entry["status"]) for entry in listed] == [(silent.mac, "discovered")]
                await daemon.stop()
            async with site.daemon(auto_onboard={"triggers": ["mqtt", "scan"]}) as daemon:
                await registered(daemon, 1)
                (paired,) = (await daemon.api.get("/api/v1/espcam/paired")).data["cameras"]
                assert paired["mac_address"] == silent.mac
                assert await has_status(daemon, other.mac, "online")
                assert (await device(daemon, other))["is_camera"] is False
                sources = {entry["source"] for entry in (await device(daemon, silent))["evidence"]}
                assert sources == {"arp", "probe"}


async def _is_camera(daemon, camera):
    found = await device(daemon, camera)
    return found is not None and found["is_camera"]
