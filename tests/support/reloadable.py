"""All settings that can change at run time: for each key another valid value, and how to read the one in effect."""

import logging

import structlog

from pi_orchestrator.settings.model import Mode, Overflow

ANOTHER_KEY = "another-key-0123"


def _onboarding(name):
    return lambda daemon: getattr(daemon.app.onboarding.worker.settings, name)


def _logs_details(_daemon):
    return structlog.get_logger().is_enabled_for(logging.DEBUG)


# Key → (value in the request, effective value, function that reads it from a running daemon).
IN_EFFECT = {
    "http.trusted_hosts": ("Pi.example, b.example", {"pi.example", "b.example"}, lambda d: d.app.base.guard.trusted),
    "http.sse_unnamed_copy": ("no", False, lambda d: d.app.events.streams.unnamed_copy),
    "auth.mode": ("required", "required", lambda d: d.app.api_keys.authenticator.mode),
    "auth.api_key": (ANOTHER_KEY, True, lambda d: d.app.api_keys.keyring.identify(ANOTHER_KEY) is not None),
    "cameras.idle_after_s": ("60.5", 60.5, lambda d: d.app.devices.registry.windows.idle_after_s),
    "cameras.offline_after_s": ("300", 300, lambda d: d.app.devices.registry.windows.offline_after_s),
    "cameras.max_devices": ("100", 100, lambda d: d.app.devices.registry.max_devices),
    "cameras.auto_reboot": ("no", False, lambda d: d.app.recovery.tracker.auto_reboot),
    "cameras.reboot_after": ("5", 5, lambda d: d.app.recovery.tracker.reboot_after),
    "cameras.capture_cache_s": ("0.5", 0.5, lambda d: d.app.captures.service.cache_s),
    "logging.level": ("debug", True, _logs_details),
    "discovery.interval_s": ("30", 30, lambda d: d.app.discovery.scans.interval_s),
    "auto_onboard.mode": ("off", Mode.OFF, _onboarding("mode")),
    "auto_onboard.triggers": ("mqtt, scan", ("mqtt", "scan"), _onboarding("triggers")),
    "auto_onboard.max_per_minute": ("7", 7 / 60, lambda d: d.app.onboarding.worker.line.bucket.rate),
    "auto_onboard.burst_size": ("3", 3, lambda d: d.app.onboarding.worker.line.bucket.capacity),
    "auto_onboard.subnet_allowlist": (
        "10.0.0.0/8,10.1.0.0/16",
        ["10.0.0.0/8", "10.1.0.0/16"],
        lambda d: [str(network) for network in d.app.onboarding.worker.settings.subnet_allowlist],
    ),
    "auto_onboard.verification_timeout_sec": ("2.5", 2.5, _onboarding("verification_timeout_sec")),
    "auto_onboard.deny": ("246f28b0f7f1", ("24:6F:28:B0:F7:F1",), _onboarding("deny")),
    "auto_onboard.overflow": ("reject", Overflow.REJECT, _onboarding("overflow")),
    "auto_onboard.concurrency": ("4", 4, _onboarding("concurrency")),
}
