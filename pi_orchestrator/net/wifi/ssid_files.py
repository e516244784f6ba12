"""Parsers for the SSID of an access point in the files of hostapd and NetworkManager."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pi_orchestrator.core.validation import clean_text
from pi_orchestrator.core.wifi import ssid_text

_BYTE_LIST = re.compile(rb"\s*(?:\d{1,3}\s*;\s*)+(?:\d{1,3}\s*)?", re.ASCII)
_PRINTF = re.compile(rb"\\(x[0-9A-Fa-f]{2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"e": b"\x1b", b"s": b" "}


@dataclass(frozen=True, slots=True)
class Profile:
    """An access point that a file configures; `interface` is None if the file does not name one."""

    interface: str | None
    ssid: str


def parse_hostapd(content: bytes) -> list[Profile]:
    """`hostapd.conf` → every BSS with an SSID; never raises. A `bss=` line starts the next BSS."""
    profiles: list[Profile] = []
    interface: str | None = None
    ssid: str | None = None
    for line in [*content.split(b"\n"), b"bss="]:  # the added line ends the last BSS
        key, separator, value = line.rstrip(b"\r").lstrip(b" \t").partition(b"=")
        if not separator:
            continue
        if key == b"bss":
            if interface and ssid:
                profiles.append(Profile(interface, ssid))
            interface, ssid = _interface_name(value), None
        elif key == b"interface":
            interface = _interface_name(value)
        elif key == b"ssid":
            ssid = ssid_text(value)
        elif key == b"ssid2":
            ssid = ssid_text(_unquoted(value))
    return profiles


def parse_keyfile(content: bytes) -> Profile | None:
    """A NetworkManager connection file → its access point; None if it does not configure one; never raises."""
    keys: dict[tuple[bytes, bytes], bytes] = {}
    section = b""
    for raw_line in content.split(b"\n"):
        line = raw_line.strip()
        if line.startswith(b"[") and line.endswith(b"]"):
            section = _SECTION_ALIASES.get(line[1:-1], line[1:-1])
        elif not line.startswith((b"#", b";")) and b"=" in line:
            key, _, value = line.partition(b"=")
            keys[section, key.rstrip()] = value.lstrip()
    ssid = ssid_text(_keyfile_bytes(keys.get((b"wifi", b"ssid"), b"")))
    if keys.get((b"wifi", b"mode")) != b"ap" or ssid is None:
        return None
    return Profile(_interface_name(keys.get((b"connection", b"interface-name"), b"")), ssid)


_SECTION_ALIASES = {b"802-11-wireless": b"wifi"}


def _interface_name(value: bytes) -> str | None:
    """A clean interface name, or None."""
    return clean_text(value.decode("utf-8", errors="replace"))


def _unquoted(value: bytes) -> bytes:
    """Hostapd's formats: "text", P"text with escapes", or hexadecimal; empty if invalid."""
    if len(value) >= 2 and value.startswith(b'"') and value.endswith(b'"'):
        return value[1:-1]
    if len(value) >= 3 and value.startswith(b'P"') and value.endswith(b'"'):
        return _PRINTF.sub(_unescape, value[2:-1])
    try:
        return bytes.fromhex(value.decode("ascii"))
    except ValueError:
        return b""


def _keyfile_bytes(value: bytes) -> bytes:
    """NetworkManager's formats: a list of byte values (`77;121;`), or text with escapes."""
    if _BYTE_LIST.fullmatch(value):
        numbers = [int(number) for number in value.split(b";") if number.strip()]
        if all(number < 256 for number in numbers):
            return bytes(numbers)
    return _PRINTF.sub(_unescape, value)


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code in _ESCAPES:
        return _ESCAPES[code]
    if code.startswith(b"x") and len(code) == 3:
        return bytes([int(code[1:], 16)])
    if code.isdigit():
        return bytes([int(code, 8) & 0xFF])
    return code
