"""The device registry: evidence of each source, presence, bounds of the table."""

from ipaddress import IPv4Address

import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import TRUSTED, Sighting, Source
from pi_orchestrator.features.devices.addresses import MAX_ADDRESSES, MAX_CLAIMANTS, MAX_PROBE_REQUESTS
from pi_orchestrator.features.devices.changes import MAX_CHANGES, Change, Kind
from pi_orchestrator.features.devices.interruptions import LIMIT, SETTLED_AFTER_S, WITHIN_S
from pi_orchestrator.features.devices.model import (
    LEAVING_S,
    NEVER,
    PRESENT_STATES,
    REBOOT_S,
    RECENTLY_SEEN_S,
    Presence,
    Windows,
)
from pi_orchestrator.features.devices.registry import CLEANUP_S, FORGET_AFTER_S, MAX_DEVICE_IDS, DeviceRegistry
from pi_orchestrator.features.devices.status_message import Announced, Status

A, B, C = (Mac(f"24:6F:28:00:00:{last}") for last in ("A0", "B0", "C0"))
CAMERA = Mac("F4:12:FA:00:00:01")
WINDOWS = Windows(idle_after_s=120, offline_after_s=600, scan_interval_s=60)
SCANNED = (Source.ARP, Source.NEIGHBOUR, Source.STATION, Source.PROBE)
HINTS = (Source.LEASE, Source.MDNS)
FLOOD = 10_000


def ip(last):
    return IPv4Address("192.168.10.0") + last


def fake_mac(number):
    """One of many locally administered MACs."""
    return Mac(f"02:00:00:{number >> 16:02X}:{number >> 8 & 0xFF:02X}:{number & 0xFF:02X}")


class Site:
    """A registry with a manual clock, and the sources that report to it."""

    def __init__(self, *, registered=(), max_devices=64, windows=WINDOWS):
        self.registered = set(registered)
        self.registry = DeviceRegistry(registered=self.registered, max_devices=max_devices, windows=windows)
        self.now = 1000.0

    def see(self, mac, source, address=None, *, at=None, **more):
        seen = Sighting(mac, source, self.now if at is None else at, address, **more)
        return self.registry.add_sighting(seen, self.now)

    def answer(self, mac, address, source=Source.ARP, *, at=None):
        """Answer a probe of the address."""
        return self.see(mac, source, address, at=at, binds=True)

    def broadcast(self, mac, address=None):
        """Send an unsolicited ARP frame."""
        return self.see(mac, Source.ARP, address)

    def lease(self, mac, address=None, name=None, source=Source.LEASE):
        return self.see(mac, source, address, alive=False, host_name=name)

    def report_by(self, source, mac, address=None):
        """Report the device by this source."""
        if source is Source.MQTT:
            return self.publish(mac)
        if source is Source.RECORD:
            return self.registry.restore(mac, Presence.ONLINE, alive_at=self.now, now=self.now)
        if source in HINTS:
            return self.lease(mac, address, source=source)
        if source is Source.ARP:
            address = address or ip(250)  # an unknown device must answer for an address
        return self.see(mac, source, address, binds=address is not None and source is not Source.STATION)

    def publish(self, mac, state=Announced.ONLINE, **fields):
        return self.registry.apply_live_status(mac, status(mac, state, **fields), self.now)

    def publish_will(self, mac):
        return self.publish(mac, Announced.OFFLINE)

    def retain(self, mac, state=Announced.ONLINE, **fields):
        return self.registry.apply_retained_status(mac, status(mac, state, **fields))

    def run_probe(self, address, *answering):
        """Probe an address like the scanner: sight the answering devices, then resolve the probe."""
        for mac in answering:
            self.answer(mac, address)
        self.registry.resolve_probe(address, frozenset(answering), self.now)

    def wait(self, seconds):
        self.now += seconds
        self.registry.expire(self.now)

    def state(self, mac):
        """The state as shown: FLAPPING instead of `Device.state`."""
        return self.registry.get(mac).shown

    def drain(self, *kinds):
        """The changes of these kinds since the last call."""
        return [change for change in self.registry.drain() if change.kind in kinds or not kinds]


def status(mac, state=Announced.ONLINE, **fields):
    return Status(**({"topic_id": mac, "mac": mac, "device_id": None, "state": state} | fields))


@pytest.fixture
def site():
    return Site()


