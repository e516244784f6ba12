"""Changes to received packets that paho would otherwise end the connection for, before it decodes them."""

from __future__ import annotations

from typing import Final

_MAX_LENGTH_BYTES = 4
"""Limit of a variable byte integer."""
NO_PROPERTIES: Final = b"\0"


def without_properties(command: int, body: bytearray) -> bytearray:
    """The body of an MQTT 5 PUBLISH with an empty list of properties; unchanged where it is malformed."""
    start = 2 + int.from_bytes(body[:2], "big") + (2 if command & 0x06 else 0)
    end = _properties_end(body, start)
    if end is None or end == start + len(NO_PROPERTIES):
        return body
    return body[:start] + NO_PROPERTIES + body[end:]


def _properties_end(body: bytearray, start: int) -> int | None:
    """Where the properties that start here end, None if the body is too short for them."""
    size = 0
    for number, digit in enumerate(body[start : start + _MAX_LENGTH_BYTES]):
        size |= (digit & 0x7F) << 7 * number
        if not digit & 0x80:
            end = start + number + 1 + size
            return end if end <= len(body) else None
    return None
