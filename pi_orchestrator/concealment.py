"""Secrets that are known, taken out of a text in whatever writing they stand there."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST = 6
"""What is shorter stands in too many words by chance."""
SHORTEST_ENCODED = 8


class Concealer:
    """Takes these secrets out of texts; cheap where there are none."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = {writing for secret in secrets if len(secret) >= SHORTEST for writing in _writings(secret)}
        # The longest first: what is part of another must not leave the rest of that behind.
        parts = [re.escape(one) for one in sorted(found, key=lambda one: (-len(one), one))]
        self._pattern = re.compile("|".join(parts)) if parts else None

    def clean(self, text: str) -> str:
        """The text without them."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)


def _writings(secret: str) -> Iterator[str]:
    """Every way to write it that a program comes to by accident."""
    raw = secret.encode()
    yield secret
    for escaped in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        yield escaped
        yield json.dumps(escaped)[1:-1]
    yield repr(secret)[1:-1]
    yield quote(secret)
    yield quote(secret, safe="")
    yield quote_plus(secret)
    if len(raw) >= SHORTEST_ENCODED:
        yield raw.hex()
        yield raw.hex().upper()
        for shift in range(3):
            # What stands before and after it changes its first and last letters.
            text = base64.b64encode(b"\0" * shift + raw)[(0, 2, 3)[shift] :].decode()
            text = text.rstrip("=")[: -1 if (len(raw) + shift) % 3 else None]
            yield text
            yield text.translate(str.maketrans("+/", "-_"))
