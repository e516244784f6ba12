"""Writes: executed once even if they are repeated, and stored in the audit log."""

import asyncio
from unittest.mock import ANY

import pytest

from pi_orchestrator.app.build import ROUTES
from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.http.model import Message
from pi_orchestrator.http.route import BARE, BINARY
from tests.support.api import (
    ALLOWLIST,
    BATCH,
    BODIES,
    CAMERA,
    CONTAINERS,
    LISTED,
    NOT_LISTED,
    REPLACE,
    SCAN,
    call_route,
    case,
    decoded,
    exchange,
    good_body,
    has_own_camera,
    own_container,
    own_mac,
    session_for,
    target,
    with_routes,
)
from tests.support.waiting import HANG_S

pytestmark = pytest.mark.usefixtures("documented_answers", "sample_data_per_route")

AUTO = "/api/v1/onboarding/auto"
KEYS = "/api/v1/keys"
CONFIGS = ("/api/v1/config", "/api/dashboard/config")
WRITES = [route for route in ROUTES if route.writes]
REPLAYED = [route for route in WRITES if not route.secret and route.shape is not BINARY]
LOGS = {"operator_actions", "events", "idempotency", "sqlite_sequence"}  # they change with each request

# The first answer counts changes, so the answer to a repeat differs; the tests of the allowlist check both.
COUNTED = {ALLOWLIST, *(f"{ALLOWLIST}/{verb}" for verb in ("bulk", "import", "bulk-remove", "all"))}

# Without an Idempotency-Key a second start is refused; the error names the open session.
STARTS = {BATCH, f"{BATCH}/start"}

each_write = pytest.mark.parametrize("route", WRITES, ids=lambda route: f"{route.method} {route.path}")
each_replayed = pytest.mark.parametrize("route", REPLAYED, ids=lambda route: f"{route.method} {route.path}")


def state(rig):
    return {name: rows for name, rows in rig.tables().items() if name not in LOGS}


def actions(rig):
    columns = "actor, peer, correlation_id, action, target, outcome"
    return rig.rows(f"SELECT {columns} FROM operator_actions WHERE actor <> 'first start' ORDER BY id")


# Repeats.


@each_write
async def test_repeated_write_has_no_second_effect(daemon, rig, route):
    """The dashboard sends every write up to three times."""
    first = await call_route(daemon.admin, route)
    assert first.status == route.status
    after_one = state(rig)
    for which in "second", "third":
        again = await call_route(daemon.admin, route)
        if route.secret:
            assert again.status == 409, "a key is shown once; a repeat is a conflict"
        elif route.path in STARTS:
            assert (again.status, again.json["code"]) == (409, "SESSION_ALREADY_ACTIVE")
            assert first.data["session"]["id"] in again.json["error"]["details"]
        elif route.path in COUNTED and which == "second":
            assert again.status == 200
            first = again
        else:
            assert again.status == first.status
            assert not first.body or decoded(route, again) == decoded(route, first)
    assert state(rig) == after_one


@each_replayed
async def test_idempotency_key_gets_first_answer(daemon, rig, route):
    headers = {"Idempotency-Key": "7d5a8a2e-0001"}
    first = await call_route(daemon.admin, route, headers=headers)
    seen = actions(rig)
    assert first.status == route.status
    await rig.execute_in_thread("UPDATE onboarding_state SET attempts = 7")  # a second run would change it
    for _ in "second", "third":
        again = await call_route(daemon.admin, route, headers=headers)
        assert (again.status, again.headers.get("Content-Type")) == (first.status, first.headers.get("Content-Type"))
        if first.body:
            assert decoded(route, again) == decoded(route, first)
            assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
            assert route.shape is BARE or again.json["correlation_id"] == again.headers["X-Request-Id"]
    assert actions(rig) == seen
    assert rig.rows("SELECT attempts FROM onboarding_state") == [(7,)]


