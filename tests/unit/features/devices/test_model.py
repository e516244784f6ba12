"""One device's presence: retained claims, last wills, silence, reboots."""

import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras.model import camera_status
from pi_orchestrator.features.devices.model import STALE_WILL_WINDOW_S, Device, Presence, Windows
from pi_orchestrator.features.devices.status_message import Announced, Status

MAC = Mac("24:6F:28:B0:F7:F1")
WINDOWS = Windows(idle_after_s=120, offline_after_s=600)


def message(state=Announced.ONLINE, **fields):
    return Status(topic_id=MAC, mac=MAC, device_id=fields.pop("device_id", None), state=state, **fields)


WILL = message(Announced.OFFLINE, reason="connection lost")
REBOOTING = message(Announced.REBOOTING)


def online(now=0.0, **fields):
    device = Device(mac=MAC)
    device.apply_live_status(message(**fields), now)
    return device


def test_live_message_brings_device_online_once():
    device = Device(mac=MAC)
    assert device.apply_live_status(message(), 5.0) is True
    assert device.state is Presence.ONLINE
    assert device.apply_live_status(message(), 6.0) is False
    assert device.last_message_at == 6.0


def test_retained_claim_proves_nothing():
    device = Device(mac=MAC)
    assert device.apply_retained_status(message(ip="192.168.10.5")) is True
    assert device.state is Presence.CLAIMED
    assert device.last_message_at is None
    assert device.claims.ip == "192.168.10.5"
    assert camera_status(device=device, registered=True, onboarding=False) == "connecting"


def test_claim_ignores_silence_and_repeats():
    device = Device(mac=MAC)
    device.apply_retained_status(message())
    assert device.expire(WINDOWS, 1e9) is False
    assert device.apply_retained_status(message()) is False
    assert device.state is Presence.CLAIMED


def test_live_message_confirms_claim():
    device = Device(mac=MAC)
    device.apply_retained_status(message(device_id="claimed"))
    assert device.apply_live_status(message(), 1.0) is True
    assert device.state is Presence.ONLINE
    assert device.device_id == "claimed"


def test_retained_offline_changes_nothing():
    device = Device(mac=MAC)
    assert device.apply_retained_status(message(Announced.OFFLINE)) is False
    assert device.state is Presence.OFFLINE
    assert device.claims is None


@pytest.mark.parametrize("state", list(Announced))
def test_retained_message_after_live_is_ignored(state):
    device = online(firmware_version="new")
    assert device.apply_retained_status(message(state, firmware_version="old")) is False
    assert device.state is Presence.ONLINE
    assert device.claims.firmware_version == "new"


def test_retained_claim_leaves_device_offline():
    device = online()
    device.expire(WINDOWS, 600)
    assert device.apply_retained_status(message()) is False
    assert device.state is Presence.OFFLINE


def test_last_will_takes_device_offline():
    device = online(now=0.0)
    assert device.apply_live_status(WILL, 1.0) is True
    assert device.state is Presence.OFFLINE
    assert device.apply_live_status(WILL, 2.0) is False


def test_last_will_proves_no_life():
    device = online(now=10.0, ip="192.168.10.5")
    device.apply_live_status(WILL, 50.0)
    assert device.last_message_at == 10.0
    assert device.claims.ip == "192.168.10.5"
    assert Device(mac=MAC).apply_live_status(WILL, 1.0) is False


def test_last_will_of_replaced_mqtt_session_is_ignored():
    device = online(now=0.0, uptime_s=5000.0)
    device.apply_live_status(message(uptime_s=3.0), 100.0)
    assert device.apply_live_status(WILL, 101.0) is False
    assert device.state is Presence.ONLINE


def test_only_one_stale_last_will_is_ignored():
    device = online(now=0.0, uptime_s=5000.0)
    device.apply_live_status(message(uptime_s=3.0), 100.0)
    device.apply_live_status(WILL, 101.0)
    assert device.apply_live_status(WILL, 102.0) is True
    assert device.state is Presence.OFFLINE


@pytest.mark.parametrize(
    "after_s, state", [(STALE_WILL_WINDOW_S - 1, Presence.ONLINE), (STALE_WILL_WINDOW_S, Presence.OFFLINE)]
)
def test_stale_will_is_ignored_within_window(after_s, state):
    device = online(now=0.0, uptime_s=5000.0)
    device.apply_live_status(message(uptime_s=3.0), 100.0)
    device.apply_live_status(WILL, 100.0 + after_s)
    assert device.state is state


