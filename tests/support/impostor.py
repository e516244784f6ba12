"""A device that takes over the address of a camera, and a camera whose every answer a test can hold back.

`Impostor` has its own namespace: its kernel answers no ARP request, and its HTTP server answers at the camera's
address with the camera's MAC. `take_over` sends gratuitous ARP requests, which replace the Pi's neighbour entry.
"""

import asyncio
import contextlib
import json
import socket
import threading

from pi_orchestrator.sandbox.server import tcp_server
from tests.support.arp_player import ETH_P_ALL, REQUEST, frame
from tests.support.lan import CABLE
from tests.support.netns import Namespace
from tests.support.waiting import eventually

MAC = "24:6F:28:66:66:60"
DEVICE = "imp0"


class Frames:
    """Frames on an interface that contain a text; read in a thread, because the test's event loop may be busy."""

    def __init__(self, sock, text):
        self._sock, self._text = sock, text.encode()
        self.found = []
        self._thread = threading.Thread(target=self._read)

    @classmethod
    @contextlib.contextmanager
    def on(cls, namespace, device, text):
        with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind((device, ETH_P_ALL))
            sock.settimeout(0.1)
            frames = cls(sock, text)
            frames._is_open = True
            frames._thread.start()
            try:
                yield frames
            finally:
                frames._is_open = False
                frames._thread.join()

    def to(self, mac):
        """Frames with the text that were sent to a MAC."""
        target = bytes.fromhex(mac.replace(":", ""))
        return [data for data in self.found if data.startswith(target)]

    def _read(self):
        while self._is_open:
            with contextlib.suppress(TimeoutError):
                data = self._sock.recv(65_536)
                if self._text in data:
                    self.found.append(data)


class CameraServer:
    """An HTTP server at a camera's address: `GET /status` names `mac`, `POST /provision` is accepted.

    `hooks`: coroutine functions, called at "connected", "requested" (before the answer to /status) and "answered".
    `closes`: whether it closes the connection after that answer.
    """

    def __init__(self, mac, *, closes=False, headers=()):
        self.mac, self.closes, self.headers = mac, closes, headers
        self.hooks = {}
        self.requests = []
        self.connections = 0

    def running(self, namespace, address):
        sock = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, 80))
        sock.listen()
        return tcp_server(sock, self._serve)

    async def _serve(self, reader, writer):
        self.connections += 1
        await self._run_hook("connected")
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
            body = await reader.readexactly(length)
            method = head.split()[0]
            self.requests.append((self.connections, method, body))
            if method == "POST":
                writer.write(self._answer("202 Accepted", {"accepted": True}))
                return
            await self._run_hook("requested")
            writer.write(self._answer("200 OK", {"mac": self.mac, "device_id": "cam", "camera_initialized": True}))
            await writer.drain()
            if self.closes:
                writer.close()
            await self._run_hook("answered")
            if self.closes:
                return

    async def _run_hook(self, name):
        if name in self.hooks:
            await self.hooks[name]()

    def _answer(self, status, body):
        content = json.dumps(body).encode()
        close = ("Connection: close",) if self.closes else ()
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *self.headers, *close, "", ""]
        return "\r\n".join(lines).encode() + content


class Impostor:
    """See the module; `received`: the frames on its interface that contain the secret."""

    def __init__(self, site, namespace, camera, server, received):
        self._site, self._namespace, self._camera = site, namespace, camera
        self.server, self.received = server, received

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, site, camera, *, secret):
        with Namespace.opened("imp") as namespace:
            link = ("link", "add", DEVICE, "link", CABLE, "address", MAC, "netns", namespace.name)
            site.camera_ns.ip(*link, "type", "macvlan", "mode", "bridge")
            namespace.sysctl(f"ipv4/conf/{DEVICE}/arp_ignore", 8)
            namespace.batch(
                (
                    f"address add {camera.address}/{site.network.prefixlen} dev {DEVICE}",
                    f"link set {DEVICE} up",
                    f"neigh replace {site.address} lladdr {site.mac()} dev {DEVICE} nud permanent",
                )
            )
            server = CameraServer(camera.mac)
            with Frames.on(namespace, DEVICE, secret) as received:
                async with server.running(namespace, camera.address):
                    yield cls(site, namespace, camera, server, received)

    @property
    def stolen(self):
        """Bodies of the POST requests that it received, and frames to its MAC that contain the secret."""
        return [body for _, method, body in self.server.requests if method == "POST"] + self.received.to(MAC)

    async def take_over(self):
        """Put its own MAC into the Pi's neighbour entry of the camera's address; returns when the kernel has it."""
        await self.announce(MAC)

    async def announce(self, mac):
        """Send gratuitous ARP requests that give a MAC the camera's address, until the Pi has it as neighbour entry."""
        address = self._camera.address

        def is_replaced():
            data = frame(REQUEST, sender=(mac, address), target=("00:00:00:00:00:00", address), source=mac)
            with self._namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
                sock.bind((DEVICE, 0))
                sock.send(data)
            return self._site.neighbours().get(address, (None,))[0] == mac

        await eventually(lambda: asyncio.to_thread(is_replaced), what=f"the Pi has {mac} at {address}")
