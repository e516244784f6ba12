"""Whose is an address? Moved, swapped, contested, several at once, or nobody's: each with its outcome and its event."""

import itertools
from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pi_orchestrator.domain.presence import Presence
from pi_orchestrator.domain.registry import (
    ADDRESS_KEPT_S,
    ALTERNATE_WITHIN_S,
    ALTERNATIONS,
    FORGET_AFTER_S,
    MAX_ADDRESSES,
    MAX_CLAIMANTS,
    TIDY_S,
    Change,
    Kind,
)
from pi_orchestrator.domain.sighting import Source
from pi_orchestrator.domain.status import Announced
from tests.unit.test_registry import CAMERA, A, B, C, Site, check_inside, invented, ip

X, Y, Z = ip(5), ip(6), ip(7)
ADDRESS_KINDS = (Kind.MOVED, Kind.ADDRESSES, Kind.CONFLICT, Kind.CONFLICT_OVER, Kind.PROXY)


@pytest.fixture
def site():
    return Site()


def moved(mac, there, here):
    return Change(Kind.MOVED, mac, ip=here, previous_ip=there)


def conflict(address, *macs):
    return Change(Kind.CONFLICT, macs[0], ip=address, macs=macs)


def over(address, mac):
    return Change(Kind.CONFLICT_OVER, mac, ip=address)


def contested(site, *macs, address=X):
    """These devices answer for one address, and that has been told."""
    for mac in macs:
        site.answers(mac, address)
    site.now += 1
    site.ask(address, *macs)
    site.told()
    return site


# Who answers has the address.


def test_who_answers_has_the_address_and_since_when(site):
    site.answers(A, X)
    site.now += 3
    site.answers(A, X)
    assert site.registry.holder(X) == (A, 1003)
    assert site.registry.address_of(A) == X
    assert site.registry.get(A).addresses == {X: 1003}


def test_an_older_answer_does_not_make_the_address_older(site):
    site.answers(A, X)
    site.answers(A, X, at=site.now - 60)
    assert site.registry.holder(X) == (A, 1000)


@pytest.mark.parametrize("hearsay", ["lease", "mdns", "memory", "unasked", "station", "mqtt"])
def test_what_is_only_said_gives_nobody_an_address(site, hearsay):
    site.says(A, ip=str(X))
    reports = {
        "lease": lambda: site.leased(A, X),
        "mdns": lambda: site.leased(A, X, source=Source.MDNS),
        "memory": lambda: site.see(A, Source.NEIGHBOUR, X, alive=False),
        "unasked": lambda: site.shouts(A, X),
        "station": lambda: site.see(A, Source.STATION, X),
        "mqtt": lambda: site.says(A, ip=str(X)),
    }
    reports[hearsay]()
    assert site.registry.get(A).address is None
    assert site.registry.address_of(A) is None
    assert site.registry.holder(X) is None
    assert site.registry.claimants(X) == frozenset()
    assert list(site.registry.doubts) == ([X] if hearsay in ("unasked", "station") else []), "what is alive is asked"


def test_nobody_has_an_address_of_which_nothing_is_known(site):
    assert site.registry.holder(X) is None
    assert site.registry.claimants(X) == frozenset()
    assert site.registry.address_of(A) is None
    site.registry.verdict(X, frozenset({A}), site.now)
    assert site.registry.claimants(X) == frozenset(), "only what was sighted counts"


def test_who_has_been_reported_to_answer_since_counts_however_old_the_proof_was(site):
    site.answers(A, X)
    site.now += 10
    site.answers(B, Y, Source.NEIGHBOUR, at=site.now - 60)
    site.shouts(A, X)
    site.says(C)
    assert site.registry.proved(since=site.now) == {B}
    assert site.registry.proved(since=1000) == {A, B}


def test_claimants_can_be_asked_for_by_the_age_of_their_answer(site):
    site.answers(A, X)
    site.now += 10
    site.answers(B, X)
    assert site.registry.claimants(X) == {A, B}
    assert site.registry.claimants(X, since=1000) == {A, B}
    assert site.registry.claimants(X, since=1001) == {B}
    assert site.registry.claimants(X, since=1011) == frozenset()


def test_while_it_is_contested_every_claimant_is_told_whatever_the_age(site):
    contested(site, A, B)
    assert site.registry.claimants(X, since=site.now + 100) == {A, B}


