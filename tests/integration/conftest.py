import pytest

from pi_orchestrator.app.build import ROUTES
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
    """Check every answer against the OpenAPI document; scans, nmcli and tailscale work without a network."""
    check_all_answers(monkeypatch)
    with_scans(monkeypatch)
    with_network(monkeypatch, tmp_path / "programs")


@pytest.fixture
def sample_data_per_route(request, monkeypatch):
    """Data that routes need: for all routes or, in a test whose parameter `route` writes, for that route only."""
    route = getattr(request.node, "callspec", None) and request.node.callspec.params.get("route")
    routes = [route] if route and route.writes else ROUTES
    with_sessions(monkeypatch, routes)
    with_pictures(monkeypatch)
    with_inventory(monkeypatch, routes)


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
