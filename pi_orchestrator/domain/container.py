"""Containers hold four cameras, in positions given in order."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pi_orchestrator.errors import FieldError

POSITIONS = (1, 2, 3, 4)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def parse_container_id(text: str) -> str:
    """A UUID or a plain name of up to 64 characters; FieldError otherwise."""
    if not _ID.fullmatch(text):
        raise FieldError("a container id is 1 to 64 of A-Z a-z 0-9 . _ - and starts with a letter or digit")
    return text


def free_position(taken: Iterable[int]) -> int | None:
    """The lowest free position, or None when the container is full."""
    occupied = set(taken)
    return next((position for position in POSITIONS if position not in occupied), None)


def overflow_id(target_id: str, number: int) -> str:
    """The id of the target's n-th further container (n ≥ 2)."""
    suffix = f"-{number}"
    return target_id[: 64 - len(suffix)] + suffix


def overflow_label(target_label: str, number: int) -> str:
    """The label of the target's n-th further container."""
    return f"{target_label} ({number})"
