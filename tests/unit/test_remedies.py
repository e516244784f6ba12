"""What is told of cameras that give no pictures, and how often."""

import math

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.workers.remedies import QUIET_S, Remedies
from tests.support.clock import FakeClock

MAC = Mac("24:6F:28:B0:F7:F1")


async def test_one_that_fails_now_and_then_is_no_write_each_time():
    clock = FakeClock()
    remedies = Remedies(auto_reboot=True, reboot_after=3, clock=clock)
    told = []
    for _ in range(int(2 * QUIET_S / 4)):
        remedies.failed(MAC, "no frame", heard_at=math.inf)
        told += remedies.take()
        await clock.advance(2)
        remedies.succeeded(MAC)
        told += remedies.take()
        await clock.advance(2)
    assert [event.payload["state"] for event in told] == ["retrying", "ok"] * 2


async def test_one_that_goes_on_failing_is_told_late_rather_than_never():
    clock = FakeClock()
    remedies = Remedies(auto_reboot=False, reboot_after=3, clock=clock)
    for _ in range(2):
        remedies.failed(MAC, "no frame", heard_at=math.inf)
        remedies.take()
        remedies.succeeded(MAC)
        remedies.take()
    remedies.failed(MAC, "no frame", heard_at=math.inf)
    assert remedies.take() == []
    await clock.advance(QUIET_S)
    assert [event.payload["state"] for event in remedies.take()] == ["retrying"]


def test_what_was_due_is_not_done_once_reboots_are_switched_off():
    remedies = Remedies(auto_reboot=True, reboot_after=1, clock=FakeClock())
    remedies.failed(MAC, "no frame", heard_at=math.inf)
    assert remedies.to_reboot() == [MAC]
    remedies.auto_reboot = False
    assert remedies.to_reboot() == []
