"""The table of devices: what each source's evidence is worth, what all of it says together, and how it stays small."""

from ipaddress import IPv4Address

import pytest

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.presence import (
    FLAPS,
    FLAPS_WITHIN_S,
    HERE,
    LEAVING_S,
    NEVER,
    REBOOT_S,
    SEEN_JUST_NOW_S,
    SETTLED_AFTER_S,
    Presence,
    Windows,
)
from pi_orchestrator.domain.registry import (
    FORGET_AFTER_S,
    MAX_ADDRESSES,
    MAX_CHANGES,
    MAX_CLAIMANTS,
    MAX_DOUBTS,
    MAX_NAMES,
    TIDY_S,
    Change,
    Kind,
    Registry,
)
from pi_orchestrator.domain.sighting import TRUSTED, Sighting, Source
from pi_orchestrator.domain.status import Announced, Status

A, B, C = (Mac(f"24:6F:28:00:00:{last}") for last in ("A0", "B0", "C0"))
CAMERA = Mac("F4:12:FA:00:00:01")
WINDOWS = Windows(idle_after_s=120, offline_after_s=600, scan_interval_s=60)
SCANNED = (Source.ARP, Source.NEIGHBOUR, Source.STATION, Source.PROBE)
HINTS = (Source.LEASE, Source.MDNS)
FLOOD = 10_000


def ip(last):
    return IPv4Address("192.168.10.0") + last


def invented(number):
    """One of many MACs that somebody makes up."""
    return Mac(f"02:00:00:{number >> 16:02X}:{number >> 8 & 0xFF:02X}:{number & 0xFF:02X}")


class Site:
    """A registry at a time that only this moves, and the sources that report to it."""

    def __init__(self, *, registered=(), max_devices=64, windows=WINDOWS):
        self.registered = set(registered)
        self.registry = Registry(registered=self.registered, max_devices=max_devices, windows=windows)
        self.now = 1000.0

    def see(self, mac, source, address=None, *, at=None, **more):
        seen = Sighting(mac, source, self.now if at is None else at, address, **more)
        return self.registry.sight(seen, self.now)

    def answers(self, mac, address, source=Source.ARP, *, at=None):
        """It answered for the address when it was asked."""
        return self.see(mac, source, address, at=at, binds=True)

    def shouts(self, mac, address=None):
        """An ARP frame that nobody has asked for."""
        return self.see(mac, Source.ARP, address)

    def leased(self, mac, address=None, name=None, source=Source.LEASE):
        return self.see(mac, source, address, alive=False, host_name=name)

    def by(self, source, mac, address=None):
        """A sign of this source as the source itself reports it."""
        if source is Source.MQTT:
            return self.says(mac)
        if source is Source.RECORD:
            return self.registry.restore(mac, Presence.ONLINE, alive_at=self.now, now=self.now)
        if source in HINTS:
            return self.leased(mac, address, source=source)
        if source is Source.ARP:
            address = address or ip(250)  # a stranger has to answer for one
        return self.see(mac, source, address, binds=address is not None and source is not Source.STATION)

    def says(self, mac, state=Announced.ONLINE, **fields):
        return self.registry.hear(mac, status(mac, state, **fields), self.now)

    def will(self, mac):
        return self.says(mac, Announced.OFFLINE)

    def claims(self, mac, state=Announced.ONLINE, **fields):
        return self.registry.claim(mac, status(mac, state, **fields))

    def ask(self, address, *answering):
        """Ask an address as the scanner does: who answers is sighted, then comes the verdict."""
        for mac in answering:
            self.answers(mac, address)
        self.registry.verdict(address, frozenset(answering), self.now)

    def wait(self, seconds):
        self.now += seconds
        self.registry.settle(self.now)

    def state(self, mac):
        return self.registry.get(mac).shown

    def told(self, *kinds):
        """What has happened since this was asked last, of these kinds."""
        return [change for change in self.registry.drain() if change.kind in kinds or not kinds]


def status(mac, state=Announced.ONLINE, **fields):
    return Status(topic_id=mac, mac=mac, device_id=fields.pop("device_id", None), state=state, **fields)


@pytest.fixture
def site():
    return Site()


