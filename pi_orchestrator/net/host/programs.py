"""Runs local programs without a shell, bounded in time and output.

The programs get only the environment variables in `PASSED_ENVIRONMENT`, because others may contain secrets, and the C
locale, because their output is parsed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL
from dataclasses import dataclass

STDERR = 2
MAX_STDERR_BYTES = 4096
KILL_TIMEOUT_S = 1.0
PASSED_ENVIRONMENT = ("PATH", "DBUS_SYSTEM_BUS_ADDRESS")


class NotInstalledError(Exception):
    """The program is not installed."""


class ProgramError(Exception):
    """The program failed to start, timed out or wrote too much; the text has the reason."""


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """Exit code, output, and the first line of the error output."""

    exit_code: int
    output: bytes
    error_text: str


async def run(name: str, *arguments: str, timeout_s: float, max_bytes: int) -> ProgramResult:
    """Run a program until it exits; NotInstalledError or ProgramError if there is no result."""
    path = await asyncio.to_thread(shutil.which, name)
    if path is None:
        raise NotInstalledError(name)
    environment = {key: os.environ[key] for key in PASSED_ENVIRONMENT if key in os.environ} | {"LC_ALL": "C"}
    try:
        # Its own session, so that its child processes are killed too.
        transport, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Process(max_bytes), path, *arguments, stdin=DEVNULL, env=environment, start_new_session=True
        )
    except OSError as error:
        raise ProgramError(f"{name} cannot be started: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(timeout_s):
            await process.finished.wait()
    except TimeoutError:
        raise ProgramError(f"{name} did not answer within {timeout_s:g} s") from None
    finally:
        await _stop(transport, process)
    if process.is_output_too_large:
        raise ProgramError(f"{name} wrote more than {max_bytes // 1024} KiB")
    return ProgramResult(transport.get_returncode() or 0, bytes(process.output), _first_line(process.stderr))


class _Process(asyncio.SubprocessProtocol):
    """Collects the output of a program up to a limit."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.output = bytearray()
        self.stderr = bytearray()
        self.is_output_too_large = False
        self.is_closed = False
        self.exited = asyncio.Event()
        self.finished = asyncio.Event()  # no more output is expected, or there was too much

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == STDERR:
            self.stderr += data[: MAX_STDERR_BYTES - len(self.stderr)]
        elif len(self.output) + len(data) <= self._max_bytes:
            self.output += data
        else:
            self.is_output_too_large = True
            self.finished.set()

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        # The program has exited, and no process has its pipes open any more.
        self.is_closed = True
        self.finished.set()


async def _stop(transport: asyncio.SubprocessTransport, process: _Process) -> None:
    """Kill the program and its children, unless it has exited, and close its pipes."""
    if not process.is_closed:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
    transport.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_TIMEOUT_S):
            await process.exited.wait()


def _first_line(stderr: bytearray) -> str:
    """The first line, printable characters only, at most 200."""
    first = stderr.decode("utf-8", errors="replace").strip().split("\n")[0]
    return "".join(char for char in first if char.isprintable())[:200]
