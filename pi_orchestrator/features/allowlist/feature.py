"""Allowlist: which cameras may be provisioned. All state is in the database; nothing is built."""

from __future__ import annotations

from pi_orchestrator.features.allowlist import routes
from pi_orchestrator.features.feature import Feature, Resources

ROUTES = routes.ROUTES
TAGS = {"allowlist": "Which cameras may be provisioned"}


def build(_res: Resources) -> Feature:
    """Return a feature that has routes only."""
    return Feature()
