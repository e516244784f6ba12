"""The probe: which devices are asked for their status, how often, and what an answer is worth."""

import asyncio
import itertools
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network

import pytest

from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import Code
from pi_orchestrator.domain.presence import LEAVING_S, Presence, Windows
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.sighting import Source
from pi_orchestrator.domain.status import Announced
from pi_orchestrator.errors import OnboardingError
from pi_orchestrator.events import CameraSeen
from pi_orchestrator.net.espcam import _parse
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.workers.probe import (
    AGAIN_AFTER_S,
    AT_ONCE,
    PASS_S,
    QUIET_AFTER_S,
    RETRY_AFTER_S,
    RETRY_CAP_S,
    TIMEOUT_S,
    ProbeWorker,
)
from tests.support.clock import FakeClock, settle
from tests.unit.test_registry import Site, invented, ip

PI = ip(1)
ESP, OTHER_ESP = Mac("24:6F:28:00:00:A0"), Mac("24:6F:28:00:00:B0")
LAPTOP, LOCAL = Mac("00:1B:63:00:00:01"), Mac("DA:A1:19:00:00:01")
X, Y = ip(5), ip(6)

DELICASA = b'{"device_id": "espcam-a", "firmware_version": "1.4.2", "rssi": -61, "camera_initialized": true}'
STOCK = b'{"framesize": 8, "quality": 10}'
SMART_PLUG = b'{"wifi_sta": {"connected": true}, "relays": [{"ison": false}], "mac": "246F280000A0", "uptime": 52}'


def naming(mac):
    return b'{"camera_initialized": true, "mac": "%s"}' % mac.encode()


class Cameras:
    """Answers by address, as an HTTP client would bring them; what is not scripted cannot be reached."""

    def __init__(self):
        self.bodies = {}
        self.asked = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0

    async def status(self, address, *, timeout_s):
        assert timeout_s == TIMEOUT_S
        self.asked.append(IPv4Address(address))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            body = self.bodies.get(IPv4Address(address))
            if body is None:
                raise OnboardingError("cannot connect", code=Code.VERIFY_UNREACHABLE)
            return _parse(body)
        finally:
            self.at_once -= 1


class Neighbours:
    async def own_addresses(self):
        return frozenset({PI})


class Network(Site):
    """A registry, and the probe over it."""

    def __init__(self, hub):
        super().__init__()
        self.clock = FakeClock(monotonic=self.now)
        self.roster = Roster()
        self.registry = Registry(registered=self.roster, max_devices=500, windows=Windows(120, 600, 60))
        self.cameras = Cameras()
        self.published = []
        self.answering = {}
        self.hub = hub
        hub.publish = self.published.append
        self.probe = ProbeWorker(
            ap_subnet=IPv4Network("192.168.10.0/24"),
            clock=self.clock,
            hub=hub,
            registry=self.registry,
            roster=self.roster,
            neighbours=Neighbours(),
            espcam=self.cameras,
            ask=self.who_answers,
            is_espressif=lambda mac: mac.startswith("24:6F:28"),
        )

    async def who_answers(self, address):
        return frozenset(self.answering.get(address, ()))

    async def after(self, seconds, *alive):
        """Time goes by; these (MAC, address) went on answering scans."""
        await self.clock.advance(seconds)
        self.now = self.clock.monotonic()
        for mac, address in alive:
            self.answers(mac, address)
        self.registry.settle(self.now)

    async def asked(self):
        """Who is asked in one pass."""
        before = len(self.cameras.asked)
        await self.probe.pass_once()
        return self.cameras.asked[before:]


@pytest.fixture
def site(hub):
    return Network(hub)


# Who is asked.


async def test_an_espressif_device_is_asked_at_the_address_that_it_answers_for(site):
    site.answers(ESP, X)
    assert await site.asked() == [X]


async def test_an_address_that_another_has_got_since_the_scan_is_not_asked_and_becomes_a_doubt(site):
    site.answers(ESP, X)
    site.answering[X] = [LAPTOP]
    assert await site.asked() == []
    assert X in site.registry.doubts
    site.answering[X] = [ESP]
    await site.after(RETRY_AFTER_S, (ESP, X))
    assert await site.asked() == [X]


