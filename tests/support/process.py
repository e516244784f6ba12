"""The program as child processes: the daemon, commands, and systemd's end of the notify socket."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.support.fork_server import fork
from tests.support.rig import Api
from tests.support.waiting import HANG_S, eventually

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "pi_orchestrator")

# Root without capabilities is limited like other users, but can still read this checkout.
UNPRIVILEGED = (
    (shutil.which("setpriv") or "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
    if os.geteuid() == 0
    else ()
)


def patched(code, *options):
    """Command that runs this code before the program, for example to set a constant; `options` are Python options."""
    main = "import sys\nfrom pi_orchestrator.app.main import main\nsys.exit(main())\n"
    return (sys.executable, *options, "-c", f"{code}\n{main}")


# Python code for `patched`: two extra signals. USR1 blocks the event loop for BLOCK_S seconds, USR2 lists its tasks.
PROBES = """
import asyncio, os, signal, time
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
"""
PROBED = patched(PROBES)

# Python code for `patched`: a broker that hangs is detected after 7.5 s.
SHORT_KEEPALIVE = "from pi_orchestrator.net.mqtt import session; session.KEEPALIVE_S = 5"


def environment(**extra):
    """Environment variables that do not depend on the user who runs the tests."""
    base = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    # aiohttp reads the system's certificates twice at import (0.1 s per process); no test needs them.
    return base | {"SSL_CERT_FILE": os.devnull} | extra


def write_toml(path, tree):
    """Write a settings tree as TOML (JSON scalars and lists are valid TOML); returns the path."""
    lines = []
    for section, values in tree.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class DaemonProcess:
    """A started daemon; its log (stderr) goes to a file, so that it is complete after a kill."""

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
        """The exit code; None while it runs."""
        return self.process.returncode

    def text(self):
        return self.log_file.read_text(errors="replace")

    def entries(self, event=None):
        """Log entries as dicts, of one event if given; lines that are not JSON objects are skipped."""
        found = []
        for line in self.text().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and event in (None, entry.get("event")):
                    found.append(entry)
        return found

    async def logged(self, event, *, count=1, within=HANG_S):
        """Wait for at least `count` log entries of an event; returns the last one."""
        await eventually(lambda: len(self.entries(event)) >= count, within=within, what=f"{event!r} × {count} logged")
        return self.entries(event)[-1]

    async def ready(self, session, within=HANG_S):
        """Wait until the daemon serves; then set `api` (no key) and `admin` (the admin key, if it exists)."""

        def is_ready():
            assert self.code is None, f"the daemon exited with code {self.code}"
            return self.entries("ready")

        await eventually(is_ready, within=within, what="the daemon is ready")
        url = f"http://{self.entries('ready')[-1]['listen'][0]}"
        key = self.state_dir / "admin.key"
        self.api = Api(session, url)
        self.admin = Api(session, url, key.read_text().strip() if key.exists() else None)

    def send(self, number):
        self.process.send_signal(number)

    async def ended(self, within=HANG_S):
        """Wait until the daemon exits, without sending it a signal; returns the exit code."""
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def stop(self, number=signal.SIGTERM, within=HANG_S):
        """Send a signal (default SIGTERM) and wait; returns the exit code."""
        self.send(number)
        return await self.ended(within)

    async def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def descriptors(self):
        """Open file descriptors: {number: target}."""
        found = {}
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = str(entry.readlink())
        return found

    async def descriptors_at_rest(self):
        """`descriptors` after connections of earlier requests have closed."""
        seen = []

        def unchanged_for_a_while():
            seen.append(self.descriptors())
            return len(seen) > 20 and all(other == seen[-1] for other in seen[-20:])

        await eventually(unchanged_for_a_while)
        return seen[-1]

    async def tasks(self):
        """Names of the event loop's task coroutines, sorted; requires a daemon started with PROBED."""
        self.tasks_file.unlink(missing_ok=True)
        self.send(signal.SIGUSR2)
        await eventually(self.tasks_file.exists, what="the tasks are listed")
        return sorted(self.tasks_file.read_text().splitlines())

    def resident_kib(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


async def start(program, *args, env, cwd, stdout, stderr, stdin=None, fresh=False):
    """Start a program with open files as stdin (default: empty), stdout and stderr.

    Python programs are forked by `fork_server`, unless `fresh`.
    """
    command, namespace, unprivileged = program, None, False
    if command[:3] == ("ip", "netns", "exec"):
        namespace, command = command[3], command[4:]
    if UNPRIVILEGED and command[: len(UNPRIVILEGED)] == UNPRIVILEGED:
        unprivileged, command = True, command[len(UNPRIVILEGED) :]
    python, *arguments = command
    needs_interpreter = fresh or any(name.startswith(("PYTHON", "LANG", "LC_")) for name in env)
    if python == sys.executable and arguments[0] in ("-m", "-c") and not needs_interpreter:
        options = {"namespace": namespace, "unprivileged": unprivileged}
        options |= {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        return await fork(*arguments, *args, env=environment(**env), cwd=cwd, **options)
    return await asyncio.create_subprocess_exec(
        *program,
        *args,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(**env),
        cwd=cwd,
    )


@contextlib.asynccontextmanager
async def connected(*program, cwd="/", limit=1 << 16):
    """Run a program during the block, with a StreamWriter `stdin` and a StreamReader `stdout`; it is killed at the end.

    Its stderr is that of the tests. `limit` is the largest size of a line in bytes.
    """
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=limit)
    try:
        with theirs:
            process = await start(program, env={}, cwd=cwd, stdin=theirs, stdout=theirs, stderr=2)
        process.stdin, process.stdout = writer, reader
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    finally:
        writer.close()


async def launch(
    rig, folder, *, config=None, command=COMMAND, prefix=(), args=(), env=None, stderr=None, fresh=False, **sections
):
    """Start `pi-orchestrator run` without waiting; the configuration is that of the rig, overridden by `sections`."""
    config = config or write_toml(folder / "config.toml", rig.tree(**sections))
    # One log per start, so that the "ready" of an earlier process does not count for the new one.
    log_file = folder / f"daemon-{len(list(folder.glob('daemon-*.log'))) + 1}.log"
    with log_file.open("ab") as log:
        process = await start(
            (*prefix, *command),
            *("run", "--config", str(config), *map(str, args)),
            env={"TASKS_FILE": str(folder / "tasks")} | (env or {}),
            cwd=folder,
            stdout=log,
            stderr=log if stderr is None else stderr,
            fresh=fresh,
        )
    return DaemonProcess(process, log_file, rig.state_dir, folder / "tasks")


@contextlib.asynccontextmanager
async def daemon(rig, folder, *, ready=True, connected=True, **options):
    """Run a daemon process during the block (see `launch`); it is killed at the end."""
    # One connection per request: without requests, the daemon has no client connections open.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=connector) as session:
        process = await launch(rig, folder, **options)
        try:
            if ready:
                await process.ready(session)
                if connected:
                    await process.logged("mqtt connected")
            yield process
        except BaseException as error:
            error.add_note("last lines of the daemon's log:\n" + process.text()[-4000:])
            raise
        finally:
            await process.kill()


@dataclass
class Outcome:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


async def command(*args, env=None, prefix=(), within=HANG_S, program=COMMAND, cwd="/", fresh=False):
    """Run `pi-orchestrator ARGS` and wait for its end."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = await start(
            (*prefix, *program), *map(str, args), env=env or {}, cwd=cwd, stdout=out, stderr=err, fresh=fresh
        )
        try:
            async with asyncio.timeout(within):
                code = await process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        return Outcome(code, *(_content(file) for file in (out, err)))


async def first_line(*program, then=None):
    """The first line of a program's output, and the Outcome, whose `out` is empty; like `... | head -1`.

    `then` is called when the line is read and the pipe is closed.
    """
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, tempfile.TemporaryFile() as err:  # noqa: ASYNC230, PTH123
        try:
            process = await start(program, env={}, cwd="/", stdout=writing, stderr=err)
        finally:
            os.close(writing)
        try:
            async with asyncio.timeout(HANG_S):
                line = await asyncio.to_thread(pipe.readline)
                pipe.close()
                if then:
                    then()
                code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return line.decode(), Outcome(code, "", _content(err))


def _content(file):
    file.seek(0)
    return file.read().decode()


@contextlib.asynccontextmanager
async def running_command(*args, folder, prefix=()):
    """Run `pi-orchestrator ARGS` during the block; `out()` and `err()` return its output so far."""
    out, err = folder / "out", folder / "err"
    with out.open("wb") as to, err.open("wb") as errors:
        process = await start((*prefix, *COMMAND), *map(str, args), env={}, cwd=folder, stdout=to, stderr=errors)
    process.out, process.err = out.read_text, err.read_text
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass
class NotifySocket:
    """systemd's end of the notify socket: collects the received lines in order."""

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

    async def received(self, line, *, count=1, within=HANG_S):
        await eventually(
            lambda: self.count(line) >= count, within=within, what=f"{line} × {count} sent, got {self.lines[-5:]}"
        )
