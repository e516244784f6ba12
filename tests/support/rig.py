"""A daemon in this process with its broker, cameras, network and API clients."""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from pi_orchestrator.app.lifecycle import running
from pi_orchestrator.features.cameras.address_resolver import AddressResolver
from pi_orchestrator.net.host.systemd import Notifier
from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.sandbox.options import CameraOptions
from pi_orchestrator.sandbox.server import http_server
from pi_orchestrator.settings import from_program, load
from tests.support.broker import Broker, free_port

_BLOCKS = itertools.count()
_SENTINELS = itertools.count()


def fresh_network():
    """A /20 loopback network that is unused by concurrent tests."""
    number = next(_BLOCKS) % 16
    return f"127.{100 + os.getpid() % 100}.{number * 16}.0/20"


def set_verification_timeout(monkeypatch, seconds):
    """Set the identity verification timeout of captures, commands and reboots, overriding the settings."""
    monkeypatch.setattr(AddressResolver, "timeout_s", property(lambda _: seconds, lambda *_: None), raising=False)


@dataclass
class Answer:
    """A complete HTTP answer."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def data(self):
        return self.json["data"]


class Api:
    """Client of the daemon's API: `await api.get(path)` → Answer."""

    def __init__(self, session, url, key=None):
        self.session, self.url, self.key = session, url, key

    async def call(self, method, path, *, headers=None, **options):
        all_headers = dict(headers or {})
        if self.key and "X-API-Key" not in all_headers:
            all_headers["X-API-Key"] = self.key
        async with self.session.request(method, self.url + path, headers=all_headers, **options) as response:
            # A stream has no end; take its first bytes.
            is_stream = response.content_type == "text/event-stream"
            body = await (response.content.readany() if is_stream else response.read())
            return Answer(response.status, response.headers.copy(), body)

    async def get(self, path, **options):
        return await self.call("GET", path, **options)

    async def post(self, path, **options):
        return await self.call("POST", path, **options)

    async def delete(self, path, **options):
        return await self.call("DELETE", path, **options)


