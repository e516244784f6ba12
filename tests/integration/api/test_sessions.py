"""Batch sessions over the API: the documents' examples, both ways to start one, and every endpoint."""

import re
import uuid
from datetime import datetime, timedelta

import pytest

from tests.support.provisioning import BASE, FAST, PASSWORD, SSID, Batch, batch
from tests.support.waiting import eventually

BATCH = f"{BASE}/batch"
STOCK = {"discovery_timeout_seconds": 60, "provisioning_timeout_seconds": 120, "verification_timeout_seconds": 90}
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
async def two(world):
    async with batch(world, 2) as one:
        yield one


@pytest.fixture
async def stubborn(world):
    """One camera that never answers to its credentials, so that it stays under way."""
    async with batch(world, 1, faults=("provision-hang",)) as one:
        await one.start()
        await one.joined(1)
        yield one


def is_envelope(answer, status):
    assert answer.status == status, answer.body
    body = answer.json
    assert list(body) == ["success", "data", "correlation_id", "timestamp"]
    assert body["success"] is True
    return body["data"]


# The seed's examples.


async def test_the_seed_s_start(daemon):
    data = is_envelope(await daemon.admin.post(BATCH, json={"network_interface": "wlan0"}), 201)
    session = data["session"]
    assert str(uuid.UUID(session["id"])) == session["id"]
    zero = {"device_count": 0, "provisioned_count": 0, "failed_count": 0, "verified_count": 0}
    assert {name: session[name] for name in zero} == zero
    assert (session["state"], session["network_interface"], session["target_ssid"]) == ("active", "wlan0", "")
    assert session["created_at"] == session["updated_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", session["created_at"])
    assert set(session) == SESSION
    assert session["config"] == STOCK
    assert "no camera will join it" in data["message"], "cameras are looked for on another interface"


async def test_the_seed_s_empty_lists_are_lists(daemon):
    recoverable = is_envelope(await daemon.admin.get(f"{BASE}/sessions/recoverable"), 200)
    assert recoverable == {"sessions": []}
    made = await daemon.admin.post(BATCH, json={})
    devices = is_envelope(await daemon.admin.get(f"{BATCH}/{made.data['session']['id']}/devices"), 200)
    assert devices == {"devices": [], "count": 0}
    assert is_envelope(await daemon.admin.get(f"{BASE}/sessions/history"), 200)["sessions"] == []


async def test_the_seed_s_network(daemon):
    for path in ("batch/network", "network/status"):
        data = is_envelope(await daemon.admin.get(f"{BASE}/{path}"), 200)
        assert set(data) == {"interface", "ssid", "connected", "is_active", "connected_devices"}
        assert data["interface"] == "lo"


async def test_the_seed_s_way_from_start_to_close(two: Batch):
    await two.start(network_interface="lo")
    found = await two.joined(2)
    mac = next(iter(found))
    asked = is_envelope(await two.post(f"devices/{mac}/provision"), 202)
    assert (asked["mac"], asked["state"]) == (mac, "provisioning")
    await two.until(mac, "verified")
    everyone = is_envelope(await two.post("provision-all", json={}), 202)
    assert (everyone["initiated_count"], everyone["skipped_count"]) == (1, 0)
    await two.until_done()
    closed = is_envelope(await two.post("close"), 200)
    session = closed["session"]
    assert (session["state"], session["ending"]) == ("closed", "closed")
    assert set(session) == SESSION - {"expires_at"} | {"closed_at", "ending"}
    assert (session["device_count"], session["provisioned_count"], session["verified_count"]) == (2, 2, 2)
    assert "2 verified, 0 failed" in closed["message"]


# Starting.


async def test_the_dashboard_s_start_looks_for_cameras_first(two: Batch):
    answer = await two.start(form="/start")
    session = is_envelope(answer, 201)["session"]
    assert (session["state"], session["network_interface"], session["target_ssid"]) == ("discovering", "lo", SSID)
    assert session["config"] == FAST
    found = await two.joined(2)
    assert (await two.session())["state"] == "discovering"
    await two.post(f"devices/{next(iter(found))}/provision")
    assert (await two.session())["state"] == "active", "asking for a camera ends the search"


