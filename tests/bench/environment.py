"""The environment of a run: a folder on a real disk, brokers, the daemon and the cameras as processes."""

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
from tests.bench.process import CHECKOUT, START_TIMEOUT_S, child, clean_env
from tests.support.broker import Broker, free_port
from tests.support.rig import Rig
from tests.support.waiting import eventually

CAMERAS = 50
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


@dataclass
class Daemon:
    """A daemon process; `started` and `ready` are monotonic seconds."""

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
        """Committed rows of its database, read without a request to the daemon."""
        return self.database.execute(sql, values).fetchall()

    async def stop(self):
        """Send SIGTERM; returns the seconds until exit."""
        started = time.monotonic()
        self.process.terminate()
        code = await self.process.wait()
        if code != 0:
            raise RuntimeError(f"the daemon stopped with exit code {code}")
        return time.monotonic() - started


class Environment:
    """The environment of one run; open it with `opened`."""

    def __init__(self, folder):
        self.folder = folder
        self.macs = make_macs(CAMERAS, seed=1)
        self._registered = None

    @classmethod
    @contextlib.contextmanager
    def opened(cls):
        folder = Path(tempfile.mkdtemp(prefix="pi-orchestrator-bench-", dir=_real_disk()))
        try:
            yield cls(folder)
        finally:
            shutil.rmtree(folder)

    def path(self, name):
        """Create a new folder below that of the environment."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    @contextlib.asynccontextmanager
    async def rig(self, name):
        """A broker and addresses for one daemon and its cameras."""
        folder = self.path(name)
        broker = Broker(folder)
        await broker.start()
        try:
            yield Rig(state_dir=folder / "state", broker=broker)
        finally:
            await broker.stop()

    @contextlib.asynccontextmanager
    async def rig_with_cameras(self, name):
        """A rig with fifty registered cameras in its database, which is made once and copied."""
        if self._registered is None:
            self._registered = await self._register_cameras()
        async with self.rig(name) as rig:
            rig.network, rig.camera_port = self._registered.network, self._registered.camera_port
            shutil.copytree(self._registered.state_dir, rig.state_dir)
            yield rig

    async def _register_cameras(self):
        async with self.rig("registered") as rig, daemon(rig) as running, fleet(rig, CAMERAS):
            await eventually(lambda: running.rows("SELECT count(*) FROM assignments")[0][0] == CAMERAS, within=30)
            await running.stop()
        return rig


@contextlib.asynccontextmanager
async def daemon(rig, *, python=sys.executable, env=None, **sections):
    """Run the daemon during the block; it is READY when the block begins."""
    folder, port = rig.state_dir.parent, free_port()
    tree = rig.tree(http={"listen": [f"127.0.0.1:{port}"]}, **sections)
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
            await _wait_until_ready(notify)
            ready = time.monotonic()
            file = f"file:{rig.state_dir}/orchestrator.db?mode=ro"
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
async def fleet(rig, count, *, interval=10.0):
    """Run simulated cameras in a separate process, all started at once."""
    options = {
        "count": count,
        "broker": f"{rig.broker.host}:{rig.broker.port}",
        "network": rig.network,
        "http-port": rig.camera_port,
        "interval": interval,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    async with child("pi_orchestrator", "sandbox", "cameras", *flags, "--storm", "--json") as process:
        # Read the output; a full pipe would block the cameras.
        reading = asyncio.create_task(_drain(process.process.stdout))
        try:
            yield
        finally:
            reading.cancel()


@contextlib.asynccontextmanager
async def api(running):
    """Yield `get(path)`, which returns the decoded JSON answer."""
    async with aiohttp.ClientSession(running.url) as session:

        async def get(path):
            async with session.get(path) as response:
                return json.loads(await response.read())

        yield get


async def metric(running, name):
    """One value of /metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{running.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def wait_until_connected(running):
    """Wait until the daemon is connected to its broker and subscribed."""

    async def is_connected():
        return await metric(running, "piorch_mqtt_connected") == 1

    await eventually(is_connected)


async def _wait_until_ready(notify):
    async with asyncio.timeout(START_TIMEOUT_S):
        while await asyncio.get_running_loop().sock_recv(notify, 4096) != b"READY=1":
            pass


async def _drain(stream):
    while await stream.read(65536):
        pass


def _toml(name, section):
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in section.items()]
    return f"[{name}]\n{''.join(lines)}\n"


def _real_disk():
    """A temporary folder on a disk; in memory, the figures of durable writes would mean nothing."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for folder in (tempfile.gettempdir(), "/var/tmp", str(CHECKOUT)):
        mounts_above = [mount for mount in mounts if os.path.commonpath([mount[1], folder]) == mount[1]]
        if max(mounts_above, key=lambda mount: len(mount[1]))[2] not in MEMORY_FILE_SYSTEMS:
            return folder
    raise RuntimeError("no temporary folder on a disk: set TMPDIR to a folder on a disk")
