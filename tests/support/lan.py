"""An access point's network in two namespaces: the Pi, with the interface `ap0`, and everything behind it.

    async with lan.opened(tmp_path, cameras=60) as site, site.daemon() as daemon, site.fleet():
        answer = await daemon.api.get("/api/v1/cameras")      # or site.api.get

Behind the interface are cameras, each a macvlan interface with the MAC and the address that the sandbox gives its
n-th camera, and on the same cable an ARP player for everything that no kernel does (see arp_player.py). Each address
is answered for by its own interface alone, and what is sent from it leaves by that interface, with its MAC.
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
from tests.support.waiting import eventually
from tests.support.world import World

CABLE = "lan0"
FIRST_TABLE = 1000  # of routing, one for each address
# The order of the rules: what comes in by the right interface, by a wrong one, what is sent inside, what is sent out.
RECEIVED, REFUSED, LOCAL, SENT = 1000, 10_000, 10_001, 20_000
GROUPS = tuple(f"33:33:00:00:{number:02x}:{0x77 + number:02x}" for number in range(8))
LARGE = 100
API_PORT = 8081
CLOSED_AFTER_S = 5
NETWORK = "10.77.0.0/24"
"""Has room for 245 of the sandbox's cameras; 10.77.0.0/23 for 490."""


@dataclass
class Camera:
    """An interface behind the access point; `table` is the routing table of the address that it has."""

    number: int
    device: str
    mac: str
    address: str
    table: int


@contextlib.asynccontextmanager
async def opened(folder, *, cameras=0, network=NETWORK, seed=1, broker=True):
    """Both namespaces with `cameras` cameras in them, and mosquitto at the Pi's end."""
    async with _alone_if_large(cameras), _namespaces() as (pi, beyond):
        site = Lan(folder, pi, beyond, IPv4Network(network))
        site.lay_cable()
        site.add_cameras(cameras, seed=seed)
        if broker:
            await site.broker.start()
        try:
            yield site
        finally:
            await site.broker.kill()


@contextlib.asynccontextmanager
async def _namespaces():
    with Namespace.opened("pi") as pi, Namespace.opened("cams") as beyond:
        yield pi, beyond


