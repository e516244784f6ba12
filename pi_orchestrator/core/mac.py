"""MAC addresses: many spellings are accepted, one is canonical."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NewType

from pydantic import BeforeValidator, WithJsonSchema

from pi_orchestrator.core.errors import FieldError

Mac = NewType("Mac", str)
"""A device's MAC address in canonical spelling, `AA:BB:CC:DD:EE:FF`."""

# Firmware that prints each byte with %x or String(byte, HEX) leaves out leading zeros: 24:6F:28:8:0:1.
_SPELLINGS = re.compile(
    r"(?:[0-9A-Fa-f]{12}"
    r"|[0-9A-Fa-f]{1,2}(?P<sep>[:\-_ ])[0-9A-Fa-f]{1,2}(?:(?P=sep)[0-9A-Fa-f]{1,2}){4}"
    r"|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})",
    re.ASCII,
)
_SEPARATOR = re.compile(r"[:\-_ ]")
# The same for JSON schemas (ECMA 262), without the multicast and all-zero addresses that no device has.
_PATTERN = (
    r"^(?![0:._ -]+$)([0-9A-Fa-f][02468ACEace]([0-9A-Fa-f]{10}|[0-9A-Fa-f]{2}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})"
    r"|[0-9A-Fa-f]?[02468ACEace]"
    r"((:[0-9A-Fa-f]{1,2}){5}|(-[0-9A-Fa-f]{1,2}){5}|(_[0-9A-Fa-f]{1,2}){5}|( [0-9A-Fa-f]{1,2}){5}))$"
)


def parse_mac(text: object) -> Mac:
    """Any usual spelling → canonical; FieldError for anything else, and for multicast, broadcast and zero.

    The six groups of a MAC with separators have one or two digits.
    """
    if not isinstance(text, str) or not _SPELLINGS.fullmatch(text):
        raise FieldError(f"{_quoted(text)} is not a MAC address such as AA:BB:CC:DD:EE:FF")
    digits = _digits(text)
    if digits == "0" * 12:
        raise FieldError("the all-zero MAC address is not a device's")
    if int(digits[:2], 16) & 1:
        raise FieldError(f"{_quoted(text)} is a multicast or broadcast MAC address, not a device's")
    return Mac(":".join(digits[i : i + 2] for i in range(0, 12, 2)))


def try_mac(text: object) -> Mac | None:
    """`parse_mac`, but None instead of FieldError."""
    try:
        return parse_mac(text)
    except FieldError:
        return None


def may_be_same_chip(mac: Mac, other: Mac) -> bool:
    """Whether the two MACs differ by 1 to 3, as the four MACs of an ESP32 do."""
    distance = abs(int(mac.replace(":", ""), 16) - int(other.replace(":", ""), 16))
    return 0 < distance <= 3


def mac_difference(text: str, mac: Mac) -> Literal["near", "reversed"] | None:
    """`near` if a text is a MAC that differs from `mac` by 1 to 3, `reversed` if it is `mac` with the bytes reversed.

    None for any other text. The reversed bytes may be a multicast address, which is no MAC of a device.
    """
    if not _SPELLINGS.fullmatch(text):
        return None
    digits, own = _digits(text), mac.replace(":", "")
    if digits != own and [digits[i : i + 2] for i in range(0, 12, 2)] == mac.split(":")[::-1]:
        return "reversed"
    return "near" if 0 < abs(int(digits, 16) - int(own, 16)) <= 3 else None


def is_local(mac: Mac) -> bool:
    """Whether the MAC is locally administered (random or virtual), not assigned by a manufacturer."""
    return bool(int(mac[:2], 16) & 2)


def same_chip_macs(mac: Mac) -> list[Mac]:
    """The three MACs before `mac` and the three after it: they may belong to the same ESP32."""
    number = int(mac.replace(":", ""), 16)
    digits = (f"{number + offset:012X}" for offset in (-3, -2, -1, 1, 2, 3) if 0 < number + offset < 1 << 48)
    return [Mac(":".join(d[i : i + 2] for i in range(0, 12, 2))) for d in digits]


def _digits(text: str) -> str:
    """The twelve hexadecimal digits, in upper case, of a text that matches _SPELLINGS."""
    return "".join(group.zfill(2) for group in _SEPARATOR.split(text.replace(".", ""))).upper()


def _quoted(text: object) -> str:
    return repr(str(text)[:40])


MacField = Annotated[
    Mac,
    BeforeValidator(parse_mac),
    WithJsonSchema(
        {
            "type": "string",
            "description": "MAC address; any usual spelling is accepted, this one is returned",
            "pattern": "^([0-9A-F]{2}:){5}[0-9A-F]{2}$",
            "examples": ["AA:BB:CC:DD:EE:F0"],
        },
        mode="serialization",
    ),
    WithJsonSchema(
        {
            "type": "string",
            "description": "MAC address of a device in any usual spelling (no multicast, broadcast or zero)",
            "pattern": _PATTERN,
            "examples": ["AA:BB:CC:DD:EE:F0"],
        },
        mode="validation",
    ),
]
"""A pydantic field that takes any spelling of a MAC."""
