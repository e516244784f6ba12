"""Which requests for pictures are recorded."""

from dataclasses import replace

import pytest

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.captures.recorder import REPEAT_AFTER_S, CaptureRecorder

MAC = Mac("24:6F:28:B0:F7:F1")
ACTOR = Actor("admin", "192.168.1.20", "c-1", "camera.capture")


@pytest.fixture
def recorder(clock, database):
    return CaptureRecorder(clock=clock, database=database)


async def recorded(recorder, database):
    await recorder.flush()
    rows = await database.read("SELECT actor, peer, outcome FROM operator_actions ORDER BY id")
    return [tuple(row) for row in rows]


async def test_repeat_within_a_minute_is_not_recorded(recorder, database, clock):
    for _ in range(3):
        await recorder.record_request(ACTOR, MAC, "ok")
    assert await recorded(recorder, database) == [("admin", "192.168.1.20", "ok")]
    await clock.advance(REPEAT_AFTER_S)
    await recorder.record_request(ACTOR, MAC, "ok")
    assert len(await recorded(recorder, database)) == 2


async def test_other_key_peer_or_outcome_is_recorded(recorder, database):
    await recorder.record_request(ACTOR, MAC, "ok")
    await recorder.record_request(replace(ACTOR, key_name="dashboard"), MAC, "ok")
    await recorder.record_request(replace(ACTOR, peer="192.168.1.21"), MAC, "ok")
    await recorder.record_request(ACTOR, MAC, "CAPTURE_FAILED")
    assert await recorded(recorder, database) == [
        ("admin", "192.168.1.20", "ok"),
        ("dashboard", "192.168.1.20", "ok"),
        ("admin", "192.168.1.21", "ok"),
        ("admin", "192.168.1.20", "CAPTURE_FAILED"),
    ]
