"""Events and reboots of the recovery tracker."""

import math

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.recovery.tracker import REPORT_INTERVAL_S, RecoveryTracker
from tests.support.clock import FakeClock

MAC = Mac("24:6F:28:B0:F7:F1")
STILL_SEEN = math.inf
"""Time of a last sighting: later than every failure, so that the camera may be rebooted."""


async def test_alternating_failures_are_reported_once_per_interval():
    clock = FakeClock()
    tracker = RecoveryTracker(auto_reboot=True, reboot_after=3, clock=clock)
    events = []
    for _ in range(int(2 * REPORT_INTERVAL_S / 4)):  # two intervals; each pass takes 4 s
        tracker.capture_failed(MAC, "no frame", seen_at=STILL_SEEN)
        events += tracker.take_events()
        await clock.advance(2)
        tracker.capture_succeeded(MAC)
        events += tracker.take_events()
        await clock.advance(2)
    assert [event.state for event in events] == ["retrying", "ok"] * 2


async def test_repeated_failure_is_reported_after_interval():
    clock = FakeClock()
    tracker = RecoveryTracker(auto_reboot=False, reboot_after=3, clock=clock)
    for _ in range(2):
        tracker.capture_failed(MAC, "no frame", seen_at=STILL_SEEN)
        tracker.take_events()
        tracker.capture_succeeded(MAC)
        tracker.take_events()
    tracker.capture_failed(MAC, "no frame", seen_at=STILL_SEEN)
    assert tracker.take_events() == []
    await clock.advance(REPORT_INTERVAL_S)
    assert [event.state for event in tracker.take_events()] == ["retrying"]


def test_auto_reboot_disabled_cancels_scheduled_reboots():
    tracker = RecoveryTracker(auto_reboot=True, reboot_after=1, clock=FakeClock())
    tracker.capture_failed(MAC, "no frame", seen_at=STILL_SEEN)
    assert tracker.to_reboot() == [MAC]
    tracker.auto_reboot = False
    assert tracker.to_reboot() == []
