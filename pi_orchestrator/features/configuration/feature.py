"""Configuration: settings changed while the daemon runs; changes survive restarts."""

from __future__ import annotations

from dataclasses import dataclass

from pi_orchestrator.features.configuration import routes
from pi_orchestrator.features.configuration.service import Configuration
from pi_orchestrator.features.feature import Feature, Resources

ROUTES = routes.ROUTES
TAGS = {"config": "The settings, and changes to them while the daemon runs"}


@dataclass(frozen=True, kw_only=True)
class ConfigurationFeature(Feature):
    """The parts that other features use."""

    service: Configuration


def build(res: Resources) -> ConfigurationFeature:
    """Build the service; the daemon, which applies the changes, attaches itself with `attach` later."""
    service = Configuration(loaded=res.loaded, state_dir=res.state_dir, database=res.database, health=res.health)
    return ConfigurationFeature(service=service, provides=(service,))
