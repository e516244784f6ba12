"""State of the camera network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """`connected`: the interface is up and has its address; `is_active`: cameras can join `ssid`.

    `connected_devices`: stations of the access point, or present devices with an address if there is no access point
    to query.
    """

    interface: str
    ssid: str = ""
    connected: bool = False
    is_active: bool = False
    connected_devices: int = 0
