"""A daemon in the process, with a broker, cameras on addresses of its own, and an HTTP client for its API."""

import asyncio
import contextlib
import itertools
import json
import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from pi_orchestrator.app.life import running
from pi_orchestrator.net.systemd import Notifier
from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.sandbox.options import CameraOptions
from pi_orchestrator.settings import given, load
from tests.support.broker import Broker, free_port

_BLOCKS = itertools.count()
_SENTINELS = itertools.count()


def fresh_network():
    """A /20 of the loopback network that no other test in this run uses."""
    number = next(_BLOCKS) % 16
    return f"127.{100 + os.getpid() % 100}.{number * 16}.0/20"


@dataclass
class Answer:
    """An HTTP answer, read."""

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
    """The daemon's API: `await api.get(path)` → Answer."""

    def __init__(self, session, url, key=None):
        self.session, self.url, self.key = session, url, key

    async def call(self, method, path, *, headers=None, **more):
        given = dict(headers or {})
        if self.key and "X-API-Key" not in given:
            given["X-API-Key"] = self.key
        async with self.session.request(method, self.url + path, headers=given, **more) as response:
            # A stream has no end: its beginning answers for it.
            streams = response.content_type == "text/event-stream"
            body = await (response.content.readany() if streams else response.read())
            return Answer(response.status, response.headers.copy(), body)

    async def get(self, path, **more):
        return await self.call("GET", path, **more)

    async def post(self, path, **more):
        return await self.call("POST", path, **more)

    async def delete(self, path, **more):
        return await self.call("DELETE", path, **more)


