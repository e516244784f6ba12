"""Addresses of devices: moved, swapped, contested, multiple, proxied; with their changes."""

import itertools
from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pi_orchestrator.core.sighting import Source
from pi_orchestrator.features.devices.addresses import (
    ADDRESS_KEPT_S,
    ALTERNATE_WITHIN_S,
    ALTERNATIONS,
    MAX_ADDRESSES,
    MAX_CLAIMANTS,
)
from pi_orchestrator.features.devices.changes import Change, Kind
from pi_orchestrator.features.devices.model import Presence
from pi_orchestrator.features.devices.registry import CLEANUP_S, FORGET_AFTER_S
from pi_orchestrator.features.devices.status_message import Announced
from tests.support.sampling import repeats
from tests.unit.features.devices.test_registry import CAMERA, A, B, C, Site, check_bounds, fake_mac, ip

X, Y, Z = ip(5), ip(6), ip(7)
ADDRESS_KINDS = (Kind.MOVED, Kind.ADDRESSES, Kind.CONFLICT, Kind.CONFLICT_OVER, Kind.PROXY)


@pytest.fixture
def site():
    return Site()


def moved(mac, previous, address):
    return Change(Kind.MOVED, mac, ip=address, previous_ip=previous)


def conflict(address, *macs):
    return Change(Kind.CONFLICT, macs[0], ip=address, macs=macs)


def conflict_over(address, mac):
    return Change(Kind.CONFLICT_OVER, mac, ip=address)


def contested(site, *macs, address=X):
    """Let these devices answer for the address, and drain the changes."""
    for mac in macs:
        site.answer(mac, address)
    site.now += 1
    site.run_probe(address, *macs)
    site.drain()
    return site


# Binding.


def test_answering_device_holds_address(site):
    site.answer(A, X)
    site.now += 3
    site.answer(A, X)
    assert site.registry.holder(X) == (A, 1003)
    assert site.registry.address_of(A) == X
    assert site.registry.get(A).addresses == {X: 1003}


def test_older_answer_does_not_change_time(site):
    site.answer(A, X)
    site.answer(A, X, at=site.now - 60)
    assert site.registry.holder(X) == (A, 1000)


@pytest.mark.parametrize("claim", ["lease", "mdns", "neighbour", "unsolicited", "station", "mqtt"])
def test_claims_bind_no_address(site, claim):
    site.publish(A, ip=str(X))
    reports = {
        "lease": lambda: site.lease(A, X),
        "mdns": lambda: site.lease(A, X, source=Source.MDNS),
        "neighbour": lambda: site.see(A, Source.NEIGHBOUR, X, alive=False),
        "unsolicited": lambda: site.broadcast(A, X),
        "station": lambda: site.see(A, Source.STATION, X),
        "mqtt": lambda: site.publish(A, ip=str(X)),
    }
    reports[claim]()
    assert site.registry.get(A).address is None
    assert site.registry.address_of(A) is None
    assert site.registry.holder(X) is None
    assert site.registry.claimants(X) == frozenset()
    is_alive = claim in ("unsolicited", "station")
    assert list(site.registry.probe_requests) == ([X] if is_alive else []), "the claim of a live device is probed"


def test_unknown_address_has_no_holder(site):
    assert site.registry.holder(X) is None
    assert site.registry.claimants(X) == frozenset()
    assert site.registry.address_of(A) is None
    site.registry.resolve_probe(X, frozenset({A}), site.now)
    assert site.registry.claimants(X) == frozenset(), "only sighted devices count"


def test_proven_since_uses_time_of_report(site):
    site.answer(A, X)
    site.now += 10
    site.answer(B, Y, Source.NEIGHBOUR, at=site.now - 60)
    site.broadcast(A, X)
    site.publish(C)
    assert site.registry.proven_since(site.now) == {B}
    assert site.registry.proven_since(1000) == {A, B}


def test_claimants_are_filtered_by_age(site):
    site.answer(A, X)
    site.now += 10
    site.answer(B, X)
    assert site.registry.claimants(X) == {A, B}
    assert site.registry.claimants(X, since=1000) == {A, B}
    assert site.registry.claimants(X, since=1001) == {B}
    assert site.registry.claimants(X, since=1011) == frozenset()


