import pytest

from tests.support.api import (
    check_all_answers,
    production_log,
    with_inventory,
    with_network,
    with_pictures,
    with_scans,
    with_sessions,
)


@pytest.fixture
def documented_answers(monkeypatch, tmp_path):
    check_all_answers(monkeypatch)
    with_scans(monkeypatch)
    with_network(monkeypatch, tmp_path / "programs")


@pytest.fixture
def sample_data_per_route(monkeypatch):
    with_sessions(monkeypatch)
    with_pictures(monkeypatch)
    with_inventory(monkeypatch)


@pytest.fixture
async def daemon(rig):
    """A daemon without cameras; it does not wait for the broker."""
    async with rig.daemon(connected=False) as running:
        yield running


@pytest.fixture
def log():
    """The log output of the daemon, in the production format."""
    with production_log() as log:
        yield log
