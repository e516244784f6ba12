"""API models of the configuration."""

from __future__ import annotations

from typing import Literal

from pi_orchestrator.core.redaction import MASK
from pi_orchestrator.features.configuration.service import Configuration
from pi_orchestrator.http.model import ApiModel
from pi_orchestrator.settings import value_at
from pi_orchestrator.settings.reference import Key, Kind, as_text, groups


class ConfigLimits(ApiModel):
    """Limits of a value: one of `options`, a number from `min` to `max`, or a text that matches `pattern`."""

    options: list[str] | None = None
    min: int | float | None = None
    max: int | float | None = None
    pattern: str | None = None


class ConfigItem(ApiModel):
    """A setting; `value` is the configured value. Secrets are masked, lists are comma-separated.

    An `editable` setting can be changed while the daemon runs and takes effect immediately. `restart_needed`: the value
    was changed, but takes effect only after a restart. `origin` is the layer that the value comes from; `program` means
    a program that starts the daemon with its own settings, such as the demo.
    """

    key: str
    value: str
    default_value: str
    type: Kind
    description: str
    required: bool
    editable: bool
    validation: ConfigLimits
    origin: Literal["default", "program", "file", "credential", "environment", "override", "flag"]
    restart_needed: bool


class ConfigSection(ApiModel):
    """Settings of one section, in the order of the configuration file."""

    name: str
    description: str
    items: list[ConfigItem]


class Config(ApiModel):
    """All settings."""

    sections: list[ConfigSection]


def sections(configuration: Configuration) -> list[ConfigSection]:
    """All settings by section, in the order of the configuration file; secrets are masked."""
    return [
        ConfigSection(
            name=group.name, description=group.description, items=[item(configuration, key) for key in group.keys]
        )
        for group in groups()
    ]


def item(configuration: Configuration, key: Key) -> ConfigItem:
    """The setting of a key: its configured value, limits and origin."""
    value = as_text(value_at(configuration.loaded.settings, key.path))
    return ConfigItem(
        key=key.path,
        value=MASK if key.is_secret and value else value,
        default_value=key.default,
        type=key.kind,
        description=key.description,
        required=key.required,
        editable=configuration.read_only_reason(key) is None,
        validation=ConfigLimits(options=[*key.options] or None, min=key.low, max=key.high, pattern=key.pattern),
        origin=configuration.origin(key.path),
        restart_needed=configuration.is_restart_pending(key.path),
    )
