"""Network namespaces that a test makes: commands, threads, sockets and HTTP clients inside them."""

import asyncio
import contextlib
import ctypes
import itertools
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp

CLONE_NEWNET = 0x40000000
_NUMBERS = itertools.count()


def ip(*words, batch=None):
    """Run `ip WORDS`, with the lines of `batch` as its orders; its output."""
    done = subprocess.run(["ip", *map(str, words)], input=batch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(map(str, words))}: {done.stderr} (this needs root)"
    return done.stdout


class Namespace:
    """A network namespace with loopback up and no IPv6; `opened` makes one and takes it away again."""

    def __init__(self, name):
        self.name = name
        self.prefix = ("ip", "netns", "exec", name)
        self._inside = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=self._enter)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, role):
        name = f"piorch{os.getpid()}-{next(_NUMBERS)}-{role}"
        ip("netns", "add", name)
        namespace = cls(name)
        try:
            namespace.ip("link", "set", "lo", "up")
            namespace.call(namespace._without_ipv6)
            yield namespace
        finally:
            # Its thread would keep it alive without a name.
            namespace._inside.shutdown()
            ip("netns", "delete", name)

    def ip(self, *words):
        return ip("-n", self.name, *words)

    def batch(self, lines):
        """Many orders for `ip` at once: hundreds take milliseconds."""
        ip("-n", self.name, "-batch", "-", batch="".join(f"{line}\n" for line in lines))

    def call(self, function, *args):
        """Run something quick in here and wait for it."""
        return self._inside.submit(function, *args).result()

    async def run(self, function, *args):
        """Run something that blocks in a thread that lives in here; one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._inside, function, *args)

    def socket(self, *kind):
        """A socket of this namespace, for use anywhere."""
        return self.call(socket.socket, *kind)

    def session(self):
        """An HTTP client whose connections are made in here, a new one for each request."""
        connector = aiohttp.TCPConnector(force_close=True, socket_factory=lambda info: self._http_socket(*info))
        return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=connector)

    def sysctl(self, key, value=None):
        """Read or set `net.…`, such as `ipv4/neigh/ap0/delay_first_probe_time`."""
        file = Path("/proc/sys/net", key)
        return self.call(file.read_text).strip() if value is None else self.call(file.write_text, str(value))

    def _http_socket(self, family, kind, protocol, *_):
        sock = self.socket(family, kind, protocol)
        sock.setblocking(False)
        return sock

    def _enter(self):
        with Path("/run/netns", self.name).open() as file:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {self.name}")

    def _without_ipv6(self):
        # Hundreds of interfaces that look for IPv6 neighbours would only make noise.
        for scope in ("all", "default"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
