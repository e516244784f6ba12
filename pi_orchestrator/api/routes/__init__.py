"""The one route table, in slices of what belongs together. What is not here does not exist.

Handler docstrings say what a route does at length; the summaries here are its name in a list.
"""

from __future__ import annotations

from pi_orchestrator.api.route import Route
from pi_orchestrator.api.routes import (
    allowlist,
    cameras,
    captures,
    config,
    containers,
    dashboard,
    discovery,
    host,
    keys,
    network,
    onboarding,
    provisioning,
    streams,
    system,
)

ROUTES: tuple[Route, ...] = (
    *system.ROUTES,
    *host.ROUTES,
    *onboarding.ROUTES,
    *allowlist.ROUTES,
    *provisioning.ROUTES,
    *cameras.ROUTES,
    *captures.ROUTES,
    *containers.ROUTES,
    *discovery.ROUTES,
    *network.ROUTES,
    *dashboard.ROUTES,
    *streams.ROUTES,
    *keys.ROUTES,
    *config.ROUTES,
)
