"""Writer and readers: durable and grouped commits, isolated jobs, and callbacks only after the commit."""

import asyncio
import gc
import logging
import random
import sqlite3
import threading
from contextlib import closing

import pytest
from structlog.testing import capture_logs

from pi_orchestrator.core.errors import ConflictError, StorageError
from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import MAX_BATCH, Database
from tests.support.waiting import HANG_S, eventually

INSERT = "INSERT INTO containers (id, created_at, updated_at) VALUES (?, '2026-01-22', '2026-01-22')"


def add(name, *, before=None, after_commit=None):
    """A job that inserts one container."""

    async def job(tx):
        if before:
            await before()
        await tx.run(INSERT, (name,))
        if after_commit:
            tx.after_commit(after_commit)
        return name

    return job


def delete(name):
    """A job that deletes one container."""

    async def job(tx):
        await tx.run("DELETE FROM containers WHERE id = ?", (name,))

    return job


async def names(database):
    return [row["id"] for row in await database.read("SELECT id FROM containers ORDER BY id")]


def on_disk(database):
    """The container ids that another process reads."""
    with closing(sqlite3.connect(database.path)) as other:
        return [name for (name,) in other.execute("SELECT id FROM containers ORDER BY id")]


class Gate:
    """A job that holds the writer until `open`, so that jobs queued in the meantime share the next commit."""

    def __init__(self):
        self.entered, self.opened = asyncio.Event(), asyncio.Event()

    async def job(self, tx):
        self.entered.set()
        await self.opened.wait()

    def open(self):
        self.opened.set()


@pytest.fixture
async def together(database):
    """Run jobs that share one commit; returns their results or errors, in order."""

    async def run(*jobs):
        gate = Gate()
        holding = asyncio.create_task(database.write(gate.job))
        await gate.entered.wait()
        before = database.commits
        running = [asyncio.create_task(database.write(job)) for job in jobs]
        await asyncio.sleep(0)
        gate.open()
        results = await asyncio.gather(*running, return_exceptions=True)
        await holding
        assert database.commits <= before + 2, "one commit for the gate, one for all jobs"
        return results

    return run


# Opening the file.


@pytest.mark.parametrize(
    "pragma, value",
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("busy_timeout", 5000),
        ("mmap_size", 0),
        ("trusted_schema", 0),
    ],
)
async def test_connections_have_the_expected_pragmas(database, pragma, value):
    async def job(tx):
        return [tuple(row) for row in await tx.run(f"PRAGMA {pragma}")]

    assert await database.write(job) == [(value,)]
    assert [tuple(row) for row in await database.read(f"PRAGMA {pragma}")] == [(value,)]


async def test_foreign_keys_are_enforced(database):
    async def job(tx):
        await tx.run("INSERT INTO assignments VALUES ('24:6F:28:00:00:01', 'nowhere', 1, '2026')")

    with pytest.raises(StorageError) as caught:
        await database.write(job)
    assert "FOREIGN KEY" in caught.value.details


async def test_a_reader_cannot_write(database):
    with pytest.raises(StorageError):
        await database.read(INSERT, ("sneaky",))
    with pytest.raises(StorageError):
        await database.read("PRAGMA user_version=7")
    assert await names(database) == []


async def test_invalid_query_is_a_storage_error(database):
    with pytest.raises(StorageError) as caught:
        await database.read("SELECT * FROM nowhere")
    assert caught.value.code == "DATABASE_ERROR"
    assert await names(database) == [], "the reader was returned to the pool"


@pytest.mark.parametrize("name", ["with space", "50% #1", "what?mode=memory&x=y", "ünter"])
async def test_database_works_with_any_folder_name(tmp_path, clock, bus, name):
    path = tmp_path / name / "orchestrator.db"
    path.parent.mkdir()
    await asyncio.to_thread(schema.prepare, path, backups=path.parent, backups_kept=1, closed_cleanly=True)
    async with Database(path=path, clock=clock, bus=bus).opened() as database:
        await database.write(add("one"))
        assert await names(database) == on_disk(database) == ["one"]


# Writing.


async def test_acknowledged_write_survives_a_kill(database):
    assert await database.write(add("one")) == "one"
    assert on_disk(database) == ["one"]


async def test_concurrent_writes_share_a_commit(database):
    before = database.commits
    results = await asyncio.gather(*(database.write(add(f"c-{number:03}")) for number in range(300)))
    assert results == [f"c-{number:03}" for number in range(300)]
    assert on_disk(database) == results
    assert database.commits - before <= 300 / MAX_BATCH + 2


async def test_jobs_run_in_request_order(database):
    order = []

    def job(number):
        async def run(tx):
            order.append(number)

        return run

    await asyncio.gather(*(database.write(job(number)) for number in range(200)))
    assert order == list(range(200))


