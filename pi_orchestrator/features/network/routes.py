"""Routes: network status."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.network import api as network
from pi_orchestrator.http.route import table

_MQTT = {
    "connected": True,
    "broker": "127.0.0.1",
    "port": 1883,
    "clientId": "pi-orchestrator",
    "latency_ms": 0.84,
}
BRIDGE = {"configured": False, "connected": False, "url": ""}
_WIFI = {
    "client_status": "connected",
    "client_ssid": "Office",
    "client_ip": "10.0.0.23",
    "client_signal": -58,
    "ap_status": "active",
    "ap_ssid": "DeliCasa-AP",
    "ap_ip": "192.168.10.1",
    "connected_devices": 12,
}
_NETWORKS = {
    "count": 1,
    "networks": [
        {
            "ssid": "Office",
            "bssid": "3C:84:6A:11:22:30",
            "frequency": 2437,
            "signal": -58,
            "security": "WPA2/WPA3",
            "channel": 6,
            "quality": 70,
        }
    ],
}
_TAILSCALE = {
    "backend_state": "Running",
    "tailscale_ip": "100.101.102.103",
    "hostname": "pi-kitchen",
    "peers": [{"id": "n7xYz", "hostname": "office", "tailscale_ip": "100.101.102.104", "online": True}],
}

ROUTES: tuple[Route, ...] = table(
    "network",
    Route(
        "GET",
        "/api/v1/network",
        network.everything,
        "network",
        "Interfaces, WiFi, broker and gateway",
        Scope.READ,
        example={
            "interfaces": [
                {
                    "name": "wlan0",
                    "mac_address": "DC:A6:32:00:00:02",
                    "up": True,
                    "serves_cameras": True,
                    "addresses": ["192.168.10.1/24"],
                }
            ],
            "wifi": _WIFI,
            "mqtt": _MQTT,
            "bridge": BRIDGE,
        },
    ),
    Route("GET", "/api/v1/network/mqtt", network.mqtt, "network", "MQTT broker", Scope.READ, example=_MQTT),
    Route(
        "GET",
        "/api/v1/network/bridge",
        network.bridge,
        "network",
        "Upstream gateway",
        Scope.READ,
        example={"status": BRIDGE},
    ),
    Route(
        "GET",
        "/api/v1/network/tailscale",
        network.tailscale,
        "network",
        "Tailscale",
        Scope.READ,
        errors=(ErrorCode.NOT_FOUND, ErrorCode.NETWORK_ERROR),
        example=_TAILSCALE,
    ),
    Route(
        "GET",
        "/api/v1/wifi/status",
        network.wifi_status,
        "network",
        "WiFi",
        Scope.READ,
        example={"status": _WIFI},
    ),
    Route(
        "GET",
        "/api/v1/wifi/scan",
        network.wifi_scan,
        "network",
        "Scan for WiFi networks",
        Scope.READ,
        errors=(ErrorCode.NETWORK_ERROR,),
        example=_NETWORKS,
    ),
)
