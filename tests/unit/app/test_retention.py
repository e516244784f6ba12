"""What each store writes, reads and deletes; the retention worker; and rows with damaged bytes."""

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from pi_orchestrator.app.base import EVENTS_KEPT, retention_rules
from pi_orchestrator.app.retention import RetentionWorker
from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.errors import ConflictError, StorageError
from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.token_bucket import BucketState
from pi_orchestrator.edge_http import idempotency_store as idempotency
from pi_orchestrator.edge_http import key_store as keys
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.features.cameras import store as cameras
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.containers import store as containers
from pi_orchestrator.features.onboarding import store as onboarding
from pi_orchestrator.features.onboarding.feature import retention_rules as onboarding_rules
from pi_orchestrator.features.onboarding.onboarding_event import OnboardingEvent, Stage
from pi_orchestrator.http.idempotency import StoredAnswer
from pi_orchestrator.settings import Settings, StorageSettings
from pi_orchestrator.storage import audit_log as actions
from pi_orchestrator.storage import event_store as event_log
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import Database
from tests.support.clock import settle
from tests.support.events import RawEvent
from tests.unit.storage.test_schema import OLD

MAC = Mac("24:6F:28:B0:F7:F1")
OTHER = Mac("24:6F:29:B0:F7:F1")
ACTOR = Actor(key_name="admin", peer="192.168.1.20", correlation_id="c-1", action="key.revoke")


@pytest.fixture
def write(database):
    """Run statements of the storage modules in one transaction: `await write(lambda tx: ...)`."""
    return database.write


async def register(write, mac=MAC, *, device_id=None, place=None):
    async def job(tx):
        camera = await cameras.register(tx, mac, device_id=device_id, ip="192.168.10.5", firmware="1.4.2", by="auto")
        if place:
            await containers.ensure(tx, place[0], label="Box")
            await cameras.assign(tx, mac, *place)
        return camera

    return await write(job)


async def load_cache(database):
    cache = CameraCache()
    await cache.load(database)
    return cache


# Cameras and positions.


async def test_registered_camera_is_loaded_after_restart(database, write, clock):
    camera = await register(write, device_id="kitchen", place=("box", 3))
    cache = await load_cache(database)
    found = cache.get(MAC)
    assert (found.container_id, found.position, found.paired_at) == ("box", 3, clock.wall())
    assert (found.mac, found.device_id, found.registered_at) == (camera.mac, "kitchen", clock.wall())
    assert (found.ip_address, found.firmware_version) == ("192.168.10.5", "1.4.2")
    assert found.last_seen_at is None
    assert MAC in cache
    assert OTHER not in cache
    assert [entry.mac for entry in cache] == [MAC]
    assert len(cache) == 1


@pytest.mark.parametrize("name", ["kitchen", MAC, "24-6f-28-b0-f7-f1", "246f28b0f7f1"])
async def test_camera_is_found_by_id_and_any_mac_spelling(database, write, name):
    await register(write, device_id="kitchen")
    assert (await load_cache(database)).mac_of(name) == MAC


@pytest.mark.parametrize("name", ["", "cellar", OTHER, "FF:FF:FF:FF:FF:FF", "KITCHEN"])
async def test_unknown_camera_is_not_found(database, write, name):
    await register(write, device_id="kitchen")
    assert (await load_cache(database)).mac_of(name) is None


async def test_second_camera_with_same_id_has_its_mac_as_id(write):
    first = await register(write, MAC)
    second = await register(write, OTHER)
    assert first.device_id == "espcam-b0f7f1"
    assert second.device_id == OTHER


async def test_second_registration_of_mac_is_an_error(write):
    await register(write)
    with pytest.raises(StorageError):
        await register(write, device_id="another")


async def test_presence_is_stored_for_registered_cameras(database, write, clock):
    await register(write)
    seen = clock.wall()
    rows = [(MAC, "online", seen, "boot-1", 5.0), (OTHER, "online", seen, "boot-1", 5.0)]
    await write(lambda tx: cameras.save_presence(tx, rows))
    later = seen + timedelta(seconds=9)
    await write(lambda tx: cameras.save_presence(tx, [(MAC, "idle", later, "boot-2", 1.0)]))
    assert await cameras.load_presence(database) == [(MAC, "idle", "boot-2", 1.0)]
    assert (await load_cache(database)).get(MAC).last_seen_at == later


