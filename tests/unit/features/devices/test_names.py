"""Which MAC publishes on which topic and under which device id: conflicts, second topics, bounds."""

import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.changes import Kind
from pi_orchestrator.features.devices.model import NEVER, Windows
from pi_orchestrator.features.devices.name_checks import CHECK_INTERVAL_S, MAX_CHECKS, REPEAT_S
from pi_orchestrator.features.devices.names import (
    MAX_RIVALS,
    MAX_SHARERS,
)
from pi_orchestrator.features.devices.publishers import NAMES_KEPT_S, SOLE_PUBLISHER_S, IdConflict
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.status_message import Announced, Status

A, B, C = (Mac(f"24:6F:28:04:00:{last}") for last in ("04", "08", "0C"))
SILENT_S = 600.0
SHARED = "camera/status/esp32cam"


class Site:
    """A registry with a manual clock."""

    def __init__(self, *, max_devices=64):
        self.registry = DeviceRegistry(
            registered=set(), max_devices=max_devices, windows=Windows(idle_after_s=120, offline_after_s=SILENT_S)
        )
        self.now = 1000.0

    @property
    def names(self):
        return self.registry.names

    def publish(self, mac, topic=SHARED, *, state=Announced.ONLINE, recorded_id=None, recorded_topic=None, **fields):
        """Publish a status message with the `mac` field; returns whether it was applied."""
        topic_id = topic.split("/")[3 if topic.startswith("delicasa") else 2]
        defaults = {"device_id": None, "has_mac": True, "topic": topic}
        status = Status(topic_id=topic_id, mac=mac, state=state, **(defaults | fields))
        applied = self.registry.apply_live_status(
            mac, status, self.now, recorded_id=recorded_id, recorded_topic=recorded_topic
        )
        return applied is not None

    def will(self, mac, topic=SHARED):
        return self.publish(mac, topic, state=Announced.OFFLINE)

    def wait(self, seconds):
        self.now += seconds
        self.registry.expire(self.now)

    def conflict_events(self):
        kinds = (Kind.ID_CONFLICT, Kind.ID_CONFLICT_OVER)
        return [
            (change.kind, change.device_id, change.topic, change.macs)
            for change in self.registry.drain()
            if change.kind in kinds
        ]

    def are_blocked(self, *macs):
        return [self.names.command_block_reason(mac) is not None for mac in macs]


@pytest.fixture
def site():
    return Site()


# Shared ids.


def test_shared_topic_is_conflict_once(site):
    for _ in range(3):
        assert site.publish(A)
        assert site.publish(B)
    assert site.names.conflicts() == [IdConflict("esp32cam", SHARED, (A, B))]
    assert site.are_blocked(A, B) == [True, True]
    assert site.conflict_events() == [(Kind.ID_CONFLICT, "esp32cam", SHARED, (A, B))]
    assert site.names.conflicts()[0].reason == "two cameras share the id esp32cam: flash different ids"


def test_shared_id_on_own_topics_blocks_no_command(site):
    site.publish(A, f"camera/status/{A}", device_id="esp32cam")
    site.publish(B, f"camera/status/{B}", device_id="esp32cam")
    assert site.conflict_events() == [(Kind.ID_CONFLICT, "esp32cam", None, (A, B))]
    assert site.are_blocked(A, B) == [False, False]
    assert site.names.sharers("esp32cam") == (A, B)
    assert site.registry.mac_of("esp32cam") is None


def test_conflict_ends_when_one_is_silent(site):
    site.publish(A)
    site.publish(B)
    site.wait(SILENT_S - 1)
    site.publish(B)
    assert site.are_blocked(A, B) == [True, True]
    site.wait(1)
    assert site.are_blocked(A, B) == [False, False]
    assert [kind for kind, *_ in site.conflict_events()] == [Kind.ID_CONFLICT, Kind.ID_CONFLICT_OVER]
    assert site.registry.mac_of("esp32cam") == B


def test_conflict_ends_after_last_will(site):
    site.publish(A)
    site.publish(B)
    site.will(A)
    site.wait(NAMES_KEPT_S - 1)
    assert site.are_blocked(B) == [True]
    site.wait(1)
    assert site.are_blocked(B) == [False]


