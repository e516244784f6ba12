"""Writes: done once however often they are sent, and told in the record of operator actions."""

import asyncio
from unittest.mock import ANY

import pytest

from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.onboarding import Message
from pi_orchestrator.api.route import Route
from pi_orchestrator.api.routes import ROUTES
from pi_orchestrator.api.services import Services
from pi_orchestrator.errors import OrchestratorError
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.keys import Scope
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
    ask,
    case,
    exchange,
    good_body,
    has_own_camera,
    own_container,
    own_mac,
    session_for,
    target,
    told,
    with_routes,
)

pytestmark = pytest.mark.usefixtures("a_session_for_each_route")

AUTO = "/api/v1/onboarding/auto"
KEYS = "/api/v1/keys"
CONFIGS = ("/api/v1/config", "/api/dashboard/config")
WRITES = [route for route in ROUTES if route.writes]
REPLAYED = [route for route in WRITES if not route.secret and route.shape is not Shape.BINARY]
LOGS = {"operator_actions", "events", "idempotency", "sqlite_sequence"}  # they tell of each request

# What a repeat is told differs from the first answer, which tells what was done: see the module of these routes.
COUNTED = {ALLOWLIST, *(f"{ALLOWLIST}/{verb}" for verb in ("bulk", "import", "bulk-remove", "all"))}

# Without a key of its own a second start is refused, and names the session that is open.
STARTS = {BATCH, f"{BATCH}/start"}

each_write = pytest.mark.parametrize("route", WRITES, ids=lambda route: f"{route.method} {route.path}")
each_replayed = pytest.mark.parametrize("route", REPLAYED, ids=lambda route: f"{route.method} {route.path}")


def state(world):
    return {name: rows for name, rows in world.tables().items() if name not in LOGS}


def actions(world):
    columns = "actor, peer, correlation_id, action, target, outcome"
    return world.rows(f"SELECT {columns} FROM operator_actions WHERE actor <> 'first start' ORDER BY id")


# Repeats.


@each_write
async def test_a_write_that_is_repeated_has_no_second_effect(daemon, world, route):
    """The dashboard sends every write up to three times."""
    first = await ask(daemon.admin, route)
    assert first.status == route.status
    after_one = state(world)
    for which in "second", "third":
        again = await ask(daemon.admin, route)
        if route.secret:
            assert again.status == 409, "a key is shown once; a repeat says that it is there"
        elif route.path in STARTS:
            assert (again.status, again.json["code"]) == (409, "SESSION_ALREADY_ACTIVE")
            assert first.data["session"]["id"] in again.json["error"]["details"]
        elif route.path in COUNTED and which == "second":
            assert again.status == 200
            first = again
        else:
            assert again.status == first.status
            assert not first.body or told(route, again) == told(route, first)
    assert state(world) == after_one


@each_replayed
async def test_an_idempotency_key_gets_the_first_answer_again(daemon, world, route):
    headers = {"Idempotency-Key": "7d5a8a2e-0001"}
    first = await ask(daemon.admin, route, headers=headers)
    seen = actions(world)
    assert first.status == route.status
    await world.sabotage("UPDATE onboarding_state SET attempts = 7")  # what a second run would change
    for _ in "second", "third":
        again = await ask(daemon.admin, route, headers=headers)
        assert (again.status, again.headers.get("Content-Type")) == (first.status, first.headers.get("Content-Type"))
        if first.body:
            assert told(route, again) == told(route, first)
            assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
            assert route.shape is Shape.PLAIN or again.json["correlation_id"] == again.headers["X-Request-Id"]
    assert actions(world) == seen
    assert world.rows("SELECT attempts FROM onboarding_state") == [(7,)]


