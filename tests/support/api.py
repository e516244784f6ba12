"""Helpers for API tests: raw requests, valid requests for every route, validation against the OpenAPI document.

After `check_all_answers`, every response that an `Api` client receives is validated against the OpenAPI document.
"""

import asyncio
import contextlib
import functools
import io
import json
import logging
import re
import uuid
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Network
from urllib.parse import quote

import pytest
import structlog
from jsonschema_rs import Draft202012Validator
from multidict import CIMultiDict

from pi_orchestrator.app.build import ROUTES, TAGS
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.logging import configure
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.edge_http.api_document import ApiDocument
from pi_orchestrator.edge_http.envelope import ENVELOPE_WITH_FIELDS
from pi_orchestrator.features.cameras import exclusion_store as exclusions
from pi_orchestrator.features.cameras import store as cameras
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.views import CameraViews
from pi_orchestrator.features.captures.model import Picture, Source
from pi_orchestrator.features.captures.service import CaptureService
from pi_orchestrator.features.commands.reboots import RebootService
from pi_orchestrator.features.commands.service import CommandAnswer, CommandService
from pi_orchestrator.features.containers import store as containers
from pi_orchestrator.features.discovery import store as scans
from pi_orchestrator.features.discovery.model import Scan, ScanState
from pi_orchestrator.features.discovery.scan_service import ScanService
from pi_orchestrator.features.discovery.scanner import Scanner
from pi_orchestrator.features.provisioning import store as sessions
from pi_orchestrator.features.provisioning.session import Session, SessionConfig, SessionState
from pi_orchestrator.features.provisioning.session_device import SessionDevice, SessionDeviceState
from pi_orchestrator.features.provisioning.worker import ProvisioningWorker
from pi_orchestrator.http.route import BARE, BINARY
from pi_orchestrator.http.server import build_app, served
from pi_orchestrator.net.kernel.links import Link
from pi_orchestrator.net.wifi import scan as wifi_scan
from pi_orchestrator.settings import Listen
from tests.support import programs
from tests.support.rig import Answer, Api
from tests.support.waiting import eventually

DOCUMENT = ApiDocument(ROUTES, TAGS).document()
COMPONENTS = DOCUMENT["components"]
CAMERA = "24:6F:28:44:CB:60"  # the first camera of a fleet
SCAN = "6f1f4f6e-8f0a-4c70-9b57-0b4d1d0a5a11"  # a finished scan; see `with_scans`
ID_OF_TAG = {"keys": "unused-name", "discovery": SCAN}  # `{id}` in paths; CAMERA for other tags
JSON = "application/json"
ROUTE_IDS = [f"{route.method} {route.path}" for route in ROUTES]

# Query parameters and bodies that a route needs to succeed.
QUERIES = {"/api/v1/onboarding/auto/policy/explain": {"mac": CAMERA, "ip": "192.168.10.21"}}
ALLOWLIST = "/api/v1/provisioning/allowlist"
LISTED, NOT_LISTED = "24:6F:28:44:CC:10", "24:6F:28:44:CC:20"
BATCH = "/api/v1/provisioning/batch"
TARGET = {"target_ssid": "Target-Net", "target_password": "correct horse battery"}
BODIES = {
    BATCH: {"network_interface": "wlan7", **TARGET},
    f"{BATCH}/start": TARGET,
    f"{BATCH}/{{id}}/provision-all": {"only_allowlisted": True},
    f"{BATCH}/{{id}}/devices/{{mac}}/confirm": {"changes_id": "0" * 16},
    "/api/v1/cameras/{id}/commands": {"action": "ping"},
    "/api/v1/keys": {"name": "a new key", "scope": "read"},
    ALLOWLIST: {"mac": NOT_LISTED, "description": "Camera 1"},
    f"{ALLOWLIST}/{{mac}}": {"description": "Camera 2"},
    f"{ALLOWLIST}/bulk": {"entries": [{"mac": LISTED}, {"mac": "24:6F"}]},
    f"{ALLOWLIST}/bulk-remove": {"macs": [LISTED]},
    "/api/v1/config/{key}": {"value": "77"},
    "/api/dashboard/config/{key}": {"value": "78"},
}
CONTAINERS = "/api/v1/containers"
PLACE = f"{CONTAINERS}/{{id}}/cameras"
PAIR, REPLACE = "/api/v1/espcam/pair", "/api/v1/espcam/replace"
RENAME = "/api/v1/cameras/{id}"
# Routes whose own camera is in its container; see `with_inventory`.
ASSIGNED = {("DELETE", f"{PLACE}/{{device_id}}"), ("DELETE", "/api/v1/espcam/paired/{mac}"), ("POST", REPLACE)}


