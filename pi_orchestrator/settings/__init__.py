"""Settings: one frozen model, filled from layers."""

from pi_orchestrator.core.listen import Listen
from pi_orchestrator.settings.loader import (
    DEFAULT_PATH,
    Loaded,
    Tree,
    apply_overrides,
    changed_paths,
    closest_key,
    displayable,
    from_program,
    known_paths,
    load,
    secrets_of,
    value_at,
    with_override,
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
    "apply_overrides",
    "changed_paths",
    "closest_key",
    "displayable",
    "from_program",
    "known_paths",
    "load",
    "secrets_of",
    "value_at",
    "with_override",
]
