"""A running daemon: its parts, and how it applies settings at run time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pi_orchestrator.app.build import Application
from pi_orchestrator.core.errors import SettingsError
from pi_orchestrator.core.health import Health
from pi_orchestrator.core.listen import Listen
from pi_orchestrator.core.logging import configure, configure_redaction
from pi_orchestrator.features.api_keys.feature import configured_key
from pi_orchestrator.settings import Settings, changed_paths, secrets_of

_OFF_REFUSED = (
    "auth.mode: 'off' is refused while the daemon listens on the network; if http.listen now has only loopback"
    " addresses, restart the daemon"
)
LOG_LEVEL = "logging.level"


@dataclass(slots=True)
class Daemon:
    """A running daemon: its settings, listeners and parts.

    `settings` are those applied last; for keys that need a restart, the values of `started_with` are still in effect.
    `failed` is set when a worker has failed permanently.
    """

    settings: Settings
    started_with: Settings
    listen: list[Listen]
    mqtt_port: int
    app: Application
    health: Health
    failed: asyncio.Event

    @property
    def url(self) -> str:
        """The first listener, as a URL that works on this machine."""
        return self.listen[0].url

    @property
    def reloadable(self) -> frozenset[str]:
        """Settings keys that SIGHUP and operators can change; every other key needs a restart."""
        return self.app.reloadable | {LOG_LEVEL}

    def precondition_error(self, settings: Settings) -> str | None:
        """Why valid settings must not be applied over the API, or None."""
        if settings.auth.mode == "off" and self._listens_on_network:
            return _OFF_REFUSED
        if configured_key(settings) is None and self.app.api_keys.keyring.is_configured_key_needed:
            return "auth.api_key is the last admin key: create another one first"
        return None

    @property
    def _listens_on_network(self) -> bool:
        # New settings may have only loopback addresses, but the listeners in use stay until a restart.
        return not all(listen.is_loopback for listen in self.listen)

    def apply(self, settings: Settings) -> list[str]:
        """Apply the reloadable keys; returns the other keys that have changed since the start: they need a restart.

        SettingsError if the new auth mode is `off` while a listener is on the network.
        """
        changed = changed_paths(self.settings, settings)
        if settings.auth.mode == "off" and self._listens_on_network:
            raise SettingsError([_OFF_REFUSED])
        # Secrets that need a restart are in use until then, so old and new ones are redacted.
        configure_redaction([*secrets_of(self.started_with), *secrets_of(settings)])
        self.settings = settings
        for feature in self.app.features:
            if feature.reload:
                feature.reload(settings)
        if LOG_LEVEL in changed:
            configure(level=settings.logging.level, style=settings.logging.format)
        return sorted(set(changed_paths(self.started_with, settings)) - self.reloadable)