async def test_each_job_has_its_own_stamp(database, clock):
    async def job(tx):
        return tx.stamp

    first = await database.write(job)
    await clock.advance(5)
    second = await database.write(job)
    assert (first.boot_id, second.monotonic - first.monotonic) == ("boot-1", 5)


async def test_run_many_inserts_all_rows(database):
    async def job(tx):
        await tx.run_many(INSERT, [(f"c-{number}",) for number in range(100)])

    await database.write(job)
    assert len(on_disk(database)) == 100


class OddError(Exception):
    """An error type that the database does not know."""


def failing(name, error):
    async def job(tx):
        await tx.run(INSERT, (name,))
        raise error

    return job


async def twice(tx):
    await tx.run(INSERT, ("twice",))
    await tx.run(INSERT, ("twice",))


async def test_failed_job_is_rolled_back_alone(database, together):
    odd, conflict = OddError("odd"), ConflictError("taken")
    results = await together(
        add("one"), failing("undone-1", odd), twice, add("two"), failing("undone-2", conflict), add("three")
    )
    assert (results[0], results[3], results[5]) == ("one", "two", "three")
    assert results[1] is odd
    assert results[4] is conflict
    assert isinstance(results[2], StorageError)
    assert "UNIQUE" in results[2].details
    assert on_disk(database) == ["one", "three", "two"]


async def test_cancelled_caller_does_not_undo_its_job(database):
    gate = Gate()
    holding = asyncio.create_task(database.write(gate.job))
    await gate.entered.wait()
    waiting = asyncio.create_task(database.write(add("kept")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open()
    await holding
    await eventually(lambda: on_disk(database) == ["kept"])


async def test_cancelled_caller_of_failed_job_logs_nothing(database, caplog):
    waiting = asyncio.create_task(database.write(failing("undone", OddError("odd"))))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await database.ping()
    gc.collect()  # asyncio logs an exception that was never retrieved when its future is deleted
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_job_of_cancelled_caller_is_completed(database):
    inside, release = asyncio.Event(), asyncio.Event()

    async def job(tx):
        await tx.run(INSERT, ("first half",))
        inside.set()
        await release.wait()
        await tx.run(INSERT, ("second half",))

    waiting = asyncio.create_task(database.write(job))
    await inside.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    release.set()
    await database.ping()
    assert on_disk(database) == ["first half", "second half"]


async def test_readers_are_not_blocked_by_the_writer(database):
    await database.write(add("committed"))
    gate = Gate()
    writing = asyncio.create_task(database.write(add("not yet", before=lambda: gate.job(None))))
    await gate.entered.wait()
    async with asyncio.timeout(HANG_S):
        answers = await asyncio.gather(*(names(database) for _ in range(20)))
    assert answers == [["committed"]] * 20
    gate.open()
    await writing
    assert await names(database) == ["committed", "not yet"]


async def test_reader_of_cancelled_query_is_returned_to_pool(database):
    slow = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000) SELECT max(x) AS m FROM n"
    for _ in range(5):
        reading = asyncio.create_task(database.read(slow))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    assert (await database.read(slow))[0]["m"] == 300_000


# Callbacks and events.


async def test_callback_runs_after_commit_before_caller(database):
    seen = []

    def read_from_thread():
        # Another thread reads while the loop is blocked: it sees only what was committed before the callback.
        threading.Thread(target=lambda: seen.append(on_disk(database))).start()
        while not seen:
            pass

    await database.write(add("one", after_commit=read_from_thread))
    assert seen == [["one"]]


async def test_callback_of_failed_job_never_runs(database, together):
    called = []

    async def fails(tx):
        tx.after_commit(lambda: called.append("broken"))
        raise OddError

    await together(add("one", after_commit=lambda: called.append("one")), fails)
    assert called == ["one"]


async def test_events_are_published_in_job_order(database, bus, together):
    def publishing(name):
        async def job(tx):
            await tx.run(INSERT, (name,))
            tx.publish(StoredEvent("container.made", {"id": name}))

        return job

    with bus.subscribe(StoredEvent) as published:
        await together(publishing("one"), failing("undone", OddError()), publishing("two"))
        bus.close()
        assert [event.payload["id"] async for event in published] == ["one", "two"]


async def test_failing_callback_does_not_fail_the_write(database, together):
    def broken():
        raise OddError("listener")

    with capture_logs() as logged:
        results = await together(add("one", after_commit=broken), add("two"))
    assert results == ["one", "two"]
    assert [entry["log_level"] for entry in logged] == ["error"]
    assert await database.write(add("three")) == "three"
    assert on_disk(database) == ["one", "three", "two"]


# Write errors.


async def dangling(tx):
    """A job that succeeds, but its commit fails: the foreign key is checked only then."""
    await tx.run("PRAGMA defer_foreign_keys=ON")
    await tx.run("INSERT INTO assignments VALUES ('24:6F:28:00:00:01', 'nowhere', 1, '2026')")


async def test_failed_commit_fails_all_and_runs_no_callback(database, together):
    called = []
    results = await together(add("one", after_commit=lambda: called.append("one")), dangling, add("two"))
    assert [type(result) for result in results] == [StorageError] * 3
    assert on_disk(database) == called == []
    assert await database.write(add("three")) == "three"
    assert on_disk(database) == ["three"]


async def test_transaction_rolled_back_by_sqlite_fails_all(database, together):
    await database.write(add("taken"))

    async def rolled_back(tx):
        await tx.run(INSERT.replace("INSERT", "INSERT OR ROLLBACK"), ("taken",))

    results = await together(add("one"), rolled_back, add("two"))
    assert [type(result) for result in results] == [StorageError] * 3
    assert on_disk(database) == ["taken"]
    assert await database.write(add("three")) == "three"


async def test_full_disk_is_reported_and_recovers(database):
    """`max_page_count` fails a write in the same place as a full disk."""

    async def pages(tx):
        return (await tx.run("PRAGMA page_count"))[0][0]

    async def limit(tx, pages):
        await tx.run(f"PRAGMA max_page_count={pages}")

    async def much(tx):
        await tx.run_many(INSERT, [(f"{number:04}" + "x" * 60,) for number in range(1000)])

    await database.write(add("before"))
    used = await database.write(pages)
    await database.write(lambda tx: limit(tx, used + 2))
    for _ in range(3):
        with pytest.raises(StorageError, match="the disk is full") as caught:
            await database.write(much)
        assert "free disk space" in caught.value.details
        assert await names(database) == ["before"], "reading still works"
    await database.ping()
    await database.write(lambda tx: limit(tx, 10_000))
    await database.write(much)
    assert len(on_disk(database)) == 1001


async def test_locked_database_is_an_error_and_recovers(database, monkeypatch):
    async def shorten_timeout(tx):
        await tx.run("PRAGMA busy_timeout=20")

    await database.write(shorten_timeout)
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError) as caught:
            await database.write(add("one"))
        assert "locked" in caught.value.details
        other.execute("ROLLBACK")
    assert await database.write(add("two")) == "two"
    assert on_disk(database) == ["two"]


