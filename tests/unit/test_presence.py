"""One device's presence: retained claims, last wills, silence, reboots."""

import pytest

from pi_orchestrator.domain.camera import camera_status
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.presence import STALE_WILL_WINDOW_S, Device, Presence, Windows
from pi_orchestrator.domain.status import Announced, Status

MAC = Mac("24:6F:28:B0:F7:F1")
WINDOWS = Windows(idle_after_s=120, offline_after_s=600)


def says(state=Announced.ONLINE, **fields):
    return Status(topic_id=MAC, mac=MAC, device_id=fields.pop("device_id", None), state=state, **fields)


WILL = says(Announced.OFFLINE, reason="connection lost")
REBOOTING = says(Announced.REBOOTING)


def online(now=0.0, **fields):
    device = Device(mac=MAC)
    device.hear(says(**fields), now)
    return device


def test_a_live_message_brings_a_device_online_once():
    device = Device(mac=MAC)
    assert device.hear(says(), 5.0) is True
    assert device.state is Presence.ONLINE
    assert device.hear(says(), 6.0) is False
    assert device.heard_at == 6.0


def test_a_retained_claim_proves_nothing():
    device = Device(mac=MAC)
    assert device.claim(says(ip="192.168.10.5")) is True
    assert device.state is Presence.CLAIMED
    assert device.heard_at is None
    assert device.claims.ip == "192.168.10.5"
    assert camera_status(device=device, registered=True, onboarding=False) == "connecting"


def test_a_claim_does_not_turn_offline_by_silence_nor_online_by_repeats():
    device = Device(mac=MAC)
    device.claim(says())
    assert device.settle(WINDOWS, 1e9) is False
    assert device.claim(says()) is False
    assert device.state is Presence.CLAIMED


def test_a_live_message_confirms_a_claim():
    device = Device(mac=MAC)
    device.claim(says(device_id="claimed"))
    assert device.hear(says(), 1.0) is True
    assert device.state is Presence.ONLINE
    assert device.device_id == "claimed"


def test_a_retained_offline_is_no_news():
    device = Device(mac=MAC)
    assert device.claim(says(Announced.OFFLINE)) is False
    assert device.state is Presence.OFFLINE
    assert device.claims is None


@pytest.mark.parametrize("state", list(Announced))
def test_a_retained_message_never_speaks_against_live_traffic(state):
    device = online(firmware_version="new")
    assert device.claim(says(state, firmware_version="old")) is False
    assert device.state is Presence.ONLINE
    assert device.claims.firmware_version == "new"


def test_a_retained_claim_does_not_wake_a_device_that_went_offline():
    device = online()
    device.settle(WINDOWS, 600)
    assert device.claim(says()) is False
    assert device.state is Presence.OFFLINE


def test_a_last_will_takes_a_device_offline_at_once():
    device = online(now=0.0)
    assert device.hear(WILL, 1.0) is True
    assert device.state is Presence.OFFLINE
    assert device.hear(WILL, 2.0) is False


def test_a_last_will_is_no_sign_of_life():
    device = online(now=10.0, ip="192.168.10.5")
    device.hear(WILL, 50.0)
    assert device.heard_at == 10.0
    assert device.claims.ip == "192.168.10.5"
    assert Device(mac=MAC).hear(WILL, 1.0) is False


def test_the_last_will_of_a_session_that_a_newer_one_replaced_is_ignored():
    device = online(now=0.0, uptime_s=5000.0)
    device.hear(says(uptime_s=3.0), 100.0)
    assert device.hear(WILL, 101.0) is False
    assert device.state is Presence.ONLINE


def test_only_one_last_will_is_that_of_the_old_session():
    device = online(now=0.0, uptime_s=5000.0)
    device.hear(says(uptime_s=3.0), 100.0)
    device.hear(WILL, 101.0)
    assert device.hear(WILL, 102.0) is True
    assert device.state is Presence.OFFLINE


@pytest.mark.parametrize(
    "after_s, state", [(STALE_WILL_WINDOW_S - 1, Presence.ONLINE), (STALE_WILL_WINDOW_S, "offline")]
)
def test_an_old_sessions_last_will_comes_within_the_brokers_patience(after_s, state):
    device = online(now=0.0, uptime_s=5000.0)
    device.hear(says(uptime_s=3.0), 100.0)
    device.hear(WILL, 100.0 + after_s)
    assert device.state == state


def test_the_last_will_of_the_session_before_an_announced_reboot_is_ignored():
    device = online(now=0.0, uptime_s=5000.0)
    device.hear(REBOOTING, 10.0)
    device.hear(says(uptime_s=1.0), 13.0)
    assert device.hear(WILL, 20.0) is False
    assert device.state is Presence.ONLINE


