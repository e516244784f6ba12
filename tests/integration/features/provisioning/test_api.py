"""Batch sessions over the API: examples of the documents, both ways to start, and every endpoint."""

import re
import uuid
from datetime import datetime, timedelta

import pytest

from tests.support.provisioning import BASE, FAST, PASSWORD, SSID, Batch, batch, set_breaker
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

BATCH = f"{BASE}/batch"
DEFAULT_CONFIG = {
    "discovery_timeout_seconds": 60,
    "provisioning_timeout_seconds": 120,
    "verification_timeout_seconds": 90,
}
SESSION = {
    "id",
    "state",
    "network_interface",
    "target_ssid",
    "created_at",
    "updated_at",
    "expires_at",
    "device_count",
    "provisioned_count",
    "verified_count",
    "failed_count",
    "config",
}
DEVICE = {
    "mac",
    "ip",
    "state",
    "progress",
    "rssi",
    "firmware_version",
    "discovered_at",
    "retry_count",
    "in_allowlist",
    "session_id",
}


@pytest.fixture
async def two(rig):
    """Two cameras on the camera network and on the allowlist, no session yet."""
    async with batch(rig, 2) as setup:
        yield setup


@pytest.fixture
async def hanging(rig):
    """One camera that never answers the provisioning request, so it stays under way."""
    async with batch(rig, 1, faults=("provision-hang",)) as setup:
        await setup.start()
        await setup.wait_for_cameras(1)
        yield setup


def envelope_data(answer, status):
    """Check status and envelope; return the data."""
    assert answer.status == status, answer.body
    body = answer.json
    assert list(body) == ["success", "data", "correlation_id", "timestamp"]
    assert body["success"] is True
    return body["data"]


# Examples of the seed document.


async def test_seed_start_returns_empty_active_session(daemon):
    data = envelope_data(await daemon.admin.post(BATCH, json={"network_interface": "wlan0"}), 201)
    session = data["session"]
    assert str(uuid.UUID(session["id"])) == session["id"]
    zero = {"device_count": 0, "provisioned_count": 0, "failed_count": 0, "verified_count": 0}
    assert {name: session[name] for name in zero} == zero
    assert (session["state"], session["network_interface"], session["target_ssid"]) == ("active", "wlan0", "")
    assert session["created_at"] == session["updated_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", session["created_at"])
    assert set(session) == SESSION
    assert session["config"] == DEFAULT_CONFIG
    assert "no camera will join it" in data["message"], "cameras are discovered on another interface"


async def test_seed_empty_lists(daemon):
    recoverable = envelope_data(await daemon.admin.get(f"{BASE}/sessions/recoverable"), 200)
    assert recoverable == {"sessions": []}
    made = await daemon.admin.post(BATCH, json={})
    devices = envelope_data(await daemon.admin.get(f"{BATCH}/{made.data['session']['id']}/devices"), 200)
    assert devices == {"devices": [], "count": 0}
    assert envelope_data(await daemon.admin.get(f"{BASE}/sessions/history"), 200)["sessions"] == []


async def test_seed_network_has_documented_fields(daemon):
    for path in ("batch/network", "network/status"):
        data = envelope_data(await daemon.admin.get(f"{BASE}/{path}"), 200)
        assert set(data) == {"interface", "ssid", "connected", "is_active", "connected_devices"}
        assert data["interface"] == "lo"


async def test_seed_session_runs_from_start_to_close(two: Batch):
    await two.start(network_interface="lo")
    found = await two.wait_for_cameras(2)
    mac = next(iter(found))
    queued = envelope_data(await two.post(f"devices/{mac}/provision"), 202)
    assert (queued["mac"], queued["state"]) == (mac, "provisioning")
    await two.wait_for_state(mac, "verified")
    batch_result = envelope_data(await two.post("provision-all", json={}), 202)
    assert (batch_result["initiated_count"], batch_result["skipped_count"]) == (1, 0)
    await two.wait_until_done()
    closed = envelope_data(await two.post("close"), 200)
    session = closed["session"]
    assert (session["state"], session["ending"]) == ("closed", "closed")
    assert set(session) == SESSION - {"expires_at"} | {"closed_at", "ending"}
    assert (session["device_count"], session["provisioned_count"], session["verified_count"]) == (2, 2, 2)
    assert "2 verified, 0 failed" in closed["message"]


# Start.


