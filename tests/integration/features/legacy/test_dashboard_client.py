"""The API as PiDashboard uses it: a small client that behaves like its code, tab by tab.

It sends requests without a key if it has none, and every method up to three times. It treats 404 and 503 as a missing
feature, reads `code` at the top level of an error, and uses only `onmessage` of event streams.
"""

import asyncio
import base64
import contextlib
import json
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
import pytest

from tests.support.api import CAMERA
from tests.support.rig import free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

ATTEMPTS = 3
CAMERA_STATUSES = {"online", "offline", "idle", "error", "rebooting", "discovered", "pairing", "connecting"}
PATHS_OF_OTHER_DAEMONS = (
    "/door/status",
    "/door/history",
    "/door/open",
    "/dashboard/door/status",
    "/v1/containers/auto-onboard/inventory/latest",
    "/v1/sessions",
    "/v1/cameras/x/evidence/latest",
    "/bluetooth/devices",
    "/provisioning/bluetooth/status",
    "/dashboard/tailscale/ping",
)


class FaultError(Exception):
    """A failure that the page would show as an error."""


@dataclass
class RefusedError(Exception):
    """An error answer, as the page reads it."""

    status: int
    code: str | None
    request_id: str | None

    @property
    def feature_is_absent(self):
        return self.status in (404, 503)


class Dashboard:
    """A browser tab with the dashboard; `key` is the key that was entered."""

    def __init__(self, session, url):
        self.session, self.url, self.key = session, url, None
        self.attempts = 0

    async def request(self, method, endpoint, body=None, *, keyed=False, accept="application/json"):
        """The JSON of an answer, or None; RefusedError or FaultError on failure."""
        headers = {"Content-Type": "application/json", "Accept": accept}
        if keyed and self.key:
            headers["X-API-Key"] = self.key
        fault = None
        for self.attempts in range(1, ATTEMPTS + 1):
            data = None if body is None else json.dumps(body)
            try:
                async with self.session.request(
                    method, f"{self.url}/api{endpoint}", data=data, headers=headers, timeout=aiohttp.ClientTimeout(30)
                ) as response:
                    return await self._read(response)
            except RefusedError as refused:
                if refused.status < 500 or refused.status == 503:
                    raise
                fault = refused
            except aiohttp.ClientError as error:
                fault = error
        raise FaultError(f"{method} {endpoint}: {fault!r}")

    async def _read(self, response):
        kind = response.headers.get("Content-Type", "")
        if "text/html" in kind:
            raise FaultError(f"{response.url} returned an HTML page")
        if response.status >= 400:
            body = await response.json() if "application/json" in kind else {}
            raise RefusedError(response.status, body.get("code"), response.headers.get("X-Request-Id"))
        if "image/" in kind:
            return await response.read()
        return await response.json() if "application/json" in kind else None

    async def get(self, endpoint, **options):
        return await self.request("GET", endpoint, **options)

    async def v1(self, method, endpoint, body=None, *, keyed=False):
        """The data of the envelope."""
        answer = await self.request(method, f"/v1{endpoint}", body, keyed=keyed)
        if answer is None:
            return None
        assert answer["success"] is True
        assert answer["correlation_id"]
        return answer["data"]

    @contextlib.asynccontextmanager
    async def event_source(self, endpoint):
        """A queue of the messages of `onmessage`; named frames are ignored, and no header can be sent."""
        messages = asyncio.Queue()
        async with self.session.get(f"{self.url}/api{endpoint}", headers={"Accept": "text/event-stream"}) as response:
            assert response.status == 200, await response.text()
            assert response.headers["Content-Type"].startswith("text/event-stream")
            listening = asyncio.create_task(_listen(response, messages))
            try:
                yield messages
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)


async def _listen(response, messages):
    rest = b""
    async for chunk in response.content.iter_any():
        rest += chunk
        while b"\n\n" in rest:
            block, rest = rest.split(b"\n\n", 1)
            fields = dict(line.split(":", 1) for line in block.decode().split("\n") if ":" in line)
            if "data" in fields and "event" not in fields:
                messages.put_nowait(json.loads(fields["data"]))