def test_uptime_that_goes_on_is_the_same_session():
    device = online(now=0.0, uptime_s=100.0)
    device.hear(says(uptime_s=130.0), 30.0)
    assert device.hear(WILL, 31.0) is True


@pytest.mark.parametrize("uptimes", [(None, 1.0), (100.0, None), (None, None), (100.0, 100.0)])
def test_without_an_uptime_reset_a_last_will_is_believed(uptimes):
    device = online(now=0.0, uptime_s=uptimes[0])
    device.hear(says(uptime_s=uptimes[1]), 30.0)
    assert device.hear(WILL, 31.0) is True


def test_a_device_that_comes_back_from_offline_replaces_no_live_session():
    device = online(now=0.0, uptime_s=5000.0)
    device.hear(WILL, 10.0)
    device.hear(says(uptime_s=1.0), 20.0)
    assert device.hear(WILL, 21.0) is True


@pytest.mark.parametrize(
    "silence_s, state",
    [
        (0, "online"),
        (119.9, "online"),
        (120, "idle"),
        (599.9, "idle"),
        (600, "offline"),
        (1e9, "offline"),
    ],
)
def test_silence_makes_idle_then_offline(silence_s, state):
    device = online(now=1000.0)
    device.settle(WINDOWS, 1000.0 + silence_s)
    assert device.state == state


def test_settling_tells_each_change_once():
    device = online(now=0.0)
    assert [device.settle(WINDOWS, now) for now in (100, 120, 130, 600, 700)] == [False, True, False, True, False]


def test_a_message_ends_the_silence():
    device = online(now=0.0)
    device.settle(WINDOWS, 300)
    assert device.state is Presence.IDLE
    assert device.hear(says(), 301) is True
    assert device.settle(WINDOWS, 420) is False
    assert device.state is Presence.ONLINE


def test_a_reboot_is_seen_and_ends_with_the_next_birth():
    device = online(now=0.0)
    assert device.hear(REBOOTING, 10.0) is True
    assert device.state is Presence.REBOOTING
    assert device.settle(WINDOWS, 130.0) is False, "a rebooting device is not idle"
    assert device.hear(says(uptime_s=1.0), 140.0) is True
    assert device.state is Presence.ONLINE


def test_a_reboot_without_return_is_offline():
    device = online(now=0.0)
    device.hear(REBOOTING, 10.0)
    assert device.settle(WINDOWS, 610.0) is True
    assert device.state is Presence.OFFLINE


def test_errors_are_counted_when_they_change_and_not_when_they_are_repeated():
    device = online(now=0.0)
    for error in ("no frame", "no frame", None, "no frame", "out of memory"):
        device.hear(says(last_error=error), 1.0)
    assert device.error_count == 2
    assert device.last_error == "out of memory"


def test_every_visible_change_moves_the_revision():
    device = Device(mac=MAC)
    seen = [device.revision]
    for step in (
        lambda: device.claim(says()),
        lambda: device.hear(says(), 1.0),
        lambda: device.hear(says(rssi_dbm=-50), 2.0),
        lambda: device.settle(WINDOWS, 300.0),
        lambda: device.hear(WILL, 301.0),
    ):
        step()
        seen.append(device.revision)
    assert sorted(set(seen)) == seen


@pytest.mark.parametrize(
    "state, registered, onboarding, initialized, word",
    [
        (None, True, False, None, "offline"),
        (Presence.OFFLINE, True, True, None, "offline"),
        (Presence.CLAIMED, False, False, None, "connecting"),
        (Presence.REBOOTING, True, False, None, "rebooting"),
        (Presence.ONLINE, False, False, None, "discovered"),
        (Presence.ONLINE, False, True, None, "pairing"),
        (Presence.IDLE, False, False, None, "discovered"),
        (Presence.ONLINE, True, False, None, "online"),
        (Presence.ONLINE, True, False, True, "online"),
        (Presence.ONLINE, True, False, False, "error"),
        (Presence.IDLE, True, False, None, "idle"),
    ],
)
def test_a_cameras_status_is_one_word_of_the_contract(state, registered, onboarding, initialized, word):
    device = None
    if state:
        device = Device(mac=MAC, state=state, claims=says(camera_initialized=initialized))
    assert camera_status(device=device, registered=registered, onboarding=onboarding) == word


def test_what_a_later_message_leaves_out_has_not_been_taken_back():
    device = online(ip="192.168.10.5", rssi_dbm=-50, firmware_version="2.1", uptime_s=10.0)
    device.hear(says(uptime_s=20.0), 10.0)
    assert (device.claims.ip, device.claims.rssi_dbm, device.claims.firmware_version) == ("192.168.10.5", -50, "2.1")
    device.hear(says(uptime_s=1.0), 20.0)
    assert device.claims.ip is None, "a new session starts with nothing"