def check_inside(registry, registered):
    """Nothing is kept of who is gone, and every collection is within its limit."""
    devices = set(registry._devices)
    strangers = devices - set(registered)
    assert len(strangers) <= registry.max_devices
    assert set(registry._names) <= devices
    assert set(registry._macs_by_id.values()) <= devices
    assert all(len(names) <= MAX_NAMES for names in registry._names.values())
    assert sorted(name for names in registry._names.values() for name in names) == sorted(registry._macs_by_id)
    assert registry._proxies <= devices
    assert set(registry._multihomed) <= devices
    assert set(registry._proved) <= devices
    assert not set(registry._weak) & set(registry._strong)
    assert set(registry._weak) | set(registry._strong) <= devices
    assert strangers <= set(registry._weak) | set(registry._strong)
    answering = {(mac, address) for address, known in registry._claimants.items() for mac in known.answered}
    assert answering == {(device.mac, address) for device in registry for address in device.addresses}
    for known in registry._claimants.values():
        assert known.answered
        assert len(known.contested) <= MAX_CLAIMANTS
        assert len(known.contested) != 1, "nobody contests an address with itself"
        assert len(known.swaps) <= 8
        assert all(len(macs) <= MAX_CLAIMANTS for _, macs in known.swaps)
    for device in registry:
        assert len(device.addresses) <= MAX_ADDRESSES
        assert device.address in device.addresses if device.addresses else device.address is None
        assert len(device.evidence) <= len(Source)
    assert len(registry.doubts) <= MAX_DOUBTS
    assert len(registry._changes) <= 2 * MAX_CHANGES


# Evidence, source by source.


def test_each_source_keeps_its_own_first_and_last_time(site):
    site.see(A, Source.STATION, rssi_dbm=-61)
    site.now += 5
    site.answers(A, ip(5))
    site.now += 5
    site.see(A, Source.STATION, rssi_dbm=-70)
    evidence = site.registry.get(A).evidence
    times = {source: (one.first_at, one.last_at, one.alive_at) for source, one in evidence.items()}
    assert times == {Source.STATION: (1000, 1010, 1010), Source.ARP: (1005, 1005, 1005)}
    assert evidence[Source.STATION].rssi_dbm == -70
    assert evidence[Source.ARP].ip == ip(5)


def test_a_message_is_evidence_like_any_other(site):
    site.says(A, rssi_dbm=-50)
    site.now += 30
    site.says(A, rssi_dbm=-55)
    one = site.registry.get(A).evidence[Source.MQTT]
    assert (one.first_at, one.last_at, one.alive_at, one.rssi_dbm) == (1000, 1030, 1030, -55)


def test_what_a_later_sighting_leaves_out_is_kept(site):
    site.see(A, Source.LEASE, ip(5), alive=False, host_name="esp32", detail="given")
    site.see(A, Source.LEASE, alive=False)
    one = site.registry.get(A).evidence[Source.LEASE]
    assert (one.ip, one.host_name, one.detail) == (ip(5), "esp32", "given")


def test_a_sighting_that_comes_late_takes_nothing_back_but_its_life_counts(site):
    site.see(A, Source.NEIGHBOUR, ip(5), alive=False, detail="in the kernel's memory")
    site.see(A, Source.NEIGHBOUR, ip(6), at=site.now - 10, detail="older")
    one = site.registry.get(A).evidence[Source.NEIGHBOUR]
    assert (one.last_at, one.ip, one.detail) == (1000, ip(5), "in the kernel's memory")
    assert one.alive_at == 990


@pytest.mark.parametrize("source", [*SCANNED, Source.MQTT])
def test_a_sign_of_life_from_any_trustworthy_source_makes_a_device_online(site, source):
    site.by(source, A)
    assert site.state(A) is Presence.ONLINE
    assert site.registry.get(A).alive_at == site.now


@pytest.mark.parametrize("source", HINTS)
@pytest.mark.parametrize("alive", [False, True])
def test_a_lease_or_a_name_is_no_proof_of_life_whatever_it_says_of_itself(site, source, alive):
    site.see(A, source, ip(5), alive=alive, host_name="esp32-cam")
    device = site.registry.get(A)
    assert device.shown is Presence.OFFLINE
    assert device.alive_at is None
    assert device.evidence[source].alive_at == NEVER
    assert device.evidence[source].host_name == "esp32-cam"


def test_every_source_is_either_trusted_or_a_hint():
    assert TRUSTED.isdisjoint(HINTS)
    assert TRUSTED.union(HINTS) == set(Source)


