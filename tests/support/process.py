"""The program as users run it: the daemon as a child process, commands, and systemd's end of the notify socket."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.support.waiting import eventually
from tests.support.world import Api

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "pi_orchestrator")

# Root may write everywhere; without its capabilities it is a user like any other, and may still read this checkout.
POWERLESS = (
    (shutil.which("setpriv") or "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
    if os.geteuid() == 0
    else ()
)

# The same program with two signals more: USR1 blocks the event loop for BLOCK_S seconds, USR2 lists its tasks.
PROBED = (
    sys.executable,
    "-c",
    """
import asyncio, os, signal, sys, time
def block(*_):
    time.sleep(float(os.environ["BLOCK_S"]))
def list_tasks(*_):
    names = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    file = os.environ["TASKS_FILE"]
    with open(file + ".partial", "w") as out:
        out.write("\\n".join(names))
    os.replace(file + ".partial", file)
signal.signal(signal.SIGUSR1, block)
signal.signal(signal.SIGUSR2, list_tasks)
from pi_orchestrator.cli.main import main
sys.exit(main())
""",
)


def environment(**more):
    """A clean environment: nothing of the person who runs the tests takes part."""
    base = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    return base | more


def write_toml(path, tree):
    """A settings tree as TOML; JSON's scalars and lists are TOML's too."""
    lines = []
    for section, values in tree.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class DaemonProcess:
    """A daemon that was started; its log (stderr) is in a file, so that nothing is lost when it is killed."""

    process: asyncio.subprocess.Process
    log_file: Path
    state_dir: Path
    tasks_file: Path
    api: Api = None
    admin: Api = None

    @property
    def pid(self):
        return self.process.pid

    @property
    def code(self):
        """The exit code, None while it runs."""
        return self.process.returncode

    def text(self):
        return self.log_file.read_text(errors="replace")

    def entries(self, event=None):
        """The log as dicts; what is no JSON object (a trace, a plain message) is left to `text`."""
        found = []
        for line in self.text().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and event in (None, entry.get("event")):
                    found.append(entry)
        return found

    async def logged(self, event, *, count=1, within=10):
        """The last of at least `count` entries of this name."""
        await eventually(lambda: len(self.entries(event)) >= count, within=within, what=f"{event!r} × {count} logged")
        return self.entries(event)[-1]

    async def ready(self, session, within=20):
        """Wait until it serves; then `api` (no key) and `admin` (the admin key, if there is one) speak to it."""

        def is_ready():
            assert self.code is None, f"the daemon has ended with code {self.code}"
            return self.entries("ready")

        await eventually(is_ready, within=within, what="the daemon is ready")
        url = f"http://{self.entries('ready')[-1]['listen'][0]}"
        key = self.state_dir / "admin.key"
        self.api = Api(session, url)
        self.admin = Api(session, url, key.read_text().strip() if key.exists() else None)

    def send(self, number):
        self.process.send_signal(number)

    async def ended(self, within=10):
        """The exit code, once it has ended by itself."""
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def stop(self, number=signal.SIGTERM, within=10):
        """Ask it to stop; its exit code."""
        self.send(number)
        return await self.ended(within)

    async def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def descriptors(self):
        """What it has open, by descriptor."""
        found = {}
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = str(entry.readlink())
        return found

    async def descriptors_at_rest(self):
        """The same, once the connections of the requests before are closed."""
        seen = []

        def unchanged_for_a_while():
            seen.append(self.descriptors())
            return len(seen) > 20 and all(other == seen[-1] for other in seen[-20:])

        await eventually(unchanged_for_a_while)
        return seen[-1]

    async def tasks(self):
        """The coroutines of its event loop's tasks; only of a daemon that was started as PROBED."""
        self.tasks_file.unlink(missing_ok=True)
        self.send(signal.SIGUSR2)
        await eventually(self.tasks_file.exists, what="the tasks are listed")
        return sorted(self.tasks_file.read_text().splitlines())

    def resident_kib(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


async def launch(world, folder, *, config=None, command=COMMAND, prefix=(), args=(), env=None, stderr=None, **sections):
    """Start `run` and return at once; the configuration is the world's, with `sections` on top."""
    config = config or write_toml(folder / "config.toml", world.tree(**sections))
    # Each start has a log of its own: an old "ready" must not speak for a new process.
    log_file = folder / f"daemon-{len(list(folder.glob('daemon-*.log'))) + 1}.log"
    with log_file.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *prefix,
            *command,
            "run",
            "--config",
            str(config),
            *args,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log if stderr is None else stderr,
            env=environment(TASKS_FILE=str(folder / "tasks"), **(env or {})),
            cwd=folder,
        )
    return DaemonProcess(process, log_file, world.state_dir, folder / "tasks")


@contextlib.asynccontextmanager
async def daemon(world, folder, *, ready=True, connected=True, **how):
    """A daemon process for the length of the block (see `launch`); it ends with the block, whatever happens."""
    # A connection for each request: what the daemon has open when nobody asks is its own.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=connector) as session:
        process = await launch(world, folder, **how)
        try:
            if ready:
                await process.ready(session)
                if connected:
                    await process.logged("mqtt connected")
            yield process
        except BaseException as error:
            error.add_note("the end of the daemon's log:\n" + process.text()[-4000:])
            raise
        finally:
            await process.kill()


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


async def command(*args, env=None, prefix=(), within=30, program=COMMAND, cwd="/"):
    """Run `pi-orchestrator ARGS` to its end."""
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *program,
        *map(str, args),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**(env or {})),
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(within):
            out, err = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return Outcome(process.returncode, out.decode(), err.decode())


@contextlib.asynccontextmanager
async def going_on(*args, folder, prefix=()):
    """`pi-orchestrator ARGS` for the length of the block; `out()` and `err()` are what it has written by now."""
    out, err = folder / "out", folder / "err"
    with out.open("wb") as to, err.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *prefix,
            *COMMAND,
            *map(str, args),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=to,
            stderr=errors,
            env=environment(),
        )
    process.out, process.err = out.read_text, err.read_text
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass
class NotifySocket:
    """systemd's end: collects the datagrams, as lines, in the order in which they came."""

    path: Path
    lines: list = field(default_factory=list)

    async def __aenter__(self):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self.path))
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    async def __aexit__(self, *_):
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self):
        self.lines += self._socket.recv(65536).decode().split("\n")

    def count(self, line):
        return self.lines.count(line)

    async def received(self, line, *, count=1, within=10):
        await eventually(
            lambda: self.count(line) >= count, within=within, what=f"{line} × {count} sent, got {self.lines[-5:]}"
        )