async def test_first_answer_is_replayed_after_changes(daemon, rig):
    rows = "INSERT INTO onboarding_audit (mac_address, stage, at, boot_id, monotonic, clock_trusted) VALUES "
    await rig.execute_in_thread(
        rows + ",".join(["('24:6F:28:00:00:10', 'failed', '2020-01-01T00:00:00.000000Z', 'b', 1, 1)"] * 3)
    )
    for _ in range(3):
        answer = await daemon.admin.post(f"{AUTO}/events/cleanup", headers={"Idempotency-Key": "spring-clean"})
        assert answer.data["deleted_count"] == 3
    assert (await daemon.admin.post(f"{AUTO}/events/cleanup")).data["deleted_count"] == 0


async def test_answer_is_replayed_after_restart(rig):
    async with rig.daemon(connected=False) as running:
        headers = {"Idempotency-Key": "over-the-restart"}
        first = await running.api.post(f"{AUTO}/disable", headers=headers)
        await running.api.post(f"{AUTO}/enable")
    async with rig.daemon(connected=False) as running:
        again = await running.api.post(f"{AUTO}/disable", headers=headers)
        assert again.data == first.data
        assert (await running.status())["enabled"] is True, "not executed again"


async def test_idempotency_key_belongs_to_one_request(daemon):
    async def send(path, **more):
        return await daemon.admin.post(path, headers={"Idempotency-Key": "mine"}, **more)

    assert (await send(f"{AUTO}/events/cleanup", params={"days": 30})).status == 200
    for other in ({"params": {"days": 31}}, {}, {"params": {"days": 30}, "data": b"{}"}):
        answer = await send(f"{AUTO}/events/cleanup", **other)
        assert (answer.status, answer.json["code"]) == (409, "CONFLICT")
        assert "Idempotency-Key" in answer.json["error"]["message"]
    assert (await send(f"{AUTO}/events/cleanup", params={"days": 30})).status == 200
    assert (await send(f"{AUTO}/disable")).data["enabled"] is False, (
        "another operation may use the same Idempotency-Key"
    )


async def test_idempotency_key_reused_for_other_path_is_409(daemon):
    headers = {"Idempotency-Key": "mine"}
    assert (await daemon.admin.delete(f"{KEYS}/one", headers=headers)).status == 204
    assert (await daemon.admin.delete(f"{KEYS}/two", headers=headers)).status == 409


@pytest.mark.parametrize("key", ["", " ", "two words", "x" * 129, "\xe9", "\udcff", "tab\there"])
async def test_malformed_idempotency_key_is_refused(daemon, rig, key):
    before = rig.tables()
    for route in WRITES:
        kind, body = good_body(route)
        headers = [("X-API-Key", daemon.admin.key), ("Idempotency-Key", key), ("Content-Type", kind)]
        with case(route.method, route.path):
            answer = await exchange(
                daemon, route.method, target(route), [*headers, ("Content-Length", len(body))], body
            )
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith("Idempotency-Key: ")
    assert rig.tables() == before


async def test_unusual_idempotency_keys_are_accepted(daemon):
    for key in ("x" * 128, "!", "~\"'\\;--%00"):
        for _ in range(2):
            assert (await daemon.api.post(f"{AUTO}/disable", headers={"Idempotency-Key": key})).status == 200


