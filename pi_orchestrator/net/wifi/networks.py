"""WiFi networks, and the parser for the information elements of their beacons.

Frames are untrusted: every length is checked, and invalid elements are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pi_orchestrator.core.mac import Mac

OPEN = "Open"
_SSID, _RSN, _VENDOR = 0, 48, 221
_WPA = bytes.fromhex("0050f201")
_PRIVACY = 1 << 4
_STANDARD, _MICROSOFT = bytes.fromhex("000fac"), bytes.fromhex("0050f2")

# Types of authentication and key management (AKM) suites, below the OUI 00-0F-AC.
_ENTERPRISE = frozenset({1, 3, 5, 11, 12, 13, 22, 23})
_PERSONAL = frozenset({2, 4, 6, 19, 20})
_SAE = frozenset({8, 9, 24, 25})
_WPA3_ENTERPRISE = frozenset({11, 12, 13, 22, 23})
_OWE = 18


@dataclass(frozen=True, slots=True)
class WifiNetwork:
    """One network in range, from a beacon or probe response.

    `ssid` is empty if hidden, `signal_dbm` is None if unknown.
    """

    bssid: Mac
    ssid: str
    frequency_mhz: int
    signal_dbm: int | None
    security: str

    @property
    def channel(self) -> int:
        """The channel number; 0 if the frequency is not a channel."""
        return channel_of(self.frequency_mhz)

    @property
    def quality(self) -> int:
        """Signal quality in percent, on NetworkManager's scale: -100 dBm is 0, -40 dBm is 100; 0 if unknown."""
        return 0 if self.signal_dbm is None else quality_of(self.signal_dbm)


def channel_of(frequency_mhz: int) -> int:
    """Channel number of a centre frequency in the 2.4, 5 and 6 GHz bands; 0 otherwise."""
    if frequency_mhz == 2484:
        return 14
    for first, last, base in ((2412, 2472, 2407), (5955, 7115, 5950), (5160, 5885, 5000)):
        if first <= frequency_mhz <= last:
            return (frequency_mhz - base) // 5
    # 5935 MHz is channel 2 of the 6 GHz band: the only one below channel 1.
    return 2 if frequency_mhz == 5935 else 0


def quality_of(signal_dbm: int) -> int:
    """Signal strength (dBm) → quality (percent)."""
    return round((min(max(signal_dbm, -100), -40) + 100) / 0.6)


def signal_of(quality: int) -> int:
    """Quality (percent) → signal strength (dBm); inverse of `quality_of`."""
    return round(min(max(quality, 0), 100) * 0.6) - 100


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Information elements (type, payload) in order, up to the first invalid one."""
    offset = 0
    while offset + 2 <= len(data):
        kind, end = data[offset], offset + 2 + data[offset + 1]
        if end > len(data):
            return
        yield kind, data[offset + 2 : end]
        offset = end


def parse_ssid(data: bytes) -> bytes:
    """The SSID's bytes; empty if it is hidden (missing, empty, or all zeros)."""
    name = next((value for kind, value in elements(data) if kind == _SSID), b"")
    return name if name.strip(b"\0") else b""


def parse_security(data: bytes, *, capabilities: int) -> str:
    """Security of a network: `Open`, `WEP`, `WPA`, `WPA2`, `WPA2/WPA3`, `WPA2 Enterprise`, `OWE` and so on."""
    names: list[str] = []
    enterprise = False
    for kind, value in elements(data):
        if kind == _VENDOR and value.startswith(_WPA):
            names.append("WPA")
            enterprise |= 1 in _key_management(value[4:], _MICROSOFT)
        elif kind == _RSN:
            suites = _key_management(value, _STANDARD)
            names += _rsn_kinds(suites)
            enterprise |= bool(suites & _ENTERPRISE)
    if names:
        return security_name(names, enterprise=enterprise)
    return "WEP" if capabilities & _PRIVACY else OPEN


def security_name(kinds: list[str], *, enterprise: bool) -> str:
    """The display name of the security kinds, oldest first; `Open` for none."""
    names = [name for name in ("WEP", "WPA", "WPA2", "WPA3", "OWE") if name in kinds]
    return ("/".join(names) or OPEN) + (" Enterprise" if enterprise and names else "")


def _rsn_kinds(suites: frozenset[int]) -> list[str]:
    names = []
    if suites & (_SAE | _WPA3_ENTERPRISE):
        names.append("WPA3")
    if _OWE in suites:
        names.append("OWE")
    # An RSN element without a known suite (truncated, or newer than this list) is shown as WPA2.
    if suites & (_PERSONAL | (_ENTERPRISE - _WPA3_ENTERPRISE)) or not names:
        names.append("WPA2")
    return names


def _key_management(value: bytes, vendor: bytes) -> frozenset[int]:
    """Key management suites of a vendor; they follow version, group cipher and the list of pairwise ciphers."""
    pairwise = _count(value, 6)
    offset = 8 + 4 * pairwise
    listed = value[offset + 2 : offset + 2 + 4 * _count(value, offset)]
    suites = (listed[start : start + 4] for start in range(0, len(listed) - 3, 4))
    return frozenset(suite[3] for suite in suites if suite[:3] == vendor)


def _count(value: bytes, offset: int) -> int:
    return int.from_bytes(value[offset : offset + 2], "little")