async def test_positions_are_assigned_in_order(write):
    async def job(tx):
        await containers.ensure(tx, "box", label="Box")
        positions = []
        for number in range(5):
            position = await containers.free_position(tx, "box")
            positions.append(position)
            if position:
                mac = Mac(f"24:6F:28:00:00:0{number + 1}")
                await cameras.register(tx, mac, device_id=None, ip="", firmware=None, by="auto")
                await cameras.assign(tx, mac, "box", position)
        await tx.run("DELETE FROM assignments WHERE position = 2")
        return [*positions, await containers.free_position(tx, "box")]

    assert await write(job) == [1, 2, 3, 4, None, 2]


async def test_further_containers_are_numbered(database, write):
    async def job(tx):
        await containers.ensure(tx, "box", label="Kitchen")
        places = []
        for number in range(9):
            place = await containers.next_overflow(tx, "box", "Kitchen")
            mac = Mac(f"24:6F:28:00:00:0{number + 1}")
            await cameras.register(tx, mac, device_id=None, ip="", firmware=None, by="auto")
            await cameras.assign(tx, mac, *place)
            places.append(place)
        return places

    places = await write(job)
    assert places == [(f"box-{2 + number // 4}", number % 4 + 1) for number in range(9)]
    labels = await database.read("SELECT label FROM containers ORDER BY id")
    assert [row["label"] for row in labels] == ["Kitchen", "Kitchen (2)", "Kitchen (3)", "Kitchen (4)"]


async def test_container_is_created_once(write):
    async def job(tx):
        created = [
            await containers.ensure(tx, "box", label="Kitchen"),
            await containers.ensure(tx, "box", label="Cellar"),
        ]
        return created, (await containers.find(tx, "box")).label, await containers.find(tx, "nowhere")

    assert await write(job) == ([True, False], "Kitchen", None)


async def test_unregistered_camera_is_not_found(database, write):
    await register(write, device_id="kitchen")
    await register(write, OTHER)
    cache = await load_cache(database)
    cache.drop(MAC)
    cache.drop(MAC)
    assert [entry.mac for entry in cache] == [OTHER]
    assert (cache.mac_of("kitchen"), cache.mac_of(MAC)) == (None, None)
    assert cache.mac_of(OTHER) == OTHER


# Onboarding.


def onboarding_event(stage=Stage.PAIRED, mac=MAC, code=None):
    return OnboardingEvent(mac=mac, stage=stage, code=code, ip_address="192.168.10.5", duration_ms=42)


async def test_onboarding_events_are_paged_newest_first(database, write):
    await write(lambda tx: onboarding.append(tx, [onboarding_event(stage) for stage in Stage]))
    page = await onboarding.page(database, limit=2, offset=1)
    assert page.total == len(Stage)
    assert [entry.stage for entry in page.events] == [Stage.FAILED, Stage.PAIRED]
    beyond = await onboarding.page(database, limit=2, offset=100)
    assert (beyond.events, beyond.total) == ([], len(Stage))


async def test_onboarding_event_is_read_unchanged(database, write, clock):
    entry = OnboardingEvent(
        mac=MAC,
        stage=Stage.FAILED,
        code=VerificationCode.TIMEOUT,
        message="no answer",
        device_id="kitchen",
        ip_address="192.168.10.5",
        firmware_version="1.4.2",
        container_id="box",
        duration_ms=5000,
    )
    await write(lambda tx: onboarding.append(tx, [entry]))
    (found,) = (await onboarding.page(database, limit=10, offset=0)).events
    assert (found.id, found.at) == (1, clock.wall())
    for field in ("mac", "stage", "code", "message", "device_id", "ip_address", "firmware_version", "container_id"):
        assert getattr(found, field) == getattr(entry, field)
    assert found.duration_ms == 5000