def test_what_the_kernel_only_remembers_admits_a_device_but_does_not_bring_it_online(site):
    site.see(A, Source.NEIGHBOUR, ip(5), alive=False)
    assert site.state(A) is Presence.OFFLINE
    assert site.registry.get(A).address is None


def test_a_strangers_unasked_frame_admits_nobody_but_raises_a_doubt(site):
    assert site.shouts(A, ip(5)) is None
    assert len(site.registry) == 0
    assert list(site.registry.doubts) == [ip(5)]
    assert site.told() == []


def test_a_strangers_unasked_frame_without_an_address_leaves_no_trace(site):
    assert site.shouts(A) is None
    assert (len(site.registry), list(site.registry.doubts)) == (0, [])


def test_a_stranger_that_answers_the_question_is_admitted(site):
    site.shouts(A, ip(5))
    site.ask(ip(5), A)
    assert site.state(A) is Presence.ONLINE
    assert site.registry.address_of(A) == ip(5)
    assert not site.registry.doubts


def test_an_unasked_frame_of_a_known_device_proves_life_but_no_address(site):
    site.answers(A, ip(5))
    site.wait(400)
    assert site.state(A) is Presence.OFFLINE or site.state(A) is Presence.IDLE
    site.shouts(A, ip(6))
    assert site.state(A) is Presence.ONLINE
    assert site.registry.address_of(A) == ip(5)
    assert list(site.registry.doubts) == [ip(6)]


def test_an_unasked_frame_from_the_known_address_raises_no_doubt(site):
    site.answers(A, ip(5))
    site.shouts(A, ip(5))
    assert not site.registry.doubts


def test_every_report_moves_the_revision(site):
    seen = [site.registry.revision]
    for report in (
        lambda: site.says(A),
        lambda: site.claims(B),
        lambda: site.answers(A, ip(5)),
        lambda: site.ask(ip(5)),
        lambda: site.wait(10_000),
        lambda: site.wait(FORGET_AFTER_S),
    ):
        report()
        seen.append(site.registry.revision)
    assert sorted(set(seen)) == seen


# Found.


@pytest.mark.parametrize("source", [*SCANNED, Source.MQTT])
def test_a_stranger_is_found_once_at_its_first_sign_of_life(site, source):
    site.by(source, A)
    site.by(source, A)
    assert [change.mac for change in site.told(Kind.FOUND)] == [A]


@pytest.mark.parametrize("first", [*HINTS, "claim", "will"])
@pytest.mark.parametrize("then", [Source.ARP, Source.MQTT])
def test_a_stranger_that_was_only_spoken_of_is_found_when_it_lives(site, first, then):
    known_by = {"claim": lambda: site.claims(A), "will": lambda: site.will(A)}
    known_by.get(first, lambda: site.by(first, A))()
    assert site.told(Kind.FOUND) == []
    site.now += 1
    site.by(then, A)
    assert [change.mac for change in site.told(Kind.FOUND)] == [A]


@pytest.mark.parametrize("source", [Source.ARP, Source.MQTT])
def test_a_registered_camera_is_nothing_found(source):
    site = Site(registered=[A])
    site.by(source, A)
    assert site.told(Kind.FOUND) == []


def test_found_tells_the_address_where_it_is_known(site):
    site.answers(A, ip(5))
    assert site.told(Kind.FOUND) == [Change(Kind.FOUND, A, ip=ip(5))]


# Presence from all sources together.


def test_a_camera_that_ignores_every_scan_but_publishes_stays_online(site):
    site.answers(A, ip(5))
    for _ in range(120):
        site.wait(60)
        site.says(A)
        assert site.state(A) is Presence.ONLINE
    assert site.told(Kind.STATE) == [Change(Kind.STATE, A, before=Presence.OFFLINE, after=Presence.ONLINE)]


def test_a_camera_that_is_silent_on_mqtt_but_answers_scans_stays_online(site):
    site.says(A)
    for _ in range(60):
        site.wait(60)
        site.answers(A, ip(5))
        assert site.state(A) is Presence.ONLINE


@pytest.mark.parametrize("source", SCANNED)
@pytest.mark.parametrize("interval_s, idle_s, offline_s", [(20, 120, 600), (60, 150, 600), (300, 750, 1200)])
def test_a_source_that_is_asked_gets_several_scans_time(source, interval_s, idle_s, offline_s):
    site = Site(windows=Windows(120, 600, interval_s))
    site.by(source, A)
    states = []
    for until in (idle_s - 1, idle_s, offline_s - 1, offline_s):
        site.wait(1000 + until - site.now)
        states.append(site.state(A))
    assert states == [Presence.ONLINE, Presence.IDLE, Presence.IDLE, Presence.OFFLINE]


