"""A real mosquitto on a free loopback port."""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import os
import pwd
import shutil
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path

import aiomqtt

from tests.support.waiting import HANG_S

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


def _own_ports():
    """Ports below the ephemeral range, so that a free port stays free until it is used.

    Each pytest-xdist worker has its own range, so that a restarted daemon gets its old port again.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    width = 12500 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = os.getpid() * 61 % width
    return itertools.cycle([20000 + worker * width + (first + number) % width for number in range(width)])


_PORTS = _own_ports()


def free_port():
    """A free TCP port on 127.0.0.1."""
    for port in _PORTS:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def password_line(username, password, *, salt=b"123456789012", iterations=101):
    """A line of mosquitto's password file."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    encoded = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"{username}:$7${iterations}${'$'.join(encoded)}\n"


@dataclass
class Broker:
    """A mosquitto child process."""

    folder: Path
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"
    process: asyncio.subprocess.Process | None = None

    def __post_init__(self):
        self.conf = self.folder / "mosquitto.conf"
        self.conf.write_text(
            f"listener {self.port} {self.host}\nallow_anonymous true\npersistence false\nmax_queued_messages 20000\n"
            # Otherwise mosquitto changes to its own user, which cannot read pytest's temporary folders.
            f"user {pwd.getpwuid(os.geteuid()).pw_name}\n"
        )

    async def start(self):
        null = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(MOSQUITTO, "-c", str(self.conf), stdout=null, stderr=null)
        async with asyncio.timeout(HANG_S):
            while not await self._answers():
                assert self.process.returncode is None, "mosquitto has exited"
                await asyncio.sleep(0.01)

    async def kill(self):
        """Kill mosquitto; faster than `stop`, which takes 0.1 s."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def stop(self):
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            await self.process.wait()

    def freeze(self):
        """Suspend mosquitto: the port accepts connections, but nothing answers."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.process.pid, signal.SIGCONT)

    async def publish(self, topic, payload, *, retain=False, qos=1):
        async with aiomqtt.Client(self.host, self.port) as client:
            await client.publish(topic, payload, qos=qos, retain=retain)

    @contextlib.asynccontextmanager
    async def client(self, **options):
        async with aiomqtt.Client(self.host, self.port, **options) as client:
            yield client

    async def _answers(self):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(self.host, self.port)
            writer.close()
            await writer.wait_closed()
            return True
        return False
