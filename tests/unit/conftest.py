"""Shared by unit tests: a hypothesis profile without deadline and without example database; a real SQLite database."""

import asyncio

import pytest
from hypothesis import settings

from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import Database


def pytest_configure(config):
    examples = 300 if config.getoption("--slow") else 50
    settings.register_profile("unit", deadline=None, database=None, max_examples=examples)
    settings.load_profile("unit")


@pytest.fixture
def bus():
    return EventBus()


@pytest.fixture
async def database(tmp_path, clock, bus):
    path = tmp_path / "orchestrator.db"
    await asyncio.to_thread(schema.prepare, path, backups=tmp_path / "backups", backups_kept=5, closed_cleanly=True)
    async with Database(path=path, clock=clock, bus=bus).opened() as database:
        yield database
