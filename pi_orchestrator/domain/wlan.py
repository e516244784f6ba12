"""WiFi networks as they are heard, and what their access points say of themselves in information elements.

Frames come from anybody: every length is checked, and what does not fit is as if it had not been said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pi_orchestrator.domain.mac import Mac

OPEN = "Open"
_SSID, _RSN, _VENDOR = 0, 48, 221
_WPA = bytes.fromhex("0050f201")
_PRIVACY = 1 << 4
_STANDARD, _MICROSOFT = bytes.fromhex("000fac"), bytes.fromhex("0050f2")

_ENTERPRISE = frozenset({1, 3, 5, 11, 12, 13, 22, 23})
_PERSONAL = frozenset({2, 4, 6, 19, 20})
_SAE = frozenset({8, 9, 24, 25})
_WPA3_ENTERPRISE = frozenset({11, 12, 13, 22, 23})
_OWE = 18


@dataclass(frozen=True, slots=True)
class WifiNetwork:
    """An access point that was heard: `ssid` is empty where it hides its name, `signal_dbm` None where nobody told."""

    bssid: Mac
    ssid: str
    frequency_mhz: int
    signal_dbm: int | None
    security: str

    @property
    def channel(self) -> int:
        """The channel's number; 0 for a frequency that is no channel."""
        return channel_of(self.frequency_mhz)

    @property
    def quality(self) -> int:
        """Per cent, as NetworkManager counts them: -100 dBm is 0, -40 dBm is 100."""
        return 0 if self.signal_dbm is None else quality_of(self.signal_dbm)


def channel_of(frequency_mhz: int) -> int:
    """The number of the channel at a centre frequency in the 2.4, 5 and 6 GHz bands; 0 elsewhere."""
    if frequency_mhz == 2484:
        return 14
    for first, last, base in ((2412, 2472, 2407), (5955, 7115, 5950), (5160, 5885, 5000)):
        if first <= frequency_mhz <= last:
            return (frequency_mhz - base) // 5
    return 2 if frequency_mhz == 5935 else 0


def quality_of(signal_dbm: int) -> int:
    """Signal strength (dBm) → per cent."""
    return round((min(max(signal_dbm, -100), -40) + 100) / 0.6)


def signal_of(quality: int) -> int:
    """Per cent → signal strength (dBm): the same scale read backwards."""
    return round(min(max(quality, 0), 100) * 0.6) - 100


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Information elements in order, up to the first that does not fit."""
    offset = 0
    while offset + 2 <= len(data):
        kind, end = data[offset], offset + 2 + data[offset + 1]
        if end > len(data):
            return
        yield kind, data[offset + 2 : end]
        offset = end


def ssid_in(data: bytes) -> bytes:
    """The name's bytes; none where it is hidden (left out, empty, or all zeros)."""
    name = next((value for kind, value in elements(data) if kind == _SSID), b"")
    return name if name.strip(b"\0") else b""


def security_in(data: bytes, *, capabilities: int) -> str:
    """How a network is guarded: `Open`, `WEP`, `WPA`, `WPA2`, `WPA2/WPA3`, `WPA2 Enterprise`, `OWE` and so on."""
    words: list[str] = []
    enterprise = False
    for kind, value in elements(data):
        if kind == _VENDOR and value.startswith(_WPA):
            words.append("WPA")
            enterprise |= 1 in _key_management(value[4:], _MICROSOFT)
        elif kind == _RSN:
            suites = _key_management(value, _STANDARD)
            words += _rsn_words(suites)
            enterprise |= bool(suites & _ENTERPRISE)
    if words:
        return security_words(words, enterprise=enterprise)
    return "WEP" if capabilities & _PRIVACY else OPEN


def security_words(kinds: list[str], *, enterprise: bool) -> str:
    """The kinds in one word, oldest first; `Open` for none."""
    known = [word for word in ("WEP", "WPA", "WPA2", "WPA3", "OWE") if word in kinds]
    return ("/".join(known) or OPEN) + (" Enterprise" if enterprise and known else "")


def _rsn_words(suites: frozenset[int]) -> list[str]:
    words = []
    if suites & (_SAE | _WPA3_ENTERPRISE):
        words.append("WPA3")
    if _OWE in suites:
        words.append("OWE")
    # An element that is cut off before its suites, or names none that is known here, is still the element of WPA2.
    if suites & (_PERSONAL | (_ENTERPRISE - _WPA3_ENTERPRISE)) or not words:
        words.append("WPA2")
    return words


def _key_management(value: bytes, maker: bytes) -> frozenset[int]:
    """The suites of key management: behind version, group cipher and the list of pairwise ciphers."""
    pairwise = _count(value, 6)
    offset = 8 + 4 * pairwise
    listed = value[offset + 2 : offset + 2 + 4 * _count(value, offset)]
    suites = (listed[at : at + 4] for at in range(0, len(listed) - 3, 4))
    return frozenset(suite[3] for suite in suites if suite[:3] == maker)


def _count(value: bytes, offset: int) -> int:
    return int.from_bytes(value[offset : offset + 2], "little")
