"""The configuration, shown and changed: `/api/v1/config`, and what old dashboards call it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pi_orchestrator.api.route import Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.concealment import MASK
from pi_orchestrator.settings import value_at
from pi_orchestrator.settings.keys import Key, Kind, as_text, groups
from pi_orchestrator.storage.actions import Actor


class ConfigLimits(Wire):
    """What a value has to be: one of `options`, a number from `min` to `max`, or a text that fits `pattern`."""

    options: list[str] | None = None
    min: int | float | None = None
    max: int | float | None = None
    pattern: str | None = None


class ConfigItem(Wire):
    """A key; `value` is what is configured, masked where it is a secret, and a list is separated by commas.

    `editable` can be set while the daemon runs and takes effect at once; with `restart_needed` the value is not in
    force yet.
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


class ConfigSection(Wire):
    """What belongs together, in the order of the configuration file."""

    name: str
    description: str
    items: list[ConfigItem]


class Config(Wire):
    """Everything that can be configured."""

    sections: list[ConfigSection]


class BareConfig(Config):
    """The same for old dashboards."""

    success: bool = True


class Configured(Wire):
    """What a key is now."""

    item: ConfigItem
    message: str


class BareConfigured(Configured):
    """The same for old dashboards."""

    success: bool = True


class ConfigKey(BaseModel):
    """Which key."""

    key: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$", description="section.key, e.g. cameras.idle_after_s")


class NewValue(BaseModel):
    """What it shall be."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    value: str | bool | int | float = Field(
        description="as an environment variable would have it: a list is separated by commas, none is the empty text"
    )


async def show(services: Services) -> Config:
    """Every key with its value, its limits and whether it can be set while the daemon runs; secrets are masked."""
    return Config(sections=_sections(services))


async def change(services: Services, path: ConfigKey, body: NewValue, actor: Actor) -> Configured:
    """Set a key: checked with everything else, kept over restarts, in effect at once, or not at all.

    409 `CONFLICT` says how a key can be changed that cannot be set here, and what a value contradicts. The mask of
    a secret changes nothing.
    """
    value = body.value.strip() if isinstance(body.value, str) else as_text(body.value)
    key = await services.configuration.set(path.key, value, actor=actor)
    masked = key.is_secret and value == MASK
    said = "is as it was: this is its mask" if masked else "is set, and in effect"
    return Configured(item=_item(services, key), message=f"{key.path} {said}")


async def reset(services: Services, path: ConfigKey, actor: Actor) -> Configured:
    """Go back to what file, environment and default say of a key, as they were last loaded."""
    key = await services.configuration.reset(path.key, actor=actor)
    return Configured(item=_item(services, key), message=f"{key.path} is as it is configured")


async def show_bare(services: Services) -> BareConfig:
    """Every key, as the old dashboard asks for it."""
    return BareConfig(sections=_sections(services))


async def change_bare(services: Services, path: ConfigKey, body: NewValue, actor: Actor) -> BareConfigured:
    """Set a key, as the old dashboard does it."""
    done = await change(services, path, body, actor)
    return BareConfigured(item=done.item, message=done.message)


async def reset_bare(services: Services, path: ConfigKey, actor: Actor) -> BareConfigured:
    """Reset a key, as the old dashboard does it."""
    done = await reset(services, path, actor)
    return BareConfigured(item=done.item, message=done.message)


def _sections(services: Services) -> list[ConfigSection]:
    return [
        ConfigSection(
            name=group.name, description=group.description, items=[_item(services, key) for key in group.keys]
        )
        for group in groups()
    ]


def _item(services: Services, key: Key) -> ConfigItem:
    configuration = services.configuration
    value = as_text(value_at(configuration.loaded.settings, key.path))
    return ConfigItem(
        key=key.path,
        value=MASK if key.is_secret and value else value,
        default_value=key.default,
        type=key.kind,
        description=key.description,
        required=key.required,
        editable=configuration.obstacle(key) is None,
        validation=ConfigLimits(options=[*key.options] or None, min=key.low, max=key.high, pattern=key.pattern),
        origin=configuration.origin(key.path),
        restart_needed=configuration.restart_needed(key.path),
    )
