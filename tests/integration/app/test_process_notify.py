"""Notifications to systemd over a real notify socket, and when watchdog pings stop."""

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
WATCHDOG_S = 0.9  # three pings fit into it, one every 0.3 s


@contextlib.asynccontextmanager
async def watched(rig, folder, systemd, **options):
    """A daemon whose service unit has a watchdog."""
    env = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))} | options.pop("env", {})
    async with daemon(rig, folder, env=env, **options) as process:
        yield process


async def wait_until_pings_stop(systemd):
    """Wait until no ping has arrived for a whole watchdog period; returns the number of pings so far."""
    count = -1
    while systemd.count(PING) != count:
        count = systemd.count(PING)
        await asyncio.sleep(WATCHDOG_S)
    return count


async def test_notifications_from_ready_to_stopping(rig, tmp_path):
    async with NotifySocket(tmp_path / "notify") as systemd, watched(rig, tmp_path, systemd) as process:
        await systemd.received("READY=1")
        assert (await process.api.get("/health")).status == 200
        await systemd.received("STATUS=0 cameras registered")
        await systemd.received(PING, count=3)
        assert await process.stop() == 0
        await systemd.received("STOPPING=1")
    assert systemd.lines.count("READY=1") == systemd.lines.count("STOPPING=1") == 1
    assert systemd.lines.index("READY=1") < systemd.lines.index(PING) < systemd.lines.index("STOPPING=1")


async def test_status_line_counts_cameras_and_failures(rig, tmp_path):
    async with (
        NotifySocket(tmp_path / "notify") as systemd,
        watched(rig, tmp_path, systemd),
        rig.fleet(2),
    ):
        await systemd.received("STATUS=2 cameras registered")
        await rig.broker.stop()
        await eventually(lambda: systemd.lines[-1].startswith("STATUS=2 cameras registered; mqtt: "))
        await systemd.received(PING, count=systemd.count(PING) + 2)  # an unreachable broker does not stop the pings


async def test_abstract_notify_socket_is_used(rig, tmp_path):
    name = f"piorch-test-{os.getpid()}-{id(tmp_path)}"
    env = {"NOTIFY_SOCKET": f"@{name}"}
    async with NotifySocket(f"\0{name}") as systemd, watched(rig, tmp_path, systemd, env=env):
        await systemd.received("READY=1")


@pytest.mark.parametrize("extra", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_PID": "1"}], ids=["no watchdog", "other process"])
async def test_pings_without_own_watchdog_are_rare(rig, tmp_path, extra):
    """One every 10 s; with a watchdog three arrive in WATCHDOG_S."""
    async with NotifySocket(tmp_path / "notify") as systemd, watched(rig, tmp_path, systemd, env=extra):
        await systemd.received("READY=1")
        await asyncio.sleep(WATCHDOG_S)
        assert systemd.count(PING) <= 1


async def test_pings_pause_while_loop_is_blocked(rig, tmp_path):
    block = {"BLOCK_S": str(WATCHDOG_S * 3)}
    async with (
        NotifySocket(tmp_path / "notify") as systemd,
        watched(rig, tmp_path, systemd, command=PROBED, env=block) as process,
    ):
        await systemd.received(PING)
        process.send(signal.SIGUSR1)
        stopped_at = await wait_until_pings_stop(systemd)
        await systemd.received(PING, count=stopped_at + 2)


async def test_pings_pause_while_writer_hangs(rig, tmp_path):
    async with NotifySocket(tmp_path / "notify") as systemd, watched(rig, tmp_path, systemd) as process:
        await systemd.received(PING)
        with _write_lock(rig.state_dir / "orchestrator.db"):
            stopped_at = await wait_until_pings_stop(systemd)
            assert (await process.api.get("/healthz")).status == 200, "the event loop runs"
            assert (await process.api.get("/api/v1/cameras")).status == 200, "reading still works"
            await process.logged("database not responding")
            ready = await process.api.get("/readyz")
            assert (ready.status, ready.json["checks"]["database"]) == (503, False)
            refused = await process.api.post("/api/v1/onboarding/auto/disable")
            assert (refused.status, refused.json["code"]) == (500, "DATABASE_ERROR")
        await systemd.received(PING, count=stopped_at + 2)
        assert (await process.api.get("/readyz")).status == 200
        assert (await process.api.post("/api/v1/onboarding/auto/disable")).status == 200


async def test_daemon_works_without_systemd(rig, tmp_path):
    missing = tmp_path / "missing-socket"
    async with daemon(rig, tmp_path, env={"NOTIFY_SOCKET": str(missing)}) as process:
        assert await process.stop() == 0
        assert not Path(missing).exists()


@contextlib.contextmanager
def _write_lock(database):
    """Hold the write lock, like a program with an unfinished transaction."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
