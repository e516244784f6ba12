"""Neighbour table of the kernel against the camera's own report, in network namespaces of each test.

One namespace is the Pi, with mosquitto and the whole daemon; the other is a camera; a veth pair connects them.
Helper processes act inside: this file, run as a program, executes one JSON order per line.
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
from tests.support.rig import Rig
from tests.support.waiting import HANG_S, eventually

PI, CAMERA, UNUSED = "10.77.0.1", "10.77.0.20", "10.77.0.99"
MAC = "24:6F:28:CA:00:10"
OTHER_MAC = "24:6F:28:DD:00:40"
ROOT = Path(__file__).parents[3]
_NUMBERS = itertools.count()


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"ip {' '.join(arguments)}: {done.stderr} (these tests need root and network namespaces)"
    )
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

    async def ask(self, order, **arguments):
        self._process.stdin.write(json.dumps({"order": order, **arguments}).encode() + b"\n")
        answer = await asyncio.wait_for(self._process.stdout.readline(), HANG_S)
        assert answer, f"the helper of {self.namespace} has ended"
        return json.loads(answer)


class Site:
    """The Pi, the camera and the daemon."""

    def __init__(self, names, pi, camera):
        self.names, self.pi, self.camera = names, pi, camera

    async def announce(self, mac, address=CAMERA, *, sender=None, topic=None, **options):
        """Publish a status message, from the Pi by default so that its kernel learns no address."""
        fields = {"mac": mac, "ip": address}
        topic = topic or f"camera/status/{mac}"
        retain = options.pop("retain", False)
        payload = json.dumps({name: value for name, value in (fields | options).items() if value})
        await (sender or self.pi).ask("publish", topic=topic, payload=payload, retain=retain)

    async def serve(self, **body):
        """Start the camera's web server, which answers every request with this body."""
        await self.camera.ask("serve", address=CAMERA, body=body)

    async def requests(self, host=None):
        return await (host or self.camera).ask("requests")

    async def get(self, path):
        return await self.pi.ask("get", url=f"http://127.0.0.1:8081{path}")

    async def audit_stages(self, mac):
        answer = await self.get(f"/api/v1/onboarding/auto/events/{mac}")
        return [(row["stage"], row.get("error_code")) for row in answer["data"]["events"][::-1]]

    async def outcome(self, mac):
        """The final stage and error code of a camera, once its attempt has ended."""

        async def final_stage():
            trail = await self.audit_stages(mac)
            return trail and trail[-1] != ("discovered", None) and trail[-1]

        return await eventually(final_stage, what=f"{mac} is paired or refused")

    async def message(self, mac):
        return (await self.get(f"/api/v1/onboarding/auto/events/{mac}"))["data"]["events"][0]["error_message"]

    def neighbour_entry(self, address=CAMERA):
        """The entry of an address in the neighbour table of the Pi."""
        return ip("-n", self.names[0], "neigh", "show", address).upper()

    async def connect_to_broker(self):
        """Let the camera connect to the broker, so that the Pi's kernel confirms its address."""
        await self.announce(OTHER_MAC[:-1] + "4", UNUSED[:-1] + "8", sender=self.camera, topic="not/a/status")
        await eventually(lambda: MAC in self.neighbour_entry() and "REACHABLE" in self.neighbour_entry())


