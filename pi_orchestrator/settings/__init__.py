"""The configuration: one frozen model, filled from layers."""

from pi_orchestrator.settings.loader import (
    DEFAULT_PATH,
    Loaded,
    Tree,
    changed_paths,
    known_paths,
    load,
    shown,
    value_at,
)
from pi_orchestrator.settings.model import (
    ApSettings,
    AutoOnboardSettings,
    CameraSettings,
    DiscoverySettings,
    Listen,
    MqttSettings,
    ProvisioningSettings,
    Settings,
    StorageSettings,
)

__all__ = [
    "DEFAULT_PATH",
    "ApSettings",
    "AutoOnboardSettings",
    "CameraSettings",
    "DiscoverySettings",
    "Listen",
    "Loaded",
    "MqttSettings",
    "ProvisioningSettings",
    "Settings",
    "StorageSettings",
    "Tree",
    "changed_paths",
    "known_paths",
    "load",
    "shown",
    "value_at",
]
