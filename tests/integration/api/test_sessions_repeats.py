"""Writes of sessions that come twice or three times, and two clients who act at once: one effect, true counts."""

import asyncio

import pytest

from pi_orchestrator.api.routes import ROUTES
from tests.support.provisioning import BASE, FAST, PASSWORD, SSID, Batch, batch
from tests.support.waiting import eventually

BATCH = f"{BASE}/batch"
GOOD = {"target_ssid": SSID, "target_password": PASSWORD, "config": FAST}
LOGS = {"operator_actions", "sqlite_sequence", "idempotency"}
SETTINGS = {"provisioning": {"breaker_failures": 100, "request_timeout_s": 60}}

# What is asked, what has to be so before, the status. The camera never answers to its credentials: once asked for, it
# stays under way.
WRITES = {
    "devices/{mac}/provision": ((), 202),
    "devices/{mac}/retry": (("devices/{mac}/skip",), 202),
    "devices/{mac}/skip": ((), 200),
    "provision-all": ((), 202),
    "pause": ((), 200),
    "resume": (("pause",), 200),
    "close": ((), 200),
    "stop": ((), 200),
}


@pytest.fixture
async def one(world):
    """A session in which nothing happens by itself: its one camera does not answer."""
    async with batch(world, 1, faults=("provision-hang",), settings=SETTINGS) as one:
        await one.start()
        await one.joined(1)
        yield one


def told(world):
    """What was told of it, and what is stored of it but times and progress, which go on."""
    events = world.rows(
        "SELECT type, json_extract(payload, '$.new_state') FROM events WHERE session_id IS NOT NULL"
        " AND coalesce(json_extract(payload, '$.progress'), 0) = 0 ORDER BY id"
    )
    sessions = world.rows("SELECT id, state, interrupted, ending FROM sessions ORDER BY number")
    devices = world.rows("SELECT mac, state, retry_count, queued, error_code FROM session_devices")
    secrets = world.rows("SELECT session_id FROM session_secrets")
    return events, sessions, devices, secrets


def test_every_write_is_tried_here():
    verbs = {f"{BATCH}/{{id}}/{verb}" for verb in WRITES} | {BATCH, f"{BATCH}/start", f"{BASE}/secrets/rotate"}
    verbs |= {f"{BASE}/sessions/{{id}}/resume", f"{BASE}/sessions/{{id}}"}
    assert verbs == {route.path for route in ROUTES if route.tag == "provisioning" and route.writes}


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "with a key"])
@pytest.mark.parametrize("verb", WRITES)
async def test_a_write_that_comes_three_times_has_one_effect(one: Batch, world, verb, keyed):
    mac = one.cameras[0].mac
    before, status = WRITES[verb]
    for first in before:
        await one.post(first.format(mac=mac), json={})
    headers = {"Idempotency-Key": "mine"} if keyed else {}
    first = await one.post(verb.format(mac=mac), json={}, headers=headers)
    assert first.status == status, first.body
    after = told(world)
    for _ in range(2):
        again = await one.post(verb.format(mac=mac), json={}, headers=headers)
        assert again.status == status, again.body
        same = ("mac", "state", "initiated_count", "skipped_count")
        assert [again.data.get(name) for name in same] == [first.data.get(name) for name in same]
        if "session" in first.data:
            assert again.data["session"]["state"] == first.data["session"]["state"]
        if keyed:
            assert again.data == first.data
    assert told(world) == after
    assert one.cameras[0].provision_requests <= 1


@pytest.mark.parametrize("verb", WRITES)
async def test_two_at_the_same_moment_have_one_effect(one: Batch, world, verb):
    mac = one.cameras[0].mac
    before, status = WRITES[verb]
    for first in before:
        await one.post(first.format(mac=mac), json={})
    count = len(told(world)[0])
    answers = await asyncio.gather(*(one.post(verb.format(mac=mac), json={}) for _ in range(6)))
    assert {answer.status for answer in answers} == {status}
    events = told(world)[0][count:]
    states = [state for kind, state in events if kind == "device.state_changed"]
    assert len(states) == len(set(states)) <= 1, "each step is told once"


@pytest.mark.parametrize("form", ["", "/start"])
async def test_a_start_that_comes_again_is_refused_without_a_key_and_answered_with_one(daemon, world, form):
    headers = {"Idempotency-Key": "start-once"}
    first = await daemon.admin.post(f"{BATCH}{form}", json=GOOD, headers=headers)
    assert first.status == 201
    for _ in range(2):
        again = await daemon.admin.post(f"{BATCH}{form}", json=GOOD, headers=headers)
        assert (again.status, again.data) == (201, first.data)
        plain = await daemon.admin.post(f"{BATCH}{form}", json=GOOD)
        assert (plain.status, plain.json["code"]) == (409, "SESSION_ALREADY_ACTIVE")
        assert first.data["session"]["id"] in plain.json["error"]["details"]
    other = await daemon.admin.post(f"{BATCH}{form}", json=GOOD | {"target_ssid": "Another"}, headers=headers)
    assert (other.status, other.json["code"]) == (409, "CONFLICT")
    assert world.rows("SELECT count(*) FROM sessions") == [(1,)]
    assert world.rows("SELECT count(*) FROM session_secrets") == [(1,)]


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "with a key"])
async def test_recovery_and_discard_that_come_three_times_have_one_effect(world, keyed):
    async with world.daemon(connected=False) as running:
        mine = (await running.admin.post(BATCH, json=GOOD)).data["session"]["id"]
    async with world.daemon(connected=False) as running:
        for method, path, status in (
            ("POST", f"{BASE}/sessions/{mine}/resume", 200),
            ("DELETE", f"{BASE}/sessions/{mine}", 204),
        ):
            headers = {"Idempotency-Key": method} if keyed else {}
            assert (await running.admin.call(method, path, headers=headers)).status == status
            after = told(world)
            for _ in range(2):
                assert (await running.admin.call(method, path, headers=headers)).status == status
            assert told(world) == after
    assert world.rows("SELECT state, ending FROM sessions") == [("closed", "discarded")]