def check_bounds(registry, registered):
    """Assert that removed devices leave no data, and that every collection is within its limit."""
    devices = set(registry._devices)
    unregistered = devices - set(registered)
    assert len(unregistered) <= registry.max_devices
    assert set(registry._device_ids) <= devices
    assert set(registry._macs_by_id.values()) <= devices
    assert all(len(ids) <= MAX_DEVICE_IDS for ids in registry._device_ids.values())
    assert sorted(device_id for ids in registry._device_ids.values() for device_id in ids) == sorted(
        registry._macs_by_id
    )
    assert registry.addresses._proxies <= devices
    assert set(registry.addresses._multihomed) <= devices
    assert set(registry.addresses._proved) <= devices
    queued = [mac for queue in registry._queues.values() for mac in queue]
    assert len(queued) == len(set(queued))
    assert unregistered <= set(queued) <= devices
    answering = {
        (mac, address) for address, claimants in registry.addresses._claimants.items() for mac in claimants.answered
    }
    assert answering == {(device.mac, address) for device in registry for address in device.addresses}
    for claimants in registry.addresses._claimants.values():
        assert claimants.answered
        assert len(claimants.contested) <= MAX_CLAIMANTS
        assert len(claimants.contested) != 1, "a conflict has at least two devices"
        assert len(claimants.swaps) <= 8
        assert all(len(macs) <= MAX_CLAIMANTS for _, macs in claimants.swaps)
    for device in registry:
        assert len(device.addresses) <= MAX_ADDRESSES
        assert (device.address in device.addresses) if device.addresses else (device.address is None)
        assert len(device.evidence) <= len(Source)
    assert len(registry.probe_requests) <= MAX_PROBE_REQUESTS
    assert len(registry._changes) <= 2 * MAX_CHANGES


# Evidence by source.


def test_source_has_own_first_and_last_time(site):
    site.see(A, Source.STATION, rssi_dbm=-61)
    site.now += 5
    site.answer(A, ip(5))
    site.now += 5
    site.see(A, Source.STATION, rssi_dbm=-70)
    evidence = site.registry.get(A).evidence
    times = {source: (entry.first_at, entry.last_at, entry.alive_at) for source, entry in evidence.items()}
    assert times == {Source.STATION: (1000, 1010, 1010), Source.ARP: (1005, 1005, 1005)}
    assert evidence[Source.STATION].rssi_dbm == -70
    assert evidence[Source.ARP].ip == ip(5)


def test_message_is_evidence(site):
    site.publish(A, rssi_dbm=-50)
    site.now += 30
    site.publish(A, rssi_dbm=-55)
    evidence = site.registry.get(A).evidence[Source.MQTT]
    assert (evidence.first_at, evidence.last_at, evidence.alive_at, evidence.rssi_dbm) == (1000, 1030, 1030, -55)


def test_detail_missing_in_later_sighting_is_kept(site):
    site.see(A, Source.LEASE, ip(5), alive=False, host_name="esp32", detail="given")
    site.see(A, Source.LEASE, alive=False)
    evidence = site.registry.get(A).evidence[Source.LEASE]
    assert (evidence.ip, evidence.host_name, evidence.detail) == (ip(5), "esp32", "given")


def test_late_sighting_counts_as_life_only(site):
    site.see(A, Source.NEIGHBOUR, ip(5), alive=False, detail="in the neighbour table")
    site.see(A, Source.NEIGHBOUR, ip(6), at=site.now - 10, detail="older")
    evidence = site.registry.get(A).evidence[Source.NEIGHBOUR]
    assert (evidence.last_at, evidence.ip, evidence.detail) == (1000, ip(5), "in the neighbour table")
    assert evidence.alive_at == 990


@pytest.mark.parametrize("source", [*SCANNED, Source.MQTT])
def test_trusted_source_brings_device_online(site, source):
    site.report_by(source, A)
    assert site.state(A) is Presence.ONLINE
    assert site.registry.get(A).alive_at == site.now


@pytest.mark.parametrize("source", HINTS)
@pytest.mark.parametrize("alive", [False, True])
def test_lease_or_name_proves_no_life(site, source, alive):
    site.see(A, source, ip(5), alive=alive, host_name="esp32-cam")
    device = site.registry.get(A)
    assert device.shown is Presence.OFFLINE
    assert device.alive_at is None
    assert device.evidence[source].alive_at == NEVER
    assert device.evidence[source].host_name == "esp32-cam"


def test_every_source_is_trusted_or_hint():
    assert TRUSTED.isdisjoint(HINTS)
    assert TRUSTED.union(HINTS) == set(Source)