def test_last_will_before_reboot_is_ignored():
    device = online(now=0.0, uptime_s=5000.0)
    device.apply_live_status(REBOOTING, 10.0)
    device.apply_live_status(message(uptime_s=1.0), 13.0)
    assert device.apply_live_status(WILL, 20.0) is False
    assert device.state is Presence.ONLINE


def test_rising_uptime_continues_mqtt_session():
    device = online(now=0.0, uptime_s=100.0)
    device.apply_live_status(message(uptime_s=130.0), 30.0)
    assert device.apply_live_status(WILL, 31.0) is True


@pytest.mark.parametrize("uptimes", [(None, 1.0), (100.0, None), (None, None), (100.0, 100.0)])
def test_last_will_without_uptime_reset_counts(uptimes):
    device = online(now=0.0, uptime_s=uptimes[0])
    device.apply_live_status(message(uptime_s=uptimes[1]), 30.0)
    assert device.apply_live_status(WILL, 31.0) is True


def test_return_from_offline_replaces_no_mqtt_session():
    device = online(now=0.0, uptime_s=5000.0)
    device.apply_live_status(WILL, 10.0)
    device.apply_live_status(message(uptime_s=1.0), 20.0)
    assert device.apply_live_status(WILL, 21.0) is True


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
    device.expire(WINDOWS, 1000.0 + silence_s)
    assert device.state == state


def test_expire_reports_each_change_once():
    device = online(now=0.0)
    assert [device.expire(WINDOWS, now) for now in (100, 120, 130, 600, 700)] == [False, True, False, True, False]


def test_message_ends_silence():
    device = online(now=0.0)
    device.expire(WINDOWS, 300)
    assert device.state is Presence.IDLE
    assert device.apply_live_status(message(), 301) is True
    assert device.expire(WINDOWS, 420) is False
    assert device.state is Presence.ONLINE


def test_reboot_ends_with_next_online_message():
    device = online(now=0.0)
    assert device.apply_live_status(REBOOTING, 10.0) is True
    assert device.state is Presence.REBOOTING
    assert device.expire(WINDOWS, 130.0) is False, "a rebooting device is not idle"
    assert device.apply_live_status(message(uptime_s=1.0), 140.0) is True
    assert device.state is Presence.ONLINE


def test_reboot_without_return_is_offline():
    device = online(now=0.0)
    device.apply_live_status(REBOOTING, 10.0)
    assert device.expire(WINDOWS, 610.0) is True
    assert device.state is Presence.OFFLINE


def test_errors_are_counted_on_change_only():
    device = online(now=0.0)
    for error in ("no frame", "no frame", None, "no frame", "out of memory"):
        device.apply_live_status(message(last_error=error), 1.0)
    assert device.error_count == 2
    assert device.last_error == "out of memory"


def test_visible_change_increases_revision():
    device = Device(mac=MAC)
    seen = [device.revision]
    for step in (
        lambda: device.apply_retained_status(message()),
        lambda: device.apply_live_status(message(), 1.0),
        lambda: device.apply_live_status(message(rssi_dbm=-50), 2.0),
        lambda: device.expire(WINDOWS, 300.0),
        lambda: device.apply_live_status(WILL, 301.0),
    ):
        step()
        seen.append(device.revision)
    assert sorted(set(seen)) == seen, "each step increases it"


@pytest.mark.parametrize(
    "state, registered, onboarding, initialized, expected",
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
def test_camera_status_is_in_contract(state, registered, onboarding, initialized, expected):
    device = None
    if state:
        device = Device(mac=MAC, state=state, claims=message(camera_initialized=initialized))
    assert camera_status(device=device, registered=registered, onboarding=onboarding) == expected


def test_missing_details_are_filled_from_mqtt_session():
    device = online(ip="192.168.10.5", rssi_dbm=-50, firmware_version="2.1", uptime_s=10.0)
    device.apply_live_status(message(uptime_s=20.0), 10.0)
    assert (device.claims.ip, device.claims.rssi_dbm, device.claims.firmware_version) == ("192.168.10.5", -50, "2.1")
    device.apply_live_status(message(uptime_s=1.0), 20.0)
    assert device.claims.ip is None, "a new MQTT session starts with nothing"
