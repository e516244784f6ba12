"""P7: durable writes of sixteen clients; each waits until its row is on disk before it sends the next."""

import asyncio
import contextlib
import threading
import time

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.storage import audit_log as actions
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import Database
from tests.bench.bare import commit_row, open_database
from tests.bench.report import Row, medians_and_ratio

CLIENTS = 16
WRITES = 50
ROUNDS = 9
ACTOR = Actor(key_name="bench", peer="-", correlation_id="-", action="bench")


async def durable_writes(env):
    folder = env.path("writes")
    for name in ("ours.db", "bare.db"):
        schema.prepare(folder / name, backups=folder / "backups", backups_kept=1, closed_cleanly=True)
    ours, reference, one_connection = [], [], []
    async with Database(path=folder / "ours.db", clock=Clock(), bus=EventBus()).opened() as database:
        for _ in range(ROUNDS):
            ours.append(await _rate_of_daemon(database))
            reference.append(await asyncio.to_thread(_rate_of_16_connections, folder / "bare.db"))
            one_connection.append(await asyncio.to_thread(_rate_of_1_connection, folder / "bare.db"))
    rows = []
    note = "sqlite3, FULL, a commit for each row: from 16 connections; then from one alone"
    for measure, references, has_target in (
        ("durable writes, 16 clients", reference, True),
        ("… compared with 1 connection", one_connection, False),
    ):
        median, bare_median, ratio = medians_and_ratio(ours, references)
        target, met = ("≥ 1.0 ×", ratio >= 1) if has_target else ("", None)
        rows.append(Row("P7", measure, "/s", median, bare_median, ratio, target, met, note))
    return rows


async def _rate_of_daemon(database):
    async def job(tx):
        await actions.record(tx, ACTOR)

    async def client():
        for _ in range(WRITES):
            await database.write(job)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return CLIENTS * WRITES / (time.perf_counter() - started)


def _rate_of_16_connections(path):
    def client():
        with contextlib.closing(open_database(path)) as connection:
            for _ in range(WRITES):
                commit_row(connection)

    return _rate([threading.Thread(target=client) for _ in range(CLIENTS)])


def _rate_of_1_connection(path):
    def client():
        with contextlib.closing(open_database(path)) as connection:
            for _ in range(CLIENTS * WRITES):
                commit_row(connection)

    return _rate([threading.Thread(target=client)])


def _rate(threads):
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return CLIENTS * WRITES / (time.perf_counter() - started)
