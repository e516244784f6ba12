"""What happened to devices, as events: each once, cameras always, strangers no faster than the card can bear."""

from datetime import UTC, datetime

import pytest

from pi_orchestrator.domain.camera import Camera, CameraStatus
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.presence import FLAPS, LEAVING_S, Presence, Windows
from pi_orchestrator.domain.registry import MAX_ADDRESSES, Registry
from pi_orchestrator.domain.sighting import Source
from pi_orchestrator.domain.status import Announced
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.workers.changes import STRANGERS_AT_ONCE, STRANGERS_PER_S, Changes
from tests.support.clock import FakeClock
from tests.unit.test_registry import CAMERA, A, B, Site, invented, ip

X, Y = ip(5), ip(6)


class Told(Site):
    """A registry whose changes become events; CAMERA is registered."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock(monotonic=self.now)
        self.roster = Roster()
        self.registry = Registry(registered=self.roster, max_devices=2000, windows=Windows(120, 600, 60))
        self.changes = Changes(clock=self.clock, roster=self.roster, registry=self.registry)
        self.register(CAMERA)

    def register(self, mac):
        self.roster.put(Camera(mac=mac, device_id=mac, registered_at=datetime(2026, 1, 22, tzinfo=UTC)))

    def collect(self):
        return self.changes.collect()

    def events(self):
        """Everything that is to be told now, as it is stored."""
        self.changes.collect()
        return self.changes.events(*self.changes.take())

    def told(self, *types):
        return [(event.type, event.payload) for event in self.events() if not types or event.type in types]

    def status_changes(self):
        payloads = [payload for _, payload in self.told("camera.status_changed")]
        return [(payload["previous"], payload["status"]) for payload in payloads]


@pytest.fixture
def site():
    return Told()


# Each kind, and what its event holds.


def test_a_stranger_that_was_found(site):
    site.answers(A, X)
    (event,) = site.events()
    assert (event.type, event.mac, event.id) == ("device.found", A, 0)
    assert event.payload == {"mac": A, "ip": "192.168.10.5", "locally_administered": False, "near": []}


def test_what_was_found_without_an_address_has_none_in_its_event(site):
    site.says(A)
    assert site.told("device.found") == [("device.found", {"mac": A, "locally_administered": False, "near": []})]


def test_a_made_up_mac_and_near_macs_are_shown_with_what_was_found(site):
    site.answers(A, X)
    site.told()
    near, local = Mac("24:6F:28:00:00:A1"), Mac("DA:A1:19:00:00:01")
    site.answers(near, Y)
    site.says(local)
    found = {payload["mac"]: payload for _, payload in site.told("device.found")}
    assert found[near]["near"] == [A]
    assert (found[near]["locally_administered"], found[local]["locally_administered"]) == (False, True)


def test_a_device_that_moved(site):
    site.answers(A, X)
    site.told()
    site.now += 60
    site.answers(A, Y)
    site.ask(X)
    assert site.told() == [("device.moved", {"mac": A, "ip": "192.168.10.6", "previous_ip": "192.168.10.5"})]


def test_a_conflict_and_its_end(site):
    site.ask(X, A, B)
    assert site.told("device.conflict") == [("device.conflict", {"mac": A, "ip": "192.168.10.5", "macs": [A, B]})]
    site.ask(X, B)
    assert site.told() == [("device.conflict_resolved", {"mac": B, "ip": "192.168.10.5"})]


def test_a_device_with_several_addresses(site):
    site.answers(A, Y)
    site.answers(A, X)
    site.ask(Y, A)
    payload = {"mac": A, "ips": ["192.168.10.5", "192.168.10.6"]}
    assert site.told("device.multiple_addresses") == [("device.multiple_addresses", payload)]


def test_a_device_that_answers_for_many(site):
    for number in range(MAX_ADDRESSES + 1):
        site.answers(A, ip(100 + number))
    payload = {"mac": A, "ip": "192.168.10.104", "ips": [f"192.168.10.{100 + n}" for n in range(MAX_ADDRESSES)]}
    assert site.told("device.answers_for_many") == [("device.answers_for_many", payload)]


def test_events_come_in_the_order_in_which_things_happened(site):
    site.answers(A, X)
    site.now += 60
    site.answers(A, Y)
    site.ask(X)
    site.answers(B, X)
    assert [kind for kind, _ in site.told()] == ["device.found", "device.moved", "device.found"]


# A camera's state.


def test_a_cameras_state_that_changed(site):
    site.says(CAMERA)
    (event,) = site.events()
    assert (event.type, event.mac) == ("camera.status_changed", CAMERA)
    assert event.payload == {"mac": CAMERA, "status": "online", "previous": "offline"}


def test_a_strangers_state_is_no_event(site):
    site.says(A)
    site.wait(200)
    assert site.told("camera.status_changed") == []
    assert site.changes.changed() == set()


def test_what_happened_before_a_camera_was_registered_is_no_change_of_the_camera(site):
    site.says(A)
    site.register(A)
    assert site.told("camera.status_changed") == []
    site.wait(200)
    assert site.status_changes() == [("online", "idle")]


def test_a_state_that_came_and_went_is_no_event(site):
    site.says(CAMERA)
    site.told()
    site.will(CAMERA)
    site.now += 1
    site.says(CAMERA)
    assert site.told() == []


def test_of_several_states_the_first_and_the_last_are_told(site):
    site.says(CAMERA)
    site.will(CAMERA)
    site.now += 1
    site.says(CAMERA, Announced.REBOOTING)
    assert site.status_changes() == [("offline", "rebooting")]


def test_collecting_often_does_not_make_more_events(site):
    for step in (site.says, site.will):
        step(CAMERA)
        site.collect()
        site.now += 1
    site.says(CAMERA, Announced.REBOOTING)
    assert site.changes.changed() == {CAMERA}
    assert site.status_changes() == [("offline", "rebooting")]
    assert site.changes.changed() == set()


def test_both_states_are_told_in_the_words_of_the_api(site):
    seen = []
    site.claims(CAMERA)
    seen += site.status_changes()
    site.answers(CAMERA, X)
    seen += site.status_changes()
    for _ in range(FLAPS):
        site.now += 10
        site.says(CAMERA)
        site.now += 10
        site.will(CAMERA)
        site.wait(LEAVING_S)
    seen += site.status_changes()
    site.wait(3600)
    seen += site.status_changes()
    assert seen == [("offline", "connecting"), ("connecting", "online"), ("online", "error"), ("error", "offline")]
    assert {word for pair in seen for word in pair} <= set(CameraStatus)


def test_a_camera_that_begins_to_flap_is_told_as_that_too_and_once(site):
    for _ in range(FLAPS + 6):
        site.now += 10
        site.says(CAMERA)
        site.now += 10
        site.will(CAMERA)
    drops = len(site.registry.get(CAMERA).drops)
    assert site.told("device.flapping") == [("device.flapping", {"mac": CAMERA, "drops": drops})]
    site.now += 10
    site.says(CAMERA)
    assert site.told() == []


@pytest.mark.parametrize("source", [Source.ARP, Source.MQTT])
def test_a_claim_that_has_proved_true_is_handed_back_once(site, source):
    site.claims(A)
    site.claims(CAMERA)
    assert site.collect() == []
    site.by(source, A, X)
    site.by(source, CAMERA, Y)
    assert site.collect() == [A, CAMERA]
    assert site.collect() == []


def test_a_claim_that_ends_otherwise_is_not_handed_back(site):
    site.claims(A)
    site.will(A)
    site.says(B)
    assert site.collect() == []


# Strangers have a budget, cameras have none.


def find(site, count, first=0):
    for number in range(first, first + count):
        site.says(invented(number))


def test_what_is_told_of_strangers_is_bounded_and_the_rest_counted(site):
    find(site, 2 * STRANGERS_AT_ONCE)
    assert len(site.told("device.found")) == STRANGERS_AT_ONCE
    assert site.changes.untold == STRANGERS_AT_ONCE


async def test_the_budget_comes_back_slowly(site):
    find(site, 2 * STRANGERS_AT_ONCE)
    site.told()
    await site.clock.advance(10 / STRANGERS_PER_S)
    find(site, 100, first=10_000)
    assert len(site.told("device.found")) == 10


def test_what_happens_to_cameras_is_told_when_the_budget_for_strangers_is_spent(site):
    find(site, 2 * STRANGERS_AT_ONCE)
    site.told()
    site.answers(CAMERA, X)
    site.now += 60
    site.answers(CAMERA, Y)
    site.ask(X)
    site.ask(Y, CAMERA, A)
    kinds = [kind for kind, _ in site.told()]
    assert kinds == ["device.moved", "device.conflict", "camera.status_changed"]


def test_a_conflict_with_a_camera_is_told_when_the_budget_is_spent_whoever_is_named_first(site):
    find(site, 2 * STRANGERS_AT_ONCE)
    site.told()
    low = Mac("00:00:01:00:00:01")
    site.ask(X, low, CAMERA)
    (told,) = site.told("device.conflict")
    assert set(told[1]["macs"]) == {low, CAMERA}


def test_a_conflict_with_one_that_was_registered_by_then_is_told_when_the_budget_is_spent(site):
    find(site, 2 * STRANGERS_AT_ONCE)
    site.told()
    site.ask(X, A, B)
    site.register(B)
    assert [payload["mac"] for _, payload in site.told("device.conflict")] == [A]


def test_cameras_do_not_use_up_the_strangers_budget(site):
    for number in range(2 * STRANGERS_AT_ONCE):
        site.now += 1
        site.answers(CAMERA, ip(10 + number % 2))
        site.ask(ip(10 + (number + 1) % 2))
    assert len(site.told("device.moved")) == 2 * STRANGERS_AT_ONCE - 1
    find(site, 5)
    assert len(site.told("device.found")) == 5


# What could not be stored.


def test_what_was_taken_is_gone_and_what_is_given_back_is_told_next_time(site):
    site.says(CAMERA)
    site.answers(A, X)
    site.collect()
    taken = site.changes.take()
    assert site.told() == []
    site.changes.give_back(*taken)
    assert [kind for kind, _ in site.told()] == ["device.found", "camera.status_changed"]


def test_what_is_given_back_comes_before_what_happened_since(site):
    site.answers(A, X)
    site.collect()
    taken = site.changes.take()
    site.answers(B, Y)
    site.collect()
    site.changes.give_back(*taken)
    assert [payload["mac"] for _, payload in site.told()] == [A, B]


def test_a_state_that_was_given_back_counts_from_what_was_told_last(site):
    site.says(CAMERA)
    site.told()
    site.will(CAMERA)
    site.collect()
    taken = site.changes.take()
    site.now += 1
    site.says(CAMERA, Announced.REBOOTING)
    site.collect()
    site.changes.give_back(*taken)
    assert site.status_changes() == [("online", "rebooting")]


def test_a_state_that_went_back_while_it_could_not_be_stored_is_no_event(site):
    site.says(CAMERA)
    site.told()
    site.will(CAMERA)
    site.collect()
    taken = site.changes.take()
    site.now += 1
    site.says(CAMERA)
    site.collect()
    site.changes.give_back(*taken)
    assert site.told() == []


def test_what_cannot_be_stored_for_long_stays_bounded_and_cameras_go_last(site):
    site.answers(CAMERA, X)
    site.now += 60
    site.answers(CAMERA, Y)
    site.ask(X)
    find(site, 250)
    for round_ in range(20):
        site.collect()
        taken = site.changes.take()
        site.clock._monotonic += 50 / STRANGERS_PER_S
        find(site, 50, first=1000 * (round_ + 1))
        site.collect()
        site.changes.give_back(*taken)
    told = site.told()
    others = [kind for kind, _ in told if kind != "camera.status_changed"]
    assert len(others) == STRANGERS_AT_ONCE
    assert others[0] == "device.moved"
    assert site.changes.untold == 1 + 250 + 20 * 50 - STRANGERS_AT_ONCE


def test_a_device_that_is_gone_by_then_has_no_state_to_tell(site):
    assert site.changes.events({B: Presence.ONLINE}, []) == []
