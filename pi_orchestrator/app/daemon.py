"""A running daemon as its owner holds it, and what SIGHUP can change of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pi_orchestrator.api.auth import Gate, Keyring
from pi_orchestrator.api.guard import Guard
from pi_orchestrator.api.services import Services
from pi_orchestrator.app.parts import configured_key, windows_of
from pi_orchestrator.errors import SettingsError
from pi_orchestrator.health import Health
from pi_orchestrator.logs import conceal, configure
from pi_orchestrator.settings import Listen, Settings, changed_paths, secrets_of

RELOADABLE = frozenset(
    {
        "http.trusted_hosts",
        "http.sse_unnamed_copy",
        "auth.mode",
        "auth.api_key",
        "auth.api_key_file",
        "cameras.idle_after_s",
        "cameras.offline_after_s",
        "cameras.max_devices",
        "cameras.capture_cache_s",
        "cameras.auto_reboot",
        "cameras.reboot_after",
        "logging.level",
        "discovery.interval_s",
        "auto_onboard.mode",
        "auto_onboard.triggers",
        "auto_onboard.max_per_minute",
        "auto_onboard.burst_size",
        "auto_onboard.subnet_allowlist",
        "auto_onboard.verification_timeout_sec",
        "auto_onboard.deny",
        "auto_onboard.overflow",
        "auto_onboard.concurrency",
        "auto_onboard.queue_limit",
    }
)
"""What SIGHUP and operators can change; every other key needs a restart."""

_NOT_OFF = "auth.mode: 'off' is refused while the daemon listens on the network; restart it"


@dataclass(slots=True)
class Daemon:
    """A running daemon: where it listens, and its parts for those who embed it."""

    settings: Settings
    started_with: Settings
    listen: list[Listen]
    mqtt_port: int
    services: Services
    health: Health
    failed: asyncio.Event
    _gate: Gate
    _guard: Guard
    _keyring: Keyring

    @property
    def url(self) -> str:
        """The first listener, as a URL that works on this machine."""
        first = self.listen[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(first.host, first.host)
        return f"http://{host}:{first.port}"

    def obstacle(self, settings: Settings) -> str | None:
        """Why nobody may be given these settings from afar, valid as they are; None where nothing is in the way."""
        if settings.auth.mode == "off" and self._on_the_network:
            return _NOT_OFF
        if configured_key(settings) is None and self._keyring.needs_configured:
            return "auth.api_key is the last admin key: make another one first"
        return None

    @property
    def _on_the_network(self) -> bool:
        # The new listeners may be loopback only; those in use are not, until a restart.
        return not all(where.is_loopback for where in self.listen)

    def apply(self, settings: Settings) -> list[str]:
        """Take what can change while running; returns the keys that need a restart."""
        changed = changed_paths(self.settings, settings)
        if settings.auth.mode == "off" and self._on_the_network:
            raise SettingsError([_NOT_OFF])
        # What can only change with a restart is in use until then.
        conceal([*secrets_of(self.started_with), *secrets_of(settings)])
        self.settings = settings
        self._guard.trust(settings.http.trusted_hosts)
        self._gate.mode = settings.auth.mode
        self._keyring.configure(configured_key(settings))
        self.services.streams.unnamed_copy = settings.http.sse_unnamed_copy
        self.services.registry.windows = windows_of(settings)
        self.services.discovery.interval_s = settings.discovery.interval_s
        self.services.registry.max_devices = settings.cameras.max_devices
        self.services.captures.cache_s = settings.cameras.capture_cache_s
        self.services.remedies.auto_reboot = settings.cameras.auto_reboot
        self.services.remedies.reboot_after = settings.cameras.reboot_after
        # The target container is made at start, and loopback is for the sandbox: neither changes under way.
        fixed = self.services.onboarding.settings
        self.services.onboarding.reconfigure(
            settings.auto_onboard.model_copy(
                update={"target_container": fixed.target_container, "allow_loopback": fixed.allow_loopback}
            )
        )
        if "logging.level" in changed:
            configure(level=settings.logging.level, style=settings.logging.format)
        return sorted(set(changed_paths(self.started_with, settings)) - RELOADABLE)
