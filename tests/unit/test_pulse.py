"""The pulse: the watchdog is fed only while the loop, the writer and every heartbeat are fresh."""

import asyncio
import contextlib
import socket
import sqlite3

import pytest

from pi_orchestrator.health import Health, State
from pi_orchestrator.net.systemd import Notifier
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.workers import pulse as module
from pi_orchestrator.workers.pulse import DATABASE, PulseWorker
from tests.support.waiting import eventually


class Systemd:
    """A real socket in systemd's place."""

    def __init__(self, folder):
        self.address = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.setblocking(False)

    def heard(self):
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
def make_pulse(clock, health, database, systemd):
    def make(watchdog_s=30):
        environ = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        return PulseWorker(clock=clock, health=health, database=database, roster=Roster(), notifier=Notifier(environ))

    return make


async def test_a_daemon_that_lives_feeds_the_watchdog_and_says_how_it_is(make_pulse, health, systemd):
    assert await make_pulse().check() is True
    assert systemd.heard() == ["WATCHDOG=1", "STATUS=0 cameras registered"]
    assert health.get(DATABASE).state is State.OK
    assert health.ready()


async def test_trouble_is_told_but_does_not_starve_the_watchdog(make_pulse, health, systemd):
    health.add("mqtt")
    health.set("mqtt", State.DEGRADED, "connection refused")
    assert await make_pulse().check() is True
    assert systemd.heard() == ["WATCHDOG=1", "STATUS=0 cameras registered; mqtt: connection refused"]


async def test_a_stale_heartbeat_starves_the_watchdog_until_it_is_fresh(make_pulse, health, clock, systemd):
    health.add("presence", stale_after_s=60)
    health.add("onboarding", stale_after_s=60)
    pulse = make_pulse()
    assert await pulse.check() is True
    systemd.heard()

    await clock.advance(61)
    health.beat("onboarding")
    assert await pulse.check() is False
    assert systemd.heard() == []

    health.beat("presence")
    assert await pulse.check() is True
    assert systemd.heard()[0] == "WATCHDOG=1"


async def test_a_writer_that_is_stuck_starves_the_watchdog_until_it_moves(
    make_pulse, health, database, systemd, monkeypatch
):
    monkeypatch.setattr(module, "WRITER_TIMEOUT_S", 0.1)
    pulse = make_pulse()
    release = asyncio.Event()

    async def stuck(tx):
        await release.wait()

    writing = asyncio.create_task(database.write(stuck))
    await asyncio.sleep(0)
    assert await pulse.check() is False
    assert systemd.heard() == []
    assert health.get(DATABASE).state is State.FAILED
    assert not health.ready()

    release.set()
    await writing
    assert await pulse.check() is True
    assert systemd.heard()[0] == "WATCHDOG=1"
    assert health.get(DATABASE).state is State.OK


async def test_a_database_that_somebody_else_holds_is_no_pulse(make_pulse, database, systemd, monkeypatch):
    monkeypatch.setattr(module, "WRITER_TIMEOUT_S", 0.1)
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await make_pulse().check() is False
        assert systemd.heard() == []
        other.execute("ROLLBACK")
    assert await make_pulse().check() is True


async def test_a_closing_database_is_no_pulse_and_no_crash(make_pulse, database, systemd):
    database._closed = True
    assert await make_pulse().check() is False
    assert systemd.heard() == []
    database._closed = False


async def test_a_pulse_writes_nothing(make_pulse, database):
    pulse = make_pulse()
    await pulse.check()
    with contextlib.closing(sqlite3.connect(database.path)) as other:
        before = other.execute("PRAGMA data_version").fetchone()
        for _ in range(5):
            await pulse.check()
        assert other.execute("PRAGMA data_version").fetchone() == before


@pytest.mark.parametrize("watchdog_s, interval_s", [(30, 10), (6, 2), (3600, 10)])
async def test_three_pulses_fit_into_the_watchdogs_patience(make_pulse, clock, systemd, watchdog_s, interval_s):
    beats = []
    running = asyncio.create_task(make_pulse(watchdog_s).run(lambda: beats.append(clock.monotonic())))
    heard = []

    async def pulses(count):
        await eventually(lambda: heard.extend(systemd.heard()) or heard.count("WATCHDOG=1") == count)
        await eventually(lambda: clock._sleepers)

    await pulses(1)
    await clock.advance(interval_s - 0.01)
    assert len(beats) == 1
    await clock.advance(0.01)
    await pulses(2)
    assert beats == [1000.0, pytest.approx(1000.0 + interval_s)]
    running.cancel()
    await asyncio.wait([running])