def test_device_of_stale_kernel_entry_is_added_offline(site):
    site.see(A, Source.NEIGHBOUR, ip(5), alive=False)
    assert site.state(A) is Presence.OFFLINE
    assert site.registry.get(A).address is None


def test_unsolicited_frame_of_unknown_device_requests_probe(site):
    assert site.broadcast(A, ip(5)) is None
    assert len(site.registry) == 0
    assert list(site.registry.probe_requests) == [ip(5)]
    assert site.drain() == []


def test_unknown_frame_without_address_is_ignored(site):
    assert site.broadcast(A) is None
    assert (len(site.registry), list(site.registry.probe_requests)) == (0, [])


def test_unknown_device_that_answers_is_admitted(site):
    site.broadcast(A, ip(5))
    site.run_probe(ip(5), A)
    assert site.state(A) is Presence.ONLINE
    assert site.registry.address_of(A) == ip(5)
    assert not site.registry.probe_requests


def test_unsolicited_frame_proves_life_not_address(site):
    site.answer(A, ip(5))
    site.wait(400)
    assert site.state(A) is Presence.IDLE
    site.broadcast(A, ip(6))
    assert site.state(A) is Presence.ONLINE
    assert site.registry.address_of(A) == ip(5)
    assert list(site.registry.probe_requests) == [ip(6)]


def test_unsolicited_frame_from_known_address_needs_no_probe(site):
    site.answer(A, ip(5))
    site.broadcast(A, ip(5))
    assert not site.registry.probe_requests


def test_report_increases_revision(site):
    seen = [site.registry.revision]
    for report in (
        lambda: site.publish(A),
        lambda: site.retain(B),
        lambda: site.answer(A, ip(5)),
        lambda: site.run_probe(ip(5)),
        lambda: site.wait(10_000),
        lambda: site.wait(FORGET_AFTER_S),
    ):
        report()
        seen.append(site.registry.revision)
    assert sorted(set(seen)) == seen


# Found devices.


@pytest.mark.parametrize("source", [*SCANNED, Source.MQTT])
def test_unregistered_device_is_found_once(site, source):
    site.report_by(source, A)
    site.report_by(source, A)
    assert [change.mac for change in site.drain(Kind.FOUND)] == [A]


@pytest.mark.parametrize("first", [*HINTS, "claim", "will"])
@pytest.mark.parametrize("then", [Source.ARP, Source.MQTT])
def test_hinted_device_is_found_when_alive(site, first, then):
    known_by = {"claim": lambda: site.retain(A), "will": lambda: site.publish_will(A)}
    known_by.get(first, lambda: site.report_by(first, A))()
    assert site.drain(Kind.FOUND) == []
    site.now += 1
    site.report_by(then, A)
    assert [change.mac for change in site.drain(Kind.FOUND)] == [A]


@pytest.mark.parametrize("source", [Source.ARP, Source.MQTT])
def test_registered_camera_is_not_found(source):
    site = Site(registered=[A])
    site.report_by(source, A)
    assert site.drain(Kind.FOUND) == []


def test_found_change_has_known_address(site):
    site.answer(A, ip(5))
    assert site.drain(Kind.FOUND) == [Change(Kind.FOUND, A, ip=ip(5))]


# Presence from all sources.


def test_camera_ignoring_scans_stays_online_by_mqtt(site):
    site.answer(A, ip(5))
    for _ in range(120):
        site.wait(60)
        site.publish(A)
        assert site.state(A) is Presence.ONLINE
    assert site.drain(Kind.STATE) == [Change(Kind.STATE, A, before=Presence.OFFLINE, after=Presence.ONLINE)]


def test_camera_silent_on_mqtt_stays_online_by_scans(site):
    site.publish(A)
    for _ in range(60):
        site.wait(60)
        site.answer(A, ip(5))
        assert site.state(A) is Presence.ONLINE


@pytest.mark.parametrize("source", SCANNED)
@pytest.mark.parametrize("interval_s, idle_s, offline_s", [(20, 120, 600), (60, 150, 600), (300, 750, 1200)])
def test_window_of_scanned_source_is_several_scan_intervals(source, interval_s, idle_s, offline_s):
    site = Site(windows=Windows(120, 600, interval_s))
    site.report_by(source, A)
    states = []
    for until in (idle_s - 1, idle_s, offline_s - 1, offline_s):
        site.wait(1000 + until - site.now)
        states.append(site.state(A))
    assert states == [Presence.ONLINE, Presence.IDLE, Presence.IDLE, Presence.OFFLINE]


