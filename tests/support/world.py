"""A daemon in the process, with a broker, cameras on addresses of its own, and an HTTP client for its API."""

import contextlib
import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from pi_orchestrator.app import running
from pi_orchestrator.net.systemd import Notifier
from pi_orchestrator.sandbox.camera import CameraOptions
from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.settings import load
from tests.support.broker import Broker, free_port

_BLOCKS = itertools.count()


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
            return Answer(response.status, response.headers.copy(), await response.read())

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
        async with (
            running(self.settings(**sections), clock=clock, notifier=Notifier({})) as daemon,
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


@dataclass
class Running:
    """A daemon and two ways to speak to it."""

    daemon: object
    api: Api
    admin: Api

    @property
    def services(self):
        return self.daemon.services
