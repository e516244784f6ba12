"""The HTTP probe: which devices are probed, how often, and what the answers prove."""

import asyncio
import itertools
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network

import pytest

from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.errors import VerificationError
from pi_orchestrator.core.events import CameraSeen
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Source
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.devices.model import LEAVING_S, Presence, Windows
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.status_message import Announced
from pi_orchestrator.features.discovery.probe import (
    MAX_CONCURRENT,
    MAX_RETRY_AFTER_S,
    PASS_S,
    QUIET_AFTER_S,
    REPEAT_AFTER_S,
    RETRY_AFTER_S,
    ProbeWorker,
)
from pi_orchestrator.net.camera_http import PROBE_TIMEOUT_S, _parse
from tests.support.clock import FakeClock, settle
from tests.unit.features.devices.test_registry import Site, fake_mac, ip

PI = ip(1)
ESP, OTHER_ESP = Mac("24:6F:28:00:00:A0"), Mac("24:6F:28:00:00:B0")
LAPTOP, LOCAL = Mac("00:1B:63:00:00:01"), Mac("DA:A1:19:00:00:01")
X, Y = ip(5), ip(6)

DELICASA = b'{"device_id": "espcam-a", "firmware_version": "1.4.2", "rssi": -61, "camera_initialized": true}'
STOCK = b'{"framesize": 8, "quality": 10}'
SMART_PLUG = b'{"wifi_sta": {"connected": true}, "relays": [{"ison": false}], "mac": "246F280000A0", "uptime": 52}'


def body_with_mac(mac):
    return b'{"camera_initialized": true, "mac": "%s"}' % mac.encode()


class Cameras:
    """An HTTP client with scripted answers by address; other addresses are unreachable."""

    def __init__(self):
        self.bodies = {}
        self.requests = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.concurrent = self.max_concurrent = 0

    async def status(self, address, *, timeout_s):
        assert timeout_s == PROBE_TIMEOUT_S
        self.requests.append(IPv4Address(address))
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        try:
            await self.gate.wait()
            body = self.bodies.get(IPv4Address(address))
            if body is None:
                raise VerificationError("cannot connect", code=VerificationCode.UNREACHABLE)
            return _parse(body)
        finally:
            self.concurrent -= 1


class NeighbourTable:
    async def own_addresses(self):
        return frozenset({PI})


class Network(Site):
    """A registry with a probe worker."""

    def __init__(self, bus):
        super().__init__()
        self.clock = FakeClock(monotonic=self.now)
        self.cache = CameraCache()
        self.registry = DeviceRegistry(registered=self.cache, max_devices=500, windows=Windows(120, 600, 60))
        self.cameras = Cameras()
        self.published = []
        self.answering = {}
        self.bus = bus
        bus.publish = self.published.append
        self.probe = ProbeWorker(
            ap_subnet=IPv4Network("192.168.10.0/24"),
            clock=self.clock,
            bus=bus,
            registry=self.registry,
            cache=self.cache,
            neighbours=NeighbourTable(),
            camera_http=self.cameras,
            arp_probe=self.arp_probe,
            is_espressif=lambda mac: mac.startswith("24:6F:28"),
        )

    async def arp_probe(self, address):
        return frozenset(self.answering.get(address, ()))

    async def after(self, seconds, *alive):
        """Advance the clock; then these (MAC, address) answer a scan."""
        await self.clock.advance(seconds)
        self.now = self.clock.monotonic()
        for mac, address in alive:
            self.answer(mac, address)
        self.registry.expire(self.now)

    async def probed(self):
        """The addresses probed in one pass."""
        before = len(self.cameras.requests)
        await self.probe.run_pass()
        return self.cameras.requests[before:]


@pytest.fixture
def site(bus):
    return Network(bus)


# Probed devices.


async def test_espressif_device_is_probed_at_its_address(site):
    site.answer(ESP, X)
    assert await site.probed() == [X]


async def test_reassigned_address_is_not_probed(site):
    site.answer(ESP, X)
    site.answering[X] = [LAPTOP]
    assert await site.probed() == []
    assert X in site.registry.probe_requests
    site.answering[X] = [ESP]
    await site.after(RETRY_AFTER_S, (ESP, X))
    assert await site.probed() == [X]


