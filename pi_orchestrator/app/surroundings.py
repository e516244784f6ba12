"""What is asked about the network around: the broker's latency, WiFi, Tailscale."""

from __future__ import annotations

from pi_orchestrator.api.network import Surroundings
from pi_orchestrator.clock import Clock
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.net.netlink import Netlink
from pi_orchestrator.net.networkmanager import NetworkManager
from pi_orchestrator.net.shared import Shared
from pi_orchestrator.net.tailscale import Tailscale
from pi_orchestrator.net.wifi_client import WifiClient
from pi_orchestrator.net.wifi_scan import WifiScan
from pi_orchestrator.net.wireless import Wireless
from pi_orchestrator.settings import Settings

ECHO_EACH_S = 5.0
ECHO_WITHIN_S = 1.0


def build_surroundings(
    settings: Settings, *, clock: Clock, link: MqttLink, mqtt_port: int, netlink: Netlink
) -> Surroundings:
    """Every one of them."""
    manager = NetworkManager()

    async def echo() -> float | None:
        return await link.echo(within_s=ECHO_WITHIN_S)

    return Surroundings(
        settings=settings,
        mqtt_port=mqtt_port,
        link=link,
        echo=Shared(echo, keep_s=ECHO_EACH_S, clock=clock),
        netlink=netlink,
        client=WifiClient(clock=clock, netlink=netlink, wireless=Wireless(), manager=manager),
        scan=WifiScan(clock=clock, wireless=Wireless(), manager=manager),
        tailscale=Tailscale(clock=clock),
    )
