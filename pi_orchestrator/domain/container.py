"""Containers hold four cameras, in positions given in order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pi_orchestrator.domain.strict_json import text_field
from pi_orchestrator.errors import FieldError

POSITIONS = (1, 2, 3, 4)
MAX_LABEL_CHARS = 100
MAX_DESCRIPTION_CHARS = 500
MAX_CONTAINERS = 1000
MAX_CAMERAS = MAX_CONTAINERS * len(POSITIONS)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Container:
    """A container as stored; who stands in it is known of the cameras."""

    id: str
    created_at: datetime
    updated_at: datetime
    label: str | None = None
    description: str | None = None

    @property
    def title(self) -> str:
        """What people call it: its label, or its id where it has none."""
        return self.label or self.id


class PositionError(FieldError):
    """No position of a container."""

    code = "INVALID_POSITION"


def parse_position(value: object) -> int:
    """1, 2, 3 or 4; PositionError for anything else."""
    # JSON knows one kind of number: 2.0 is a 2.
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in POSITIONS:
        raise PositionError(f"{repr(value)[:40]} is no position of a container; those are 1, 2, 3 and 4")
    return int(value)


def parse_label(value: object) -> str | None:
    """What a container is called, in up to 100 characters; FieldError for anything else."""
    return text_field(value, what="a label", max_chars=MAX_LABEL_CHARS)


def parse_container_description(value: object) -> str | None:
    """What a container is, in up to 500 characters; FieldError for anything else."""
    return text_field(value, what="a description", max_chars=MAX_DESCRIPTION_CHARS)


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
    """The label of the target's n-th further container, of no more characters than a label has."""
    suffix = f" ({number})"
    return target_label[: MAX_LABEL_CHARS - len(suffix)] + suffix


def is_of_target(container_id: str, target_id: str) -> bool:
    """Whether a container is the one that auto-onboarding pairs to, or one of the further ones made for it."""
    number = container_id.rpartition("-")[2]
    further = number.isascii() and number.isdecimal() and len(number) < 10 and int(number) >= 2
    return container_id == target_id or (further and container_id == overflow_id(target_id, int(number)))