async def test_onboarding_events_are_filtered_by_camera_stage_and_time(database, write, clock):
    await write(lambda tx: onboarding.append(tx, [onboarding_event(Stage.DISCOVERED), onboarding_event(mac=OTHER)]))
    await clock.advance(60)
    since = clock.wall()
    await write(
        lambda tx: onboarding.append(
            tx, [onboarding_event(Stage.FAILED, code=VerificationCode.MAC_MISMATCH), onboarding_event()]
        )
    )

    async def total(**filters):
        return (await onboarding.page(database, limit=10, offset=0, **filters)).total

    assert await total() == 4
    assert await total(mac=MAC) == 3
    assert await total(stage=Stage.PAIRED) == 2
    assert await total(since=since) == 2
    assert await total(since=since + timedelta(microseconds=1)) == 0
    assert await total(mac=MAC, stage=Stage.PAIRED, since=since) == 1


async def test_delete_older_than_deletes_older_events(database, write, clock):
    await write(lambda tx: onboarding.append(tx, [onboarding_event(), onboarding_event()]))
    clock.jump_wall(timedelta(days=10))
    await write(lambda tx: onboarding.append(tx, [onboarding_event()]))
    assert await write(lambda tx: onboarding.delete_older_than(tx, days=10)) == 0
    assert await write(lambda tx: onboarding.delete_older_than(tx, days=9)) == 2
    assert (await onboarding.page(database, limit=10, offset=0)).total == 1


async def test_init_state_does_not_change_existing_state(database, write):
    await write(lambda tx: onboarding.init_state(tx, enabled=True))
    await write(lambda tx: onboarding.set_enabled(tx, enabled=False))
    await write(lambda tx: onboarding.init_state(tx, enabled=True))
    assert (await onboarding.load_state(database)).enabled is False
    assert await write(onboarding.is_enabled) is False


async def test_bucket_and_counters_are_restored(database, write, clock):
    await write(lambda tx: onboarding.init_state(tx, enabled=True))
    assert (await onboarding.load_state(database)).bucket is None
    bucket = BucketState(tokens=2.5, at=1000.0, boot_id="boot-1")
    await write(lambda tx: onboarding.save_bucket(tx, bucket))
    await write(lambda tx: onboarding.count(tx, attempts=3, success=2))
    await write(lambda tx: onboarding.count(tx, failed=1, rejected_by_policy=0))
    state = await onboarding.load_state(database)
    assert state.bucket == bucket
    assert (state.metrics.attempts, state.metrics.success, state.metrics.failed) == (3, 2, 1)
    assert state.metrics.last_success_at == state.metrics.last_failure_at == clock.wall()
    await write(onboarding.reset_metrics)
    assert (await onboarding.load_state(database)).metrics == onboarding.Metrics()
    assert (await onboarding.load_state(database)).bucket == bucket, "a reset adds no tokens"


# Keys, actions, events, answers.


async def test_keys_are_stored_by_digest(database, write, clock):
    await write(lambda tx: keys.insert(tx, key_id="b", name="second", scope=Scope.READ, digest=b"2"))
    await clock.advance(1)
    await write(lambda tx: keys.insert(tx, key_id="a", name="third", scope=Scope.ADMIN, digest=b"3"))
    assert [(key.id, key.scope, key.digest) for key in await keys.load(database)] == [
        ("b", Scope.READ, b"2"),
        ("a", Scope.ADMIN, b"3"),
    ]
    assert await write(lambda tx: keys.delete(tx, "b")) is True
    assert await write(lambda tx: keys.delete(tx, "b")) is False
    assert [key.name for key in await keys.load(database)] == ["third"]


async def test_duplicate_key_name_is_a_conflict(database, write):
    await write(lambda tx: keys.insert(tx, key_id="a", name="admin", scope=Scope.ADMIN, digest=b"1"))
    with pytest.raises(ConflictError, match="'admin'"):
        await write(lambda tx: keys.insert(tx, key_id="b", name="admin", scope=Scope.READ, digest=b"2"))
    assert len(await keys.load(database)) == 1


@pytest.mark.parametrize(
    "scope, covers",
    [
        (Scope.READ, {Scope.READ}),
        (Scope.OPERATE, {Scope.READ, Scope.OPERATE}),
        (Scope.ADMIN, {Scope.READ, Scope.OPERATE, Scope.ADMIN}),
    ],
)
def test_scope_covers_lower_scopes(scope, covers):
    assert {other for other in Scope if scope.covers(other)} == covers


