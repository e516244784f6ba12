"""Events and reboots of the recovery tracker."""

import math

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.recovery.tracker import REPORT_INTERVAL_S, RecoveryTracker
from tests.support.clock import FakeClock

MAC = Mac("24:6F:28:B0:F7:F1")


async def test_occasional_failures_give_few_events():
    clock = FakeClock()
    tracker = RecoveryTracker(auto_reboot=True, reboot_after=3, clock=clock)
    events = []
    for _ in range(int(2 * REPORT_INTERVAL_S / 4)):
        tracker.capture_failed(MAC, "no frame", seen_at=math.inf)
        events += tracker.take_events()
        await clock.advance(2)
        tracker.capture_succeeded(MAC)
        events += tracker.take_events()
        await clock.advance(2)
    assert [event.state for event in events] == ["retrying", "ok"] * 2


async def test_continued_failure_is_reported_later():
    clock = FakeClock()
    tracker = RecoveryTracker(auto_reboot=False, reboot_after=3, clock=clock)
    for _ in range(2):
        tracker.capture_failed(MAC, "no frame", seen_at=math.inf)
        tracker.take_events()
        tracker.capture_succeeded(MAC)
        tracker.take_events()
    tracker.capture_failed(MAC, "no frame", seen_at=math.inf)
    assert tracker.take_events() == []
    await clock.advance(REPORT_INTERVAL_S)
    assert [event.state for event in tracker.take_events()] == ["retrying"]


def test_disabled_auto_reboot_cancels_scheduled_reboots():
    tracker = RecoveryTracker(auto_reboot=True, reboot_after=1, clock=FakeClock())
    tracker.capture_failed(MAC, "no frame", seen_at=math.inf)
    assert tracker.to_reboot() == [MAC]
    tracker.auto_reboot = False
    assert tracker.to_reboot() == []
