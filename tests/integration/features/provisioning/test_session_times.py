"""Timeouts and expiry of sessions without activity, on a fake clock."""

import json
import re
from datetime import timedelta

import pytest

from tests.support.clock import FakeClock
from tests.support.provisioning import BASE
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

BATCH = f"{BASE}/batch"
GOOD = {"target_ssid": "Target-Net", "target_password": "correct horse battery"}
LIFETIME_S = 60 + 120 + 90


@pytest.fixture
async def clock():
    return FakeClock()


@pytest.fixture
async def running(rig, clock):
    async with rig.daemon(clock=clock, connected=False) as running:
        yield running


async def start(running, form=""):
    return (await running.admin.post(f"{BATCH}{form}", json=GOOD)).data["session"]["id"]


async def show(running, session_id):
    return (await running.admin.get(f"{BATCH}/{session_id}")).data


async def remaining_s(running, session_id):
    return int(re.fullmatch(r"(\d+)s", (await show(running, session_id))["timeout_remaining"])[1])


async def advance(clock, seconds):
    """Advance the clock in steps, so that the worker can pass in between."""
    while seconds > 0:
        await clock.advance(min(seconds, 10))
        seconds -= 10


async def until_state(running, clock, session_id, state):
    async def session_in_state():
        await clock.advance(0.5)
        found = (await show(running, session_id))["session"]
        return found if found["state"] == state else None

    return await eventually(session_in_state, what=state)


def warnings(rig, code="SESSION_EXPIRING"):
    """(session id, payload) of each stored `error` event with this code, in order."""
    rows = rig.rows("SELECT session_id, payload FROM events WHERE type = 'error' ORDER BY id")
    return [(session_id, json.loads(text)) for session_id, text in rows if json.loads(text)["code"] == code]


async def until_warned(rig, clock):
    async def has_warnings():
        await clock.advance(0.05)  # small steps: a slow disk causes many, and they must not add up to a minute
        return warnings(rig)

    return await eventually(has_warnings, what="a warning")


async def test_discovery_ends_after_its_timeout(running, clock):
    session_id = await start(running, "/start")
    await until_state(running, clock, session_id, "discovering")
    await advance(clock, 50)
    assert (await show(running, session_id))["session"]["state"] == "discovering"
    await advance(clock, 15)
    await until_state(running, clock, session_id, "active")
    assert await remaining_s(running, session_id) > LIFETIME_S - 30, "the change to active counts as activity"


async def test_remaining_time_matches_expires_at(running, clock):
    session_id = await start(running)
    assert await remaining_s(running, session_id) == LIFETIME_S
    session_view = (await show(running, session_id))["session"]
    assert session_view["updated_at"] == "2026-01-22T15:00:00.000000Z"
    assert session_view["expires_at"] == "2026-01-22T15:04:30.000000Z"
    await clock.advance(45)
    assert await remaining_s(running, session_id) == LIFETIME_S - 45
    assert (await show(running, session_id))["session"]["expires_at"] == session_view["expires_at"]


async def test_session_warns_once_then_expires(running, clock, rig):
    session_id = await start(running)
    await advance(clock, LIFETIME_S - 70)
    assert warnings(rig) == []
    await advance(clock, 12)
    ((warned_session, payload),) = await until_warned(rig, clock)
    assert warned_session == session_id
    assert payload["code"] == "SESSION_EXPIRING"
    assert payload["retryable"] is False
    assert re.search(r"expires in (60|5\d) s", payload["message"]), "the worker may see the limit some seconds later"
    await advance(clock, 30)
    assert len(warnings(rig)) == 1
    assert rig.rows("SELECT count(*) FROM session_secrets") == [(1,)]
    await advance(clock, 40)
    ended = await until_state(running, clock, session_id, "closed")
    assert ended["ending"] == "expired"
    assert ended["closed_at"]
    assert rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]
    for verb in ("pause", "resume", "provision-all"):
        answer = await running.admin.post(f"{BATCH}/{session_id}/{verb}", json={})
        assert (answer.status, answer.json["code"]) == (410, "SESSION_EXPIRED")
    answer = await running.admin.post(f"{BASE}/sessions/{session_id}/resume")
    assert (answer.status, answer.json["code"]) == (410, "SESSION_EXPIRED")
    assert await remaining_s(running, session_id) == 0
    assert (await running.admin.post(BATCH, json=GOOD)).status == 201, "the interface is free"


async def test_activity_postpones_expiry(running, clock, rig):
    session_id = await start(running)
    await advance(clock, LIFETIME_S - 55)
    await until_warned(rig, clock)
    await running.admin.post(f"{BATCH}/{session_id}/pause")
    await running.admin.post(f"{BATCH}/{session_id}/resume")
    assert await remaining_s(running, session_id) == LIFETIME_S
    await advance(clock, LIFETIME_S - 70)
    assert (await show(running, session_id))["session"]["state"] == "active"
    assert len(warnings(rig)) == 1
    await advance(clock, 20)
    await eventually(lambda: len(warnings(rig)) == 2)


async def test_reads_do_not_postpone_expiry(running, clock):
    session_id = await start(running)
    await clock.advance(100)
    for _ in range(3):
        await running.admin.get(f"{BATCH}/{session_id}/devices")
        assert await remaining_s(running, session_id) == LIFETIME_S - 100


async def test_repeats_do_not_postpone_expiry(running, clock):
    session_id = await start(running)
    await clock.advance(100)
    await running.admin.post(f"{BATCH}/{session_id}/resume")
    assert await remaining_s(running, session_id) == LIFETIME_S - 100


async def test_paused_session_expires_after_a_day(running, clock, rig):
    session_id = await start(running)
    await running.admin.post(f"{BATCH}/{session_id}/pause")
    assert await remaining_s(running, session_id) == 24 * 3600
    await advance(clock, 600)
    assert (await show(running, session_id))["session"]["state"] == "paused"
    await clock.leap(24 * 3600 - 700)
    await until_state(running, clock, session_id, "paused")
    assert warnings(rig) == []
    await advance(clock, 60)
    await until_warned(rig, clock)
    await advance(clock, 60)
    assert (await until_state(running, clock, session_id, "closed"))["ending"] == "expired"


async def test_wall_clock_jump_ends_no_session(running, clock):
    session_id = await start(running)
    for days in (400, -800):
        clock.jump_wall(timedelta(days=days))
        await advance(clock, 20)
        assert (await show(running, session_id))["session"]["state"] == "active"
    assert await remaining_s(running, session_id) == LIFETIME_S - 40


async def test_interrupted_session_waits_a_day(rig, clock):
    async with rig.daemon(clock=clock, connected=False) as running:
        session_id = await start(running)
    async with rig.daemon(clock=clock, connected=False) as running:
        session_view = (await show(running, session_id))["session"]
        assert (session_view["state"], session_view["interrupted"]) == ("paused", True)
        assert await remaining_s(running, session_id) == 24 * 3600
        await clock.leap(3600)
        await running.admin.post(f"{BASE}/sessions/{session_id}/resume")
        assert await remaining_s(running, session_id) == LIFETIME_S