def test_returning_camera_is_conflict_again(site):
    site.publish(A)
    site.publish(B)
    site.will(A)
    site.wait(NAMES_KEPT_S)
    site.publish(A)
    assert site.are_blocked(A, B) == [True, True]


def test_conflict_ends_when_one_has_other_id(site):
    site.publish(A)
    site.publish(B)
    site.will(B)
    site.publish(B, "camera/status/cam-2", device_id="cam-2")
    assert site.names.conflicts() == []
    assert site.are_blocked(A, B) == [False, False]


def test_conflict_that_repeats_is_reported_rarely(site):
    site.publish(A)
    for _ in range(20):
        site.publish(B)
        site.will(B)
        site.wait(NAMES_KEPT_S)
        site.publish(A)
    assert len(site.conflict_events()) <= 2 * (20 * NAMES_KEPT_S / REPEAT_S + 1)


def test_many_macs_on_a_topic_are_bounded(site):
    macs = [Mac(f"02:00:00:00:00:{number:02X}") for number in range(2 * MAX_SHARERS)]
    for mac in macs:
        site.publish(mac)
    assert site.are_blocked(*macs) == [True] * len(macs)
    assert len(site.names.conflicts()[0].macs) == MAX_SHARERS
    assert len(site.conflict_events()) == 1
    site.wait(SILENT_S - 1)
    site.publish(macs[-1])
    site.wait(1)
    assert site.are_blocked(macs[-1]) == [False]


def test_two_spellings_in_one_session_are_contested(site):
    """A camera subscribes to one spelling only: another client may use the other one."""
    site.publish(A, f"camera/status/{A}", recorded_id=A)
    for topic_id in (A.replace(":", ""), A.lower(), A.replace(":", "_")):
        assert not site.publish(A, f"camera/status/{topic_id}", recorded_id=A)
    assert site.names.topic_of(A) == f"camera/status/{A}"
    assert site.are_blocked(A) == [True]
    assert [conflict.macs for conflict in site.names.conflicts()] == [(A,)]


def test_spelling_may_change_with_the_session(site):
    """The last will may spell the MAC in another way than the status."""
    old, new = f"camera/status/{A.replace(':', '').lower()}", f"camera/status/{A}"
    site.publish(A, old, recorded_id=A)
    site.will(A, new)
    for _ in range(5):
        assert site.publish(A, new, recorded_id=A)
        site.wait(SOLE_PUBLISHER_S / 4)
    assert (site.names.topic_of(A), site.are_blocked(A)) == (new, [False])
    assert site.names.conflicts() == []


def test_other_spelling_after_forged_last_will_does_not_replace_topic(site):
    own, evil = f"camera/status/{A}", f"camera/status/{A.replace(':', '_')}"
    site.publish(A, own, recorded_id=A)
    site.will(A, own)
    site.publish(A, evil, recorded_id=A)
    assert site.are_blocked(A) == [True]
    assert site.publish(A, own, recorded_id=A)
    assert site.names.topic_of(A) == own


# Second topics.

OWN, EVIL = "camera/status/espcam-1", "camera/status/evil-1"


def test_second_topic_is_counted_and_not_applied(site):
    site.publish(A, OWN, device_id="espcam-1", ip="192.168.10.5", uptime_s=100)
    for _ in range(3):
        assert not site.publish(A, EVIL, device_id="evil-1", ip="192.168.10.66", last_error="x", uptime_s=0)
    device = site.registry.get(A)
    assert (device.claims.ip, device.error_count, device.device_id) == ("192.168.10.5", 0, "espcam-1")
    assert site.names.topic_of(A) == OWN
    assert [(rival.topic, rival.messages) for rival in site.names.rivals(A)] == [(EVIL, 3)]
    assert site.conflict_events() == [(Kind.ID_CONFLICT, "evil-1", EVIL, (A,))]


def test_last_will_on_second_topic_is_ignored(site):
    site.publish(A, OWN)
    assert not site.will(A, EVIL)
    assert site.registry.get(A).in_mqtt_session


def test_topic_changes_after_last_will(site):
    site.publish(A, OWN)
    site.will(A, OWN)
    assert site.publish(A, "camera/status/new-1")
    assert site.names.topic_of(A) == "camera/status/new-1"
    assert site.names.conflicts() == []


