"""Changes of devices as events: each once; events of unregistered devices are rate-limited."""

from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest

from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Source
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.change_feed import UNREGISTERED_BURST, UNREGISTERED_PER_S, ChangeFeed
from pi_orchestrator.features.cameras.model import Camera, CameraStatus
from pi_orchestrator.features.devices.addresses import MAX_ADDRESSES
from pi_orchestrator.features.devices.interruptions import LIMIT
from pi_orchestrator.features.devices.model import LEAVING_S, Presence, Windows
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.status_message import Announced
from tests.support.clock import FakeClock
from tests.unit.features.devices.test_registry import CAMERA, A, B, Site, fake_mac, ip

X, Y = ip(5), ip(6)


class ChangeFeedSite(Site):
    """A registry with a change feed; CAMERA is registered."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock(monotonic=self.now)
        self.cache = CameraCache()
        self.registry = DeviceRegistry(registered=self.cache, max_devices=2000, windows=Windows(120, 600, 60))
        self.changes = ChangeFeed(clock=self.clock, cache=self.cache, registry=self.registry)
        self.register(CAMERA)

    def register(self, mac):
        self.cache.put(Camera(mac=mac, device_id=mac, registered_at=datetime(2026, 1, 22, tzinfo=UTC)))

    def collect(self):
        return self.changes.collect()

    def events(self):
        """The events to be stored now."""
        self.changes.collect()
        with self.changes.taken() as (states, others):
            return self.changes.events(states, others)

    @contextmanager
    def failing_write(self):
        """A failing write of the collected changes, for the length of the block."""
        with suppress(StorageError), self.changes.taken():
            yield
            raise StorageError("the disk is full")

    def drain(self, *types):
        return [(event.type, event.payload()) for event in self.events() if not types or event.type in types]

    def status_changes(self):
        payloads = [payload for _, payload in self.drain("camera.status_changed")]
        return [(payload["previous"], payload["status"]) for payload in payloads]


@pytest.fixture
def site():
    return ChangeFeedSite()


# Events by kind.


def test_found_device_causes_event(site):
    site.answer(A, X)
    (event,) = site.events()
    assert (event.type, event.mac) == ("device.found", A)
    assert event.payload() == {"mac": A, "ip": "192.168.10.5", "locally_administered": False, "near": []}


def test_event_of_found_device_without_address_has_no_ip(site):
    site.publish(A)
    assert site.drain("device.found") == [("device.found", {"mac": A, "locally_administered": False, "near": []})]


def test_found_event_has_local_and_near_macs(site):
    site.answer(A, X)
    site.drain()
    near, local = Mac("24:6F:28:00:00:A1"), Mac("DA:A1:19:00:00:01")
    site.answer(near, Y)
    site.publish(local)
    found = {payload["mac"]: payload for _, payload in site.drain("device.found")}
    assert found[near]["near"] == [A]
    assert (found[near]["locally_administered"], found[local]["locally_administered"]) == (False, True)


def test_moved_device_causes_event(site):
    site.answer(A, X)
    site.drain()
    site.now += 60
    site.answer(A, Y)
    site.run_probe(X)
    assert site.drain() == [("device.moved", {"mac": A, "ip": "192.168.10.6", "previous_ip": "192.168.10.5"})]


def test_conflict_and_its_end_cause_events(site):
    site.run_probe(X, A, B)
    assert site.drain("device.conflict") == [("device.conflict", {"mac": A, "ip": "192.168.10.5", "macs": [A, B]})]
    site.run_probe(X, B)
    assert site.drain() == [("device.conflict_resolved", {"mac": B, "ip": "192.168.10.5"})]


def test_id_conflict_and_its_end_cause_events(site):
    topic = "camera/status/esp32cam"
    for mac in (A, B):
        site.publish(mac, topic=topic, topic_id="esp32cam", has_mac=True)
    payload = {"mac": A, "id": "esp32cam", "topic": topic, "macs": [A, B]}
    assert site.drain("device.id_conflict") == [("device.id_conflict", payload)]
    site.wait(601)
    site.publish(B, topic=topic, topic_id="esp32cam", has_mac=True)
    assert site.drain("device.id_conflict_resolved") == [("device.id_conflict_resolved", payload)]


def test_second_address_of_device_causes_event(site):
    site.answer(A, Y)
    site.answer(A, X)
    site.run_probe(Y, A)
    payload = {"mac": A, "ips": ["192.168.10.5", "192.168.10.6"]}
    assert site.drain("device.multiple_addresses") == [("device.multiple_addresses", payload)]


def test_device_over_max_addresses_sends_answers_for_many(site):
    for number in range(MAX_ADDRESSES + 1):
        site.answer(A, ip(100 + number))
    payload = {"mac": A, "ip": "192.168.10.104", "ips": [f"192.168.10.{100 + n}" for n in range(MAX_ADDRESSES)]}
    assert site.drain("device.answers_for_many") == [("device.answers_for_many", payload)]


def test_events_are_in_order_of_changes(site):
    site.answer(A, X)
    site.now += 60
    site.answer(A, Y)
    site.run_probe(X)
    site.answer(B, X)
    assert [kind for kind, _ in site.drain()] == ["device.found", "device.moved", "device.found"]


# States of cameras.


def test_state_change_of_camera_causes_event(site):
    site.publish(CAMERA)
    (event,) = site.events()
    assert (event.type, event.mac) == ("camera.status_changed", CAMERA)
    assert event.payload() == {"mac": CAMERA, "status": "online", "previous": "offline"}


def test_state_change_of_unregistered_device_causes_no_event(site):
    site.publish(A)
    site.wait(200)
    assert site.drain("camera.status_changed") == []
    assert site.changes.changed() == set()


def test_change_before_registration_causes_no_event(site):
    site.publish(A)
    site.register(A)
    assert site.drain("camera.status_changed") == []
    site.wait(200)
    assert site.status_changes() == [("online", "idle")]


def test_reverted_state_causes_no_event(site):
    site.publish(CAMERA)
    site.drain()
    site.publish_will(CAMERA)
    site.now += 1
    site.publish(CAMERA)
    assert site.drain() == []


def test_several_changes_are_one_event_with_first_and_last_state(site):
    site.publish(CAMERA)
    site.publish_will(CAMERA)
    site.now += 1
    site.publish(CAMERA, Announced.REBOOTING)
    assert site.status_changes() == [("offline", "rebooting")]


def test_frequent_collect_causes_no_more_events(site):
    for step in (site.publish, site.publish_will):
        step(CAMERA)
        site.collect()
        site.now += 1
    site.publish(CAMERA, Announced.REBOOTING)
    assert site.changes.changed() == {CAMERA}
    assert site.status_changes() == [("offline", "rebooting")]
    assert site.changes.changed() == set()


def test_states_use_api_names(site):
    seen = []
    site.retain(CAMERA)
    seen += site.status_changes()
    site.answer(CAMERA, X)
    seen += site.status_changes()
    for _ in range(LIMIT):
        site.now += 10
        site.publish(CAMERA)
        site.now += 10
        site.publish_will(CAMERA)
        site.wait(LEAVING_S)
    seen += site.status_changes()
    site.wait(3600)
    seen += site.status_changes()
    assert seen == [("offline", "connecting"), ("connecting", "online"), ("online", "error"), ("error", "offline")]
    assert {word for pair in seen for word in pair} <= set(CameraStatus)


def test_flapping_camera_has_one_extra_event(site):
    for _ in range(LIMIT + 6):
        site.now += 10
        site.publish(CAMERA)
        site.now += 10
        site.publish_will(CAMERA)
        site.clock.skip(20)
    (event,) = site.drain("device.flapping")
    reason = "restarted 9 times and went offline once in the last 10 minutes"
    assert event == ("device.flapping", {"mac": CAMERA, "drops": 10, "reason": reason})
    site.now += 10
    site.publish(CAMERA)
    assert site.drain() == []


def test_unstable_camera_without_registration_has_event(site):
    for _ in range(LIMIT + 1):
        site.publish(A)
        site.publish_will(A)
        site.now += 10
        site.clock.skip(10)
    reason = "restarted 4 times and went offline once in the last minute"
    assert site.drain("device.flapping") == [("device.flapping", {"mac": A, "drops": 5, "reason": reason})]
    assert site.drain() == []


@pytest.mark.parametrize("source", [Source.ARP, Source.MQTT])
def test_confirmed_claim_is_collected_once(site, source):
    site.retain(A)
    site.retain(CAMERA)
    assert site.collect() == []
    site.report_by(source, A, X)
    site.report_by(source, CAMERA, Y)
    assert site.collect() == [A, CAMERA]
    assert site.collect() == []


def test_unconfirmed_claim_is_not_collected(site):
    site.retain(A)
    site.publish_will(A)
    site.publish(B)
    assert site.collect() == []


# Rate limit for unregistered devices.


def publish_unregistered(site, count, first=0):
    """Publish a message of each of `count` unregistered devices; each causes the event device.found."""
    for number in range(first, first + count):
        site.publish(fake_mac(number))


def test_unregistered_events_are_limited_and_counted(site):
    publish_unregistered(site, 2 * UNREGISTERED_BURST)
    assert len(site.drain("device.found")) == UNREGISTERED_BURST
    assert site.changes.dropped == UNREGISTERED_BURST


async def test_budget_refills_slowly(site):
    publish_unregistered(site, 2 * UNREGISTERED_BURST)
    site.drain()
    await site.clock.advance(10 / UNREGISTERED_PER_S)
    publish_unregistered(site, 100, first=10_000)
    assert len(site.drain("device.found")) == 10


def test_camera_events_ignore_spent_budget(site):
    publish_unregistered(site, 2 * UNREGISTERED_BURST)
    site.drain()
    site.answer(CAMERA, X)
    site.now += 60
    site.answer(CAMERA, Y)
    site.run_probe(X)
    site.run_probe(Y, CAMERA, A)
    kinds = [kind for kind, _ in site.drain()]
    assert kinds == ["device.moved", "device.conflict", "camera.status_changed"]


def test_conflict_with_camera_ignores_spent_budget(site):
    publish_unregistered(site, 2 * UNREGISTERED_BURST)
    site.drain()
    low = Mac("00:00:01:00:00:01")
    site.run_probe(X, low, CAMERA)
    (conflict,) = site.drain("device.conflict")
    assert set(conflict[1]["macs"]) == {low, CAMERA}


def test_conflict_with_registered_device_ignores_budget(site):
    publish_unregistered(site, 2 * UNREGISTERED_BURST)
    site.drain()
    site.run_probe(X, A, B)
    site.register(B)
    assert [payload["mac"] for _, payload in site.drain("device.conflict")] == [A]


def test_camera_events_use_no_budget(site):
    for number in range(2 * UNREGISTERED_BURST):
        site.now += 1
        site.answer(CAMERA, ip(10 + number % 2))
        site.run_probe(ip(10 + (number + 1) % 2))
    assert len(site.drain("device.moved")) == 2 * UNREGISTERED_BURST - 1
    publish_unregistered(site, 5)
    assert len(site.drain("device.found")) == 5


# Failed writes.


def test_changes_of_failed_write_are_in_next_write(site):
    site.publish(CAMERA)
    site.answer(A, X)
    site.collect()
    with site.failing_write():
        assert site.drain() == []
    assert [kind for kind, _ in site.drain()] == ["device.found", "camera.status_changed"]


def test_changes_of_failed_write_come_first(site):
    site.answer(A, X)
    site.collect()
    with site.failing_write():
        site.answer(B, Y)
        site.collect()
    assert [payload["mac"] for _, payload in site.drain()] == [A, B]


def test_failed_write_keeps_last_stored_state(site):
    site.publish(CAMERA)
    site.drain()
    site.publish_will(CAMERA)
    site.collect()
    with site.failing_write():
        site.now += 1
        site.publish(CAMERA, Announced.REBOOTING)
        site.collect()
    assert site.status_changes() == [("online", "rebooting")]


def test_state_reverted_during_failed_write_causes_no_event(site):
    site.publish(CAMERA)
    site.drain()
    site.publish_will(CAMERA)
    site.collect()
    with site.failing_write():
        site.now += 1
        site.publish(CAMERA)
        site.collect()
    assert site.drain() == []


def test_failed_writes_are_bounded_and_drop_cameras_last(site):
    site.answer(CAMERA, X)
    site.now += 60
    site.answer(CAMERA, Y)
    site.run_probe(X)
    publish_unregistered(site, 250)
    for round_ in range(20):
        site.collect()
        with site.failing_write():
            site.clock.skip(50 / UNREGISTERED_PER_S)  # the budget for the next 50
            publish_unregistered(site, 50, first=1000 * (round_ + 1))
            site.collect()
    events = site.drain()
    others = [kind for kind, _ in events if kind != "camera.status_changed"]
    assert len(others) == UNREGISTERED_BURST
    assert others[0] == "device.moved"
    assert site.changes.dropped == 1 + 250 + 20 * 50 - UNREGISTERED_BURST


def test_removed_device_has_no_state_event(site):
    assert site.changes.events({B: Presence.ONLINE}, []) == []