async def test_what_is_left_out_is_as_configured(world):
    given = {"provisioning": {"target_ssid": "Configured", "target_password": "configured password"}}
    async with batch(world, 1, settings=given) as one:
        answer = await one.admin.post(BATCH, json={})
        one.id = answer.data["session"]["id"]
        assert answer.data["session"]["target_ssid"] == "Configured"
        await one.joined(1)
        await one.post("provision-all", json={})
        assert (await one.until_done())["verified_count"] == 1
        ((sent,),) = [camera.provisioned for camera in one.cameras]
        assert sent.ssid == "Configured"


async def test_every_time_out_can_be_given_alone(daemon):
    for number, name in enumerate(STOCK):
        body = {"network_interface": f"wlan{number}", "config": {name: 7}}
        session = (await daemon.admin.post(BATCH, json=body)).data["session"]
        assert session["config"] == STOCK | {name: 7}
        alive = datetime.fromisoformat(session["expires_at"]) - datetime.fromisoformat(session["updated_at"])
        assert alive == timedelta(seconds=sum((STOCK | {name: 7}).values()))


async def test_a_second_start_names_the_session_that_is_open(two: Batch):
    await two.start()
    for form, body in (("", {}), ("/start", {"target_ssid": SSID, "target_password": PASSWORD})):
        answer = await two.admin.post(f"{BATCH}{form}", json=body)
        assert (answer.status, answer.json["code"]) == (409, "SESSION_ALREADY_ACTIVE")
        assert two.id in answer.json["error"]["details"]
    elsewhere = await two.admin.post(BATCH, json={"network_interface": "wlan7"})
    assert elsewhere.status == 201, "another interface is another matter"
    assert (await two.admin.get(f"{BASE}/sessions")).data["count"] == 2
    await two.post("close")
    assert (await two.admin.post(BATCH, json={})).status == 201


# Looking.


async def test_a_session_is_shown_with_its_time_and_network_and_with_devices_where_they_are_asked_for(two: Batch):
    await two.start()
    await two.joined(2)
    data = is_envelope(await two.admin.get(two.url), 200)
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


async def test_a_device_is_shown_with_what_is_known_of_it(two: Batch):
    await two.start()
    found = await two.joined(2)
    for one in found.values():
        assert set(one) == DEVICE
        assert (one["state"], one["progress"], one["retry_count"]) == ("discovered", 0, 0)
        assert (one["in_allowlist"], one["session_id"]) == (True, two.id)
        assert one["firmware_version"]
        assert -127 <= one["rssi"] < 0
    assert {(one["mac"], one["ip"]) for one in found.values()} == {(c.mac, str(c.address)) for c in two.cameras}
    await two.post("provision-all", json={})
    await two.until_done()
    for one in (await two.devices()).values():
        assert set(one) == DEVICE | {"provisioned_at", "verified_at"}
        assert one["discovered_at"] < one["provisioned_at"] < one["verified_at"]


async def test_devices_can_be_asked_for_by_state(two: Batch):
    await two.start()
    first, second = await two.joined(2)
    await two.post(f"devices/{first}/skip")
    assert set(await two.devices(state="failed")) == {first}
    assert set(await two.devices(state="discovered")) == {second}
    for state in ("provisioning", "provisioned", "verifying", "verified"):
        assert await two.devices(state=state) == {}


async def test_a_container_of_the_allowlist_is_the_devices_too(two: Batch):
    mac = two.cameras[0].mac
    await two.admin.post(f"{BASE}/allowlist", json={"mac": mac, "container_id": "kitchen"})
    await two.start()
    assert (await two.joined(2))[mac]["container_id"] == "kitchen"


# Each camera.


async def test_a_camera_that_is_not_listed_is_refused_alone_and_skipped_among_all(world):
    async with batch(world, 2, allowed=False) as one:
        await one.start()
        first, _ = await one.joined(2)
        refused = await one.post(f"devices/{first}/provision")
        assert (refused.status, refused.json["code"]) == (403, "DEVICE_NOT_IN_ALLOWLIST")
        for body in ({}, {"only_allowlisted": True}, {"only_allowlisted": False}):
            data = is_envelope(await one.post("provision-all", json=body), 202)
            assert (data["initiated_count"], data["skipped_count"]) == (0, 2), "and false needs a setting"
        assert {device["state"] for device in (await one.devices()).values()} == {"discovered"}


