"""What systemd hears from the daemon over a real notify socket, and when the watchdog is not fed."""

import asyncio
import contextlib
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.support.process import PROBED, NotifySocket, daemon
from tests.support.waiting import eventually

PING = "WATCHDOG=1"
PATIENCE_S = 0.9  # three pings fit into it: one each 0.3 s


@contextlib.asynccontextmanager
async def watched(world, folder, systemd, **how):
    """A daemon whose service unit has a watchdog."""
    env = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": str(int(PATIENCE_S * 1e6))} | how.pop("env", {})
    async with daemon(world, folder, env=env, **how) as process:
        yield process


async def pings_stop(systemd):
    """Return once no ping has come for as long as systemd would wait."""
    count = -1
    while systemd.count(PING) != count:
        count = systemd.count(PING)
        await asyncio.sleep(PATIENCE_S)
    return count


async def test_systemd_hears_ready_once_it_serves_then_status_and_pings_and_stopping_at_the_end(world, tmp_path):
    async with NotifySocket(tmp_path / "notify") as systemd, watched(world, tmp_path, systemd) as process:
        await systemd.received("READY=1")
        assert (await process.api.get("/health")).status == 200
        await systemd.received("STATUS=0 cameras registered")
        await systemd.received(PING, count=3)
        assert await process.stop() == 0
        await systemd.received("STOPPING=1")
    assert systemd.lines.count("READY=1") == systemd.lines.count("STOPPING=1") == 1
    assert systemd.lines.index("READY=1") < systemd.lines.index(PING) < systemd.lines.index("STOPPING=1")


async def test_the_status_line_counts_cameras_and_names_what_is_in_trouble(world, tmp_path):
    async with (
        NotifySocket(tmp_path / "notify") as systemd,
        watched(world, tmp_path, systemd),
        world.fleet(2),
    ):
        await systemd.received("STATUS=2 cameras registered")
        await world.broker.stop()
        await eventually(lambda: systemd.lines[-1].startswith("STATUS=2 cameras registered; mqtt: "))
        await systemd.received(PING, count=systemd.count(PING) + 2)  # a broker that is gone is no reason to restart us


async def test_an_abstract_notify_socket_is_spoken_to_as_well(world, tmp_path):
    name = f"piorch-test-{os.getpid()}-{id(tmp_path)}"
    env = {"NOTIFY_SOCKET": f"@{name}"}
    async with NotifySocket(f"\0{name}") as systemd, watched(world, tmp_path, systemd, env=env):
        await systemd.received("READY=1")


@pytest.mark.parametrize("extra", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_PID": "1"}], ids=["no watchdog", "another's"])
async def test_pings_keep_to_ten_seconds_where_no_watchdog_of_ours_is_set(world, tmp_path, extra):
    async with NotifySocket(tmp_path / "notify") as systemd, watched(world, tmp_path, systemd, env=extra):
        await systemd.received("READY=1")
        await asyncio.sleep(PATIENCE_S)
        assert systemd.count(PING) <= 1


async def test_pings_stop_while_the_event_loop_is_blocked_and_come_back_after_it(world, tmp_path):
    block = {"BLOCK_S": str(PATIENCE_S * 3)}
    async with (
        NotifySocket(tmp_path / "notify") as systemd,
        watched(world, tmp_path, systemd, command=PROBED, env=block) as process,
    ):
        await systemd.received(PING)
        process.send(signal.SIGUSR1)
        stopped_at = await pings_stop(systemd)
        await systemd.received(PING, count=stopped_at + 2)


async def test_pings_stop_while_the_database_writer_hangs_and_come_back_after_it(world, tmp_path):
    async with NotifySocket(tmp_path / "notify") as systemd, watched(world, tmp_path, systemd) as process:
        await systemd.received(PING)
        with _held(world.state_dir / "orchestrator.db"):
            stopped_at = await pings_stop(systemd)
            assert (await process.api.get("/healthz")).status == 200, "the event loop itself runs"
            assert (await process.api.get("/api/v1/cameras")).status == 200, "and reading goes on"
            await process.logged("the database does not answer")
            ready = await process.api.get("/readyz")
            assert (ready.status, ready.json["checks"]["database"]) == (503, False)
            refused = await process.api.post("/api/v1/onboarding/auto/disable")
            assert (refused.status, refused.json["code"]) == (500, "DATABASE_ERROR")
        await systemd.received(PING, count=stopped_at + 2)
        assert (await process.api.get("/readyz")).status == 200
        assert (await process.api.post("/api/v1/onboarding/auto/disable")).status == 200


async def test_a_daemon_works_without_systemd_and_with_one_that_has_gone(world, tmp_path):
    gone = tmp_path / "nobody-listens"
    async with daemon(world, tmp_path, env={"NOTIFY_SOCKET": str(gone)}) as process:
        assert await process.stop() == 0
        assert not Path(gone).exists()


@contextlib.contextmanager
def _held(database):
    """Hold the write lock, as a program does that forgot its transaction."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
