"""Cameras that share a device id, and a client that publishes as a camera before the camera does, with real ARP."""

from tests.support import lan
from tests.support.discovery import device, events
from tests.support.waiting import eventually

CAMERAS = "/api/v1/cameras"


async def test_lan_cameras_with_one_id_are_kept_apart(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=2) as site,
        site.daemon(cameras={"capture_cache_s": 0}) as daemon,
        site.camera_player() as player,
    ):
        first, second = site.cameras
        await player.start(first, second, fault="shared-id", reboot_s=0.2)

        async def both_have_id_conflict():
            found = [await device(daemon, camera) for camera in (first, second)]
            return all(entry and entry["registered"] and entry["id_conflict"] for entry in found)

        await eventually(both_have_id_conflict)
        for camera in (first, second):
            answer = await daemon.api.post(f"{CAMERAS}/{camera.mac}/capture")
            assert (answer.status, answer.headers["X-Capture-Source"]) == (200, "http")
        assert (await daemon.api.post(f"{CAMERAS}/{first.mac}/reboot")).status == 200
        await eventually(lambda: ("rebooting", first.mac) in [(e["event"], e["mac"]) for e in site.events])
        assert ("rebooting", second.mac) not in [(e["event"], e["mac"]) for e in site.events]
        (conflict,) = await eventually(lambda: events(site, "device.id_conflict"))
        assert conflict["macs"] == sorted([first.mac, second.mac])


async def test_lan_first_publisher_is_not_the_camera(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=2) as site,
        site.daemon(cameras={"capture_cache_s": 0}) as daemon,
        site.camera_player() as player,
    ):
        victim, attacker = site.cameras
        await site.publish("camera/status/evil-1", {"mac": victim.mac, "device_id": "evil-1", "ip": attacker.address})
        await player.start(attacker)
        await player.start(victim)

        async def is_registered():
            entry = await device(daemon, victim)
            return entry and entry["registered"]

        await eventually(is_registered)
        camera = (await daemon.api.get(f"{CAMERAS}/{victim.mac}")).data
        assert (camera["ip_address"], camera["device_id"]) == (
            victim.address,
            f"espcam-{victim.mac.replace(':', '').lower()[-6:]}",
        )

        async def captured_by_mqtt():
            answer = await daemon.api.post(f"{CAMERAS}/{victim.mac}/capture")
            return answer.status == 200 and answer.headers["X-Capture-Source"] == "mqtt"

        await eventually(captured_by_mqtt)
