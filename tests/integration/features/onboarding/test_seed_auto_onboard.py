"""Contract of the dashboard's auto-onboarding document: checklist, examples, types and client."""

import json
import re

import aiohttp
import pytest

from pi_orchestrator.app.lifecycle import running
from pi_orchestrator.net.host.systemd import Notifier
from pi_orchestrator.settings import load
from tests.support.api import DOCUMENT
from tests.support.rig import Api
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

AUTO = "/api/v1/onboarding/auto"

# Types of the document: a field with ? is optional, and no value is null.
NUMBER, STRING, BOOLEAN = (int, float), (str,), (bool,)
STATUS = {
    "enabled": BOOLEAN,
    "mode": {"off", "dev"},
    "running?": BOOLEAN,
    "config": {
        "max_per_minute": NUMBER,
        "burst_size": NUMBER,
        "subnet_allowlist": [STRING],
        "verification_timeout_sec": NUMBER,
    },
    "metrics?": {
        "attempts": NUMBER,
        "success": NUMBER,
        "failed": NUMBER,
        "rejected_by_policy": NUMBER,
        "already_onboarded": NUMBER,
        "last_success_at?": STRING,
        "last_failure_at?": STRING,
    },
}
ENTRY = {
    "id": NUMBER,
    "mac_address": STRING,
    "stage": {"discovered", "verified", "registered", "paired", "failed", "rejected_by_policy"},
    "outcome": {"success", "failure"},
    "error_code?": STRING,
    "error_message?": STRING,
    "device_id?": STRING,
    "ip_address?": STRING,
    "firmware_version?": STRING,
    "container_id?": STRING,
    "duration_ms?": NUMBER,
    "timestamp": STRING,
}
EVENTS = {
    "events": [ENTRY],
    "pagination": {"total": NUMBER, "limit": NUMBER, "offset": NUMBER, "has_more": BOOLEAN},
}

EXAMPLE_STATUS = """
{
  "success": true,
  "data": {
    "enabled": true,
    "mode": "dev",
    "running": true,
    "config": {
      "max_per_minute": 10,
      "burst_size": 5,
      "subnet_allowlist": ["192.168.10.0/24"],
      "verification_timeout_sec": 5
    },
    "metrics": {
      "attempts": 3,
      "success": 2,
      "failed": 1,
      "rejected_by_policy": 0,
      "already_onboarded": 0
    }
  },
  "timestamp": "2026-01-22T15:00:00Z"
}
"""
EXAMPLE_ENABLED = {"enabled": True, "running": True, "message": "Auto-onboarding enabled"}
EXAMPLE_DISABLED = {"enabled": False, "running": False, "message": "Auto-onboarding disabled"}
EXAMPLE_ERROR = {
    "code": "ONBOARD_ENABLE_FAILED",
    "message": "auto-onboard mode must be 'dev' to enable",
    "retryable": False,
}
PI_ENVIRONMENT = {
    "AUTO_ONBOARD_ENABLED": "true",
    "AUTO_ONBOARD_MODE": "dev",
    "AUTO_ONBOARD_TARGET_CONTAINER": "550e8400-e29b-41d4-a716-446655440000",
    "AUTO_ONBOARD_MAX_PER_MINUTE": "10",
    "AUTO_ONBOARD_BURST_SIZE": "5",
    "AUTO_ONBOARD_SUBNET_ALLOWLIST": "192.168.10.0/24",
}


def mismatches(value, schema, where="$"):
    """Yield each place where a value does not match a schema."""
    if isinstance(schema, dict):
        for name, inner in schema.items():
            field = name.removesuffix("?")
            if field in value:
                yield from mismatches(value[field], inner, f"{where}.{field}")
            elif field == name:
                yield f"{where}.{field} is missing"
    elif isinstance(schema, list):
        if not isinstance(value, list):
            yield f"{where} is {value!r}, not a list"
            return
        for index, item in enumerate(value):
            yield from mismatches(item, schema[0], f"{where}[{index}]")
    elif isinstance(schema, set):
        if value not in schema:
            yield f"{where} is {value!r}"
    elif not isinstance(value, schema) or (bool not in schema and isinstance(value, bool)):
        yield f"{where} is {value!r}"


def matches(value, schema):
    assert not list(mismatches(value, schema))
    assert "null" not in json.dumps(value)
    return True


class DashboardError(Exception):
    pass


class AutoOnboardApi:
    """`autoOnboardApi` of the document: it ignores the HTTP status."""

    def __init__(self, api):
        self.api = api

    async def _json(self, response, default):
        answer = response.json
        if not answer["success"]:
            raise DashboardError((answer.get("error") or {}).get("message") or default)
        return answer["data"]

    async def get_status(self):
        return await self._json(await self.api.get(f"{AUTO}/status"), "Failed to get status")

    async def enable(self):
        await self._json(await self.api.post(f"{AUTO}/enable"), "Failed to enable")

    async def disable(self):
        await self._json(await self.api.post(f"{AUTO}/disable"), "Failed to disable")