@pytest.mark.parametrize("interval_s", [5, 60, 600, 3600])
def test_one_missed_scan_changes_nothing(interval_s):
    site = Site(windows=Windows(120, 600, interval_s))
    site.answer(A, ip(5))
    site.wait(2 * interval_s)
    assert site.state(A) is Presence.ONLINE


@pytest.mark.parametrize("interval_s", [60, 3600])
def test_mqtt_window_ignores_scan_interval(interval_s):
    site = Site(windows=Windows(120, 600, interval_s))
    site.publish(A)
    site.wait(120)
    assert site.state(A) is Presence.IDLE
    site.wait(480)
    assert site.state(A) is Presence.OFFLINE


def test_changed_windows_count_immediately(site):
    site.publish(A)
    site.registry.windows = Windows(10, 20)
    site.wait(15)
    assert site.state(A) is Presence.IDLE


def test_change_records_registration_at_that_time(site):
    site.publish(A)
    site.registered.add(A)
    site.wait(200)
    assert [change.registered for change in site.drain(Kind.STATE)] == [False, True]


# Claims.


def test_retained_claim_alone_stays_claimed(site):
    site.retain(A, ip="192.168.10.5")
    for _ in range(3):
        site.wait(3600)
        site.retain(A)
    assert site.state(A) is Presence.CLAIMED
    assert site.registry.address_of(A) is None


@pytest.mark.parametrize("source", HINTS)
def test_hint_does_not_confirm_claim(site, source):
    site.retain(A)
    site.report_by(source, A, ip(5))
    site.wait(1)
    assert site.state(A) is Presence.CLAIMED


@pytest.mark.parametrize("source", [*SCANNED, Source.MQTT])
def test_proved_claim_comes_online(site, source):
    site.retain(A)
    site.drain()
    site.report_by(source, A)
    assert site.drain(Kind.STATE) == [Change(Kind.STATE, A, before=Presence.CLAIMED, after=Presence.ONLINE)]


def test_claim_does_not_reset_present_device(site):
    site.answer(A, ip(5))
    site.retain(A, firmware_version="1.4.2")
    device = site.registry.get(A)
    assert device.shown is Presence.ONLINE
    assert device.is_camera
    assert device.claims.firmware_version == "1.4.2"


def test_claim_does_not_revive_restored_camera():
    site = Site(registered=[A])
    site.registry.restore(A, Presence.ONLINE, alive_at=site.now - 700, now=site.now)
    site.retain(A)
    assert site.state(A) is Presence.OFFLINE
    assert site.registry.get(A).claims is None


def test_old_proof_does_not_confirm_claim(site):
    site.retain(A)
    site.see(A, Source.NEIGHBOUR, ip(5), at=site.now - 300)
    assert site.state(A) is Presence.CLAIMED


# Last wills and reboots.


@pytest.mark.parametrize("source", [*SCANNED, Source.MQTT])
def test_last_will_ends_presence_until_proof(site, source):
    site.publish(A)
    site.answer(A, ip(5))
    site.now += 1
    site.publish_will(A)
    assert list(site.registry.probe_requests) == [ip(5)]
    site.wait(LEAVING_S)
    assert site.state(A) is Presence.OFFLINE
    site.wait(1)
    assert site.state(A) is Presence.OFFLINE
    site.report_by(source, A)
    assert site.state(A) is Presence.ONLINE


def test_last_will_ends_presence_when_checked_each_second(site):
    site.publish(A)
    site.answer(A, ip(5))
    site.now += 1
    site.publish_will(A)
    for _ in range(int(LEAVING_S)):
        assert site.state(A) is Presence.ONLINE
        site.wait(1)
    assert site.state(A) is Presence.OFFLINE


def test_last_will_of_seen_device_requests_probe(site):
    site.publish(A)
    site.answer(A, ip(5))
    site.now += 1
    site.registry.drain()
    site.publish_will(A)
    assert site.state(A) is Presence.ONLINE
    site.wait(LEAVING_S - 1)
    site.answer(A, ip(5))  # the probe was answered
    for _ in range(10):
        site.wait(60)
        site.answer(A, ip(5))
    assert site.state(A) is Presence.ONLINE
    assert site.registry.drain() == []


def test_ended_mqtt_session_is_no_evidence_later(site):
    site.answer(A, ip(5))
    site.wait(100)
    site.publish(A)
    site.publish_will(A)
    site.wait(1)
    site.answer(A, ip(5))
    before = site.now
    while site.state(A) is not Presence.OFFLINE:
        site.wait(1)
    assert site.now - before == pytest.approx(site.registry.windows.offline(Source.ARP), abs=1)