def test_topic_changes_after_announced_reboot(site):
    site.publish(A, f"delicasa/box/camera/{A}/status")
    site.publish(A, f"delicasa/box/camera/{A}/status", state=Announced.REBOOTING)
    assert site.publish(A, f"delicasa/kitchen/camera/{A}/status")


def test_topic_changes_after_silence(site):
    site.publish(A, OWN)
    site.wait(SILENT_S)
    assert site.publish(A, "camera/status/new-1")


def test_topic_changes_when_camera_names_it(site):
    site.publish(A, OWN)
    site.publish(A, "camera/status/new-1")
    assert site.names.take_checks(site.now, 4) == [A]
    assert site.registry.confirm_device_id(A, "new-1", site.now)
    assert site.names.topic_of(A) == "camera/status/new-1"
    assert site.publish(A, "camera/status/new-1")
    assert not site.publish(A, OWN)


def test_confirmed_topic_is_kept(site):
    site.publish(A, OWN)
    site.publish(A, EVIL)
    assert not site.registry.confirm_device_id(A, "espcam-1", site.now)
    assert (site.names.topic_of(A), site.are_blocked(A)) == (OWN, [False])


def test_mac_topic_is_not_replaced_by_device_id(site):
    """Most firmware reports a device id by HTTP even if its topics contain the MAC; any client can use that id."""
    site.publish(A, f"camera/status/{A}")
    site.publish(A, OWN)
    assert not site.registry.confirm_device_id(A, "espcam-1", site.now)
    assert (site.names.topic_of(A), site.are_blocked(A)) == (f"camera/status/{A}", [True])


def test_recorded_id_replaces_unknown_topic(site):
    site.publish(A, EVIL, recorded_id="espcam-1")
    assert site.publish(A, OWN, recorded_id="espcam-1")
    assert site.names.topic_of(A) == OWN
    assert not site.publish(A, EVIL, recorded_id="espcam-1")
    assert site.are_blocked(A) == [True]
    site.registry.confirm_device_id(A, "espcam-1", site.now)
    assert site.are_blocked(A) == [False]


def test_unconfirmed_topic_of_registered_camera_is_blocked(site):
    """After a restart of the daemon, another client may publish before the camera."""
    site.publish(A, EVIL, recorded_id="espcam-1")
    assert site.are_blocked(A) == [True]
    assert site.names.take_checks(site.now, 4) == [A]
    assert not site.registry.confirm_device_id(A, "espcam-1", site.now)
    assert site.are_blocked(A) == [True]
    site.publish(A, OWN, recorded_id="espcam-1")
    assert (site.names.topic_of(A), site.are_blocked(A)) == (OWN, [False])


def test_topic_of_sole_publisher_is_used(site):
    """Some firmware names another device id by HTTP than in its topic."""
    site.publish(A, OWN, recorded_id="cam-one")
    site.registry.confirm_device_id(A, "cam-one", site.now)
    site.wait(SOLE_PUBLISHER_S)
    site.publish(A, OWN, recorded_id="cam-one")
    assert site.are_blocked(A) == [False]


def test_answer_without_id_confirms_nothing(site):
    """Another client may publish before the camera, whose topic has its MAC."""
    site.publish(A, EVIL, recorded_id=A)
    site.registry.confirm_device_id(A, None, site.now)
    assert site.are_blocked(A) == [True]
    assert site.publish(A, f"camera/status/{A}", recorded_id=A)
    assert (site.names.topic_of(A), site.are_blocked(A)) == (f"camera/status/{A}", [False])
    assert not site.publish(A, EVIL, recorded_id=A)
    assert site.are_blocked(A) == [False]


EVIL_TREE = "delicasa/evil/camera/espcam-1/status"


@pytest.mark.parametrize("ends", ["will", "reboot", "silence"])
@pytest.mark.parametrize("name", ["espcam-1", A])
def test_other_topic_with_id_of_camera_does_not_replace_its_topic(site, name, ends):
    """Only the exact topic belongs to the camera: any client may use the camera's id in another topic."""
    own, evil = f"camera/status/{name}", f"delicasa/evil/camera/{name}/status"
    site.publish(A, own, recorded_id=name)
    site.registry.confirm_device_id(A, name, site.now)
    site.publish(A, own, recorded_id=name)
    assert site.are_blocked(A) == [False]
    if ends == "silence":
        site.wait(SILENT_S)
    else:
        site.publish(A, own, state=Announced.OFFLINE if ends == "will" else Announced.REBOOTING, recorded_id=name)
    site.publish(A, evil, recorded_id=name)
    site.registry.confirm_device_id(A, name, site.now)
    assert site.are_blocked(A) == [True]
    assert site.publish(A, own, recorded_id=name)
    for _ in range(3):
        site.registry.confirm_device_id(A, name, site.now)
        assert not site.publish(A, evil, recorded_id=name)
        assert (site.names.topic_of(A), site.are_blocked(A)) == (own, [True])