@contextlib.contextmanager
def namespaces():
    names = [f"piorch{os.getpid()}-{next(_NUMBERS)}-{role}" for role in ("pi", "cam")]
    created = []
    try:
        for name in names:
            ip("netns", "add", name)
            created.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        pi, camera = names
        ip("-n", pi, "link", "add", "ap0", "type", "veth", "peer", "name", "sta0", "netns", camera)
        ip("-n", camera, "link", "set", "sta0", "address", MAC.lower())
        ip("-n", pi, "addr", "add", f"{PI}/24", "dev", "ap0")
        ip("-n", camera, "addr", "add", f"{CAMERA}/24", "dev", "sta0")
        # The kernel probes a learned address after 1 s instead of 5 s.
        ip("netns", "exec", pi, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/neigh/ap0/delay_first_probe_time")
        ip("-n", pi, "link", "set", "ap0", "up")
        ip("-n", camera, "link", "set", "sta0", "up")
        yield names
    finally:
        for name in created:
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
    rig = Rig(state_dir=folder / "state", broker=None)
    inside = ("ip", "netns", "exec", site.names[0])
    running = await process.launch(rig, folder, config=config, prefix=inside)
    try:
        await running.logged("mqtt connected")
        yield running
    except BaseException as error:
        error.add_note("the end of the daemon's log:\n" + running.text()[-4000:])
        raise
    finally:
        await running.kill()


@pytest.fixture
async def cable(tmp_path):
    """Two connected namespaces with mosquitto on the Pi; no daemon yet."""
    with namespaces() as names:
        async with mosquitto(names[0], tmp_path), Host(names[0]) as pi, Host(names[1]) as camera:
            await pi.ask("wait_for_port", host=PI, port=1883)
            yield Site(names, pi, camera)


@pytest.fixture
async def site(cable, tmp_path):
    async with daemon(cable, tmp_path):
        yield cable


async def test_kernel_entry_proves_camera_without_mac(site):
    """Stock firmware: `/status` contains settings and no MAC, but the neighbour table has the MAC of the address."""
    await site.serve(framesize=8, quality=10)
    assert site.neighbour_entry() == ""
    await site.announce(MAC)
    assert await site.outcome(MAC) == ("paired", None)
    assert MAC in site.neighbour_entry()


@pytest.mark.parametrize("body", [{}, {"mac": OTHER_MAC}], ids=["names no MAC", "names the announced MAC"])
async def test_address_bound_to_other_mac_is_mismatch(site, body):
    """One contradiction is enough, even if the camera itself confirms the announced MAC."""
    await site.serve(**body)
    assert site.neighbour_entry() == ""
    await site.announce(OTHER_MAC)
    assert await site.outcome(OTHER_MAC) == ("failed", "MAC_MISMATCH")
    assert MAC in await site.message(OTHER_MAC)
    assert await site.requests() <= 1, "none where the kernel was faster"


async def test_known_mismatch_is_refused_before_request(site):
    await site.serve(mac=OTHER_MAC)
    await site.connect_to_broker()
    await site.announce(OTHER_MAC)
    assert await site.outcome(OTHER_MAC) == ("failed", "MAC_MISMATCH")
    assert await site.requests() == 0


async def test_contradicting_body_is_mismatch(site):
    await site.serve(mac=OTHER_MAC)
    await site.announce(MAC)
    assert await site.outcome(MAC) == ("failed", "MAC_MISMATCH")


async def test_unused_address_is_unreachable(site):
    await site.announce(MAC, UNUSED)
    assert await site.outcome(MAC) == ("failed", "VERIFY_UNREACHABLE")


async def test_own_addresses_are_never_requested(cable, tmp_path):
    """The first address, a second one, and one with a peer (`ip` prints its fields in another order)."""
    ip("-n", cable.names[0], "addr", "add", "10.77.0.2/24", "dev", "ap0")
    ip("-n", cable.names[0], "addr", "add", "10.77.0.7", "peer", "10.77.0.8/32", "dev", "ap0")
    await cable.pi.ask("serve", address="0.0.0.0", body={})
    async with daemon(cable, tmp_path):
        for number, address in enumerate((PI, "10.77.0.2", "10.77.0.7", "127.0.0.1", "10.77.0.0", "10.77.0.255")):
            mac = f"24:6F:28:00:00:{number + 1}0"
            await cable.announce(mac, address)
            assert await cable.outcome(mac) == ("rejected_by_policy", "SUBNET_NOT_ALLOWED"), address
    assert await cable.requests(cable.pi) == 0


async def test_device_id_without_mac_uses_kernel_entry(site):
    await site.serve(device_id="espcam-ca0010")
    await site.announce(None, sender=site.camera, topic="camera/status/espcam-ca0010")
    assert await site.outcome(MAC) == ("paired", None)
    assert (await site.get("/api/v1/cameras/espcam-ca0010"))["data"]["mac_address"] == MAC


async def test_retained_claim_is_accepted_with_kernel_entry(cable, tmp_path):
    await cable.serve()
    await cable.announce(MAC, retain=True)
    await cable.announce(OTHER_MAC, retain=True)  # the ghost of a camera that had this address before
    async with daemon(cable, tmp_path):
        await cable.connect_to_broker()
        assert await cable.outcome(MAC) == ("paired", None)
        assert (await cable.get(f"/api/v1/cameras/{MAC}"))["data"]["status"] == "online"
        assert (await cable.get(f"/api/v1/cameras/{OTHER_MAC}"))["data"]["status"] == "connecting"
        assert await cable.audit_stages(OTHER_MAC) == []


# The helper process.


class Orders:
    """Each method is an order."""

    def __init__(self):
        self.request_count = 0

    def serve(self, address, body):
        orders = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                orders.request_count += 1
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
        return self.request_count

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
        arguments = json.loads(line)
        print(json.dumps(getattr(orders, arguments.pop("order"))(**arguments)), flush=True)


if __name__ == "__main__":
    main()