@pytest.mark.parametrize("source", [Source.LEASE, Source.MDNS])
@pytest.mark.parametrize("name", ["ESP32-CAM", "my-camera", "esp_1234", "EspressIf", "webcam"])
async def test_a_device_whose_name_sounds_like_a_camera_is_asked(site, source, name):
    site.answers(LAPTOP, X)
    site.leased(LAPTOP, X, name, source=source)
    assert await site.asked() == [X]


@pytest.mark.parametrize("name", [None, "laptop", "phone-of-anna"])
async def test_a_device_that_nothing_makes_a_camera_is_left_alone(site, name):
    site.answers(LAPTOP, X)
    site.leased(LAPTOP, X, name)
    assert await site.asked() == []


async def test_a_camera_that_only_a_retained_message_speaks_of_is_asked(site):
    site.claims(LAPTOP)
    assert await site.asked() == [], "and where nobody knows"
    site.answers(LAPTOP, X)
    assert await site.asked() == [X]


async def test_a_camera_that_has_been_silent_on_mqtt_is_asked_and_one_that_speaks_is_not(site):
    site.says(LAPTOP)
    site.answers(LAPTOP, X)
    assert await site.asked() == []
    await site.after(QUIET_AFTER_S - 1, (LAPTOP, X))
    assert await site.asked() == []
    await site.after(1, (LAPTOP, X))
    assert await site.asked() == [X]


@pytest.mark.parametrize("hint", [None, "name", "claim"])
async def test_a_made_up_mac_is_asked_only_if_something_else_makes_it_likely(site, hint):
    site.answers(LOCAL, X)
    if hint == "name":
        site.leased(LOCAL, X, "esp32-cam")
    elif hint == "claim":
        site.claims(LOCAL)
    assert await site.asked() == ([X] if hint else [])


async def test_a_registered_camera_is_asked_like_others_but_is_nobody_new(site):
    site.roster.put(Camera(mac=ESP, device_id="cam", registered_at=datetime(2026, 1, 22, tzinfo=UTC)))
    site.answers(ESP, X)
    site.cameras.bodies[X] = DELICASA
    assert await site.asked() == [X]
    assert site.published == []
    assert site.registry.get(ESP).evidence[Source.PROBE].detail == "a camera answered, firmware 1.4.2"


# Who is not.


@pytest.mark.parametrize("only", ["lease", "mdns", "memory", "shout"])
async def test_nobody_is_asked_at_an_address_that_is_only_hearsay(site, only):
    site.see(ESP, Source.STATION)
    if only == "shout":
        site.shouts(ESP, X)
    elif only == "memory":
        site.see(ESP, Source.NEIGHBOUR, X, alive=False)
    else:
        site.leased(ESP, X, "esp32-cam", source=Source(only))
    assert await site.asked() == []


async def test_nobody_is_asked_at_a_contested_address_until_it_is_one_devices_again(site):
    site.ask(X, ESP, OTHER_ESP)
    assert await site.asked() == []
    site.ask(X, ESP)
    assert await site.asked() == [X]


async def test_nobody_is_asked_at_an_address_that_two_claim_before_they_were_asked_themselves(site):
    site.answers(ESP, X)
    site.answers(LAPTOP, X)
    assert await site.asked() == []


@pytest.mark.parametrize(
    "address", ["192.168.10.1", "192.168.10.255", "192.168.10.0", "192.168.11.5", "127.0.0.1", "169.254.1.1", "8.8.8.8"]
)
async def test_an_address_that_is_no_cameras_is_never_asked_whoever_answers_for_it(site, address):
    site.answers(ESP, IPv4Address(address))
    assert await site.asked() == []


async def test_who_answers_for_many_is_not_asked(site):
    for number in range(6):
        site.answers(ESP, ip(100 + number))
    assert await site.asked() == []


@pytest.mark.parametrize("how", ["silence", "will"])
async def test_who_is_offline_is_not_asked(site, how):
    site.answers(ESP, X)
    if how == "will":
        site.now += 1
        site.will(ESP)
        await site.after(1 + LEAVING_S)
    else:
        await site.after(601)
    assert site.state(ESP) is Presence.OFFLINE
    assert await site.asked() == []


async def test_one_that_said_that_it_reboots_is_left_alone(site):
    site.answers(ESP, X)
    site.says(ESP, Announced.REBOOTING)
    assert await site.asked() == []


# How often.


