"""Containers: four positions each, assigned in ascending order.

If the target container of auto-onboarding is full, its overflow containers are used: numbered copies, from 2 on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.validation import parse_text

POSITIONS = (1, 2, 3, 4)
MAX_LABEL_CHARS = 100
MAX_DESCRIPTION_CHARS = 500
MAX_CONTAINERS = 1000
MAX_CAMERAS = MAX_CONTAINERS * len(POSITIONS)


@dataclass(frozen=True, slots=True)
class Container:
    """A container as stored; its cameras are in the table `assignments`."""

    id: str
    created_at: datetime
    updated_at: datetime
    label: str | None = None
    description: str | None = None

    @property
    def title(self) -> str:
        """Display name: the label, or the id if it has no label."""
        return self.label or self.id


class PositionError(FieldError):
    """The value is not a position of a container."""

    code: str = ErrorCode.INVALID_POSITION


def parse_position(value: object) -> int:
    """1, 2, 3 or 4; PositionError for anything else."""
    # JSON has one number type: 2.0 is 2.
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in POSITIONS:
        raise PositionError(f"{repr(value)[:40]} is not a position; use 1, 2, 3 or 4")
    return int(value)


def parse_label(value: object) -> str | None:
    """A label of up to 100 characters, or None if empty; FieldError for other values."""
    return parse_text(value, field="a label", max_chars=MAX_LABEL_CHARS)


def parse_container_description(value: object) -> str | None:
    """A description of up to 500 characters, or None if empty; FieldError for other values."""
    return parse_text(value, field="a description", max_chars=MAX_DESCRIPTION_CHARS)


def lowest_free(occupied: Iterable[int]) -> int | None:
    """The lowest free position, or None if the container is full."""
    occupied = set(occupied)
    return next((position for position in POSITIONS if position not in occupied), None)


def overflow_id(target_id: str, number: int) -> str:
    """The id of overflow container `number` (2 or more) of a target, at most 64 characters."""
    suffix = f"-{number}"
    return target_id[: 64 - len(suffix)] + suffix


def overflow_label(target_label: str, number: int) -> str:
    """The label of overflow container `number` of a target, at most 100 characters."""
    suffix = f" ({number})"
    return target_label[: MAX_LABEL_CHARS - len(suffix)] + suffix


def is_of_target(container_id: str, target_id: str) -> bool:
    """Whether a container is the auto-onboarding target or one of its overflow containers."""
    number = container_id.rpartition("-")[2]
    is_numbered = number.isascii() and number.isdecimal() and len(number) < 10 and int(number) >= 2
    return container_id == target_id or (is_numbered and container_id == overflow_id(target_id, int(number)))
