"""An access point's network in two namespaces: the Pi with the interface `ap0`, and the cameras behind it.

    async with lan.opened(tmp_path, cameras=60) as site, site.daemon() as daemon, site.fleet():
        answer = await daemon.api.get("/api/v1/cameras")      # or site.api.get

Each camera is a macvlan interface with the MAC and the address of the n-th sandbox camera. An ARP player on the same
cable sends what no kernel sends (see arp_player.py). Each address is bound to its own interface, for received and for
sent packets, so that it always has the MAC of its camera.
"""

import asyncio
import contextlib
import fcntl
import json
import signal
import socket
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from urllib.parse import urlsplit

from pi_orchestrator.sandbox.fleet import make_addresses, make_macs
from tests.support import process
from tests.support.arp_player import ETH_P_ARP, REPLY, REQUEST, Arp, Player, frame
from tests.support.broker import MOSQUITTO
from tests.support.camera_player import CameraPlayer
from tests.support.netns import Namespace
from tests.support.rig import Rig
from tests.support.waiting import eventually

CABLE = "lan0"
FIRST_TABLE = 1000  # number of the first routing table; one per address
# Priorities of the routing rules for packets: received on the interface of their address, received on another
# interface, sent to a local address, sent to the cable.
RECEIVED, REFUSED, LOCAL, SENT = 1000, 10_000, 10_001, 20_000
# Multicast MACs with different hashes; see `block_broadcasts`.
GROUPS = tuple(f"33:33:00:00:{number:02x}:{0x77 + number:02x}" for number in range(8))
LARGE = 100  # cameras; a network with more runs alone
API_PORT = 8081
KILLED_AFTER_S = 5
NETWORK = "10.77.0.0/24"
"""Capacity: 245 sandbox cameras; 10.77.0.0/23 has 490."""


@dataclass
class Camera:
    """An interface behind the access point; `table` is the routing table of its current address."""

    number: int
    device: str
    mac: str
    address: str
    table: int


@contextlib.asynccontextmanager
async def opened(folder, *, cameras=0, network=NETWORK, seed=1, broker=True):
    """Create both namespaces with `cameras` cameras, and mosquitto on the Pi; yields a Lan."""
    async with _exclusive_if_large(cameras), _namespaces() as (pi, camera_ns):
        site = Lan(folder, pi, camera_ns, IPv4Network(network))
        site.connect_namespaces()
        site.add_cameras(cameras, seed=seed)
        if broker:
            await site.broker.start()
        try:
            yield site
        finally:
            await site.broker.kill()


@contextlib.asynccontextmanager
async def _namespaces():
    with Namespace.opened("pi") as pi, Namespace.opened("cams") as camera_ns:
        yield pi, camera_ns