async def test_the_first_answer_is_told_even_when_the_world_has_moved_on(daemon, world):
    rows = "INSERT INTO onboarding_audit (mac_address, stage, at, boot_id, monotonic, clock_trusted) VALUES "
    await world.sabotage(
        rows + ",".join(["('24:6F:28:00:00:10', 'failed', '2020-01-01T00:00:00.000000Z', 'b', 1, 1)"] * 3)
    )
    for _ in range(3):
        answer = await daemon.admin.post(f"{AUTO}/events/cleanup", headers={"Idempotency-Key": "spring-clean"})
        assert answer.data["deleted_count"] == 3
    assert (await daemon.admin.post(f"{AUTO}/events/cleanup")).data["deleted_count"] == 0


async def test_an_idempotency_key_is_replayed_after_a_restart(world):
    async with world.daemon(connected=False) as running:
        headers = {"Idempotency-Key": "over-the-restart"}
        first = await running.api.post(f"{AUTO}/disable", headers=headers)
        await running.api.post(f"{AUTO}/enable")
    async with world.daemon(connected=False) as running:
        again = await running.api.post(f"{AUTO}/disable", headers=headers)
        assert again.data == first.data
        assert (await running.status())["enabled"] is True, "the switch was not thrown again"


async def test_an_idempotency_key_belongs_to_one_request(daemon):
    async def send(path, **more):
        return await daemon.admin.post(path, headers={"Idempotency-Key": "mine"}, **more)

    assert (await send(f"{AUTO}/events/cleanup", params={"days": 30})).status == 200
    for other in ({"params": {"days": 31}}, {}, {"params": {"days": 30}, "data": b"{}"}):
        answer = await send(f"{AUTO}/events/cleanup", **other)
        assert (answer.status, answer.json["code"]) == (409, "CONFLICT")
        assert "Idempotency-Key" in answer.json["error"]["message"]
    assert (await send(f"{AUTO}/events/cleanup", params={"days": 30})).status == 200
    assert (await send(f"{AUTO}/disable")).data["enabled"] is False, "another operation is another matter"


async def test_one_path_s_key_is_not_another_path_s(daemon):
    headers = {"Idempotency-Key": "mine"}
    assert (await daemon.admin.delete(f"{KEYS}/one", headers=headers)).status == 204
    assert (await daemon.admin.delete(f"{KEYS}/two", headers=headers)).status == 409


@pytest.mark.parametrize("key", ["", " ", "two words", "x" * 129, "\xe9", "\udcff", "tab\there"])
async def test_an_idempotency_key_is_1_to_128_visible_characters(daemon, world, key):
    before = world.tables()
    for route in WRITES:
        kind, body = good_body(route)
        headers = [("X-API-Key", daemon.admin.key), ("Idempotency-Key", key), ("Content-Type", kind)]
        with case(route.method, route.path):
            answer = await exchange(
                daemon, route.method, target(route), [*headers, ("Content-Length", len(body))], body
            )
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith("Idempotency-Key: ")
            assert world.tables() == before


async def test_the_longest_and_the_oddest_key_are_keys(daemon):
    for key in ("x" * 128, "!", "~\"'\\;--%00"):
        for _ in range(2):
            assert (await daemon.api.post(f"{AUTO}/disable", headers={"Idempotency-Key": key})).status == 200