@pytest.mark.parametrize("source", [Source.LEASE, Source.MDNS])
@pytest.mark.parametrize("name", ["ESP32-CAM", "my-camera", "esp_1234", "EspressIf", "webcam"])
async def test_device_with_camera_name_is_probed(site, source, name):
    site.answer(LAPTOP, X)
    site.lease(LAPTOP, X, name, source=source)
    assert await site.probed() == [X]


@pytest.mark.parametrize("name", [None, "laptop", "phone-of-anna"])
async def test_unlikely_device_is_not_probed(site, name):
    site.answer(LAPTOP, X)
    site.lease(LAPTOP, X, name)
    assert await site.probed() == []


async def test_claimed_camera_is_probed(site):
    site.retain(LAPTOP)
    assert await site.probed() == [], "it has no address"
    site.answer(LAPTOP, X)
    assert await site.probed() == [X]


async def test_camera_is_probed_only_when_silent_on_mqtt(site):
    site.publish(LAPTOP)
    site.answer(LAPTOP, X)
    assert await site.probed() == []
    await site.after(QUIET_AFTER_S - 1, (LAPTOP, X))
    assert await site.probed() == []
    await site.after(1, (LAPTOP, X))
    assert await site.probed() == [X]


@pytest.mark.parametrize("hint", [None, "name", "claim"])
async def test_local_mac_is_probed_only_if_likely(site, hint):
    site.answer(LOCAL, X)
    if hint == "name":
        site.lease(LOCAL, X, "esp32-cam")
    elif hint == "claim":
        site.retain(LOCAL)
    assert await site.probed() == ([X] if hint else [])


async def test_registered_camera_is_probed_not_announced(site):
    site.cache.put(Camera(mac=ESP, device_id="cam", registered_at=datetime(2026, 1, 22, tzinfo=UTC)))
    site.answer(ESP, X)
    site.cameras.bodies[X] = DELICASA
    assert await site.probed() == [X]
    assert site.published == []
    assert site.registry.get(ESP).evidence[Source.PROBE].detail == "answered as a camera, firmware 1.4.2"


# Devices that are not probed.


@pytest.mark.parametrize("only", ["lease", "mdns", "neighbour", "unsolicited"])
async def test_unproved_address_is_not_probed(site, only):
    site.see(ESP, Source.STATION)
    if only == "unsolicited":
        site.broadcast(ESP, X)
    elif only == "neighbour":
        site.see(ESP, Source.NEIGHBOUR, X, alive=False)
    else:
        site.lease(ESP, X, "esp32-cam", source=Source(only))
    assert await site.probed() == []


async def test_contested_address_is_not_probed(site):
    site.run_probe(X, ESP, OTHER_ESP)
    assert await site.probed() == []
    site.run_probe(X, ESP)
    assert await site.probed() == [X]


async def test_newly_contested_address_is_not_probed(site):
    site.answer(ESP, X)
    site.answer(LAPTOP, X)
    assert await site.probed() == []


@pytest.mark.parametrize(
    "address", ["192.168.10.1", "192.168.10.255", "192.168.10.0", "192.168.11.5", "127.0.0.1", "169.254.1.1", "8.8.8.8"]
)
async def test_invalid_camera_address_is_not_probed(site, address):
    site.answer(ESP, IPv4Address(address))
    assert await site.probed() == []


async def test_proxy_is_not_probed(site):
    for number in range(6):
        site.answer(ESP, ip(100 + number))
    assert await site.probed() == []


@pytest.mark.parametrize("cause", ["silence", "will"])
async def test_offline_device_is_not_probed(site, cause):
    site.answer(ESP, X)
    if cause == "will":
        site.now += 1
        site.publish_will(ESP)
        await site.after(1 + LEAVING_S)
    else:
        await site.after(601)
    assert site.state(ESP) is Presence.OFFLINE
    assert await site.probed() == []


async def test_rebooting_camera_is_not_probed(site):
    site.answer(ESP, X)
    site.publish(ESP, Announced.REBOOTING)
    assert await site.probed() == []


# Intervals.


