"""Invented MACs in messages fill the waiting line; cameras that answer on the network go first."""

from tests.support import lan
from tests.support.discovery import run_scan
from tests.support.waiting import eventually

STATUS = "/api/v1/onboarding/auto/status"
INVENTED = 1500
SLOW = {"burst_size": 1, "max_per_minute": 12, "verification_timeout_sec": 1}


def publish_invented(broker):
    """One status message of each of many MACs that do not exist, from a host on the camera network."""
    import json

    from paho.mqtt import publish

    macs = [f"24:6F:29:{number >> 8:02X}:{number & 255:02X}:00" for number in range(INVENTED)]
    messages = [(f"camera/status/{mac}", json.dumps({"mac": mac, "ip": "10.77.0.240"}), 1, False) for mac in macs]
    publish.multiple(messages, hostname=broker)


async def test_invented_macs_do_not_delay_a_real_camera(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=2) as site,
        site.camera_player() as cameras,
        site.daemon(auto_onboard=SLOW, discovery={"interval_s": 3600}) as daemon,
    ):

        async def status():
            return (await daemon.api.get(STATUS)).data

        async def all_wait_or_are_dropped():
            shown = await status()
            return shown["waiting"] + shown["dropped"] + shown["metrics"]["attempts"] >= INVENTED

        await site.camera_ns.run(publish_invented, site.address)
        await eventually(all_wait_or_are_dropped, what="every invented MAC waits or is dropped")
        camera = site.cameras[0]
        await cameras.start(camera, interval=1)
        await run_scan(daemon)  # the camera answers ARP
        before = (await status())["metrics"]["attempts"]
        await daemon.logged("camera onboarded")
        after = await status()
        assert after["metrics"]["attempts"] - before < 10, "it waited behind no invented MAC"
        assert after["waiting_unproven"] > 400
        assert (await daemon.api.get(f"/api/v1/cameras/{camera.mac}")).data["status"] == "online"