@contextlib.asynccontextmanager
async def _exclusive_if_large(cameras):
    """Run one large network at a time: the kernel's neighbour table (1,024 entries) is shared by all namespaces."""
    if cameras <= LARGE:
        yield
        return
    with (Path(tempfile.gettempdir()) / "pi-orchestrator-large-lan").open("w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield


class Lan:
    """The network; see `opened`."""

    def __init__(self, folder, pi, camera_ns, network):
        self.folder, self.pi, self.camera_ns, self.network = folder, pi, camera_ns, network
        self.interface = "ap0"
        self.address = str(network[1])
        self.cameras = []
        self.events = []
        self.broker = LanBroker(folder, pi, self.address)
        self.api = self.admin = None

    def connect_namespaces(self):
        for scope in ("all", "default"):
            self.camera_ns.sysctl(f"ipv4/conf/{scope}/rp_filter", 0)
            self.camera_ns.sysctl(f"ipv4/conf/{scope}/arp_ignore", 1)
            self.camera_ns.sysctl(f"ipv4/conf/{scope}/arp_announce", 2)
        # Real cameras have separate rate limits for "port unreachable"; this kernel has one for all of them.
        self.camera_ns.sysctl("ipv4/icmp_ratemask", 0)
        self.pi.ip("link", "add", self.interface, "type", "veth", "peer", "name", CABLE, "netns", self.camera_ns.name)
        self.camera_ns.ip("link", "set", CABLE, "up")
        # Linux accepts a packet for any of its addresses on every interface; a camera accepts only its own.
        self.camera_ns.batch(
            (
                f"rule add lookup local pref {LOCAL}",
                f"rule add not iif lo to {self.network} blackhole pref {REFUSED}",
                "rule delete pref 0",
            )
        )
        self.set_address()
        self.up()

    def add_cameras(self, count, *, seed=1):
        """Add interfaces for the first `count` cameras of `sandbox cameras --network … --seed …`."""
        lines = []
        macs, addresses = make_macs(count, seed=seed), make_addresses(str(self.network), count)
        for number, (mac, address) in enumerate(zip(macs, addresses, strict=True)):
            camera = Camera(number, f"cam{number}", mac, str(address), FIRST_TABLE + number)
            self.cameras.append(camera)
            lines += (
                f"link add {camera.device} link {CABLE} address {mac} type macvlan mode bridge",
                f"address add {address}/32 dev {camera.device}",
                f"link set {camera.device} up",
                self._route(camera, "add"),
                *self._rules(camera, "add"),
            )
        if self.cameras:
            # Sockets that are not bound to an address use the last camera; no test examines that camera.
            lines.append(f"route add {self.network} dev {self.cameras[-1].device}")
        self.camera_ns.batch(lines)

    # Faults of the Pi's interface.

    def up(self):
        self.pi.ip("link", "set", self.interface, "up")

    def down(self):
        self.pi.ip("link", "set", self.interface, "down")

    def rename(self, name):
        """Rename the interface; it is down for a moment."""
        self.pi.batch(
            [f"link set {self.interface} down", f"link set {self.interface} name {name}", f"link set {name} up"]
        )
        self.interface = name

    def set_address(self, address=None):
        """Add an address to the interface (default: `self.address`)."""
        self.pi.ip("address", "add", f"{address or self.address}/{self.network.prefixlen}", "dev", self.interface)

    def remove_address(self):
        self.pi.ip("address", "flush", "dev", self.interface)

    def unplug(self):
        """Remove the interface from the Pi, like an unplugged USB adapter; the cameras remain."""
        self.pi.ip("link", "set", self.interface, "netns", self.camera_ns.name)

    def plug(self, *, name=None):
        """Move the interface back to the Pi: up, with its address, but with a new index, like a USB adapter."""
        index = json.loads(self.camera_ns.ip("-j", "link", "show", self.interface))[0]["ifindex"]
        taken = {link["ifindex"] for link in json.loads(self.pi.ip("-j", "link"))}
        if index not in taken:
            # Occupy the old index with a temporary interface. Its peer needs an index too, or it could get the old one.
            peer = ("peer", "name", "taken1", "index", index + 1000)
            self.pi.ip("link", "add", "taken0", "index", index, "type", "veth", *peer)
        self.camera_ns.ip("link", "set", self.interface, "netns", self.pi.name)
        if index not in taken:
            self.pi.ip("link", "delete", "taken0")
        if name:
            self.pi.ip("link", "set", self.interface, "name", name)
            self.interface = name
        self.set_address()
        self.up()

    # Faults of cameras.

    async def block_broadcasts(self, *cameras):
        """Stop cameras from receiving broadcasts, like modem sleep: ARP sweeps do not find them.

        They still receive unicast frames: TCP works, and they answer the kernel's unicast probes.
        """
        pi_mac = self.mac()
        for camera in cameras:
            # The broadcast address becomes the Pi's MAC, so their own requests reach the Pi. The receive filter is only
            # updated when a group is joined. It is a hash: if a group collides with broadcast, try the next group.
            self.camera_ns.ip("link", "set", camera.device, "broadcast", pi_mac, "multicast", "off")
            for group in GROUPS:
                self.camera_ns.ip("maddress", "add", group, "dev", camera.device)
                if not (await self.arp_request(camera.address))[camera.address]:
                    break
                self.camera_ns.ip("maddress", "delete", group, "dev", camera.device)
            else:
                raise AssertionError(f"{camera.device} still receives broadcasts")

    def unblock_broadcasts(self, *cameras):
        for camera in cameras:
            self.camera_ns.ip("link", "set", camera.device, "broadcast", "ff:ff:ff:ff:ff:ff", "multicast", "on")
            joined = self.camera_ns.ip("maddress", "show", "dev", camera.device)
            for group in GROUPS:
                if group in joined:
                    self.camera_ns.ip("maddress", "delete", group, "dev", camera.device)

    def disable_arp(self, *cameras):
        """Stop cameras from answering ARP; IP still works, because the Pi gets permanent neighbour entries."""
        for camera in cameras:
            self.camera_ns.sysctl(f"ipv4/conf/{camera.device}/arp_ignore", 8)
            where = (camera.address, "lladdr", camera.mac, "dev", self.interface)
            self.pi.ip("neigh", "replace", *where, "nud", "permanent")

    def switch_off(self, *cameras):
        """Set the interfaces of cameras down."""
        self.camera_ns.batch(f"link set {camera.device} down" for camera in cameras)

    def switch_on(self, *cameras):
        """Set the interfaces of cameras up, and restore their routes, which the kernel removed."""
        lines = []
        for camera in cameras:
            lines += (f"link set {camera.device} up", self._route(camera, "replace"))
        self.camera_ns.batch(lines)

    def swap(self, first, second):
        """Exchange the addresses of two cameras.

        A process that uses one of the addresses sends with the other MAC until it is restarted.
        """
        self._set_addresses((first, second.address, second.table), (second, first.address, first.table))

    def move(self, camera, address):
        """Change the address of a camera; processes that listen on the old one must be restarted."""
        self._set_addresses((camera, str(address), camera.table))

    def _set_addresses(self, *changes):
        cameras = [camera for camera, _, _ in changes]
        # Add the new address first: an interface without addresses loses its routes.
        lines = [f"address add {address}/32 dev {camera.device}" for camera, address, _ in changes]
        for camera in cameras:
            lines += (f"address delete {camera.address}/32 dev {camera.device}", *self._rules(camera, "delete"))
        for camera, address, table in changes:
            camera.address, camera.table = address, table
        for camera in cameras:
            # A real camera reconnects to get a new address, and so loses its neighbour table.
            lines += (*self._rules(camera, "add"), self._route(camera, "replace"), f"neigh flush dev {camera.device}")
        self.camera_ns.batch(lines)

    def _rules(self, camera, verb):
        return (
            f"rule {verb} iif {camera.device} to {camera.address} lookup local pref {RECEIVED + camera.number}",
            f"rule {verb} from {camera.address} lookup {camera.table} pref {SENT + camera.number}",
        )

    def _route(self, camera, verb):
        return f"route {verb} {self.network} dev {camera.device} table {camera.table}"

    # Kernel tables and ARP.

    def mac(self):
        """The MAC of the Pi's interface."""
        return json.loads(self.pi.ip("-j", "link", "show", self.interface))[0]["address"].upper()

    def neighbours(self):
        """The Pi's neighbour table: {address: (MAC or None, state)}."""
        entries = json.loads(self.pi.ip("-4", "-j", "neigh") or "[]")
        return {entry["dst"]: (entry.get("lladdr", "").upper() or None, entry["state"][0]) for entry in entries}

    def resolve(self, camera):
        """Send a datagram to a camera, so that the Pi's kernel makes a neighbour entry for it."""
        with self.pi.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", (camera.address, 9))

    async def arp_request(self, *addresses, within=0.3):
        """Send one ARP request per address from the Pi: {address: MACs that replied}."""
        found = {str(address): set() for address in addresses}
        own_mac = self.mac()
        with self.pi.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind((self.interface, ETH_P_ARP))
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            loop.add_reader(sock, _collect, sock, found)
            try:
                for address in found:
                    sock.send(frame(REQUEST, sender=(own_mac, self.address), target=("00:00:00:00:00:00", address)))
                    await asyncio.sleep(0)
                await asyncio.sleep(within)
            finally:
                loop.remove_reader(sock)
        return found

    # Daemon, commands, cameras and messages.

    def tree(self, **sections):
        """Settings tree with unrestricted onboarding; `sections` override it key by key."""
        tree = {
            "http": {"listen": [f"127.0.0.1:{API_PORT}"]},
            "ap": {"interface": "ap0", "subnet": str(self.network)},
            "mqtt": {"host": "127.0.0.1"},
            "auto_onboard": {
                "enabled": True,
                "mode": "dev",
                "subnet_allowlist": [str(self.network)],
                "burst_size": 1000,
                "max_per_minute": 6000,
            },
            "storage": {"state_dir": str(self.folder / "state")},
        }
        for name, section in sections.items():
            tree[name] = tree.get(name, {}) | section
        return tree

    @contextlib.asynccontextmanager
    async def daemon(self, *, unprivileged=False, ready=True, connected=True, launch_options=None, **sections):
        """Run the daemon as a process on the Pi; yields a DaemonProcess.

        `unprivileged`: without capabilities. `ready`: wait until it serves; `connected`: and until it has its broker.
        `launch_options`: keyword arguments of process.launch (`args`, `env`, `command`). `sections` override `tree`.
        """
        config = process.write_toml(self.folder / "config.toml", self.tree(**sections))
        rig = Rig(state_dir=self.folder / "state", broker=None)
        prefix = self.pi.prefix + (process.UNPRIVILEGED if unprivileged else ())
        async with self.pi.session() as session:
            running = await process.launch(rig, self.folder, config=config, prefix=prefix, **(launch_options or {}))
            try:
                if ready:
                    await running.ready(session)
                    self.api, self.admin = running.api, running.admin
                    if connected:
                        await running.logged("mqtt connected")
                yield running
            except BaseException as error:
                error.add_note("last lines of the daemon's log:\n" + running.text()[-4000:])
                raise
            finally:
                await running.kill()

    async def command(self, *args, **options):
        """Run `pi-orchestrator ARGS` on the Pi; `unprivileged` as in `daemon`, the rest as in process.command."""
        prefix = self.pi.prefix + (process.UNPRIVILEGED if options.pop("unprivileged", False) else ())
        return await process.command(*args, prefix=prefix, **options)

    @contextlib.asynccontextmanager
    async def fleet(self, count=None, *, flags=(), reported=True, **options):
        """Run `sandbox cameras` behind the access point as a process.

        `options`: values such as `interval=1`; `flags`: further arguments as on the command line.

        Waits until every camera has published, unless `reported` is False. The events of the cameras are in `events`,
        such as {"event": "provisioned", "mac": …, "detail": "the SSID and the request_id"}.
        """
        count = len(self.cameras) if count is None else count
        values = {"count": count, "network": self.network, "broker": f"{self.address}:1883", "http-port": 80}
        values |= {"interval": 5, "rejoin": 0.2} | {name.replace("_", "-"): value for name, value in options.items()}
        args = [str(word) for name, value in values.items() for word in (f"--{name}", value)]
        command = (*self.camera_ns.prefix, *process.COMMAND, "sandbox", "cameras", *args, "--storm", "--json", *flags)
        online = set()
        async with process.connected(*command) as cameras:
            reading = asyncio.create_task(self._follow(cameras, online))
            try:
                if reported:

                    def all_online():
                        assert cameras.returncode is None, f"the camera process exited with code {cameras.returncode}"
                        return len(online) == count

                    await eventually(all_online, what="every camera has published")
                yield cameras
            finally:
                # A clean stop: DISCONNECT, no last will. Tests of a crash kill the process themselves.
                await _end(cameras, signal.SIGTERM)
                reading.cancel()
                await asyncio.wait([reading])
                if not reading.cancelled():
                    reading.result()

    def player(self):
        """An ARP player on the cable: `async with site.player() as player`."""
        return Player(self.camera_ns, CABLE)

    def camera_player(self):
        """Single simulated cameras: `async with site.camera_player() as cameras`; see CameraPlayer."""
        return CameraPlayer(self)

    def handle_event(self, event):
        """Record an event of a simulated camera; move the camera's interface if provisioning changed its address."""
        self.events.append(event)
        if event["event"] == "provisioned":
            camera = next(camera for camera in self.cameras if camera.mac == event["mac"])
            address = urlsplit(event["url"]).hostname
            if address != camera.address:
                self.move(camera, address)

    async def _follow(self, cameras, online):
        """Read the output of the cameras; a full pipe would block them."""
        async for line in cameras.stdout:
            event = json.loads(line)
            self.handle_event(event)
            if event["event"] == "online":
                online.add(event["device_id"])

    async def publish(self, topic, fields, *, retain=False):
        """Publish from the Pi, so that no traffic updates its neighbour table; fields that are None are left out."""
        payload = json.dumps({name: value for name, value in fields.items() if value is not None})
        await self.pi.run(_publish, topic, payload, retain)

    async def announce(self, mac, address=None, *, retain=False, **fields):
        """Publish one status message of a camera from the Pi."""
        defaults = {"mac": mac, "ip": address and str(address), "state": "ONLINE"}
        await self.publish(f"camera/status/{mac}", defaults | fields, retain=retain)


class LanBroker:
    """mosquitto in a namespace, on all its addresses; `host` is the address for cameras."""

    port = 1883

    def __init__(self, folder, namespace, host):
        self.namespace, self.host = namespace, host
        self.conf = folder / "mosquitto.conf"
        self.conf.write_text(
            f"listener {self.port} 0.0.0.0\nallow_anonymous true\npersistence false\nmax_queued_messages 20000\n"
        )
        self.process = None

    async def start(self):
        null = asyncio.subprocess.DEVNULL
        args = (*self.namespace.prefix, MOSQUITTO, "-c", str(self.conf))
        self.process = await asyncio.create_subprocess_exec(*args, stdout=null, stderr=null)
        try:
            await eventually(self._answers, what="mosquitto answers")
        except BaseException:
            await self.stop()
            raise

    async def stop(self):
        if self.process is not None:
            await _end(self.process, signal.SIGTERM)

    async def kill(self):
        """Kill mosquitto."""
        if self.process is not None:
            await _end(self.process, signal.SIGKILL)

    async def _answers(self):
        assert self.process.returncode is None, "mosquitto has exited"
        return await self.namespace.run(_can_connect, "127.0.0.1", self.port)


async def _end(child, number):
    """Send a signal to a process; kill it if it has not exited after KILLED_AFTER_S."""
    try:
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            child.send_signal(number)
            async with asyncio.timeout(KILLED_AFTER_S):
                await child.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _collect(sock, found):
    with contextlib.suppress(BlockingIOError):
        while True:
            arp = Arp.parse(sock.recv(2048))
            if arp and arp.op == REPLY and arp.sender_ip in found:
                found[arp.sender_ip].add(arp.sender)


def _can_connect(host, port):
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _publish(topic, payload, retain):
    from paho.mqtt import publish

    publish.single(topic, payload, qos=1, retain=retain, hostname="127.0.0.1")