def test_other_topic_with_id_of_camera_does_not_replace_unconfirmed_topic(site):
    site.publish(A, OWN, recorded_id="espcam-1")
    site.will(A, OWN)
    site.publish(A, EVIL_TREE, recorded_id="espcam-1")
    site.registry.confirm_device_id(A, "espcam-1", site.now)
    assert site.are_blocked(A) == [True]
    assert site.publish(A, OWN, recorded_id="espcam-1")
    assert site.names.topic_of(A) == OWN


def test_first_topic_with_recorded_id_is_blocked_while_contested(site):
    """After a restart of the daemon, another client may publish first with the id of the camera."""
    site.publish(A, EVIL_TREE, recorded_id="espcam-1")
    site.publish(A, OWN, recorded_id="espcam-1")
    site.registry.confirm_device_id(A, "espcam-1", site.now)
    assert site.are_blocked(A) == [True]


def test_mac_topic_and_confirmed_topic_are_contested(site):
    site.publish(A, OWN, recorded_id="espcam-1")
    site.registry.confirm_device_id(A, "espcam-1", site.now)
    site.will(A, OWN)
    site.publish(A, f"camera/status/{A}", recorded_id="espcam-1")
    assert site.are_blocked(A) == [True]
    assert site.publish(A, OWN, recorded_id="espcam-1")
    assert not site.publish(A, f"camera/status/{A}", recorded_id="espcam-1")
    assert (site.names.topic_of(A), site.are_blocked(A)) == (OWN, [True])


def test_replaced_topic_with_id_of_camera_is_contested_at_once(site):
    site.publish(A, OWN, recorded_id="espcam-1")
    assert site.publish(A, f"camera/status/{A}", recorded_id="espcam-1")
    assert site.are_blocked(A) == [True]


def test_topic_of_other_client_is_replaced_when_camera_publishes(site):
    for _ in range(2):
        site.publish(A, EVIL, recorded_id="espcam-1")
        site.wait(SOLE_PUBLISHER_S)
    assert site.publish(A, OWN, recorded_id="espcam-1")
    assert not site.publish(A, EVIL, recorded_id="espcam-1")
    site.registry.confirm_device_id(A, "espcam-1", site.now)
    assert (site.names.topic_of(A), site.are_blocked(A)) == (OWN, [False])


def test_id_that_camera_always_named_changes_no_settled_topic(site):
    """Some firmware names another id by HTTP than in its topic: another client may use that id."""
    for _ in range(2):
        site.publish(A, OWN, recorded_id="cam-one")
        site.wait(SOLE_PUBLISHER_S)
    site.publish(A, OWN, recorded_id="cam-one")
    site.registry.confirm_device_id(A, "cam-one", site.now)
    assert site.are_blocked(A) == [False]
    site.publish(A, "delicasa/evil/camera/cam-one/status", recorded_id="cam-one")
    assert not site.registry.confirm_device_id(A, "cam-one", site.now)
    assert site.are_blocked(A) == [True]


# After a restart of the daemon.


def test_recorded_id_alone_allows_no_command(site):
    """The other camera of a shared topic may not have published yet."""
    site.publish(A, recorded_id="esp32cam")
    assert site.are_blocked(A) == [True]
    for _ in range(2):
        site.wait(SOLE_PUBLISHER_S / 2)
        site.publish(A, recorded_id="esp32cam")
    assert site.are_blocked(A) == [False]


def test_confirmed_id_waits_for_camera_that_may_share_it(site):
    silent = {B}
    site.names.may_be_shared = lambda mac, name: bool(silent - {mac})
    site.publish(A, recorded_id="esp32cam")
    site.registry.confirm_device_id(A, "esp32cam", site.now)
    assert site.are_blocked(A) == [True]
    silent.clear()
    assert site.are_blocked(A) == [False]
    site.publish(B, recorded_id=B)
    assert site.are_blocked(A, B) == [True, True]


