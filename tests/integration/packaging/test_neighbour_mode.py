"""Auto-onboarding verifies a camera by the kernel's neighbour table and by the camera's own answer.

Each test has two network namespaces, connected by a veth pair: the Pi, with mosquitto and the whole daemon, and a
camera.
"""

import contextlib
import json
import socket

import pytest
from aiohttp import web
from paho.mqtt import publish

from pi_orchestrator.sandbox.server import http_server
from tests.support import process
from tests.support.lan import LanBroker
from tests.support.netns import Namespace
from tests.support.rig import Rig
from tests.support.waiting import eventually

PI, CAMERA, UNUSED = "10.77.0.1", "10.77.0.20", "10.77.0.99"
MAC = "24:6F:28:CA:00:10"
OTHER_MAC = "24:6F:28:DD:00:40"


class Site:
    """The namespaces of the Pi and of the camera; `request_count` counts the HTTP requests to `serve`."""

    def __init__(self, pi, camera, session):
        self.pi, self.camera, self.request_count = pi, camera, 0
        self._session = session
        self._servers = contextlib.AsyncExitStack()

    async def announce(self, mac, address=CAMERA, *, sender=None, topic=None, retain=False, **options):
        """Publish a status message, from the Pi by default so that its kernel learns no address."""
        fields = {"mac": mac, "ip": address}
        topic = topic or f"camera/status/{mac}"
        payload = json.dumps({name: value for name, value in (fields | options).items() if value})
        await (sender or self.pi).run(publish.single, topic, payload, 1, retain, PI)

    async def serve(self, *, namespace=None, address=CAMERA, **body):
        """Start the camera's web server, which answers every request with this body."""

        async def respond(_):
            self.request_count += 1
            return web.json_response(body)

        sock = (namespace or self.camera).socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind((address, 80))
        sock.listen()
        await self._servers.enter_async_context(http_server(sock, respond))

    async def aclose(self):
        await self._servers.aclose()

    async def get(self, path):
        async with self._session.get(f"http://127.0.0.1:8081{path}") as answer:
            return await answer.json()

    async def audit_stages(self, mac):
        answer = await self.get(f"/api/v1/onboarding/auto/events/{mac}")
        return [(row["stage"], row.get("error_code")) for row in answer["data"]["events"][::-1]]

    async def outcome(self, mac):
        """The final stage and error code of a camera, once its attempt has ended."""

        async def final_stage():
            trail = await self.audit_stages(mac)
            return trail and trail[-1] != ("discovered", None) and trail[-1]

        return await eventually(final_stage, what=f"{mac} is paired or refused")

    async def error_message(self, mac):
        """The error message of the newest onboarding event of a camera."""
        return (await self.get(f"/api/v1/onboarding/auto/events/{mac}"))["data"]["events"][0]["error_message"]

    def neighbour_entry(self, address=CAMERA):
        """The entry of an address in the neighbour table of the Pi."""
        return self.pi.ip("neigh", "show", address).upper()

    async def connect_to_broker(self):
        """Let the camera connect to the broker, so that the Pi's kernel confirms its address."""
        await self.announce(OTHER_MAC, UNUSED, sender=self.camera, topic="not/a/status")  # ignored
        await eventually(lambda: MAC in self.neighbour_entry() and "REACHABLE" in self.neighbour_entry())


def connect(pi, camera):
    """Connect the namespaces with a veth pair."""
    pi.ip("link", "add", "ap0", "type", "veth", "peer", "name", "sta0", "netns", camera.name)
    # The kernel probes a learned address after 1 s instead of 5 s.
    pi.sysctl("ipv4/neigh/ap0/delay_first_probe_time", 1)
    pi.batch((f"address add {PI}/24 dev ap0", "link set ap0 up"))
    camera.batch((f"link set sta0 address {MAC}", f"address add {CAMERA}/24 dev sta0", "link set sta0 up"))


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
    running = await process.launch(rig, folder, config=config, prefix=site.pi.prefix)
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
    with Namespace.opened("pi") as pi, Namespace.opened("cam") as camera:
        connect(pi, camera)
        broker = LanBroker(tmp_path, pi, PI)
        await broker.start()
        try:
            async with pi.session() as session, contextlib.aclosing(Site(pi, camera, session)) as site:
                yield site
        finally:
            await broker.kill()


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
    assert MAC in await site.error_message(OTHER_MAC)
    assert site.request_count <= 1, "none if the kernel had the MAC before the request"


async def test_mismatch_known_to_kernel_fails_without_request(site):
    await site.serve(mac=OTHER_MAC)
    await site.connect_to_broker()
    await site.announce(OTHER_MAC)
    assert await site.outcome(OTHER_MAC) == ("failed", "MAC_MISMATCH")
    assert site.request_count == 0


async def test_contradicting_body_is_mismatch(site):
    await site.serve(mac=OTHER_MAC)
    await site.announce(MAC)
    assert await site.outcome(MAC) == ("failed", "MAC_MISMATCH")


async def test_unused_address_is_unreachable(site):
    await site.announce(MAC, UNUSED)
    assert await site.outcome(MAC) == ("failed", "VERIFY_UNREACHABLE")


async def test_own_addresses_are_never_requested(cable, tmp_path):
    """The first address, a second one, and one with a peer (`ip` prints its fields in another order)."""
    cable.pi.ip("addr", "add", "10.77.0.2/24", "dev", "ap0")
    cable.pi.ip("addr", "add", "10.77.0.7", "peer", "10.77.0.8/32", "dev", "ap0")
    await cable.serve(namespace=cable.pi, address="0.0.0.0")
    async with daemon(cable, tmp_path):
        for number, address in enumerate((PI, "10.77.0.2", "10.77.0.7", "127.0.0.1", "10.77.0.0", "10.77.0.255")):
            mac = f"24:6F:28:00:00:{number + 1}0"
            await cable.announce(mac, address)
            assert await cable.outcome(mac) == ("rejected_by_policy", "SUBNET_NOT_ALLOWED"), address
    assert cable.request_count == 0


async def test_device_id_without_mac_uses_kernel_entry(site):
    await site.serve(device_id="espcam-ca0010")
    await site.announce(None, sender=site.camera, topic="camera/status/espcam-ca0010")
    assert await site.outcome(MAC) == ("paired", None)
    assert (await site.get("/api/v1/cameras/espcam-ca0010"))["data"]["mac_address"] == MAC


async def test_retained_claim_is_accepted_with_kernel_entry(cable, tmp_path):
    await cable.serve()
    await cable.announce(MAC, retain=True)
    await cable.announce(OTHER_MAC, retain=True)  # left by a camera that had this address before
    async with daemon(cable, tmp_path):
        await cable.connect_to_broker()
        assert await cable.outcome(MAC) == ("paired", None)
        assert (await cable.get(f"/api/v1/cameras/{MAC}"))["data"]["status"] == "online"
        assert (await cable.get(f"/api/v1/cameras/{OTHER_MAC}"))["data"]["status"] == "connecting"
        assert await cable.audit_stages(OTHER_MAC) == []
