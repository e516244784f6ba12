"""The parts that read the network status: broker latency, WiFi, Tailscale."""

from __future__ import annotations

from dataclasses import dataclass

from pi_orchestrator.core.single_flight import SingleFlight
from pi_orchestrator.net.host.tailscale import Tailscale
from pi_orchestrator.net.kernel.netlink import Netlink
from pi_orchestrator.net.mqtt.link import MqttConnection
from pi_orchestrator.net.wifi.client import WifiClient
from pi_orchestrator.net.wifi.scan import WifiScan
from pi_orchestrator.settings import Settings


@dataclass(frozen=True, slots=True)
class NetworkStatusService:
    """Sources of the network status; `echo` measures the latency of the broker in seconds, None while disconnected."""

    settings: Settings
    mqtt_port: int
    mqtt: MqttConnection
    echo: SingleFlight[float | None]
    netlink: Netlink
    wifi_client: WifiClient
    wifi_scan: WifiScan
    tailscale: Tailscale
