"""Programs of this machine that are asked something: bounded in output and time, without a shell.

They get nothing of our environment but where programs are, because there may be keys in it, and they are asked in
the C locale, because what they answer is read by a parser.
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
MAX_COMPLAINT_BYTES = 4096
KILLED_WITHIN_S = 1.0
PASSED_ON = ("PATH", "DBUS_SYSTEM_BUS_ADDRESS")


class NotInstalledError(Exception):
    """There is no such program."""


class ProgramError(Exception):
    """It is there and gave no answer that can be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What it wrote, and how it ended."""

    code: int
    output: bytes
    complaint: str


async def ask(name: str, *arguments: str, within_s: float, max_bytes: int) -> Answer:
    """Run a program to its end; NotInstalledError or ProgramError where there is no answer."""
    path = await asyncio.to_thread(shutil.which, name)
    if path is None:
        raise NotInstalledError(name)
    environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ} | {"LC_ALL": "C"}
    try:
        # A session of its own, so that its end is the end of whatever it has started as well.
        transport, run = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Run(max_bytes), path, *arguments, stdin=DEVNULL, env=environment, start_new_session=True
        )
    except OSError as error:
        raise ProgramError(f"{name} cannot be started: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(within_s):
            await run.finished.wait()
    except TimeoutError:
        raise ProgramError(f"{name} did not answer within {within_s:g} s") from None
    finally:
        await _end(transport, run)
    if run.wrote_too_much:
        raise ProgramError(f"{name} wrote more than {max_bytes // 1024} KiB")
    return Answer(transport.get_returncode() or 0, bytes(run.output), _words(run.complaint))


class _Run(asyncio.SubprocessProtocol):
    """What a program writes, kept up to a limit."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.output = bytearray()
        self.complaint = bytearray()
        self.wrote_too_much = False
        self.is_over = False
        self.exited = asyncio.Event()
        self.finished = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == STDERR:
            self.complaint += data[: MAX_COMPLAINT_BYTES - len(self.complaint)]
        elif len(self.output) + len(data) <= self._max_bytes:
            self.output += data
        else:
            self.wrote_too_much = True
            self.finished.set()

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the base's
        # It has ended, and nobody holds its pipes any more.
        self.is_over = True
        self.finished.set()


async def _end(transport: asyncio.SubprocessTransport, run: _Run) -> None:
    """Leave nothing of it behind; after a proper end there is nothing to be done."""
    if not run.is_over:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
    transport.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILLED_WITHIN_S):
            await run.exited.wait()


def _words(complaint: bytearray) -> str:
    """The first line, safe to show."""
    first = complaint.decode("utf-8", errors="replace").strip().split("\n")[0]
    return "".join(char for char in first if char.isprintable())[:200]