async def until(messages, predicate, within=10):
    """The first message for which `predicate` is true."""
    async with asyncio.timeout(within):
        while not predicate(message := await messages.get()):
            pass
        return message


@pytest.fixture
async def dashboard(rig):
    """The dashboard of a daemon with three live, registered cameras; `dashboard.running` is the daemon."""
    async with rig.daemon() as running, rig.fleet(3) as fleet:
        await eventually(lambda: len(running.app.cameras.views.live()) == 3 and len(running.app.cameras.cache) == 3)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            page = Dashboard(session, running.daemon.url)
            page.running, page.fleet = running, fleet
            yield page


async def test_overview_wifi_devices_and_network_tabs_get_their_data(dashboard):
    machine = await dashboard.v1("GET", "/system/info")
    assert machine["uptime"] > 1e9, "nanoseconds"
    assert 0 <= machine["cpu"]["usage_percent"] <= 100
    assert machine["cpu"]["core_count"] >= 1
    assert {"load_1", "load_5", "load_15"} == machine["load_average"].keys()
    assert await dashboard.get("/health") == {"status": "ok", "version": "0.1.0"}

    status = (await dashboard.get("/wifi/status"))["status"]
    assert status["client_status"] in ("connected", "disconnected", "connecting", "error")
    assert status["ap_status"] in ("active", "inactive", "starting")
    networks = (await dashboard.get("/wifi/scan"))["networks"]
    assert [(network["ssid"], network["security"]) for network in networks][:1] == [("Office", "WPA2/WPA3")]
    assert all(isinstance(network["signal"], int) for network in networks)

    assert len((await dashboard.get("/devices"))["devices"]) == 3

    mqtt = await dashboard.get("/dashboard/mqtt/status")
    assert (mqtt["connected"], mqtt["clientId"]) == (True, "pi-orchestrator")
    assert mqtt["latency_ms"] > 0
    gateway = await dashboard.get("/dashboard/bridge/status")
    assert (gateway["success"], gateway["status"]["connected"]) == (True, False)
    vpn = await dashboard.get("/dashboard/tailscale/status")
    assert (vpn["backend_state"], [peer["online"] for peer in vpn["peers"]]) == ("Running", [True, False])


async def test_cameras_are_listed_in_both_shapes(dashboard):
    answer = await dashboard.get("/v1/cameras")
    old = await dashboard.get("/dashboard/cameras")
    assert answer["data"]["count"] == old["count"] == 3
    assert {camera["id"] for camera in old["cameras"]} == {camera["id"] for camera in answer["data"]["cameras"]}
    for camera in (*answer["data"]["cameras"], *old["cameras"]):
        assert camera["id"]
        assert camera["lastSeen"].endswith("Z")
        assert camera["status"] in CAMERA_STATUSES
        assert camera["health"]["free_heap"] >= 0
    shown = await dashboard.get(f"/v1/cameras/{quote(CAMERA, safe='')}")
    assert shown["mac_address"] == CAMERA, "at the top level, as the page reads it"
    for diagnosed in (
        await dashboard.get("/v1/cameras/diagnostics"),
        await dashboard.get("/dashboard/cameras/diagnostics"),
    ):
        assert len(diagnosed) == 3
        assert {row["diagnostics"]["connection_quality"] for row in diagnosed} <= {"excellent", "good", "fair", "poor"}
    paired = await dashboard.v1("GET", "/espcam/paired")
    assert (paired["total"], len(paired["cameras"])) == (3, 3)
    assert {camera["position"] for camera in paired["cameras"]} == {1, 2, 3}
    with pytest.raises(RefusedError) as refused:
        await dashboard.get("/v1/cameras/nobody")
    assert (refused.value.status, refused.value.code) == (404, "CAMERA_NOT_FOUND")
    assert refused.value.request_id


async def test_picture_is_sent_as_bytes_and_as_json(dashboard):
    camera = (await dashboard.get("/v1/cameras"))["data"]["cameras"][0]["id"]
    picture = await dashboard.request("POST", f"/v1/cameras/{camera}/capture", accept="*/*")
    assert picture[:2] == b"\xff\xd8"
    assert picture[-2:] == b"\xff\xd9"
    old = await dashboard.request("POST", f"/dashboard/cameras/{camera}/capture")
    assert (old["success"], old["camera_id"]) == (True, camera)
    assert len(base64.b64decode(old["image"])) == old["file_size"]
    for path in (f"/v1/cameras/{camera}/reboot", f"/dashboard/cameras/{camera}/reboot"):
        answer = await dashboard.request("POST", path)
        assert answer["success"] is True
        assert answer["message"]


