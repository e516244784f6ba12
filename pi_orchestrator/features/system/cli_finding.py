"""The result of a check of `doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding: `result` is `ok`, `warn` (works with limits) or `fail`; `what` was found, and the `remedy`."""

    check: str
    result: str
    what: str
    remedy: str = ""