@pytest.mark.parametrize("seen_s", [RECENTLY_SEEN_S, None], ids=["long_ago", "never"])
def test_last_will_of_unseen_device_counts_immediately(site, seen_s):
    if seen_s is not None:
        site.answer(A, ip(5))
        site.wait(seen_s)
    site.publish(A)
    site.publish_will(A)
    assert site.state(A) is Presence.OFFLINE
    assert not site.registry.probe_requests


@pytest.mark.parametrize("before_s", [0, 5])
def test_proof_before_last_will_does_not_count(site, before_s):
    site.publish(A)
    site.now += 20
    site.publish_will(A)
    site.now += 2
    site.answer(A, ip(5), at=site.now - 2 - before_s)
    site.wait(1)
    assert site.state(A) is Presence.OFFLINE


def test_last_will_requests_probe_of_address(site):
    site.publish(A)
    site.answer(A, ip(5))
    site.now += 1
    site.publish_will(A)
    assert list(site.registry.probe_requests) == [ip(5)]


def test_return_requests_no_probe(site):
    site.answer(A, ip(5))
    site.wait(300)
    assert site.state(A) is Presence.IDLE
    site.publish(A)
    assert site.state(A) is Presence.ONLINE
    assert not site.registry.probe_requests


def test_probe_answered_before_last_will_is_repeated(site):
    """A probe answered before the last will must not complete the probe request of the will."""
    site.publish(A)
    site.answer(A, ip(5))
    site.now += 0.1
    site.publish_will(A)
    site.registry.resolve_probe(ip(5), frozenset({A}), site.now)
    assert list(site.registry.probe_requests) == [ip(5)]
    site.now += 2
    site.run_probe(ip(5), A)
    assert not site.registry.probe_requests
    site.wait(LEAVING_S)
    assert site.state(A) is Presence.ONLINE


def test_further_will_of_offline_device_requests_no_probe(site):
    site.publish(A)
    site.answer(A, ip(5))
    site.publish_will(A)
    site.wait(LEAVING_S)
    assert site.state(A) is Presence.OFFLINE
    site.wait(RECENTLY_SEEN_S)
    site.registry.probe_requests.clear()
    site.publish_will(A)
    assert not site.registry.probe_requests


@pytest.mark.parametrize("after_s, state", [(REBOOT_S, Presence.REBOOTING), (REBOOT_S + 0.1, Presence.ONLINE)])
@pytest.mark.parametrize("source", SCANNED)
def test_rebooting_device_is_back_when_seen_later(site, source, after_s, state):
    site.publish(A)
    site.publish(A, Announced.REBOOTING)
    site.now += after_s
    site.report_by(source, A)
    assert site.state(A) is state


def test_rebooting_device_is_back_on_own_report(site):
    site.publish(A, Announced.REBOOTING)
    site.now += 2
    site.publish(A)
    assert site.state(A) is Presence.ONLINE


def test_reboot_without_return_ends_offline(site):
    site.publish(A, Announced.REBOOTING)
    site.answer(A, ip(5))
    site.wait(599)
    assert site.state(A) is Presence.REBOOTING
    site.wait(1)
    assert site.state(A) is Presence.OFFLINE


# Flapping.


def drop(site, mac, times, each_s=20.0):
    """Connect and disconnect the device `times` times."""
    for _ in range(times):
        site.now += each_s / 2
        site.publish(mac)
        site.now += each_s / 2
        site.publish_will(mac)


def test_repeated_drops_are_flapping(site):
    drop(site, A, LIMIT - 1)
    assert site.state(A) is Presence.OFFLINE
    drop(site, A, 1)
    assert (site.state(A), site.registry.get(A).state) == (Presence.FLAPPING, Presence.OFFLINE)
    site.publish(A)
    assert (site.state(A), site.registry.get(A).state) == (Presence.FLAPPING, Presence.ONLINE)
    assert Presence.FLAPPING in PRESENT_STATES


def test_flapping_is_reported_once(site):
    drop(site, A, LIMIT)
    site.drain()
    drop(site, A, 10)
    assert site.drain(Kind.STATE) == []


def test_rare_drops_are_not_flapping(site):
    drop(site, A, 20, each_s=WITHIN_S / (LIMIT - 1) + 1)
    assert site.state(A) is Presence.OFFLINE


