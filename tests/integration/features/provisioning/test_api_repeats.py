"""Repeated and concurrent writes of sessions: one effect, correct counts."""

import asyncio

import pytest

from pi_orchestrator.app.build import ROUTES
from tests.support.provisioning import BASE, FAST, PASSWORD, SSID, Batch, batch, set_breaker
from tests.support.waiting import HANG_S, eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

BATCH = f"{BASE}/batch"
GOOD = {"target_ssid": SSID, "target_password": PASSWORD, "config": FAST}
LOGS = {"operator_actions", "sqlite_sequence", "idempotency"}
SETTINGS = {"provisioning": {"request_timeout_s": 60}}

# Bodies other than `{}`.
BODIES = {"devices/{mac}/confirm": {"changes_id": "0" * 16}}
# Request → requests before it, status. The camera never answers the provisioning request, so it stays under way.
WRITES = {
    "devices/{mac}/provision": ((), 202),
    "devices/{mac}/retry": (("devices/{mac}/skip",), 202),
    "devices/{mac}/confirm": ((), 202),
    "devices/{mac}/skip": ((), 200),
    "provision-all": ((), 202),
    "pause": ((), 200),
    "resume": (("pause",), 200),
    "close": ((), 200),
    "stop": ((), 200),
}


@pytest.fixture(autouse=True)
def many_failures(monkeypatch):
    """No circuit breaker opens."""
    set_breaker(monkeypatch, failures=100)


@pytest.fixture
async def setup(rig):
    """A session without progress: its only camera does not answer."""
    async with batch(rig, 1, faults=("provision-hang",), settings=SETTINGS) as setup:
        await setup.start()
        await setup.wait_for_cameras(1)
        yield setup


def recorded(rig):
    """Events and stored rows, without times and progress, which still change."""
    events = rig.rows(
        "SELECT type, json_extract(payload, '$.new_state') FROM events WHERE session_id IS NOT NULL"
        " AND coalesce(json_extract(payload, '$.progress'), 0) = 0 ORDER BY id"
    )
    sessions = rig.rows("SELECT id, state, interrupted, ending FROM sessions ORDER BY number")
    devices = rig.rows("SELECT mac, state, retry_count, queued, error_code FROM session_devices")
    secrets = rig.rows("SELECT session_id FROM session_secrets")
    return events, sessions, devices, secrets


def test_every_write_is_covered():
    verbs = {f"{BATCH}/{{id}}/{verb}" for verb in WRITES} | {BATCH, f"{BATCH}/start", f"{BASE}/secrets/rotate"}
    verbs |= {f"{BASE}/sessions/{{id}}/resume", f"{BASE}/sessions/{{id}}"}
    assert verbs == {route.path for route in ROUTES if route.tag == "provisioning" and route.writes}


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "idempotency key"])
@pytest.mark.parametrize("verb", WRITES)
async def test_repeated_write_has_one_effect(setup: Batch, rig, verb, keyed):
    mac = setup.cameras[0].mac
    before, status = WRITES[verb]
    for earlier in before:
        await setup.post(earlier.format(mac=mac), json={})
    headers = {"Idempotency-Key": "mine"} if keyed else {}
    first = await setup.post(verb.format(mac=mac), json=BODIES.get(verb, {}), headers=headers)
    assert first.status == status, first.body
    after = recorded(rig)
    for _ in range(2):
        again = await setup.post(verb.format(mac=mac), json=BODIES.get(verb, {}), headers=headers)
        assert again.status == status, again.body
        same = ("mac", "state", "initiated_count", "skipped_count")
        assert [again.data.get(name) for name in same] == [first.data.get(name) for name in same]
        if "session" in first.data:
            assert again.data["session"]["state"] == first.data["session"]["state"]
        if keyed:
            assert again.data == first.data
    assert recorded(rig) == after
    assert setup.cameras[0].provision_requests <= 1


@pytest.mark.parametrize("verb", WRITES)
async def test_concurrent_writes_have_one_effect(setup: Batch, rig, verb):
    mac = setup.cameras[0].mac
    before, status = WRITES[verb]
    for earlier in before:
        await setup.post(earlier.format(mac=mac), json={})
    count = len(recorded(rig)[0])
    answers = await asyncio.gather(*(setup.post(verb.format(mac=mac), json=BODIES.get(verb, {})) for _ in range(6)))
    assert {answer.status for answer in answers} == {status}
    events = recorded(rig)[0][count:]
    states = [state for kind, state in events if kind == "device.state_changed"]
    assert len(states) == len(set(states)) <= 1, "each step is published once"


@pytest.mark.parametrize("form", ["", "/start"])
async def test_repeated_start_needs_idempotency_key(daemon, rig, form):
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
    assert rig.rows("SELECT count(*) FROM sessions") == [(1,)]
    assert rig.rows("SELECT count(*) FROM session_secrets") == [(1,)]


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "idempotency key"])
async def test_repeated_recovery_has_one_effect(rig, keyed):
    async with rig.daemon(connected=False) as running:
        session_id = (await running.admin.post(BATCH, json=GOOD)).data["session"]["id"]
    async with rig.daemon(connected=False) as running:
        for method, path, status in (
            ("POST", f"{BASE}/sessions/{session_id}/resume", 200),
            ("DELETE", f"{BASE}/sessions/{session_id}", 204),
        ):
            headers = {"Idempotency-Key": method} if keyed else {}
            assert (await running.admin.call(method, path, headers=headers)).status == status
            after = recorded(rig)
            for _ in range(2):
                assert (await running.admin.call(method, path, headers=headers)).status == status
            assert recorded(rig) == after
    assert rig.rows("SELECT state, ending FROM sessions") == [("closed", "discarded")]


