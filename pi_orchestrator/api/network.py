"""The network around: the broker, the upstream gateway, WiFi, Tailscale, and this machine's own interfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pi_orchestrator.api.route import Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.domain.wlan import WifiNetwork
from pi_orchestrator.net.links import Link
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.net.netlink import Netlink
from pi_orchestrator.net.shared import Shared
from pi_orchestrator.net.tailscale import Tailscale
from pi_orchestrator.net.wifi_client import ClientStatus, WifiClient
from pi_orchestrator.net.wifi_scan import WifiScan
from pi_orchestrator.settings import Settings


class MqttView(Wire):
    """The connection to the broker.

    `latency_ms` is how long the broker took to acknowledge a message a few seconds ago, 1000 where that was not
    enough, and 0 without a connection.
    """

    connected: bool
    broker: str
    port: int
    clientId: str  # noqa: N815  # the dashboard's spelling
    latency_ms: float


class Bridge(Wire):
    """The upstream gateway; `url` is empty where none is configured."""

    configured: bool
    connected: bool
    url: str


class BridgeView(Wire):
    """How the upstream gateway does."""

    status: Bridge


class WifiStatus(Wire):
    """The network that this machine has joined (`client_signal` in dBm), and the access point that it serves."""

    client_status: ClientStatus
    client_ssid: str | None = None
    client_ip: str | None = None
    client_signal: int | None = None
    ap_status: Literal["active", "inactive"]
    ap_ssid: str | None = None
    ap_ip: str | None = None
    connected_devices: int


class WifiStatusView(Wire):
    """How WiFi does."""

    status: WifiStatus


class WifiNetworkView(Wire):
    """A network that was heard.

    `ssid` is empty where it hides its name, `signal` in dBm (0: not known), `frequency` in MHz, `quality` in per cent.
    """

    ssid: str
    bssid: str
    frequency: int
    signal: int
    security: str
    channel: int
    quality: int


class WifiScanView(Wire):
    """The networks around, strongest first."""

    count: int
    networks: list[WifiNetworkView]


class PeerView(Wire):
    """Another machine of the same Tailscale network."""

    id: str
    hostname: str
    tailscale_ip: str
    online: bool


class TailscaleView(Wire):
    """What Tailscale says of itself; `backend_state` is its own word, such as `Running`."""

    backend_state: str
    tailscale_ip: str
    hostname: str
    peers: list[PeerView]


class InterfaceView(Wire):
    """A network interface; `addresses` with their prefix."""

    name: str
    mac_address: str
    up: bool
    serves_cameras: bool
    addresses: list[str]


class NetworkView(Wire):
    """Everything at once."""

    interfaces: list[InterfaceView]
    wifi: WifiStatus
    mqtt: MqttView
    bridge: Bridge


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What answers about the network are made from."""

    settings: Settings
    mqtt_port: int
    link: MqttLink
    echo: Shared[float | None]
    netlink: Netlink
    client: WifiClient
    scan: WifiScan
    tailscale: Tailscale


async def mqtt(services: Services) -> MqttView:
    """The connection to the broker, and how fast the broker answers just now."""
    around = services.surroundings
    took = await around.echo.get() if around.link.connected else None
    connected = around.link.connected
    return MqttView(
        connected=connected,
        broker=around.settings.mqtt.host,
        port=around.mqtt_port,
        clientId=around.settings.mqtt.client_id,
        latency_ms=round(took * 1000, 2) if connected and took is not None else 0.0,
    )


async def bridge() -> BridgeView:
    """The upstream gateway: this version has none, and says so."""
    return BridgeView(status=Bridge(configured=False, connected=False, url=""))


async def wifi_status(services: Services) -> WifiStatusView:
    """The WiFi network that this machine has joined, and the access point that it serves."""
    around, network = services.surroundings, services.sources.network
    client = await around.client.read()
    access_point = await around.netlink.link(around.settings.ap.interface)
    address = access_point.address_in(around.settings.ap.subnet) if access_point and network.connected else None
    return WifiStatusView(
        status=WifiStatus(
            client_status=client.status,
            client_ssid=client.ssid,
            client_ip=client.ip,
            client_signal=client.signal_dbm,
            ap_status="active" if network.is_active else "inactive",
            ap_ssid=network.ssid or None,
            ap_ip=str(address) if address else None,
            connected_devices=network.connected_devices,
        )
    )


async def wifi_scan(services: Services) -> WifiScanView:
    """Look for WiFi networks, at most once in ten seconds; whoever asks while that goes on gets the same answer.

    503 says why nobody can look just now, and what it needs.
    """
    found = [_heard(network) for network in await services.surroundings.scan.networks()]
    return WifiScanView(count=len(found), networks=found)


async def tailscale(services: Services) -> TailscaleView:
    """What Tailscale says of itself, where it is installed."""
    status = await services.surroundings.tailscale.read()
    return TailscaleView(
        backend_state=status.backend_state,
        tailscale_ip=status.address,
        hostname=status.hostname,
        peers=[
            PeerView(id=peer.id, hostname=peer.hostname, tailscale_ip=peer.address, online=peer.online)
            for peer in status.peers
        ],
    )


async def everything(services: Services) -> NetworkView:
    """Interfaces, WiFi, broker and gateway at once."""
    around = services.surroundings
    return NetworkView(
        interfaces=[_interface(link, around.settings.ap.interface) for link in await around.netlink.links()],
        wifi=(await wifi_status(services)).status,
        mqtt=await mqtt(services),
        bridge=(await bridge()).status,
    )


def _heard(network: WifiNetwork) -> WifiNetworkView:
    return WifiNetworkView(
        ssid=network.ssid,
        bssid=network.bssid,
        frequency=network.frequency_mhz,
        signal=network.signal_dbm or 0,
        security=network.security,
        channel=network.channel,
        quality=network.quality,
    )


def _interface(link: Link, cameras: str) -> InterfaceView:
    return InterfaceView(
        name=link.name,
        mac_address=link.mac or "",
        up=link.up,
        serves_cameras=link.name == cameras,
        addresses=[str(address) for address in link.addresses],
    )
