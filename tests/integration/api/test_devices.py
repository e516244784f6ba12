"""Devices, scans and the camera network over the API; what networks do to them is tested on networks."""

import asyncio

import pytest

from pi_orchestrator.settings import load
from tests.support.api import SCAN
from tests.support.waiting import eventually

SCANS = "/api/v1/espcam/scan"


@pytest.fixture
async def heard(world):
    """A daemon that has heard one registered camera and one stranger, by MQTT alone."""
    async with world.camera(1) as camera, world.daemon() as running:
        await camera.say(rssi_dbm=-61, firmware_version="2.4.1")
        await eventually(lambda: camera.mac in running.services.roster)
        await world.announce(2, client=None)
        await eventually(lambda: world.mac(2) in running.services.registry._devices)
        await eventually(lambda: running.services.vendors.reason is None)  # the list of manufacturers is read
        yield running


async def test_a_device_is_told_with_its_evidence_and_the_reason_for_its_state(heard, world):
    told = (await heard.api.get(f"/api/v1/devices/{world.mac(1)}")).data
    assert (told["status"], told["registered"], told["is_camera"]) == ("online", True, True)
    assert (told["signal_strength"], told["vendor"], told["firmware_version"]) == (-61, "Espressif Inc.", "2.4.1")
    assert told["why"].startswith("spoke on MQTT ")
    (evidence,) = told["evidence"]
    assert (evidence["source"], evidence["proves_life"], evidence["signal_strength"]) == ("mqtt", True, -61)
    assert evidence["first_seen"] <= evidence["last_seen"] == told["last_seen"]
    assert evidence["age_seconds"] < 10
    assert (told["conflict"], told["near"], told["locally_administered"]) == ([], [], False)


@pytest.mark.parametrize("spelt", ["24-6F-28-00-00-10", "246f28000010", "24%3a6f%3A28:00:00:10"])
async def test_a_device_is_found_under_any_spelling_of_its_mac(heard, spelt):
    assert (await heard.api.get(f"/api/v1/devices/{spelt}")).data["mac_address"] == "24:6F:28:00:00:10"


async def test_what_is_no_device_is_said_to_be_none(heard):
    unknown = await heard.api.get("/api/v1/devices/24:6F:28:99:99:90")
    assert (unknown.status, unknown.json["code"]) == (404, "DEVICE_NOT_FOUND")
    for wrong in ("camera-1", "FF:FF:FF:FF:FF:FF", "00:00:00:00:00:00", "24:6F:28"):
        refused = await heard.api.get(f"/api/v1/devices/{wrong}")
        assert (refused.status, refused.json["code"]) == (400, "VALIDATION_FAILED"), wrong


async def test_lists_put_cameras_first_and_can_leave_out_who_is_not_here(heard, world):
    everyone = (await heard.api.get("/api/v1/devices")).data
    assert [one["mac_address"] for one in everyone["devices"]] == [world.mac(1), world.mac(2)]
    assert everyone["total"] == 2
    await world.publish(f"camera/status/{world.mac(2)}", {"mac": world.mac(2), "state": "OFFLINE"})

    async def one_is_left():
        here = (await heard.api.get("/api/v1/devices", params={"status": "here"})).data
        return [one["mac_address"] for one in here["devices"]] == [world.mac(1)] and here["total"] == 1

    await eventually(one_is_left)
    assert (await heard.api.get("/api/v1/devices", params={"limit": 1})).data["total"] == 2
    for wrong in ({"limit": 0}, {"limit": 5001}, {"status": "asleep"}):
        assert (await heard.api.get("/api/v1/devices", params=wrong)).status == 400


async def test_old_dashboards_get_a_bare_list_that_says_what_has_taken_its_place(heard):
    answer = await heard.api.get("/api/devices")
    assert answer.json.keys() == {"devices"}
    assert len(answer.json["devices"]) == 2
    assert answer.headers["Deprecation"] == "true"
    assert answer.headers["Link"] == '</api/v1/devices>; rel="successor-version"'
    assert "Deprecation" not in (await heard.api.get("/api/v1/devices")).headers


async def test_what_is_discovered_comes_with_the_state_of_every_source(heard):
    told = (await heard.api.get("/api/v1/espcam/discovered")).data
    states = {source["source"]: source["state"] for source in told["sources"]}
    assert states == {"scanner": "off", "stations": "off", "leases": "off", "mdns": "off", "probe": "off", "mqtt": "ok"}
    assert all(source["reason"] for source in told["sources"] if source["state"] == "off")
    assert told["total"] == len(told["devices"]) == 2


async def test_a_scan_that_is_off_is_refused_with_the_reason(world, monkeypatch):
    monkeypatch.undo()  # the real scanner
    async with world.daemon(connected=False) as running:
        refused = await running.api.post(SCANS)
        assert (refused.status, refused.json["code"]) == (503, "NETWORK_ERROR")
        assert "discovery.engine" in refused.json["error"]["message"]
        assert refused.json["error"]["retryable"] is True
        assert int(refused.headers["Retry-After"]) >= 1
        recorded = world.rows("SELECT action, outcome FROM operator_actions WHERE action = 'scan.start'")
        assert recorded == [("scan.start", "NETWORK_ERROR")]


async def test_two_clients_that_scan_at_once_share_a_run_and_either_may_end_it(daemon, world):
    one, other = await asyncio.gather(daemon.api.post(SCANS), daemon.admin.post(SCANS))
    assert one.data["scan"]["id"] == other.data["scan"]["id"]
    scan = one.data["scan"]["id"]
    assert (await daemon.api.get(SCANS)).data["current"]["id"] == scan
    answers = await asyncio.gather(*(daemon.api.delete(f"{SCANS}/{scan}") for _ in range(3)))
    assert {answer.data["scan"]["state"] for answer in answers} == {"cancelled"}
    assert world.rows("SELECT state, count(*) FROM scans WHERE id = ? GROUP BY state", scan) == [("cancelled", 1)]
    assert "current" not in (await daemon.api.get(SCANS)).data
    again = await daemon.api.post(SCANS)
    assert again.data["scan"]["id"] != scan


@pytest.mark.parametrize("odd", ["x" * 65, "a b", "%00", "..", "é", "1;2"])
async def test_an_id_that_is_none_is_refused_before_anybody_looks(daemon, odd):
    assert (await daemon.api.get(f"{SCANS}/{odd}")).status in (400, 404)
    assert (await daemon.api.delete(f"{SCANS}/{odd}")).status in (400, 404)


async def test_history_is_paged(daemon):
    page = (await daemon.api.get(SCANS, params={"limit": 1, "offset": 0})).data
    assert [scan["id"] for scan in page["scans"]] == [SCAN]
    assert page["pagination"] == {"total": 1, "limit": 1, "offset": 0, "has_more": False}
    assert (await daemon.api.get(SCANS, params={"offset": 1})).data["scans"] == []
    assert (await daemon.api.get(SCANS, params={"limit": 101})).status == 400


async def test_the_network_needs_a_key_and_has_no_name_where_nobody_knows_it(daemon):
    for path in ("/api/v1/provisioning/batch/network", "/api/v1/provisioning/network/status"):
        assert (await daemon.api.get(path)).status == 401
        told = (await daemon.admin.get(path)).data
        assert told.keys() == {"interface", "ssid", "connected", "is_active", "connected_devices"}
        assert (told["interface"], told["ssid"]) == ("lo", "")


def test_a_network_name_is_bounded():
    from pi_orchestrator.errors import SettingsError

    with pytest.raises(SettingsError):
        load(environ={}, flags={"ap": {"ssid": "x" * 33}})