async def test_repeated_rotation_keeps_password(rig):
    async with batch(rig, 1) as setup:
        await setup.start()
        await setup.wait_for_cameras(1)
        answers = [await setup.admin.post(f"{BASE}/secrets/rotate") for _ in range(3)]
        answers += await asyncio.gather(*(setup.admin.post(f"{BASE}/secrets/rotate") for _ in range(3)))
        assert [answer.data["rotated"] for answer in answers] == [1] * 6
        await setup.post("provision-all", json={})
        assert (await setup.wait_until_done())["verified_count"] == 1
    assert setup.cameras[0].provisioned[0].ssid == SSID


async def test_close_during_rotation_keeps_password_erased(rig, monkeypatch):
    async with batch(rig, 1) as setup:
        await setup.start()
        vault, loop = setup.running.app.resources.vault, asyncio.get_running_loop()
        seal = vault.seal

        def seal_while_closing(*args, **options):
            asyncio.run_coroutine_threadsafe(setup.post("close"), loop).result(HANG_S)
            return seal(*args, **options)

        monkeypatch.setattr(vault, "seal", seal_while_closing)
        assert (await setup.admin.post(f"{BASE}/secrets/rotate")).status == 200
        assert (await setup.session())["state"] == "closed"
    assert rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]


# Concurrent clients.


async def test_concurrent_starts_open_one_session(daemon, rig):
    answers = await asyncio.gather(*(daemon.admin.post(BATCH, json=GOOD) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    (won,) = [answer for answer in answers if answer.status == 201]
    for answer in answers:
        if answer is not won:
            assert won.data["session"]["id"] in answer.json["error"]["details"]
    assert rig.rows("SELECT count(*) FROM sessions") == [(1,)]
    assert rig.rows("SELECT session_id FROM session_secrets") == [(won.data["session"]["id"],)]


async def test_concurrent_rotation_keeps_password(rig):
    async with batch(rig, 1, allowed=True) as setup:
        for _ in range(5):
            rotations = [setup.admin.post(f"{BASE}/secrets/rotate") for _ in range(3)]
            started, *rotated = await asyncio.gather(setup.admin.post(BATCH, json=GOOD), *rotations)
            assert {answer.status for answer in rotated} == {200}
            setup.id = started.data["session"]["id"]
            key_ids = [key for (key,) in rig.rows("SELECT key_id FROM session_secrets")]
            held = (rig.state_dir / "secrets.key").read_text()
            assert all(key in held for key in key_ids), "the key of each stored password still exists"
            await setup.post("close")


async def test_concurrent_close_leaves_no_camera_under_way(rig):
    async with batch(rig, 6, settings=SETTINGS) as setup:
        await setup.start()
        found = await setup.wait_for_cameras(6)
        requests = [setup.post(f"devices/{mac}/provision") for mac in found]
        *answers, closed = await asyncio.gather(*requests, setup.post("close"))
        assert {answer.status for answer in answers} <= {202, 409}
        for answer in answers:
            assert answer.status == 202 or answer.json["code"] == "SESSION_ALREADY_CLOSED"

        async def ended():
            return (await setup.session())["state"] == "closed"

        await eventually(ended)
        session, states = await setup.session(), [device["state"] for device in (await setup.devices()).values()]
        assert closed.status == 200
        assert set(states) <= {"discovered", "verified", "failed"}
        assert session["failed_count"] == states.count("failed")
        assert session["verified_count"] == states.count("verified")
    assert rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]


async def test_concurrent_pause_and_start_take_effect_in_order(rig):
    async with batch(rig, 6, faults=("provision-hang",) * 6, settings=SETTINGS) as setup:
        await setup.start()
        await setup.wait_for_cameras(6)
        paused, requested = await asyncio.gather(setup.post("pause"), setup.post("provision-all", json={}))
        assert paused.data["session"]["state"] == "paused"
        states = {device["state"] for device in (await setup.devices()).values()}
        if requested.status == 202:
            assert requested.data["initiated_count"] == 6
            assert states == {"provisioning"}
        else:
            assert (requested.status, requested.json["code"]) == (409, "CONFLICT")
            assert states == {"discovered"}
        assert (await setup.session())["state"] == "paused"


async def test_concurrent_skip_and_retry_take_effect_in_order(setup: Batch):
    mac = setup.cameras[0].mac
    await setup.post(f"devices/{mac}/skip")
    for _ in range(3):
        skipped, retried = await asyncio.gather(setup.post(f"devices/{mac}/skip"), setup.post(f"devices/{mac}/retry"))
        assert (skipped.status, retried.status) == (200, 202)
        device = (await setup.devices())[mac]
        assert device["state"] in ("provisioning", "failed")
        assert device["retry_count"] == 1
        assert (await setup.session())["failed_count"] == (device["state"] == "failed")


async def test_concurrent_discard_ends_once(rig):
    async with rig.daemon(connected=False) as running:
        session_id = (await running.admin.post(BATCH, json=GOOD)).data["session"]["id"]
    async with rig.daemon(connected=False) as running:
        api, url = running.admin, f"{BASE}/sessions/{session_id}"
        closed, discarded, resumed = await asyncio.gather(
            api.post(f"{BATCH}/{session_id}/close"), api.delete(url), api.post(f"{url}/resume")
        )
        assert (closed.status, discarded.status) == (200, 204)
        assert resumed.status == 200 or resumed.json["code"] == "SESSION_NOT_RECOVERABLE"
        kept = (await api.get(f"{BASE}/sessions/history")).data["sessions"]
        assert [session["state"] for session in kept] == ["closed"]
    states = rig.rows("SELECT json_extract(payload, '$.session.state') FROM events WHERE type = 'session.status'")
    assert states.count(("closed",)) == 1
    assert 1 <= states.count(("closing",)) <= 2, "a discard shortens a close"