async def test_unlisted_cameras_are_taken_where_configuration_and_request_both_say_so(world):
    async with batch(world, 1, allowed=False, settings={"provisioning": {"allow_unlisted": True}}) as one:
        await one.start()
        await one.joined(1)
        assert (await one.post("provision-all", json={})).data["skipped_count"] == 1
        assert (await one.post("provision-all", json={"only_allowlisted": False})).data["initiated_count"] == 1
        assert (await one.until_done())["verified_count"] == 1


async def test_a_skip_takes_a_camera_out_and_a_retry_takes_it_back(two: Batch):
    await two.start()
    mac, _ = await two.joined(2)
    skipped = is_envelope(await two.post(f"devices/{mac}/skip"), 200)
    assert skipped == {"mac": mac, "state": "failed", "message": "skipped by the operator"}
    assert (await two.devices())[mac]["error_code"] == "SKIPPED"
    refused = await two.post(f"devices/{mac}/provision")
    assert (refused.status, refused.json["code"]) == (409, "DEVICE_INVALID_STATE")
    again = is_envelope(await two.post(f"devices/{mac}/retry"), 202)
    assert again["state"] == "provisioning"
    await two.until(mac, "verified")
    assert (await two.session())["failed_count"] == 0


async def test_a_skip_breaks_off_what_is_being_done(stubborn: Batch):
    (camera,) = stubborn.cameras
    await stubborn.post(f"devices/{camera.mac}/provision")
    await eventually(lambda: camera.provision_requests)
    assert (await stubborn.post(f"devices/{camera.mac}/skip")).data["state"] == "failed"
    assert (await stubborn.session())["failed_count"] == 1
    assert (await stubborn.post("close")).data["session"]["state"] == "closed"


async def test_a_retry_is_for_what_failed_and_not_for_ever(world):
    settings = {"provisioning": {"breaker_failures": 100}}
    async with batch(world, 1, faults=("provision-reject",), settings=settings) as one:
        await one.start()
        (mac,) = await one.joined(1)
        early = await one.post(f"devices/{mac}/retry")
        assert (early.status, early.json["code"]) == (409, "DEVICE_INVALID_STATE")
        await one.post(f"devices/{mac}/provision")
        failed = await one.until(mac, "failed")
        assert (failed["error_code"], failed["retry_count"]) == ("DEVICE_REJECTED", 0)
        assert "422" in failed["error_message"]
        for count in (1, 2, 3):
            assert (await one.post(f"devices/{mac}/retry")).status == 202
            failed = await one.until(mac, "failed")
            assert failed["retry_count"] == count
        last = await one.post(f"devices/{mac}/retry")
        assert (last.status, last.json["code"]) == (409, "MAX_RETRIES_EXCEEDED")
        assert "DEVICE_REJECTED" in last.json["error"]["details"]
        assert one.cameras[0].provision_requests == 4


async def test_a_camera_that_is_under_way_is_not_retried(stubborn: Batch):
    (camera,) = stubborn.cameras
    await stubborn.post(f"devices/{camera.mac}/provision")
    answer = await stubborn.post(f"devices/{camera.mac}/retry")
    assert (answer.status, answer.json["code"]) == (409, "DEVICE_ALREADY_PROVISIONING")


# The whole batch.


async def test_a_paused_session_starts_nothing_until_it_is_resumed(two: Batch):
    await two.start()
    mac, _ = await two.joined(2)
    paused = is_envelope(await two.post("pause"), 200)
    assert set(paused) == {"session"}
    assert paused["session"]["state"] == "paused"
    for what in ("provision-all", f"devices/{mac}/provision"):
        refused = await two.post(what, json={})
        assert (refused.status, refused.json["code"]) == (409, "CONFLICT")
        assert "resume it first" in refused.json["error"]["details"]
    assert (await two.post(f"devices/{mac}/skip")).status == 200
    assert is_envelope(await two.post("resume"), 200)["session"]["state"] == "active"
    assert (await two.post("provision-all", json={})).data["initiated_count"] == 1
    assert (await two.until_done())["verified_count"] == 1


