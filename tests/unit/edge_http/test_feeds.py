"""Feeds of event streams: replay or snapshot, and log lines."""

import asyncio

import pytest

from pi_orchestrator.app.base import EVENTS_KEPT
from pi_orchestrator.core.log_buffer import LineFilter, LogBuffer
from pi_orchestrator.edge_http import feeds
from pi_orchestrator.edge_http import stream_sources as sources
from pi_orchestrator.edge_http.feeds import can_replay
from pi_orchestrator.edge_http.stream_sources import event_frame
from pi_orchestrator.http import sse
from pi_orchestrator.http.sse import Cursor
from pi_orchestrator.storage.event_store import Bounds

AT = "2026-01-11T21:45:29Z"


# Replay or snapshot.


@pytest.mark.parametrize(
    "oldest, newest, after, is_replayed",
    [
        (1, 0, 0, True),  # empty log, client without events
        (1, 0, 1, False),  # empty log, client with an event: another database
        (1, 10, 0, True),
        (1, 10, 10, True),
        (1, 10, 11, False),
        (5, 10, 4, True),
        (5, 10, 3, False),  # 4 is missing
        (5, 10, 0, False),
        (11, 10, 10, True),  # every row is deleted, but no event was missed
        (11, 10, 9, False),
        (1, 5001, 1, True),
        (1, 5001, 0, False),  # too many events
        (1, 10, 2**63 - 1, False),
    ],
)
def test_gap_is_replayed_if_complete_and_short(oldest, newest, after, is_replayed):
    assert can_replay(Bounds(oldest, newest), after) is is_replayed


def test_stream_limits_fit_together():
    """A burst of 1000 devices fits a queue, a replay fits the stored events, and stalled clients use little memory."""
    device = {"mac": "24:6F:28:B0:F7:F1", "ip": "192.168.10.21", "rssi": -54, "firmware_version": "2.4.1"}
    session_id = "550e8400-e29b-41d4-a716-446655440000"
    device_frame = event_frame(
        "device.discovered", at=AT, payload=device, event_id=123456, session_id=session_id, copy=True
    )
    assert 1000 * len(device_frame) < sse.QUEUE_BYTES
    assert feeds.MAX_REPLAY < EVENTS_KEPT
    assert sources.PAGE_ENTRIES < feeds.MAX_REPLAY
    assert 50 * 3 * sse.WRITE_BYTES < 10 * 1024 * 1024, "50 stalled clients, each with a few blocks in buffers"


# Log lines.


async def test_page_of_log_lines_lets_other_tasks_run_and_skips_dropped_lines():
    ring = LogBuffer()
    for number in range(sources.PAGE_ENTRIES + 1):
        ring.append({"event": str(number), "level": "info", "component": "x", "timestamp": AT})
    lines = sources.LogLines(ring, among_events=False)
    cursor = Cursor(lines, LineFilter(), position=ring.oldest - 10)
    other_task_ran = []
    asyncio.get_running_loop().call_soon(other_task_ran.append, True)
    page = await lines.page(cursor, copy=False)
    assert other_task_ran == [True]
    assert (len(page), cursor.position, cursor.behind) == (sources.PAGE_ENTRIES, ring.newest - 1, True)
    assert len(await lines.page(cursor, copy=False)) == 1
    assert (cursor.position, cursor.behind) == (ring.newest, False)
    assert await lines.page(cursor, copy=False) == []
