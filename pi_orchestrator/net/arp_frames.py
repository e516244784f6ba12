"""ARP frames, made and taken apart by scapy; what must be cheap is read from the raw bytes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from pi_orchestrator.domain.mac import Mac, try_mac

ETH_P_ARP = 0x0806
FRAME = 42
BROADCAST = b"\xff" * 6

_FORM = bytes.fromhex("0806 0001 0800 0604")
_REQUEST, _REPLY = b"\0\1", b"\0\2"
_SOURCE, _KIND, _OPERATION = slice(6, 12), slice(12, 20), slice(20, 22)
_SENDER, _SENDER_IP, _TARGET = slice(22, 28), slice(28, 32), slice(32, 42)
_NOWHERE = "/dev/null/nowhere"
_TABLES: dict[str, object] = {"scapy.libs.manuf": "", "scapy.libs.bluetoothids": {}}
_CIPHERS = ("cryptography.hazmat.primitives.asymmetric.x25519", "cryptography.hazmat.backends")
"""What it tries out to know whether it could read encrypted protocols. Nobody else here imports these two."""
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Heard:
    """Who spoke; `ip` is None where the speaker has no address yet and probes for one."""

    mac: Mac
    ip: IPv4Address | None


class Frames:
    """ARP frames of one link, made and taken apart by scapy; `mac` is our own."""

    def __init__(self, library: Any, *, mac: Mac, address: IPv4Address | None) -> None:
        self.mac = mac
        self._library = library
        # Without an address we ask as a host does that probes for one; the answer is the same (RFC 5227).
        source = str(address or "0.0.0.0")
        arp = library.ARP(op=1, hwsrc=mac, psrc=source, hwdst="00:00:00:00:00:00", pdst="0.0.0.0")
        self._template = bytes(library.Ether(src=mac, dst="ff:ff:ff:ff:ff:ff", type=ETH_P_ARP) / arp)
        self._us = self._template[_SENDER] + self._template[_SENDER_IP]

    def request(self, address: bytes, to: bytes) -> bytes:
        """The question who has an address, to everybody or to one."""
        return to + self._template[6 : FRAME - 4] + address

    def is_for_us(self, frame: bytes) -> bool:
        """Whether it is a reply, and to a question of ours."""
        return frame[_OPERATION] == _REPLY and frame[_TARGET] == self._us

    def take_apart(self, frame: bytes) -> Heard | None:
        """Who speaks in an ARP frame; None where that can be no device."""
        said = self._library.ARP(frame[14:FRAME])
        mac = try_mac(said.hwsrc)
        if mac is None:
            return None
        ip = IPv4Address(said.psrc)
        return Heard(mac, None if ip.is_unspecified else ip)


def is_arp(frame: bytes) -> bool:
    """Whether these are the bytes of an ARP request or reply over Ethernet about IPv4; padding may follow."""
    return len(frame) >= FRAME and frame[_KIND] == _FORM and frame[_OPERATION] in (_REQUEST, _REPLY)


def is_forged(frame: bytes) -> bool:
    """Whether its Ethernet source is another than the MAC that it speaks for."""
    return frame[_SOURCE] != frame[_SENDER]


def sender(frame: bytes) -> bytes:
    """The MAC of who speaks."""
    return frame[_SENDER]


def sender_ip(frame: bytes) -> bytes:
    """The address that is claimed by who speaks."""
    return frame[_SENDER_IP]


def load_scapy() -> Any:
    """The module of Ethernet and ARP; takes a twentieth of a second, and not in the loop, please.

    Left to itself scapy reads a table of all manufacturers (25 MiB more, and twice the time), keeps it pickled in
    the home of whoever runs it, reads it from there again, and makes folders there that are missing. It also loads
    ciphers (9 MiB), of which ARP has none.
    """
    with _LOADING, _without_home(), _without_tables(), _without_ciphers():
        logging.getLogger("scapy").setLevel(logging.ERROR)
        from scapy.layers import l2  # noqa: PLC0415  # loaded in a thread, when it is first needed

        speaker = logging.getLogger("scapy")
        speaker.handlers.clear()
        speaker.propagate = True
    return l2


@contextlib.contextmanager
def _without_home() -> Iterator[None]:
    """With no place for folders of its own, scapy does without them."""
    names = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, _NOWHERE))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_tables() -> Iterator[None]:
    """The modules that hold them are empty meanwhile."""
    before = {name: sys.modules.get(name) for name in _TABLES}
    for name, data in _TABLES.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name])["DATA"] = data
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextlib.contextmanager
def _without_ciphers() -> Iterator[None]:
    """Those that are not loaded already cannot be meanwhile."""
    missing = [name for name in _CIPHERS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]  # None is how Python is told that there is none
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
