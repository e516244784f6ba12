"""The configuration: `/api/v1/config`, and the paths of old dashboards."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.redaction import MASK
from pi_orchestrator.features.configuration.service import Configuration
from pi_orchestrator.features.configuration.views import Config, ConfigItem, item, sections
from pi_orchestrator.http.model import ApiModel, RequestModel
from pi_orchestrator.settings.reference import as_text


class BareConfig(Config):
    """The configuration, for old dashboards."""

    success: bool = True


class ConfigResult(ApiModel):
    """A setting after a change."""

    item: ConfigItem
    message: str


class BareConfigResult(ConfigResult):
    """A setting after a change, for old dashboards."""

    success: bool = True


class ConfigKey(RequestModel):
    """The key of a setting."""

    key: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$", description="section.key, e.g. cameras.idle_after_s")


class NewValue(RequestModel):
    """The new value of a setting."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    value: str | bool | int | float = Field(
        description="spelled as in an environment variable: lists are comma-separated, an empty text means no value"
    )


async def show(configuration: Configuration) -> Config:
    """All settings with value, limits and whether they can be set while the daemon runs; secrets are masked."""
    return Config(sections=sections(configuration))


async def change(configuration: Configuration, path: ConfigKey, body: NewValue, actor: Actor) -> ConfigResult:
    """Change a setting. The value is validated with all others, takes effect immediately and is kept over restarts.

    On failure nothing is changed. 409 `CONFLICT` if the key cannot be set while the daemon runs, or if the value
    conflicts with other settings; the details explain it. Setting a secret to its mask changes nothing.
    """
    value = body.value.strip() if isinstance(body.value, str) else as_text(body.value)
    key = await configuration.set(path.key, value, actor=actor)
    masked = key.is_secret and value == MASK
    outcome = "is unchanged: the value sent is the mask of a secret" if masked else "is set and in effect"
    return ConfigResult(item=item(configuration, key), message=f"{key.path} {outcome}")


async def reset(configuration: Configuration, path: ConfigKey, actor: Actor) -> ConfigResult:
    """Remove the override of a setting: the value of file, environment or default applies again, as last loaded."""
    key = await configuration.reset(path.key, actor=actor)
    return ConfigResult(item=item(configuration, key), message=f"{key.path} is reset to its configured value")


async def show_bare(configuration: Configuration) -> BareConfig:
    """All settings, for old dashboards."""
    return BareConfig(sections=sections(configuration))


async def change_bare(configuration: Configuration, path: ConfigKey, body: NewValue, actor: Actor) -> BareConfigResult:
    """Change a setting, for old dashboards."""
    result = await change(configuration, path, body, actor)
    return BareConfigResult(item=result.item, message=result.message)


async def reset_bare(configuration: Configuration, path: ConfigKey, actor: Actor) -> BareConfigResult:
    """Reset a setting, for old dashboards."""
    result = await reset(configuration, path, actor)
    return BareConfigResult(item=result.item, message=result.message)