async def test_damage_while_running_has_a_remedy(tmp_path, clock, bus):
    path = tmp_path / "orchestrator.db"
    await asyncio.to_thread(schema.prepare, path, backups=tmp_path, backups_kept=1, closed_cleanly=True)
    async with Database(path=path, clock=clock, bus=bus).opened() as database:
        await database.write(add("one"))
        assert not database.damaged
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'containers'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(random.Random(1).randbytes(4096))
    async with Database(path=path, clock=clock, bus=bus).opened() as database:
        with pytest.raises(StorageError, match="damaged") as caught:
            await names(database)
        assert "restart the daemon" in caught.value.details
        assert database.damaged
        assert await database.read("SELECT * FROM cameras") == [], "undamaged tables can be read"


# Closing.


async def test_queued_jobs_are_written_before_close(tmp_path, clock, bus):
    path = tmp_path / "orchestrator.db"
    await asyncio.to_thread(schema.prepare, path, backups=tmp_path, backups_kept=1, closed_cleanly=True)
    async with Database(path=path, clock=clock, bus=bus).opened() as database:
        writing = [asyncio.create_task(database.write(add(f"c-{number:03}"))) for number in range(200)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*writing) == on_disk(database)
    assert not path.with_name(path.name + "-wal").exists(), "the WAL is merged into the file"


async def test_write_after_close_is_refused(tmp_path, clock, bus):
    path = tmp_path / "orchestrator.db"
    await asyncio.to_thread(schema.prepare, path, backups=tmp_path, backups_kept=1, closed_cleanly=True)
    async with Database(path=path, clock=clock, bus=bus).opened() as database:
        pass
    with pytest.raises(StorageError, match="closing"):
        await database.write(add("late"))
    assert on_disk(database) == []


async def test_deleted_content_is_erased_from_wal_when_reader_ends(database):
    wal = database.path.with_name(database.path.name + "-wal")
    await database.write(add("canary-4711"))
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("BEGIN")
        other.execute("SELECT id FROM containers").fetchall()  # the snapshot of this reader keeps the WAL
        await database.write(delete("canary-4711"))
        await database.erase_deleted_content()
        assert b"canary-4711" in await asyncio.to_thread(wal.read_bytes)
    await database.ping()
    assert b"canary-4711" not in await asyncio.to_thread(wal.read_bytes)
    assert b"canary-4711" not in await asyncio.to_thread(database.path.read_bytes)
