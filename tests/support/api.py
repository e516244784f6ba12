"""What tests of the API share: raw requests, good and bad cases for every route, answers held against the document.

After `watch`, each answer that an `Api` client gets is checked against what the OpenAPI document says of it.
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
from jsonschema import Draft202012Validator
from multidict import CIMultiDict

from pi_orchestrator.api.app import build_app, served
from pi_orchestrator.api.cameras import CameraViews
from pi_orchestrator.api.envelope import HTTP_STATUS, Shape
from pi_orchestrator.api.openapi import build
from pi_orchestrator.api.routes import ROUTES
from pi_orchestrator.domain.candidate import Candidate, CandidateState
from pi_orchestrator.domain.capture import Picture, Source
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.scan import Scan, ScanState
from pi_orchestrator.domain.session import Session, SessionConfig, SessionState
from pi_orchestrator.logs import configure
from pi_orchestrator.net import wifi_scan
from pi_orchestrator.net.links import Link
from pi_orchestrator.settings import Listen
from pi_orchestrator.storage import cameras, containers, dismissed, scans, sessions
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.workers.captures import Captures
from pi_orchestrator.workers.commands import Answered, Commands
from pi_orchestrator.workers.discovery import DiscoveryWorker
from pi_orchestrator.workers.provisioning import ProvisioningWorker
from pi_orchestrator.workers.reboots import Reboots
from pi_orchestrator.workers.scanner import Scanner
from tests.support import programs
from tests.support.waiting import eventually
from tests.support.world import Answer, Api

DOCUMENT = build(ROUTES)
CAMERA = "24:6F:28:44:CB:60"  # the first of a fleet
SCAN = "6f1f4f6e-8f0a-4c70-9b57-0b4d1d0a5a11"  # one that has ended; see `with_scans`
LAST_ID = {"keys": "nobody-of-this-name", "discovery": SCAN}
JSON = "application/json"
ROUTE_IDS = [f"{route.method} {route.path}" for route in ROUTES]

# What else than a path a route needs for a success.
QUERIES = {"/api/v1/onboarding/auto/policy/explain": {"mac": CAMERA, "ip": "192.168.10.21"}}
ALLOWLIST = "/api/v1/provisioning/allowlist"
LISTED, NOT_LISTED = "24:6F:28:44:CC:10", "24:6F:28:44:CC:20"
BATCH = "/api/v1/provisioning/batch"
TARGET = {"target_ssid": "Target-Net", "target_password": "correct horse battery"}
BODIES = {
    BATCH: {"network_interface": "wlan7", **TARGET},
    f"{BATCH}/start": TARGET,
    f"{BATCH}/{{id}}/provision-all": {"only_allowlisted": True},
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
STOOD = {("DELETE", f"{PLACE}/{{device_id}}"), ("DELETE", "/api/v1/espcam/paired/{mac}"), ("POST", REPLACE)}


def own_mac(method, path):
    """The camera that is registered for this route alone; see `with_inventory`."""
    digits = f"{zlib.crc32(f'{method} {path}'.encode()):08X}"
    return f"24:6F:{digits[:2]}:{digits[2:4]}:{digits[4:6]}:{digits[6:]}"


def own_container(method, path):
    """The container that is there for this route alone; a camera stands in it where the route needs that."""
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


class NobodyAnswers:
    """A scan engine for where there is no network; its sweep goes on until it is cancelled."""

    name = "arp"

    async def open(self, link, subnet):
        pass

    def close(self):
        pass

    async def sweep(self, targets, *, expected, progress):
        await asyncio.Event().wait()

    async def ask(self, address, *, timeout_s):
        return frozenset()


def with_scans(monkeypatch):
    """Scans can be asked for, `SCAN` has ended and `LISTED` is listed; how networks are scanned is tested on them."""
    load = DiscoveryWorker.load

    async def look(self):
        self.network, self.link = IPv4Network("192.168.10.0/24"), Link("ap0", 7, None, True, True, ())
        self._engine = NobodyAnswers()

    async def load_with_one(self):
        await load(self)
        stamp = self._clock.stamp()
        scan = Scan(SCAN, "periodic", "arp", "ap0", "192.168.10.0/24", stamp.at, ScanState.DONE, 100, duration_ms=640)

        async def job(tx):
            await scans.save(tx, scan, started=stamp)
            await tx.run("INSERT OR IGNORE INTO allowlist (mac, added_at) VALUES (?, '2026-01-22')", (LISTED,))

        await self._database.write(job)

    monkeypatch.setattr(Scanner, "look", look)
    monkeypatch.setattr(DiscoveryWorker, "load", load_with_one)


def with_network(monkeypatch, folder):
    """NetworkManager and Tailscale are installed, as stand-ins that answer; each request looks for networks anew."""
    programs.install(monkeypatch, folder, nmcli=programs.NMCLI, tailscale=programs.TAILSCALE)
    monkeypatch.setattr(wifi_scan, "EACH_S", 0.0)


def session_for(route):
    """The id of the session that `with_sessions` opens for this route alone."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{route.method} {route.path}"))