@pytest.mark.parametrize("interval_s", [5, 60, 600, 3600])
def test_one_missed_scan_never_means_offline_nor_even_idle(interval_s):
    site = Site(windows=Windows(120, 600, interval_s))
    site.answers(A, ip(5))
    site.wait(2 * interval_s)
    assert site.state(A) is Presence.ONLINE


@pytest.mark.parametrize("interval_s", [60, 3600])
def test_mqtt_speaks_by_itself_and_is_not_given_more_time_for_rare_scans(interval_s):
    site = Site(windows=Windows(120, 600, interval_s))
    site.says(A)
    site.wait(120)
    assert site.state(A) is Presence.IDLE
    site.wait(480)
    assert site.state(A) is Presence.OFFLINE


def test_windows_that_change_count_from_the_next_look_on(site):
    site.says(A)
    site.registry.windows = Windows(10, 20)
    site.wait(15)
    assert site.state(A) is Presence.IDLE


def test_a_registered_cameras_changes_say_that_it_was_registered_by_then(site):
    site.says(A)
    site.registered.add(A)
    site.wait(200)
    assert [change.registered for change in site.told(Kind.STATE)] == [False, True]


# Claims.


def test_a_retained_claim_alone_never_comes_online(site):
    site.claims(A, ip="192.168.10.5")
    for _ in range(3):
        site.wait(3600)
        site.claims(A)
    assert site.state(A) is Presence.CLAIMED
    assert site.registry.address_of(A) is None


@pytest.mark.parametrize("source", HINTS)
def test_a_hint_does_not_prove_a_claim(site, source):
    site.claims(A)
    site.by(source, A, ip(5))
    site.wait(1)
    assert site.state(A) is Presence.CLAIMED


@pytest.mark.parametrize("source", [*SCANNED, Source.MQTT])
def test_a_claim_with_proof_comes_online_and_is_told_as_confirmed(site, source):
    site.claims(A)
    site.told()
    site.by(source, A)
    assert site.told(Kind.STATE) == [Change(Kind.STATE, A, before=Presence.CLAIMED, after=Presence.ONLINE)]


def test_a_claim_does_not_take_a_device_back_that_is_proven_to_be_here(site):
    site.answers(A, ip(5))
    site.claims(A, firmware_version="1.4.2")
    device = site.registry.get(A)
    assert device.shown is Presence.ONLINE
    assert device.is_camera
    assert device.claims.firmware_version == "1.4.2"


def test_a_claim_does_not_wake_a_camera_that_was_offline_before_the_restart():
    site = Site(registered=[A])
    site.registry.restore(A, Presence.ONLINE, alive_at=site.now - 700, now=site.now)
    site.claims(A)
    assert site.state(A) is Presence.OFFLINE
    assert site.registry.get(A).claims is None


def test_proof_from_long_ago_does_not_confirm_a_claim(site):
    site.claims(A)
    site.see(A, Source.NEIGHBOUR, ip(5), at=site.now - 300)
    assert site.state(A) is Presence.CLAIMED


# Last wills and reboots.


@pytest.mark.parametrize("source", [*SCANNED, Source.MQTT])
def test_a_last_will_ends_presence_until_later_proof(site, source):
    site.says(A)
    site.answers(A, ip(5))
    site.now += 1
    site.will(A)
    assert list(site.registry.doubts) == [ip(5)]
    site.wait(LEAVING_S)
    assert site.state(A) is Presence.OFFLINE
    site.wait(1)
    assert site.state(A) is Presence.OFFLINE
    site.by(source, A)
    assert site.state(A) is Presence.ONLINE


def test_a_last_will_of_one_that_other_sources_see_is_a_question_first(site):
    site.says(A)
    site.answers(A, ip(5))
    site.now += 1
    site.registry.drain()
    site.will(A)
    assert site.state(A) is Presence.ONLINE
    site.wait(LEAVING_S - 1)
    site.answers(A, ip(5))  # it was asked
    for _ in range(10):
        site.wait(60)
        site.answers(A, ip(5))
    assert site.state(A) is Presence.ONLINE
    assert site.registry.drain() == []