async def test_action_is_recorded_with_actor_and_time(database, write, clock):
    await write(lambda tx: actions.record(tx, ACTOR, target="kitchen", outcome="refused"))
    (row,) = await database.read("SELECT * FROM operator_actions")
    assert (row["actor"], row["peer"], row["correlation_id"]) == ("admin", "192.168.1.20", "c-1")
    assert (row["action"], row["target"], row["outcome"]) == ("key.revoke", "kitchen", "refused")
    assert (row["boot_id"], row["monotonic"], row["clock_trusted"]) == ("boot-1", clock.monotonic(), 1)


async def test_action_with_untrusted_time_is_kept(database, write, clock):
    """An action that is recorded before the clock is set may have a time years in the past."""
    clock.is_trusted = False
    await write(lambda tx: actions.record(tx, ACTOR, target="untrusted"))
    clock.is_trusted = True
    await write(lambda tx: actions.record(tx, ACTOR, target="trusted"))
    clock.jump_wall(timedelta(days=31))
    await write(lambda tx: actions.delete_older_than(tx, days=30))
    assert [row["target"] for row in await database.read("SELECT target FROM operator_actions")] == ["untrusted"]


async def test_event_ids_are_never_reused(database, write, bus):
    with bus.subscribe(StoredEvent) as published:
        for number in (1, 2):
            await write(lambda tx, number=number: event_log.append(tx, RawEvent("camera.seen", {"n": number}, mac=MAC)))
        await write(lambda tx: event_log.keep_newest(tx, keep=0))
        await write(lambda tx: event_log.append(tx, RawEvent("camera.seen", {"n": 3})))
        bus.close()
        assert [(event.id, event.payload) async for event in published] == [(1, {"n": 1}), (2, {"n": 2}), (3, {"n": 3})]
    assert [row["payload"] for row in await database.read("SELECT payload FROM events")] == ['{"n":3}']


async def test_stored_event_has_session_and_time(database, write, bus, clock):
    with bus.subscribe(StoredEvent) as published:
        await write(lambda tx: event_log.append(tx, RawEvent("session.status", {}, session_id="s-1")))
        bus.close()
        ((session_id, at),) = [(event.session_id, event.at) async for event in published]
    (row,) = await database.read("SELECT session_id, at FROM events")
    assert (row["session_id"], row["at"]) == (session_id, at) == ("s-1", "2026-01-22T15:00:00.000000Z")


async def test_keep_newest_deletes_older_events(database, write):
    async def append_ten(tx):
        for _ in range(10):
            await event_log.append(tx, RawEvent("camera.seen", {}))

    await write(append_ten)
    await write(lambda tx: event_log.keep_newest(tx, keep=3))
    assert [row["id"] for row in await database.read("SELECT id FROM events")] == [8, 9, 10]


async def test_onboarding_events_are_published_in_one_event(database, write):
    await write(lambda tx: onboarding.append(tx, [onboarding_event(), onboarding_event()]))
    await write(lambda tx: onboarding.append(tx, []))
    rows = await database.read("SELECT type, payload FROM events")
    assert [row["type"] for row in rows] == ["onboarding.audited"]
    payload = json.loads(rows[0]["payload"])
    assert (payload["rows"], payload["mac"], payload["stage"]) == (2, onboarding_event().mac, onboarding_event().stage)


async def test_stored_answer_is_found_by_key_and_operation(database, write, clock):
    answer = StoredAnswer(request_hash=b"hash", status=200, body=b"{}")
    await write(lambda tx: idempotency.insert(tx, key="once", operation="post_enable", answer=answer))
    assert await idempotency.IdempotencyStore(database).find(key="once", operation="post_enable") == answer
    assert await idempotency.IdempotencyStore(database).find(key="once", operation="post_disable") is None
    clock.jump_wall(timedelta(hours=25))
    await write(lambda tx: idempotency.delete_older_than(tx, hours=24))
    assert await idempotency.IdempotencyStore(database).find(key="once", operation="post_enable") is None


# Maintenance.


