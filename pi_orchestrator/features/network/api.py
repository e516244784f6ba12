"""Network status: broker, upstream gateway, WiFi, Tailscale, and the interfaces of this machine."""

from __future__ import annotations

from typing import Literal

from pi_orchestrator.features.discovery.passive_sources import PassiveSourcesWorker
from pi_orchestrator.features.network.service import NetworkStatusService
from pi_orchestrator.http.model import ApiModel
from pi_orchestrator.net.kernel.links import Link
from pi_orchestrator.net.wifi.client import ClientStatus
from pi_orchestrator.net.wifi.networks import WifiNetwork


class MqttView(ApiModel):
    """The connection to the broker.

    `latency_ms` is the time that the broker took to acknowledge a recent message, 1000 if it took longer than 1 s, and
    0 without a connection. A measurement is reused for 5 s.
    """

    connected: bool
    broker: str
    port: int
    clientId: str  # noqa: N815  # the dashboard's spelling
    latency_ms: float


class Bridge(ApiModel):
    """The upstream gateway; `url` is empty if none is configured."""

    configured: bool
    connected: bool
    url: str


class BridgeView(ApiModel):
    """Status of the upstream gateway."""

    status: Bridge


class WifiStatus(ApiModel):
    """The network that this machine has joined (`client_signal` in dBm), and the access point that it serves."""

    client_status: ClientStatus
    client_ssid: str | None = None
    client_ip: str | None = None
    client_signal: int | None = None
    ap_status: Literal["active", "inactive"]
    ap_ssid: str | None = None
    ap_ip: str | None = None
    connected_devices: int


class WifiStatusView(ApiModel):
    """Status of WiFi."""

    status: WifiStatus


class WifiNetworkView(ApiModel):
    """A WiFi network that a scan found.

    `ssid` is empty for a hidden network. `signal` is in dBm (0: unknown), `frequency` in MHz, `quality` in percent.
    """

    ssid: str
    bssid: str
    frequency: int
    signal: int
    security: str
    channel: int
    quality: int


class WifiScanView(ApiModel):
    """The WiFi networks in range, strongest first."""

    count: int
    networks: list[WifiNetworkView]


class PeerView(ApiModel):
    """Another machine in the same Tailscale network."""

    id: str
    hostname: str
    tailscale_ip: str
    online: bool


class TailscaleView(ApiModel):
    """Status of Tailscale; `backend_state` is as Tailscale reports it, e.g. `Running`."""

    backend_state: str
    tailscale_ip: str
    hostname: str
    peers: list[PeerView]


class InterfaceView(ApiModel):
    """A network interface; `serves_cameras` is true for `ap.interface`; `addresses` include the prefix length."""

    name: str
    mac_address: str
    up: bool
    serves_cameras: bool
    addresses: list[str]


class NetworkView(ApiModel):
    """Interfaces, WiFi, broker and upstream gateway."""

    interfaces: list[InterfaceView]
    wifi: WifiStatus
    mqtt: MqttView
    bridge: Bridge


async def mqtt(service: NetworkStatusService) -> MqttView:
    """The connection to the broker, and its current latency."""
    latency_s = await service.echo.get() if service.mqtt.connected else None
    connected = service.mqtt.connected
    return MqttView(
        connected=connected,
        broker=service.settings.mqtt.host,
        port=service.mqtt_port,
        clientId=service.settings.mqtt.client_id,
        latency_ms=round(latency_s * 1000, 2) if connected and latency_s is not None else 0.0,
    )


async def bridge() -> BridgeView:
    """Status of the upstream gateway; this version has none, so it is never configured."""
    return BridgeView(status=Bridge(configured=False, connected=False, url=""))


async def wifi_status(sources: PassiveSourcesWorker, service: NetworkStatusService) -> WifiStatusView:
    """The WiFi network that this machine has joined, and the access point that it serves."""
    network = sources.network
    client = await service.wifi_client.read()
    access_point = await service.netlink.link(service.settings.ap.interface)
    address = access_point.address_in(service.settings.ap.subnet) if access_point and network.connected else None
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


async def wifi_scan(service: NetworkStatusService) -> WifiScanView:
    """Scan for WiFi networks, at most once every 10 s; concurrent requests share one scan.

    503 if a scan is not possible now; the error names the reason and the fix.
    """
    found = [_network(network) for network in await service.wifi_scan.networks()]
    return WifiScanView(count=len(found), networks=found)


async def tailscale(service: NetworkStatusService) -> TailscaleView:
    """Status of Tailscale; 404 if it is not installed."""
    status = await service.tailscale.read()
    return TailscaleView(
        backend_state=status.backend_state,
        tailscale_ip=status.address,
        hostname=status.hostname,
        peers=[
            PeerView(id=peer.id, hostname=peer.hostname, tailscale_ip=peer.address, online=peer.online)
            for peer in status.peers
        ],
    )


async def everything(sources: PassiveSourcesWorker, service: NetworkStatusService) -> NetworkView:
    """Interfaces, WiFi, broker and upstream gateway in one answer."""
    return NetworkView(
        interfaces=[_interface(link, service.settings.ap.interface) for link in await service.netlink.links()],
        wifi=(await wifi_status(sources, service)).status,
        mqtt=await mqtt(service),
        bridge=(await bridge()).status,
    )


def _network(network: WifiNetwork) -> WifiNetworkView:
    return WifiNetworkView(
        ssid=network.ssid,
        bssid=network.bssid,
        frequency=network.frequency_mhz,
        signal=network.signal_dbm or 0,
        security=network.security,
        channel=network.channel,
        quality=network.quality,
    )


def _interface(link: Link, camera_interface: str) -> InterfaceView:
    return InterfaceView(
        name=link.name,
        mac_address=link.mac or "",
        up=link.up,
        serves_cameras=link.name == camera_interface,
        addresses=[str(address) for address in link.addresses],
    )