# Silence.


def test_nobody_answering_takes_the_address_from_nobody_because_who_sleeps_does_not_answer(site):
    site.answers(A, X)
    for _ in range(20):
        site.wait(60)
        site.ask(X)
    assert site.registry.address_of(A) == X
    assert site.told(*ADDRESS_KINDS) == []


def test_a_doubt_that_was_asked_is_settled_whoever_answered(site):
    for answering in ((), (A,)):
        site.registry.doubt(X)
        site.ask(X, *answering)
        assert not site.registry.doubts


def test_two_that_both_sleep_keep_what_was_known_of_them(site):
    site.answers(A, X)
    site.answers(B, X)
    site.ask(X)
    assert site.registry.claimants(X) == {A, B}
    assert site.registry.holder(X) is None


# Moved.


def test_a_device_that_answers_elsewhere_and_no_more_at_the_old_address_has_moved(site):
    site.answers(A, X)
    site.now += 60
    site.answers(A, Y)
    assert list(site.registry.doubts) == [X]
    assert site.registry.address_of(A) == X, "until it was asked, it may have both"
    site.ask(X)
    assert site.registry.address_of(A) == Y
    assert site.registry.holder(X) is None
    assert site.told(*ADDRESS_KINDS) == [moved(A, X, Y)]
    assert site.registry.counts[Kind.MOVED] == 1


def test_an_address_change_that_was_only_announced_is_asked_about(site):
    site.answers(A, X)
    site.now += 60
    site.shouts(A, Y)
    assert list(site.registry.doubts) == [Y]
    site.ask(Y, A)
    site.ask(X)
    assert site.told(*ADDRESS_KINDS) == [moved(A, X, Y)]


def test_without_anybody_who_could_ask_the_old_address_is_dropped_in_time(site):
    site.answers(A, X)
    while site.now < 1000 + ADDRESS_KEPT_S:
        site.wait(60)
        site.answers(A, Y)
    assert site.registry.address_of(A) == X
    site.wait(60)
    site.answers(A, Y)
    site.wait(TIDY_S)
    assert site.registry.address_of(A) == Y
    assert site.told(*ADDRESS_KINDS) == [moved(A, X, Y)]


def test_moving_back_and_forth_is_told_each_time(site):
    site.answers(A, X)
    for _ in range(2):
        for here, there in ((Y, X), (X, Y)):
            site.now += 60
            site.answers(A, here)
            site.ask(there)
    assert site.told(*ADDRESS_KINDS) == [moved(A, X, Y), moved(A, Y, X)] * 2


def test_a_device_whose_address_went_to_another_has_moved_when_it_answers_elsewhere(site):
    site.answers(A, X)
    site.now += 60
    site.answers(B, X)
    site.ask(X, B)
    assert site.registry.get(A).address is None
    site.now += 60
    site.answers(A, Y)
    assert site.told(*ADDRESS_KINDS) == [moved(A, X, Y)]


def test_a_device_that_gets_its_old_address_back_has_not_moved(site):
    site.answers(A, X)
    site.now += 1
    site.ask(X, B)
    site.now += 60
    site.answers(B, Y)
    site.ask(X)
    site.told()
    site.answers(A, X)
    assert site.told(*ADDRESS_KINDS) == []
    assert site.registry.address_of(A) == X


# Replaced.


def test_an_address_that_was_given_to_another_device_is_that_devices(site):
    site.answers(A, X)
    site.now += 60
    site.answers(B, X)
    assert list(site.registry.doubts) == [X]
    assert site.registry.holder(X) is None, "until it was asked, it is nobody's"
    site.ask(X, B)
    assert site.registry.holder(X) == (B, 1060)
    assert site.registry.address_of(A) is None
    assert site.told(*ADDRESS_KINDS) == []


