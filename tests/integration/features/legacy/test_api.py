"""The paths of old dashboards: each answer matches its schema (names, types, no nulls) and has the headers."""

import re

import pytest

from pi_orchestrator.app.build import ROUTES
from tests.support.api import call_route, camera_is_registered, exchange
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers", "sample_data_per_route")

OLD = {f"{route.method} {route.path}": route for route in ROUTES if route.successor}
NUMBER = (int, float)
STATUSES = ["online", "idle", "offline", "error", "rebooting", "discovered", "pairing", "connecting"]
CAMERA = {
    "id": str,
    "device_id": str,
    "name": str,
    "status": STATUSES,
    "lastSeen": str,
    "last_seen": str,
    "ip_address": str,
    "mac_address": str,
    "container_id?": str,
    "position?": int,
    "firmware_version?": str,
    "health": {
        "wifi_rssi": int,
        "free_heap": int,
        "heap": int,
        "uptime": int,
        "uptime_seconds": int,
        "resolution?": str,
        "firmware_version?": str,
        "last_capture?": str,
        "last_error?": str,
    },
}
DIAGNOSTICS = CAMERA | {
    "diagnostics": {
        "connection_quality": ["excellent", "good", "fair", "poor"],
        "error_count": int,
        "last_error?": str,
        "last_error_time?": str,
        "avg_capture_time_ms?": NUMBER,
        "remedy?": dict,
    },
    "evidence?": list,
    "why?": str,
}
LINE = {
    "id": int,
    "timestamp": str,
    "level": ["debug", "info", "warn", "error"],
    "component": str,
    "message": str,
    "fields": dict,
}
SYSTEM_INFO = {
    "timestamp": str,
    "cpu": {"usage_percent": NUMBER, "core_count": int, "per_core": [(NUMBER)]},
    "memory": dict.fromkeys(("used_mb", "total_mb", "used_percent", "available_mb"), NUMBER),
    "disk": {"used_gb": NUMBER, "total_gb": NUMBER, "used_percent": NUMBER, "path": str},
    "temperature_celsius": NUMBER,
    "uptime": int,
    "load_average": dict.fromkeys(("load_1", "load_5", "load_15"), NUMBER),
    "overall_status": ["healthy", "warning", "critical"],
    "reasons?": list,
}
ITEM = {
    "key": str,
    "value": str,
    "default_value": str,
    "type": ["string", "number", "boolean", "select", "secret"],
    "description": str,
    "required": bool,
    "editable": bool,
    "validation": {"options?": [str], "min?": NUMBER, "max?": NUMBER, "pattern?": str},
    "origin": str,
    "restart_needed": bool,
}
DEVICE = {
    **dict.fromkeys(("mac_address", "ip_address", "status", "why", "hostname", "vendor"), str),
    **dict.fromkeys(("registered", "is_camera", "locally_administered"), bool),
    **dict.fromkeys(("device_id?", "firmware_version?", "first_seen?", "last_seen?"), str),
    **dict.fromkeys(("ip_addresses", "near", "conflict", "id_conflict", "notes"), [str]),
    "signal_strength": int,
    "evidence": [dict],
}
CONFIG = {"sections": [{"name": str, "description": str, "items": [ITEM]}], "success": [True]}
PICTURE = {"success": [True], "image": str, "timestamp": str, "camera_id": str, "file_size": int}
SCHEMAS = {
    "GET /api/dashboard/cameras": {"cameras": [CAMERA], "count": int, "success": [True]},
    "GET /api/dashboard/cameras/diagnostics": [DIAGNOSTICS],
    "POST /api/dashboard/cameras/{id}/capture": PICTURE,
    "POST /api/dashboard/cameras/{id}/reboot": {"success": [True], "message": str},
    "GET /api/dashboard/config": CONFIG,
    "PUT /api/dashboard/config/{key}": {"item": ITEM, "message": str, "success": [True]},
    "POST /api/dashboard/config/{key}/reset": {"item": ITEM, "message": str, "success": [True]},
    "GET /api/dashboard/logs": {"count": int, "logs": [LINE]},
    "GET /api/dashboard/diagnostics/export": {"generated_at": str, "system": dict, "logs": [LINE], "config": dict},
    "GET /api/dashboard/mqtt/status": {
        "connected": bool,
        "broker": str,
        "port": int,
        "clientId": str,
        "latency_ms": NUMBER,
    },
    "GET /api/dashboard/bridge/status": {
        "status": {"configured": bool, "connected": bool, "url": str},
        "success": [True],
    },
    "GET /api/wifi/status": {
        "status": {
            "client_status": ["connected", "connecting", "disconnected", "error"],
            "client_ssid?": str,
            "client_ip?": str,
            "client_signal?": int,
            "ap_status": ["active", "inactive", "starting"],
            "ap_ssid?": str,
            "ap_ip?": str,
            "connected_devices": int,
        }
    },
    "GET /api/wifi/scan": {
        "count": int,
        "networks": [
            dict.fromkeys(("ssid", "bssid", "security"), str)
            | dict.fromkeys(("frequency", "signal", "channel", "quality"), int)
        ],
    },
    "GET /api/devices": {"devices": [DEVICE]},
    "GET /api/dashboard/tailscale/status": {
        "backend_state": str,
        "tailscale_ip": str,
        "hostname": str,
        "peers": [{"id": str, "hostname": str, "tailscale_ip": str, "online": bool}],
    },
    "GET /api/system/info": SYSTEM_INFO,
}

