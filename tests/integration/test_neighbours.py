"""Who has an address? The kernel's word against the camera's, in network namespaces that each test makes for itself.

One namespace is the Pi, with mosquitto and the whole daemon in it; the other is a camera, and a cable joins them.
What happens inside is done by helpers: this file, run as a program, obeys one line of JSON at a time.
"""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import process
from tests.support.broker import MOSQUITTO
from tests.support.waiting import eventually
from tests.support.world import World

PI, CAMERA, NOBODY = "10.77.0.1", "10.77.0.20", "10.77.0.99"
MAC = "24:6F:28:CA:00:10"
OTHER_MAC = "24:6F:28:DD:00:40"
ROOT = Path(__file__).parents[2]
_NUMBERS = itertools.count()


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr} (these tests need root and network namespaces)"
    return done.stdout


class Host:
    """A helper in a namespace: `await host.ask(order, …)` → its answer."""

    def __init__(self, namespace):
        self.namespace = namespace

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", self.namespace, sys.executable, __file__),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        return self

    async def __aexit__(self, *_):
        self._process.kill()
        await self._process.wait()

    async def ask(self, order, **words):
        self._process.stdin.write(json.dumps({"order": order, **words}).encode() + b"\n")
        answer = await asyncio.wait_for(self._process.stdout.readline(), 20)
        assert answer, f"the helper of {self.namespace} has ended"
        return json.loads(answer)


class Site:
    """The Pi, the camera and the daemon."""

    def __init__(self, names, pi, camera):
        self.names, self.pi, self.camera = names, pi, camera

    async def announce(self, mac, address=CAMERA, *, by=None, topic=None, **more):
        """A status message, sent from the Pi itself so that the kernel learns nothing by it."""
        fields = {"mac": mac, "ip": address}
        topic = topic or f"camera/status/{mac}"
        retain = more.pop("retain", False)
        payload = json.dumps({name: value for name, value in (fields | more).items() if value})
        await (by or self.pi).ask("publish", topic=topic, payload=payload, retain=retain)

    async def serve(self, **body):
        """The camera's web server answers every request with this."""
        await self.camera.ask("serve", address=CAMERA, body=body)

    async def requests(self, host=None):
        return await (host or self.camera).ask("requests")

    async def get(self, path):
        return await self.pi.ask("get", url=f"http://127.0.0.1:8081{path}")

    async def trail(self, mac):
        answer = await self.get(f"/api/v1/onboarding/auto/events/{mac}")
        return [(row["stage"], row.get("error_code")) for row in answer["data"]["events"][::-1]]

    async def outcome(self, mac):
        """The last word on a camera, once there is one."""

        async def last():
            trail = await self.trail(mac)
            return trail and trail[-1] != ("discovered", None) and trail[-1]

        return await eventually(last, within=15, what=f"{mac} is paired or refused")

    async def message(self, mac):
        return (await self.get(f"/api/v1/onboarding/auto/events/{mac}"))["data"]["events"][0]["error_message"]

    def known(self, address=CAMERA):
        """What the Pi's kernel knows of an address."""
        return ip("-n", self.names[0], "neigh", "show", address).upper()

    async def meet(self):
        """The camera opens a connection to the broker, as it does in life: now the kernel knows it afresh."""
        await self.announce(OTHER_MAC[:-1] + "4", NOBODY[:-1] + "8", by=self.camera, topic="not/a/status")
        await eventually(lambda: MAC in self.known() and "REACHABLE" in self.known())


@contextlib.contextmanager
def namespaces():
    names = [f"piorch{os.getpid()}-{next(_NUMBERS)}-{role}" for role in ("pi", "cam")]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        pi, camera = names
        ip("-n", pi, "link", "add", "ap0", "type", "veth", "peer", "name", "sta0", "netns", camera)
        ip("-n", camera, "link", "set", "sta0", "address", MAC.lower())
        ip("-n", pi, "addr", "add", f"{PI}/24", "dev", "ap0")
        ip("-n", camera, "addr", "add", f"{CAMERA}/24", "dev", "sta0")
        # A kernel that has heard of an address asks for proof after a second, not after five.
        ip("netns", "exec", pi, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/neigh/ap0/delay_first_probe_time")
        ip("-n", pi, "link", "set", "ap0", "up")
        ip("-n", camera, "link", "set", "sta0", "up")
        yield names
    finally:
        for name in made:
            ip("netns", "delete", name)


@contextlib.asynccontextmanager
async def mosquitto(namespace, folder):
    conf = folder / "mosquitto.conf"
    conf.write_text("listener 1883 0.0.0.0\nallow_anonymous true\npersistence false\n")
    quiet = asyncio.subprocess.DEVNULL
    broker = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", namespace, MOSQUITTO, "-c", str(conf)), stdout=quiet, stderr=quiet
    )
    try:
        yield
    finally:
        broker.kill()
        await broker.wait()


@contextlib.asynccontextmanager
async def daemon(site, folder):
    tree = {
        "http": {"listen": ["0.0.0.0:8081"]},
        "ap": {"interface": "ap0", "subnet": "10.77.0.0/24"},
        "mqtt": {"host": PI},
        "auto_onboard": {
            "enabled": True,
            "mode": "dev",
            "subnet_allowlist": ["10.77.0.0/16"],
            "burst_size": 100,
            "verification_timeout_sec": 10,
        },
        "storage": {"state_dir": str(folder / "state")},
    }
    config = process.write_toml(folder / "config.toml", tree)
    world = World(state_dir=folder / "state", broker=None)
    inside = ("ip", "netns", "exec", site.names[0])
    running = await process.launch(world, folder, config=config, prefix=inside)
    try:
        await running.logged("mqtt connected", within=20)
        yield running
    except BaseException as error:
        error.add_note("the end of the daemon's log:\n" + running.text()[-4000:])
        raise
    finally:
        await running.kill()


