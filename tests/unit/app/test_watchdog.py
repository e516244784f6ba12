"""systemd is notified only while event loop and database writer respond and no heartbeat is stale."""

import asyncio
import contextlib
import socket
import sqlite3

import pytest

from pi_orchestrator.app import watchdog as module
from pi_orchestrator.app.watchdog import DATABASE, WatchdogWorker
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.net.host.systemd import Notifier
from tests.support.waiting import eventually


class Systemd:
    """A real notify socket that replaces systemd's."""

    def __init__(self, folder):
        self.address = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.setblocking(False)

    def received(self):
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(4096).decode())
        return messages


@pytest.fixture
def systemd(tmp_path):
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.socket.close()


@pytest.fixture
def health(clock):
    health = Health(clock=clock)
    health.add(DATABASE, essential=True)
    return health


@pytest.fixture
def make_worker(clock, health, database, systemd):
    def make(watchdog_s=30):
        environ = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        return WatchdogWorker(
            clock=clock, health=health, database=database, cameras=CameraCache(), notifier=Notifier(environ)
        )

    return make


async def test_healthy_daemon_notifies_with_status(make_worker, health, systemd):
    assert await make_worker().check() is True
    assert systemd.received() == ["WATCHDOG=1", "STATUS=0 cameras registered"]
    assert health.get(DATABASE).state is State.OK
    assert health.is_ready()


async def test_degraded_part_does_not_stop_notifications(make_worker, health, systemd):
    health.add("mqtt")
    health.set("mqtt", State.DEGRADED, "connection refused")
    assert await make_worker().check() is True
    assert systemd.received() == ["WATCHDOG=1", "STATUS=0 cameras registered; mqtt: connection refused"]


async def test_stale_heartbeat_stops_notifications(make_worker, health, clock, systemd):
    health.add("presence", stale_after_s=60)
    health.add("onboarding", stale_after_s=60)
    worker = make_worker()
    assert await worker.check() is True
    systemd.received()

    await clock.advance(61)
    health.beat("onboarding")
    assert await worker.check() is False
    assert systemd.received() == []

    health.beat("presence")
    assert await worker.check() is True
    assert systemd.received()[0] == "WATCHDOG=1"


async def test_stuck_writer_stops_notifications(make_worker, health, database, systemd, monkeypatch):
    monkeypatch.setattr(module, "WRITER_TIMEOUT_S", 0.1)
    worker = make_worker()
    release = asyncio.Event()

    async def stuck(tx):
        await release.wait()

    writing = asyncio.create_task(database.write(stuck))
    await asyncio.sleep(0)
    assert await worker.check() is False
    assert systemd.received() == []
    assert health.get(DATABASE).state is State.FAILED
    assert not health.is_ready()

    release.set()
    await writing
    assert await worker.check() is True
    assert systemd.received()[0] == "WATCHDOG=1"
    assert health.get(DATABASE).state is State.OK


async def test_locked_database_stops_notifications(make_worker, database, systemd, monkeypatch):
    monkeypatch.setattr(module, "WRITER_TIMEOUT_S", 0.1)
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await make_worker().check() is False
        assert systemd.received() == []
        other.execute("ROLLBACK")
    assert await make_worker().check() is True


async def test_closing_database_fails_the_check(make_worker, database, systemd):
    database._closed = True
    assert await make_worker().check() is False
    assert systemd.received() == []
    database._closed = False


async def test_check_writes_nothing(make_worker, database):
    worker = make_worker()
    await worker.check()
    with contextlib.closing(sqlite3.connect(database.path)) as other:
        before = other.execute("PRAGMA data_version").fetchone()
        for _ in range(5):
            await worker.check()
        assert other.execute("PRAGMA data_version").fetchone() == before


@pytest.mark.parametrize("watchdog_s, interval_s", [(30, 10), (6, 2), (3600, 10)])
async def test_three_checks_fit_into_watchdog_period(make_worker, clock, systemd, watchdog_s, interval_s):
    beats = []
    running = asyncio.create_task(make_worker(watchdog_s).run(lambda: beats.append(clock.monotonic())))
    received = []

    async def wait_for_notifications(count):
        """Wait for this many notifications, and until the worker sleeps."""
        await eventually(lambda: received.extend(systemd.received()) or received.count("WATCHDOG=1") == count)
        await eventually(lambda: clock._sleepers)

    await wait_for_notifications(1)
    await clock.advance(interval_s - 0.01)
    assert len(beats) == 1
    await clock.advance(0.01)
    await wait_for_notifications(2)
    assert beats == [1000.0, pytest.approx(1000.0 + interval_s)]
    running.cancel()
    await asyncio.wait([running])
