"""The little of the kernel's wireless protocol that is needed here, taken apart byte by byte (see linux/nl80211.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.domain.ssid import ssid_text
from pi_orchestrator.domain.wlan import WifiNetwork, security_in, signal_of, ssid_in

GET_INTERFACE, NEW_INTERFACE, GET_STATION, NEW_STATION, GET_SCAN, NEW_SCAN_RESULTS = 5, 7, 17, 19, 32, 34
ATTR_IFINDEX = 3
_ATTR_IFNAME, _ATTR_IFTYPE, _ATTR_MAC, _ATTR_STA_INFO, _ATTR_WIPHY_FREQ, _ATTR_BSS, _ATTR_SSID = 4, 5, 6, 21, 38, 47, 52
_BSS_BSSID, _BSS_FREQUENCY, _BSS_CAPABILITY, _BSS_ELEMENTS, _BSS_SIGNAL_MBM, _BSS_SIGNAL_UNSPEC = 1, 2, 5, 6, 7, 8
_BSS_STATUS, _BSS_SEEN_MS, _BSS_BEACON_ELEMENTS = 9, 10, 11
_ASSOCIATED = 1
_STA_INACTIVE_MS, _STA_SIGNAL, _STA_SIGNAL_AVG, _STA_CONNECTED_S, _STA_FLAGS = 1, 7, 13, 16, 17
_AUTHORIZED = 1 << 1
_TYPE_MASK = 0x3FFF  # the two highest bits tell how an attribute is packed
_KINDS = {1: "adhoc", 2: "station", 3: "ap", 4: "ap_vlan", 6: "monitor", 7: "mesh", 8: "p2p_client", 9: "p2p_go"}
_SERVING = frozenset({"ap", "ap_vlan", "p2p_go"})


@dataclass(frozen=True, slots=True)
class Station:
    """A station that was let in; `inactive_s` since its last frame, `connected_s` since it came, where told."""

    mac: Mac
    signal_dbm: int | None = None
    inactive_s: float | None = None
    connected_s: int | None = None

    def sighting(self, now: float) -> Sighting:
        """The association as evidence: it was here when its last frame came, at whatever address."""
        return Sighting(
            mac=self.mac,
            source=Source.STATION,
            at=now - (self.inactive_s or 0.0),
            binds=False,
            rssi_dbm=self.signal_dbm,
        )


@dataclass(frozen=True, slots=True)
class Radio:
    """A wireless interface: its kind (`ap`, `station`, …), and its network's name and frequency where told."""

    kind: str
    ssid: str | None = None
    frequency_mhz: int | None = None

    @property
    def serves(self) -> bool:
        """Whether stations associate with it."""
        return self.kind in _SERVING


@dataclass(frozen=True, slots=True)
class Interface:
    """A wireless interface by its number and name."""

    index: int
    name: str
    radio: Radio


@dataclass(frozen=True, slots=True)
class Bss:
    """A network in the kernel's table: how long ago it was heard, and whether the interface has joined it."""

    network: WifiNetwork
    seen_s: float
    joined: bool


def attributes(data: bytes) -> dict[int, bytes]:
    """Type → payload, up to the first that does not fit; of two of a type the first."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            break
        found.setdefault(kind & _TYPE_MASK, data[offset + 4 : offset + length])
        offset += (length + 3) & ~3
    return found


def decode_radio(data: bytes) -> Radio | None:
    """The attributes of a NEW_INTERFACE message; None where it tells no kind."""
    told = attributes(data)
    kind = _number(told.get(_ATTR_IFTYPE), "=I")
    if kind is None:
        return None
    return Radio(
        kind=_KINDS.get(kind, f"type {kind}"),
        ssid=ssid_text(told.get(_ATTR_SSID, b"").rstrip(b"\0")),
        frequency_mhz=_number(told.get(_ATTR_WIPHY_FREQ), "=I") or None,
    )


def decode_interface(data: bytes) -> Interface | None:
    """The attributes of a NEW_INTERFACE message; None where it is no network interface."""
    told, radio = attributes(data), decode_radio(data)
    index = _number(told.get(ATTR_IFINDEX), "=I")
    name = told.get(_ATTR_IFNAME, b"").rstrip(b"\0").decode("utf-8", errors="replace")
    return Interface(index, name, radio) if index and name and radio else None


def decode_bss(data: bytes) -> Bss | None:
    """The attributes of a NEW_SCAN_RESULTS message; None where it is no access point's."""
    told = attributes(attributes(data).get(_ATTR_BSS, b""))
    mac = try_mac(told.get(_BSS_BSSID, b"").hex())
    if mac is None:
        return None
    # A hidden name is in the answer to a question alone, the guard in either.
    both = (told.get(_BSS_ELEMENTS, b""), told.get(_BSS_BEACON_ELEMENTS, b""))
    strength = _number(told.get(_BSS_SIGNAL_MBM), "=i")
    percent = _number(told.get(_BSS_SIGNAL_UNSPEC), "=B")
    told_dbm = round(strength / 100) if strength is not None else signal_of(percent or 0)
    network = WifiNetwork(
        bssid=mac,
        ssid=next((name for raw in both if (name := ssid_text(ssid_in(raw)))), ""),
        frequency_mhz=_number(told.get(_BSS_FREQUENCY), "=I") or 0,
        signal_dbm=told_dbm if told_dbm < 0 and (strength, percent) != (None, None) else None,
        security=security_in(both[0] or both[1], capabilities=_number(told.get(_BSS_CAPABILITY), "=H") or 0),
    )
    joined = _number(told.get(_BSS_STATUS), "=I") == _ASSOCIATED
    return Bss(network, seen_s=(_number(told.get(_BSS_SEEN_MS), "=I") or 0) / 1000, joined=joined)


def decode_station(data: bytes) -> Station | None:
    """The attributes of a NEW_STATION message; None where it is no station's, or of one that has not been let in."""
    told = attributes(data)
    mac = try_mac(told.get(_ATTR_MAC, b"").hex())
    info = attributes(told.get(_ATTR_STA_INFO, b""))
    flags = info.get(_STA_FLAGS, b"")
    if mac is None or (len(flags) == 8 and not _is_let_in(flags)):
        return None
    inactive_ms = _number(info.get(_STA_INACTIVE_MS), "=I")
    return Station(
        mac=mac,
        signal_dbm=_signal(info.get(_STA_SIGNAL)) or _signal(info.get(_STA_SIGNAL_AVG)),
        inactive_s=None if inactive_ms is None else inactive_ms / 1000,
        connected_s=_number(info.get(_STA_CONNECTED_S), "=I"),
    )


def _is_let_in(flags: bytes) -> bool:
    """Whether the station has proved that it knows the password; before that, its MAC is anybody's claim."""
    mask, values = struct.unpack("=II", flags)
    return not mask & _AUTHORIZED or bool(values & _AUTHORIZED)


def _signal(payload: bytes | None) -> int | None:
    """Signal strength in dBm; what is not below zero is no measurement."""
    value = _number(payload, "=b")
    return value if value is not None and value < 0 else None


def _number(payload: bytes | None, form: str) -> int | None:
    if payload is None or len(payload) != struct.calcsize(form):
        return None
    number: int = struct.unpack(form, payload)[0]
    return number