@pytest.fixture
async def onboarded(rig):
    """A daemon that has onboarded three cameras."""
    async with rig.daemon() as running, rig.fleet(3) as fleet:
        await eventually(lambda: len(running.app.cameras.cache) == 3)
        yield running, fleet


def test_schema_checker_finds_mismatches():
    good = json.loads(EXAMPLE_STATUS)["data"]
    assert matches(good, STATUS)
    assert list(mismatches(good | {"enabled": 1, "mode": "on"}, STATUS)) == ["$.enabled is 1", "$.mode is 'on'"]
    assert list(mismatches({"events": None}, EVENTS)) == ["$.events is None, not a list", "$.pagination is missing"]
    assert list(mismatches({"total": True}, {"total": NUMBER})) == ["$.total is True"]


def test_openapi_matches_document():
    schemas = DOCUMENT["components"]["schemas"]
    assert set(schemas["Status"]["properties"]["mode"]["enum"]) == STATUS["mode"]
    assert set(schemas["Stage"]["enum"]) == ENTRY["stage"]
    assert set(schemas["AuditEvent"]["properties"]["outcome"]["enum"]) == ENTRY["outcome"]
    required = {name for name in ENTRY if not name.endswith("?")}
    assert required <= set(schemas["AuditEvent"]["required"])


# The testing checklist.


async def test_status_returns_config_and_metrics(onboarded):
    running, _ = onboarded
    data = (await running.api.get(f"{AUTO}/status")).data
    assert matches(data, STATUS)
    assert set(data["config"]) == set(STATUS["config"])
    assert data["metrics"]["attempts"] == data["metrics"]["success"] == 3


async def test_enable_with_mode_dev_succeeds(rig):
    async with rig.daemon(auto_onboard={"enabled": False}) as running:
        assert (await running.status())["enabled"] is False
        answer = await running.api.post(f"{AUTO}/enable")
        assert (answer.status, answer.data) == (200, EXAMPLE_ENABLED)
        status = await running.status()
        assert (status["enabled"], status["running"], status["mode"]) == (True, True, "dev")


async def test_enable_with_mode_off_fails(rig):
    async with rig.daemon(auto_onboard={"mode": "off", "enabled": False}) as running:
        answer = await running.api.post(f"{AUTO}/enable")
        assert answer.status == 400
        assert answer.json["success"] is False
        assert answer.json["error"] == EXAMPLE_ERROR
        status = await running.status()
        assert (status["enabled"], status["running"], status["mode"]) == (False, False, "off")


async def test_disable_is_immediate(rig):
    async with rig.daemon() as running, rig.camera(1) as camera:
        camera.answer_now.clear()
        await camera.publish_status()
        await camera.request_received.wait()
        answer = await running.api.post(f"{AUTO}/disable")
        assert (answer.status, answer.data) == (200, EXAMPLE_DISABLED)
        before = rig.tables()
        camera.answer_now.set()
        await camera.publish_status()
        await eventually(lambda: camera.answered)
        status = await running.status()
        assert (status["enabled"], status["running"]) == (False, False)
        assert (await running.api.get("/api/v1/espcam/paired")).data["cameras"] == []
        assert rig.tables()["cameras"] == before["cameras"] == []


async def test_onboarded_cameras_are_in_espcam_paired(onboarded):
    running, fleet = onboarded
    data = (await running.api.get("/api/v1/espcam/paired")).data
    assert {camera["mac_address"] for camera in data["cameras"]} == {camera.mac for camera in fleet.cameras}
    assert {camera["status"] for camera in data["cameras"]} <= {"online", "offline", "pairing", "error"}


async def test_offline_camera_is_still_paired(onboarded):
    running, fleet = onboarded
    offline = fleet.cameras[0]
    await offline.power_off()

    async def by_mac():
        cameras = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
        return {camera["mac_address"]: camera["status"] for camera in cameras}

    async def is_offline():
        return (await by_mac())[offline.mac] == "offline"

    await eventually(is_offline)
    assert sorted((await by_mac()).values()) == ["offline", "online", "online"]


async def test_cameras_and_espcam_endpoints_agree(onboarded):
    running, fleet = onboarded
    for path in ("/api/v1/cameras", "/api/v1/espcam/paired"):
        answer = await running.api.get(path)
        assert (answer.status, answer.json["success"]) == (200, True)
        assert len(answer.data["cameras"]) == len(fleet.cameras)


# Example responses.