def with_sessions(monkeypatch):
    """Each route that is about a session has one of its own, with one camera, on an interface of its own."""
    load = ProvisioningWorker.load
    routes = [route for route in ROUTES if route.tag == "provisioning" and "{id}" in route.path]

    async def load_with_some(self):
        await load(self)
        now = self._clock.wall()

        async def job(tx):
            for number, route in enumerate(routes):
                verb = route.path.rsplit("/", 1)[-1]
                state = SessionState.PAUSED if verb == "resume" else SessionState.ACTIVE
                interrupted = route.path.startswith("/api/v1/provisioning/sessions/") and verb == "resume"
                session = Session(session_for(route), state, f"test{number}", "Target-Net", SessionConfig(), now, now)
                one = Candidate(session.id, Mac(LISTED), "192.168.10.21", now)
                if verb in ("provision", "retry", "provision-all"):
                    # Whoever is done is answered with that; with no broker nobody could be begun with.
                    one = replace(one, state=CandidateState.VERIFIED, progress=100, retry_count=1, verified_at=now)
                if await sessions.get(tx.run, session.id) is None:
                    await sessions.insert(tx, session, None)
                    await sessions.save(tx, replace(session, interrupted=interrupted))
                    await sessions.put_candidate(tx, one)

        await self._database.write(job)

    monkeypatch.setattr(ProvisioningWorker, "load", load_with_some)


def with_pictures(monkeypatch):
    """`CAMERA` is known, has a picture and obeys; how that is brought about is tested with cameras."""
    find = CameraViews.find
    picture = Picture(b"\xff\xd8 a picture \xff\xd9", datetime(2026, 1, 22, 15, tzinfo=UTC), 0.0, Source.MQTT, 120)

    async def take(self, mac):
        return picture

    monkeypatch.setattr(CameraViews, "find", lambda self, name: CAMERA if name == CAMERA else find(self, name))
    monkeypatch.setattr(Captures, "_take", take)
    monkeypatch.setattr(Captures, "last", lambda self, mac: picture)

    async def accept(self, mac, before):
        """The camera says yes to a restart."""

    async def answer(self, mac, action, **fields):
        return Answered("0b6f3f6e", {"success": True})

    monkeypatch.setattr(Reboots, "_tell", accept)
    monkeypatch.setattr(Commands, "give", answer)


def with_inventory(monkeypatch):
    """Each route about containers or the record has a container and a registered camera of its own."""
    load = Roster.load
    own = [(route.method, route.path) for route in ROUTES if has_own_camera(route)]

    async def load_with_some(self, database):
        async def job(tx):
            for one in own:
                await containers.ensure(tx, own_container(*one), label="Box")
                mac = Mac(own_mac(*one))
                known = await cameras.is_registered(tx, mac) or await dismissed.find(tx, mac)
                if not known:
                    await cameras.register(tx, mac, device_id=None, ip=None, firmware=None, by="manual")
                    if one in STOOD:
                        await containers.assign(tx, mac, own_container(*one), 1)

        await database.write(job)
        await load(self, database)

    monkeypatch.setattr(Roster, "load", load_with_some)


def has_own_camera(route):
    return route.tag in ("containers", "pairing") or (route.method, route.path) == ("PATCH", RENAME)


def target(route):
    """A path of this route that exists while the first camera of a fleet is registered."""
    of_sessions = route.tag == "provisioning"
    if has_own_camera(route):
        one = (route.method, route.path)
        values = {"mac": own_mac(*one), "device_id": own_mac(*one)}
        values["id"] = own_container(*one) if route.tag == "containers" else own_mac(*one)
        return re.sub(r"\{(\w+)\}", lambda match: quote(values[match[1]], safe=""), route.path)
    values = {
        "mac": LISTED if of_sessions or route.tag == "allowlist" else CAMERA,
        "id": session_for(route) if of_sessions else LAST_ID.get(route.tag, CAMERA),
        "key": "cameras.idle_after_s",
    }
    return re.sub(r"\{(\w+)\}", lambda match: quote(values[match[1]], safe=""), route.path)


async def ask(api, route, **more):
    """A request that should succeed."""
    if route.model("body"):
        more.setdefault("json", BODIES[route.path])
    elif route.media_type:
        more.setdefault("data", FILES[route.path])
        more["headers"] = {"Content-Type": route.media_type} | more.get("headers", {})
    if route.path in QUERIES:
        more.setdefault("params", QUERIES[route.path])
    return await api.call(route.method, target(route), **more)


def told(route, answer):
    """What a good answer says, in the envelope of its route or in none."""
    if route.shape is Shape.BINARY:
        return answer.body
    return answer.json if route.shape is Shape.PLAIN else answer.data


def good_body(route):
    """(content type, bytes) of a body that should succeed, for `exchange`."""
    if route.path in FILES:
        return route.media_type, FILES[route.path]
    return JSON, json.dumps(BODIES[route.path]).encode() if route.model("body") else b""