def rules(**storage):
    settings = Settings(storage=StorageSettings(**storage))
    return [*retention_rules(settings), *onboarding_rules(settings)]


async def store_one_of_each(write):
    """Store one row in each table that retention limits; the onboarding event is also published as an event."""
    answer = StoredAnswer(request_hash=b"h", status=200, body=b"")

    async def job(tx):
        await onboarding.append(tx, [onboarding_event()])
        await actions.record(tx, ACTOR)
        await idempotency.insert(tx, key="k", operation="o", answer=answer)
        await event_log.append(tx, RawEvent("camera.seen", {}))

    await write(job)


async def row_counts(database):
    tables = ("onboarding_audit", "operator_actions", "idempotency", "events")
    return [(await database.read(f"SELECT count(*) AS n FROM {table}"))[0]["n"] for table in tables]


async def test_age_limit_needs_a_trusted_clock(database, write, clock):
    worker = RetentionWorker(rules=rules(retention_days=30), clock=clock, database=database)
    await store_one_of_each(write)
    clock.jump_wall(timedelta(days=40))
    clock.is_trusted = False
    await worker.run_once()
    assert await row_counts(database) == [1, 1, 1, 2], "one of the events reports the onboarding event"
    clock.is_trusted = True
    await worker.run_once()
    assert await row_counts(database) == [0, 0, 0, 2]


async def test_retention_limits_the_event_log(database, write, clock):
    worker = RetentionWorker(rules=rules(), clock=clock, database=database)
    columns = "id, type, payload, at, boot_id, monotonic, clock_trusted"
    for number in (1, EVENTS_KEPT):  # the limit is on the range of ids, which these two just fill
        row = f"INSERT INTO events ({columns}) VALUES ({number}, 'x', '{{}}', '2026', 'b', 1.0, 1)"
        await write(lambda tx, row=row: tx.run(row))
    await worker.run_once()
    assert len(await database.read("SELECT id FROM events")) == 2
    await store_one_of_each(write)
    await worker.run_once()
    remaining = [row["id"] for row in await database.read("SELECT id FROM events")]
    assert remaining == [EVENTS_KEPT, EVENTS_KEPT + 1, EVENTS_KEPT + 2]


async def test_retention_runs_after_a_minute_then_hourly(database, clock):
    worker = RetentionWorker(rules=rules(), clock=clock, database=database)
    beats = []
    running = asyncio.create_task(worker.run(lambda: beats.append(clock.monotonic() - 1000)))
    await settle()
    for wait_s in (60, 3600, 3600):
        await clock.advance(wait_s)
        await database.ping()
        await settle()
    assert beats == [60, 3660, 7260]
    running.cancel()
    await asyncio.wait([running])


# Damage that SQLite's checks do not find.


@pytest.mark.parametrize(
    "before, after",
    [
        (b"192.168.10.11", b"192.168\xff10.11"),
        (b"2026-01-22T15:00:01.000000Z", b"2026-01-\xfe2T15:00:01.000000Z"),
        (b"2026-01-22T15:00:01.000000Z", b"2026-01-22X15:00;01.000000Z"),
        (b"2026-01-22T15:00:01.000000Z", b"2026-01-22T15:00:01.000000 "),
        (b"espcam-000001", b"espcam\x80000001"),
        (b"DENIED", b"DEN\x07ED"),
    ],
)
async def test_damaged_byte_does_not_hide_other_rows(tmp_path, clock, bus, before, after):
    path = tmp_path / "orchestrator.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text(encoding="utf-8"))
    data = path.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after))
    await asyncio.to_thread(schema.prepare, path, backups=tmp_path, backups_kept=1, closed_cleanly=False)
    async with Database(path=path, clock=clock, bus=bus).opened() as database:
        # The numbers of rows in OLD.
        assert len(await load_cache(database)) == 5
        assert len(await cameras.load_presence(database)) == 5
        assert len(await keys.load(database)) == 1
        state = await onboarding.load_state(database)
        assert (state.enabled, state.metrics.attempts) == (False, 6)
        page = await onboarding.page(database, limit=100, offset=0)
        assert len(page.events) == page.total == 21
        assert all(entry.at.tzinfo for entry in page.events)
