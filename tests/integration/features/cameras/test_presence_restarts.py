"""Cameras that restart again and again are shown as unstable, even if they answer ARP all the time."""

from tests.support import lan
from tests.support.discovery import device, events, run_scan
from tests.support.waiting import eventually


async def test_restarts_of_camera_seen_by_arp_are_shown(tmp_path):
    """Seven restarts of a camera that answers ARP: last will, then a first message with a small uptime."""
    async with (
        lan.opened(tmp_path, cameras=2) as site,
        site.camera_player() as cameras,
        site.daemon(discovery={"interval_s": 3600}) as daemon,
    ):
        camera, steady = site.cameras
        await cameras.start(camera, steady, interval=3600)

        async def registered():
            return (await daemon.api.get("/api/v1/espcam/paired")).data["total"] == 2

        await eventually(registered)
        await run_scan(daemon)
        for _ in range(7):
            await site.announce(camera.mac, camera.address, state="OFFLINE")
            await site.announce(camera.mac, camera.address, uptime=0)

        async def last_error():
            shown = (await daemon.api.get(f"/api/v1/cameras/{camera.mac}")).data
            return (shown["status"], shown["health"].get("last_error"))

        expected = ("error", "unstable: it restarted 7 times in the last minute")
        await eventually(lambda: _equals(last_error, expected), what="7 restarts are shown")
        why = (await device(daemon, camera))["why"]
        assert why.startswith("it restarted 7 times in the last minute; ")
        assert "answered ARP" in why
        assert (await daemon.api.get(f"/api/v1/cameras/{steady.mac}")).data["status"] == "online"
        assert "piorch_device_restarts_total 7.0" in (await daemon.api.get("/metrics")).body.decode()
        (event,) = await eventually(lambda: events(site, "device.flapping"))
        assert event["mac"] == camera.mac
        assert event["reason"].startswith("restarted ")


async def _equals(read, expected):
    return await read() == expected


async def test_sandbox_boot_loop_is_unstable(rig):
    async with rig.fleet(2, faults=["boot-loop"]) as fleet, rig.daemon() as running:
        steady, looping = fleet.cameras

        async def is_unstable():
            shown = await running.camera(looping.mac)
            return shown and shown["status"] == "error" and shown["health"]["last_error"]

        assert (await eventually(is_unstable)).startswith("unstable: it restarted ")
        assert (await running.camera(steady.mac))["status"] != "error"
        assert await running.metric('piorch_devices{status="flapping"}') == 1