def test_confirmed_device_id_that_changed_leaves_no_conflict(site):
    """A camera was flashed with another id and sent no last will."""
    site.publish(A, "camera/status/old", recorded_id="old")
    site.registry.confirm_device_id(A, "old", site.now)
    site.publish(A, "camera/status/new", recorded_id="old")
    assert site.registry.confirm_device_id(A, "new", site.now)
    assert site.names.conflicts() == []
    assert site.are_blocked(A) == [False]
    assert [kind for kind, *_ in site.conflict_events()] == [Kind.ID_CONFLICT, Kind.ID_CONFLICT_OVER]
    site.publish(A, "camera/status/old", recorded_id="old")
    assert [conflict.topic for conflict in site.names.conflicts()] == ["camera/status/old"]
    assert site.are_blocked(A) == [False]


def test_topic_of_sole_publisher_is_checked_no_more(site):
    site.publish(A, OWN, recorded_id="cam-one")
    check_counts = []
    for _ in range(40):
        check_counts.append(len(site.names.take_checks(site.now, 4)))
        site.registry.confirm_device_id(A, "cam-one", site.now)
        site.wait(CHECK_INTERVAL_S)
        site.publish(A, OWN, recorded_id="cam-one")
    assert 0 < sum(check_counts) <= SOLE_PUBLISHER_S / CHECK_INTERVAL_S
    assert sum(check_counts[10:]) == 0


@pytest.fixture
def site_with_camera():
    """A site on which A is registered."""
    site = Site(max_devices=4 * MAX_CHECKS)
    site.names._registered = {A}
    return site


def test_near_mac_blocks_no_mac_topic_of_registered_camera(site_with_camera):
    near = Mac("24:6F:28:04:00:05")
    site_with_camera.publish(A, f"camera/status/{A}", recorded_id=A)
    site_with_camera.publish(near, f"camera/status/{A}")
    assert site_with_camera.are_blocked(A, near) == [False, True]
    assert site_with_camera.names.conflicts() == [IdConflict(A, f"camera/status/{A}", (A, near))]


def test_invented_macs_do_not_repeat_reports_of_a_camera(site_with_camera):
    site_with_camera.publish(A, OWN, recorded_id="espcam-1")
    site_with_camera.publish(A, EVIL, recorded_id="espcam-1")
    site_with_camera.conflict_events()
    for number in range(2 * MAX_CHECKS):
        mac = Mac(f"02:00:00:00:{number >> 8:02X}:{number & 255:02X}")
        site_with_camera.publish(mac, "camera/status/x")
        site_with_camera.publish(mac, "camera/status/y")
    site_with_camera.conflict_events()
    site_with_camera.publish(A, EVIL, state=Announced.OFFLINE, recorded_id="espcam-1")
    site_with_camera.publish(A, EVIL, recorded_id="espcam-1")
    assert (Kind.ID_CONFLICT, "evil-1", EVIL, (A,)) not in site_with_camera.conflict_events()


def test_claims_of_replaced_topic_are_dropped(site):
    site.publish(A, EVIL, device_id="evil-1", ip="192.168.10.66", last_error="x", recorded_id="espcam-1")
    site.publish(A, OWN, recorded_id="espcam-1")
    device = site.registry.get(A)
    assert (device.claims.ip, device.device_id, device.error_count, device.last_error) == (None, None, 0, None)


def test_unknown_topic_is_blocked_while_contested(site):
    """Nothing shows which of the two topics is the camera's: a command could reach the other client."""
    site.publish(A, EVIL)
    site.publish(A, OWN)
    assert site.are_blocked(A) == [True]
    site.registry.confirm_device_id(A, "espcam-1", site.now)
    assert (site.names.topic_of(A), site.are_blocked(A)) == (OWN, [False])


def test_second_topics_are_bounded(site):
    site.publish(A, OWN)
    for number in range(1000):
        site.publish(A, f"camera/status/evil-{number}")
    assert len(site.names.rivals(A)) == MAX_RIVALS
    assert len(site.conflict_events()) == 1


