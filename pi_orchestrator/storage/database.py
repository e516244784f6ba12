"""SQLite database: one writer with group commit, and readers that never block it.

Every change is a job, run by the writer in its own savepoint. Jobs that arrive during a commit share the next one, so
that concurrent writes need only one fsync. `write` returns after the commit: acknowledged means on disk. Callbacks
registered with `after_commit` update memory after that.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiosqlite

from pi_orchestrator.core.clock import Clock, Stamp
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.events import Event, StoredEvent
from pi_orchestrator.core.logging import get_logger

T = TypeVar("T")
Row = sqlite3.Row
Params = Sequence[Any]

READERS = 2
MAX_BATCH = 64
MAX_QUEUED = 4096
DAMAGE_REMEDY = "restart the daemon: it checks the file at start, moves it aside and saves the readable rows"
DRAIN_S = 5.0
BUSY_MS = 5000
"""How long to wait for another process that writes to the file."""

log = get_logger(__name__)


Listener = Callable[["Tx", Event, StoredEvent], Awaitable[None]]
"""Gets an event, its row and its transaction; writes what must be committed together with the event."""


class Tx:
    """A running transaction; a job that gets it must await nothing but its methods.

    `listeners` are called for each event inside the transaction, see `Database.listen`.
    """

    def __init__(
        self, connection: aiosqlite.Connection, stamp: Stamp, bus: EventBus, listeners: Sequence[Listener] = ()
    ) -> None:
        self.stamp = stamp
        self.listeners = listeners
        self._connection = connection
        self._bus = bus
        self._callbacks: list[Callable[[], None]] = []

    async def run(self, sql: str, params: Params = ()) -> list[Row]:
        """Run one statement; returns its rows, if any."""
        return list(await self._connection.execute_fetchall(sql, params))

    async def run_many(self, sql: str, rows: Iterable[Params]) -> None:
        """Run one statement for each row."""
        cursor = await self._connection.executemany(sql, rows)
        await cursor.close()

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` after the commit; never if the transaction is rolled back."""
        self._callbacks.append(callback)

    def publish(self, event: object) -> None:
        """Publish an event on the bus after the commit."""
        self._callbacks.append(lambda: self._bus.publish(event))

    def run_callbacks(self) -> None:
        """Run the callbacks; to be called after COMMIT."""
        for callback in self._callbacks:
            callback()


@dataclass(slots=True)
class _Job:
    run: Callable[[Tx], Awaitable[Any]]
    future: asyncio.Future[Any]