async def test_duplicates_that_overlap_run_once(daemon, world):
    headers = {"Idempotency-Key": "at-the-same-time"}
    answers = await asyncio.gather(*(daemon.api.post(f"{AUTO}/metrics/reset", headers=headers) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 20
    assert len(actions(world)) == 1


async def test_duplicates_with_different_keys_do_not_wait_for_each_other(daemon, world):
    answers = await asyncio.gather(
        *(daemon.api.post(f"{AUTO}/metrics/reset", headers={"Idempotency-Key": f"k{n}"}) for n in range(20))
    )
    assert {answer.status for answer in answers} == {200}
    assert len(actions(world)) == 20


async def test_a_refusal_is_not_kept(world):
    headers = {"Idempotency-Key": "again-later"}
    async with world.daemon(connected=False, auto_onboard={"mode": "off", "enabled": False}) as running:
        assert (await running.api.post(f"{AUTO}/enable", headers=headers)).status == 400
        running.daemon.apply(world.settings(auto_onboard={"mode": "dev"}))
        assert (await running.api.post(f"{AUTO}/enable", headers=headers)).data["enabled"] is True


async def test_after_a_failure_the_repeats_still_come_one_at_a_time(daemon):
    """Those who waited for the first, and those who came later, must not run beside each other."""
    begun, inside, most, go_on = 0, 0, 0, asyncio.Semaphore(0)

    async def slow(services: Services, actor: Actor) -> Message:
        nonlocal begun, inside, most
        begun, inside = begun + 1, inside + 1
        most = max(most, inside)
        try:
            await go_on.acquire()
            if begun == 1:
                raise OrchestratorError("not this time", code="DATABASE_ERROR")
            return Message(message=f"run {begun}")
        finally:
            inside -= 1

    route = Route("POST", "/api/v1/slow", slow, "health", "Slow", Scope.OPERATE)

    async def until(condition):
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)

    async with with_routes(daemon, route) as api:

        async def send():
            async with api.session.post(f"{api.url}/api/v1/slow", headers={"Idempotency-Key": "k"}) as response:
                return response.status, (await response.json()).get("data")

        first = asyncio.create_task(send())
        await until(lambda: begun == 1)
        waiting = asyncio.create_task(send())
        answered = daemon.services.metrics.answered
        go_on.release()
        assert (await first)[0] == 500
        await until(lambda: begun == 2)
        late = asyncio.create_task(send())
        known = answered.total()
        assert (await daemon.api.get("/health")).status == 200
        await until(lambda: answered.total() > known)
        assert inside == 1
        go_on.release()
        assert await waiting == await late == (200, {"message": "run 2"})
    assert (begun, most) == (2, 1)


async def test_a_kept_answer_is_only_for_those_who_may_ask(daemon, world):
    headers = {"Idempotency-Key": "not-for-you"}
    assert (await daemon.admin.post(f"{AUTO}/events/cleanup", headers=headers)).status == 200
    assert (await daemon.api.post(f"{AUTO}/events/cleanup", headers=headers)).status == 401


async def test_secrets_are_kept_for_repeats_but_never_on_disk(daemon, world):
    headers = {"Idempotency-Key": "secret-please"}
    first = await daemon.admin.post(KEYS, json={"name": "dashboard"}, headers=headers)
    assert first.status == 201
    again = await daemon.admin.post(KEYS, json={"name": "dashboard"}, headers=headers)
    assert (again.status, again.data) == (201, first.data)
    other = await daemon.admin.post(KEYS, json={"name": "another"}, headers=headers)
    assert (other.status, other.json["code"]) == (409, "CONFLICT")
    assert world.rows("SELECT count(*) FROM idempotency") == [(0,)]
    assert (await daemon.admin.get(KEYS)).data["count"] == 2


async def test_reads_mind_no_idempotency_key(daemon, world):
    for _ in range(2):
        assert (await daemon.api.get(f"{AUTO}/status", headers={"Idempotency-Key": "two words"})).status == 200
    assert world.rows("SELECT count(*) FROM idempotency") == [(0,)]


# Operator actions.


ACTIONS = {
    ("POST", f"{AUTO}/enable"): ("onboarding.enable", None),
    ("POST", f"{AUTO}/disable"): ("onboarding.disable", None),
    ("POST", f"{AUTO}/metrics/reset"): ("onboarding.metrics_reset", None),
    ("POST", f"{AUTO}/events/cleanup"): ("onboarding.events_cleanup", "90 days"),
    ("POST", KEYS): ("api_key.create", "a new key"),
    ("DELETE", f"{KEYS}/{{id}}"): ("api_key.revoke", "nobody-of-this-name"),
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
        for verb in ("provision", "retry", "skip")
    },
}
for one in [one for one in WRITES if one.tag in ("captures", "dashboard")]:
    ACTIONS[one.method, one.path] = one.action, CAMERA
for one in [one for one in WRITES if one.tag == "provisioning" and "{id}" in one.path and "{mac}" not in one.path]:
    ACTIONS[one.method, one.path] = one.action, session_for(one)