def test_a_session_that_has_ended_counts_no_more_once_the_other_sources_fall_silent(site):
    site.answers(A, ip(5))
    site.wait(100)
    site.says(A)
    site.will(A)
    site.wait(1)
    site.answers(A, ip(5))
    before = site.now
    while site.state(A) is not Presence.OFFLINE:
        site.wait(1)
    assert site.now - before == pytest.approx(site.registry.windows.offline(Source.ARP), abs=1)


@pytest.mark.parametrize("seen_s", [SEEN_JUST_NOW_S, None], ids=["long ago", "never"])
def test_a_last_will_of_one_that_nothing_else_sees_ends_its_presence_at_once(site, seen_s):
    if seen_s is not None:
        site.answers(A, ip(5))
        site.wait(seen_s)
    site.says(A)
    site.will(A)
    assert site.state(A) is Presence.OFFLINE
    assert not site.registry.doubts


@pytest.mark.parametrize("before_s", [0, 5])
def test_proof_from_before_the_last_will_does_not_bring_a_device_back(site, before_s):
    site.says(A)
    site.now += 20
    site.will(A)
    site.now += 2
    site.answers(A, ip(5), at=site.now - 2 - before_s)
    site.wait(1)
    assert site.state(A) is Presence.OFFLINE


def test_a_last_will_raises_a_doubt_about_the_address(site):
    site.says(A)
    site.answers(A, ip(5))
    site.now += 1
    site.will(A)
    assert list(site.registry.doubts) == [ip(5)]


def test_only_an_end_raises_it_not_a_return(site):
    site.answers(A, ip(5))
    site.wait(300)
    assert site.state(A) is Presence.IDLE
    site.says(A)
    assert site.state(A) is Presence.ONLINE
    assert not site.registry.doubts


def test_who_is_offline_already_is_not_doubted_by_a_further_will(site):
    site.says(A)
    site.answers(A, ip(5))
    site.will(A)
    site.wait(LEAVING_S)
    assert site.state(A) is Presence.OFFLINE
    site.wait(SEEN_JUST_NOW_S)
    site.registry.doubts.clear()
    site.will(A)
    assert not site.registry.doubts


@pytest.mark.parametrize("after_s, state", [(REBOOT_S, Presence.REBOOTING), (REBOOT_S + 0.1, Presence.ONLINE)])
@pytest.mark.parametrize("source", SCANNED)
def test_one_that_reboots_is_back_when_it_is_seen_well_after_it_went(site, source, after_s, state):
    site.says(A)
    site.says(A, Announced.REBOOTING)
    site.now += after_s
    site.by(source, A)
    assert site.state(A) is state


def test_one_that_reboots_is_back_at_once_when_it_says_so(site):
    site.says(A, Announced.REBOOTING)
    site.now += 2
    site.says(A)
    assert site.state(A) is Presence.ONLINE


def test_one_that_does_not_come_back_from_a_reboot_is_offline_in_time(site):
    site.says(A, Announced.REBOOTING)
    site.answers(A, ip(5))
    site.wait(599)
    assert site.state(A) is Presence.REBOOTING
    site.wait(1)
    assert site.state(A) is Presence.OFFLINE


# Flapping.


def drop(site, mac, times, each_s=20.0):
    """It comes and its session ends, so many times."""
    for _ in range(times):
        site.now += each_s / 2
        site.says(mac)
        site.now += each_s / 2
        site.will(mac)


def test_one_that_keeps_dropping_is_flapping_whichever_it_is_just_now(site):
    drop(site, A, FLAPS - 1)
    assert site.state(A) is Presence.OFFLINE
    drop(site, A, 1)
    assert (site.state(A), site.registry.get(A).state) == (Presence.FLAPPING, Presence.OFFLINE)
    site.says(A)
    assert (site.state(A), site.registry.get(A).state) == (Presence.FLAPPING, Presence.ONLINE)
    assert Presence.FLAPPING in HERE


def test_flapping_is_told_once_and_its_ups_and_downs_no_more(site):
    drop(site, A, FLAPS)
    site.told()
    drop(site, A, 10)
    assert site.told(Kind.STATE) == []


def test_drops_that_are_far_apart_are_no_flapping(site):
    drop(site, A, 20, each_s=FLAPS_WITHIN_S / (FLAPS - 1) + 1)
    assert site.state(A) is Presence.OFFLINE


