"""The one database: one writer that commits in groups, and readers that never block it.

Every change is a job, run by the writer in a savepoint of its own. Jobs that arrive while a commit is under way
share the next one, so sixteen clients pay for one fsync. A caller gets its answer after the commit: acknowledged
means on disk. What must happen in memory because of a change is told by `after_commit`.
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

from pi_orchestrator.clock import Clock, Stamp
from pi_orchestrator.errors import StorageError
from pi_orchestrator.events import Event, Hub
from pi_orchestrator.logs import get_logger

T = TypeVar("T")
Row = sqlite3.Row
Params = Sequence[Any]

READERS = 2
MAX_BATCH = 64
MAX_QUEUED = 4096
REPAIR = "start the daemon again: it then checks the file, sets it aside and saves what can be read"
DRAIN_S = 5.0
BUSY_MS = 5000
"""How long whoever else writes to the file is waited for."""

log = get_logger(__name__)


class Tx:
    """A running transaction, as a job sees it; a job awaits nothing else."""

    def __init__(self, connection: aiosqlite.Connection, stamp: Stamp, hub: Hub) -> None:
        self.stamp = stamp
        self._connection = connection
        self._hub = hub
        self._after: list[Callable[[], None]] = []

    async def run(self, sql: str, params: Params = ()) -> list[Row]:
        """Run one statement; its rows, if it returns any."""
        return list(await self._connection.execute_fetchall(sql, params))

    async def run_many(self, sql: str, rows: Iterable[Params]) -> None:
        """Run one statement once a row."""
        cursor = await self._connection.executemany(sql, rows)
        await cursor.close()

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back once this is on disk, and never if it does not get there."""
        self._after.append(callback)

    def publish(self, event: Event) -> None:
        """Tell the hub once this is on disk."""
        self._after.append(lambda: self._hub.publish(event))

    def committed(self) -> None:
        """The writer's word that it is."""
        for callback in self._after:
            callback()


@dataclass(slots=True)
class _Job:
    run: Callable[[Tx], Awaitable[Any]]
    future: asyncio.Future[Any]


class Database:
    """Writes by `write`, reads by `read`; open it with `opened`."""

    def __init__(self, *, path: Path, clock: Clock, hub: Hub) -> None:
        self.path = path
        self._clock = clock
        self._hub = hub
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(MAX_QUEUED)
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        self._closed = False
        self._scrub = False
        self.commits = 0
        self.damaged = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Database]:
        """Open for the length of the block; what was queued is written before it closes."""
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

    async def write(self, job: Callable[[Tx], Awaitable[T]]) -> T:
        """Run a job in a transaction; returns after the commit. A cancelled caller does not undo the job."""
        if self._closed:
            raise StorageError("the database is closing")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        await self._queue.put(_Job(job, future))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_retrieve)
            raise

    async def read(self, sql: str, params: Params = ()) -> list[Row]:
        """Rows of one query, as of the last commit."""
        reader = await self._readers.get()
        try:
            return list(await reader.execute_fetchall(sql, params))
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        finally:
            self._readers.put_nowait(reader)

    async def ping(self) -> None:
        """Pass through the writer and back: proof that it lives. Writes nothing."""

        async def nothing(tx: Tx) -> None:
            await tx.run("SELECT 1")

        await self.write(nothing)

    async def scrub(self) -> None:
        """Leave nothing of what was deleted in the WAL either; what is deleted from the file is overwritten there."""
        self._scrub = True
        await self.ping()

    async def _write_loop(self, writer: aiosqlite.Connection) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                if self._scrub:
                    await self._truncate_wal(writer)
                await self._commit(writer, batch)
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _truncate_wal(self, writer: aiosqlite.Connection) -> None:
        try:
            rows = await writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
            self._scrub = bool(next(iter(rows))[0])  # busy: a reader stands on it; the next commit tries again
        except sqlite3.Error as error:
            log.warning("the write-ahead log could not be emptied yet", reason=str(error))

    async def _commit(self, writer: aiosqlite.Connection, batch: list[_Job]) -> None:
        done: list[tuple[_Job, Tx, Any]] = []
        try:
            await writer.execute_fetchall("BEGIN IMMEDIATE")
            for job in batch:
                tx = Tx(writer, self._clock.stamp(), self._hub)
                await writer.execute_fetchall("SAVEPOINT job")
                try:
                    result = await job.run(tx)
                except Exception as error:
                    if not writer.in_transaction:
                        # SQLite has rolled back everything (disk full, I/O): no job of the batch stands.
                        self._fail(job, error)
                        raise _shared(error) from error
                    await writer.execute_fetchall("ROLLBACK TO job")
                    await writer.execute_fetchall("RELEASE job")
                    self._fail(job, error)
                else:
                    await writer.execute_fetchall("RELEASE job")
                    done.append((job, tx, result))
            await writer.execute_fetchall("COMMIT")
        except Exception as error:
            # Whatever it was, every waiting caller must hear of it.
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
                tx.committed()
            except Exception:
                # It is on disk: whoever fails to hear of it must not make it look as if it were not.
                log.exception("a listener to a commit failed")
            if not job.future.done():
                job.future.set_result(result)

    def _fail(self, job: _Job, error: Exception) -> None:
        if not job.future.done():
            job.future.set_exception(self._refusal(error) if isinstance(error, sqlite3.Error) else error)

    def _refusal(self, error: sqlite3.Error) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StorageError("the disk is full", details="free space below storage.state_dir")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self.damaged = True
            return StorageError("the database file is damaged", details=REPAIR)
        return StorageError("the database refused this", details=str(error))


def _shared(error: Exception) -> Exception:
    """What the others of a batch are told when one job's fault undid them all."""
    if isinstance(error, sqlite3.Error):
        return error
    return StorageError("the database gave up the transaction", details=str(error))


async def _configure(connection: aiosqlite.Connection) -> None:
    connection.row_factory = sqlite3.Row
    # A damaged byte in one text must not keep every row from being read.
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


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
