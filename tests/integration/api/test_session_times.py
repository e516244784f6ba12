"""Sessions and time: what a session does when nobody does anything, on a clock that the test moves."""

import json
import re
from datetime import timedelta

import pytest

from tests.support.clock import FakeClock
from tests.support.provisioning import BASE
from tests.support.waiting import eventually

BATCH = f"{BASE}/batch"
GOOD = {"target_ssid": "Target-Net", "target_password": "correct horse battery"}
LIFE_S = 60 + 120 + 90


@pytest.fixture
async def clock():
    return FakeClock()


@pytest.fixture
async def running(world, clock):
    async with world.daemon(clock=clock, connected=False) as running:
        yield running


async def started(running, form=""):
    return (await running.admin.post(f"{BATCH}{form}", json=GOOD)).data["session"]["id"]


async def shown(running, session):
    return (await running.admin.get(f"{BATCH}/{session}")).data


async def left_s(running, session):
    return int(re.fullmatch(r"(\d+)s", (await shown(running, session))["timeout_remaining"])[1])


async def pass_(clock, seconds):
    """Let time go by in steps in which the worker can look, as it would."""
    while seconds > 0:
        await clock.advance(min(seconds, 10))
        seconds -= 10


async def until_state(running, clock, session, state):
    async def there():
        await clock.advance(0.5)
        found = (await shown(running, session))["session"]
        return found if found["state"] == state else None

    return await eventually(there, what=state)


def warnings(world, code="SESSION_EXPIRING"):
    rows = world.rows("SELECT session_id, payload FROM events WHERE type = 'error' ORDER BY id")
    return [(session, json.loads(text)) for session, text in rows if json.loads(text)["code"] == code]


async def warned(world, clock):
    async def there():
        await clock.advance(0.05)  # while the disk is slow this comes round often, and no minute may go by
        return warnings(world)

    return await eventually(there, what="a warning")


async def test_a_search_is_over_after_its_time(running, clock):
    session = await started(running, "/start")
    await until_state(running, clock, session, "discovering")
    await pass_(clock, 50)
    assert (await shown(running, session))["session"]["state"] == "discovering"
    await pass_(clock, 15)
    await until_state(running, clock, session, "active")
    assert await left_s(running, session) > LIFE_S - 30, "and that it went on is something that happened"


async def test_time_remaining_counts_down_and_expires_at_says_the_same(running, clock):
    session = await started(running)
    assert await left_s(running, session) == LIFE_S
    told = (await shown(running, session))["session"]
    assert told["updated_at"] == "2026-01-22T15:00:00.000000Z"
    assert told["expires_at"] == "2026-01-22T15:04:30.000000Z"
    await clock.advance(45)
    assert await left_s(running, session) == LIFE_S - 45
    assert (await shown(running, session))["session"]["expires_at"] == told["expires_at"]


async def test_it_warns_once_and_then_expires_with_its_password(running, clock, world):
    session = await started(running)
    await pass_(clock, LIFE_S - 70)
    assert warnings(world) == []
    await pass_(clock, 12)
    ((told, payload),) = await warned(world, clock)
    assert told == session
    assert payload["code"] == "SESSION_EXPIRING"
    assert payload["retryable"] is False
    assert re.search(r"ends in (60|5\d) s", payload["message"]), "a pass may come at that very second"
    await pass_(clock, 30)
    assert len(warnings(world)) == 1
    assert world.rows("SELECT count(*) FROM session_secrets") == [(1,)]
    await pass_(clock, 40)
    ended = await until_state(running, clock, session, "closed")
    assert ended["ending"] == "expired"
    assert ended["closed_at"]
    assert world.rows("SELECT count(*) FROM session_secrets") == [(0,)]
    for verb in ("pause", "resume", "provision-all"):
        answer = await running.admin.post(f"{BATCH}/{session}/{verb}", json={})
        assert (answer.status, answer.json["code"]) == (410, "SESSION_EXPIRED")
    answer = await running.admin.post(f"{BASE}/sessions/{session}/resume")
    assert (answer.status, answer.json["code"]) == (410, "SESSION_EXPIRED")
    assert await left_s(running, session) == 0
    assert (await running.admin.post(BATCH, json=GOOD)).status == 201, "and the interface is free"


async def test_what_happens_in_it_postpones_the_end_and_the_warning_comes_anew(running, clock, world):
    session = await started(running)
    await pass_(clock, LIFE_S - 55)
    await warned(world, clock)
    await running.admin.post(f"{BATCH}/{session}/pause")
    await running.admin.post(f"{BATCH}/{session}/resume")
    assert await left_s(running, session) == LIFE_S
    await pass_(clock, LIFE_S - 70)
    assert (await shown(running, session))["session"]["state"] == "active"
    assert len(warnings(world)) == 1
    await pass_(clock, 20)
    await eventually(lambda: len(warnings(world)) == 2)


async def test_looking_at_it_postpones_nothing(running, clock):
    session = await started(running)
    await clock.advance(100)
    for _ in range(3):
        await running.admin.get(f"{BATCH}/{session}/devices")
        assert await left_s(running, session) == LIFE_S - 100


async def test_a_repeat_postpones_nothing_either(running, clock):
    session = await started(running)
    await clock.advance(100)
    await running.admin.post(f"{BATCH}/{session}/resume")
    assert await left_s(running, session) == LIFE_S - 100


async def test_a_paused_session_lives_for_a_day(running, clock, world):
    session = await started(running)
    await running.admin.post(f"{BATCH}/{session}/pause")
    assert await left_s(running, session) == 24 * 3600
    await pass_(clock, 600)
    assert (await shown(running, session))["session"]["state"] == "paused"
    await clock.leap(24 * 3600 - 700)
    await until_state(running, clock, session, "paused")
    assert warnings(world) == []
    await pass_(clock, 60)
    await warned(world, clock)
    await pass_(clock, 60)
    assert (await until_state(running, clock, session, "closed"))["ending"] == "expired"


async def test_a_wall_clock_that_jumps_ends_nothing(running, clock):
    session = await started(running)
    for days in (400, -800):
        clock.jump_wall(timedelta(days=days))
        await pass_(clock, 20)
        assert (await shown(running, session))["session"]["state"] == "active"
    assert await left_s(running, session) == LIFE_S - 40


async def test_an_interrupted_session_waits_for_a_day_too(world, clock):
    async with world.daemon(clock=clock, connected=False) as running:
        session = await started(running)
    async with world.daemon(clock=clock, connected=False) as running:
        told = (await shown(running, session))["session"]
        assert (told["state"], told["interrupted"]) == ("paused", True)
        assert await left_s(running, session) == 24 * 3600
        await clock.leap(3600)
        await running.admin.post(f"{BASE}/sessions/{session}/resume")
        assert await left_s(running, session) == LIFE_S