@pytest.mark.parametrize("ends", [Presence.ONLINE, Presence.OFFLINE])
def test_flapping_is_over_after_a_quiet_time_and_that_is_told(site, ends):
    drop(site, A, FLAPS)
    site.told()
    site.wait(1)
    for _ in range(int(SETTLED_AFTER_S) - 2):
        if ends is Presence.ONLINE:
            site.says(A)
        site.wait(1)
    assert site.state(A) is Presence.FLAPPING
    site.wait(1)
    assert site.state(A) is ends
    assert site.told(Kind.STATE) == [Change(Kind.STATE, A, before=Presence.FLAPPING, after=ends)]


def test_claims_that_are_taken_back_are_no_flapping(site):
    for _ in range(2 * FLAPS):
        site.now += 1
        site.claims(A)
        assert site.state(A) is Presence.CLAIMED
        site.will(A)
    assert site.state(A) is Presence.OFFLINE


def test_after_it_has_settled_drops_count_from_zero(site):
    drop(site, A, FLAPS)
    site.wait(SETTLED_AFTER_S)
    drop(site, A, FLAPS - 1)
    assert site.state(A) is Presence.OFFLINE


# After a restart.


@pytest.mark.parametrize(
    "ago_s, was, state, told",
    [
        (10, Presence.ONLINE, Presence.ONLINE, 0),
        (300, Presence.ONLINE, Presence.IDLE, 1),
        (300, Presence.IDLE, Presence.IDLE, 0),
        (10, Presence.IDLE, Presence.ONLINE, 1),
        (700, Presence.ONLINE, Presence.OFFLINE, 1),
        (None, Presence.ONLINE, Presence.OFFLINE, 0),
        (10, Presence.CLAIMED, Presence.OFFLINE, 0),
        (10, Presence.REBOOTING, Presence.OFFLINE, 0),
        (10, Presence.OFFLINE, Presence.OFFLINE, 0),
    ],
)
def test_a_restored_camera_goes_on_from_where_its_last_sign_of_life_leaves_it(ago_s, was, state, told):
    site = Site(registered=[A])
    alive_at = None if ago_s is None else site.now - ago_s
    site.registry.restore(A, was, alive_at=alive_at, now=site.now)
    assert site.state(A) is state
    changes = site.told(Kind.STATE)
    assert len(changes) == told
    assert all((one.before, one.after, one.registered) == (was, state, True) for one in changes)


def test_a_restored_camera_is_no_claim_but_its_silence_goes_on(site):
    site.registered.add(A)
    site.registry.restore(A, Presence.ONLINE, alive_at=site.now - 100, now=site.now)
    site.claims(A)
    assert site.state(A) is Presence.ONLINE
    site.wait(20)
    assert site.state(A) is Presence.IDLE
    site.wait(480)
    assert site.state(A) is Presence.OFFLINE


# The table stays small.


@pytest.mark.parametrize("source", [*SCANNED, *HINTS, Source.MQTT, "claim", "will", "unasked"])
def test_ten_thousand_invented_macs_leave_the_table_at_its_limit_and_cameras_in_it(source):
    site = Site(registered=[CAMERA, A], max_devices=100)
    site.says(CAMERA)
    site.answers(A, ip(5))
    report = {"claim": site.claims, "will": site.will}
    for number in range(FLOOD):
        site.now += 0.001
        mac, address = invented(number), IPv4Address("10.0.0.1") + number
        if source == "unasked":
            site.shouts(mac, address)
        elif source in report:
            report[source](mac)
        else:
            site.by(source, mac, address)
        site.registry.learn_name(f"cam-{number}", mac) if site.registry.get(mac) else None
    check_inside(site.registry, site.registered)
    assert len(site.registry) <= 100
    assert site.registry.get(CAMERA).shown is Presence.ONLINE
    assert site.registry.address_of(A) == ip(5)
    assert site.registry.evicted == (0 if source == "unasked" else FLOOD - 98)


def test_one_mac_that_answers_for_ten_thousand_addresses_holds_four(site):
    for number in range(FLOOD):
        site.answers(A, IPv4Address("10.0.0.1") + number)
    check_inside(site.registry, ())
    assert len(site.registry.get(A).addresses) == MAX_ADDRESSES


def test_ten_thousand_macs_at_one_address_are_told_as_a_few(site):
    site.registry.max_devices = FLOOD
    macs = [invented(number) for number in range(FLOOD)]
    for mac in macs:
        site.answers(mac, ip(5))
    site.registry.verdict(ip(5), frozenset(macs), site.now)
    assert len(site.registry.claimants(ip(5))) == MAX_CLAIMANTS
    site.registry.verdict(ip(5), frozenset(macs[:1]), site.now)
    check_inside(site.registry, ())


