"""JSON from untrusted senders: bounded size and depth, UTF-8, finite numbers, an object at the top."""

from __future__ import annotations

import json
import math
from typing import Any

from pi_orchestrator.core.errors import FieldError

MAX_DEPTH = 8

_BREAKS = str.maketrans("\t\r\n", "   ")


def parse_object(payload: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Bytes → object; FieldError names the rule that was violated."""
    if len(payload) > max_bytes:
        raise FieldError(f"{len(payload)} bytes, over the limit of {max_bytes}")
    try:
        value = _DECODER.decode(payload.decode("utf-8"))
    except UnicodeDecodeError:
        raise FieldError("not UTF-8") from None
    except RecursionError:
        raise FieldError(f"nested deeper than {max_depth} levels") from None
    except ValueError as error:
        raise FieldError(f"not JSON: {str(error)[:80]}") from None
    if not isinstance(value, dict):
        raise FieldError("not a JSON object")
    # Few brackets cannot nest deeply, so most payloads need no walk.
    if payload.count(b"{") + payload.count(b"[") > max_depth and _depth(value, max_depth) > max_depth:
        raise FieldError(f"nested deeper than {max_depth} levels")
    return value


def clean_text(value: object, *, max_chars: int = 128) -> str | None:
    """Text that is safe to store, log and show: no control characters or lone surrogates, cut to `max_chars`.

    None if it is empty or not text.
    """
    if not isinstance(value, str):
        return None
    text = value[:max_chars]
    if not text.isprintable():
        text = "".join(char for char in text if char.isprintable())
    return text.strip() or None


def parse_text(value: object, *, what: str, max_chars: int) -> str | None:
    """Operator text as one line that is safe to show; None if empty, FieldError if it is too long or not text."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise FieldError(f"{what} is text")
    if len(value) > max_chars:
        raise FieldError(f"{len(value)} characters, over the limit of {max_chars}")
    return clean_text(value.translate(_BREAKS), max_chars=max_chars)


def clean_number(value: object, *, low: float, high: float) -> float | None:
    """A finite number within its physical range, else None; booleans are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return None
    return value


def _depth(value: object, limit: int) -> int:
    if limit < 0 or not isinstance(value, dict | list):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + max((_depth(child, limit - 1) for child in children), default=0)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not finite")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
