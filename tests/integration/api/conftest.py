import pytest

from tests.support.api import (
    production_log,
    watch,
    with_inventory,
    with_network,
    with_pictures,
    with_scans,
    with_sessions,
)


@pytest.fixture(autouse=True)
def every_answer_is_as_documented(monkeypatch, tmp_path):
    watch(monkeypatch)
    with_scans(monkeypatch)
    with_network(monkeypatch, tmp_path / "programs")


@pytest.fixture
def a_session_for_each_route(monkeypatch):
    with_sessions(monkeypatch)
    with_pictures(monkeypatch)
    with_inventory(monkeypatch)


@pytest.fixture
async def daemon(world):
    """A daemon with no camera and, most of the time, no broker."""
    async with world.daemon(connected=False) as running:
        yield running


@pytest.fixture
def log():
    """What the daemon writes, as it writes it in production."""
    with production_log() as log:
        yield log