async def test_dashboard_start_discovers_first(two: Batch):
    answer = await two.start(suffix="/start")
    session = envelope_data(answer, 201)["session"]
    assert (session["state"], session["network_interface"], session["target_ssid"]) == ("discovering", "lo", SSID)
    assert session["config"] == FAST
    found = await two.wait_for_cameras(2)
    assert (await two.session())["state"] == "discovering"
    await two.post(f"devices/{next(iter(found))}/provision")
    assert (await two.session())["state"] == "active", "a provisioning request ends the discovery"


async def test_missing_fields_use_configuration(rig):
    configured = {"provisioning": {"target_ssid": "Configured", "target_password": "configured password"}}
    async with batch(rig, 1, settings=configured) as setup:
        answer = await setup.admin.post(BATCH, json={})
        setup.id = answer.data["session"]["id"]
        assert answer.data["session"]["target_ssid"] == "Configured"
        await setup.wait_for_cameras(1)
        await setup.post("provision-all", json={})
        assert (await setup.wait_until_done())["verified_count"] == 1
        ((sent,),) = [camera.provisioned for camera in setup.cameras]
        assert sent.ssid == "Configured"


async def test_each_timeout_can_be_set_alone(daemon):
    for number, name in enumerate(DEFAULT_CONFIG):
        body = {"network_interface": f"wlan{number}", "config": {name: 7}}
        session = (await daemon.admin.post(BATCH, json=body)).data["session"]
        assert session["config"] == DEFAULT_CONFIG | {name: 7}
        alive = datetime.fromisoformat(session["expires_at"]) - datetime.fromisoformat(session["updated_at"])
        assert alive == timedelta(seconds=sum((DEFAULT_CONFIG | {name: 7}).values()))


async def test_second_start_names_open_session(two: Batch):
    await two.start()
    for form, body in (("", {}), ("/start", {"target_ssid": SSID, "target_password": PASSWORD})):
        answer = await two.admin.post(f"{BATCH}{form}", json=body)
        assert (answer.status, answer.json["code"]) == (409, "SESSION_ALREADY_ACTIVE")
        assert two.id in answer.json["error"]["details"]
    elsewhere = await two.admin.post(BATCH, json={"network_interface": "wlan7"})
    assert elsewhere.status == 201, "another interface may have its own session"
    assert (await two.admin.get(f"{BASE}/sessions")).data["count"] == 2
    await two.post("close")
    assert (await two.admin.post(BATCH, json={})).status == 201


# Views.


async def test_session_view_has_its_fields(two: Batch):
    await two.start()
    await two.wait_for_cameras(2)
    data = envelope_data(await two.admin.get(two.url), 200)
    assert set(data) == {"session", "timeout_remaining", "network_status"}
    assert set(data["network_status"]) == {"ssid", "is_active", "connected_devices"}
    seconds = re.fullmatch(r"(\d+)s", data["timeout_remaining"])
    assert seconds
    assert 50 <= int(seconds[1]) <= 60
    assert data["session"]["device_count"] == 2
    with_devices = (await two.admin.get(two.url, params={"include_devices": "true"})).data
    assert len(with_devices["devices"]) == 2
    assert "devices" not in (await two.admin.get(two.url, params={"include_devices": "false"})).data
    assert (await two.admin.get(two.url.upper().replace("/API/V1/PROVISIONING/BATCH", BATCH))).status == 200


async def test_device_view_has_its_fields(two: Batch):
    await two.start()
    found = await two.wait_for_cameras(2)
    for device in found.values():
        assert set(device) == DEVICE
        assert (device["state"], device["progress"], device["retry_count"]) == ("discovered", 0, 0)
        assert (device["in_allowlist"], device["session_id"]) == (True, two.id)
        assert device["firmware_version"]
        assert -127 <= device["rssi"] < 0
    assert {(device["mac"], device["ip"]) for device in found.values()} == {
        (c.mac, str(c.address)) for c in two.cameras
    }
    await two.post("provision-all", json={})
    await two.wait_until_done()
    for device in (await two.devices()).values():
        assert set(device) == DEVICE | {"provisioned_at", "verified_at"}
        assert device["discovered_at"] < device["provisioned_at"] < device["verified_at"]


async def test_devices_filter_by_state(two: Batch):
    await two.start()
    first, second = await two.wait_for_cameras(2)
    await two.post(f"devices/{first}/skip")
    assert set(await two.devices(state="failed")) == {first}
    assert set(await two.devices(state="discovered")) == {second}
    for state in ("provisioning", "provisioned", "verifying", "verified"):
        assert await two.devices(state=state) == {}


async def test_device_has_container_of_allowlist(two: Batch):
    mac = two.cameras[0].mac
    await two.admin.post(f"{BASE}/allowlist", json={"mac": mac, "container_id": "kitchen"})
    await two.start()
    assert (await two.wait_for_cameras(2))[mac]["container_id"] == "kitchen"