async def test_containers_tab_creates_changes_and_assigns(dashboard):
    listed = await dashboard.v1("GET", "/containers")
    assert listed["containers"][0]["camera_count"] == 3
    created = await dashboard.v1("POST", "/containers", {"label": "Fridge 7", "description": "by the door"})
    assert (created["label"], created["cameras"]) == ("Fridge 7", []), "the container itself, without a wrapper"
    path = f"/containers/{quote(created['id'], safe='')}"
    changed = await dashboard.v1("PATCH", path, {"label": "Fridge 8"})
    assert changed["label"] == "Fridge 8"
    with pytest.raises(RefusedError) as refused:
        await dashboard.v1("POST", f"{path}/cameras", {"device_id": "nobody", "position": 1})
    assert refused.value.status in (400, 404)
    camera = listed["containers"][0]["cameras"][0]
    with pytest.raises(RefusedError) as refused:
        await dashboard.v1("POST", f"{path}/cameras", {"device_id": camera["device_id"], "position": 1})
    assert (refused.value.status, refused.value.code) == (409, "CAMERA_ALREADY_ASSIGNED")
    target = f"/containers/{quote(listed['containers'][0]['id'], safe='')}"
    await dashboard.v1("DELETE", f"{target}/cameras/{quote(camera['device_id'], safe='')}")
    assigned = await dashboard.v1("POST", f"{path}/cameras", {"device_id": camera["device_id"], "position": 2})
    assert (assigned["device_id"], assigned["position"]) == (camera["device_id"], 2)


async def test_onboarding_tab_works_without_key(dashboard):
    status = await dashboard.v1("GET", "/onboarding/auto/status")
    assert (status["enabled"], status["mode"]) == (True, "dev")
    events = await dashboard.v1("GET", "/onboarding/auto/events?limit=50&offset=0")
    assert {event["stage"] for event in events["events"]} >= {"discovered", "verified", "registered", "paired"}
    of_camera = await dashboard.v1("GET", f"/onboarding/auto/events/{quote(CAMERA, safe='')}")
    assert {event["mac_address"] for event in of_camera["events"]} == {CAMERA}
    assert (await dashboard.v1("POST", "/onboarding/auto/disable"))["enabled"] is False
    assert (await dashboard.v1("POST", "/onboarding/auto/enable"))["enabled"] is True


async def test_provisioning_needs_key_and_stream_uses_cookie(dashboard):
    network = "/v1/provisioning/network/status"
    for attempt in (dashboard.get(network), dashboard.get("/v1/provisioning/allowlist")):
        with pytest.raises(RefusedError) as refused:
            await attempt
        assert (refused.value.status, refused.value.code) == (401, "UNAUTHORIZED")
    assert dashboard.attempts == 1, "401 is not repeated"
    dashboard.key = dashboard.running.admin.key
    assert (await dashboard.v1("GET", "/provisioning/sessions/recoverable", keyed=True))["sessions"] == []
    entry = {"mac": "24:6F:28:44:CC:70", "description": "Camera 1"}
    assert (await dashboard.v1("POST", "/provisioning/allowlist", entry, keyed=True))["entry"]["used"] is False
    listed = (await dashboard.v1("GET", "/provisioning/allowlist", keyed=True))["entries"]
    assert entry["mac"] in {item["mac"] for item in listed}
    target = {"target_ssid": "Target-Net", "target_password": "correct horse battery"}
    session = (await dashboard.v1("POST", "/provisioning/batch/start", target, keyed=True))["session"]
    assert (session["state"], session["target_ssid"]) == ("discovering", "Target-Net")
    async with dashboard.event_source(f"/v1/provisioning/batch/events?session_id={session['id']}") as messages:
        first = await until(messages, lambda message: True)
        assert first["type"] == "connection.established"
        assert first["version"] == "1.0"
        shown = await dashboard.v1("GET", f"/provisioning/batch/{session['id']}?include_devices=true", keyed=True)
        assert isinstance(shown["devices"], list)
        await dashboard.v1("POST", f"/provisioning/batch/{session['id']}/stop", keyed=True)
        ended = await until(messages, lambda message: message["type"] == "session.status" and _closed(message))
        assert ended["session_id"] == session["id"]
    assert await dashboard.v1("DELETE", "/provisioning/allowlist/24%3A6F%3A28%3A44%3ACC%3A70", keyed=True) is None