def test_contested_address_lists_all_claimants(site):
    contested(site, A, B)
    assert site.registry.claimants(X, since=site.now + 100) == {A, B}


# Silence.


def test_unanswered_probe_releases_no_address(site):
    site.answer(A, X)
    for _ in range(20):
        site.wait(60)
        site.run_probe(X)
    assert site.registry.address_of(A) == X
    assert site.drain(*ADDRESS_KINDS) == []


def test_resolved_probe_is_no_longer_requested(site):
    for answering in ((), (A,)):
        site.registry.request_probe(X)
        site.run_probe(X, *answering)
        assert not site.registry.probe_requests


def test_two_sleeping_claimants_are_kept(site):
    site.answer(A, X)
    site.answer(B, X)
    site.run_probe(X)
    assert site.registry.claimants(X) == {A, B}
    assert site.registry.holder(X) is None


# Moves.


def test_device_answering_elsewhere_has_moved(site):
    site.answer(A, X)
    site.now += 60
    site.answer(A, Y)
    assert list(site.registry.probe_requests) == [X]
    assert site.registry.address_of(A) == X, "until the probe, it may have both"
    site.run_probe(X)
    assert site.registry.address_of(A) == Y
    assert site.registry.holder(X) is None
    assert site.drain(*ADDRESS_KINDS) == [moved(A, X, Y)]
    assert site.registry.counts[Kind.MOVED] == 1


def test_announced_address_change_requests_probe(site):
    site.answer(A, X)
    site.now += 60
    site.broadcast(A, Y)
    assert list(site.registry.probe_requests) == [Y]
    site.run_probe(Y, A)
    site.run_probe(X)
    assert site.drain(*ADDRESS_KINDS) == [moved(A, X, Y)]


def test_unprobed_old_address_is_dropped_in_time(site):
    site.answer(A, X)
    while site.now < 1000 + ADDRESS_KEPT_S:
        site.wait(60)
        site.answer(A, Y)
    assert site.registry.address_of(A) == X
    site.wait(60)
    site.answer(A, Y)
    site.wait(CLEANUP_S)
    assert site.registry.address_of(A) == Y
    assert site.drain(*ADDRESS_KINDS) == [moved(A, X, Y)]


def test_moving_back_and_forth_is_reported(site):
    site.answer(A, X)
    for _ in range(2):
        for new, old in ((Y, X), (X, Y)):
            site.now += 60
            site.answer(A, new)
            site.run_probe(old)
    assert site.drain(*ADDRESS_KINDS) == [moved(A, X, Y), moved(A, Y, X)] * 2


def test_device_with_lost_address_moves_on_next_answer(site):
    site.answer(A, X)
    site.now += 60
    site.answer(B, X)
    site.run_probe(X, B)
    assert site.registry.get(A).address is None
    site.now += 60
    site.answer(A, Y)
    assert site.drain(*ADDRESS_KINDS) == [moved(A, X, Y)]


def test_device_with_regained_address_has_not_moved(site):
    site.answer(A, X)
    site.now += 1
    site.run_probe(X, B)
    site.now += 60
    site.answer(B, Y)
    site.run_probe(X)
    site.drain()
    site.answer(A, X)
    assert site.drain(*ADDRESS_KINDS) == []
    assert site.registry.address_of(A) == X


# Reassigned addresses.


def test_reassigned_address_belongs_to_new_device(site):
    site.answer(A, X)
    site.now += 60
    site.answer(B, X)
    assert list(site.registry.probe_requests) == [X]
    assert site.registry.holder(X) is None, "until the probe, it belongs to no device"
    site.run_probe(X, B)
    assert site.registry.holder(X) == (B, 1060)
    assert site.registry.address_of(A) is None
    assert site.drain(*ADDRESS_KINDS) == []