@contextlib.asynccontextmanager
async def _alone_if_large(cameras):
    """The kernel's neighbour table has room for a thousand addresses of all namespaces: not for two large networks."""
    if cameras <= LARGE:
        yield
        return
    with (Path(tempfile.gettempdir()) / "pi-orchestrator-large-lan").open("w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield


class Lan:
    """The network; see `opened`."""

    def __init__(self, folder, pi, beyond, network):
        self.folder, self.pi, self.beyond, self.network = folder, pi, beyond, network
        self.interface = "ap0"
        self.address = str(network[1])
        self.cameras = []
        self.told = []
        self.broker = LanBroker(folder, pi, self.address)
        self.api = self.admin = None

    def lay_cable(self):
        for scope in ("all", "default"):
            self.beyond.sysctl(f"ipv4/conf/{scope}/rp_filter", 0)
            self.beyond.sysctl(f"ipv4/conf/{scope}/arp_ignore", 1)
            self.beyond.sysctl(f"ipv4/conf/{scope}/arp_announce", 2)
        # Each camera has a budget of its own for "port unreachable"; a kernel has one for all of them.
        self.beyond.sysctl("ipv4/icmp_ratemask", 0)
        self.pi.ip("link", "add", self.interface, "type", "veth", "peer", "name", CABLE, "netns", self.beyond.name)
        self.beyond.ip("link", "set", CABLE, "up")
        # Linux takes a packet for any address of its own at every interface; a camera takes none for another's.
        self.beyond.batch(
            (
                f"rule add lookup local pref {LOCAL}",
                f"rule add not iif lo to {self.network} blackhole pref {REFUSED}",
                "rule delete pref 0",
            )
        )
        self.set_address()
        self.up()

    def add_cameras(self, count, *, seed=1):
        """Interfaces for the first `count` cameras of `sandbox cameras --network … --seed …`."""
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
            # A socket that was not bound to an address speaks as the last camera: nothing of a test is about that one.
            lines.append(f"route add {self.network} dev {self.cameras[-1].device}")
        self.beyond.batch(lines)

    # Trouble with the Pi's interface.

    def up(self):
        self.pi.ip("link", "set", self.interface, "up")

    def down(self):
        self.pi.ip("link", "set", self.interface, "down")

    def rename(self, name):
        """Give the interface another name; it is down for a moment."""
        self.pi.batch(
            [f"link set {self.interface} down", f"link set {self.interface} name {name}", f"link set {name} up"]
        )
        self.interface = name

    def set_address(self, address=None):
        """Give it an address (its own, unless another is named)."""
        self.pi.ip("address", "add", f"{address or self.address}/{self.network.prefixlen}", "dev", self.interface)

    def remove_address(self):
        self.pi.ip("address", "flush", "dev", self.interface)

    def unplug(self):
        """The interface is gone from the Pi, as when a USB stick is drawn; the cameras remain."""
        self.pi.ip("link", "set", self.interface, "netns", self.beyond.name)

    def plug(self, *, name=None):
        """It is back, up and with its address, but with another index, as a stick would be."""
        index = json.loads(self.beyond.ip("-j", "link", "show", self.interface))[0]["ifindex"]
        taken = {link["ifindex"] for link in json.loads(self.pi.ip("-j", "link"))}
        if index not in taken:
            # Not by chance the wanted one: the peer's index is said too.
            peer = ("peer", "name", "taken1", "index", index + 1000)
            self.pi.ip("link", "add", "taken0", "index", index, "type", "veth", *peer)
        self.beyond.ip("link", "set", self.interface, "netns", self.pi.name)
        if index not in taken:
            self.pi.ip("link", "delete", "taken0")
        if name:
            self.pi.ip("link", "set", self.interface, "name", name)
            self.interface = name
        self.set_address()
        self.up()

    # Trouble with cameras.

    async def put_to_sleep(self, *cameras):
        """They hear no broadcast any more, as in modem sleep: no ARP sweep finds them.

        What is sent to their own MAC still reaches them, so TCP goes on, and the kernel's unicast probes are answered.
        """
        pi_mac = self.mac()
        for camera in cameras:
            # Their own requests go straight to the Pi. The filter of what is heard is renewed with the next group; it
            # is a hash, in which a group may share its place with the broadcast: then another group has to do.
            self.beyond.ip("link", "set", camera.device, "broadcast", pi_mac, "multicast", "off")
            for group in GROUPS:
                self.beyond.ip("maddress", "add", group, "dev", camera.device)
                if not (await self.who_has(camera.address))[camera.address]:
                    break
                self.beyond.ip("maddress", "delete", group, "dev", camera.device)
            else:
                raise AssertionError(f"{camera.device} hears broadcasts whatever is done")

    def wake(self, *cameras):
        for camera in cameras:
            self.beyond.ip("link", "set", camera.device, "broadcast", "ff:ff:ff:ff:ff:ff", "multicast", "on")
            joined = self.beyond.ip("maddress", "show", "dev", camera.device)
            for group in GROUPS:
                if group in joined:
                    self.beyond.ip("maddress", "delete", group, "dev", camera.device)

    def make_mute(self, *cameras):
        """They answer no ARP request at all; IP goes on because the Pi is told their MACs for good."""
        for camera in cameras:
            self.beyond.sysctl(f"ipv4/conf/{camera.device}/arp_ignore", 8)
            where = (camera.address, "lladdr", camera.mac, "dev", self.interface)
            self.pi.ip("neigh", "replace", *where, "nud", "permanent")

    def switch_off(self, *cameras):
        """Their interfaces are down: nothing is heard and nothing sent."""
        self.beyond.batch(f"link set {camera.device} down" for camera in cameras)

    def switch_on(self, *cameras):
        """Back again; their routes went with the interface."""
        lines = []
        for camera in cameras:
            lines += (f"link set {camera.device} up", self._route(camera, "replace"))
        self.beyond.batch(lines)

    def swap(self, one, other):
        """Exchange the addresses of two cameras.

        A process that speaks from one of them now does so with the other MAC, until it is started anew.
        """
        self._give((one, other.address, other.table), (other, one.address, one.table))

    def move(self, camera, address):
        """Give a camera another address; what listened on the old one must be started anew."""
        self._give((camera, str(address), camera.table))

    def _give(self, *changes):
        cameras = [camera for camera, _, _ in changes]
        # The new one first: an interface without any address would lose its routes.
        lines = [f"address add {address}/32 dev {camera.device}" for camera, address, _ in changes]
        for camera in cameras:
            lines += (f"address delete {camera.address}/32 dev {camera.device}", *self._rules(camera, "delete"))
        for camera, address, table in changes:
            camera.address, camera.table = address, table
        for camera in cameras:
            # Whoever has a new address has been off the air, and forgotten whom it knew.
            lines += (*self._rules(camera, "add"), self._route(camera, "replace"), f"neigh flush dev {camera.device}")
        self.beyond.batch(lines)

    def _rules(self, camera, verb):
        return (
            f"rule {verb} iif {camera.device} to {camera.address} lookup local pref {RECEIVED + camera.number}",
            f"rule {verb} from {camera.address} lookup {camera.table} pref {SENT + camera.number}",
        )

    def _route(self, camera, verb):
        return f"route {verb} {self.network} dev {camera.device} table {camera.table}"

    # What the kernel and the wire say.

    def mac(self):
        """The MAC of the Pi's interface."""
        return json.loads(self.pi.ip("-j", "link", "show", self.interface))[0]["address"].upper()

    def neighbours(self):
        """The Pi's neighbour table: {address: (MAC or None, state)}."""
        entries = json.loads(self.pi.ip("-4", "-j", "neigh") or "[]")
        return {entry["dst"]: (entry.get("lladdr", "").upper() or None, entry["state"][0]) for entry in entries}

    async def who_has(self, *addresses, within=0.3):
        """Ask each address once by ARP from the Pi: {address: the MACs that answered}."""
        found = {str(address): set() for address in addresses}
        mine = self.mac()
        with self.pi.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind((self.interface, ETH_P_ARP))
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            loop.add_reader(sock, _collect, sock, found)
            try:
                for address in found:
                    sock.send(frame(REQUEST, sender=(mine, self.address), target=("00:00:00:00:00:00", address)))
                    await asyncio.sleep(0)
                await asyncio.sleep(within)
            finally:
                loop.remove_reader(sock)
        return found

    # Who takes part.

    def tree(self, **sections):
        """Settings as a tree: onboarding on and wide open; `sections` override, key by key."""
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
    async def daemon(self, *, powerless=False, ready=True, connected=True, how=None, **sections):
        """The daemon as a process on the Pi (a DaemonProcess, with `api` and `admin`); `powerless`: no capability.

        `how` is what process.launch takes (`args`, `env`, `command`), `sections` go on top of `tree`.
        """
        config = process.write_toml(self.folder / "config.toml", self.tree(**sections))
        world = World(state_dir=self.folder / "state", broker=None)
        prefix = self.pi.prefix + (process.POWERLESS if powerless else ())
        async with self.pi.session() as session:
            running = await process.launch(world, self.folder, config=config, prefix=prefix, **(how or {}))
            try:
                if ready:
                    await running.ready(session)
                    self.api, self.admin = running.api, running.admin
                    if connected:
                        await running.logged("mqtt connected")
                yield running
            except BaseException as error:
                error.add_note("the end of the daemon's log:\n" + running.text()[-4000:])
                raise
            finally:
                await running.kill()

    async def command(self, *args, **how):
        """Run `pi-orchestrator ARGS` on the Pi to its end; `powerless` as above, else as process.command."""
        prefix = self.pi.prefix + (process.POWERLESS if how.pop("powerless", False) else ())
        return await process.command(*args, prefix=prefix, **how)

    @contextlib.asynccontextmanager
    async def fleet(self, count=None, *, flags=(), reported=True, **options):
        """`sandbox cameras` behind the access point, as a process; `options` such as `interval=1`.

        The block begins when every camera has published, unless `reported` is False. What the cameras tell is in
        `told`, such as {"event": "provisioned", "mac": …, "detail": "the SSID and the request_id"}.
        """
        count = len(self.cameras) if count is None else count
        given = {"count": count, "network": self.network, "broker": f"{self.address}:1883", "http-port": 80}
        given |= {"interval": 5, "rejoin": 0.2} | {name.replace("_", "-"): value for name, value in options.items()}
        words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        cameras = await asyncio.create_subprocess_exec(
            *self.beyond.prefix,
            *process.COMMAND,
            *("sandbox", "cameras", *words, "--storm", "--json", *flags),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=process.environment(),
        )
        online = set()
        reading = asyncio.create_task(self._follow(cameras, online))
        try:
            if reported:

                def all_online():
                    assert cameras.returncode is None, f"the cameras have ended with code {cameras.returncode}"
                    return len(online) == count

                await eventually(all_online, within=30, what="every camera has published")
            yield cameras
        finally:
            # A clean end, with DISCONNECT and no last will; a test that wants another kills the process itself.
            await _end(cameras, signal.SIGTERM)
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.result()

    def player(self):
        """The ARP player on the cable: `async with site.player() as player`."""
        return Player(self.beyond, CABLE)

    def camera_player(self):
        """Simulated cameras one by one: `async with site.camera_player() as cameras`, see there."""
        return CameraPlayer(self)

    def noticed(self, told):
        """Something that a simulated camera tells: one that leaves for another network has its address there."""
        self.told.append(told)
        if told["event"] == "provisioned":
            camera = next(camera for camera in self.cameras if camera.mac == told["mac"])
            address = urlsplit(told["url"]).hostname
            if address != camera.address:
                self.move(camera, address)

    async def _follow(self, cameras, online):
        """Read what the cameras print, or they would stand still at a full pipe."""
        async for line in cameras.stdout:
            told = json.loads(line)
            self.noticed(told)
            if told["event"] == "online":
                online.add(told["device_id"])

    async def publish(self, topic, fields, *, retain=False):
        """A message from the Pi itself, so that its kernel learns nothing by it; None in `fields` is left out."""
        payload = json.dumps({name: value for name, value in fields.items() if value is not None})
        await self.pi.run(_publish, topic, payload, retain)

    async def announce(self, mac, address=None, *, retain=False, **fields):
        """One status message of a camera, from the Pi itself."""
        usual = {"mac": mac, "ip": address and str(address), "state": "ONLINE"}
        await self.publish(f"camera/status/{mac}", usual | fields, retain=retain)


class LanBroker:
    """mosquitto in a namespace, on every address it has; `host` is the one at which cameras reach it."""

    port = 1883

    def __init__(self, folder, namespace, host):
        self.namespace, self.host = namespace, host
        self.conf = folder / "mosquitto.conf"
        self.conf.write_text(
            f"listener {self.port} 0.0.0.0\nallow_anonymous true\npersistence false\nmax_queued_messages 20000\n"
        )
        self.process = None

    async def start(self):
        quiet = asyncio.subprocess.DEVNULL
        words = (*self.namespace.prefix, MOSQUITTO, "-c", str(self.conf))
        self.process = await asyncio.create_subprocess_exec(*words, stdout=quiet, stderr=quiet)
        try:
            await eventually(self._answers, what="mosquitto answers")
        except BaseException:
            await self.stop()
            raise

    async def stop(self):
        if self.process is not None:
            await _end(self.process, signal.SIGTERM)

    async def kill(self):
        """End it at once, when nobody asks any more how it ends."""
        if self.process is not None:
            await _end(self.process, signal.SIGKILL)

    async def _answers(self):
        assert self.process.returncode is None, "mosquitto has ended"
        return await self.namespace.run(_can_connect, "127.0.0.1", self.port)


async def _end(child, number):
    """Ask a process to end; kill it if it does not in good time."""
    try:
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            child.send_signal(number)
            async with asyncio.timeout(CLOSED_AFTER_S):
                await child.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _collect(sock, found):
    with contextlib.suppress(BlockingIOError):
        while True:
            heard = Arp.parse(sock.recv(2048))
            if heard and heard.op == REPLY and heard.sender_ip in found:
                found[heard.sender_ip].add(heard.sender)


def _can_connect(host, port):
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _publish(topic, payload, retain):
    from paho.mqtt import publish

    publish.single(topic, payload, qos=1, retain=retain, hostname="127.0.0.1")