def test_whose_address_was_taken_while_it_slept_contests_it_when_it_wakes(site):
    site.answers(A, X)
    site.now += 60
    site.answers(B, X)
    site.ask(X, B)
    site.now += 60
    site.answers(A, X)
    assert list(site.registry.doubts) == [X]
    site.ask(X, A, B)
    assert site.told(*ADDRESS_KINDS) == [conflict(X, A, B)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_two_devices_that_swap_their_addresses_have_both_moved_in_whatever_order_it_is_seen(site, order):
    site.answers(A, X)
    site.answers(B, Y)
    site.now += 60
    steps = [
        lambda: site.answers(B, X),
        lambda: site.answers(A, Y),
        lambda: site.ask(X, B),
        lambda: site.ask(Y, A),
    ]
    for step in order:
        steps[step]()
        site.now += 0.1
    assert (site.registry.address_of(A), site.registry.address_of(B)) == (Y, X)
    changes = site.told(*ADDRESS_KINDS)
    assert sorted(changes, key=lambda change: change.mac) == [moved(A, X, Y), moved(B, Y, X)]
    assert site.registry.counts[Kind.MOVED] == 2


# Contested.


def test_two_that_answer_for_one_address_are_in_conflict_and_it_belongs_to_neither(site):
    site.answers(B, X)
    site.answers(A, X)
    site.ask(X, A, B)
    assert site.told(*ADDRESS_KINDS) == [conflict(X, A, B)]
    assert site.registry.claimants(X) == {A, B}
    assert site.registry.conflicts() == {X: {A, B}}
    assert site.registry.holder(X) is None
    assert (site.registry.address_of(A), site.registry.address_of(B)) == (None, None)
    assert (site.state(A), site.state(B)) == (Presence.ONLINE, Presence.ONLINE)


def test_a_conflict_is_told_once_however_often_it_is_seen(site):
    contested(site, A, B)
    for _ in range(20):
        site.wait(60)
        site.ask(X, A, B)
    assert site.told(*ADDRESS_KINDS) == []


def test_a_conflict_is_over_once_when_only_one_answers_and_that_one_has_the_address(site):
    contested(site, A, B)
    for _ in range(3):
        site.wait(60)
        site.answers(B, X)
        site.ask(X, B)
    assert site.told(*ADDRESS_KINDS) == [over(X, B)]
    assert site.registry.holder(X)[0] == B
    assert site.registry.conflicts() == {}
    assert site.registry.address_of(A) is None


def test_every_answer_for_a_contested_address_has_it_asked_again(site):
    contested(site, A, B)
    assert not site.registry.doubts
    site.answers(A, X)
    assert list(site.registry.doubts) == [X]


def test_a_third_claimant_and_the_leaving_of_one_are_the_same_conflict(site):
    contested(site, A, B)
    site.ask(X, A, B, C)
    assert site.registry.claimants(X) == {A, B, C}
    site.ask(X, B, C)
    assert site.registry.claimants(X) == {B, C}
    assert site.told(*ADDRESS_KINDS) == []
    site.ask(X, C)
    assert site.told(*ADDRESS_KINDS) == [over(X, C)]


def test_a_conflict_in_which_nobody_answers_any_more_is_not_over(site):
    contested(site, A, B)
    site.wait(60)
    site.ask(X)
    assert site.registry.claimants(X) == {A, B}
    assert site.told(*ADDRESS_KINDS) == []


def test_one_that_moves_out_of_a_conflict_leaves_the_address_to_the_other(site):
    contested(site, A, B)
    site.now += 60
    site.answers(A, Y)
    site.ask(X)
    assert site.told(*ADDRESS_KINDS) == [moved(A, X, Y), over(X, B)]
    assert site.registry.address_of(A) == Y
    assert site.registry.address_of(B) == X


def test_a_conflict_that_both_have_moved_out_of_is_over(site):
    contested(site, A, B)
    site.now += 60
    site.answers(A, Y)
    site.answers(B, Z)
    site.ask(X)
    assert [change.kind for change in site.told(*ADDRESS_KINDS)].count(Kind.CONFLICT_OVER) == 1
    assert site.registry.conflicts() == {}
    assert (site.registry.address_of(A), site.registry.address_of(B)) == (Y, Z)


def test_a_conflict_is_over_when_the_other_is_forgotten(site):
    site.registered.add(A)
    contested(site, A, B)
    while site.now < 1000 + FORGET_AFTER_S:
        site.wait(3600)
    site.wait(10)
    assert site.registry.get(B) is None
    assert site.told(*ADDRESS_KINDS) == [over(X, A)]
    assert site.registry.address_of(A) == X


def test_a_conflict_is_over_when_the_other_is_evicted(site):
    site.registered.add(A)
    contested(site, A, B)
    for number in range(site.registry.max_devices):
        site.answers(invented(number), ip(10 + number))
    assert site.registry.get(B) is None
    assert site.told(*ADDRESS_KINDS) == [over(X, A)]
    assert site.registry.address_of(A) == X


def test_a_conflict_is_over_when_the_others_claim_has_become_too_old(site):
    contested(site, A, B)
    while site.now < 1000 + ADDRESS_KEPT_S + 120:
        site.wait(60)
        site.answers(B, Y)
    assert site.told(Kind.CONFLICT_OVER) == [over(X, A)]
    assert site.registry.address_of(A) == X


def test_a_conflict_that_came_back_is_told_again(site):
    contested(site, A, B)
    site.wait(3600)
    site.ask(X, A)
    site.wait(3600)
    site.ask(X, A, B)
    assert [change.kind for change in site.told(*ADDRESS_KINDS)] == [Kind.CONFLICT_OVER, Kind.CONFLICT]


def test_a_conflict_names_the_camera_however_many_claim_its_address():
    site = Site(registered=[CAMERA])
    crowd = [invented(number) for number in range(40)]
    site.answers(CAMERA, X)
    site.ask(X, CAMERA, *crowd)
    (told,) = site.told(Kind.CONFLICT)
    assert told.mac == CAMERA
    assert len(told.macs) == len(site.registry.claimants(X)) == MAX_CLAIMANTS
    assert CAMERA in site.registry.claimants(X)
    assert site.registry.address_of(CAMERA) is None


def test_a_lossy_conflict_is_not_told_over_and_over(site):
    for _ in range(30):
        site.now += 10
        site.ask(X, A, B)
        site.now += 10
        site.ask(X, A)
    kinds = [change.kind for change in site.told(*ADDRESS_KINDS)]
    assert kinds.count(Kind.CONFLICT) <= ALTERNATIONS
    assert kinds[-1] is Kind.CONFLICT
    assert site.registry.claimants(X) == {A, B}


# Taking turns: the kernel knows one holder at a time.


def take_turns(site, times, *macs, every_s=20.0):
    for _, mac in zip(range(times), itertools.cycle(macs)):
        site.wait(every_s)
        site.answers(mac, X, Source.NEIGHBOUR)
        site.registry.verdict(X, frozenset({mac}), site.now)


def test_an_address_that_changes_hands_once_is_no_conflict(site):
    take_turns(site, ALTERNATIONS, A, B)
    assert site.told(Kind.CONFLICT) == []
    assert site.registry.holder(X)[0] == A


def test_an_address_that_keeps_changing_hands_is_contested_by_those_who_take_turns(site):
    take_turns(site, ALTERNATIONS + 1, A, B)
    assert site.told(*ADDRESS_KINDS) == [conflict(X, A, B)]
    assert site.registry.claimants(X) == {A, B}
    assert site.registry.conflicts() == {X: {A, B}}
    assert (site.registry.address_of(A), site.registry.address_of(B)) == (None, None)


def test_taking_turns_for_a_long_time_is_one_conflict(site):
    take_turns(site, 60, A, B)
    assert site.told(*ADDRESS_KINDS) == [conflict(X, A, B)]
    assert site.registry.claimants(X) == {A, B}


def test_three_that_take_turns_are_all_named(site):
    take_turns(site, 12, A, B, C)
    assert site.registry.claimants(X) == {A, B, C}


def test_turns_that_are_far_apart_are_no_conflict(site):
    take_turns(site, 20, A, B, every_s=ALTERNATE_WITHIN_S / (ALTERNATIONS - 1) + 1)
    assert site.told(Kind.CONFLICT) == []


def test_when_turns_have_ended_the_next_answers_end_the_conflict(site):
    take_turns(site, 10, A, B)
    site.told()
    while site.now < 1200 + ALTERNATE_WITHIN_S:
        site.wait(60)
        site.answers(B, X, Source.NEIGHBOUR)
        if X in site.registry.doubts:
            site.ask(X, B)
    assert site.told(*ADDRESS_KINDS) == [over(X, B)]
    assert site.registry.address_of(B) == X


def test_silence_does_not_end_a_conflict_of_those_who_take_turns(site):
    take_turns(site, 10, A, B)
    site.told()
    site.ask(X)
    assert site.told(*ADDRESS_KINDS) == []
    assert site.registry.claimants(X) == {A, B}


def test_one_that_takes_turns_and_moves_away_ends_the_conflict(site):
    take_turns(site, 9, A, B)
    site.told()
    site.now += 1
    site.answers(A, Y)
    site.ask(X)
    assert [change.kind for change in site.told(*ADDRESS_KINDS)].count(Kind.CONFLICT_OVER) == 1
    assert site.registry.conflicts() == {}


def test_a_conflict_of_three_that_take_turns_is_over_when_all_are_gone(site):
    take_turns(site, 12, A, B, C)
    site.told()
    for number in range(site.registry.max_devices):
        site.answers(invented(number), ip(10 + number))
    assert not {A, B, C} & {device.mac for device in site.registry}
    assert [change.kind for change in site.told(*ADDRESS_KINDS)] == [Kind.CONFLICT_OVER]
    assert site.registry.conflicts() == {}


# Several addresses.


def test_one_device_that_answers_for_two_addresses_has_both_and_that_is_told_once(site):
    site.answers(A, Y)
    site.answers(A, X)
    for _ in range(10):
        site.ask(Y, A)
        site.ask(X, A)
        site.wait(60)
    assert site.told(*ADDRESS_KINDS) == [Change(Kind.ADDRESSES, A, ips=(X, Y))]
    assert site.registry.get(A).addresses.keys() == {X, Y}
    assert site.registry.address_of(A) == Y, "the first one stays the one at which it is spoken to"


def test_several_addresses_are_told_only_when_none_of_them_is_in_doubt(site):
    site.answers(A, X)
    site.answers(A, Y)
    site.answers(A, Z)
    site.ask(Y, A)
    assert site.told(Kind.ADDRESSES) == []
    site.ask(X, A)
    assert site.told(Kind.ADDRESSES) == [Change(Kind.ADDRESSES, A, ips=(X, Y, Z))]


@pytest.mark.parametrize("ends_by", ["verdict", "time"])
def test_several_addresses_that_come_back_are_told_again(site, ends_by):
    site.answers(A, X)
    site.answers(A, Y)
    site.ask(X, A)
    site.wait(ADDRESS_KEPT_S)
    site.answers(A, Y)
    site.ask(X) if ends_by == "verdict" else site.wait(0)
    site.wait(1)
    site.ask(X) if ends_by == "verdict" else site.wait(ADDRESS_KEPT_S)
    if ends_by == "time":
        site.answers(A, Y)
        site.wait(TIDY_S)
    assert site.registry.get(A).addresses.keys() == {Y}
    site.answers(A, X)
    site.ask(Y, A)
    assert len(site.told(Kind.ADDRESSES)) == 2


def test_the_primary_address_falls_to_the_one_answered_for_last(site):
    for address in (X, Y, Z):
        site.now += 1
        site.answers(A, address)
    site.ask(X)
    assert site.registry.address_of(A) == Z


# Answers for many.


def proxy(site, mac=A):
    for number in range(MAX_ADDRESSES + 1):
        site.answers(mac, ip(100 + number))


def test_one_that_answers_for_many_is_told_once_and_trusted_at_none(site):
    proxy(site)
    proxy(site)
    site.answers(A, ip(120))
    assert site.told(*ADDRESS_KINDS) == [
        Change(Kind.PROXY, A, ip=ip(100 + MAX_ADDRESSES), ips=tuple(ip(100 + n) for n in range(MAX_ADDRESSES)))
    ]
    assert site.registry.address_of(A) is None
    assert site.registry.holder(ip(100)) is None
    assert site.registry.claimants(ip(120)) == frozenset()


def test_one_that_answers_for_many_is_not_told_as_one_with_several_addresses_too(site):
    proxy(site)
    site.told()
    for number in range(MAX_ADDRESSES):
        site.ask(ip(100 + number), A)
    assert site.told() == []


def test_a_device_with_exactly_as_many_addresses_as_allowed_is_trusted(site):
    for number in range(MAX_ADDRESSES):
        site.answers(A, ip(100 + number))
    assert site.told(Kind.PROXY) == []
    assert site.registry.address_of(A) == ip(100)


def test_one_that_answers_for_many_takes_no_address_from_a_camera(site):
    site.answers(B, X)
    proxy(site)
    site.ask(X, A, B)
    assert site.registry.address_of(B) == X


def test_one_that_answers_for_many_contests_the_addresses_that_it_had_first(site):
    proxy(site)
    site.ask(ip(100), A, B)
    assert site.told(Kind.CONFLICT) == [conflict(ip(100), A, B)]


def test_one_that_answers_for_few_again_is_trusted_again(site):
    proxy(site)
    site.now += 10
    site.answers(A, ip(103))
    for number in range(3):
        site.ask(ip(100 + number))
    assert site.registry.address_of(A) == ip(103)
    site.told()
    proxy(site)
    assert len(site.told(Kind.PROXY)) == 1


# Everything together, in any order.

MACS = [A, B, C, CAMERA, *map(invented, range(8))]
HOSTS = [IPv4Address("192.168.10.10") + n for n in range(6)]
macs, hosts = st.sampled_from(MACS), st.sampled_from(HOSTS)


class AnyOrder(RuleBasedStateMachine):
    """Sources report and the scanner asks as they please; what must hold, holds after every step."""

    def __init__(self):
        super().__init__()
        self.site = Site(registered=[CAMERA], max_devices=6)
        self.seen = set()
        self.open_conflicts = set()

    @rule(mac=macs, address=hosts, source=st.sampled_from([Source.ARP, Source.NEIGHBOUR]), late=st.floats(0, 30))
    def answers(self, mac, address, source, late):
        self.site.answers(mac, address, source, at=self.site.now - late)

    @rule(mac=macs, address=st.none() | hosts)
    def shouts(self, mac, address):
        self.site.shouts(mac, address)

    @rule(mac=macs, address=hosts)
    def is_leased(self, mac, address):
        self.site.leased(mac, address, "esp32")

    @rule(mac=macs, state=st.sampled_from(list(Announced)))
    def says(self, mac, state):
        self.site.says(mac, state)
        self.site.registry.learn_name(f"cam-{mac[-2:]}", mac)

    @rule(mac=macs)
    def claims(self, mac):
        self.site.claims(mac)

    @rule(address=hosts, data=st.data())
    def is_asked(self, address, data):
        known = sorted(self.site.registry.claimants(address))
        answering = data.draw(st.lists(st.sampled_from(known or MACS), unique=True, max_size=3))
        self.site.ask(address, *answering)
        assert address not in self.site.registry.doubts

    @rule(address=hosts, answering=st.frozensets(macs, max_size=3))
    def is_judged_unseen(self, address, answering):
        self.site.registry.verdict(address, answering, self.site.now)

    @rule(seconds=st.sampled_from([0.5, 30.0, 130.0, 700.0, 90_000.0]))
    def time_goes_by(self, seconds):
        self.site.wait(seconds)

    @rule(mac=macs)
    @precondition(lambda self: len(self.site.registered) < 4)
    def is_registered(self, mac):
        self.site.registered.add(mac)

    @rule(limit=st.integers(3, 8))
    def the_limit_changes(self, limit):
        self.site.registry.max_devices = max(limit, len(self.site.registry))

    @invariant()
    def the_table_agrees_with_itself(self):
        check_inside(self.site.registry, self.site.registered)

    @invariant()
    def no_camera_is_lost(self):
        here = {device.mac for device in self.site.registry}
        assert self.seen & self.site.registered <= here
        self.seen = here

    @invariant()
    def an_address_is_trusted_for_one_device_at_most(self):
        registry = self.site.registry
        trusted = [address for device in registry if (address := registry.address_of(device.mac))]
        assert len(trusted) == len(set(trusted))
        for address in HOSTS:
            held = registry.holder(address)
            if held:
                assert registry.claimants(address) == {held[0]}
                assert address in registry.get(held[0]).addresses

    @invariant()
    def conflicts_begin_and_end_in_turn(self):
        for change in self.site.told():
            if change.kind is Kind.CONFLICT:
                assert len(change.macs) > 1
                assert change.ip not in self.open_conflicts
                self.open_conflicts.add(change.ip)
            elif change.kind is Kind.CONFLICT_OVER:
                self.open_conflicts.remove(change.ip)
            elif change.kind is Kind.MOVED:
                assert change.ip != change.previous_ip
        assert set(self.site.registry.conflicts()) == self.open_conflicts


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, database=None)