async def camera_is_registered(running):
    await eventually(lambda: CAMERA in running.services.roster)


def route_of(method, path):
    """The route that a request is meant for; HEAD is answered by GET."""
    method = {"HEAD": "GET"}.get(method, method)
    # A fixed path is its own; only where there is none, a template may fit.
    for route in [route for route in ROUTES if route.path == path] or ROUTES:
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))
        if route.method == method and re.fullmatch(pattern, path):
            return route
    return None


def hold(method, path, answer):
    """AssertionError unless an answer is as the document says; unknown paths are answered with an error."""
    path = path.split("?")[0].split("#")[0]
    route = route_of(method, path)
    if route is None:
        assert answer.status >= 400, f"{method} {path} is in no document, and answers {answer.status}"
        return check_error(answer)
    responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    assert str(answer.status) in responses, f"{method} {path}: {answer.status} is not documented; {answer.body[:300]}"
    content = responses[str(answer.status)].get("content")
    if content is None or method == "HEAD":
        assert not answer.body, f"{method} {path}: {answer.status} has a body"
        return None
    media_type = answer.headers["Content-Type"].split(";")[0]
    assert media_type in content
    described = content[media_type]
    if media_type != JSON:
        return None
    if answer.status >= 400 and described["schema"].get("$ref", "").endswith("/Error"):
        assert answer.json["code"] in responses[str(answer.status)]["description"].split(", ")
        return check_error(answer)
    body = answer.json
    validate(body, described["schema"])
    if route.shape is Shape.DOUBLED:
        assert {**body["data"], **body} == body, "the top level repeats the data"
        envelope, data = described["schema"]["allOf"]
        validate({name: value for name, value in body.items() if name not in body["data"]}, closed(envelope))
        return validate(body["data"], closed(data))
    return validate(body, closed(described["schema"]))


def check_error(answer):
    assert answer.headers["Content-Type"] == JSON
    if answer.body:  # HEAD has none
        validate(answer.json, closed({"$ref": "#/components/schemas/Error"}))
        assert HTTP_STATUS[answer.json["code"]] == answer.status or answer.json["code"] == "INVALID_REQUEST"


def validate(value, schema):
    """Against a schema of the document, formats included."""
    faults = sorted(validator(json.dumps(schema)).iter_errors(value), key=str)
    assert not faults, "\n".join(f"{fault.json_path}: {fault.message[:300]}" for fault in faults)


@functools.cache
def validator(schema):
    whole = {**json.loads(schema)}
    whole.setdefault("components", DOCUMENT["components"])
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def closed(schema):
    """The schema, with no room for fields that are not in it."""

    def close(node):
        if isinstance(node, list):
            return [close(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {name: close(value) for name, value in node.items()}
        if "properties" in node and node.get("type") == "object":
            node.setdefault("additionalProperties", False)
        return node

    return close({**schema, "components": DOCUMENT["components"]})


def watch(monkeypatch):
    """Hold every answer of this test against the document."""
    call = Api.call

    async def watched(self, method, path, **more):
        answer = await call(self, method, path, **more)
        hold(method, path, answer)
        return answer

    monkeypatch.setattr(Api, "call", watched)


class Socket:
    """A connection of one's own, for what no decent HTTP client sends."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, has_body=True):
        """The next answer; `asyncio.IncompleteReadError` when the other side closes instead."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = CIMultiDict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("Content-Length", 0))) if has_body else b""
        return Answer(int(first.split()[1]), headers, body)

    async def rest(self):
        """What still comes until the other side closes."""
        with contextlib.suppress(ConnectionResetError):
            return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def connection(running, *, source="127.0.0.3", port=None):
    # Not from 127.0.0.1: these come and go by the thousand, and would use up ports that a listener was promised.
    where = running.daemon.listen[0]
    reader, writer = await asyncio.open_connection(where.host, port or where.port, local_addr=(source, 0))
    try:
        yield Socket(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def exchange(running, method, path, headers=(), body=b"", **how):
    """One request, sent as it is written here; `headers` are pairs, Host comes by itself unless it is among them."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if "host" not in {name.lower() for name, _ in headers}:
        lines.append("Host: 127.0.0.1")
    async with connection(running, **how) as sock:
        await sock.send("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body)
        return await sock.answer(has_body=method != "HEAD")


@contextlib.contextmanager
def case(*values):
    """Name what was tried, when one of many fails; a daemon for each of them would cost too much time."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case of {', '.join(map(repr, values))}")
        raise


@contextlib.contextmanager
def production_log():
    """All that is written to the log, at its most talkative, in the form in which it is written in production."""
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
async def with_routes(running, *routes):
    """The same API with further routes, on a port of its own."""
    daemon = running.daemon
    app = build_app(routes=[*ROUTES, *routes], services=daemon.services, gate=daemon._gate, guard=daemon._guard)
    async with served(app, [Listen("127.0.0.1", 0)]) as (where,):
        yield Api(running.api.session, f"http://{where}", running.admin.key)