@dataclass
class World:
    """Everything around one test's daemon; `state_dir` outlives a daemon, so that it can be started again."""

    state_dir: Path
    broker: Broker
    network: str = field(default_factory=fresh_network)
    camera_port: int = field(default_factory=free_port)

    def tree(self, **sections):
        """Settings as a tree: onboarding on and wide open, everything on loopback; `sections` override."""
        tree = {
            "http": {"listen": ["127.0.0.1:0"]},
            "ap": {"interface": "lo", "subnet": self.network},
            # Nobody can be asked on loopback; what finds devices on a network is tested on networks.
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
                "verification_timeout_sec": 2,
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
        """Run a daemon; yields it with `.api` (no key) and `.admin` (the admin key) beside it."""
        # In a thread, as the daemon reads it: there may be overrides of a daemon before.
        settings = await asyncio.to_thread(given, self.tree(**sections))
        async with (
            running(settings, clock=clock, notifier=Notifier({})) as daemon,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        ):
            if connected:
                from tests.support.waiting import eventually

                await eventually(lambda: daemon.services.mqtt.connected)
            yield Running(daemon, Api(session, daemon.url), Api(session, daemon.url, self.admin_key()))

    def admin_key(self):
        file = self.state_dir / "admin.key"
        return file.read_text().strip() if file.exists() else None

    def fleet(self, count=1, *, faults=(), storm=True, **options):
        """Simulated cameras on this world's addresses."""
        given = {"interval": 1.0, "http_port": self.camera_port, "reboot_s": 0.2, "flap_s": 0.5} | options
        return Fleet(
            count=count,
            options=CameraOptions(broker_host=self.broker.host, broker_port=self.broker.port, **given),
            network=self.network,
            faults=faults,
            storm=storm,
        )

    def address(self, number):
        """The n-th address of this world's network."""
        base = self.network.split("/")[0].split(".")
        return ".".join([*base[:2], str(int(base[2]) + number // 256), str(number % 256)])

    def mac(self, number):
        """The n-th station MAC; none is near another."""
        return f"24:6F:28:{number >> 12 & 255:02X}:{number >> 4 & 255:02X}:{number << 4 & 255:02X}"

    def camera(self, number, *, mac=None, address=None, **body):
        """A camera played by the test; see HandCamera."""
        return HandCamera(self, mac or self.mac(number), address or self.address(number), body)

    async def announce(self, number, *, client=None, **fields):
        """One live status message of the n-th MAC, at the n-th address unless `ip` says another."""
        mac = self.mac(number)
        await self.publish(f"camera/status/{mac}", {"mac": mac, "ip": self.address(number)} | fields, client=client)

    async def publish(self, topic, fields, *, client=None, retain=False):
        """A JSON object on a topic; fields that are None are left out."""
        payload = json.dumps({name: value for name, value in fields.items() if value is not None})
        async with contextlib.nullcontext(client) if client else self.broker.client() as client:
            await client.publish(topic, payload, qos=1, retain=retain)

    def connect(self, **more):
        """The daemon's database file, for a test's own eyes (`mode=ro`) or its sabotage (`mode=rw`)."""
        return contextlib.closing(sqlite3.connect(f"file:{self.state_dir}/orchestrator.db?mode=rw", uri=True, **more))

    def rows(self, sql, *params):
        with self.connect() as db:
            return db.execute(sql, params).fetchall()

    async def sabotage(self, sql):
        """Change the file under a running daemon, in a thread: its transaction may need the loop to end first."""
        await asyncio.to_thread(self.execute, sql)

    def execute(self, sql):
        with self.connect(isolation_level=None) as db:
            db.execute(sql)

    def tables(self):
        """Every row of every table, as of the last commit."""
        with self.connect() as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            db.execute("BEGIN")
            return {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in sorted(names)}


class HandCamera:
    """A camera that the test plays: its HTTP server counts what it is asked, and answers when `answer_now` is set.

    `body` holds fields of its `/status` beside or instead of the usual ones (None takes one away).
    """

    def __init__(self, world, mac, address, body):
        self.world, self.mac, self.address = world, mac, address
        self.device_id = f"espcam-{mac.replace(':', '').lower()[-6:]}"
        self.body = {"device_id": self.device_id, "mac": mac, "firmware_version": "2.4.1"} | body
        self.requests = 0
        self.answered = 0
        self.asked = asyncio.Event()
        self.answer_now = asyncio.Event()
        self.answer_now.set()

    async def __aenter__(self):
        # What reaches this address belongs to this camera, whatever the path and method.
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, self.world.camera_port).start()
        return self

    async def __aexit__(self, *_):
        self.answer_now.set()
        await self._runner.cleanup()

    async def _answer(self, request):
        self.requests += 1
        self.asked.set()
        try:
            await self.answer_now.wait()
            return web.json_response({name: value for name, value in self.body.items() if value is not None})
        finally:
            self.answered += 1

    async def say(self, state="ONLINE", *, topic=None, client=None, retain=False, **fields):
        """Publish a status message."""
        usual = {"device_id": self.device_id, "mac": self.mac, "ip": self.address, "state": state}
        topic = topic or f"camera/status/{self.mac}"
        await self.world.publish(topic, usual | fields, client=client, retain=retain)


@dataclass
class Running:
    """A daemon and two ways to speak to it."""

    daemon: object
    api: Api
    admin: Api

    @property
    def services(self):
        return self.daemon.services

    async def status(self):
        """The answer of `/api/v1/onboarding/auto/status`."""
        return (await self.api.get("/api/v1/onboarding/auto/status")).data

    async def audit(self, **query):
        """The newest audit rows, oldest first."""
        answer = await self.api.get("/api/v1/onboarding/auto/events", params={"limit": 100} | query)
        return answer.data["events"][::-1]

    async def trail(self, mac):
        """A camera's audit rows as (stage, error code), oldest first."""
        return [(row["stage"], row.get("error_code")) for row in await self.audit(mac=mac)]

    async def camera(self, name):
        """What `/api/v1/cameras/:id` says, None where there is no such camera."""
        answer = await self.api.get(f"/api/v1/cameras/{name}")
        return answer.data if answer.status == 200 else None

    async def metric(self, line):
        """A number of `/metrics`, by its name and labels as they are printed; 0 where it is not there."""
        page = (await self.api.get("/metrics")).body.decode()
        return next((float(row.split()[-1]) for row in page.splitlines() if row.startswith(line + " ")), 0.0)

    async def considered(self, world):
        """Return once everything that was published before has been judged, and its refusals are stored."""
        from tests.support.waiting import eventually

        mac = world.mac(0xF0000 + next(_SENTINELS) % 0xFFFF)
        await world.publish(f"camera/status/{mac}", {"mac": mac})

        async def refused():
            return await self.trail(mac)

        await eventually(refused, what="the last message was judged")
