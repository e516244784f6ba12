"""What unit tests share: hypothesis without a clock or a file, and a real database."""

import asyncio

import pytest
from hypothesis import settings

from pi_orchestrator.events import Hub
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import Database

settings.register_profile("unit", deadline=None, database=None, max_examples=100)
settings.load_profile("unit")


@pytest.fixture
def hub():
    return Hub()


@pytest.fixture
async def database(tmp_path, clock, hub):
    path = tmp_path / "orchestrator.db"
    await asyncio.to_thread(schema.prepare, path, backups=tmp_path / "backups", backups_kept=5, closed_cleanly=True)
    async with Database(path=path, clock=clock, hub=hub).opened() as database:
        yield database
