"""Sessions in a network namespace: a real mosquitto, the ARP engine, and a second claimant."""

from tests.support import lan
from tests.support.discovery import run_scan
from tests.support.process import patched
from tests.support.provisioning import BASE, FAST, NO_AUTO_ONBOARDING, SSID, Batch, allow, assert_secret_absent
from tests.support.waiting import eventually

SECTIONS = NO_AUTO_ONBOARDING | {"discovery": {"probe": False, "mdns": False, "interval_s": 5}}
TWO_FAILURES = patched("""
from functools import partial
from pi_orchestrator.features.provisioning import feature
feature.Circuits = partial(feature.Circuits, failures=2)
""")


async def test_batch_of_20_on_a_lan_is_verified(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=20) as site,
        site.camera_player() as cameras,
        site.daemon(**SECTIONS) as daemon,
    ):
        *healthy, moving = site.cameras
        address_before = moving.address
        await cameras.start(*healthy, interval=2)
        await cameras.start(moving, interval=2, fault="provision-moved")
        batch = Batch(site, daemon, site)
        await allow(daemon.admin, site.cameras)
        await batch.start(config=FAST)
        await run_scan(daemon)
        found = await batch.wait_for_cameras(20, within=20)
        assert {device["ip"] for device in found.values()} == {camera.address for camera in site.cameras}
        for device in found.values():
            assert -80 <= device["rssi"] <= -40
            assert (device["firmware_version"], device["in_allowlist"]) == ("2.4.1", True)
        assert (await batch.post("provision-all", json={})).data["initiated_count"] == 20
        session = await batch.wait_until_done(within=40)
        assert (session["verified_count"], session["failed_count"]) == (20, 0)
        found = await batch.devices()
        assert {mac: device["ip"] for mac, device in found.items()} == {c.mac: c.address for c in site.cameras}
        assert found[moving.mac]["ip"] != address_before
        records = await cameras.records()
        assert {record["requests"] for record in records.values()} == {1}
        assert {
            (sent["ssid"], len(record["provisioned"])) for record in records.values() for sent in record["provisioned"]
        } == {(SSID, 1)}
        assert (await daemon.admin.get(f"{BASE}/allowlist/stats")).data["used"] == 20
        assert (await batch.post("close")).data["session"]["state"] == "closed"
    assert_secret_absent(tmp_path)


async def test_only_devices_of_the_interface_join(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=3) as site,
        site.daemon(**SECTIONS) as daemon,
        site.camera_player() as cameras,
        site.player() as player,
    ):
        here, arp_only, _ = site.cameras
        batch = Batch(site, daemon, site)
        await allow(daemon.admin, site.cameras)
        # The broker is reachable from other networks too: this device reports an address of such a network.
        elsewhere = "24:6F:28:00:11:10"
        # A laptop answers ARP, but is no camera.
        await player.play({"10.77.0.200": "3C:22:FB:00:00:01"})
        await cameras.start(here, interval=1)
        await site.announce(elsewhere, "192.168.9.9", ssid="Elsewhere")
        await run_scan(daemon)
        await batch.start(network_interface="ap0")
        found = await wait_until_joined(batch, {here.mac, arp_only.mac, site.cameras[2].mac})
        assert elsewhere not in found
        assert "3C:22:FB:00:00:01" not in found
        assert found[here.mac]["firmware_version"] == "2.4.1"
        # Found by ARP only, so signal and firmware are unknown.
        assert (found[arp_only.mac]["rssi"], found[arp_only.mac]["firmware_version"]) == (0, "")
        await batch.post("close")
        await batch.start(network_interface="wlan9")
        await run_scan(daemon)
        assert await batch.devices() == {}


async def wait_until_joined(batch, macs):
    async def joined_devices():
        found = await batch.devices()
        return found if macs <= found.keys() else None

    return await eventually(joined_devices)


async def test_second_claimant_blocks_credentials(tmp_path):
    """It answers ARP for the addresses of two cameras, of which one answers, too. Neither camera gets a request."""
    async with (
        lan.opened(tmp_path, cameras=3) as site,
        site.daemon(**SECTIONS, launch_options={"command": TWO_FAILURES}) as daemon,
        site.camera_player() as cameras,
        site.player() as player,
    ):
        victim, healthy, silent = site.cameras
        impostor = "24:6F:28:66:66:60"
        await cameras.start(victim, healthy, silent, interval=1)
        batch = Batch(site, daemon, site)
        await allow(daemon.admin, site.cameras)
        await batch.start(config=FAST | {"provisioning_timeout_seconds": 5})
        await batch.wait_for_cameras(3)
        await player.play({victim.address: impostor, silent.address: impostor})
        site.disable_arp(silent)
        await run_scan(daemon)
        await batch.post("provision-all", json={})
        assert (await batch.wait_for_state(healthy.mac, "verified", "failed"))["state"] == "verified"
        for camera in (victim, silent):
            end = await batch.wait_for_state(camera.mac, "failed", "verified")
            assert (end["state"], end["error_code"]) == ("failed", "MAC_MISMATCH"), end
            assert impostor in end["error_message"]
        records = await cameras.records()
        sent_requests = {mac: record["requests"] for mac, record in records.items()}
        assert sent_requests == {victim.mac: 0, silent.mac: 0, healthy.mac: 1}
    assert_secret_absent(tmp_path)
