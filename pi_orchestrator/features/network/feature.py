"""Network: status of broker, WiFi, Tailscale and the upstream gateway."""

from __future__ import annotations

from pi_orchestrator.core.single_flight import SingleFlight
from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.features.network import routes
from pi_orchestrator.features.network.service import NetworkStatusService
from pi_orchestrator.net.host.tailscale import Tailscale
from pi_orchestrator.net.wifi.client import WifiClient
from pi_orchestrator.net.wifi.networkmanager import NetworkManager
from pi_orchestrator.net.wifi.radio import Wireless
from pi_orchestrator.net.wifi.scan import WifiScan

ROUTES = routes.ROUTES
TAGS = {"network": "Status of broker, gateway, WiFi and interfaces"}
ECHO_REUSE_S = 5.0
ECHO_TIMEOUT_S = 1.0


def build(res: Resources) -> Feature:
    """Build the network status service."""
    manager = NetworkManager()

    async def echo() -> float | None:
        return await res.mqtt.echo(within_s=ECHO_TIMEOUT_S)

    service = NetworkStatusService(
        settings=res.settings,
        mqtt_port=res.mqtt_port,
        mqtt=res.mqtt,
        echo=SingleFlight(echo, keep_s=ECHO_REUSE_S, clock=res.clock),
        netlink=res.netlink,
        wifi_client=WifiClient(clock=res.clock, netlink=res.netlink, wireless=Wireless(), manager=manager),
        wifi_scan=WifiScan(clock=res.clock, wireless=Wireless(), manager=manager),
        tailscale=Tailscale(clock=res.clock),
    )
    return Feature(provides=(service,))
