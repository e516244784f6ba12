"""One browser for each worker; everything around it lives in the loop that it lives in."""

import pytest_asyncio

from tests.support.broker import Broker
from tests.support.browser import opened
from tests.support.world import World


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium():
    async with opened() as chromium:
        yield chromium


@pytest_asyncio.fixture(loop_scope="session")
async def broker(tmp_path):
    broker = Broker(tmp_path)
    await broker.start()
    yield broker
    await broker.kill()


@pytest_asyncio.fixture(loop_scope="session")
async def world(tmp_path, broker):
    return World(state_dir=tmp_path / "state", broker=broker)
