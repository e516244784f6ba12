"""The current error of a camera: count and time are those of the failure that its text names."""

import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras.error_views import current_error
from pi_orchestrator.features.cameras.model import RecoveryState
from pi_orchestrator.features.devices.interruptions import Interruption
from pi_orchestrator.features.devices.model import Device
from pi_orchestrator.features.devices.status_message import Announced, Status
from pi_orchestrator.features.onboarding.backoff import LastFailure
from pi_orchestrator.features.recovery.ladder import RecoveryLadder

A = Mac("24:6F:28:04:00:04")


@pytest.fixture
def device():
    """A camera that reported an error of its own 10 s after the start."""
    device = Device(mac=A)
    status = Status(topic_id=A, mac=A, device_id=None, state=Announced.ONLINE, last_error="lens blocked")
    device.apply_live_status(status, 10.0)
    device.apply_live_status(status, 20.0)
    return device


def ladder_with_failures():
    ladder = RecoveryLadder()
    for at in (100.0, 200.0, 300.0):
        ladder.capture_failed("CAPTURE_FAILED: x", at, seen_at=0.0, reboot_after=9, auto_reboot=False)
    return ladder


def test_error_of_the_camera_has_its_time(device):
    assert current_error(device, RecoveryLadder(), None, now=900.0) == ("lens blocked", 1, 10.0)


def test_unstable_camera_has_the_count_in_its_text(device):
    """Captures of the camera failed as well, at another time."""
    for at in [*range(0, 500, 100), *range(590, 597)]:
        device.interruptions.add(Interruption.RESTART, float(at))
    text = "unstable: it restarted 7 times in the last minute"
    assert current_error(device, ladder_with_failures(), None, now=600.0) == (text, 7, 596.0)


def test_failed_reboot_does_not_count_captures(device):
    ladder = ladder_with_failures()
    ladder.reboot_failed("REBOOT_FAILED: gone", 400.0)
    assert current_error(device, ladder, None, now=900.0) == ("REBOOT_FAILED: gone", 1, 400.0)
    ladder.capture_failed("CAPTURE_FAILED: x", 500.0, seen_at=0.0, reboot_after=9, auto_reboot=False)
    assert ladder.state is RecoveryState.NEEDS_POWER_CYCLE
    assert current_error(device, ladder, None, now=900.0) == ("needs power cycle: CAPTURE_FAILED: x", 4, 500.0)


def test_failed_captures_and_onboarding_have_their_times(device):
    assert current_error(device, ladder_with_failures(), None, now=900.0) == ("CAPTURE_FAILED: x", 3, 300.0)
    failure = LastFailure(None, "no answer", 9, failed_at=700.0, next_attempt_at=800.0)
    assert current_error(device, RecoveryLadder(), failure, now=900.0) == ("not onboarded: no answer", 9, 700.0)
