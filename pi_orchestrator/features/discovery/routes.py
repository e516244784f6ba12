"""Routes: scans and devices on the camera network."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.discovery import api as scans
from pi_orchestrator.features.discovery import devices_api as devices
from pi_orchestrator.http.route import BARE, table

_DEVICE = {
    "mac_address": "24:6F:28:B0:F7:F1",
    "ip_address": "192.168.10.21",
    "ip_addresses": ["192.168.10.21"],
    "status": "online",
    "why": "answered ARP 12 s ago, published on MQTT 31 s ago",
    "hostname": "espcam-b0f7f1",
    "vendor": "Espressif",
    "signal_strength": -54,
    "registered": True,
    "is_camera": True,
    "device_id": "espcam-b0f7f1",
    "firmware_version": "2.1.0",
    "first_seen": "2026-01-22T15:00:00.000000Z",
    "last_seen": "2026-01-22T15:04:48.000000Z",
    "locally_administered": False,
    "near": [],
    "conflict": [],
    "id_conflict": [],
    "notes": [],
    "evidence": [
        {
            "source": "arp",
            "proves_life": True,
            "first_seen": "2026-01-22T15:00:00.000000Z",
            "last_seen": "2026-01-22T15:04:48.000000Z",
            "age_seconds": 12.0,
            "ip_address": "192.168.10.21",
        }
    ],
}
_UNREADABLE = {
    "topic": "camera/status/espcam-b0f7f2",
    "text": "publishes on camera/status/espcam-b0f7f2 what is no JSON: unescaped quote at byte 31",
    "count": 3,
    "first_seen": "2026-01-22T15:02:00.000000Z",
    "last_seen": "2026-01-22T15:04:00.000000Z",
}
_SCAN = {
    "id": "6f1f4f6e-8f0a-4c70-9b57-0b4d1d0a5a11",
    "state": "done",
    "progress": 100,
    "requested_by": "periodic",
    "engine": "arp",
    "interface": "wlan0",
    "subnet": "192.168.10.0/24",
    "started_at": "2026-01-22T15:04:47.000000Z",
    "duration_ms": 640,
    "found": 12,
    "new": 1,
    "moved": 0,
    "gone": 0,
}
_NETWORK = {
    "interface": "wlan0",
    "ssid": "DeliCasa-AP",
    "connected": True,
    "is_active": True,
    "connected_devices": 12,
}

ROUTES: tuple[Route, ...] = (
    *table(
        "scans",
        Route(
            "POST",
            "/api/v1/espcam/scan",
            scans.start,
            "discovery",
            "Scan now",
            Scope.OPERATE,
            action="scan.start",
            status=202,
            errors=(ErrorCode.NETWORK_ERROR,),
            example={"scan": {**_SCAN, "state": "running", "progress": 40}},
        ),
        Route(
            "GET",
            "/api/v1/espcam/scan",
            scans.history,
            "discovery",
            "Past scans",
            Scope.READ,
            example={"scans": [_SCAN], "pagination": {"total": 1, "limit": 50, "offset": 0, "has_more": False}},
        ),
        Route(
            "GET",
            "/api/v1/espcam/scan/{id}",
            scans.show,
            "discovery",
            "One scan",
            Scope.READ,
            errors=(ErrorCode.NOT_FOUND,),
            example={"scan": _SCAN},
        ),
        Route(
            "DELETE",
            "/api/v1/espcam/scan/{id}",
            scans.cancel,
            "discovery",
            "Cancel a scan",
            Scope.OPERATE,
            action="scan.cancel",
            errors=(ErrorCode.NOT_FOUND,),
            example={"scan": {**_SCAN, "state": "cancelled", "progress": 40, "message": "cancelled"}},
        ),
    ),
    *table(
        "devices",
        Route(
            "GET",
            "/api/v1/espcam/discovered",
            devices.discovered,
            "discovery",
            "Devices found, and the state of the sources",
            Scope.READ,
            example={
                "devices": [_DEVICE],
                "total": 1,
                "unreadable": [],
                "engine": "arp",
                "engine_reason": "arp (auto)",
                "sources": [{"source": "scanner", "state": "ok"}],
            },
        ),
        Route(
            "GET",
            "/api/v1/devices",
            devices.list_devices,
            "discovery",
            "Devices with evidence",
            Scope.READ,
            example={"devices": [_DEVICE], "total": 1, "unreadable": [_UNREADABLE]},
        ),
        Route(
            "GET",
            "/api/v1/devices/{mac}",
            devices.show,
            "discovery",
            "One device with its evidence",
            Scope.READ,
            errors=(ErrorCode.DEVICE_NOT_FOUND,),
            example=_DEVICE,
        ),
        Route(
            "GET",
            "/api/devices",
            devices.list_plain,
            "discovery",
            "Devices, for old dashboards",
            Scope.READ,
            shape=BARE,
            successor="/api/v1/devices",
            example={"devices": [_DEVICE]},
        ),
        *(
            Route(
                "GET",
                path,
                devices.network,
                "discovery",
                "The camera network",
                Scope.READ,
                needs_key_in_provisioning_mode=True,
                example=_NETWORK,
            )
            for path in ("/api/v1/provisioning/batch/network", "/api/v1/provisioning/network/status")
        ),
    ),
)