async def test_answered_device_is_not_probed_again_soon(site):
    site.cameras.bodies[X] = DELICASA
    site.answer(ESP, X)
    assert await site.probed() == [X]
    await site.after(REPEAT_AFTER_S - 1, (ESP, X))
    assert await site.probed() == []
    await site.after(1, (ESP, X))
    assert await site.probed() == [X]


@pytest.mark.parametrize("body", [None, b"<html>", body_with_mac(OTHER_ESP)])
async def test_failing_device_is_probed_with_backoff(site, body):
    site.cameras.bodies[X] = body
    site.answer(ESP, X)
    times = []
    while site.now < 1000 + 4 * MAX_RETRY_AFTER_S:
        if await site.probed():
            times.append(site.now - 1000)
        await site.after(10, (ESP, X))
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == [min(MAX_RETRY_AFTER_S, RETRY_AFTER_S * 2**n) for n in range(len(waits))]
    assert waits[-1] == MAX_RETRY_AFTER_S


async def test_answer_resets_backoff(site):
    site.answer(ESP, X)
    for wait_s in (RETRY_AFTER_S, 2 * RETRY_AFTER_S):
        assert await site.probed() == [X]
        await site.after(wait_s, (ESP, X))
    site.cameras.bodies[X] = DELICASA
    assert await site.probed() == [X]
    del site.cameras.bodies[X]
    await site.after(REPEAT_AFTER_S, (ESP, X))
    assert await site.probed() == [X]
    await site.after(RETRY_AFTER_S, (ESP, X))
    assert await site.probed() == [X]


async def test_moved_device_is_probed_immediately(site):
    site.answer(ESP, X)
    await site.probed()
    await site.after(5)
    site.answer(ESP, Y)
    site.run_probe(X)
    assert await site.probed() == [Y]


async def test_concurrent_probes_are_limited(site):
    for number in range(50):
        site.answer(Mac(f"24:6F:28:00:01:{number:02X}"), ip(10 + number))
        site.cameras.bodies[ip(10 + number)] = STOCK
    site.cameras.gate.clear()
    probe_pass = asyncio.create_task(site.probe.run_pass())
    await settle()
    assert len(site.cameras.requests) == MAX_CONCURRENT
    site.cameras.gate.set()
    await probe_pass
    for _ in range(3):  # one pass probes 4 * MAX_CONCURRENT devices
        await site.probe.run_pass()
    assert site.cameras.max_concurrent == MAX_CONCURRENT
    assert sorted(site.cameras.requests) == [ip(10 + number) for number in range(50)]


async def test_contested_devices_do_not_block_others(site):
    for number in range(40):
        site.run_probe(ip(10 + number), Mac(f"24:6F:28:00:01:{number:02X}"), Mac(f"24:6F:28:00:02:{number:02X}"))
    site.answer(ESP, X)
    assert await site.probed() == [X]


async def test_invalid_addresses_do_not_block_others(site):
    for number in range(40):
        site.answer(Mac(f"24:6F:28:00:01:{number:02X}"), IPv4Address("10.0.0.1") + number)
    site.answer(ESP, X)
    probed = []
    for _ in range(3):
        probed += await site.probed()
    assert probed == [X]


async def test_address_contested_while_waiting_is_not_probed(site):
    for number in range(MAX_CONCURRENT + 1):
        site.answer(Mac(f"24:6F:28:00:01:{number:02X}"), ip(10 + number))
    site.cameras.gate.clear()
    probe_pass = asyncio.create_task(site.probe.run_pass())
    await settle()
    waiting = ip(10 + MAX_CONCURRENT)
    assert waiting not in site.cameras.requests
    site.run_probe(waiting, Mac(f"24:6F:28:00:01:{MAX_CONCURRENT:02X}"), LAPTOP)
    site.cameras.gate.set()
    await probe_pass
    assert waiting not in site.cameras.requests


async def test_worker_runs_passes_with_heartbeats(site):
    beats = []
    task = asyncio.create_task(site.probe.run(lambda: beats.append(1)))
    await settle()
    site.answer(ESP, X)
    await site.clock.advance(PASS_S)
    assert site.cameras.requests == [X]
    await site.clock.advance(10 * PASS_S)
    assert len(beats) == 12, "one at the start, and one after each of 11 waits"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_state_of_removed_devices_is_dropped(site):
    for number in range(400):
        mac = Mac(f"24:6F:28:01:{number >> 8:02X}:{number & 255:02X}")
        site.answer(mac, X)
        await site.probe.run_pass()
        site.registry._forget(mac)
    await site.probe.run_pass()
    assert len(site.probe._states) <= 100, "not 400"


