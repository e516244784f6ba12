"""Clocks: times as text, monotonic time, and whether the wall clock can be trusted."""

import asyncio
import ctypes
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core import clock as module
from pi_orchestrator.core.clock import Clock, parse_rfc3339, rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=366 * 8000)).map(EPOCH.__add__)


def test_rfc3339_has_microseconds_and_z():
    assert rfc3339(datetime(2026, 1, 22, 15, tzinfo=UTC)) == "2026-01-22T15:00:00.000000Z"
    assert rfc3339(datetime(2026, 1, 22, 15, 0, 0, 7, tzinfo=UTC)) == "2026-01-22T15:00:00.000007Z"


def test_rfc3339_converts_to_utc():
    berlin = timezone(timedelta(hours=1))
    assert rfc3339(datetime(2026, 1, 22, 0, 30, tzinfo=berlin)) == "2026-01-21T23:30:00.000000Z"


@given(MOMENTS, MOMENTS)
def test_rfc3339_text_order_is_time_order(first, second):
    assert (rfc3339(first) < rfc3339(second)) is (first < second)
    assert len(rfc3339(first)) == 27


@given(MOMENTS)
def test_rfc3339_round_trip(moment):
    assert parse_rfc3339(rfc3339(moment)) == moment
    assert parse_rfc3339(rfc3339(moment)).tzinfo is not None


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-22T15:00:00.00\ufffd000Z", "2026-13-01T00:00:00.000000Z"])
def test_parse_damaged_time_is_1970(text):
    assert parse_rfc3339(text) == EPOCH


def test_parse_time_without_zone_is_utc():
    assert parse_rfc3339("2026-01-22T15:00:00.000000") == datetime(2026, 1, 22, 15, tzinfo=UTC)


def test_stamp_has_every_clock():
    clock = Clock()
    stamp = clock.stamp()
    assert stamp.at.tzinfo is UTC
    assert stamp.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert stamp.monotonic == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)
    assert stamp.trusted is False, "not checked yet"


def test_monotonic_never_decreases():
    clock = Clock()
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)


async def test_wait_returns_whether_event_is_set():
    clock, event = Clock(), asyncio.Event()
    assert await clock.wait(event, 0.001) is False
    asyncio.get_running_loop().call_soon(event.set)
    assert await clock.wait(event, 10) is True


class FakeLibc:
    """A libc whose `adjtimex` returns `answer`; it must be called with modes 0, which only reads."""

    def __init__(self, answer):
        self.answer = answer

    def adjtimex(self, buffer):
        assert ctypes.sizeof(buffer) >= 208, "struct timex"
        assert not any(buffer.raw[:4]), "modes 0: nothing is set"
        return self.answer


# `marked`: systemd-timesyncd has set the clock. `kernel`: result of adjtimex: 0 synchronised, 5 not, -1 forbidden.
@pytest.mark.parametrize(
    "marked, kernel, wall, trusted",
    [
        (True, 5, datetime(1970, 1, 1, tzinfo=UTC), True),
        (False, 0, datetime(2026, 6, 1, tzinfo=UTC), True),
        (False, 5, datetime(2026, 6, 1, tzinfo=UTC), False),
        (False, -1, datetime(2026, 6, 1, tzinfo=UTC), True),
        (False, -1, datetime(1970, 1, 1, tzinfo=UTC), False),
    ],
)
def test_wall_clock_is_trusted_once_set(monkeypatch, tmp_path, marked, kernel, wall, trusted):
    mark = tmp_path / "synchronized"
    if marked:
        mark.touch()
    monkeypatch.setattr(module, "_SYNCHRONISED", mark)
    monkeypatch.setattr(module, "_LIBC", FakeLibc(kernel))
    monkeypatch.setattr(Clock, "wall", lambda self: wall)
    clock = Clock()
    clock.refresh()
    assert clock.trusted() is trusted


def test_trust_check_with_real_kernel():
    clock = Clock()
    clock.refresh()
    assert clock.trusted() in (True, False)