@pytest.fixture
async def cable(tmp_path):
    """Two namespaces with mosquitto at the Pi's end; the daemon is not there yet."""
    with namespaces() as names:
        async with mosquitto(names[0], tmp_path), Host(names[0]) as pi, Host(names[1]) as camera:
            await pi.ask("wait_for_port", host=PI, port=1883)
            yield Site(names, pi, camera)


@pytest.fixture
async def site(cable, tmp_path):
    async with daemon(cable, tmp_path):
        yield cable


async def test_the_kernels_word_is_proof_where_the_camera_names_no_mac(site):
    """Stock firmware: `/status` holds settings and no MAC. That the address answers for the MAC is known anyway."""
    await site.serve(framesize=8, quality=10)
    assert site.known() == ""
    await site.announce(MAC)
    assert await site.outcome(MAC) == ("paired", None)
    assert MAC in site.known()


@pytest.mark.parametrize("body", [{}, {"mac": OTHER_MAC}], ids=["names no MAC", "names the announced MAC"])
async def test_an_address_that_the_kernel_finds_under_another_mac_is_a_mismatch(site, body):
    """Even where the camera itself confirms what was announced: one contradiction is enough."""
    await site.serve(**body)
    assert site.known() == ""
    await site.announce(OTHER_MAC)
    assert await site.outcome(OTHER_MAC) == ("failed", "MAC_MISMATCH")
    assert MAC in await site.message(OTHER_MAC)
    assert await site.requests() == 1


async def test_a_mismatch_that_the_kernel_knows_afresh_is_refused_before_anything_is_sent(site):
    await site.serve(mac=OTHER_MAC)
    await site.meet()
    await site.announce(OTHER_MAC)
    assert await site.outcome(OTHER_MAC) == ("failed", "MAC_MISMATCH")
    assert await site.requests() == 0


async def test_a_camera_whose_body_contradicts_the_kernel_and_the_announcement_is_a_mismatch(site):
    await site.serve(mac=OTHER_MAC)
    await site.announce(MAC)
    assert await site.outcome(MAC) == ("failed", "MAC_MISMATCH")


async def test_an_address_where_nobody_is_is_unreachable(site):
    await site.announce(MAC, NOBODY)
    assert await site.outcome(MAC) == ("failed", "VERIFY_UNREACHABLE")


async def test_no_address_of_the_pis_own_is_ever_asked(cable, tmp_path):
    """The first, a second one, and one of the kind that has a peer (there the kernel's word order is another)."""
    ip("-n", cable.names[0], "addr", "add", "10.77.0.2/24", "dev", "ap0")
    ip("-n", cable.names[0], "addr", "add", "10.77.0.7", "peer", "10.77.0.8/32", "dev", "ap0")
    await cable.pi.ask("serve", address="0.0.0.0", body={})
    async with daemon(cable, tmp_path):
        for number, address in enumerate((PI, "10.77.0.2", "10.77.0.7", "127.0.0.1", "10.77.0.0", "10.77.0.255")):
            mac = f"24:6F:28:00:00:{number + 1}0"
            await cable.announce(mac, address)
            assert await cable.outcome(mac) == ("rejected_by_policy", "SUBNET_NOT_ALLOWED"), address
    assert await cable.requests(cable.pi) == 0


async def test_a_device_id_without_a_mac_is_whom_the_kernel_knows_at_its_address(site):
    await site.serve(device_id="espcam-ca0010")
    await site.announce(None, by=site.camera, topic="camera/status/espcam-ca0010")
    assert await site.outcome(MAC) == ("paired", None)
    assert (await site.get("/api/v1/cameras/espcam-ca0010"))["data"]["mac_address"] == MAC


async def test_a_retained_claim_is_believed_once_the_kernel_knows_that_mac_at_that_address(cable, tmp_path):
    await cable.serve()
    await cable.announce(MAC, retain=True)
    await cable.announce(OTHER_MAC, retain=True)  # the ghost of a camera that had this address before
    async with daemon(cable, tmp_path):
        await cable.meet()
        assert await cable.outcome(MAC) == ("paired", None)
        assert (await cable.get(f"/api/v1/cameras/{MAC}"))["data"]["status"] == "online"
        assert (await cable.get(f"/api/v1/cameras/{OTHER_MAC}"))["data"]["status"] == "connecting"
        assert await cable.trail(OTHER_MAC) == []


# What the helpers do.


class Orders:
    """Each method is an order."""

    def __init__(self):
        self.asked = 0

    def serve(self, address, body):
        orders = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                orders.asked += 1
                content = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer((address, 80), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def requests(self):
        return self.asked

    def wait_for_port(self, host, port):
        import socket
        import time

        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
                return
            time.sleep(0.02)

    def publish(self, topic, payload, retain):
        from paho.mqtt import publish

        publish.single(topic, payload, qos=1, retain=retain, hostname=PI)

    def get(self, url):
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)


def main():
    orders = Orders()
    for line in sys.stdin:
        words = json.loads(line)
        print(json.dumps(getattr(orders, words.pop("order"))(**words)), flush=True)


if __name__ == "__main__":
    main()