@dataclass
class Rig:
    """The environment of one test's daemon; `state_dir` survives restarts of the daemon."""

    state_dir: Path
    broker: Broker
    network: str = field(default_factory=fresh_network)
    camera_port: int = field(default_factory=free_port)

    def tree(self, **sections):
        """Settings tree on loopback with unrestricted onboarding; `sections` override it key by key."""
        tree = {
            "http": {"listen": ["127.0.0.1:0"]},
            "ap": {"interface": "lo", "subnet": self.network},
            # Loopback has no ARP; discovery is tested in network namespaces.
            "discovery": {"engine": "off", "stations": False, "leases": False, "mdns": False, "probe": False},
            "mqtt": {"host": self.broker.host, "port": self.broker.port},
            "cameras": {"http_port": self.camera_port},
            "auto_onboard": {
                "enabled": True,
                "mode": "dev",
                "subnet_allowlist": [self.network],
                "allow_loopback": True,
                "burst_size": 1000,
                "max_per_minute": 6000,
                "verification_timeout_sec": 5,
            },
            "storage": {"state_dir": str(self.state_dir)},
        }
        for name, section in sections.items():
            tree[name] = tree.get(name, {}) | section
        return tree

    def settings(self, **sections):
        return load(environ={}, flags=self.tree(**sections)).settings

    @contextlib.asynccontextmanager
    async def daemon(self, *, clock=None, connected=True, **sections):
        """Run a daemon during the block; yields a Running with `.api` (no key) and `.admin` (admin key)."""
        if clock is not None:
            # With a clock that stands still, a failed verification is never retried: a slow answer must not fail it.
            sections["auto_onboard"] = {"verification_timeout_sec": 60} | sections.get("auto_onboard", {})
        # In a thread, as in the daemon: reading the override file of an earlier daemon blocks.
        settings = await asyncio.to_thread(from_program, self.tree(**sections))
        async with (
            running(settings, clock=clock, notifier=Notifier({})) as daemon,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        ):
            if connected:
                from tests.support.waiting import eventually

                await eventually(lambda: daemon.app.resources.mqtt.connected)
            yield Running(daemon, Api(session, daemon.url), Api(session, daemon.url, self.admin_key()))

    def admin_key(self):
        file = self.state_dir / "admin.key"
        return file.read_text().strip() if file.exists() else None

    def fleet(self, count=1, *, faults=(), storm=True, **options):
        """Simulated cameras on the addresses of this rig."""
        values = {"interval": 1.0, "http_port": self.camera_port, "reboot_s": 0.2, "flap_s": 0.5} | options
        return Fleet(
            count=count,
            options=CameraOptions(broker_host=self.broker.host, broker_port=self.broker.port, **values),
            network=self.network,
            faults=faults,
            storm=storm,
        )

    def address(self, number):
        """The n-th address of this rig's network."""
        base = self.network.split("/")[0].split(".")
        return ".".join([*base[:2], str(int(base[2]) + number // 256), str(number % 256)])

    def mac(self, number):
        """The n-th station MAC; no two are adjacent."""
        return f"24:6F:28:{number >> 12 & 255:02X}:{number >> 4 & 255:02X}:{number << 4 & 255:02X}"

    def camera(self, number, *, mac=None, address=None, **body):
        """The n-th scripted camera; `body` changes its `/status` fields."""
        return ScriptedCamera(self, mac or self.mac(number), address or self.address(number), body)

    async def announce(self, number, *, client=None, **fields):
        """Publish one status message of the n-th MAC; `ip` is the n-th address unless given."""
        mac = self.mac(number)
        await self.publish(f"camera/status/{mac}", {"mac": mac, "ip": self.address(number)} | fields, client=client)

    async def publish(self, topic, fields, *, client=None, retain=False):
        """Publish a JSON object; fields that are None are left out."""
        payload = json.dumps({name: value for name, value in fields.items() if value is not None})
        async with contextlib.nullcontext(client) if client else self.broker.client() as client:
            await client.publish(topic, payload, qos=1, retain=retain)

    def connect(self, **options):
        """A read-write connection to the daemon's database file."""
        return contextlib.closing(
            sqlite3.connect(f"file:{self.state_dir}/orchestrator.db?mode=rw", uri=True, **options)
        )

    def rows(self, sql, *params):
        with self.connect() as db:
            return db.execute(sql, params).fetchall()

    async def execute_in_thread(self, sql):
        """Change the database of a running daemon, in a thread: a lock may be held by a task of this loop."""
        await asyncio.to_thread(self.execute, sql)

    def execute(self, sql):
        with self.connect(isolation_level=None) as db:
            db.execute(sql)

    def tables(self):
        """All committed rows: {table: rows}."""
        with self.connect() as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            db.execute("BEGIN")
            return {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in sorted(names)}


class ScriptedCamera:
    """A camera controlled by the test: its HTTP server counts requests, and answers when `answer_now` is set.

    `body` overrides the fields of its `/status`; None removes a field. `headers` are added to every answer.
    """

    def __init__(self, rig, mac, address, body):
        self.rig, self.mac, self.address = rig, mac, address
        self.device_id = f"espcam-{mac.replace(':', '').lower()[-6:]}"
        self.body = {"device_id": self.device_id, "mac": mac, "firmware_version": "2.4.1"} | body
        self.headers = {}
        self.requests = 0
        self.answered = 0
        self.request_received = asyncio.Event()
        self.answer_now = asyncio.Event()
        self.answer_now.set()

    async def __aenter__(self):
        # One server per address; it answers every path and method.
        sock = socket.create_server((self.address, self.rig.camera_port))
        self._server = http_server(sock, self.respond)
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_):
        self.answer_now.set()
        await self._server.__aexit__(None, None, None)

    async def respond(self, request):
        self.requests += 1
        self.request_received.set()
        try:
            await self.answer_now.wait()
            body = {name: value for name, value in self.body.items() if value is not None}
            return web.json_response(body, headers=self.headers)
        finally:
            self.answered += 1

    async def publish_status(self, state="ONLINE", *, topic=None, client=None, retain=False, **fields):
        """Publish a status message."""
        defaults = {"device_id": self.device_id, "mac": self.mac, "ip": self.address, "state": state}
        topic = topic or f"camera/status/{self.mac}"
        await self.rig.publish(topic, defaults | fields, client=client, retain=retain)


@dataclass
class Running:
    """A running daemon and its API clients: `api` without a key, `admin` with the admin key."""

    daemon: object
    api: Api
    admin: Api

    @property
    def app(self):
        return self.daemon.app

    async def status(self):
        """The answer of `/api/v1/onboarding/auto/status`."""
        return (await self.api.get("/api/v1/onboarding/auto/status")).data

    async def onboarding_events(self, **query):
        """The newest 100 onboarding events, oldest first."""
        answer = await self.api.get("/api/v1/onboarding/auto/events", params={"limit": 100} | query)
        return answer.data["events"][::-1]

    async def onboarding_stages(self, mac):
        """Onboarding events of a camera: [(stage, error code or None), …], oldest first."""
        return [(row["stage"], row.get("error_code")) for row in await self.onboarding_events(mac=mac)]

    async def camera(self, name):
        """The data of `/api/v1/cameras/:id`; None if not found."""
        answer = await self.api.get(f"/api/v1/cameras/{name}")
        return answer.data if answer.status == 200 else None

    async def metric(self, line):
        """The value of a `/metrics` line, by name and labels as printed; 0 if missing."""
        text = (await self.api.get("/metrics")).body.decode()
        return next((float(row.split()[-1]) for row in text.splitlines() if row.startswith(line + " ")), 0.0)

    async def wait_until_processed(self, rig):
        """Wait until all messages published before this call are processed and their rejections stored."""
        from tests.support.waiting import eventually

        mac = rig.mac(0xF0000 + next(_SENTINELS) % 0xFFFF)  # a MAC that no test uses; without an address it is rejected
        await rig.publish(f"camera/status/{mac}", {"mac": mac})

        async def rejection():
            return await self.onboarding_stages(mac)

        await eventually(rejection, what="the last message is processed")