async def test_a_rotation_that_comes_three_times_leaves_the_password_readable(world):
    async with batch(world, 1) as one:
        await one.start()
        await one.joined(1)
        answers = [await one.admin.post(f"{BASE}/secrets/rotate") for _ in range(3)]
        answers += await asyncio.gather(*(one.admin.post(f"{BASE}/secrets/rotate") for _ in range(3)))
        assert [answer.data["rotated"] for answer in answers] == [1] * 6
        await one.post("provision-all", json={})
        assert (await one.until_done())["verified_count"] == 1
    assert one.cameras[0].provisioned[0].ssid == SSID


# Two clients.


async def test_of_two_who_start_at_once_one_has_the_session_and_the_other_is_told_which(daemon, world):
    answers = await asyncio.gather(*(daemon.admin.post(BATCH, json=GOOD) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    (won,) = [answer for answer in answers if answer.status == 201]
    for answer in answers:
        if answer is not won:
            assert won.data["session"]["id"] in answer.json["error"]["details"]
    assert world.rows("SELECT count(*) FROM sessions") == [(1,)]
    assert world.rows("SELECT session_id FROM session_secrets") == [(won.data["session"]["id"],)]


async def test_starts_and_rotations_at_once_lose_no_password(world):
    async with batch(world, 1, allowed=True) as one:
        for _ in range(5):
            asked = [one.admin.post(f"{BASE}/secrets/rotate") for _ in range(3)]
            started, *rotated = await asyncio.gather(one.admin.post(BATCH, json=GOOD), *asked)
            assert {answer.status for answer in rotated} == {200}
            one.id = started.data["session"]["id"]
            key_ids = [key for (key,) in world.rows("SELECT key_id FROM session_secrets")]
            held = (world.state_dir / "secrets.key").read_text()
            assert all(key in held for key in key_ids), "its key is still there"
            await one.post("close")


async def test_asked_for_and_closed_at_once_it_is_failed_or_done_and_never_left_under_way(world):
    async with batch(world, 6, settings=SETTINGS) as one:
        await one.start()
        found = await one.joined(6)
        asked = [one.post(f"devices/{mac}/provision") for mac in found]
        *answers, closed = await asyncio.gather(*asked, one.post("close"))
        assert {answer.status for answer in answers} <= {202, 409}
        for answer in answers:
            assert answer.status == 202 or answer.json["code"] == "SESSION_ALREADY_CLOSED"

        async def ended():
            return (await one.session())["state"] == "closed"

        await eventually(ended, within=30)
        session, states = await one.session(), [device["state"] for device in (await one.devices()).values()]
        assert closed.status == 200
        assert set(states) <= {"discovered", "verified", "failed"}
        assert session["failed_count"] == states.count("failed")
        assert session["verified_count"] == states.count("verified")
    assert world.rows("SELECT count(*) FROM session_secrets") == [(0,)]


async def test_paused_and_asked_for_at_once_the_one_or_the_other_came_first(world):
    async with batch(world, 6, faults=("provision-hang",) * 6, settings=SETTINGS) as one:
        await one.start()
        await one.joined(6)
        paused, asked = await asyncio.gather(one.post("pause"), one.post("provision-all", json={}))
        assert paused.data["session"]["state"] == "paused"
        states = {device["state"] for device in (await one.devices()).values()}
        if asked.status == 202:
            assert asked.data["initiated_count"] == 6
            assert states == {"provisioning"}
        else:
            assert (asked.status, asked.json["code"]) == (409, "CONFLICT")
            assert states == {"discovered"}
        assert (await one.session())["state"] == "paused"


async def test_skipped_and_retried_at_once_it_stands_in_line_or_is_out(one: Batch):
    mac = one.cameras[0].mac
    await one.post(f"devices/{mac}/skip")
    for _ in range(3):
        skipped, retried = await asyncio.gather(one.post(f"devices/{mac}/skip"), one.post(f"devices/{mac}/retry"))
        assert (skipped.status, retried.status) == (200, 202)
        device = (await one.devices())[mac]
        assert device["state"] in ("provisioning", "failed")
        assert device["retry_count"] == 1
        assert (await one.session())["failed_count"] == (device["state"] == "failed")


async def test_closed_and_discarded_and_resumed_at_once_it_ends_once(world):
    async with world.daemon(connected=False) as running:
        mine = (await running.admin.post(BATCH, json=GOOD)).data["session"]["id"]
    async with world.daemon(connected=False) as running:
        api, url = running.admin, f"{BASE}/sessions/{mine}"
        closed, discarded, resumed = await asyncio.gather(
            api.post(f"{BATCH}/{mine}/close"), api.delete(url), api.post(f"{url}/resume")
        )
        assert (closed.status, discarded.status) == (200, 204)
        assert resumed.status == 200 or resumed.json["code"] == "SESSION_NOT_RECOVERABLE"
        kept = (await api.get(f"{BASE}/sessions/history")).data["sessions"]
        assert [one["state"] for one in kept] == ["closed"]
    states = world.rows("SELECT json_extract(payload, '$.session.state') FROM events WHERE type = 'session.status'")
    assert states.count(("closed",)) == 1
    assert 1 <= states.count(("closing",)) <= 2, "a discard hastens a close"
