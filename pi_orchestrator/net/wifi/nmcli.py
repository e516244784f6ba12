"""Parser for `nmcli --terse`: fields separated by colons, escaped with a backslash."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pi_orchestrator.core.mac import try_mac
from pi_orchestrator.core.validation import clean_text
from pi_orchestrator.core.wifi import ssid_text
from pi_orchestrator.net.wifi.networks import OPEN, WifiNetwork, security_name, signal_of

DEVICE_FIELDS = ("DEVICE", "TYPE", "STATE")
LIST_FIELDS = ("DEVICE", "IN-USE", "SSID-HEX", "BSSID", "FREQ", "SIGNAL", "SECURITY")
"""SSID-HEX, because an SSID as text may contain a line end and so forge further networks."""

_NUMBER = re.compile(r"\d{1,5}", re.ASCII)
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){0,32}", re.ASCII)
_KINDS = {"WEP": "WEP", "WPA1": "WPA", "WPA2": "WPA2", "WPA3": "WPA3", "OWE": "OWE", "OWE-TM": "OWE"}


@dataclass(frozen=True, slots=True)
class ListedNetwork:
    """A row of `device wifi list`: network, receiving interface, and whether that interface has joined it."""

    interface: str
    joined: bool
    network: WifiNetwork


def rows(output: str, count: int) -> list[list[str]]:
    """The lines with exactly `count` fields; others are skipped."""
    found = (split(line) for line in output.split("\n"))
    return [fields for fields in found if len(fields) == count]


def split(line: str) -> list[str]:
    """The fields of a line, unescaped."""
    fields = [""]
    escaped = False
    for char in line:
        if escaped or char not in "\\:":
            fields[-1] += char
            escaped = False
        elif char == "\\":
            escaped = True
        else:
            fields.append("")
    return fields


def wifi_states(output: str) -> dict[str, str]:
    """`device status` → the state of each WiFi interface, in nmcli's words."""
    return {device: state for device, kind, state in rows(output, len(DEVICE_FIELDS)) if kind == "wifi"}


def wifi_networks(output: str) -> list[ListedNetwork]:
    """`device wifi list` → the valid rows."""
    found = []
    for device, in_use, ssid_hex, bssid, frequency, quality, security in rows(output, len(LIST_FIELDS)):
        mac, percent = try_mac(bssid), _number(quality)
        # A hidden SSID is listed as empty, or as zeros.
        raw = bytes.fromhex(ssid_hex).strip(b"\0") if _HEX.fullmatch(ssid_hex) else b""
        if mac is not None and percent is not None:
            network = WifiNetwork(
                bssid=mac,
                ssid=ssid_text(raw) or "",
                frequency_mhz=_number(frequency.removesuffix(" MHz")) or 0,
                signal_dbm=signal_of(percent),
                security=_security(security),
            )
            found.append(ListedNetwork(device, in_use == "*", network))
    return found


def _security(text: str) -> str:
    """The security kind as for beacons; an unknown text is shown unchanged rather than as open."""
    words = text.split()
    if any(word in _KINDS for word in words):
        return security_name([_KINDS.get(word, "") for word in words], enterprise="802.1X" in words)
    return clean_text(text) or OPEN


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None
