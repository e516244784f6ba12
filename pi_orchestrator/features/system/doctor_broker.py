"""The check of `doctor` for the MQTT broker."""

from __future__ import annotations

from pi_orchestrator.features.system.cli_finding import Finding
from pi_orchestrator.settings import Settings


def check_broker(settings: Settings) -> Finding:
    """Check that the MQTT broker accepts connections."""
    import socket
    from importlib.util import find_spec

    address = f"{settings.mqtt.host}:{settings.mqtt.port}"
    if settings.mqtt.embedded:
        if find_spec("amqtt") is None:
            return Finding(
                "broker",
                "fail",
                "mqtt.embedded needs the package amqtt, which is not installed",
                "install pi-orchestrator[demo]",
            )
        return Finding("broker", "ok", "embedded in the daemon")
    try:
        socket.create_connection((settings.mqtt.host, settings.mqtt.port), timeout=3).close()
    except OSError as error:
        return Finding(
            "broker",
            "fail",
            f"no answer at {address}: {error.strerror or error}",
            "sudo systemctl start mosquitto, or correct mqtt.host and mqtt.port",
        )
    return Finding("broker", "ok", f"answers at {address}")