class Database:
    """Write with `write`, read with `read`; open with `opened`."""

    def __init__(self, *, path: Path, clock: Clock, bus: EventBus) -> None:
        self.path = path
        self._clock = clock
        self._bus = bus
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(MAX_QUEUED)
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        self._listeners: list[Listener] = []
        self._closed = False
        self._must_truncate_wal = False
        self.commits = 0
        self.damaged = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Database]:
        """Open for the duration of the block; queued jobs are written before it closes."""
        async with AsyncExitStack() as stack:
            # The writer is opened first and closed last: only a writer can fold the WAL back into the file.
            writer = await stack.enter_async_context(aiosqlite.connect(self.path, isolation_level=None))
            await _configure(writer)
            for _ in range(READERS):
                reader = await stack.enter_async_context(
                    aiosqlite.connect(f"file:{quote(str(self.path))}?mode=ro", uri=True, isolation_level=None)
                )
                await _configure(reader)
                await reader.execute_fetchall("PRAGMA query_only=ON")
                self._readers.put_nowait(reader)
            task = asyncio.create_task(self._write_loop(writer), name="database-writer")
            try:
                yield self
            finally:
                self._closed = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(DRAIN_S):
                        await self._queue.join()
                task.cancel()
                await asyncio.wait([task])

    def listen(self, listener: Listener) -> None:
        """Call a listener for every appended event, in the event's transaction; an exception rolls back the job."""
        self._listeners.append(listener)

    async def write(self, job: Callable[[Tx], Awaitable[T]]) -> T:
        """Run a job in a transaction; returns after the commit. Cancelling the caller does not undo the job."""
        if self._closed:
            raise StorageError("the database is closing")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        await self._queue.put(_Job(job, future))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_retrieve_exception)
            raise

    async def read(self, sql: str, params: Params = ()) -> list[Row]:
        """Rows of one query, as of the last commit."""
        reader = await self._readers.get()
        try:
            return list(await reader.execute_fetchall(sql, params))
        except sqlite3.Error as error:
            raise self._storage_error(error) from error
        finally:
            self._readers.put_nowait(reader)

    async def ping(self) -> None:
        """Run a no-op through the writer, to prove that it is alive. Writes nothing."""

        async def no_op(tx: Tx) -> None:
            await tx.run("SELECT 1")

        await self.write(no_op)

    async def erase_deleted_content(self) -> None:
        """Remove deleted content from the WAL too; in the database file, secure_delete overwrites it."""
        self._must_truncate_wal = True
        await self.ping()

    async def _write_loop(self, writer: aiosqlite.Connection) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                if self._must_truncate_wal:
                    await self._truncate_wal(writer)
                await self._commit(writer, batch)
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _truncate_wal(self, writer: aiosqlite.Connection) -> None:
        try:
            rows = await writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
            self._must_truncate_wal = bool(next(iter(rows))[0])  # busy (a reader uses it): retry at the next commit
        except sqlite3.Error as error:
            log.warning("write-ahead log not truncated", reason=str(error))

    async def _commit(self, writer: aiosqlite.Connection, batch: list[_Job]) -> None:
        done: list[tuple[_Job, Tx, Any]] = []
        try:
            await writer.execute_fetchall("BEGIN IMMEDIATE")
            for job in batch:
                tx = Tx(writer, self._clock.stamp(), self._bus, self._listeners)
                await writer.execute_fetchall("SAVEPOINT job")
                try:
                    result = await job.run(tx)
                except Exception as error:
                    if not writer.in_transaction:
                        # SQLite has rolled back the transaction (disk full, I/O error): every job of the batch fails.
                        self._fail(job, error)
                        raise _batch_error(error) from error
                    await writer.execute_fetchall("ROLLBACK TO job")
                    await writer.execute_fetchall("RELEASE job")
                    self._fail(job, error)
                else:
                    await writer.execute_fetchall("RELEASE job")
                    done.append((job, tx, result))
            await writer.execute_fetchall("COMMIT")
        except Exception as error:
            # Whatever the error, every waiting caller must get it.
            log.exception("write failed", jobs=len(batch))
            with suppress(sqlite3.Error):
                if writer.in_transaction:
                    await writer.execute_fetchall("ROLLBACK")
            for job in batch:
                self._fail(job, error)
            return
        self.commits += 1
        for job, tx, result in done:
            try:
                tx.run_callbacks()
            except Exception:
                # The change is on disk: a failing callback must not make the write look failed.
                log.exception("callback after commit failed")
            if not job.future.done():
                job.future.set_result(result)

    def _fail(self, job: _Job, error: Exception) -> None:
        if not job.future.done():
            job.future.set_exception(self._storage_error(error) if isinstance(error, sqlite3.Error) else error)

    def _storage_error(self, error: sqlite3.Error) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StorageError("the disk is full", details="free disk space on the file system of storage.state_dir")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self.damaged = True
            return StorageError("the database file is damaged", details=DAMAGE_REMEDY)
        return StorageError("the database reported an error", details=str(error))


def _batch_error(error: Exception) -> Exception:
    """The error for the other jobs of a batch, when the failure of one job has rolled back all of them."""
    if isinstance(error, sqlite3.Error):
        return error
    return StorageError("the transaction was rolled back", details=str(error))


async def _configure(connection: aiosqlite.Connection) -> None:
    connection.row_factory = sqlite3.Row
    # Undecodable bytes are replaced: a damaged byte in one text must not make other rows unreadable.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    for pragma in (
        f"busy_timeout={BUSY_MS}",
        "foreign_keys=ON",
        "synchronous=FULL",
        "mmap_size=0",
        "cache_size=-2048",
        "temp_store=MEMORY",
        "trusted_schema=OFF",
        "secure_delete=ON",
    ):
        await connection.execute_fetchall(f"PRAGMA {pragma}")


def _retrieve_exception(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