async def test_who_has_answered_is_left_alone_for_a_long_time(site):
    site.cameras.bodies[X] = DELICASA
    site.answers(ESP, X)
    assert await site.asked() == [X]
    await site.after(AGAIN_AFTER_S - 1, (ESP, X))
    assert await site.asked() == []
    await site.after(1, (ESP, X))
    assert await site.asked() == [X]


@pytest.mark.parametrize("body", [None, b"<html>", naming(OTHER_ESP)])
async def test_who_fails_is_asked_ever_more_seldom(site, body):
    site.cameras.bodies[X] = body
    site.answers(ESP, X)
    times = []
    while site.now < 1000 + 4 * RETRY_CAP_S:
        if await site.asked():
            times.append(site.now - 1000)
        await site.after(10, (ESP, X))
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == [min(RETRY_CAP_S, RETRY_AFTER_S * 2**n) for n in range(len(waits))]
    assert waits[-1] == RETRY_CAP_S


async def test_one_answer_ends_the_back_off(site):
    site.answers(ESP, X)
    for wait_s in (RETRY_AFTER_S, 2 * RETRY_AFTER_S):
        assert await site.asked() == [X]
        await site.after(wait_s, (ESP, X))
    site.cameras.bodies[X] = DELICASA
    assert await site.asked() == [X]
    del site.cameras.bodies[X]
    await site.after(AGAIN_AFTER_S, (ESP, X))
    assert await site.asked() == [X]
    await site.after(RETRY_AFTER_S, (ESP, X))
    assert await site.asked() == [X]


async def test_a_device_that_has_moved_is_asked_at_once_where_it_is_now(site):
    site.answers(ESP, X)
    await site.asked()
    await site.after(5)
    site.answers(ESP, Y)
    site.ask(X)
    assert await site.asked() == [Y]


async def test_a_few_are_asked_at_once_and_the_others_wait_for_their_turn(site):
    for number in range(50):
        site.answers(Mac(f"24:6F:28:00:01:{number:02X}"), ip(10 + number))
        site.cameras.bodies[ip(10 + number)] = STOCK
    site.cameras.gate.clear()
    passing = asyncio.create_task(site.probe.pass_once())
    await settle()
    assert len(site.cameras.asked) == AT_ONCE == 4
    site.cameras.gate.set()
    await passing
    for _ in range(3):
        await site.probe.pass_once()
    assert site.cameras.most_at_once == AT_ONCE
    assert sorted(site.cameras.asked) == [ip(10 + number) for number in range(50)]


async def test_those_at_contested_addresses_do_not_keep_the_others_from_their_turn(site):
    for number in range(40):
        site.ask(ip(10 + number), Mac(f"24:6F:28:00:01:{number:02X}"), Mac(f"24:6F:28:00:02:{number:02X}"))
    site.answers(ESP, X)
    assert await site.asked() == [X]


async def test_those_at_addresses_that_are_no_cameras_do_not_either(site):
    for number in range(40):
        site.answers(Mac(f"24:6F:28:00:01:{number:02X}"), IPv4Address("10.0.0.1") + number)
    site.answers(ESP, X)
    asked = []
    for _ in range(3):
        asked += await site.asked()
    assert asked == [X]


async def test_whose_address_is_contested_while_it_waits_for_its_turn_is_not_asked(site):
    for number in range(AT_ONCE + 1):
        site.answers(Mac(f"24:6F:28:00:01:{number:02X}"), ip(10 + number))
    site.cameras.gate.clear()
    passing = asyncio.create_task(site.probe.pass_once())
    await settle()
    waiting = ip(10 + AT_ONCE)
    assert waiting not in site.cameras.asked
    site.ask(waiting, Mac(f"24:6F:28:00:01:{AT_ONCE:02X}"), LAPTOP)
    site.cameras.gate.set()
    await passing
    assert waiting not in site.cameras.asked


async def test_the_worker_passes_every_few_seconds_and_shows_that_it_lives(site):
    beats = []
    task = asyncio.create_task(site.probe.run(lambda: beats.append(1)))
    await settle()
    site.answers(ESP, X)
    await site.clock.advance(PASS_S)
    assert site.cameras.asked == [X]
    await site.clock.advance(10 * PASS_S)
    assert len(beats) == 12
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_remembered_of_those_who_are_gone_is_dropped(site):
    for number in range(400):
        mac = Mac(f"24:6F:28:01:{number >> 8:02X}:{number & 255:02X}")
        site.answers(mac, X)
        await site.probe.pass_once()
        site.registry._forget(mac)
    await site.probe.pass_once()
    assert len(site.probe._asked) <= 100