def own_mac(method, path):
    """The MAC of the camera that is registered for this route only; see `with_inventory`."""
    digits = f"{zlib.crc32(f'{method} {path}'.encode()):08X}"
    return f"24:6F:{digits[:2]}:{digits[2:4]}:{digits[4:6]}:{digits[6:]}"


def own_container(method, path):
    """The id of the container for this route only; it holds a camera if the route needs one (`ASSIGNED`)."""
    return f"box-{own_mac(method, path)[-5:].replace(':', '')}"


BODIES |= {
    CONTAINERS: {"label": "South hall", "description": "Shelf 1"},
    f"{CONTAINERS}/{{id}}": {"label": "North hall"},
    PLACE: {"device_id": own_mac("POST", PLACE), "position": 2},
    PAIR: {"mac": own_mac("POST", PAIR), "container_id": own_container("POST", PAIR), "position": 3},
    REPLACE: {"old_mac": own_mac("POST", REPLACE), "new_mac": "24:6F:28:44:CC:40"},
    RENAME: {"name": "Entrance"},
}


FILES = {f"{ALLOWLIST}/import": b"mac,description\n24:6F:28:44:CC:30,Camera 3\n"}

each_route = pytest.mark.parametrize("route", ROUTES, ids=ROUTE_IDS)


class SilentEngine:
    """A scan engine without a network; a sweep runs until it is cancelled."""

    name = "arp"

    async def open(self, link, subnet):
        pass

    def close(self):
        pass

    async def sweep(self, targets, *, expected, progress):
        await asyncio.Event().wait()

    async def probe(self, address, *, timeout_s):
        return frozenset()


def with_scans(monkeypatch):
    """Make scans available without a network: `SCAN` is finished and `LISTED` is on the allowlist."""
    load = ScanService.load

    async def refresh_link(self):
        self.network, self.link = IPv4Network("192.168.10.0/24"), Link("ap0", 7, None, True, True, ())
        self._engine = SilentEngine()

    async def load_with_scan(self):
        await load(self)
        stamp = self._clock.stamp()
        scan = Scan(SCAN, "periodic", "arp", "ap0", "192.168.10.0/24", stamp.at, ScanState.DONE, 100, duration_ms=640)

        async def job(tx):
            await scans.save(tx, scan, started=stamp)
            await tx.run("INSERT OR IGNORE INTO allowlist (mac, added_at) VALUES (?, '2026-01-22')", (LISTED,))

        await self._database.write(job)

    monkeypatch.setattr(Scanner, "refresh_link", refresh_link)
    monkeypatch.setattr(ScanService, "load", load_with_scan)


def with_network(monkeypatch, folder):
    """Install stand-ins for nmcli and tailscale; every request scans for Wi-Fi networks again."""
    programs.install(monkeypatch, folder, nmcli=programs.NMCLI, tailscale=programs.TAILSCALE)
    monkeypatch.setattr(wifi_scan, "MIN_INTERVAL_S", 0.0)