@pytest.mark.parametrize("word", ["close", "stop"])
async def test_an_end_by_either_word_goes_into_the_history(two: Batch, word):
    await two.start()
    await two.joined(2)
    assert is_envelope(await two.post(word), 200)["session"]["state"] == "closed"
    kept = (await two.admin.get(f"{BASE}/sessions/history")).data
    assert [one["id"] for one in kept["sessions"]] == [two.id]
    assert kept["pagination"]["total"] == 1
    assert (await two.admin.get(f"{BASE}/sessions")).data["sessions"] == []
    assert len(await two.devices()) == 2, "what became of its cameras can still be read"
    assert (await two.admin.get(two.url)).data["timeout_remaining"] == "0s"


async def test_the_history_has_pages_newest_first(daemon):
    ids = []
    for _ in range(5):
        ids.append((await daemon.admin.post(BATCH, json={})).data["session"]["id"])
        await daemon.admin.post(f"{BATCH}/{ids[-1]}/close")
    seen = []
    for offset in (0, 2, 4):
        page = (await daemon.admin.get(f"{BASE}/sessions/history", params={"limit": 2, "offset": offset})).data
        assert page["pagination"] == {"total": 5, "limit": 2, "offset": offset, "has_more": offset < 4}
        seen += [one["id"] for one in page["sessions"]]
    assert seen == ids[::-1]


# After a restart.


async def test_a_restart_leaves_a_session_to_be_resumed(world):
    async with world.daemon(connected=False) as running:
        mine = (await running.admin.post(BATCH, json={})).data["session"]["id"]
    async with world.daemon(connected=False) as running:
        (cut,) = (await running.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"]
        assert (cut["id"], cut["state"], cut["interrupted"]) == (mine, "paused", True)
        assert (await running.admin.post(BATCH, json={})).json["code"] == "SESSION_ALREADY_ACTIVE"
        data = is_envelope(await running.admin.post(f"{BASE}/sessions/{mine}/resume"), 200)
        assert data["devices"] == []
        assert data["session"]["state"] == "active"
        assert "interrupted" not in data["session"]
        assert (await running.admin.get(f"{BASE}/sessions/recoverable")).data == {"sessions": []}


async def test_a_discarded_session_is_gone_for_good(world):
    async with world.daemon(connected=False) as running:
        mine = (await running.admin.post(BATCH, json={})).data["session"]["id"]
    async with world.daemon(connected=False) as running:
        answer = await running.admin.delete(f"{BASE}/sessions/{mine}")
        assert (answer.status, answer.body) == (204, b"")
        assert (await running.admin.get(f"{BASE}/sessions/recoverable")).data == {"sessions": []}
        for _ in range(2):
            refused = await running.admin.post(f"{BASE}/sessions/{mine}/resume")
            assert (refused.status, refused.json["code"]) == (409, "SESSION_NOT_RECOVERABLE")
        (kept,) = (await running.admin.get(f"{BASE}/sessions/history")).data["sessions"]
        assert kept["ending"] == "discarded"


async def test_without_the_broker_nothing_is_started(world):
    async with batch(world, 1) as one:
        await one.start()
        (mac,) = await one.joined(1)
        await world.broker.stop()
        await eventually(lambda: not one.running.services.mqtt.connected)
        for what in ("provision-all", f"devices/{mac}/provision"):
            answer = await one.post(what, json={})
            assert (answer.status, answer.json["code"]) == (503, "MQTT_UNAVAILABLE")
            assert answer.headers["Retry-After"]
        assert (await one.devices())[mac]["state"] == "discovered"


async def test_a_session_without_a_network_provisions_nobody(world):
    async with batch(world, 1) as one:
        one.id = (await one.admin.post(BATCH, json={})).data["session"]["id"]
        (mac,) = await one.joined(1)
        for what in ("provision-all", f"devices/{mac}/provision"):
            answer = await one.post(what, json={})
            assert (answer.status, answer.json["code"]) == (409, "CONFLICT")
            assert "target_ssid" in answer.json["error"]["details"]
        assert one.cameras[0].provision_requests == 0
