"""Temporary network namespaces: commands, threads, sockets and HTTP clients inside them."""

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


def ip(*args, batch=None):
    """Run `ip ARGS`, with `batch` as its input; returns its output."""
    result = subprocess.run(["ip", *map(str, args)], input=batch, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"ip {' '.join(map(str, args))}: {result.stderr} (this needs root)"
    return result.stdout


class Namespace:
    """A network namespace with loopback up and no IPv6; `opened` creates and deletes it."""

    def __init__(self, name):
        self.name = name
        self.prefix = ("ip", "netns", "exec", name)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=self._enter)

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
            # A running thread would keep the deleted namespace alive.
            namespace._executor.shutdown()
            ip("netns", "delete", name)

    def ip(self, *args):
        return ip("-n", self.name, *args)

    def batch(self, lines):
        """Run many `ip` commands in one process; much faster than one by one."""
        ip("-n", self.name, "-batch", "-", batch="".join(f"{line}\n" for line in lines))

    def call(self, function, *args):
        """Run a fast function in the namespace; blocks the caller."""
        return self._executor.submit(function, *args).result()

    async def run(self, function, *args):
        """Run a blocking function in the namespace's thread, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def socket(self, *kind):
        """Create a socket in this namespace; any thread can use it."""
        return self.call(socket.socket, *kind)

    def session(self):
        """An aiohttp session that opens a new connection in this namespace for each request."""
        connector = aiohttp.TCPConnector(force_close=True, socket_factory=lambda info: self._http_socket(*info))
        return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=connector)

    def sysctl(self, key, value=None):
        """Read or set a value below /proc/sys/net, such as `ipv4/neigh/ap0/delay_first_probe_time`."""
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
        # Avoids the IPv6 neighbour discovery traffic of hundreds of interfaces.
        for scope in ("all", "default"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
