"""ARP frames, built and parsed by scapy; checks that must be cheap read the raw bytes."""

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

from pi_orchestrator.core.mac import Mac, try_mac

ETH_P_ARP = 0x0806
FRAME_BYTES = 42
"""An ARP frame for IPv4 over Ethernet, without padding."""
BROADCAST = b"\xff" * 6

_ARP_IPV4_HEADER = bytes.fromhex("0806 0001 0800 0604")
_REQUEST, _REPLY = b"\0\1", b"\0\2"
_SOURCE, _TYPES, _OPERATION = slice(6, 12), slice(12, 20), slice(20, 22)
_SENDER_MAC, _SENDER_IP, _TARGET = slice(22, 28), slice(28, 32), slice(32, 42)
_NO_FOLDER = "/dev/null/nowhere"
_TABLES: dict[str, object] = {"scapy.libs.manuf": "", "scapy.libs.bluetoothids": {}}
"""Modules with large tables that scapy imports, and the empty table with which each is replaced."""
_CIPHERS = ("cryptography.hazmat.primitives.asymmetric.x25519", "cryptography.hazmat.backends")
"""Modules that scapy tries to import for encrypted protocols. Nothing else here needs them, so they are hidden."""
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class ArpSender:
    """Sender of an ARP frame; `ip` is None if it probes for a free address (RFC 5227)."""

    mac: Mac
    ip: IPv4Address | None


class Frames:
    """Builds and parses the ARP frames of one link; `mac` is the link's own."""

    def __init__(self, library: Any, *, mac: Mac, address: IPv4Address | None) -> None:
        self.mac = mac
        self._library = library
        # Without an own address this is an address probe, which is answered in the same way (RFC 5227).
        source = str(address or "0.0.0.0")
        arp = library.ARP(op=1, hwsrc=mac, psrc=source, hwdst="00:00:00:00:00:00", pdst="0.0.0.0")
        self._template = bytes(library.Ether(src=mac, dst="ff:ff:ff:ff:ff:ff", type=ETH_P_ARP) / arp)
        self._own_target = self._template[_SENDER_MAC] + self._template[_SENDER_IP]

    def request(self, address: bytes, destination: bytes) -> bytes:
        """An ARP request for an address, to `destination` (a MAC or broadcast)."""
        return destination + self._template[6 : FRAME_BYTES - 4] + address

    def is_reply_to_us(self, frame: bytes) -> bool:
        """Whether the frame is a reply that is addressed to this link."""
        return frame[_OPERATION] == _REPLY and frame[_TARGET] == self._own_target

    def parse(self, frame: bytes) -> ArpSender | None:
        """The sender of an ARP frame; None if its MAC cannot be a device's."""
        arp = self._library.ARP(frame[14:FRAME_BYTES])
        mac = try_mac(arp.hwsrc)
        if mac is None:
            return None
        ip = IPv4Address(arp.psrc)
        return ArpSender(mac, None if ip.is_unspecified else ip)


def is_arp(frame: bytes) -> bool:
    """Whether the bytes are an ARP request or reply for IPv4 over Ethernet; padding may follow."""
    return len(frame) >= FRAME_BYTES and frame[_TYPES] == _ARP_IPV4_HEADER and frame[_OPERATION] in (_REQUEST, _REPLY)


def is_forged(frame: bytes) -> bool:
    """Whether the Ethernet source differs from the sender MAC in the ARP payload."""
    return frame[_SOURCE] != frame[_SENDER_MAC]


def sender_mac(frame: bytes) -> bytes:
    """The sender MAC, 6 bytes."""
    return frame[_SENDER_MAC]


def sender_ip(frame: bytes) -> bytes:
    """The sender IPv4 address, 4 bytes."""
    return frame[_SENDER_IP]


def load_scapy() -> Any:
    """Import scapy's module for Ethernet and ARP; blocks for 50 ms, so call it in a thread.

    By default scapy reads a table of all manufacturers (25 MiB, twice the time), caches it as a pickle in the user's
    home folder, reads the pickle at the next start, and creates missing folders there. It also loads ciphers (9 MiB),
    which ARP does not need.
    """
    with _LOADING, _without_home(), _without_tables(), _without_ciphers():
        logging.getLogger("scapy").setLevel(logging.ERROR)
        from scapy.layers import l2  # noqa: PLC0415  # loaded in a thread, at first use

        scapy_logger = logging.getLogger("scapy")
        scapy_logger.handlers.clear()
        scapy_logger.propagate = True
    return l2


@contextlib.contextmanager
def _without_home() -> Iterator[None]:
    """Point the XDG folders to a path that cannot exist during the block, so that scapy uses none."""
    names = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    saved = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, _NO_FOLDER))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_tables() -> Iterator[None]:
    """Replace the modules of scapy's tables by empty ones during the block."""
    saved = {name: sys.modules.get(name) for name in _TABLES}
    for name, data in _TABLES.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name])["DATA"] = data
    try:
        yield
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextlib.contextmanager
def _without_ciphers() -> Iterator[None]:
    """Prevent the import of ciphers that are not loaded yet, during the block."""
    missing = [name for name in _CIPHERS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]  # None in sys.modules makes an import fail
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
