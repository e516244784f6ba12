"""Legacy: paths of old dashboards, each a current route in another shape."""

from __future__ import annotations

from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.features.legacy import routes

ROUTES = routes.ROUTES
TAGS = {"dashboard": "Paths of old dashboards"}


def build(_res: Resources) -> Feature:
    """Return an empty feature: there are only routes."""
    return Feature()
