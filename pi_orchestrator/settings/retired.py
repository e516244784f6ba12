"""Retired settings: keys of earlier versions that are ignored with a warning instead of being an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RETIRED: Mapping[str, str] = {
    "discovery.rounds": "the number of ARP requests per scan is fixed",
    "mqtt.keepalive_s": "the MQTT keep-alive interval is fixed",
    "cameras.images_kept_mb": "the memory for the last pictures is fixed",
    "auto_onboard.queue_limit": "the length of the waiting line is fixed",
    "provisioning.breaker_failures": "the failure limit of the circuit breaker is fixed",
    "provisioning.breaker_reset_s": "the reset time of the circuit breaker is fixed",
    "storage.backups_kept": "the number of backups kept before migrations is fixed",
}
"""`section.key` → why it is no setting any more. A key listed here must not be in the model."""


@dataclass(frozen=True, slots=True)
class SettingWarning:
    """A retired setting that is still set: its path, where it is set, and why it has no effect."""

    key: str
    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: has no effect any more because {self.reason}; remove it (from {self.origin})"
