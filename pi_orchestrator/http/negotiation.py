"""Weights in `Accept` and `Accept-Encoding` (RFC 9110 section 12.5)."""

from __future__ import annotations

from collections.abc import Iterable

MAX_ENCODINGS = 32  # further entries of a header are ignored


def accepted_encodings(header: str | None) -> tuple[str, ...]:
    """`Accept-Encoding` → br and gzip, best first; without those refused, or ranked below an unencoded answer."""
    weights: dict[str, float] = {}
    for entry in (header or "").lower().split(",")[:MAX_ENCODINGS]:
        name, *parameters = (part.strip() for part in entry.split(";"))
        weights[{"x-gzip": "gzip"}.get(name, name)] = quality(parameters)
    default = weights.get("*", 0.0)
    unencoded = weights.get("identity", 0.0)
    weighted = [(weights.get(name, default), name) for name in ("br", "gzip")]
    weighted.sort(key=lambda item: -item[0])
    return tuple(name for weight, name in weighted if weight > 0 and weight >= unencoded)


def quality(parameters: Iterable[str]) -> float:
    """The `q` weight among the parameters of one entry: 1 if absent, 0 if malformed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0
