"""Daemons and commands as real processes, without importing the program each time.

A server process that has imported everything forks a child for each daemon or command; this takes 5 ms instead of
0.5 to 1.5 s of CPU. The server has also loaded what is the same for every child: the vendor table and scapy. At import,
scapy reads the network interfaces, which may differ in a child; but the program uses only scapy's packets.
The child has its own environment, folder, files and signals, and exits like an interpreter. `Forked` replaces
`asyncio.subprocess.Process`. Tests of the startup run a new interpreter (`fresh=True` in `tests.support.process`).
"""

import asyncio
import atexit
import contextlib
import ctypes
import faulthandler
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from tests.support.unprivileged import drop_bounding_set, drop_capabilities

PRELOADED = (
    *("pi_orchestrator.app.main", "pi_orchestrator.app.lifecycle", "pi_orchestrator.app.cli_demo"),
    *("pi_orchestrator.sandbox.fleet", "tests.support.arp_player", "tests.support.camera_player"),
    *("pi_orchestrator.features.discovery.cli_watch", "pi_orchestrator.features.system.doctor_network"),
    *("http.client", "urllib.request", "getpass", "runpy", "aiohttp", "pydantic", "zeroconf.asyncio"),
    *("pyroute2.iproute.linux", "pyroute2.netlink.generic", "cryptography.hazmat.primitives.ciphers.aead"),
)
MESSAGE_BYTES = 128 * 1024
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_SLAVE, MNT_DETACH = 0x4000, 0x80000, 2


class Forked:
    """A running process, with the part of the `asyncio.subprocess.Process` interface that tests need."""

    def __init__(self, connection, pid):
        self.pid, self.returncode = pid, None
        self._connection = connection
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(connection, self._receive_end)

    def _receive_end(self):
        message = self._connection.recv(MESSAGE_BYTES)
        asyncio.get_running_loop().remove_reader(self._connection)
        self._connection.close()
        self.returncode = json.loads(message)["code"] if message else -signal.SIGKILL
        self._ended.set()

    async def wait(self):
        await self._ended.wait()
        return self.returncode

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


async def fork(*arguments, env, cwd, stdout, stderr, stdin=None, namespace=None, unprivileged=False):
    """Start `python ARGUMENTS` (`-m MODULE ...` or `-c CODE ...`) on open files; `stdin` is empty by default."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(_server_address())
    request = {"arguments": arguments, "env": env, "cwd": str(cwd), "namespace": namespace}
    request |= {"unprivileged": unprivileged}
    with open(os.devnull) as null:  # noqa: ASYNC230, PTH123  # does not block
        standard = (null if stdin is None else stdin, stdout, stderr)
        files = [file if isinstance(file, int) else file.fileno() for file in standard]
        socket.send_fds(connection, [json.dumps(request).encode()], files)
    pid = json.loads(connection.recv(MESSAGE_BYTES))["pid"]
    connection.setblocking(False)
    return Forked(connection, pid)


def forked_processes():
    """The ids of all running processes that this process has started by `fork`."""
    _server_address()
    pid = _server_address.server.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@functools.cache
def _server_address():
    """Start the server and return its address; it exits when its standard input closes: when this process ends."""
    address = str(Path(tempfile.mkdtemp(prefix="fork-server-")) / "socket")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fork_server", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )
    assert server.stdout.readline() == b"ready\n"
    _server_address.server = server  # keeps the pipe open while this process lives
    return address


# The server process.


def serve(address):
    """Fork for every request; returns the arguments to run, only in the children."""
    children = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        os.write(1, b"ready\n")
        while True:
            for key, _ in selector.select():
                if key.fd == 0:
                    _end_all(children, address)
                elif key.fileobj is listener:
                    connection, _ = listener.accept()
                    message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
                    request = json.loads(message)
                    pid = os.fork()
                    if pid == 0:
                        for open_file in (selector, listener, connection, *(other for _, other in children.values())):
                            open_file.close()
                        _become(request, files)
                        return request["arguments"]
                    for file in files:
                        os.close(file)
                    connection.send(json.dumps({"pid": pid}).encode())
                    pidfd = os.pidfd_open(pid)
                    children[pidfd] = pid, connection
                    selector.register(pidfd, selectors.EVENT_READ)
                else:
                    selector.unregister(key.fd)
                    pid, connection = children.pop(key.fd)
                    _, status = os.waitpid(pid, 0)
                    os.close(key.fd)
                    with contextlib.suppress(OSError), connection:
                        connection.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())


def _end_all(children, address):
    for pid, _ in children.values():
        os.kill(pid, signal.SIGKILL)
    Path(address).unlink()
    Path(address).parent.rmdir()
    os._exit(0)


def _become(request, files):
    """Bring this child into the state of a new interpreter."""
    for target, file in enumerate(files):
        os.dup2(file, target)
    os.closerange(3, 1024)
    if request["namespace"]:
        _enter(request["namespace"])
    os.chdir(request["cwd"])
    if request["unprivileged"]:
        drop_bounding_set()
        drop_capabilities()
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, file, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        errors = "backslashreplace" if name == "stderr" else "strict"
        stream = open(file, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: PTH123, SIM115
        if name == "stderr":
            stream.reconfigure(line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _enter(namespace):
    """Enter a network namespace with its own /sys, like `ip netns exec`."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name, *args):
        if getattr(libc, name)(*args) != 0:
            raise OSError(ctypes.get_errno(), name)

    file = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    call("setns", file, CLONE_NEWNET)
    os.close(file)
    call("unshare", CLONE_NEWNS)
    call("mount", b"none", b"/", None, MS_REC | MS_SLAVE, None)
    call("umount2", b"/sys", MNT_DETACH)
    call("mount", namespace.encode(), b"/sys", b"sysfs", 0, None)


def _run(arguments):
    """Run like `python ARGUMENTS`."""
    kind, program, *rest = arguments
    sys.argv = [program if kind == "-m" else kind, *rest]
    source = f"import runpy; runpy.run_module({program!r}, run_name='__main__')" if kind == "-m" else program
    try:
        exec(compile(source, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
    except SystemExit as end:
        code = end.code
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
        _leave(code or 0)


def _leave(code):
    """Exit like an interpreter, but do not release every object: that takes longer than most commands."""
    threading._shutdown()  # noqa: SLF001 - waits for threads
    atexit._run_exitfuncs()  # noqa: SLF001
    for stream in (sys.stdout, sys.stderr):
        try:
            if not stream.closed:
                stream.flush()
        except OSError:
            if stream is sys.stdout:
                print(f"Exception ignored in: {stream!r}\n{traceback.format_exc()}", file=sys.stderr)
            code = 120
    os._exit(code)


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    from pi_orchestrator.net import oui
    from pi_orchestrator.net.arp.frames import load_scapy

    load_scapy()
    oui.load_table = functools.cache(oui.load_table)
    oui.load_table()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    gc.collect()
    gc.freeze()
    _run(serve(sys.argv[1]))