# Single cameras.


async def test_unlisted_camera_is_refused(rig):
    async with batch(rig, 2, allowed=False) as setup:
        await setup.start()
        first, _ = await setup.wait_for_cameras(2)
        refused = await setup.post(f"devices/{first}/provision")
        assert (refused.status, refused.json["code"]) == (403, "DEVICE_NOT_IN_ALLOWLIST")
        for body in ({}, {"only_allowlisted": True}, {"only_allowlisted": False}):
            data = envelope_data(await setup.post("provision-all", json=body), 202)
            assert (data["initiated_count"], data["skipped_count"]) == (0, 2), (
                "false has no effect without allow_unlisted"
            )
        assert {device["state"] for device in (await setup.devices()).values()} == {"discovered"}


async def test_unlisted_camera_needs_setting_and_request(rig):
    async with batch(rig, 1, allowed=False, settings={"provisioning": {"allow_unlisted": True}}) as setup:
        await setup.start()
        await setup.wait_for_cameras(1)
        assert (await setup.post("provision-all", json={})).data["skipped_count"] == 1
        assert (await setup.post("provision-all", json={"only_allowlisted": False})).data["initiated_count"] == 1
        assert (await setup.wait_until_done())["verified_count"] == 1


async def test_skip_can_be_undone_by_retry(two: Batch):
    await two.start()
    mac, _ = await two.wait_for_cameras(2)
    skipped = envelope_data(await two.post(f"devices/{mac}/skip"), 200)
    assert skipped == {"mac": mac, "state": "failed", "message": "skipped by the operator"}
    assert (await two.devices())[mac]["error_code"] == "SKIPPED"
    refused = await two.post(f"devices/{mac}/provision")
    assert (refused.status, refused.json["code"]) == (409, "DEVICE_INVALID_STATE")
    again = envelope_data(await two.post(f"devices/{mac}/retry"), 202)
    assert again["state"] == "provisioning"
    await two.wait_for_state(mac, "verified")
    assert (await two.session())["failed_count"] == 0


async def test_skip_cancels_running_step(hanging: Batch):
    (camera,) = hanging.cameras
    await hanging.post(f"devices/{camera.mac}/provision")
    await eventually(lambda: camera.provision_requests)
    assert (await hanging.post(f"devices/{camera.mac}/skip")).data["state"] == "failed"
    assert (await hanging.session())["failed_count"] == 1
    assert (await hanging.post("close")).data["session"]["state"] == "closed"


async def test_retry_needs_failure_and_is_limited(rig, monkeypatch):
    set_breaker(monkeypatch, failures=100)
    async with batch(rig, 1, faults=("provision-reject",)) as setup:
        await setup.start()
        (mac,) = await setup.wait_for_cameras(1)
        early = await setup.post(f"devices/{mac}/retry")
        assert (early.status, early.json["code"]) == (409, "DEVICE_INVALID_STATE")
        await setup.post(f"devices/{mac}/provision")
        failed = await setup.wait_for_state(mac, "failed")
        assert (failed["error_code"], failed["retry_count"]) == ("DEVICE_REJECTED", 0)
        assert "422" in failed["error_message"]
        for count in (1, 2, 3):
            assert (await setup.post(f"devices/{mac}/retry")).status == 202
            failed = await setup.wait_for_state(mac, "failed")
            assert failed["retry_count"] == count
        last = await setup.post(f"devices/{mac}/retry")
        assert (last.status, last.json["code"]) == (409, "MAX_RETRIES_EXCEEDED")
        assert "DEVICE_REJECTED" in last.json["error"]["details"]
        assert setup.cameras[0].provision_requests == 4


async def test_retry_under_way_is_refused(hanging: Batch):
    (camera,) = hanging.cameras
    await hanging.post(f"devices/{camera.mac}/provision")
    answer = await hanging.post(f"devices/{camera.mac}/retry")
    assert (answer.status, answer.json["code"]) == (409, "DEVICE_ALREADY_PROVISIONING")


# The whole batch.


async def test_paused_session_starts_nothing(two: Batch):
    await two.start()
    mac, _ = await two.wait_for_cameras(2)
    paused = envelope_data(await two.post("pause"), 200)
    assert set(paused) == {"session"}
    assert paused["session"]["state"] == "paused"
    for path in ("provision-all", f"devices/{mac}/provision"):
        refused = await two.post(path, json={})
        assert (refused.status, refused.json["code"]) == (409, "CONFLICT")
        assert "resume it first" in refused.json["error"]["details"]
    assert (await two.post(f"devices/{mac}/skip")).status == 200
    assert envelope_data(await two.post("resume"), 200)["session"]["state"] == "active"
    assert (await two.post("provision-all", json={})).data["initiated_count"] == 1
    assert (await two.wait_until_done())["verified_count"] == 1