each_old_path = pytest.mark.parametrize("name", OLD)


def mismatches(value, schema, path="$"):
    """Differences from a schema. A list with one schema is a list of such values; any other list has allowed values."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{path} is no object"]
        allowed = {name.removesuffix("?") for name in schema}
        missing = [f"{path}.{name} is missing" for name in schema if not name.endswith("?") and name not in value]
        extra = [f"{path}.{name} is not in the schema" for name in value if name not in allowed]
        inside = [
            fault
            for name, expected in schema.items()
            if name.removesuffix("?") in value
            for fault in mismatches(value[name.removesuffix("?")], expected, f"{path}.{name}")
        ]
        return missing + extra + inside
    if isinstance(schema, list) and len(schema) == 1 and not isinstance(schema[0], str | bool):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [fault for n, item in enumerate(value) for fault in mismatches(item, schema[0], f"{path}[{n}]")]
    if isinstance(schema, list):
        return [] if value in schema else [f"{path} is {value!r}"]
    fits = isinstance(value, schema) and (schema is bool or not isinstance(value, bool))
    return [] if fits else [f"{path} is {type(value).__name__}"]


@pytest.mark.parametrize(
    "value, schema, fault",
    [
        ({"a": 1}, {"a": int, "b?": str}, None),
        ({"a": True}, {"a": int}, "$.a is bool"),
        ({"a": None}, {"a": [str]}, "$.a is no list"),
        ({"a": [1]}, {"a": [str]}, "$.a[0] is int"),
        ({"a": 1, "b": 2}, {"a": int}, "$.b is not in the schema"),
        ({}, {"a": int}, "$.a is missing"),
        ("x", ["y", "z"], "$ is 'x'"),
        (1.5, NUMBER, None),
        ([], {"a": int}, "$ is no object"),
    ],
)
def test_mismatches_finds_differences(value, schema, fault):
    assert mismatches(value, schema) == ([fault] if fault else [])


def test_every_legacy_path_has_a_schema():
    assert set(OLD) == set(SCHEMAS)


def test_every_legacy_path_has_existing_successor():
    paths = {(route.method, route.path) for route in ROUTES if not route.successor}
    for route in OLD.values():
        assert (route.method, route.successor) in paths, route.path


@pytest.fixture
async def running_with_camera(rig):
    async with rig.daemon() as running, rig.fleet(1):
        await camera_is_registered(running)
        await eventually(running.app.cameras.views.live)
        yield running


async def test_legacy_answer_matches_schema_and_names_successor(running_with_camera):
    for name, route in OLD.items():
        answer = await call_route(running_with_camera.admin, route, headers={"Accept": "application/json"})
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json"), name
        assert mismatches(answer.json, SCHEMAS[name]) == [], name
        assert answer.headers["Deprecation"] == "true"
        successor = re.fullmatch(r'<(/api/v1/[^<>{}]+)>; rel="successor-version"', answer.headers["Link"])
        assert successor, f"{name}: {answer.headers['Link']}"
        current = await running_with_camera.admin.call(
            route.method, successor[1], headers={"Accept": "application/json"}, json={}
        )
        assert current.status != 404, f"{name}: the linked path is not found"
        assert "Deprecation" not in current.headers


async def test_empty_lists_are_not_null(rig):
    async with rig.daemon(connected=False) as running:
        empty = {"cameras": [], "count": 0, "success": True}
        assert (await running.api.get("/api/dashboard/cameras")).json == empty
        assert (await running.api.get("/api/dashboard/cameras/diagnostics")).json == []
        assert (await running.api.get("/api/devices")).json == {"devices": []}


async def test_legacy_errors_name_successor(daemon):
    for path, link in (
        ("/api/dashboard/config/cameras.nonsense", "/api/v1/config/cameras.nonsense"),
        ("/api/dashboard/config/%0d%0aX-Evil:1", "/api/v1/config/%0D%0AX-Evil:1"),
        ("/api/dashboard/config/%ff", None),
        ("/api/dashboard/config/a%3E%3B%22b", "/api/v1/config/a%3E%3B%22b"),
    ):
        answer = await exchange(
            daemon, "PUT", path, [("X-API-Key", daemon.admin.key), ("Content-Type", "application/json")]
        )
        assert answer.status in (400, 404), path
        assert answer.json["code"] == answer.json["error"]["code"]
        assert "X-Evil" not in answer.headers
        assert answer.headers.get("Deprecation") == "true", f"{path} {answer.status} {answer.body}"
        assert link is None or answer.headers["Link"] == f'<{link}>; rel="successor-version"'
