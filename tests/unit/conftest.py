"""What unit tests share: the daemon's own logging, hypothesis without a clock or a file, a real database."""

import asyncio
import io
import logging
import sys

import pytest
import structlog
from hypothesis import settings

from pi_orchestrator.events import Hub
from pi_orchestrator.logs import configure
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import Database

settings.register_profile("unit", deadline=None, database=None, max_examples=100)
settings.load_profile("unit")


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
def hub():
    return Hub()


@pytest.fixture
async def database(tmp_path, clock, hub):
    path = tmp_path / "orchestrator.db"
    await asyncio.to_thread(schema.prepare, path, backups=tmp_path / "backups", backups_kept=5, closed_cleanly=True)
    async with Database(path=path, clock=clock, hub=hub).opened() as database:
        yield database
