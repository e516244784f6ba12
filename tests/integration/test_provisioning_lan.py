"""A session on a network of its own: a namespace, a real mosquitto, the ARP engine, and a liar on the cable."""

from tests.support import lan
from tests.support.discovery import scanned
from tests.support.provisioning import BASE, FAST, QUIET, SSID, Batch, allow, assert_nowhere
from tests.support.waiting import eventually

SECTIONS = QUIET | {"discovery": {"probe": False, "mdns": False, "interval_s": 5}}


async def test_in_a_namespace_twenty_go_from_start_to_all_verified_and_one_of_them_moves(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=20) as site,
        site.camera_player() as cameras,
        site.daemon(**SECTIONS) as daemon,
    ):
        *well, moving = site.cameras
        first = moving.address
        await cameras.start(*well, interval=2)
        await cameras.start(moving, interval=2, fault="provision-moved")
        batch = Batch(site, daemon, site)
        await allow(daemon.admin, site.cameras)
        await batch.start(config=FAST)
        await scanned(daemon)
        found = await batch.joined(20, within=20)
        assert {one["ip"] for one in found.values()} == {camera.address for camera in site.cameras}
        for one in found.values():
            assert -80 <= one["rssi"] <= -40
            assert (one["firmware_version"], one["in_allowlist"]) == ("2.4.1", True)
        assert (await batch.post("provision-all", json={})).data["initiated_count"] == 20
        session = await batch.until_done(within=40)
        assert (session["verified_count"], session["failed_count"]) == (20, 0)
        found = await batch.devices()
        assert {mac: one["ip"] for mac, one in found.items()} == {c.mac: c.address for c in site.cameras}
        assert found[moving.mac]["ip"] != first
        records = await cameras.records()
        assert {record["requests"] for record in records.values()} == {1}
        assert {
            (one["ssid"], len(record["provisioned"])) for record in records.values() for one in record["provisioned"]
        } == {(SSID, 1)}
        assert (await daemon.admin.get(f"{BASE}/allowlist/stats")).data["used"] == 20
        assert (await batch.post("close")).data["session"]["state"] == "closed"
    assert_nowhere(tmp_path)


async def test_in_a_namespace_only_what_is_seen_on_the_session_s_interface_joins(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=3) as site,
        site.daemon(**SECTIONS) as daemon,
        site.camera_player() as cameras,
        site.player() as player,
    ):
        here, quiet, _ = site.cameras
        batch = Batch(site, daemon, site)
        await allow(daemon.admin, site.cameras)
        # A broker can be reached from anywhere: one speaks from an address of another network.
        elsewhere = "24:6F:28:00:11:10"
        # A laptop answers ARP like everyone, and is no camera.
        await player.play({"10.77.0.200": "3C:22:FB:00:00:01"})
        await cameras.start(here, interval=1)
        await site.announce(elsewhere, "192.168.9.9", ssid="Elsewhere")
        await scanned(daemon)
        await batch.start(network_interface="ap0")
        found = await eventually_joined(batch, {here.mac, quiet.mac, site.cameras[2].mac})
        assert elsewhere not in found
        assert "3C:22:FB:00:00:01" not in found
        assert found[here.mac]["firmware_version"] == "2.4.1"
        # Found by its answer to ARP alone, nothing is known of its radio or firmware.
        assert (found[quiet.mac]["rssi"], found[quiet.mac]["firmware_version"]) == (0, "")
        await batch.post("close")
        await batch.start(network_interface="wlan9")
        await scanned(daemon)
        assert await batch.devices() == {}


async def eventually_joined(batch, macs):
    async def there():
        found = await batch.devices()
        return found if macs <= found.keys() else None

    return await eventually(there, within=15)


async def test_in_a_namespace_a_liar_for_a_candidate_s_address_keeps_it_from_getting_credentials(tmp_path):
    """It answers ARP for a camera's address beside the camera, and then alone: nothing is sent, to nobody."""
    async with (
        lan.opened(tmp_path, cameras=3) as site,
        site.daemon(**SECTIONS | {"provisioning": {"breaker_failures": 2}}) as daemon,
        site.camera_player() as cameras,
        site.player() as player,
    ):
        victim, healthy, silent = site.cameras
        liar = "24:6F:28:66:66:60"
        await cameras.start(victim, healthy, silent, interval=1)
        batch = Batch(site, daemon, site)
        await allow(daemon.admin, site.cameras)
        await batch.start(config=FAST | {"provisioning_timeout_seconds": 5})
        await batch.joined(3)
        await player.play({victim.address: liar, silent.address: liar})
        site.make_mute(silent)
        await scanned(daemon)
        await batch.post("provision-all", json={})
        assert (await batch.until(healthy.mac, "verified", "failed"))["state"] == "verified"
        for camera in (victim, silent):
            end = await batch.until(camera.mac, "failed", "verified")
            assert (end["state"], end["error_code"]) == ("failed", "MAC_MISMATCH"), end
            assert liar in end["error_message"]
        records = await cameras.records()
        asked = {mac: record["requests"] for mac, record in records.items()}
        assert asked == {victim.mac: 0, silent.mac: 0, healthy.mac: 1}
    assert_nowhere(tmp_path)
