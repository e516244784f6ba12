"""The camera network as a whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """`connected` where the interface is up with its address, `is_active` where cameras can join (then `ssid`)."""

    interface: str
    ssid: str = ""
    connected: bool = False
    is_active: bool = False
    connected_devices: int = 0