def session_for(route):
    """The id of the session that `with_sessions` opens for this route only."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{route.method} {route.path}"))


def with_sessions(monkeypatch, routes=ROUTES):
    """Give each session route its own session, with one camera and its own interface."""
    load = ProvisioningWorker.load
    routes = [route for route in routes if route.tag == "provisioning" and "{id}" in route.path]

    async def load_with_sessions(self):
        await load(self)
        now = self._clock.wall()

        async def job(tx):
            for number, route in enumerate(routes):
                verb = route.path.rsplit("/", 1)[-1]
                state = SessionState.PAUSED if verb == "resume" else SessionState.ACTIVE
                interrupted = route.path.startswith("/api/v1/provisioning/sessions/") and verb == "resume"
                session = Session(session_for(route), state, f"test{number}", "Target-Net", SessionConfig(), now, now)
                device = SessionDevice(session.id, Mac(LISTED), "192.168.10.21", now)
                if verb in ("provision", "retry", "provision-all"):
                    # Without a broker no attempt can start; a verified device is reported as done.
                    device = replace(
                        device, state=SessionDeviceState.VERIFIED, progress=100, retry_count=1, verified_at=now
                    )
                if await sessions.get(tx.run, session.id) is None:
                    await sessions.insert(tx, session, None)
                    await sessions.save(tx, replace(session, interrupted=interrupted))
                    await sessions.put_device(tx, device)

        await self._database.write(job)

    monkeypatch.setattr(ProvisioningWorker, "load", load_with_sessions)


def with_pictures(monkeypatch):
    """Make `CAMERA` known, with a picture, and let it accept every command."""
    mac_of = CameraViews.mac_of
    picture = Picture(b"\xff\xd8 a picture \xff\xd9", datetime(2026, 1, 22, 15, tzinfo=UTC), 0.0, Source.MQTT, 120)

    async def take(self, mac):
        return picture

    monkeypatch.setattr(CameraViews, "mac_of", lambda self, name: CAMERA if name == CAMERA else mac_of(self, name))
    monkeypatch.setattr(CaptureService, "_take", take)
    monkeypatch.setattr(CaptureService, "last", lambda self, mac: picture)

    async def accept(self, mac, before):
        """Do nothing: the camera accepts the restart."""

    async def answer(self, mac, action, **fields):
        return CommandAnswer("0b6f3f6e", {"success": True})

    monkeypatch.setattr(RebootService, "_send_restart", accept)
    monkeypatch.setattr(CommandService, "send", answer)


def with_inventory(monkeypatch, routes=ROUTES):
    """Give each container and pairing route its own container and registered camera."""
    load = CameraCache.load
    own_routes = [(route.method, route.path) for route in routes if has_own_camera(route)]

    async def load_with_inventory(self, database):
        async def job(tx):
            for own_route in own_routes:
                await containers.ensure(tx, own_container(*own_route), label="Box")
                mac = Mac(own_mac(*own_route))
                is_known = await cameras.is_registered(tx, mac) or await exclusions.find(tx, mac)
                if not is_known:
                    await cameras.register(tx, mac, device_id=None, ip=None, firmware=None, by="manual")
                    if own_route in ASSIGNED:
                        await cameras.assign(tx, mac, own_container(*own_route), 1)

        await database.write(job)
        await load(self, database)

    monkeypatch.setattr(CameraCache, "load", load_with_inventory)


def has_own_camera(route):
    return route.tag in ("containers", "pairing") or (route.method, route.path) == ("PATCH", RENAME)


def target(route):
    """A path of this route with ids of objects that exist; `CAMERA` exists once `camera_is_registered` returns."""
    is_provisioning = route.tag == "provisioning"
    if has_own_camera(route):
        own_route = (route.method, route.path)
        values = {"mac": own_mac(*own_route), "device_id": own_mac(*own_route)}
        values["id"] = own_container(*own_route) if route.tag == "containers" else own_mac(*own_route)
        return re.sub(r"\{(\w+)\}", lambda match: quote(values[match[1]], safe=""), route.path)
    values = {
        "mac": LISTED if is_provisioning or route.tag == "allowlist" else CAMERA,
        "id": session_for(route) if is_provisioning else ID_OF_TAG.get(route.tag, CAMERA),
        "key": "cameras.idle_after_s",
    }
    return re.sub(r"\{(\w+)\}", lambda match: quote(values[match[1]], safe=""), route.path)


async def call_route(api, route, **options):
    """Send a valid request to a route; options are passed to Api.call."""
    if route.model("body"):
        options.setdefault("json", BODIES[route.path])
    elif route.request_media_type:
        options.setdefault("data", FILES[route.path])
        options["headers"] = {"Content-Type": route.request_media_type} | options.get("headers", {})
    if route.path in QUERIES:
        options.setdefault("params", QUERIES[route.path])
    return await api.call(route.method, target(route), **options)


def decoded(route, answer):
    """The payload of a successful answer, without the envelope of its route."""
    if route.shape is BINARY:
        return answer.body
    return answer.json if route.shape is BARE else answer.data


def good_body(route):
    """(content type, bytes) of a valid body, for `exchange`."""
    if route.path in FILES:
        return route.request_media_type, FILES[route.path]
    return JSON, json.dumps(BODIES[route.path]).encode() if route.model("body") else b""


async def camera_is_registered(running):
    """Wait until `CAMERA` is registered."""
    await eventually(lambda: CAMERA in running.app.cameras.cache)


def route_of(method, path):
    """The route of a request, None if there is no match; HEAD is served by the GET route."""
    method = {"HEAD": "GET"}.get(method, method)
    # An exact path takes precedence over a template.
    for route in [route for route in ROUTES if route.path == path] or ROUTES:
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))
        if route.method == method and re.fullmatch(pattern, path):
            return route
    return None


def check_answer(method, path, answer):
    """Raise AssertionError unless an answer matches the OpenAPI document; an unknown path must return an error."""
    path = path.split("?")[0].split("#")[0]
    route = route_of(method, path)
    if route is None:
        assert answer.status >= 400, f"{method} {path} is not documented, but returned {answer.status}"
        return check_error(answer)
    responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    assert str(answer.status) in responses, f"{method} {path}: {answer.status} is not documented; {answer.body[:300]}"
    content = responses[str(answer.status)].get("content")
    if content is None or method == "HEAD":
        assert not answer.body, f"{method} {path}: {answer.status} has a body"
        return None
    media_type = answer.headers["Content-Type"].split(";")[0]
    assert media_type in content
    media = content[media_type]
    if media_type != JSON:
        return None
    if answer.status >= 400 and media["schema"].get("$ref", "").endswith("/Error"):
        assert answer.json["code"] in responses[str(answer.status)]["description"].split(", ")
        return check_error(answer)
    body = answer.json
    if route.shape is ENVELOPE_WITH_FIELDS:
        validate(body, media["schema"])
        assert {**body["data"], **body} == body, "the top level repeats the data"
        envelope, data = media["schema"]["allOf"]
        validate({name: value for name, value in body.items() if name not in body["data"]}, envelope, closed=True)
        return validate(body["data"], data, closed=True)
    return validate(body, media["schema"], closed=True)


def check_error(answer):
    assert answer.headers["Content-Type"] == JSON
    if answer.body:  # HEAD has none
        validate(answer.json, {"$ref": "#/components/schemas/Error"}, closed=True)
        assert ErrorCode[answer.json["code"]].status == answer.status or answer.json["code"] == "INVALID_REQUEST"


def validate(value, schema, *, closed=False):
    """Raise AssertionError unless a value matches a schema of the document, including formats.

    `closed`: no object has properties that its schema does not name.
    """
    errors = _validator(json.dumps(schema), closed).iter_errors(value)
    faults = [f"{error.instance_path}: {error.message[:300]}" for error in errors]
    assert not faults, "\n".join(sorted(faults))


@functools.cache
def _validator(schema, closed):
    root = json.loads(schema)
    root = {**_closed(root), "components": _closed_components()} if closed else {**root, "components": COMPONENTS}
    return Draft202012Validator(root, validate_formats=True)


@functools.cache
def _closed_components():
    return _closed(COMPONENTS)


def _closed(node):
    """The schema with additionalProperties forbidden in every object."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: _closed(value) for name, value in node.items()}
    if "properties" in node and node.get("type") == "object":
        node.setdefault("additionalProperties", False)
    return node


