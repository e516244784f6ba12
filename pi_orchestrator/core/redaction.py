"""Masks known secrets in texts, in any common encoding."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

MASK = "***"
MIN_CHARS = 6
"""Shorter secrets are not masked, because they occur in ordinary words by chance."""
MIN_ENCODED_BYTES = 8
"""Shorter secrets are not masked as hex or base64."""


class Redactor:
    """Masks the given secrets in texts; cheap if there are none."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        encodings = {text for secret in secrets if len(secret) >= MIN_CHARS for text in _encodings(secret)}
        # The longest first: masking a part of a longer secret would leave the rest of it.
        parts = [re.escape(text) for text in sorted(encodings, key=lambda text: (-len(text), text))]
        self._pattern = re.compile("|".join(parts)) if parts else None

    def clean(self, text: str) -> str:
        """The text with every secret replaced by the mask."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)


def _encodings(secret: str) -> Iterator[str]:
    """Every encoding in which a program may write a secret by accident."""
    raw = secret.encode()
    yield secret
    for escaped in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        yield escaped
        yield json.dumps(escaped)[1:-1]
    yield repr(secret)[1:-1]
    yield quote(secret)
    yield quote(secret, safe="")
    yield quote_plus(secret)
    if len(raw) >= MIN_ENCODED_BYTES:
        yield raw.hex()
        yield raw.hex().upper()
        for shift in range(3):
            # The bytes around the secret change its first and last base64 characters, so these are cut off.
            text = base64.b64encode(b"\0" * shift + raw)[(0, 2, 3)[shift] :].decode()
            text = text.rstrip("=")[: -1 if (len(raw) + shift) % 3 else None]
            yield text
            yield text.translate(str.maketrans("+/", "-_"))