@pytest.mark.parametrize("source", [Source.MQTT, Source.STATION, Source.PROBE])
@pytest.mark.parametrize("weak", [Source.ARP, Source.NEIGHBOUR, Source.LEASE, Source.MDNS, "claim"])
def test_who_cannot_be_invented_so_easily_outlives_a_flood_of_those_who_can(source, weak):
    site = Site(max_devices=100)
    strong = [Mac(f"24:6F:28:00:01:{number:02X}") for number in range(90)]
    for mac in strong:
        site.by(source, mac)
    for number in range(500):
        site.claims(invented(number)) if weak == "claim" else site.by(weak, invented(number))
    assert all(site.registry.get(mac) for mac in strong)


def test_of_equals_the_one_unseen_for_longest_goes_first():
    site = Site(max_devices=3)
    for mac in (A, B, C):
        site.answers(mac, ip(5))
    site.answers(A, ip(5))
    site.answers(CAMERA, ip(5))
    assert [device.mac for device in site.registry] == [A, C, CAMERA]


def test_a_hint_does_not_make_a_device_seen():
    site = Site(max_devices=2)
    site.answers(A, ip(5))
    site.answers(B, ip(6))
    site.leased(A, ip(5))
    site.answers(C, ip(7))
    assert site.registry.get(A) is None


def test_a_weak_stranger_that_speaks_on_mqtt_is_strong_from_then_on():
    site = Site(max_devices=3)
    site.answers(A, ip(5))
    site.says(A)
    site.answers(A, ip(5))
    for number in range(20):
        site.answers(invented(number), ip(10 + number))
    assert site.registry.get(A)


def test_a_stranger_that_is_registered_meanwhile_is_never_evicted():
    site = Site(max_devices=3)
    site.answers(A, ip(5))
    site.registered.add(A)
    for number in range(20):
        site.says(invented(number))
    assert site.registry.get(A)
    assert len(site.registry) == 3


def test_more_cameras_than_the_limit_are_all_kept_and_strangers_still_seen():
    cameras = [Mac(f"24:6F:28:00:02:{number:02X}") for number in range(50)]
    site = Site(registered=cameras, max_devices=16)
    for mac in cameras:
        site.says(mac)
    site.says(A)
    site.says(B)
    assert len(site.registry) == 51
    assert site.registry.get(A) is None
    assert site.registry.get(B)


def test_a_lowered_limit_holds_from_the_next_newcomer_on():
    site = Site(registered=[CAMERA], max_devices=100)
    site.says(CAMERA)
    for number in range(99):
        site.says(invented(number))
    site.registry.max_devices = 10
    site.says(A)
    assert len(site.registry) == 10
    assert site.registry.get(CAMERA)
    assert site.registry.get(A)
    check_inside(site.registry, site.registered)


def test_a_device_that_makes_up_names_keeps_its_first_few(site):
    site.says(A)
    for number in range(100):
        site.registry.learn_name(f"cam-{number}", A)
    assert [number for number in range(100) if site.registry.find(f"cam-{number}")] == list(range(MAX_NAMES))


def test_a_name_stays_with_the_first_until_that_one_is_gone():
    site = Site(max_devices=1)
    site.says(A)
    site.registry.learn_name("cam", A)
    site.says(B)
    assert site.registry.find("cam") is None
    site.registry.learn_name("cam", B)
    assert site.registry.find("cam") == B
    site.registry.learn_name("cam", A)
    assert site.registry.find("cam") == B


def test_doubts_are_bounded_and_asked_in_the_order_in_which_they_came(site):
    for number in range(FLOOD):
        site.registry.doubt(IPv4Address("10.0.0.0") + number)
    assert len(site.registry.doubts) == MAX_DOUBTS
    assert next(iter(site.registry.doubts)) == IPv4Address("10.0.0.0")


def test_a_flood_of_strangers_does_not_drown_what_happens_to_a_camera(site):
    site.registered.add(CAMERA)
    site.says(CAMERA)
    for number in range(FLOOD):
        site.says(invented(number))
    site.will(CAMERA)
    changes = site.told()
    assert len(changes) <= 2 * MAX_CHANGES
    assert [change.after for change in changes if change.mac == CAMERA] == [Presence.ONLINE, Presence.OFFLINE]