async def test_overlapping_repeats_run_once(daemon, rig):
    headers = {"Idempotency-Key": "at-the-same-time"}
    answers = await asyncio.gather(*(daemon.api.post(f"{AUTO}/metrics/reset", headers=headers) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 20
    assert len(actions(rig)) == 1


async def test_different_keys_run_separately(daemon, rig):
    answers = await asyncio.gather(
        *(daemon.api.post(f"{AUTO}/metrics/reset", headers={"Idempotency-Key": f"k{n}"}) for n in range(20))
    )
    assert {answer.status for answer in answers} == {200}
    assert len(actions(rig)) == 20


async def test_refusal_is_not_stored(rig):
    headers = {"Idempotency-Key": "again-later"}
    async with rig.daemon(connected=False, auto_onboard={"mode": "off", "enabled": False}) as running:
        assert (await running.api.post(f"{AUTO}/enable", headers=headers)).status == 400
        running.daemon.apply(rig.settings(auto_onboard={"mode": "dev"}))
        assert (await running.api.post(f"{AUTO}/enable", headers=headers)).data["enabled"] is True


async def test_repeats_after_failure_run_one_at_a_time(daemon):
    """Repeats that waited for the first request, and later ones, must not run concurrently."""
    started, running, max_running, proceed = 0, 0, 0, asyncio.Semaphore(0)

    async def slow(actor: Actor) -> Message:
        nonlocal started, running, max_running
        started, running = started + 1, running + 1
        max_running = max(max_running, running)
        try:
            await proceed.acquire()
            if started == 1:
                raise OrchestratorError("not this time", code="DATABASE_ERROR")
            return Message(message=f"run {started}")
        finally:
            running -= 1

    route = Route("POST", "/api/v1/slow", slow, "health", "Slow", Scope.OPERATE)

    async def until(condition):
        async with asyncio.timeout(HANG_S):
            while not condition():
                await asyncio.sleep(0.005)

    async with with_routes(daemon, route) as api:

        async def send():
            async with api.session.post(f"{api.url}/api/v1/slow", headers={"Idempotency-Key": "k"}) as response:
                return response.status, (await response.json()).get("data")

        first = asyncio.create_task(send())
        await until(lambda: started == 1)
        waiting = asyncio.create_task(send())
        answered = daemon.app.base.answered
        proceed.release()
        assert (await first)[0] == 500
        await until(lambda: started == 2)
        late = asyncio.create_task(send())
        count = answered.total()
        assert (await daemon.api.get("/health")).status == 200
        await until(lambda: answered.total() > count)
        assert running == 1
        proceed.release()
        assert await waiting == await late == (200, {"message": "run 2"})
    assert (started, max_running) == (2, 1)


async def test_stored_answer_needs_access(daemon, rig):
    headers = {"Idempotency-Key": "not-for-you"}
    assert (await daemon.admin.post(f"{AUTO}/events/cleanup", headers=headers)).status == 200
    assert (await daemon.api.post(f"{AUTO}/events/cleanup", headers=headers)).status == 401


async def test_secret_answers_are_stored_in_memory_only(daemon, rig):
    headers = {"Idempotency-Key": "secret-please"}
    first = await daemon.admin.post(KEYS, json={"name": "dashboard"}, headers=headers)
    assert first.status == 201
    again = await daemon.admin.post(KEYS, json={"name": "dashboard"}, headers=headers)
    assert (again.status, again.data) == (201, first.data)
    other = await daemon.admin.post(KEYS, json={"name": "another"}, headers=headers)
    assert (other.status, other.json["code"]) == (409, "CONFLICT")
    assert rig.rows("SELECT count(*) FROM idempotency") == [(0,)]
    assert (await daemon.admin.get(KEYS)).data["count"] == 2


async def test_secret_answer_is_forgotten_after_five_minutes(rig, clock):
    headers, body = {"Idempotency-Key": "secret-please"}, {"name": "dashboard"}
    async with rig.daemon(connected=False, clock=clock) as running:
        assert (await running.admin.post(KEYS, json=body, headers=headers)).status == 201
        await clock.advance(299)
        assert (await running.admin.post(KEYS, json=body, headers=headers)).status == 201
        await clock.advance(2)
        assert (await running.admin.post(KEYS, json=body, headers=headers)).status == 409, "the name is taken"


async def test_reads_ignore_idempotency_key(daemon, rig):
    for _ in range(2):
        assert (await daemon.api.get(f"{AUTO}/status", headers={"Idempotency-Key": "two words"})).status == 200
    assert rig.rows("SELECT count(*) FROM idempotency") == [(0,)]


# The audit log of operator actions.


# Route → (action, target).
ACTIONS = {
    ("POST", f"{AUTO}/enable"): ("onboarding.enable", None),
    ("POST", f"{AUTO}/disable"): ("onboarding.disable", None),
    ("POST", f"{AUTO}/metrics/reset"): ("onboarding.metrics_reset", None),
    ("POST", f"{AUTO}/events/cleanup"): ("onboarding.events_cleanup", "90 days"),
    ("POST", KEYS): ("api_key.create", "a new key"),
    ("DELETE", f"{KEYS}/{{id}}"): ("api_key.revoke", "unused-name"),
    ("POST", "/api/v1/espcam/scan"): ("scan.start", ANY),
    ("DELETE", "/api/v1/espcam/scan/{id}"): ("scan.cancel", SCAN),
    ("POST", ALLOWLIST): ("allowlist.add", NOT_LISTED),
    ("PATCH", f"{ALLOWLIST}/{{mac}}"): ("allowlist.change", LISTED),
    ("DELETE", f"{ALLOWLIST}/{{mac}}"): ("allowlist.remove", LISTED),
    ("POST", f"{ALLOWLIST}/bulk"): ("allowlist.bulk", "2 rows"),
    ("POST", f"{ALLOWLIST}/import"): ("allowlist.import", "1 rows"),
    ("POST", f"{ALLOWLIST}/bulk-remove"): ("allowlist.bulk_remove", "1 MACs"),
    ("DELETE", f"{ALLOWLIST}/all"): ("allowlist.clear", None),
    ("POST", BATCH): ("session.start", ANY),
    ("POST", f"{BATCH}/start"): ("session.start", ANY),
    ("POST", "/api/v1/provisioning/secrets/rotate"): ("secrets.rotate", "0 passwords"),
    **{("PUT", f"{path}/{{key}}"): ("config.set", "cameras.idle_after_s") for path in CONFIGS},
    **{("POST", f"{path}/{{key}}/reset"): ("config.reset", "cameras.idle_after_s") for path in CONFIGS},
    ("POST", CONTAINERS): ("container.create", ANY),
    **{
        ("POST", f"{BATCH}/{{id}}/devices/{{mac}}/{verb}"): (f"device.{verb}", LISTED)
        for verb in ("provision", "retry", "confirm", "skip")
    },
}
for route in [route for route in WRITES if route.tag in ("captures", "dashboard")]:
    ACTIONS[route.method, route.path] = route.action, CAMERA
for route in [r for r in WRITES if r.tag == "provisioning" and "{id}" in r.path and "{mac}" not in r.path]:
    ACTIONS[route.method, route.path] = route.action, session_for(route)
for route in [route for route in WRITES if has_own_camera(route) and route.path != CONTAINERS]:
    own = own_container if route.action in ("container.change", "container.delete") else own_mac
    ACTIONS[route.method, route.path] = route.action, own(route.method, route.path)
ACTIONS["POST", REPLACE] = "camera.replace", f"{BODIES[REPLACE]['old_mac']} by {BODIES[REPLACE]['new_mac']}"
OUTCOMES = {
    "camera.command": "ping",
    "camera.lift": "was not there",
    "api_key.revoke": "was not there",
    "scan.cancel": "had ended",
    "allowlist.bulk": "0 added, 0 updated, 1 skipped, 1 refused",
    "allowlist.import": "1 added, 0 updated, 0 skipped, 0 refused",
    "allowlist.bulk_remove": "1 removed",
    "allowlist.clear": "1 removed",
    "config.reset": "was so already",
    "device.provision": "was so already",
    "device.retry": "was so already",
    "device.confirm": "was so already",
}


def test_every_write_route_has_expected_action():
    assert {(route.method, route.path) for route in WRITES} == set(ACTIONS)


@each_write
async def test_write_is_audited_with_actor_and_peer(daemon, rig, route):
    kind, body = good_body(route)
    answer = await exchange(
        daemon,
        route.method,
        target(route),
        [
            ("X-API-Key", daemon.admin.key),
            ("X-Request-Id", "my-correlation-id"),
            ("Content-Type", kind),
            ("Content-Length", len(body)),
        ],
        body,
        source="127.0.0.9",
    )
    assert answer.status == route.status
    action, action_target = ACTIONS[route.method, route.path]
    outcome = OUTCOMES.get(action, "ok")
    assert actions(rig) == [("admin", "127.0.0.9", "my-correlation-id", action, action_target, outcome)]
    ((at, boot_id, monotonic),) = rig.rows("SELECT at, boot_id, monotonic FROM operator_actions WHERE actor = 'admin'")
    assert at.endswith("Z")
    assert boot_id
    assert monotonic > 0


async def test_write_without_key_is_audited_as_dash(daemon, rig):
    await daemon.api.post(f"{AUTO}/disable")
    ((actor, peer, *_),) = actions(rig)
    assert (actor, peer) == ("-", "127.0.0.1")


async def test_write_with_configured_key_is_audited(rig):
    async with rig.daemon(connected=False, auth={"api_key": "configured-key-0123"}) as running:
        await running.api.post(f"{AUTO}/disable", headers={"X-API-Key": "configured-key-0123"})
    assert [row[0] for row in actions(rig)] == ["configured"]


async def test_revocation_is_audited_with_key_name(daemon, rig):
    await daemon.admin.post(KEYS, json={"name": "dashboard"})
    await daemon.admin.delete(f"{KEYS}/dashboard")
    assert [row[3:] for row in actions(rig)] == [
        ("api_key.create", "dashboard", "ok"),
        ("api_key.revoke", "dashboard", "ok"),
    ]


async def test_creation_of_first_key_is_audited(daemon, rig):
    rows = rig.rows("SELECT actor, action, target, outcome FROM operator_actions")
    assert rows == [("first start", "api_key.create", "admin", "ok")]


async def test_reads_and_rejected_writes_are_not_audited(daemon, rig):
    for route in ROUTES:
        if not route.writes:
            await call_route(daemon.admin, route)
        else:
            await call_route(daemon.admin, route, headers={"Origin": "http://evil.example"})
            await call_route(
                daemon.api, route, headers={"X-API-Key": "wrong"}
            ) if route.needs_key_in_provisioning_mode else None
            await call_route(daemon.admin, route, headers={"Idempotency-Key": ""})
    assert actions(rig) == []


async def test_action_is_stored_before_answer(daemon, rig):
    """The row and the change are one transaction, which is committed before the answer."""
    for number in range(20):
        path = "enable" if number % 2 else "disable"
        await daemon.api.post(f"{AUTO}/{path}")
        assert rig.rows("SELECT enabled FROM onboarding_state") == [(number % 2,)]
        assert len(actions(rig)) == number + 1


async def test_refused_write_is_audited_with_code(rig):
    async with rig.daemon(connected=False, auto_onboard={"enabled": False, "mode": "off"}) as running:
        assert (await running.api.post(f"{AUTO}/enable")).status == 400
        assert (await running.admin.post(KEYS, json={"name": "admin"})).status == 409
    assert [(row[0], row[3], row[5]) for row in actions(rig)] == [
        ("-", "onboarding.enable", "ONBOARD_ENABLE_FAILED"),
        ("admin", "api_key.create", "CONFLICT"),
    ]


async def test_key_given_as_name_is_masked(daemon, rig):
    assert (await daemon.admin.delete(f"{KEYS}/{daemon.admin.key}")).status == 204
    assert [row[3:] for row in actions(rig)] == [("api_key.revoke", "***", "was not there")]
    assert (await daemon.admin.get(KEYS)).status == 200