@pytest.mark.parametrize("ends", [Presence.ONLINE, Presence.OFFLINE])
def test_flapping_ends_after_quiet_time(site, ends):
    drop(site, A, LIMIT)
    site.drain()
    site.wait(1)
    for _ in range(int(SETTLED_AFTER_S) - 2):
        if ends is Presence.ONLINE:
            site.publish(A)
        site.wait(1)
    assert site.state(A) is Presence.FLAPPING
    site.wait(1)
    assert site.state(A) is ends
    assert site.drain(Kind.STATE) == [Change(Kind.STATE, A, before=Presence.FLAPPING, after=ends)]


def test_withdrawn_claims_are_not_flapping(site):
    for _ in range(2 * LIMIT):
        site.now += 1
        site.retain(A)
        assert site.state(A) is Presence.CLAIMED
        site.publish_will(A)
    assert site.state(A) is Presence.OFFLINE


def test_drops_count_from_zero_after_settling(site):
    drop(site, A, LIMIT)
    site.wait(SETTLED_AFTER_S)
    drop(site, A, LIMIT - 1)
    assert site.state(A) is Presence.OFFLINE


# After a restart.


@pytest.mark.parametrize(
    "ago_s, was, state, change_count",
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
def test_restored_camera_continues_its_silence(ago_s, was, state, change_count):
    site = Site(registered=[A])
    alive_at = None if ago_s is None else site.now - ago_s
    site.registry.restore(A, was, alive_at=alive_at, now=site.now)
    assert site.state(A) is state
    changes = site.drain(Kind.STATE)
    assert len(changes) == change_count
    assert all((change.before, change.after, change.registered) == (was, state, True) for change in changes)


def test_restored_camera_is_not_claimed(site):
    site.registered.add(A)
    site.registry.restore(A, Presence.ONLINE, alive_at=site.now - 100, now=site.now)
    site.retain(A)
    assert site.state(A) is Presence.ONLINE
    site.wait(20)
    assert site.state(A) is Presence.IDLE
    site.wait(480)
    assert site.state(A) is Presence.OFFLINE


# Bounds of the table.


@pytest.mark.parametrize("source", [*SCANNED, *HINTS, Source.MQTT, "claim", "will", "unsolicited"])
def test_flood_of_macs_keeps_limit_and_cameras(source):
    site = Site(registered=[CAMERA, A], max_devices=100)
    site.publish(CAMERA)
    site.answer(A, ip(5))
    report = {"claim": site.retain, "will": site.publish_will}
    for number in range(FLOOD):
        site.now += 0.001
        mac, address = fake_mac(number), IPv4Address("10.0.0.1") + number
        if source == "unsolicited":
            site.broadcast(mac, address)
        elif source in report:
            report[source](mac)
        else:
            site.report_by(source, mac, address)
        if site.registry.get(mac):
            site.registry.learn_device_id(f"cam-{number}", mac)
    check_bounds(site.registry, site.registered)
    assert len(site.registry) <= 100
    assert site.registry.get(CAMERA).shown is Presence.ONLINE
    assert site.registry.address_of(A) == ip(5)
    assert site.registry.evicted == (0 if source == "unsolicited" else FLOOD - 98), "100 fit, two are the cameras"


def test_mac_with_many_addresses_holds_four(site):
    for number in range(FLOOD):
        site.answer(A, IPv4Address("10.0.0.1") + number)
    check_bounds(site.registry, ())
    assert len(site.registry.get(A).addresses) == MAX_ADDRESSES


def test_many_claimants_are_reported_bounded(site):
    site.registry.max_devices = FLOOD
    macs = [fake_mac(number) for number in range(FLOOD)]
    for mac in macs:
        site.answer(mac, ip(5))
    site.registry.resolve_probe(ip(5), frozenset(macs), site.now)
    assert len(site.registry.claimants(ip(5))) == MAX_CLAIMANTS
    site.registry.resolve_probe(ip(5), frozenset(macs[:1]), site.now)
    check_bounds(site.registry, ())


@pytest.mark.parametrize("source", [Source.MQTT, Source.STATION, Source.PROBE])
@pytest.mark.parametrize("weak", [Source.ARP, Source.NEIGHBOUR, Source.LEASE, Source.MDNS, "claim"])
def test_strong_evidence_outlives_flood(source, weak):
    site = Site(max_devices=100)
    is_even = (source, weak) == (Source.MQTT, Source.ARP)  # these two share the table equally
    strong = [Mac(f"24:6F:28:00:01:{number:02X}") for number in range(45 if is_even else 90)]
    for mac in strong:
        site.report_by(source, mac)
    for number in range(500):
        site.retain(fake_mac(number)) if weak == "claim" else site.report_by(weak, fake_mac(number))
    assert all(site.registry.get(mac) for mac in strong)


@pytest.mark.parametrize("has_published", [False, True])
def test_answered_arp_outlives_flood_of_messages(has_published):
    """Anybody who reaches the broker can invent MACs; only a device on the camera network answers."""
    site = Site(max_devices=100)
    proven = [Mac(f"24:6F:28:00:01:{number:02X}") for number in range(25)]
    for number, mac in enumerate(proven):
        site.answer(mac, ip(5 + number))
        if has_published:
            site.publish(mac)
    for number in range(500):
        site.publish(fake_mac(number))
    assert all(site.registry.is_proven(mac, site.now) for mac in proven)
    check_bounds(site.registry, ())


def test_devices_that_answer_get_half_of_a_table_full_of_messages():
    site = Site(max_devices=100)
    for number in range(500):
        site.publish(fake_mac(number))
    proven = [Mac(f"24:6F:28:00:01:{number:02X}") for number in range(50)]
    for number, mac in enumerate(proven):
        site.answer(mac, ip(5 + number))
    assert all(site.registry.get(mac) for mac in proven)


def test_device_unseen_longest_is_evicted_first():
    site = Site(max_devices=3)
    for mac in (A, B, C):
        site.answer(mac, ip(5))
    site.answer(A, ip(5))
    site.answer(CAMERA, ip(5))
    assert [device.mac for device in site.registry] == [A, C, CAMERA]


def test_hint_does_not_refresh_device():
    site = Site(max_devices=2)
    site.answer(A, ip(5))
    site.answer(B, ip(6))
    site.lease(A, ip(5))
    site.answer(C, ip(7))
    assert site.registry.get(A) is None


def test_mqtt_makes_weak_device_strong():
    site = Site(max_devices=3)
    site.answer(A, ip(5))
    site.publish(A)
    site.answer(A, ip(5))
    for number in range(20):
        site.answer(fake_mac(number), ip(10 + number))
    assert site.registry.get(A)


def test_registered_device_is_never_evicted():
    site = Site(max_devices=3)
    site.answer(A, ip(5))
    site.registered.add(A)
    for number in range(20):
        site.publish(fake_mac(number))
    assert site.registry.get(A)
    assert len(site.registry) == 3


def test_more_cameras_than_limit_are_all_stored():
    cameras = [Mac(f"24:6F:28:00:02:{number:02X}") for number in range(50)]
    site = Site(registered=cameras, max_devices=16)
    for mac in cameras:
        site.publish(mac)
    site.publish(A)
    site.publish(B)
    assert len(site.registry) == 51
    assert site.registry.get(A) is None
    assert site.registry.get(B)


def test_lowered_limit_applies_to_next_device():
    site = Site(registered=[CAMERA], max_devices=100)
    site.publish(CAMERA)
    for number in range(99):
        site.publish(fake_mac(number))
    site.registry.max_devices = 10
    site.publish(A)
    assert len(site.registry) == 10
    assert site.registry.get(CAMERA)
    assert site.registry.get(A)
    check_bounds(site.registry, site.registered)


def test_device_ids_per_device_are_bounded(site):
    site.publish(A)
    for number in range(100):
        site.registry.learn_device_id(f"cam-{number}", A)
    assert [number for number in range(100) if site.registry.mac_of(f"cam-{number}")] == list(range(MAX_DEVICE_IDS))


def test_device_id_stays_with_first_device():
    site = Site(max_devices=1)
    site.publish(A)
    site.registry.learn_device_id("cam", A)
    site.publish(B)
    assert site.registry.mac_of("cam") is None
    site.registry.learn_device_id("cam", B)
    assert site.registry.mac_of("cam") == B
    site.registry.learn_device_id("cam", A)
    assert site.registry.mac_of("cam") == B


def test_probe_requests_are_bounded_and_ordered(site):
    for number in range(FLOOD):
        site.registry.request_probe(IPv4Address("10.0.0.0") + number)
    assert len(site.registry.probe_requests) == MAX_PROBE_REQUESTS
    assert next(iter(site.registry.probe_requests)) == IPv4Address("10.0.0.0")


def test_flood_does_not_drop_camera_changes(site):
    site.registered.add(CAMERA)
    site.publish(CAMERA)
    for number in range(FLOOD):
        site.publish(fake_mac(number))
    site.publish_will(CAMERA)
    changes = site.drain()
    assert len(changes) <= 2 * MAX_CHANGES
    assert [change.after for change in changes if change.mac == CAMERA] == [Presence.ONLINE, Presence.OFFLINE]


def test_change_is_drained_once(site):
    site.publish(A)
    assert site.drain()
    assert site.drain() == []


def test_changes_are_counted_by_kind(site):
    site.publish(A)
    site.answer(B, ip(5))
    assert site.registry.counts == {Kind.STATE: 2, Kind.FOUND: 2}


# Removal of devices.


@pytest.mark.parametrize("source", [*SCANNED, *HINTS, Source.MQTT, "will"])
def test_device_offline_for_a_day_is_removed(site, source):
    site.publish_will(A) if source == "will" else site.report_by(source, A, ip(5))
    site.registry.learn_device_id("cam", A)
    site.wait(FORGET_AFTER_S)
    assert site.registry.get(A)
    site.wait(CLEANUP_S)
    assert site.registry.get(A) is None
    check_bounds(site.registry, ())
    assert site.registry.mac_of("cam") is None
    assert site.registry.claimants(ip(5)) == frozenset()
    assert site.registry.evicted == 0


def test_device_with_offline_claim_is_not_removed(site):
    site.retain(A, Announced.OFFLINE)
    site.registry.learn_device_id("cam", A)
    site.wait(FORGET_AFTER_S - 1)
    assert site.state(A) is Presence.OFFLINE
    assert site.registry.mac_of("cam") == A


def test_camera_is_never_removed():
    site = Site(registered=[A])
    site.answer(A, ip(5))
    site.wait(100 * FORGET_AFTER_S)
    assert site.state(A) is Presence.OFFLINE
    assert site.registry.get(A).address == ip(5)


def test_present_device_is_never_removed(site):
    for _ in range(30):
        site.wait(3600)
        site.answer(A, ip(5))
    assert site.registry.get(A).evidence[Source.ARP].first_at == 1000 + 3600


def test_hinted_device_is_not_removed(site):
    site.answer(A, ip(5))
    site.wait(FORGET_AFTER_S / 2)
    site.lease(A, ip(5))
    site.wait(FORGET_AFTER_S / 2 + 10)
    assert site.registry.get(A)


# MACs of one chip, and local MACs.


def test_macs_of_same_chip_are_listed_not_merged(site):
    base = Mac("24:6F:28:00:00:A0")
    soft_ap, bluetooth, ethernet = (Mac(f"24:6F:28:00:00:A{last}") for last in (1, 2, 3))
    for mac, address in ((base, ip(5)), (soft_ap, ip(6)), (ethernet, ip(7)), (Mac("24:6F:28:00:00:A4"), ip(8))):
        site.answer(mac, address)
    assert site.registry.same_chip_candidates(base) == [soft_ap, ethernet]
    assert site.registry.same_chip_candidates(bluetooth) == [base, soft_ap, ethernet, Mac("24:6F:28:00:00:A4")]
    assert len(site.registry) == 4
    assert site.registry.address_of(base) == ip(5)


def test_locally_administered_mac_is_a_device(site):
    local = Mac("DA:A1:19:00:00:01")
    site.answer(local, ip(5))
    assert site.state(local) is Presence.ONLINE
    assert site.registry.address_of(local) == ip(5)
    assert site.drain(Kind.FOUND) == [Change(Kind.FOUND, local, ip=ip(5))]


# Unregistered cameras.


def test_unregistered_camera_can_be_evicted():
    site = Site(registered={CAMERA}, max_devices=2)
    site.answer(CAMERA, ip(1))
    site.registered.clear()
    site.registry.release(CAMERA)
    for mac in (A, B):
        site.answer(mac, ip(2))
    assert site.registry.get(CAMERA) is None
    assert len(site.registry) == 2


def test_unregistered_camera_without_evidence_is_removed():
    site = Site(registered={CAMERA})
    site.registry.restore(CAMERA, Presence.OFFLINE, alive_at=None, now=site.now)
    site.registered.clear()
    site.registry.release(CAMERA)
    assert site.registry.get(CAMERA) is None
    site.registry.release(CAMERA)  # twice is harmless


def test_unregistered_camera_with_claim_is_kept():
    site = Site(registered={CAMERA})
    site.registry.apply_retained_status(CAMERA, status(CAMERA))
    site.registered.clear()
    site.registry.release(CAMERA)
    assert site.registry.get(CAMERA) is not None
