"""JSON from untrusted senders: bounded size and depth, UTF-8, finite numbers, an object at the top."""

from __future__ import annotations

import json
import math
from typing import Any

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.json_problem import json_problem

MAX_DEPTH = 8

_BOM = b"\xef\xbb\xbf"
_PADDING = b"\0 \t\r\n\v\f"
_BREAKS = str.maketrans("\t\r\n", "   ")


def parse_object(payload: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Bytes → object; FieldError names the rule that was violated."""
    return _parse_object(payload, 0, max_bytes=max_bytes, max_depth=max_depth)


def parse_camera_object(payload: bytes, *, max_bytes: int) -> dict[str, Any]:
    """As `parse_object`; a byte order mark, and the zero bytes and spaces around the object, are ignored."""
    if len(payload) > max_bytes:
        raise _too_large(payload, max_bytes)
    start = len(payload) - len(payload.removeprefix(_BOM).lstrip(_PADDING))
    return _parse_object(payload[start:].rstrip(_PADDING), start, max_bytes=max_bytes, max_depth=MAX_DEPTH)


def plain_word(payload: bytes) -> str:
    """A message of one short word such as `Offline`, in lower case and without padding; "" for any other message."""
    word = payload.removeprefix(_BOM).strip(_PADDING).strip(b'"') if len(payload) <= 64 else b""
    return word.decode().lower() if word.isalnum() else ""


def _parse_object(payload: bytes, skipped: int, *, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """`skipped`: bytes before the payload, for the positions in errors."""
    if len(payload) > max_bytes:
        raise _too_large(payload, max_bytes)
    try:
        value = _DECODER.decode(payload.decode("utf-8"))
    except UnicodeDecodeError as error:
        found = f"0x{payload[error.start]:02X} at byte {skipped + error.start + 1}"
        raise FieldError(f"not UTF-8: {found}") from None
    except RecursionError:
        raise FieldError(f"nested deeper than {max_depth} levels") from None
    except json.JSONDecodeError as error:
        raise FieldError(f"not JSON: {json_problem(error, skipped=skipped)}") from None
    except ValueError as error:
        raise FieldError(f"not JSON: {str(error)[:80]}") from None
    if not isinstance(value, dict):
        raise FieldError("not a JSON object")
    # Few brackets cannot nest deeply, so most payloads need no measurement of their depth.
    if payload.count(b"{") + payload.count(b"[") > max_depth and _depth(value, max_depth) > max_depth:
        raise FieldError(f"nested deeper than {max_depth} levels")
    return value


def _too_large(payload: bytes, max_bytes: int) -> FieldError:
    return FieldError(f"{len(payload)} bytes, over the limit of {max_bytes}")


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


def parse_text(value: object, *, field: str, max_chars: int) -> str | None:
    """Operator text as one line that is safe to show; None if empty, FieldError if it is too long or not text.

    `field` is the subject of the error, such as `a label`.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise FieldError(f"{field} must be text")
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