def check_all_answers(monkeypatch):
    """Validate every answer of this test against the OpenAPI document."""
    call = Api.call

    async def checked_call(self, method, path, **options):
        answer = await call(self, method, path, **options)
        check_answer(method, path, answer)
        return answer

    monkeypatch.setattr(Api, "call", checked_call)


class Socket:
    """A raw TCP connection, for requests that an HTTP client library would refuse to send."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, has_body=True):
        """Read one answer; raises asyncio.IncompleteReadError if the peer closes the connection first."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = CIMultiDict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("Content-Length", 0))) if has_body else b""
        return Answer(int(status_line.split()[1]), headers, body)

    async def rest(self):
        """The bytes up to the end of the connection."""
        with contextlib.suppress(ConnectionResetError):
            return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def connection(running, *, source="127.0.0.3", port=None):
    # Thousands of connections are opened. From 127.0.0.1 they could use up ports that listeners need.
    listener = running.daemon.listen[0]
    reader, writer = await asyncio.open_connection(listener.host, port or listener.port, local_addr=(source, 0))
    try:
        yield Socket(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def exchange(running, method, path, headers=(), body=b"", **options):
    """Send one request byte for byte; `headers` are (name, value) pairs, Host is added if missing."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if "host" not in {name.lower() for name, _ in headers}:
        lines.append("Host: 127.0.0.1")
    async with connection(running, **options) as sock:
        await sock.send("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body)
        return await sock.answer(has_body=method != "HEAD")


@contextlib.contextmanager
def case(*values):
    """On failure, add these values to the traceback; used in loops over cases that share one daemon."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"case: {', '.join(map(repr, values))}")
        raise


@contextlib.contextmanager
def production_log():
    """Capture the log at level debug, in the production format."""
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure(level="debug", style="json", stream=stream)
    try:
        yield stream
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.asynccontextmanager
async def with_routes(running, *routes, **limits):
    """Serve the same API with additional routes or different limits, on a separate port; yields an Api client."""
    app = running.app
    api = replace(app.api, limits=replace(app.api.limits, **limits))
    guard, base = app.base.guard, app.base
    web_app = build_app(api, routes=[*ROUTES, *routes], guard=guard, fallback=base.assets.serve, answered=base.answered)
    async with served(web_app, [Listen("127.0.0.1", 0)]) as (address,):
        yield Api(running.api.session, f"http://{address}", running.admin.key)