def _closed(message):
    return message["payload"]["session"]["state"] == "closed"


async def test_log_stream_can_be_reopened(dashboard):
    for _ in range(2):
        async with dashboard.event_source("/v1/system/logs/stream") as messages:
            line = await until(messages, lambda message: message.get("message"))
            assert line["level"] in ("debug", "info", "warn", "error")
            assert line.keys() == {"id", "timestamp", "level", "component", "message", "fields"}
    recent = await dashboard.get("/dashboard/logs?limit=20")
    assert recent["count"] == len(recent["logs"]) > 0
    report = await dashboard.get("/dashboard/diagnostics/export")
    assert {"generated_at", "system", "logs", "config"} == report.keys()


async def test_configuration_write_needs_key(dashboard):
    sections = (await dashboard.get("/dashboard/config"))["sections"]
    items = {item["key"]: item for section in sections for item in section["items"]}
    assert all(isinstance(item["value"], str) for item in items.values())
    assert items["auth.api_key"]["type"] == "secret"
    with pytest.raises(RefusedError) as refused:
        await dashboard.request("PUT", "/dashboard/config/cameras.idle_after_s", {"value": "90"})
    assert (refused.value.status, refused.value.code) == (401, "UNAUTHORIZED")
    dashboard.key = dashboard.running.admin.key
    for method, path, body in (
        ("PUT", "/dashboard/config/cameras.idle_after_s", {"value": "90"}),
        ("POST", "/dashboard/config/cameras.idle_after_s/reset", None),
    ):
        assert (await dashboard.request(method, path, body, keyed=True))["success"] is True


async def test_paths_of_other_daemons_are_not_found(dashboard):
    for endpoint in PATHS_OF_OTHER_DAEMONS:
        for method in ("GET", "POST"):
            with pytest.raises(RefusedError) as refused:
                await dashboard.request(method, endpoint, {} if method == "POST" else None)
            assert refused.value.feature_is_absent, endpoint
            assert refused.value.code == "NOT_FOUND"
            assert dashboard.attempts == 1


@contextlib.asynccontextmanager
async def lossy_proxy(url, count):
    """A proxy that drops the first `count` answers; yields its URL and the list of requests."""
    host, port = url.removeprefix("http://").split(":")
    requests = []

    async def relay(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        head = request.decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0]) if "content-length: " in head else 0
        request += await reader.readexactly(length)
        requests.append(request)
        upstream, out = await asyncio.open_connection(host, int(port))
        out.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        answer = await upstream.read()
        out.close()
        if len(requests) > count:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", free_port())
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


async def test_write_with_lost_answers_has_effect_once(dashboard, rig):
    entry = {"mac": "24:6F:28:44:CC:90", "description": "Camera 9"}
    for method, endpoint, body in (
        ("POST", "/v1/onboarding/auto/disable", None),
        ("POST", "/v1/provisioning/allowlist", entry),
        ("DELETE", "/v1/provisioning/allowlist/24%3A6F%3A28%3A44%3ACC%3A90", None),
        ("PUT", "/dashboard/config/cameras.idle_after_s", {"value": "90"}),
    ):
        async with lossy_proxy(dashboard.running.daemon.url, 2) as (url, requests):
            page = Dashboard(dashboard.session, url)
            page.key = dashboard.running.admin.key
            await page.request(method, endpoint, body, keyed=True)
            assert len(requests) == 3, endpoint
    assert rig.rows("SELECT count(*) FROM allowlist WHERE mac = '24:6F:28:44:CC:90'") == [(0,)]
    assert (await dashboard.v1("GET", "/onboarding/auto/status"))["enabled"] is False
