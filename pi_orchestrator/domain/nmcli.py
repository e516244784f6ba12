"""What `nmcli --terse` prints: fields between colons; a backslash stands before one that belongs to a field."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pi_orchestrator.domain.mac import try_mac
from pi_orchestrator.domain.ssid import ssid_text
from pi_orchestrator.domain.strict_json import clean_text
from pi_orchestrator.domain.wlan import OPEN, WifiNetwork, security_words, signal_of

DEVICE_FIELDS = ("DEVICE", "TYPE", "STATE")
LIST_FIELDS = ("DEVICE", "IN-USE", "SSID-HEX", "BSSID", "FREQ", "SIGNAL", "SECURITY")
"""The name in hexadecimal: as text it may hold a line end, and so invent networks."""

_NUMBER = re.compile(r"\d{1,5}", re.ASCII)
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){0,32}", re.ASCII)
_KINDS = {"WEP": "WEP", "WPA1": "WPA", "WPA2": "WPA2", "WPA3": "WPA3", "OWE": "OWE", "OWE-TM": "OWE"}


@dataclass(frozen=True, slots=True)
class Heard:
    """A line of the list: the network, the interface that heard it, and whether that has joined it."""

    interface: str
    joined: bool
    network: WifiNetwork


def rows(output: str, count: int) -> list[list[str]]:
    """Lines with exactly so many fields; any other line is not what was asked for."""
    found = (split(line) for line in output.split("\n"))
    return [fields for fields in found if len(fields) == count]


def split(line: str) -> list[str]:
    """A line's fields, without the escapes."""
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
    """`device status` → the state of each WiFi interface, as nmcli words it."""
    return {device: state for device, kind, state in rows(output, len(DEVICE_FIELDS)) if kind == "wifi"}


def heard(output: str) -> list[Heard]:
    """`device wifi list` → every line that makes sense."""
    found = []
    for device, in_use, name, bssid, frequency, quality, security in rows(output, len(LIST_FIELDS)):
        mac, percent = try_mac(bssid), _number(quality)
        # Hidden names are told as nothing, or as zeros.
        raw = bytes.fromhex(name).strip(b"\0") if _HEX.fullmatch(name) else b""
        if mac is not None and percent is not None:
            network = WifiNetwork(
                bssid=mac,
                ssid=ssid_text(raw) or "",
                frequency_mhz=_number(frequency.removesuffix(" MHz")) or 0,
                signal_dbm=signal_of(percent),
                security=_security(security),
            )
            found.append(Heard(device, in_use == "*", network))
    return found


def _security(text: str) -> str:
    """In the words of beacons; one that is not known here is better shown than taken for an open network."""
    words = text.split()
    if any(word in _KINDS for word in words):
        return security_words([_KINDS.get(word, "") for word in words], enterprise="802.1X" in words)
    return clean_text(text) or OPEN


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None
