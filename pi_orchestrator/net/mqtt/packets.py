"""Changes of received packets before paho decodes them: unchanged, they would make paho end the connection."""

from __future__ import annotations

from typing import Final

_MAX_LENGTH_BYTES = 4
"""Limit of a variable byte integer."""
NO_PROPERTIES: Final = b"\0"
UNSPECIFIED_ERROR: Final = 0x80
_SUBACK_CODES: Final = frozenset(
    (0, 1, 2, UNSPECIFIED_ERROR, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2),
)


def without_properties(command: int, body: bytearray) -> bytearray:
    """The body of an MQTT 5 PUBLISH with an empty list of properties; unchanged where it is malformed."""
    start = 2 + int.from_bytes(body[:2], "big") + (2 if command & 0x06 else 0)
    end = _properties_end(body, start)
    if end is None or end == start + len(NO_PROPERTIES):
        return body
    return body[:start] + NO_PROPERTIES + body[end:]


def with_known_codes(body: bytearray, *, is_mqtt5: bool) -> bytearray:
    """The body of a SUBACK with UNSPECIFIED_ERROR in place of unknown codes; its properties are removed."""
    start = _properties_end(body, 2) if is_mqtt5 else 2
    if start is None:
        return body
    codes = bytes(code if code in _SUBACK_CODES else UNSPECIFIED_ERROR for code in body[start:])
    return body[:2] + (NO_PROPERTIES if is_mqtt5 else b"") + codes


def _properties_end(body: bytearray, start: int) -> int | None:
    """Where the properties that begin at `start` end; None if the body is too short for them."""
    size = 0
    for number, digit in enumerate(body[start : start + _MAX_LENGTH_BYTES]):
        size |= (digit & 0x7F) << 7 * number
        if not digit & 0x80:
            end = start + number + 1 + size
            return end if end <= len(body) else None
    return None
