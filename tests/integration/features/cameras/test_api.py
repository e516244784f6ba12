"""API of cameras, two listeners, readiness and metrics."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pi_orchestrator import __version__
from pi_orchestrator.app.build import ROUTES
from pi_orchestrator.core.errors import StartupError
from pi_orchestrator.core.health import State
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.edge_http.key_store import Scope
from tests.support.api import ALLOWLIST, BATCH, call_route, camera_is_registered, case, check_answer, exchange
from tests.support.rig import Api
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

CAMERAS = "/api/v1/cameras"
PAIRED = "/api/v1/espcam/paired"
STATUSES = {"online", "idle", "offline", "error", "rebooting", "discovered", "pairing", "connecting"}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
ONBOARDING_OFF = {"auto_onboard": {"enabled": False}}

FIELDS = {"id", "device_id", "name", "status", "lastSeen", "last_seen", "ip_address", "mac_address", "health"}
OPTIONAL = {"container_id", "position", "firmware_version"}
HEALTH = {"wifi_rssi": int, "free_heap": int, "heap": int, "uptime": int, "uptime_seconds": int}
OPTIONAL_HEALTH = {"resolution", "firmware_version", "last_capture", "last_error"}
PAIRED_FIELDS = {
    "mac_address": str,
    "container_id": str,
    "position": int,
    "status": str,
    "firmware_version": str,
    "signal_strength": int,
    "last_image": str,
    "paired_at": str,
    "last_seen": str,
}


@pytest.fixture
async def online_camera(rig):
    """A daemon with one registered camera that is online."""
    async with rig.daemon() as running, rig.fleet(1) as fleet:
        await camera_is_registered(running)
        yield running, fleet.cameras[0]


def check_camera(camera):
    assert FIELDS <= set(camera) <= FIELDS | OPTIONAL
    assert camera["id"] == camera["device_id"]
    assert camera["lastSeen"] == camera["last_seen"]
    assert re.fullmatch(TIME, camera["last_seen"])
    assert camera["status"] in STATUSES
    assert re.fullmatch(r"([0-9A-F]{2}:){5}[0-9A-F]{2}", camera["mac_address"])
    assert set(HEALTH) <= set(camera["health"]) <= set(HEALTH) | OPTIONAL_HEALTH
    for name, kind in HEALTH.items():
        assert type(camera["health"][name]) is kind
    assert camera["health"]["heap"] == camera["health"]["free_heap"]
    assert camera["health"]["uptime"] == camera["health"]["uptime_seconds"]


# The list.


async def test_list_is_in_envelope_and_at_top_level(online_camera):
    running, camera = online_camera
    body = (await running.api.get(CAMERAS)).json
    assert body["success"] is True
    assert body["data"] == {"cameras": body["cameras"], "count": body["count"]}
    assert body["count"] == len(body["cameras"]) == 1
    (shown,) = body["cameras"]
    check_camera(shown)
    assert shown["mac_address"] == camera.mac
    assert (shown["container_id"], shown["position"]) == ("auto-onboard", 1)
    assert shown["firmware_version"] == shown["health"]["firmware_version"] == "2.4.1"
    assert shown["ip_address"] == str(camera.address)


async def test_camera_shows_reported_values(rig):
    async with rig.daemon(**ONBOARDING_OFF) as running:
        await rig.announce(
            1,
            device_id="front-door",
            rssi_dbm=-61,
            free_heap_bytes=123456,
            uptime_ms=65_400,
            firmware_version="3.0.0-rc1",
            resolution="SVGA",
            last_error="camera init failed",
        )
        await running.wait_until_processed(rig)
        shown = (await running.api.get(f"{CAMERAS}/{rig.mac(1)}")).data
    check_camera(shown)
    assert (shown["id"], shown["name"], shown["status"]) == ("front-door", "front-door", "discovered")
    assert "container_id" not in shown
    assert "position" not in shown
    assert shown["health"] == {
        "wifi_rssi": -61,
        "free_heap": 123456,
        "heap": 123456,
        "uptime": 65,
        "uptime_seconds": 65,
        "resolution": "SVGA",
        "firmware_version": "3.0.0-rc1",
        "last_error": "camera init failed",
    }


async def test_camera_with_few_reported_values_has_all_fields(rig):
    async with rig.daemon(**ONBOARDING_OFF) as running:
        await rig.announce(1, ip=None)
        await running.wait_until_processed(rig)
        shown = (await running.api.get(f"{CAMERAS}/{rig.mac(1)}")).data
    check_camera(shown)
    assert shown["id"] == rig.mac(1)
    assert shown["ip_address"] == ""
    assert shown["health"] == dict.fromkeys(HEALTH, 0)
    assert "firmware_version" not in shown


async def test_listed_id_resolves_to_its_camera(rig):
    async with rig.daemon(**ONBOARDING_OFF) as running:
        await running.api.post("/api/v1/espcam/pair", json={"mac": rig.mac(1), "container_id": "auto-onboard"})
        taken = running.app.cameras.cache.get(Mac(rig.mac(1))).device_id
        await rig.announce(1)
        await rig.announce(2, device_id=taken)
        await rig.announce(3, device_id="front-door")
        await rig.announce(4, device_id="front-door")
        await rig.announce(5)
        await running.wait_until_processed(rig)
        shown = {camera["mac_address"]: camera["id"] for camera in (await running.api.get(CAMERAS)).data["cameras"]}
        assert [shown[rig.mac(number)] for number in (1, 2, 3, 4)] == [
            taken,
            rig.mac(2),
            rig.mac(3),  # two cameras use the id, so it is the id of neither
            rig.mac(4),
        ]
        for mac, name in shown.items():
            assert (await running.camera(name))["mac_address"] == mac

        # The id belongs to the registered camera, even if another camera claimed it first.
        place = {"mac": rig.mac(4), "container_id": "auto-onboard"}
        assert (await running.api.post("/api/v1/espcam/pair", json=place)).data["device_id"] == "front-door"
        listed = (await running.api.get(CAMERAS)).data["cameras"]
        assert [camera["mac_address"] for camera in listed if camera["id"] == "front-door"] == [rig.mac(4)]


async def test_registered_cameras_are_listed_first_in_stable_order(rig):
    async with rig.daemon() as running, rig.fleet(4):
        await eventually(lambda: len(running.app.cameras.cache) == 4)
        await running.api.post("/api/v1/onboarding/auto/disable")
        for number in (7, 3, 5):
            await rig.announce(number)
        await running.wait_until_processed(rig)
        first = [camera["mac_address"] for camera in (await running.api.get(CAMERAS)).data["cameras"]]
        registered = [camera["mac_address"] for camera in (await running.api.get(PAIRED)).data["cameras"]]
        assert first[:4] == registered
        for number in (5, 7):
            await rig.announce(number)
        await running.wait_until_processed(rig)
        again = [camera["mac_address"] for camera in (await running.api.get(CAMERAS)).data["cameras"]]
        assert [mac for mac in again if mac in first] == first


async def test_published_change_is_in_next_response(rig):
    async with rig.daemon(**ONBOARDING_OFF) as running:
        for rssi in (-40, -80):
            await rig.announce(1, rssi_dbm=rssi)

            async def is_shown(rssi=rssi):
                camera = await running.camera(rig.mac(1))
                return camera and camera["health"]["wifi_rssi"] == rssi

            await eventually(is_shown)


# One camera.


def spellings(mac):
    bare = mac.replace(":", "")
    return [
        mac,
        mac.lower(),
        mac.replace(":", "-"),
        bare,
        bare.lower(),
        f"{bare[:4]}.{bare[4:8]}.{bare[8:]}",
        mac.replace(":", "%3A"),
        mac.lower().replace(":", "%3a"),
    ]


async def test_camera_is_found_by_mac_and_device_id(online_camera):
    running, camera = online_camera
    whole = (await running.api.get(f"{CAMERAS}/{camera.mac}")).data
    for name in [*spellings(camera.mac), camera.device_id]:
        with case(name):
            answer = await exchange(running, "GET", f"{CAMERAS}/{name}")
            assert answer.status == 200
            assert answer.data["mac_address"] == camera.mac
            assert answer.data["id"] == whole["id"] == camera.device_id


async def test_unregistered_camera_is_found_by_every_name(rig):
    async with rig.daemon(**ONBOARDING_OFF) as running:
        await rig.announce(1, device_id="garden_cam-1")
        await running.wait_until_processed(rig)
        for name in [*spellings(rig.mac(1)), "garden_cam-1"]:
            with case(name):
                answer = await exchange(running, "GET", f"{CAMERAS}/{name}")
                assert (answer.status, answer.json.get("mac_address")) == (200, rig.mac(1))


async def test_camera_is_in_envelope_and_at_top_level(online_camera):
    running, camera = online_camera
    body = (await running.api.get(f"{CAMERAS}/{camera.device_id}")).json
    check_camera(body["data"])
    assert {**body, **body["data"]} == body
    (listed,) = (await running.api.get(CAMERAS)).data["cameras"]
    assert set(listed) == set(body["data"])


async def test_unknown_camera_is_404(online_camera):
    running, _ = online_camera
    for name in ("AA:BB:CC:DD:EE:F0", "espcam-000000", "nonsense", "%00", "..%2fkeys", "%C3%A9", "FF:FF:FF:FF:FF:FF"):
        with case(name):
            answer = await exchange(running, "GET", f"{CAMERAS}/{name}")
            check_answer("GET", f"{CAMERAS}/{name}", answer)
            assert (answer.status, answer.json["code"]) == (404, "CAMERA_NOT_FOUND")
            assert answer.json["error"]["retryable"] is False
    too_long = await running.api.get(f"{CAMERAS}/{'x' * 65}")
    assert (too_long.status, too_long.json["code"]) == (400, "VALIDATION_FAILED")


# Diagnostics.


async def test_diagnostics_is_bare_array(online_camera):
    running, camera = online_camera
    body = (await running.api.get(f"{CAMERAS}/diagnostics")).json
    assert isinstance(body, list)
    (shown,) = body
    diagnostics, why, (evidence,) = (shown.pop(name) for name in ("diagnostics", "why", "evidence"))
    check_camera(shown)
    assert why.startswith("published on MQTT ")
    assert (evidence["source"], evidence["proves_life"], evidence["age_seconds"] < 60) == ("mqtt", True, True)
    assert shown["mac_address"] == camera.mac
    assert set(diagnostics) == {"connection_quality", "error_count", "remedy"}
    assert diagnostics["remedy"] == {"state": "ok", "failures": 0, "advice": ""}
    assert diagnostics["error_count"] == 0


async def test_connection_quality_depends_on_signal(rig):
    qualities = {-30: "excellent", -50: "excellent", -51: "good", -60: "good", -61: "fair", -70: "fair", -71: "poor"}
    qualities |= {-120: "poor", None: "poor"}
    async with rig.daemon(**ONBOARDING_OFF) as running:
        for number, rssi in enumerate(qualities):
            await rig.announce(number, rssi_dbm=rssi)
        await running.wait_until_processed(rig)
        body = (await running.api.get(f"{CAMERAS}/diagnostics")).json
        shown = {camera["mac_address"]: camera["diagnostics"]["connection_quality"] for camera in body}
        for number, quality in enumerate(qualities.values()):
            assert shown[rig.mac(number)] == quality


async def test_errors_are_counted_and_shown(rig):
    async with rig.daemon(**ONBOARDING_OFF) as running:
        for error in ("no frame", "no frame", "brownout", None):
            await rig.announce(1, last_error=error)
        await running.wait_until_processed(rig)
        shown = next(
            camera
            for camera in (await running.api.get(f"{CAMERAS}/diagnostics")).json
            if camera["mac_address"] == rig.mac(1)
        )
        assert shown["diagnostics"]["error_count"] == 2
        assert shown["diagnostics"]["last_error"] == "brownout"


# Paired cameras.


def check_paired(camera):
    assert set(PAIRED_FIELDS) <= set(camera) <= set(PAIRED_FIELDS) | {"name", "error_message"}
    for name, kind in PAIRED_FIELDS.items():
        assert type(camera[name]) is kind, name
    assert camera["position"] in (1, 2, 3, 4)
    assert camera["status"] in ("online", "offline", "pairing", "error")
    assert re.fullmatch(TIME, camera["paired_at"])


async def test_paired_camera_has_every_field(rig):
    async with rig.daemon() as running, rig.fleet(5):
        await eventually(lambda: len(running.app.cameras.cache) == 5)
        data = (await running.api.get(PAIRED)).data
        assert set(data) == {"cameras", "total", "online_count", "online"}
        assert (data["total"], data["online_count"], data["online"]) == (5, 5, 5)
        for camera in data["cameras"]:
            check_paired(camera)
            assert camera["firmware_version"] == "2.4.1"
            assert camera["signal_strength"] < 0
            assert camera["last_image"] == ""
    async with rig.daemon(cameras={"idle_after_s": 0.1, "offline_after_s": 0.2}) as running:

        async def all_offline():
            data = (await running.api.get(PAIRED)).data
            return data if data["online"] == 0 else None

        data = await eventually(all_offline)
        assert (data["total"], data["online_count"]) == (5, 0)
        for camera in data["cameras"]:
            check_paired(camera)
            assert camera["status"] == "offline"
            assert camera["signal_strength"] == 0
            assert re.fullmatch(TIME, camera["last_seen"])


async def test_paired_camera_shows_sensor_error(rig):
    async with rig.daemon() as running, rig.camera(1) as camera:
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await camera.publish_status(camera_initialized=False, last_error="sensor not found")

        async def broken():
            (shown,) = (await running.api.get(PAIRED)).data["cameras"]
            return shown if shown["status"] == "error" else None

        shown = await eventually(broken)
        check_paired(shown)
        assert shown["error_message"] == "sensor not found"


# Two listeners.


# The statuses of a second call: the allowlist entry and the session exist by then.
SECOND_STATUS = {ALLOWLIST: 200, BATCH: 409, f"{BATCH}/start": 409}


async def test_two_listeners_serve_the_same_routes(rig):
    listen = {"listen": ["127.0.0.1:0", "127.0.0.1:0"]}
    async with rig.daemon(http=listen) as running, rig.fleet(1):
        await camera_is_registered(running)
        first, second = running.daemon.listen
        assert first.port != second.port
        second_api = Api(running.api.session, f"http://{second}", running.admin.key)
        for route in ROUTES:
            options = {"json": {"name": "on the other", "scope": "read"}} if route.secret else {}
            expected, served = await call_route(running.admin, route), await call_route(second_api, route, **options)
            assert (served.status, served.headers["Content-Type"] if served.body else None) == (
                SECOND_STATUS.get(route.path, expected.status),
                expected.headers["Content-Type"] if expected.body else None,
            )
        await second_api.post("/api/v1/onboarding/auto/disable")
        assert (await running.status())["enabled"] is False, "both listeners share the state"

        page = {"Origin": f"http://127.0.0.1:{second.port}"}
        answer = await running.api.post("/api/v1/onboarding/auto/enable", headers=page)
        assert answer.status == 200, "pages of the dashboard port may use the API port"


async def test_occupied_port_is_reported_with_remedy(rig, tmp_path):
    async with rig.daemon() as running:
        taken = str(running.daemon.listen[0])
        rig.state_dir = tmp_path / "another"
        with pytest.raises(StartupError) as refused:
            async with rig.daemon(http={"listen": ["127.0.0.1:0", taken]}):
                pass
        assert taken in refused.value.message
        assert taken.rsplit(":", 1)[1] in refused.value.remedy
        assert (await running.api.get("/health")).status == 200


# Health, readiness and metrics.


async def test_health_and_version_need_no_key(rig):
    async with rig.daemon(connected=False, auth={"mode": "required"}) as running:
        for path in ("/health", "/api/health", "/api/v1/health"):
            assert (await running.api.get(path)).json == {"status": "ok", "version": __version__}
        assert (await running.api.get("/version")).json == {"version": __version__}
        assert (await running.api.get("/healthz")).status == 200


async def test_readiness_needs_database_and_shows_broker(rig):
    async with rig.daemon() as running:
        ready = await running.api.get("/readyz")
        assert ready.status == 200
        assert ready.json["ready"] is True
        assert ready.json["errors"] == []
        assert {"database", "mqtt", "presence", "onboarding"} <= set(ready.json["checks"])
        assert set(ready.json["checks"].values()) == {True}

        await rig.broker.stop()

        async def broker_is_reported():
            answer = await running.api.get("/readyz")
            return answer if answer.json["checks"]["mqtt"] is False else None

        answer = await eventually(broker_is_reported)
        assert (answer.status, answer.json["ready"]) == (200, True), "the daemon is ready without a broker"
        assert any(error.startswith("mqtt: ") for error in answer.json["errors"])

        # The watchdog sets this state if the writer does not answer.
        running.app.resources.health.set("database", State.FAILED, "the writer does not answer")
        answer = await running.api.get("/readyz")
        assert (answer.status, answer.json["ready"], answer.json["checks"]["database"]) == (503, False, False)
        assert "database: the writer does not answer" in answer.json["errors"]
        assert (await running.api.get("/healthz")).status == 200, "the process is alive"


def families(answer):
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(answer.body.decode())}


async def test_metrics_are_prefixed_and_described(online_camera):
    running, _ = online_camera
    found = families(await running.api.get("/metrics"))
    assert found
    for name, family in found.items():
        with case(name):
            assert name.startswith("piorch_")
            assert family.documentation
            assert family.type in ("counter", "gauge")
            assert family.samples or family.type == "counter"
            assert not re.search(r"_(ms|millis|minutes|hours|kb|mb|percent|fahrenheit)(_|$)", name), "base units"
            for sample in family.samples:
                assert sample.name.endswith("_total") == (family.type == "counter")
    assert {"piorch_build_info", "piorch_cameras", "piorch_mqtt_connected", "piorch_http_responses"} <= set(found)
    assert found["piorch_build_info"].samples[0].labels == {"version": __version__}


async def test_metric_labels_have_only_fixed_values(rig):
    """Labels with values chosen by devices would fill a Prometheus server."""
    async with rig.daemon() as running, rig.fleet(3, faults=["http-500:1"]):
        await eventually(lambda: len(running.app.cameras.cache) == 2)
        for path in ("/api/v1/nothing", f"/api/{'x' * 50}", f"{CAMERAS}/invented", PAIRED):
            await running.api.get(path, headers={"User-Agent": "free text", "Host": "invented.local"})
        await exchange(running, "TEAPOT", "/health")
        found = families(await running.api.get("/metrics"))
    labels = [
        (name, value) for family in found.values() for sample in family.samples for name, value in sample.labels.items()
    ]
    assert {name for name, _ in labels} == {"version", "status", "kind", "outcome", "component", "remedy"}
    for name, value in labels:
        with case(name, value):
            assert name == "version" or re.fullmatch(r"[a-z][a-z_]{0,31}|[1-5]\d\d", value)


async def test_metrics_count_events(online_camera):
    running, _ = online_camera

    def count(found, name, **labels):
        samples = [sample for sample in found[name].samples if labels.items() <= sample.labels.items()]
        return sum(sample.value for sample in samples)

    before = families(await running.api.get("/metrics"))
    for _ in range(3):
        assert (await running.api.get("/api/nothing")).status == 404
    await running.api.post("/api/v1/onboarding/auto/disable")
    after = families(await running.api.get("/metrics"))
    responses = "piorch_http_responses"
    assert count(after, responses, status="404") == count(before, responses, status="404") + 3
    assert count(after, responses, status="200") >= count(before, responses, status="200") + 2
    assert count(after, "piorch_database_commits") > count(before, "piorch_database_commits")
    assert count(after, "piorch_cameras", status="online") == 1
    assert count(after, "piorch_onboarding", outcome="success") == 1
    assert count(after, "piorch_status_messages", kind="live") >= 1
    assert count(after, "piorch_mqtt_connected") == 1
    assert count(after, "piorch_component_up", component="database") == 1


def test_metrics_need_key_if_all_routes_do():
    (route,) = [route for route in ROUTES if route.path == "/metrics"]
    assert route.scope is Scope.READ