# Answers.


async def test_answering_camera_is_evidence_and_announced(site):
    site.cameras.bodies[X] = DELICASA
    site.answer(ESP, X)
    await site.probed()
    device = site.registry.get(ESP)
    evidence = device.evidence[Source.PROBE]
    assert (evidence.alive_at, evidence.ip, evidence.rssi_dbm, evidence.detail) == (
        site.now,
        X,
        -61,
        "answered as a camera, firmware 1.4.2",
    )
    assert (device.is_camera, device.device_id) == (True, "espcam-a")
    assert site.published == [CameraSeen(ESP, "192.168.10.5", "espcam-a", "1.4.2", appeared=True, trigger="scan")]


async def test_stock_firmware_without_mac_is_camera(site):
    site.cameras.bodies[X] = STOCK
    site.answer(ESP, X)
    await site.probed()
    assert site.registry.get(ESP).is_camera
    assert site.published == [CameraSeen(ESP, "192.168.10.5", None, None, appeared=True, trigger="scan")]


async def test_camera_appears_once_then_stays_present(site):
    site.cameras.bodies[X] = DELICASA
    site.answer(ESP, X)
    await site.probed()
    await site.after(REPEAT_AFTER_S, (ESP, X))
    await site.probed()
    assert [seen.appeared for seen in site.published] == [True, False]


async def test_answer_keeps_unscanned_camera_present(site):
    site.cameras.bodies[X] = DELICASA
    site.answer(ESP, X)
    await site.after(500)
    assert site.state(ESP) is Presence.IDLE
    await site.probed()
    assert site.state(ESP) is Presence.ONLINE


async def test_other_answer_is_alive_but_no_camera(site):
    site.cameras.bodies[X] = SMART_PLUG
    site.answer(ESP, X)
    await site.probed()
    device = site.registry.get(ESP)
    assert device.evidence[Source.PROBE].detail == "answered, but not as a camera"
    assert not device.is_camera
    assert site.published == []
    await site.after(REPEAT_AFTER_S - 1, (ESP, X))
    assert await site.probed() == []


@pytest.mark.parametrize("reported", [OTHER_ESP, Mac("24:6F:28:00:00:A1"), fake_mac(1)])
async def test_answer_with_other_mac_is_no_evidence(site, reported):
    site.cameras.bodies[X] = body_with_mac(reported)
    site.answer(ESP, X)
    await site.probed()
    assert Source.PROBE not in site.registry.get(ESP).evidence
    assert site.registry.get(reported) is None
    assert not site.registry.get(ESP).is_camera
    assert site.published == []


async def test_answer_with_mac_in_other_spelling_is_accepted(site):
    site.cameras.bodies[X] = body_with_mac(ESP.replace(":", "-").lower())
    site.answer(ESP, X)
    await site.probed()
    assert site.registry.get(ESP).is_camera


@pytest.mark.parametrize("change", ["contested", "moved", "gone"])
async def test_answer_from_lost_address_is_ignored(site, change):
    site.cameras.bodies[X] = DELICASA
    site.answer(ESP, X)
    site.cameras.gate.clear()
    probe_pass = asyncio.create_task(site.probe.run_pass())
    await settle()
    site.now += 1
    if change == "contested":
        site.run_probe(X, ESP, LAPTOP)
    elif change == "moved":
        site.answer(ESP, Y)
        site.run_probe(X)
    else:
        site.registry._forget(ESP)
    site.cameras.gate.set()
    await probe_pass
    device = site.registry.get(ESP)
    assert device is None or Source.PROBE not in device.evidence
    assert site.published == []


async def test_announced_device_id_is_not_replaced(site):
    site.publish(ESP, device_id="kitchen")
    site.answer(ESP, X)
    await site.after(QUIET_AFTER_S, (ESP, X))
    site.cameras.bodies[X] = DELICASA
    await site.probed()
    assert site.registry.get(ESP).device_id == "kitchen"
