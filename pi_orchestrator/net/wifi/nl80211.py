"""Decoders for the nl80211 messages that are needed here (see linux/nl80211.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.core.wifi import ssid_text
from pi_orchestrator.net.wifi.networks import WifiNetwork, parse_security, parse_ssid, signal_of

GET_INTERFACE, NEW_INTERFACE, GET_STATION, NEW_STATION, GET_SCAN, NEW_SCAN_RESULTS = 5, 7, 17, 19, 32, 34
ATTR_IFINDEX = 3
_ATTR_IFNAME, _ATTR_IFTYPE, _ATTR_MAC, _ATTR_STA_INFO, _ATTR_WIPHY_FREQ, _ATTR_BSS, _ATTR_SSID = 4, 5, 6, 21, 38, 47, 52
_BSS_BSSID, _BSS_FREQUENCY, _BSS_CAPABILITY, _BSS_ELEMENTS, _BSS_SIGNAL_MBM, _BSS_SIGNAL_UNSPEC = 1, 2, 5, 6, 7, 8
_BSS_STATUS, _BSS_SEEN_MS, _BSS_BEACON_ELEMENTS = 9, 10, 11
_ASSOCIATED = 1
_STA_INACTIVE_MS, _STA_SIGNAL, _STA_SIGNAL_AVG, _STA_CONNECTED_S, _STA_FLAGS = 1, 7, 13, 16, 17
_AUTHORIZED = 1 << 1
_TYPE_MASK = 0x3FFF  # the two highest bits are flags
_KINDS = {1: "adhoc", 2: "station", 3: "ap", 4: "ap_vlan", 6: "monitor", 7: "mesh", 8: "p2p_client", 9: "p2p_go"}
_ACCESS_POINT_KINDS = frozenset({"ap", "ap_vlan", "p2p_go"})


@dataclass(frozen=True, slots=True)
class Station:
    """An authorized station; seconds since its last frame and since its association, None if unknown."""

    mac: Mac
    signal_dbm: int | None = None
    inactive_s: float | None = None
    connected_s: int | None = None

    def sighting(self, now: float) -> Sighting:
        """The association as evidence: present at the time of its last frame, without an address."""
        return Sighting(
            mac=self.mac,
            source=Source.STATION,
            at=now - (self.inactive_s or 0.0),
            binds=False,
            rssi_dbm=self.signal_dbm,
        )


@dataclass(frozen=True, slots=True)
class Radio:
    """A wireless interface: kind (`ap`, `station`, …), SSID and frequency, None if unknown."""

    kind: str
    ssid: str | None = None
    frequency_mhz: int | None = None

    @property
    def is_access_point(self) -> bool:
        """Whether the interface is an access point, so that it has stations."""
        return self.kind in _ACCESS_POINT_KINDS


@dataclass(frozen=True, slots=True)
class Interface:
    """A wireless interface with its index and name."""

    index: int
    name: str
    radio: Radio


@dataclass(frozen=True, slots=True)
class Bss:
    """A scan result of the kernel, received `seen_s` seconds ago; `joined`: the interface is associated with it."""

    network: WifiNetwork
    seen_s: float
    joined: bool


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes as type → payload, up to the first invalid one; of a repeated type the first."""
    attrs: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            break
        attrs.setdefault(kind & _TYPE_MASK, data[offset + 4 : offset + length])
        offset += (length + 3) & ~3
    return attrs


def decode_radio(data: bytes) -> Radio | None:
    """Decode the attributes of a NEW_INTERFACE message; None without an interface type."""
    attrs = attributes(data)
    kind = _number(attrs.get(_ATTR_IFTYPE), "=I")
    if kind is None:
        return None
    return Radio(
        kind=_KINDS.get(kind, f"type {kind}"),
        ssid=ssid_text(attrs.get(_ATTR_SSID, b"").rstrip(b"\0")),
        frequency_mhz=_number(attrs.get(_ATTR_WIPHY_FREQ), "=I") or None,
    )


def decode_interface(data: bytes) -> Interface | None:
    """Decode the attributes of a NEW_INTERFACE message; None without index, name or type."""
    attrs, radio = attributes(data), decode_radio(data)
    index = _number(attrs.get(ATTR_IFINDEX), "=I")
    name = attrs.get(_ATTR_IFNAME, b"").rstrip(b"\0").decode("utf-8", errors="replace")
    return Interface(index, name, radio) if index and name and radio else None


def decode_bss(data: bytes) -> Bss | None:
    """Decode the attributes of a NEW_SCAN_RESULTS message; None without a valid BSSID."""
    attrs = attributes(attributes(data).get(_ATTR_BSS, b""))
    mac = try_mac(attrs.get(_BSS_BSSID, b"").hex())
    if mac is None:
        return None
    # A hidden SSID is only in a probe response, the security in probe response and beacon.
    element_sets = (attrs.get(_BSS_ELEMENTS, b""), attrs.get(_BSS_BEACON_ELEMENTS, b""))
    signal_mbm = _number(attrs.get(_BSS_SIGNAL_MBM), "=i")
    percent = _number(attrs.get(_BSS_SIGNAL_UNSPEC), "=B")
    strength_dbm = round(signal_mbm / 100) if signal_mbm is not None else signal_of(percent or 0)
    network = WifiNetwork(
        bssid=mac,
        ssid=next((name for raw in element_sets if (name := ssid_text(parse_ssid(raw)))), ""),
        frequency_mhz=_number(attrs.get(_BSS_FREQUENCY), "=I") or 0,
        signal_dbm=strength_dbm if strength_dbm < 0 and (signal_mbm, percent) != (None, None) else None,
        security=parse_security(
            element_sets[0] or element_sets[1], capabilities=_number(attrs.get(_BSS_CAPABILITY), "=H") or 0
        ),
    )
    joined = _number(attrs.get(_BSS_STATUS), "=I") == _ASSOCIATED
    return Bss(network, seen_s=(_number(attrs.get(_BSS_SEEN_MS), "=I") or 0) / 1000, joined=joined)


def decode_station(data: bytes) -> Station | None:
    """Decode the attributes of a NEW_STATION message; None without a valid MAC or if not authorized."""
    attrs = attributes(data)
    mac = try_mac(attrs.get(_ATTR_MAC, b"").hex())
    info = attributes(attrs.get(_ATTR_STA_INFO, b""))
    flags = info.get(_STA_FLAGS, b"")
    if mac is None or (len(flags) == 8 and not _is_authorized(flags)):
        return None
    inactive_ms = _number(info.get(_STA_INACTIVE_MS), "=I")
    return Station(
        mac=mac,
        signal_dbm=_signal(info.get(_STA_SIGNAL)) or _signal(info.get(_STA_SIGNAL_AVG)),
        inactive_s=None if inactive_ms is None else inactive_ms / 1000,
        connected_s=_number(info.get(_STA_CONNECTED_S), "=I"),
    )


def _is_authorized(flags: bytes) -> bool:
    """Whether the station is authorized (knows the password); before that, its MAC is only a claim."""
    mask, values = struct.unpack("=II", flags)
    return not mask & _AUTHORIZED or bool(values & _AUTHORIZED)


def _signal(payload: bytes | None) -> int | None:
    """Signal strength in dBm; None if missing or not below zero."""
    value = _number(payload, "=b")
    return value if value is not None and value < 0 else None


def _number(payload: bytes | None, fmt: str) -> int | None:
    if payload is None or len(payload) != struct.calcsize(fmt):
        return None
    number: int = struct.unpack(fmt, payload)[0]
    return number
