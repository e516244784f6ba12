"""Device ids, signal quality, containers and positions, and reasons of exclusions."""

import re
from datetime import UTC, datetime

import pytest

from pi_orchestrator.app.build import ROUTES
from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.identifiers import parse_container_id
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras.exclusions import Exclusion, Reason
from pi_orchestrator.features.cameras.model import connection_quality, device_id_for
from pi_orchestrator.features.containers.model import (
    MAX_LABEL_CHARS,
    PositionError,
    is_of_target,
    lowest_free,
    overflow_id,
    overflow_label,
    parse_position,
)

MAC = Mac("24:6F:28:B0:F7:F1")
RESERVED_IDS = [match[1] for route in ROUTES if (match := re.fullmatch(r"/api/v1/cameras/(\w+)", route.path))]


@pytest.mark.parametrize(
    "claimed, expected",
    [
        (None, "espcam-b0f7f1"),
        ("", "espcam-b0f7f1"),
        ("kitchen", "kitchen"),
        ("24-6f-28-b0-f7-f1", MAC),
        ("246f28b0f7f1", MAC),
        *((name, "espcam-b0f7f1") for name in RESERVED_IDS),
    ],
)
def test_device_id_is_claimed_or_derived_from_mac(claimed, expected):
    assert RESERVED_IDS
    assert device_id_for(MAC, claimed) == expected


@pytest.mark.parametrize(
    "dbm, quality",
    [
        (-30, "excellent"),
        (-50, "excellent"),
        (-51, "good"),
        (-60, "good"),
        (-61, "fair"),
        (-70, "fair"),
        (-71, "poor"),
        (-127, "poor"),
        (0, "poor"),
        (None, "poor"),
    ],
)
def test_connection_quality_of_dbm(dbm, quality):
    assert connection_quality(dbm) == quality


@pytest.mark.parametrize(
    "occupied, position",
    [((), 1), ((1,), 2), ((2,), 1), ((1, 3, 4), 2), ((4, 3, 2, 1), None), ((1, 1, 2), 3)],
)
def test_free_position_is_the_lowest(occupied, position):
    assert lowest_free(occupied) == position


@pytest.mark.parametrize("text", ["a", "550e8400-e29b-41d4-a716-446655440000", "Box_1.north", "x" * 64, "9"])
def test_container_id_valid_is_accepted(text):
    assert parse_container_id(text) == text


@pytest.mark.parametrize(
    "text", ["", "-a", ".a", "_a", "a b", "a/b", "..", "x" * 65, "é", "a\n", "a\x00", "<b>", "a'--"]
)
def test_container_id_invalid_is_refused(text):
    with pytest.raises(FieldError, match="a container id is"):
        parse_container_id(text)


@pytest.mark.parametrize("target", ["box", "x" * 64, "550e8400-e29b-41d4-a716-446655440000"])
def test_overflow_ids_are_valid_and_unique(target):
    ids = [overflow_id(target, number) for number in range(2, 300)]
    assert len(set(ids)) == len(ids)
    assert target not in ids
    assert all(parse_container_id(container_id) for container_id in ids)


def test_overflow_label_is_numbered():
    assert overflow_id("box", 2) == "box-2"
    assert overflow_label("Kitchen", 2) == "Kitchen (2)"


def test_overflow_label_has_maximum_length():
    assert overflow_label("x" * MAX_LABEL_CHARS, 12) == "x" * (MAX_LABEL_CHARS - 5) + " (12)"


@pytest.mark.parametrize("value, position", [(1, 1), (4, 4), (2.0, 2)])
def test_position_valid_is_parsed(value, position):
    assert parse_position(value) == position
    assert type(parse_position(value)) is int


@pytest.mark.parametrize("value", [0, 5, -1, 2.5, float("nan"), float("inf"), True, "1", None, [1], {}, 10**400])
def test_position_invalid_is_refused(value):
    with pytest.raises(PositionError, match="use 1, 2, 3 or 4") as caught:
        parse_position(value)
    assert caught.value.code == "INVALID_POSITION"
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("target", ["box", "x" * 64, "hall-2"])
def test_is_of_target_is_true_for_target_and_overflow(target):
    containers = [target, *(overflow_id(target, number) for number in (2, 3, 10, 1000))]
    assert all(is_of_target(container, target) for container in containers)
    for other in (
        "other",
        f"{target}-1",
        f"{target}-0",
        f"{target}-02",
        f"{target}-x",
        f"{target}-",
        f"{target}-2-2",
        "",
    ):
        assert not is_of_target(other, target)
    assert not is_of_target(f"box-{'9' * 5000}", "box")


@pytest.mark.parametrize(
    "by, successor, why",
    [
        ("admin", None, "it was unpaired (by admin, 2026-01-22 15:00 UTC); pair it manually, or lift the exclusion"),
        ("-", None, "it was unpaired (without a key, 2026-01-22 15:00 UTC); pair it manually, or lift the exclusion"),
        ("me", MAC, f"it was replaced by {MAC} (by me, 2026-01-22 15:00 UTC); pair it manually, or lift the exclusion"),
    ],
)
def test_exclusion_explains_its_reason(by, successor, why):
    reason = Reason.REPLACED if successor else Reason.UNPAIRED
    at = datetime(2026, 1, 22, 15, tzinfo=UTC)
    exclusion = Exclusion(Mac("24:6F:28:00:00:10"), reason, "kitchen", by, at, None, successor)
    assert exclusion.why == why