async def test_status_matches_example(rig):
    rig.network = "192.168.10.0/24"
    async with rig.daemon(
        auto_onboard={"max_per_minute": 10, "burst_size": 5, "verification_timeout_sec": 5},
    ) as running:
        answer = await running.api.get(f"{AUTO}/status")
    example = json.loads(EXAMPLE_STATUS)
    assert set(example) <= set(answer.json)
    assert list(answer.data)[: len(example["data"])] == list(example["data"])
    assert list(answer.data["metrics"]) == list(example["data"]["metrics"])
    # As text: 5 and 5.0 differ for some JSON parsers.
    assert json.dumps(answer.data["config"]) == json.dumps(example["data"]["config"])
    assert_time(answer.json["timestamp"])


async def test_fractional_timeout_is_kept(rig):
    async with rig.daemon(connected=False, auto_onboard={"verification_timeout_sec": 2.5}) as running:
        assert (await running.status())["config"]["verification_timeout_sec"] == 2.5


async def test_toggle_answers_match_examples(rig):
    async with rig.daemon(connected=False) as running:
        for action, example in (("disable", EXAMPLE_DISABLED), ("enable", EXAMPLE_ENABLED)):
            for _ in "once", "again":  # the dashboard may repeat a request
                answer = await running.api.post(f"{AUTO}/{action}")
                assert answer.data == example
                assert {"success", "data", "timestamp"} <= set(answer.json)
                assert_time(answer.json["timestamp"])


def assert_time(text):
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text)


# Audit events.


async def test_events_match_document(onboarded):
    running, fleet = onboarded
    data = (await running.api.get(f"{AUTO}/events")).data
    assert matches(data, EVENTS)
    assert set(data) == set(EVENTS)
    assert {field for row in data["events"] for field in row} <= {name.removesuffix("?") for name in ENTRY}
    assert data["pagination"] == {"total": 12, "limit": 50, "offset": 0, "has_more": False}
    assert [row["id"] for row in data["events"]] == sorted((row["id"] for row in data["events"]), reverse=True)
    for row in data["events"]:
        assert_time(row["timestamp"])
        assert row["outcome"] == "success"
        assert "error_code" not in row


async def test_missing_events_are_an_empty_list(rig):
    async with rig.daemon(connected=False) as running:
        for path in ("/events", "/events/AA:BB:CC:DD:EE:F0"):
            answer = await running.api.get(AUTO + path)
            assert answer.data == {
                "events": [],
                "pagination": {"total": 0, "limit": 50, "offset": 0, "has_more": False},
            }


async def test_failure_has_code_and_message(rig):
    async with rig.daemon() as running, rig.fleet(1, faults=["http-500:1"]):

        async def failed():
            return (await running.api.get(f"{AUTO}/events", params={"stage": "failed"})).data["events"]

        (row, *_) = await eventually(failed)
        assert matches(row, ENTRY)
        assert (row["outcome"], row["error_code"]) == ("failure", "VERIFY_BAD_STATUS")
        assert row["error_message"]
        metrics = (await running.status())["metrics"]
        assert metrics["failed"] >= 1
        assert_time(metrics["last_failure_at"])


async def test_event_pages_join_without_gap(onboarded):
    running, _ = onboarded
    whole = (await running.api.get(f"{AUTO}/events")).data["events"]
    pages, offset = [], 0
    while True:
        data = (await running.api.get(f"{AUTO}/events", params={"limit": 5, "offset": offset})).data
        pages += data["events"]
        offset += 5
        assert data["pagination"]["total"] == 12
        if not data["pagination"]["has_more"]:
            break
    assert pages == whole
    assert offset == 15


@pytest.mark.parametrize(
    "limit, offset, count, has_more", [(1, 0, 1, True), (100, 0, 12, False), (12, 0, 12, False), (5, 12, 0, False)]
)
async def test_limit_and_offset_apply(onboarded, limit, offset, count, has_more):
    running, _ = onboarded
    data = (await running.api.get(f"{AUTO}/events", params={"limit": limit, "offset": offset})).data
    assert len(data["events"]) == count
    assert data["pagination"] == {"total": 12, "limit": limit, "offset": offset, "has_more": has_more}


async def test_events_filter_together(onboarded):
    running, fleet = onboarded
    mac = fleet.cameras[0].mac

    async def read_events(**query):
        return (await running.api.get(f"{AUTO}/events", params=query)).data

    everything = (await read_events())["events"]
    for spelling in (mac, mac.lower(), mac.replace(":", "-"), mac.replace(":", "")):
        rows = await read_events(mac=spelling)
        assert [row["stage"] for row in rows["events"]] == ["paired", "registered", "verified", "discovered"]
        assert {row["mac_address"] for row in rows["events"]} == {mac}
        assert rows["pagination"]["total"] == 4
    assert {row["stage"] for row in (await read_events(stage="paired"))["events"]} == {"paired"}
    assert (await read_events(stage="paired", mac=mac))["pagination"]["total"] == 1

    middle = everything[5]["timestamp"]
    since = await read_events(since=middle)
    assert since["events"] == [row for row in everything if row["timestamp"] >= middle]
    assert (await read_events(since="2999-01-01T00:00:00Z"))["events"] == []
    assert (await read_events(since="2000-01-01T00:00:00Z"))["events"] == everything


