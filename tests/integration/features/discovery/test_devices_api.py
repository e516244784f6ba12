"""API of devices, scans and the camera network, without a real network."""

import asyncio

import pytest

from pi_orchestrator.settings import load
from tests.support.api import SCAN
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

SCANS = "/api/v1/espcam/scan"


@pytest.fixture
async def daemon_with_devices(rig):
    """A daemon that has seen one registered and one unregistered camera, by MQTT only."""
    async with rig.camera(1) as camera, rig.daemon() as running:
        await camera.publish_status(rssi_dbm=-61, firmware_version="2.4.1")
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await rig.announce(2, client=None)
        await eventually(lambda: running.app.devices.registry.get(rig.mac(2)))
        await eventually(lambda: running.app.devices.vendors.reason is None)  # the vendor table is loaded
        yield running


async def test_device_has_evidence_and_reason(daemon_with_devices, rig):
    shown = (await daemon_with_devices.api.get(f"/api/v1/devices/{rig.mac(1)}")).data
    assert (shown["status"], shown["registered"], shown["is_camera"]) == ("online", True, True)
    assert (shown["signal_strength"], shown["vendor"], shown["firmware_version"]) == (-61, "Espressif Inc.", "2.4.1")
    assert shown["why"].startswith("published on MQTT ")
    (evidence,) = shown["evidence"]
    assert (evidence["source"], evidence["proves_life"], evidence["signal_strength"]) == ("mqtt", True, -61)
    assert evidence["first_seen"] <= evidence["last_seen"] == shown["last_seen"]
    assert evidence["age_seconds"] < 10
    assert (shown["conflict"], shown["near"], shown["locally_administered"]) == ([], [], False)


@pytest.mark.parametrize("spelling", ["24-6F-28-00-00-10", "246f28000010", "24%3a6f%3A28:00:00:10"])
async def test_device_is_found_by_any_mac_spelling(daemon_with_devices, spelling):
    assert (await daemon_with_devices.api.get(f"/api/v1/devices/{spelling}")).data["mac_address"] == "24:6F:28:00:00:10"


async def test_unknown_device_is_not_found(daemon_with_devices):
    unknown = await daemon_with_devices.api.get("/api/v1/devices/24:6F:28:99:99:90")
    assert (unknown.status, unknown.json["code"]) == (404, "DEVICE_NOT_FOUND")
    for invalid in ("camera-1", "FF:FF:FF:FF:FF:FF", "00:00:00:00:00:00", "24:6F:28"):
        refused = await daemon_with_devices.api.get(f"/api/v1/devices/{invalid}")
        assert (refused.status, refused.json["code"]) == (400, "VALIDATION_FAILED"), invalid


async def test_list_is_sorted_and_filtered(daemon_with_devices, rig):
    listed = (await daemon_with_devices.api.get("/api/v1/devices")).data
    assert [device["mac_address"] for device in listed["devices"]] == [rig.mac(1), rig.mac(2)]
    assert listed["total"] == 2
    await rig.publish(f"camera/status/{rig.mac(2)}", {"mac": rig.mac(2), "state": "OFFLINE"})

    async def one_device_is_listed():
        present = (await daemon_with_devices.api.get("/api/v1/devices", params={"status": "here"})).data
        return [device["mac_address"] for device in present["devices"]] == [rig.mac(1)] and present["total"] == 1

    await eventually(one_device_is_listed)
    assert (await daemon_with_devices.api.get("/api/v1/devices", params={"limit": 1})).data["total"] == 2
    for invalid in ({"limit": 0}, {"limit": 5001}, {"status": "asleep"}):
        assert (await daemon_with_devices.api.get("/api/v1/devices", params=invalid)).status == 400


async def test_legacy_list_names_successor(daemon_with_devices):
    answer = await daemon_with_devices.api.get("/api/devices")
    assert answer.json.keys() == {"devices"}
    assert len(answer.json["devices"]) == 2
    assert answer.headers["Deprecation"] == "true"
    assert answer.headers["Link"] == '</api/v1/devices>; rel="successor-version"'
    assert "Deprecation" not in (await daemon_with_devices.api.get("/api/v1/devices")).headers


async def test_discovered_devices_include_state_of_every_source(daemon_with_devices):
    discovered = (await daemon_with_devices.api.get("/api/v1/espcam/discovered")).data
    states = {source["source"]: source["state"] for source in discovered["sources"]}
    assert states == {"scanner": "off", "stations": "off", "leases": "off", "mdns": "off", "probe": "off", "mqtt": "ok"}
    assert all(source["reason"] for source in discovered["sources"] if source["state"] == "off")
    assert discovered["total"] == len(discovered["devices"]) == 2


async def test_disabled_scan_is_refused_with_reason(rig, monkeypatch):
    monkeypatch.undo()  # the real scanner
    async with rig.daemon(connected=False) as running:
        refused = await running.api.post(SCANS)
        assert (refused.status, refused.json["code"]) == (503, "NETWORK_ERROR")
        assert "discovery.engine" in refused.json["error"]["message"]
        assert refused.json["error"]["retryable"] is True
        assert int(refused.headers["Retry-After"]) >= 1
        recorded = rig.rows("SELECT action, outcome FROM operator_actions WHERE action = 'scan.start'")
        assert recorded == [("scan.start", "NETWORK_ERROR")]


async def test_concurrent_clients_share_scan(daemon, rig):
    first, second = await asyncio.gather(daemon.api.post(SCANS), daemon.admin.post(SCANS))
    assert first.data["scan"]["id"] == second.data["scan"]["id"]
    scan = first.data["scan"]["id"]
    assert (await daemon.api.get(SCANS)).data["current"]["id"] == scan
    answers = await asyncio.gather(*(daemon.api.delete(f"{SCANS}/{scan}") for _ in range(3)))
    assert {answer.data["scan"]["state"] for answer in answers} == {"cancelled"}
    assert rig.rows("SELECT state, count(*) FROM scans WHERE id = ? GROUP BY state", scan) == [("cancelled", 1)]
    assert "current" not in (await daemon.api.get(SCANS)).data
    again = await daemon.api.post(SCANS)
    assert again.data["scan"]["id"] != scan


@pytest.mark.parametrize("odd", ["x" * 65, "a b", "%00", "..", "é", "1;2"])
async def test_invalid_scan_id_is_refused(daemon, odd):
    assert (await daemon.api.get(f"{SCANS}/{odd}")).status in (400, 404)
    assert (await daemon.api.delete(f"{SCANS}/{odd}")).status in (400, 404)


async def test_history_is_paged(daemon):
    page = (await daemon.api.get(SCANS, params={"limit": 1, "offset": 0})).data
    assert [scan["id"] for scan in page["scans"]] == [SCAN]
    assert page["pagination"] == {"total": 1, "limit": 1, "offset": 0, "has_more": False}
    assert (await daemon.api.get(SCANS, params={"offset": 1})).data["scans"] == []
    assert (await daemon.api.get(SCANS, params={"limit": 101})).status == 400


async def test_network_route_needs_key_and_ssid_may_be_empty(daemon):
    for path in ("/api/v1/provisioning/batch/network", "/api/v1/provisioning/network/status"):
        assert (await daemon.api.get(path)).status == 401
        network = (await daemon.admin.get(path)).data
        assert network.keys() == {"interface", "ssid", "connected", "is_active", "connected_devices"}
        assert (network["interface"], network["ssid"]) == ("lo", "")


def test_network_name_is_bounded():
    from pi_orchestrator.core.errors import SettingsError

    with pytest.raises(SettingsError):
        load(environ={}, flags={"ap": {"ssid": "x" * 33}})
