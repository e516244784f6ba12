"""The name of an access point, as radios, hostapd and NetworkManager write it down."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pi_orchestrator.domain.strict_json import clean_text

MAX_SSID_BYTES = 32
_BYTE_LIST = re.compile(rb"\s*(?:\d{1,3}\s*;\s*)+(?:\d{1,3}\s*)?", re.ASCII)
_PRINTF = re.compile(rb"\\(x[0-9A-Fa-f]{2}|[0-7]{1,3}|.)", re.DOTALL)
_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"e": b"\x1b", b"s": b" "}


@dataclass(frozen=True, slots=True)
class Profile:
    """An access point that a file describes; no interface where the file binds it to none."""

    interface: str | None
    ssid: str


def ssid_text(raw: bytes) -> str | None:
    """1 to 32 bytes as text that is safe to show; None for no, a hidden or an impossible name."""
    if not 1 <= len(raw) <= MAX_SSID_BYTES:
        return None
    return clean_text(raw.decode("utf-8", errors="replace"))


def parse_hostapd(content: bytes) -> list[Profile]:
    """`hostapd.conf` → every BSS with a name in it; never raises. A `bss=` line begins the next one."""
    profiles: list[Profile] = []
    interface: str | None = None
    ssid: str | None = None
    for line in [*content.split(b"\n"), b"bss="]:
        key, separator, value = line.rstrip(b"\r").lstrip(b" \t").partition(b"=")
        if not separator:
            continue
        if key == b"bss":
            if interface and ssid:
                profiles.append(Profile(interface, ssid))
            interface, ssid = _word(value), None
        elif key == b"interface":
            interface = _word(value)
        elif key == b"ssid":
            ssid = ssid_text(value)
        elif key == b"ssid2":
            ssid = ssid_text(_unquoted(value))
    return profiles


def parse_keyfile(content: bytes) -> Profile | None:
    """A NetworkManager connection file → the access point that it makes, or None; never raises."""
    keys: dict[tuple[bytes, bytes], bytes] = {}
    section = b""
    for line in content.split(b"\n"):
        text = line.strip()
        if text.startswith(b"[") and text.endswith(b"]"):
            section = _SECTION_ALIASES.get(text[1:-1], text[1:-1])
        elif not text.startswith((b"#", b";")) and b"=" in text:
            key, _, value = text.partition(b"=")
            keys[section, key.rstrip()] = value.lstrip()
    ssid = ssid_text(_keyfile_bytes(keys.get((b"wifi", b"ssid"), b"")))
    if keys.get((b"wifi", b"mode")) != b"ap" or ssid is None:
        return None
    return Profile(_word(keys.get((b"connection", b"interface-name"), b"")), ssid)


_SECTION_ALIASES = {b"802-11-wireless": b"wifi"}


def _word(value: bytes) -> str | None:
    """An interface name, or None where there is none."""
    return clean_text(value.decode("utf-8", errors="replace"))


def _unquoted(value: bytes) -> bytes:
    """The three ways of hostapd: "text", P"text with escapes", or hexadecimal."""
    if len(value) >= 2 and value.startswith(b'"') and value.endswith(b'"'):
        return value[1:-1]
    if len(value) >= 3 and value.startswith(b'P"') and value.endswith(b'"'):
        return _PRINTF.sub(_escaped, value[2:-1])
    try:
        return bytes.fromhex(value.decode("ascii"))
    except ValueError:
        return b""


def _keyfile_bytes(value: bytes) -> bytes:
    """A list of byte values (`77;121;`) where the name is no text, else text with escapes."""
    if _BYTE_LIST.fullmatch(value):
        numbers = [int(number) for number in value.split(b";") if number.strip()]
        if all(number < 256 for number in numbers):
            return bytes(numbers)
    return _PRINTF.sub(_escaped, value)


def _escaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code in _NAMED:
        return _NAMED[code]
    if code.startswith(b"x") and len(code) == 3:
        return bytes([int(code[1:], 16)])
    if code.isdigit():
        return bytes([int(code, 8) & 0xFF])
    return code
