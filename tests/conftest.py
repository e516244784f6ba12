import functools
import io
import logging
import os
import sys

import pytest
import structlog
from blockbuster import blockbuster_ctx

import pi_orchestrator
from pi_orchestrator.logs import configure
from pi_orchestrator.net import vendors
from tests.support.broker import Broker
from tests.support.clock import FakeClock
from tests.support.world import World

# Databases and their fsyncs in memory: no test takes the power away, and what a SIGKILL leaves is the same.
if os.access("/dev/shm", os.W_OK):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")

read_manufacturers_once = functools.cache(vendors._load)


@pytest.fixture(autouse=True)
def no_blocking_calls():
    """A call of ours that blocks the event loop fails the test; what the tests themselves do is their business."""
    with blockbuster_ctx(scanned_modules=[pi_orchestrator]):
        yield


class Stderr(io.TextIOBase):
    """Whatever stderr is at the moment: pytest changes it with every test."""

    def write(self, text):
        return sys.stderr.write(text)


@pytest.fixture(autouse=True)
def logs_as_in_the_daemon():
    """Without this structlog draws its traces with source read from files, which blocks the loop."""
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    configure(level="debug", style="json", stream=Stderr())
    root.handlers[:] = [*handlers, *root.handlers]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def broker(tmp_path):
    broker = Broker(tmp_path)
    await broker.start()
    yield broker
    await broker.kill()


@pytest.fixture
async def world(tmp_path, broker, monkeypatch):
    # A tenth of a second of computing for each daemon in this process; how the list is read has tests of its own.
    monkeypatch.setattr(vendors, "_load", read_manufacturers_once)
    return World(state_dir=tmp_path / "state", broker=broker)
