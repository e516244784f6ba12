"""Settings: one frozen model, filled from layers."""

from pi_orchestrator.core.listen import Listen
from pi_orchestrator.settings.loader import (
    DEFAULT_PATH,
    Loaded,
    Tree,
    changed_paths,
    closest,
    given,
    known_paths,
    load,
    overridden,
    secrets_of,
    settle,
    shown,
    value_at,
)
from pi_orchestrator.settings.model import (
    ApSettings,
    AutoOnboardSettings,
    CameraSettings,
    DiscoverySettings,
    MqttSettings,
    ProvisioningSettings,
    Settings,
    StorageSettings,
)
from pi_orchestrator.settings.retired import RETIRED, SettingWarning

__all__ = [
    "DEFAULT_PATH",
    "RETIRED",
    "ApSettings",
    "AutoOnboardSettings",
    "CameraSettings",
    "DiscoverySettings",
    "Listen",
    "Loaded",
    "MqttSettings",
    "ProvisioningSettings",
    "SettingWarning",
    "Settings",
    "StorageSettings",
    "Tree",
    "changed_paths",
    "closest",
    "given",
    "known_paths",
    "load",
    "overridden",
    "secrets_of",
    "settle",
    "shown",
    "value_at",
]