@pytest.mark.parametrize("hidden_by", ["other topics", "will"])
def test_topic_with_id_of_camera_is_not_hidden(site, hidden_by):
    """The other client published first, and now tries to hide the topic of the camera."""
    site.publish(A, EVIL_TREE, recorded_id="espcam-1")
    site.registry.confirm_device_id(A, "espcam-1", site.now)
    site.publish(A, OWN, recorded_id="espcam-1")
    if hidden_by == "will":
        site.will(A, OWN)
    else:
        for number in range(2 * MAX_RIVALS):
            site.publish(A, f"camera/status/evil-{number}", recorded_id="espcam-1")
    assert OWN in [rival.topic for rival in site.names.rivals(A)]
    assert site.are_blocked(A) == [True]


def test_forged_will_makes_no_sole_publisher(site):
    for _ in range(2):
        site.publish(A, EVIL, recorded_id="cam-one")
        site.wait(SOLE_PUBLISHER_S)
    site.publish(A, EVIL, recorded_id="cam-one")
    site.publish(A, OWN, recorded_id="cam-one")
    site.will(A, OWN)
    assert site.are_blocked(A) == [True]


def test_second_topic_that_stops_is_resolved(site):
    site.publish(A, OWN)
    site.publish(A, EVIL)
    site.wait(SILENT_S - 1)
    site.publish(A, OWN)
    site.wait(1)
    assert site.names.conflicts() == []
    assert [kind for kind, *_ in site.conflict_events()] == [Kind.ID_CONFLICT, Kind.ID_CONFLICT_OVER]


def test_contested_camera_is_checked_rarely(site):
    site.publish(A, OWN)
    check_count = 0
    for _ in range(100):
        site.publish(A, EVIL)
        site.now += 1
        check_count += len(site.names.take_checks(site.now, 4))
    assert 1 < check_count <= 100 / CHECK_INTERVAL_S + 1


def test_registered_camera_is_checked_first():
    site = Site(max_devices=2 * MAX_CHECKS)
    for number in range(MAX_CHECKS + 10):
        mac = Mac(f"02:00:00:00:{number >> 8:02X}:{number & 255:02X}")
        site.publish(mac, OWN)
        site.publish(mac, EVIL)
    site.publish(A, EVIL, recorded_id="espcam-1")
    assert len(site.names._checks) == MAX_CHECKS
    assert site.names.take_checks(site.now, 1) == [A]


def test_evicted_devices_leave_no_names():
    site = Site(max_devices=16)
    for number in range(200):
        mac = Mac(f"02:00:00:00:{number >> 8:02X}:{number & 255:02X}")
        site.publish(mac, f"camera/status/id-{number % 20}", device_id=f"id-{number % 7}")
        site.publish(mac, EVIL)
        site.wait(1)
    names, devices = site.names, set(site.registry._devices)
    assert set(names._publishers) <= devices
    assert {mac for sharers in names._sharers.values() for mac in sharers} <= devices
    assert set(names._contested) <= devices
    assert set(names._shared) == {name for name, sharers in names._sharers.items() if len(sharers) > 1}
    assert set(names._checks) <= devices
    assert all(names._sharers.values())
    for device in list(site.registry):
        names.forget(device.mac)
    tables = ("_publishers", "_sharers", "_shared", "_contested", "_checks")
    assert [name for name in tables if getattr(names, name)] == []


def test_unused_name_is_not_found(site):
    assert (site.names.sole_user("nobody"), site.names.sharers("nobody"), site.names.topic_of(A)) == (None, (), None)
    assert site.registry.get(A) is None
    assert not site.registry.confirm_device_id(A, "x", NEVER)


# The topic in the record.

MAC_TOPIC, OTHER_TOPIC = f"camera/status/{A}", f"delicasa/other/camera/{A}/status"