def test_what_happened_is_told_once(site):
    site.says(A)
    assert site.told()
    assert site.told() == []


def test_what_happened_is_counted_by_its_kind(site):
    site.says(A)
    site.answers(B, ip(5))
    assert site.registry.counts == {Kind.STATE: 2, Kind.FOUND: 2}


# Forgotten.


@pytest.mark.parametrize("source", [*SCANNED, *HINTS, Source.MQTT, "will"])
def test_a_stranger_that_has_been_away_for_a_day_is_forgotten(site, source):
    site.will(A) if source == "will" else site.by(source, A, ip(5))
    site.registry.learn_name("cam", A)
    site.wait(FORGET_AFTER_S)
    assert site.registry.get(A)
    site.wait(TIDY_S)
    assert site.registry.get(A) is None
    check_inside(site.registry, ())
    assert site.registry.find("cam") is None
    assert site.registry.claimants(ip(5)) == frozenset()
    assert site.registry.evicted == 0


def test_who_is_only_said_to_be_offline_is_not_forgotten_at_once_nor_is_its_name(site):
    site.claims(A, Announced.OFFLINE)
    site.registry.learn_name("cam", A)
    site.wait(FORGET_AFTER_S - 1)
    assert site.state(A) is Presence.OFFLINE
    assert site.registry.find("cam") == A


def test_a_camera_is_never_forgotten():
    site = Site(registered=[A])
    site.answers(A, ip(5))
    site.wait(100 * FORGET_AFTER_S)
    assert site.state(A) is Presence.OFFLINE
    assert site.registry.get(A).address == ip(5)


def test_who_is_here_is_not_forgotten_however_old_its_first_sign(site):
    for _ in range(30):
        site.wait(3600)
        site.answers(A, ip(5))
    assert site.registry.get(A).evidence[Source.ARP].first_at == 1000 + 3600


def test_a_stranger_of_whom_somebody_still_speaks_is_not_forgotten(site):
    site.answers(A, ip(5))
    site.wait(FORGET_AFTER_S / 2)
    site.leased(A, ip(5))
    site.wait(FORGET_AFTER_S / 2 + 10)
    assert site.registry.get(A)


# Alike but not the same.


def test_near_macs_are_shown_and_never_merged(site):
    base = Mac("24:6F:28:00:00:A0")
    soft_ap, bluetooth, ethernet = (Mac(f"24:6F:28:00:00:A{last}") for last in (1, 2, 3))
    for mac, address in ((base, ip(5)), (soft_ap, ip(6)), (ethernet, ip(7)), (Mac("24:6F:28:00:00:A4"), ip(8))):
        site.answers(mac, address)
    assert site.registry.near(base) == [soft_ap, ethernet]
    assert site.registry.near(bluetooth) == [base, soft_ap, ethernet, Mac("24:6F:28:00:00:A4")]
    assert len(site.registry) == 4
    assert site.registry.address_of(base) == ip(5)


def test_a_locally_administered_mac_is_a_device_like_any_other(site):
    local = Mac("DA:A1:19:00:00:01")
    site.answers(local, ip(5))
    assert site.state(local) is Presence.ONLINE
    assert site.registry.address_of(local) == ip(5)
    assert site.told(Kind.FOUND) == [Change(Kind.FOUND, local, ip=ip(5))]


# Cameras that are taken off the record.


def test_who_is_registered_no_more_can_be_forgotten_like_any_stranger():
    site = Site(registered={CAMERA}, max_devices=2)
    site.answers(CAMERA, ip(1))
    site.registered.clear()
    site.registry.estrange(CAMERA)
    for mac in (A, B):
        site.answers(mac, ip(2))
    assert site.registry.get(CAMERA) is None
    assert len(site.registry) == 2


def test_of_whom_only_the_record_spoke_nothing_is_left():
    site = Site(registered={CAMERA})
    site.registry.restore(CAMERA, Presence.OFFLINE, alive_at=None, now=site.now)
    site.registered.clear()
    site.registry.estrange(CAMERA)
    assert site.registry.get(CAMERA) is None
    site.registry.estrange(CAMERA)  # and nobody is nobody


def test_whose_retained_message_still_speaks_stays_known():
    site = Site(registered={CAMERA})
    site.registry.claim(CAMERA, status(CAMERA))
    site.registered.clear()
    site.registry.estrange(CAMERA)
    assert site.registry.get(CAMERA) is not None
