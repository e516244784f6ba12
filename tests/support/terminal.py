"""Commands on a pseudo terminal: what a person types and sees."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import termios

from tests.support.process import COMMAND, Outcome, start
from tests.support.waiting import HANG_S, eventually


class Terminal:
    """A command on a terminal; `text` is its whole output."""

    def __init__(self, process, fd):
        self.process, self.text, self._fd = process, "", fd
        self._closed = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, *args, prefix=(), width=80, height=24):
        """Run `pi-orchestrator ARGS` during the block; it is killed at the end."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        process = await start(
            (*prefix, *COMMAND, *map(str, args)),
            **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
            env={"TERM": "xterm"},
            cwd="/",
        )
        os.close(theirs)
        terminal = cls(process, ours)
        try:
            yield terminal
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            asyncio.get_running_loop().remove_reader(ours)
            os.close(ours)

    def _read(self):
        try:
            chunk = os.read(self._fd, 65536)
        except OSError:  # the other end is closed
            chunk = b""
        self.text += chunk.decode()
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._closed.set()

    def type(self, text):
        """Type on the terminal's keyboard."""
        os.write(self._fd, text.encode())

    async def expect(self, pattern, within=HANG_S):
        await eventually(lambda: re.search(pattern, self.text), within=within, what=f"{pattern!r} in {self.text!r}")

    async def ended(self, number=None):
        """Send signal `number`, if given, and wait for the end and all output; returns the exit code."""
        if number:
            self.process.send_signal(number)
        async with asyncio.timeout(HANG_S):
            code = await self.process.wait()
            await self._closed.wait()
        return code

    def screen(self):
        """The lines visible on the screen."""
        lines = self.text.replace("\x1b[K", "").replace("\r\n", "\n").split("\n")
        return [line.rsplit("\r", 1)[-1] for line in lines]


async def on_terminal(*args, question="", answer="", **size):
    """Run a command on a terminal; after the text `question`, `answer` is typed. `out` is all its output."""
    async with Terminal.opened(*args, **size) as terminal:
        if question:
            await terminal.expect(re.escape(question))
            terminal.type(answer)
        return Outcome(await terminal.ended(), terminal.text, "")