for one in [one for one in WRITES if has_own_camera(one) and one.path != CONTAINERS]:
    names = own_mac(one.method, one.path), own_container(one.method, one.path)
    ACTIONS[one.method, one.path] = one.action, names[one.action in ("container.change", "container.delete")]
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
}


def test_every_write_route_has_an_action_here():
    assert {(route.method, route.path) for route in WRITES} == set(ACTIONS)


@each_write
async def test_a_write_is_recorded_once_with_who_and_from_where(daemon, world, route):
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
    action, what = ACTIONS[route.method, route.path]
    outcome = OUTCOMES.get(action, "ok")
    assert actions(world) == [("admin", "127.0.0.9", "my-correlation-id", action, what, outcome)]
    ((at, boot_id, monotonic),) = world.rows(
        "SELECT at, boot_id, monotonic FROM operator_actions WHERE actor = 'admin'"
    )
    assert at.endswith("Z")
    assert boot_id
    assert monotonic > 0


async def test_who_sends_no_key_is_recorded_as_nobody_in_particular(daemon, world):
    await daemon.api.post(f"{AUTO}/disable")
    ((actor, peer, *_),) = actions(world)
    assert (actor, peer) == ("-", "127.0.0.1")


async def test_the_configured_key_has_a_name_of_its_own(world):
    async with world.daemon(connected=False, auth={"api_key": "configured-key-0123"}) as running:
        await running.api.post(f"{AUTO}/disable", headers={"X-API-Key": "configured-key-0123"})
    assert [row[0] for row in actions(world)] == ["configured"]


async def test_a_revocation_names_the_key_and_says_that_it_was_there(daemon, world):
    await daemon.admin.post(KEYS, json={"name": "dashboard"})
    await daemon.admin.delete(f"{KEYS}/dashboard")
    assert [row[3:] for row in actions(world)] == [
        ("api_key.create", "dashboard", "ok"),
        ("api_key.revoke", "dashboard", "ok"),
    ]


async def test_the_first_key_is_an_action_too(daemon, world):
    rows = world.rows("SELECT actor, action, target, outcome FROM operator_actions")
    assert rows == [("first start", "api_key.create", "admin", "ok")]


async def test_what_never_reached_an_operation_is_no_action_and_neither_is_a_read(daemon, world):
    for route in ROUTES:
        if not route.writes:
            await ask(daemon.admin, route)
        else:
            await ask(daemon.admin, route, headers={"Origin": "http://evil.example"})
            await ask(daemon.api, route, headers={"X-API-Key": "wrong"}) if route.keyed else None
            await ask(daemon.admin, route, headers={"Idempotency-Key": ""})
    assert actions(world) == []


async def test_an_action_is_on_record_before_it_is_answered(daemon, world):
    """The row and the change are one transaction, and the answer comes after it."""
    for number in range(20):
        path = "enable" if number % 2 else "disable"
        await daemon.api.post(f"{AUTO}/{path}")
        assert world.rows("SELECT enabled FROM onboarding_state") == [(number % 2,)]
        assert len(actions(world)) == number + 1


async def test_a_write_that_is_refused_is_recorded_with_the_reason(world):
    async with world.daemon(connected=False, auto_onboard={"enabled": False, "mode": "off"}) as running:
        assert (await running.api.post(f"{AUTO}/enable")).status == 400
        assert (await running.admin.post(KEYS, json={"name": "admin"})).status == 409
    assert [(row[0], row[3], row[5]) for row in actions(world)] == [
        ("-", "onboarding.enable", "ONBOARD_ENABLE_FAILED"),
        ("admin", "api_key.create", "CONFLICT"),
    ]


async def test_a_key_that_is_pasted_as_a_name_is_not_kept(daemon, world):
    assert (await daemon.admin.delete(f"{KEYS}/{daemon.admin.key}")).status == 204
    assert [row[3:] for row in actions(world)] == [("api_key.revoke", "***", "was not there")]
    assert (await daemon.admin.get(KEYS)).status == 200
