"""The stage of a run: a folder on a real disk, brokers, the daemon as a process, simulated cameras as another."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from pi_orchestrator.sandbox.fleet import make_macs
from tests.bench.process import CHECKOUT, STARTED_WITHIN_S, child, clean_env
from tests.support.broker import Broker, free_port
from tests.support.waiting import eventually
from tests.support.world import World

CAMERAS = 50
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


@dataclass
class Daemon:
    """A daemon in a process of its own: `started` and `ready` are monotonic seconds."""

    process: asyncio.subprocess.Process
    port: int
    database: sqlite3.Connection
    started: float
    ready: float

    @property
    def pid(self):
        return self.process.pid

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def rows(self, sql, *values):
        """Rows of its database as of the last commit; the daemon does not notice."""
        return self.database.execute(sql, values).fetchall()

    async def stop(self):
        """SIGTERM; the seconds until it has ended."""
        began = time.monotonic()
        self.process.terminate()
        code = await self.process.wait()
        if code != 0:
            raise RuntimeError(f"the daemon stopped with exit code {code}")
        return time.monotonic() - began


class Stage:
    """Where everything of one run happens; open it with `opened`."""

    def __init__(self, folder):
        self.folder = folder
        self.macs = make_macs(CAMERAS, seed=1)
        self._seed = None

    @classmethod
    @contextlib.contextmanager
    def opened(cls):
        folder = Path(tempfile.mkdtemp(prefix="pi-orchestrator-bench-", dir=_real_disk()))
        try:
            yield cls(folder)
        finally:
            shutil.rmtree(folder)

    def path(self, name):
        """A fresh folder below the stage's."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    @contextlib.asynccontextmanager
    async def world(self, name):
        """A broker of its own, and addresses, for one daemon and its cameras."""
        folder = self.path(name)
        broker = Broker(folder)
        await broker.start()
        try:
            yield World(state_dir=folder / "state", broker=broker)
        finally:
            await broker.stop()

    @contextlib.asynccontextmanager
    async def settled_world(self, name):
        """A world whose daemon will start with fifty registered cameras."""
        if self._seed is None:
            self._seed = await self._register_cameras()
        async with self.world(name) as world:
            world.network, world.camera_port = self._seed.network, self._seed.camera_port
            shutil.copytree(self._seed.state_dir, world.state_dir)
            yield world

    async def _register_cameras(self):
        async with self.world("seed") as world, daemon(world) as running, fleet(world, CAMERAS):
            await eventually(lambda: running.rows("SELECT count(*) FROM assignments")[0][0] == CAMERAS, within=30)
            await running.stop()
        return world


@contextlib.asynccontextmanager
async def daemon(world, *, python=sys.executable, env=None, **sections):
    """`run` until the end of the block; it is READY when the block begins."""
    folder, port = world.state_dir.parent, free_port()
    tree = world.tree(http={"listen": [f"127.0.0.1:{port}"]}, **sections)
    config = folder / "config.toml"
    config.write_text("".join(_toml(name, section) for name, section in tree.items()))
    log = folder / "daemon.log"
    with log.open("ab") as stderr, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        address = folder / "notify"
        address.unlink(missing_ok=True)
        notify.bind(str(address))
        notify.setblocking(False)
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", "pi_orchestrator", "run", "--config", str(config)),
            cwd=CHECKOUT,
            env=clean_env(NOTIFY_SOCKET=str(address), **(env or {})),
            stderr=stderr,
        )
        try:
            await _until_ready(notify)
            ready = time.monotonic()
            file = f"file:{world.state_dir}/orchestrator.db?mode=ro"
            with contextlib.closing(sqlite3.connect(file, uri=True)) as database:
                yield Daemon(process, port, database, started, ready)
        except BaseException:
            print(log.read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@contextlib.asynccontextmanager
async def fleet(world, count, *, interval=10.0):
    """Simulated cameras in a process of their own, switched on all at once."""
    options = {
        "count": count,
        "broker": f"{world.broker.host}:{world.broker.port}",
        "network": world.network,
        "http-port": world.camera_port,
        "interval": interval,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    async with child("pi_orchestrator", "sandbox", "cameras", *flags, "--storm", "--json") as process:
        # The lines must be read, or the pipe fills and the cameras stand still.
        reading = asyncio.create_task(_drain(process.process.stdout))
        try:
            yield
        finally:
            reading.cancel()


@contextlib.asynccontextmanager
async def api(running):
    """`get(path)` → the decoded JSON answer."""
    async with aiohttp.ClientSession(running.url) as session:

        async def get(path):
            async with session.get(path) as response:
                return json.loads(await response.read())

        yield get


async def metric(running, name):
    """One value of the Prometheus page."""
    async with aiohttp.ClientSession() as session, session.get(f"{running.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def connected(running):
    """Wait until the daemon has subscribed at its broker."""

    async def is_connected():
        return await metric(running, "piorch_mqtt_connected") == 1

    await eventually(is_connected)


async def _until_ready(notify):
    async with asyncio.timeout(STARTED_WITHIN_S):
        while await asyncio.get_running_loop().sock_recv(notify, 4096) != b"READY=1":
            pass


async def _drain(stream):
    while await stream.read(65536):
        pass


def _toml(name, section):
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in section.items()]
    return f"[{name}]\n{''.join(lines)}\n"


def _real_disk():
    """A folder whose writes reach a disk: figures about durable writes mean nothing in memory."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for folder in (tempfile.gettempdir(), "/var/tmp", str(CHECKOUT)):
        inside = [mount for mount in mounts if os.path.commonpath([mount[1], folder]) == mount[1]]
        if max(inside, key=lambda mount: len(mount[1]))[2] not in MEMORY_FILE_SYSTEMS:
            return folder
    raise RuntimeError("no folder on a disk: set TMPDIR to one")