def test_waking_device_contests_taken_address(site):
    site.answer(A, X)
    site.now += 60
    site.answer(B, X)
    site.run_probe(X, B)
    site.now += 60
    site.answer(A, X)
    assert list(site.registry.probe_requests) == [X]
    site.run_probe(X, A, B)
    assert site.drain(*ADDRESS_KINDS) == [conflict(X, A, B)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_swapped_addresses_are_two_moves(site, order):
    site.answer(A, X)
    site.answer(B, Y)
    site.now += 60
    steps = [
        lambda: site.answer(B, X),
        lambda: site.answer(A, Y),
        lambda: site.run_probe(X, B),
        lambda: site.run_probe(Y, A),
    ]
    for step in order:
        steps[step]()
        site.now += 0.1
    assert (site.registry.address_of(A), site.registry.address_of(B)) == (Y, X)
    changes = site.drain(*ADDRESS_KINDS)
    assert sorted(changes, key=lambda change: change.mac) == [moved(A, X, Y), moved(B, Y, X)]
    assert site.registry.counts[Kind.MOVED] == 2


# Conflicts.


def test_contested_address_belongs_to_no_device(site):
    site.answer(B, X)
    site.answer(A, X)
    site.run_probe(X, A, B)
    assert site.drain(*ADDRESS_KINDS) == [conflict(X, A, B)]
    assert site.registry.claimants(X) == {A, B}
    assert site.registry.conflicts() == {X: {A, B}}
    assert site.registry.holder(X) is None
    assert (site.registry.address_of(A), site.registry.address_of(B)) == (None, None)
    assert (site.state(A), site.state(B)) == (Presence.ONLINE, Presence.ONLINE)


def test_conflict_is_reported_once(site):
    contested(site, A, B)
    for _ in range(20):
        site.wait(60)
        site.run_probe(X, A, B)
    assert site.drain(*ADDRESS_KINDS) == []


def test_conflict_ends_when_one_answers(site):
    contested(site, A, B)
    for _ in range(3):
        site.wait(60)
        site.answer(B, X)
        site.run_probe(X, B)
    assert site.drain(*ADDRESS_KINDS) == [conflict_over(X, B)]
    assert site.registry.holder(X)[0] == B
    assert site.registry.conflicts() == {}
    assert site.registry.address_of(A) is None


def test_answer_for_contested_address_requests_probe(site):
    contested(site, A, B)
    assert not site.registry.probe_requests
    site.answer(A, X)
    assert list(site.registry.probe_requests) == [X]


def test_changed_claimants_are_same_conflict(site):
    contested(site, A, B)
    site.run_probe(X, A, B, C)
    assert site.registry.claimants(X) == {A, B, C}
    site.run_probe(X, B, C)
    assert site.registry.claimants(X) == {B, C}
    assert site.drain(*ADDRESS_KINDS) == []
    site.run_probe(X, C)
    assert site.drain(*ADDRESS_KINDS) == [conflict_over(X, C)]


def test_unanswered_conflict_continues(site):
    contested(site, A, B)
    site.wait(60)
    site.run_probe(X)
    assert site.registry.claimants(X) == {A, B}
    assert site.drain(*ADDRESS_KINDS) == []


def test_claimant_that_moves_leaves_address_to_other(site):
    contested(site, A, B)
    site.now += 60
    site.answer(A, Y)
    site.run_probe(X)
    assert site.drain(*ADDRESS_KINDS) == [moved(A, X, Y), conflict_over(X, B)]
    assert site.registry.address_of(A) == Y
    assert site.registry.address_of(B) == X


def test_conflict_ends_when_both_moved(site):
    contested(site, A, B)
    site.now += 60
    site.answer(A, Y)
    site.answer(B, Z)
    site.run_probe(X)
    assert [change.kind for change in site.drain(*ADDRESS_KINDS)].count(Kind.CONFLICT_OVER) == 1
    assert site.registry.conflicts() == {}
    assert (site.registry.address_of(A), site.registry.address_of(B)) == (Y, Z)


def test_conflict_ends_when_other_is_removed(site):
    site.registered.add(A)
    contested(site, A, B)
    while site.now < 1000 + FORGET_AFTER_S:
        site.wait(3600)
    site.wait(10)
    assert site.registry.get(B) is None
    assert site.drain(*ADDRESS_KINDS) == [conflict_over(X, A)]
    assert site.registry.address_of(A) == X


def test_conflict_ends_when_other_is_evicted(site):
    site.registered.add(A)
    contested(site, A, B)
    for number in range(site.registry.max_devices):
        site.answer(fake_mac(number), ip(10 + number))
    assert site.registry.get(B) is None
    assert site.drain(*ADDRESS_KINDS) == [conflict_over(X, A)]
    assert site.registry.address_of(A) == X


def test_conflict_ends_when_other_claim_is_stale(site):
    contested(site, A, B)
    while site.now < 1000 + ADDRESS_KEPT_S + 120:
        site.wait(60)
        site.answer(B, Y)
    assert site.drain(Kind.CONFLICT_OVER) == [conflict_over(X, A)]
    assert site.registry.address_of(A) == X


def test_returned_conflict_is_reported_again(site):
    contested(site, A, B)
    site.wait(3600)
    site.run_probe(X, A)
    site.wait(3600)
    site.run_probe(X, A, B)
    assert [change.kind for change in site.drain(*ADDRESS_KINDS)] == [Kind.CONFLICT_OVER, Kind.CONFLICT]


def test_conflict_names_camera_among_many():
    site = Site(registered=[CAMERA])
    crowd = [fake_mac(number) for number in range(40)]
    site.answer(CAMERA, X)
    site.run_probe(X, CAMERA, *crowd)
    (change,) = site.drain(Kind.CONFLICT)
    assert change.mac == CAMERA
    assert len(change.macs) == len(site.registry.claimants(X)) == MAX_CLAIMANTS
    assert CAMERA in site.registry.claimants(X)
    assert site.registry.address_of(CAMERA) is None


def test_conflict_with_lost_replies_is_reported_once(site):
    for _ in range(30):
        site.now += 10
        site.run_probe(X, A, B)
        site.now += 10
        site.run_probe(X, A)
    kinds = [change.kind for change in site.drain(*ADDRESS_KINDS)]
    assert kinds.count(Kind.CONFLICT) <= ALTERNATIONS
    assert kinds[-1] is Kind.CONFLICT
    assert site.registry.claimants(X) == {A, B}


# Alternation: the kernel reports one holder at a time.


def alternate(site, times, *macs, every_s=20.0):
    for _, mac in zip(range(times), itertools.cycle(macs)):
        site.wait(every_s)
        site.answer(mac, X, Source.NEIGHBOUR)
        site.registry.resolve_probe(X, frozenset({mac}), site.now)


def test_single_swap_is_not_a_conflict(site):
    alternate(site, ALTERNATIONS, A, B)
    assert site.drain(Kind.CONFLICT) == []
    assert site.registry.holder(X)[0] == A


def test_alternating_devices_are_in_conflict(site):
    alternate(site, ALTERNATIONS + 1, A, B)
    assert site.drain(*ADDRESS_KINDS) == [conflict(X, A, B)]
    assert site.registry.claimants(X) == {A, B}
    assert site.registry.conflicts() == {X: {A, B}}
    assert (site.registry.address_of(A), site.registry.address_of(B)) == (None, None)


def test_long_alternation_is_one_conflict(site):
    alternate(site, 60, A, B)
    assert site.drain(*ADDRESS_KINDS) == [conflict(X, A, B)]
    assert site.registry.claimants(X) == {A, B}


def test_three_alternating_devices_are_named(site):
    alternate(site, 12, A, B, C)
    assert site.registry.claimants(X) == {A, B, C}


def test_rare_swaps_are_not_a_conflict(site):
    alternate(site, 20, A, B, every_s=ALTERNATE_WITHIN_S / (ALTERNATIONS - 1) + 1)
    assert site.drain(Kind.CONFLICT) == []


def test_conflict_ends_after_alternation(site):
    alternate(site, 10, A, B)
    site.drain()
    while site.now < 1200 + ALTERNATE_WITHIN_S:
        site.wait(60)
        site.answer(B, X, Source.NEIGHBOUR)
        if X in site.registry.probe_requests:
            site.run_probe(X, B)
    assert site.drain(*ADDRESS_KINDS) == [conflict_over(X, B)]
    assert site.registry.address_of(B) == X


def test_silence_does_not_end_alternation(site):
    alternate(site, 10, A, B)
    site.drain()
    site.run_probe(X)
    assert site.drain(*ADDRESS_KINDS) == []
    assert site.registry.claimants(X) == {A, B}


def test_alternating_device_that_moves_ends_conflict(site):
    alternate(site, 9, A, B)
    site.drain()
    site.now += 1
    site.answer(A, Y)
    site.run_probe(X)
    assert [change.kind for change in site.drain(*ADDRESS_KINDS)].count(Kind.CONFLICT_OVER) == 1
    assert site.registry.conflicts() == {}


def test_conflict_of_three_ends_when_all_left(site):
    alternate(site, 12, A, B, C)
    site.drain()
    for number in range(site.registry.max_devices):
        site.answer(fake_mac(number), ip(10 + number))
    assert not {A, B, C} & {device.mac for device in site.registry}
    assert [change.kind for change in site.drain(*ADDRESS_KINDS)] == [Kind.CONFLICT_OVER]
    assert site.registry.conflicts() == {}


# Several addresses.


def test_two_addresses_are_reported_once(site):
    site.answer(A, Y)
    site.answer(A, X)
    for _ in range(10):
        site.run_probe(Y, A)
        site.run_probe(X, A)
        site.wait(60)
    assert site.drain(*ADDRESS_KINDS) == [Change(Kind.ADDRESSES, A, ips=(X, Y))]
    assert site.registry.get(A).addresses.keys() == {X, Y}
    assert site.registry.address_of(A) == Y, "the first address stays the primary one"


def test_multiple_addresses_wait_for_pending_probes(site):
    site.answer(A, X)
    site.answer(A, Y)
    site.answer(A, Z)
    site.run_probe(Y, A)
    assert site.drain(Kind.ADDRESSES) == []
    site.run_probe(X, A)
    assert site.drain(Kind.ADDRESSES) == [Change(Kind.ADDRESSES, A, ips=(X, Y, Z))]


@pytest.mark.parametrize("ends_by", ["probe", "time"])
def test_returned_addresses_are_reported_again(site, ends_by):
    site.answer(A, X)
    site.answer(A, Y)
    site.run_probe(X, A)
    site.wait(ADDRESS_KEPT_S)
    site.answer(A, Y)
    if ends_by == "probe":
        site.run_probe(X)
        site.wait(1)
        site.run_probe(X)
    else:
        site.wait(1 + ADDRESS_KEPT_S)
        site.answer(A, Y)
        site.wait(CLEANUP_S)
    assert site.registry.get(A).addresses.keys() == {Y}
    site.answer(A, X)
    site.run_probe(Y, A)
    assert len(site.drain(Kind.ADDRESSES)) == 2


def test_primary_address_is_latest_answered(site):
    for address in (X, Y, Z):
        site.now += 1
        site.answer(A, address)
    site.run_probe(X)
    assert site.registry.address_of(A) == Z


# Proxies.


def proxy(site, mac=A):
    for number in range(MAX_ADDRESSES + 1):
        site.answer(mac, ip(100 + number))


def test_proxy_is_reported_once_and_untrusted(site):
    proxy(site)
    proxy(site)
    site.answer(A, ip(120))
    assert site.drain(*ADDRESS_KINDS) == [
        Change(Kind.PROXY, A, ip=ip(100 + MAX_ADDRESSES), ips=tuple(ip(100 + n) for n in range(MAX_ADDRESSES)))
    ]
    assert site.registry.address_of(A) is None
    assert site.registry.holder(ip(100)) is None
    assert site.registry.claimants(ip(120)) == frozenset()


def test_proxy_is_not_reported_as_multihomed(site):
    proxy(site)
    site.drain()
    for number in range(MAX_ADDRESSES):
        site.run_probe(ip(100 + number), A)
    assert site.drain() == []


def test_device_with_max_addresses_is_trusted(site):
    for number in range(MAX_ADDRESSES):
        site.answer(A, ip(100 + number))
    assert site.drain(Kind.PROXY) == []
    assert site.registry.address_of(A) == ip(100)


def test_proxy_takes_no_address_from_camera(site):
    site.answer(B, X)
    proxy(site)
    site.run_probe(X, A, B)
    assert site.registry.address_of(B) == X


def test_proxy_contests_its_first_addresses(site):
    proxy(site)
    site.run_probe(ip(100), A, B)
    assert site.drain(Kind.CONFLICT) == [conflict(ip(100), A, B)]


def test_former_proxy_is_trusted_again(site):
    proxy(site)
    site.now += 10
    site.answer(A, ip(103))
    for number in range(3):
        site.run_probe(ip(100 + number))
    assert site.registry.address_of(A) == ip(103)
    site.drain()
    proxy(site)
    assert len(site.drain(Kind.PROXY)) == 1


# State machine: all reports in any order.

MACS = [A, B, C, CAMERA, *map(fake_mac, range(8))]
HOSTS = [IPv4Address("192.168.10.10") + n for n in range(6)]
macs, hosts = st.sampled_from(MACS), st.sampled_from(HOSTS)


class RegistryMachine(RuleBasedStateMachine):
    """Reports and probes in any order; the invariants hold after every step."""

    def __init__(self):
        super().__init__()
        self.site = Site(registered=[CAMERA], max_devices=6)
        self.seen = set()
        self.open_conflicts = set()

    @rule(mac=macs, address=hosts, source=st.sampled_from([Source.ARP, Source.NEIGHBOUR]), late=st.floats(0, 30))
    def answer(self, mac, address, source, late):
        self.site.answer(mac, address, source, at=self.site.now - late)

    @rule(mac=macs, address=st.none() | hosts)
    def broadcast(self, mac, address):
        self.site.broadcast(mac, address)

    @rule(mac=macs, address=hosts)
    def lease(self, mac, address):
        self.site.lease(mac, address, "esp32")

    @rule(mac=macs, state=st.sampled_from(list(Announced)))
    def publish(self, mac, state):
        self.site.publish(mac, state)
        self.site.registry.learn_device_id(f"cam-{mac[-2:]}", mac)

    @rule(mac=macs)
    def retain(self, mac):
        self.site.retain(mac)

    @rule(address=hosts, data=st.data())
    def run_probe(self, address, data):
        claimants = sorted(self.site.registry.claimants(address))
        answering = data.draw(st.lists(st.sampled_from(claimants or MACS), unique=True, max_size=3))
        self.site.run_probe(address, *answering)
        # Time may not advance here: an answer at the time of a last will does not prove presence after it.
        leaving = any(device.is_leaving for device in self.site.registry if device.address == address)
        assert leaving or address not in self.site.registry.probe_requests

    @rule(address=hosts, answering=st.frozensets(macs, max_size=3))
    def resolve_unsighted(self, address, answering):
        self.site.registry.resolve_probe(address, answering, self.site.now)

    @rule(seconds=st.sampled_from([0.5, 30.0, 130.0, 700.0, 90_000.0]))
    def wait(self, seconds):
        self.site.wait(seconds)

    @rule(mac=macs)
    @precondition(lambda self: len(self.site.registered) < 4)
    def register(self, mac):
        self.site.registered.add(mac)

    @rule(limit=st.integers(3, 8))
    def change_limit(self, limit):
        self.site.registry.max_devices = max(limit, len(self.site.registry))

    @invariant()
    def table_is_consistent(self):
        check_bounds(self.site.registry, self.site.registered)

    @invariant()
    def registered_devices_are_kept(self):
        present = {device.mac for device in self.site.registry}
        assert self.seen & self.site.registered <= present
        self.seen = present

    @invariant()
    def address_has_one_holder_at_most(self):
        registry = self.site.registry
        trusted = [address for device in registry if (address := registry.address_of(device.mac))]
        assert len(trusted) == len(set(trusted))
        for address in HOSTS:
            held = registry.holder(address)
            if held:
                assert registry.claimants(address) == {held[0]}
                assert address in registry.get(held[0]).addresses

    @invariant()
    def conflicts_begin_and_end_alternately(self):
        for change in self.site.drain():
            if change.kind is Kind.CONFLICT:
                assert len(change.macs) > 1
                assert change.ip not in self.open_conflicts
                self.open_conflicts.add(change.ip)
            elif change.kind is Kind.CONFLICT_OVER:
                self.open_conflicts.remove(change.ip)
            elif change.kind is Kind.MOVED:
                assert change.ip != change.previous_ip
        assert set(self.site.registry.conflicts()) == self.open_conflicts


TestAnyOrder = RegistryMachine.TestCase
TestAnyOrder.settings = settings(
    max_examples=repeats(40, slow=120), stateful_step_count=40, deadline=None, database=None
)