class Recorded(Site):
    """A site whose record is updated after each message, as the daemon does it."""

    def __init__(self, topic, *, device_id="cam-1", now=1000.0):
        super().__init__()
        self.topic, self.device_id, self.now = topic, device_id, now

    def receive(self, topic, **fields):
        """A message of camera A; whether it was applied."""
        is_applied = self.publish(A, topic, recorded_id=self.device_id, recorded_topic=self.topic, **fields)
        self.topic = self.names.topic_to_record(A) or self.topic
        return is_applied

    def repeat(self, topic, *, seconds=SOLE_PUBLISHER_S, answers=False):
        """Messages on one topic every 30 s; with `answers` the camera also answers HTTP requests."""
        applied = []
        for _ in range(int(seconds // 30) + 1):
            applied.append(self.receive(topic))
            if answers:
                self.names.confirm(A, None, self.now)
            self.wait(30)
        return applied

    def restart(self):
        return Recorded(self.topic, device_id=self.device_id, now=self.now)


def test_camera_on_recorded_topic_gets_commands():
    site = Recorded(MAC_TOPIC)
    assert site.receive(MAC_TOPIC)
    assert (site.are_blocked(A), site.topic) == ([False], MAC_TOPIC)


def test_first_publisher_on_other_topic_gets_no_commands():
    site = Recorded(MAC_TOPIC)
    assert site.receive(OTHER_TOPIC)
    assert (site.are_blocked(A), site.topic) == ([True], MAC_TOPIC)
    assert site.receive(MAC_TOPIC), "the camera takes its topic again"
    assert site.names.topic_of(A) == MAC_TOPIC
    assert not site.receive(OTHER_TOPIC)


def test_topic_of_sole_publisher_is_not_recorded_while_camera_is_silent():
    """Another client publishes while the camera is off; the record and the camera's next message win."""
    site = Recorded(MAC_TOPIC)
    assert site.receive(MAC_TOPIC)
    assert site.receive(MAC_TOPIC, state=Announced.OFFLINE)
    site.wait(30)
    site.repeat(OTHER_TOPIC, seconds=2 * SOLE_PUBLISHER_S)
    assert site.topic == MAC_TOPIC
    after_restart = site.restart()
    after_restart.repeat(OTHER_TOPIC, seconds=2 * SOLE_PUBLISHER_S)
    for each in (site, after_restart):
        assert (each.topic, each.receive(MAC_TOPIC), each.receive(OTHER_TOPIC)) == (MAC_TOPIC, True, False)
        assert each.topic == MAC_TOPIC


def test_new_topic_of_camera_that_answers_http_is_recorded():
    site = Recorded(MAC_TOPIC)
    site.repeat(OTHER_TOPIC, seconds=2 * SOLE_PUBLISHER_S, answers=True)
    assert (site.are_blocked(A), site.topic) == ([False], OTHER_TOPIC)
    assert not site.receive(MAC_TOPIC), "the earlier topic counts no longer"
    assert site.receive(OTHER_TOPIC)
    assert site.restart().receive(OTHER_TOPIC)


def test_answer_of_camera_before_its_first_message_is_no_proof():
    """It answers HTTP requests a moment before it publishes."""
    site = Recorded(MAC_TOPIC)
    site.repeat(OTHER_TOPIC, seconds=2 * SOLE_PUBLISHER_S)
    site.repeat(OTHER_TOPIC, seconds=30, answers=True)
    assert site.topic == MAC_TOPIC
    assert site.receive(MAC_TOPIC)


def test_stray_topic_does_not_block_camera_with_new_topic():
    site = Recorded(MAC_TOPIC)
    site.repeat(OTHER_TOPIC, seconds=2 * SOLE_PUBLISHER_S, answers=True)
    assert not site.receive("camera/status/evil-1")
    assert site.are_blocked(A) == [False]


def test_reflashed_camera_is_not_held_to_recorded_topic():
    """Another client publishes on the recorded topic first; the camera has another id since the record was made."""
    site = Recorded("camera/status/cam-1")
    site.receive("camera/status/cam-1")
    site.names.confirm(A, "cam-2", site.now)
    applied = []
    for _ in range(20):
        applied.append(site.receive("camera/status/cam-2"))
        site.names.confirm(A, "cam-2", site.now)
        site.wait(10)
        site.receive("camera/status/cam-1")
        site.wait(20)
    assert applied == [True] * 20
    assert (site.are_blocked(A), site.topic) == ([False], "camera/status/cam-2")


def test_contested_camera_keeps_its_record():
    site = Recorded(MAC_TOPIC)
    for _ in range(6):
        assert site.receive(MAC_TOPIC)
        assert not site.receive(OTHER_TOPIC)
        site.wait(30)
    assert site.topic == MAC_TOPIC
