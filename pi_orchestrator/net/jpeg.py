"""Size limit and format check for JPEG pictures from cameras."""

from __future__ import annotations

MAX_IMAGE_BYTES = 8 * 1024 * 1024


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes start and end with the JPEG markers."""
    return len(data) > 4 and data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")