# What an answer is worth.


async def test_a_camera_that_answers_is_evidence_and_announced_as_found_by_a_scan(site):
    site.cameras.bodies[X] = DELICASA
    site.answers(ESP, X)
    await site.asked()
    device = site.registry.get(ESP)
    one = device.evidence[Source.PROBE]
    assert (one.alive_at, one.ip, one.rssi_dbm, one.detail) == (site.now, X, -61, "a camera answered, firmware 1.4.2")
    assert (device.is_camera, device.device_id) == (True, "espcam-a")
    assert site.published == [CameraSeen(ESP, "192.168.10.5", "espcam-a", "1.4.2", appeared=True, trigger="scan")]


async def test_stock_firmware_that_names_no_mac_is_a_camera_too(site):
    site.cameras.bodies[X] = STOCK
    site.answers(ESP, X)
    await site.asked()
    assert site.registry.get(ESP).is_camera
    assert site.published == [CameraSeen(ESP, "192.168.10.5", None, None, appeared=True, trigger="scan")]


async def test_it_appears_once_and_is_announced_again_as_one_that_is_here(site):
    site.cameras.bodies[X] = DELICASA
    site.answers(ESP, X)
    await site.asked()
    await site.after(AGAIN_AFTER_S, (ESP, X))
    await site.asked()
    assert [seen.appeared for seen in site.published] == [True, False]


async def test_an_answer_keeps_a_camera_here_that_no_scan_sees(site):
    site.cameras.bodies[X] = DELICASA
    site.answers(ESP, X)
    await site.after(500)
    assert site.state(ESP) is Presence.IDLE
    await site.asked()
    assert site.state(ESP) is Presence.ONLINE


async def test_what_answers_but_not_like_a_camera_is_alive_and_no_camera(site):
    site.cameras.bodies[X] = SMART_PLUG
    site.answers(ESP, X)
    await site.asked()
    device = site.registry.get(ESP)
    assert device.evidence[Source.PROBE].detail == "answered, but not like a camera"
    assert not device.is_camera
    assert site.published == []
    await site.after(AGAIN_AFTER_S - 1, (ESP, X))
    assert await site.asked() == []


@pytest.mark.parametrize("says", [OTHER_ESP, Mac("24:6F:28:00:00:A1"), invented(1)])
async def test_an_answer_in_the_name_of_another_mac_is_no_evidence_for_this_one(site, says):
    site.cameras.bodies[X] = naming(says)
    site.answers(ESP, X)
    await site.asked()
    assert Source.PROBE not in site.registry.get(ESP).evidence
    assert site.registry.get(says) is None
    assert not site.registry.get(ESP).is_camera
    assert site.published == []


async def test_an_answer_that_names_the_right_mac_in_another_spelling_is_right(site):
    site.cameras.bodies[X] = naming(ESP.replace(":", "-").lower())
    site.answers(ESP, X)
    await site.asked()
    assert site.registry.get(ESP).is_camera


@pytest.mark.parametrize("meanwhile", ["contested", "moved", "gone"])
async def test_an_answer_from_an_address_that_is_no_longer_its_own_is_worth_nothing(site, meanwhile):
    site.cameras.bodies[X] = DELICASA
    site.answers(ESP, X)
    site.cameras.gate.clear()
    passing = asyncio.create_task(site.probe.pass_once())
    await settle()
    site.now += 1
    if meanwhile == "contested":
        site.ask(X, ESP, LAPTOP)
    elif meanwhile == "moved":
        site.answers(ESP, Y)
        site.ask(X)
    else:
        site.registry._forget(ESP)
    site.cameras.gate.set()
    await passing
    device = site.registry.get(ESP)
    assert device is None or Source.PROBE not in device.evidence
    assert site.published == []


async def test_a_device_that_has_a_name_of_its_own_keeps_it(site):
    site.says(ESP, device_id="kitchen")
    site.answers(ESP, X)
    await site.after(QUIET_AFTER_S, (ESP, X))
    site.cameras.bodies[X] = DELICASA
    await site.asked()
    assert site.registry.get(ESP).device_id == "kitchen"
