"""State of the camera network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """`connected`: the interface is up and has an address; `is_active`: cameras can join `ssid`.

    `connected_devices`: number of stations of the access point or, if it cannot be queried, of present devices with an
    address; 0 while not `connected`.
    """

    interface: str
    ssid: str = ""
    connected: bool = False
    is_active: bool = False
    connected_devices: int = 0