async def test_events_of_camera_by_path(onboarded):
    running, fleet = onboarded
    mac = fleet.cameras[1].mac
    data = (await running.api.get(f"{AUTO}/events/{mac}")).data
    assert matches(data, EVENTS)
    assert [row["stage"] for row in data["events"]] == ["paired", "registered", "verified", "discovered"]
    page = (await running.api.get(f"{AUTO}/events/{mac}", params={"limit": 1, "offset": 1})).data
    assert page["events"] == data["events"][1:2]
    assert page["pagination"] == {"total": 4, "limit": 1, "offset": 1, "has_more": True}


async def test_metrics_reset_clears_every_counter(onboarded):
    running, _ = onboarded
    answer = await running.api.post(f"{AUTO}/metrics/reset")
    assert (answer.status, list(answer.data)) == (200, ["message"])
    assert set((await running.status())["metrics"].values()) == {0}


async def test_cleanup_removes_older_rows(onboarded, rig):
    running, fleet = onboarded
    await rig.execute_in_thread(
        "UPDATE onboarding_audit SET at = '2020-01-01T00:00:00.000000Z' WHERE stage = 'discovered'"
    )
    answer = await running.admin.post(f"{AUTO}/events/cleanup")
    assert (answer.status, set(answer.data), answer.data["deleted_count"]) == (200, {"deleted_count", "message"}, 3)
    assert (await running.admin.post(f"{AUTO}/events/cleanup", params={"days": 365})).data["deleted_count"] == 0
    left = (await running.api.get(f"{AUTO}/events")).data
    assert left["pagination"]["total"] == 9
    assert "discovered" not in {row["stage"] for row in left["events"]}


@pytest.mark.parametrize("days, status", [(1, 200), (365, 200), (0, 400), (366, 400), ("x", 400), (-1, 400)])
async def test_cleanup_days_are_1_to_365(rig, days, status):
    async with rig.daemon(connected=False) as running:
        answer = await running.admin.post(f"{AUTO}/events/cleanup", params={"days": days})
        assert answer.status == status
        if status == 400:
            assert answer.json["error"]["details"].startswith("days: ")


@pytest.mark.parametrize("limit", [0, 101, -1, "many"])
async def test_limit_is_1_to_100(rig, limit):
    async with rig.daemon(connected=False) as running:
        for path in ("/events", "/events/AA:BB:CC:DD:EE:F0"):
            answer = await running.api.get(AUTO + path, params={"limit": limit})
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith("limit: ")


# The document's client.


async def test_document_client_toggles(rig):
    async with rig.daemon(auto_onboard={"enabled": False}) as running:
        client = AutoOnboardApi(running.api)
        status = await client.get_status()
        assert matches(status, STATUS)
        assert status["mode"] == "dev", "the toggle is shown"
        await client.enable()
        assert (await client.get_status())["enabled"] is True
        await client.disable()
        assert (await client.get_status())["enabled"] is False


async def test_document_client_gets_enable_error(rig):
    async with rig.daemon(connected=False, auto_onboard={"mode": "off", "enabled": False}) as running:
        client = AutoOnboardApi(running.api)
        assert (await client.get_status())["mode"] == "off", "the toggle is hidden"
        with pytest.raises(DashboardError, match="^auto-onboard mode must be 'dev' to enable$"):
            await client.enable()
        await client.disable()


async def test_document_client_gets_auth_error(rig):
    async with rig.daemon(connected=False, auth={"mode": "required"}) as running:
        with pytest.raises(DashboardError, match="this needs an API key"):
            await AutoOnboardApi(running.api).get_status()
        assert matches(await AutoOnboardApi(running.admin).get_status(), STATUS)


# The configuration on the Pi.


async def test_document_environment_is_accepted(rig):
    tree = rig.tree()
    del tree["auto_onboard"], tree["ap"]
    settings = load(environ=PI_ENVIRONMENT, flags=tree).settings
    async with running(settings, notifier=Notifier({})) as daemon, aiohttp.ClientSession() as http:
        data = (await Api(http, daemon.url).get(f"{AUTO}/status")).data
    example = json.loads(EXAMPLE_STATUS)["data"]
    assert (data["enabled"], data["mode"], data["running"]) == (True, "dev", True)
    assert json.dumps(data["config"]) == json.dumps(example["config"])
    assert rig.rows("SELECT id FROM containers") == [(PI_ENVIRONMENT["AUTO_ONBOARD_TARGET_CONTAINER"],)]
