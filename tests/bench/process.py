"""Child processes, and process figures from the kernel."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PIPE = asyncio.subprocess.PIPE
START_TIMEOUT_S = 20.0
INSTALLED = os.environ.get("BENCH_INSTALLED_PYTHON", sys.executable)
"""A Python interpreter with the runtime libraries only. Some libraries import optional packages, which the development
environment has; that would increase the memory."""


class Child:
    """A process that answers each input line with an output line."""

    def __init__(self, process):
        self.process = process
        self.pid = process.pid

    async def next_line(self):
        """The next output line; raises RuntimeError if the process has exited."""
        async with asyncio.timeout(60):
            line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a child process exited with code {await self.process.wait()}")
        return line.decode().strip()

    async def request(self, line):
        """Send an input line; returns the next output line."""
        self.process.stdin.write(f"{line}\n".encode())
        return await self.next_line()


@contextlib.asynccontextmanager
async def child(module, *args, prefix=(), python=sys.executable):
    """Run `python -m module args` during the block; `prefix` runs it in a namespace."""
    words = (*prefix, python, "-m", module, *map(str, args))
    process = await asyncio.create_subprocess_exec(*words, cwd=CHECKOUT, env=clean_env(), stdin=PIPE, stdout=PIPE)
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def clean_env(**more):
    """Environment variables without the user's settings of the daemon."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ} | more


def unit_env():
    """The environment of the systemd unit, but .pyc files are written, as in an installation."""
    unit = (CHECKOUT / "systemd" / "pi-orchestrator.service").read_text().splitlines()
    words = [word for line in unit if line.startswith("Environment=") for word in line.partition("=")[2].split()]
    return {name: value for name, _, value in (word.partition("=") for word in words) if "BYTECODE" not in name}


def cpu_s(pid):
    """CPU seconds of all threads so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_bytes(pid):
    """Bytes that the process has written to disk so far."""
    return _field(f"/proc/{pid}/io", "write_bytes")


def memory_mib(pid):
    """(RSS, PSS) in MiB."""
    rollup = f"/proc/{pid}/smaps_rollup"
    return _field(rollup, "Rss") / 1024, _field(rollup, "Pss") / 1024


def _field(file, name):
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(f"{name}:"))