@pytest.mark.parametrize("verb", ["close", "stop"])
async def test_closed_session_is_in_history(two: Batch, verb):
    await two.start()
    await two.wait_for_cameras(2)
    assert envelope_data(await two.post(verb), 200)["session"]["state"] == "closed"
    kept = (await two.admin.get(f"{BASE}/sessions/history")).data
    assert [session["id"] for session in kept["sessions"]] == [two.id]
    assert kept["pagination"]["total"] == 1
    assert (await two.admin.get(f"{BASE}/sessions")).data["sessions"] == []
    assert len(await two.devices()) == 2, "its cameras can still be read"
    assert (await two.admin.get(two.url)).data["timeout_remaining"] == "0s"


async def test_history_pages_are_newest_first(daemon):
    ids = []
    for _ in range(5):
        ids.append((await daemon.admin.post(BATCH, json={})).data["session"]["id"])
        await daemon.admin.post(f"{BATCH}/{ids[-1]}/close")
    seen = []
    for offset in (0, 2, 4):
        page = (await daemon.admin.get(f"{BASE}/sessions/history", params={"limit": 2, "offset": offset})).data
        assert page["pagination"] == {"total": 5, "limit": 2, "offset": offset, "has_more": offset < 4}
        seen += [session["id"] for session in page["sessions"]]
    assert seen == ids[::-1]


# After a restart.


async def test_session_is_recoverable_after_restart(rig):
    async with rig.daemon(connected=False) as running:
        session_id = (await running.admin.post(BATCH, json={})).data["session"]["id"]
    async with rig.daemon(connected=False) as running:
        (interrupted,) = (await running.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"]
        assert (interrupted["id"], interrupted["state"], interrupted["interrupted"]) == (session_id, "paused", True)
        assert (await running.admin.post(BATCH, json={})).json["code"] == "SESSION_ALREADY_ACTIVE"
        data = envelope_data(await running.admin.post(f"{BASE}/sessions/{session_id}/resume"), 200)
        assert data["devices"] == []
        assert data["session"]["state"] == "active"
        assert "interrupted" not in data["session"]
        assert (await running.admin.get(f"{BASE}/sessions/recoverable")).data == {"sessions": []}


async def test_discarded_session_is_not_recoverable(rig):
    async with rig.daemon(connected=False) as running:
        session_id = (await running.admin.post(BATCH, json={})).data["session"]["id"]
    async with rig.daemon(connected=False) as running:
        answer = await running.admin.delete(f"{BASE}/sessions/{session_id}")
        assert (answer.status, answer.body) == (204, b"")
        assert (await running.admin.get(f"{BASE}/sessions/recoverable")).data == {"sessions": []}
        for _ in range(2):
            refused = await running.admin.post(f"{BASE}/sessions/{session_id}/resume")
            assert (refused.status, refused.json["code"]) == (409, "SESSION_NOT_RECOVERABLE")
        (kept,) = (await running.admin.get(f"{BASE}/sessions/history")).data["sessions"]
        assert kept["ending"] == "discarded"


async def test_provisioning_without_broker_is_refused(rig):
    async with batch(rig, 1) as setup:
        await setup.start()
        (mac,) = await setup.wait_for_cameras(1)
        await rig.broker.stop()
        await eventually(lambda: not setup.running.app.resources.mqtt.connected)
        for path in ("provision-all", f"devices/{mac}/provision"):
            answer = await setup.post(path, json={})
            assert (answer.status, answer.json["code"]) == (503, "MQTT_UNAVAILABLE")
            assert answer.headers["Retry-After"]
        assert (await setup.devices())[mac]["state"] == "discovered"


async def test_provisioning_without_target_network_is_refused(rig):
    async with batch(rig, 1) as setup:
        setup.id = (await setup.admin.post(BATCH, json={})).data["session"]["id"]
        (mac,) = await setup.wait_for_cameras(1)
        for path in ("provision-all", f"devices/{mac}/provision"):
            answer = await setup.post(path, json={})
            assert (answer.status, answer.json["code"]) == (409, "CONFLICT")
            assert "target_ssid" in answer.json["error"]["details"]
        assert setup.cameras[0].provision_requests == 0
