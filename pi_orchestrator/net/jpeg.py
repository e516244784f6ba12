"""JPEG pictures from cameras: size limit, format check, and removal of the padding behind the picture.

Firmware often sends its whole buffer: zeros, a line break or old data follow the end marker.
"""

from __future__ import annotations

import re

from pi_orchestrator.core.validation import clean_text

MAX_IMAGE_BYTES = 8 * 1024 * 1024
MAX_PADDING_BYTES = 8 * 1024
"""Bytes after the end marker that are cut off."""
_SOI, _EOI, _SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
_MAX_SEGMENTS = 256
_OTHER_TYPE = re.compile(
    r"text/|(image|audio|video)/(?!.*jp|\*)|multipart/|application/(.*\+)?(json|xml|pdf|zip)|.*html", re.IGNORECASE
)
"""Types of content that is no JPEG, such as an error page; with a type not listed here, or none, the bytes decide."""


def cut_jpeg(data: bytes) -> bytes | None:
    """The picture up to its last end marker within MAX_PADDING_BYTES of the end; None if the data is not a JPEG."""
    if not data.startswith(_SOI) or len(data) <= len(_SOI + _EOI):
        return None
    if data.endswith(_EOI):
        return data
    end = data.rfind(_EOI, max(_segments_end(data), len(data) - MAX_PADDING_BYTES - len(_EOI)))
    if end <= len(_SOI):
        return None
    return data[: end + len(_EOI)]


def other_content_type(content_type: object) -> str | None:
    """The content type, safe to show, if it is not a picture's; None if it is, or if the bytes decide."""
    if content_type is None or (isinstance(content_type, str) and not _OTHER_TYPE.match(content_type.strip())):
        return None
    return clean_text(content_type, max_chars=40) or "unknown"


def _segments_end(data: bytes) -> int:
    """Where the segments before the picture data end; one may contain a thumbnail with an end marker of its own."""
    position = len(_SOI)
    for _ in range(_MAX_SEGMENTS):
        head = data[position : position + 4]
        if len(head) < 4 or head[0] != 0xFF or not 0xC0 <= head[1] <= 0xFE or head[:2] in (_SOI, _EOI, _SCAN):
            break
        position += 2 + int.from_bytes(head[2:])
    return position
