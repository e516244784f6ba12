import functools
import gc
import io
import logging
import os
import sys

import pytest
import structlog
from blockbuster import BlockBuster

import pi_orchestrator
from pi_orchestrator.core.logging import configure
from pi_orchestrator.net import oui
from tests.support.broker import Broker
from tests.support.clock import FakeClock
from tests.support.rig import Rig
from tests.support.sampling import Scale

# Databases in memory make fsync cheap. No test simulates a power cut; SIGKILL leaves the same files.
if os.access("/dev/shm", os.W_OK):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run all cases; without it, a sample of the expensive ones")


def pytest_configure(config):
    Scale.slow = config.getoption("--slow")


def pytest_sessionstart(session):
    """A test fails if pi_orchestrator blocks the event loop; calls from test code are not checked."""
    session.config.add_cleanup(BLOCKING_CALLS.deactivate)
    BLOCKING_CALLS.activate()


# No garbage is collected while tests are collected; afterwards, all modules and tests are exempt.
gc.disable()


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Drop the output of tests that passed; sending it from process to process takes CPU."""
    report = yield
    if report.passed:
        report.sections.clear()
    return report


# One object for the whole run: patching the blocking functions takes 2 ms, too long for every test.
BLOCKING_CALLS = BlockBuster(scanned_modules=[pi_orchestrator])

load_vendor_table_once = functools.cache(oui.load_table)


class Stderr(io.TextIOBase):
    """The current sys.stderr; pytest replaces it for each test."""

    def write(self, text):
        return sys.stderr.write(text)


@pytest.fixture(autouse=True)
def daemon_logging():
    """Configure JSON logging; structlog's default tracebacks read source files, which blocks the loop."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    configure(level="debug", style="json", stream=Stderr())
    root.handlers[:] = [*handlers, *root.handlers]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


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
async def rig(tmp_path, broker, monkeypatch):
    # Loading takes 0.2 s of CPU per daemon; it is tested separately.
    monkeypatch.setattr(oui, "load_table", load_vendor_table_once)
    return Rig(state_dir=tmp_path / "state", broker=broker)
