"""Names, signal words, and the four places of a container."""

import re
from datetime import UTC, datetime

import pytest

from pi_orchestrator.api.routes import ROUTES
from pi_orchestrator.domain.camera import connection_quality, device_id_for
from pi_orchestrator.domain.container import (
    MAX_LABEL_CHARS,
    PositionError,
    free_position,
    is_of_target,
    overflow_id,
    overflow_label,
    parse_container_id,
    parse_position,
)
from pi_orchestrator.domain.dismissal import Dismissal, Reason
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import FieldError

MAC = Mac("24:6F:28:B0:F7:F1")
WORDS_OF_PATHS = [found[1] for route in ROUTES if (found := re.fullmatch(r"/api/v1/cameras/(\w+)", route.path))]


@pytest.mark.parametrize(
    "claimed, expected",
    [
        (None, "espcam-b0f7f1"),
        ("", "espcam-b0f7f1"),
        ("kitchen", "kitchen"),
        ("24-6f-28-b0-f7-f1", MAC),
        ("246f28b0f7f1", MAC),
        *((word, "espcam-b0f7f1") for word in WORDS_OF_PATHS),
    ],
)
def test_a_camera_is_known_by_its_own_id_or_one_made_of_its_mac(claimed, expected):
    assert WORDS_OF_PATHS
    assert device_id_for(MAC, claimed) == expected


@pytest.mark.parametrize(
    "dbm, word",
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
def test_signal_in_words(dbm, word):
    assert connection_quality(dbm) == word


@pytest.mark.parametrize(
    "taken, position",
    [((), 1), ((1,), 2), ((2,), 1), ((1, 3, 4), 2), ((4, 3, 2, 1), None), ((1, 1, 2), 3)],
)
def test_the_lowest_free_position_is_next(taken, position):
    assert free_position(taken) == position


@pytest.mark.parametrize("text", ["a", "550e8400-e29b-41d4-a716-446655440000", "Box_1.north", "x" * 64, "9"])
def test_a_container_id_is_a_plain_name(text):
    assert parse_container_id(text) == text


@pytest.mark.parametrize(
    "text", ["", "-a", ".a", "_a", "a b", "a/b", "..", "x" * 65, "é", "a\n", "a\x00", "<b>", "a'--"]
)
def test_a_container_id_is_nothing_else(text):
    with pytest.raises(FieldError, match="a container id is"):
        parse_container_id(text)


@pytest.mark.parametrize("target", ["box", "x" * 64, "550e8400-e29b-41d4-a716-446655440000"])
def test_further_containers_have_valid_ids_of_their_own(target):
    ids = [overflow_id(target, number) for number in range(2, 300)]
    assert len(set(ids)) == len(ids)
    assert target not in ids
    assert all(parse_container_id(made) for made in ids)


def test_further_containers_are_labelled_after_the_target():
    assert overflow_id("box", 2) == "box-2"
    assert overflow_label("Kitchen", 2) == "Kitchen (2)"


def test_a_further_containers_label_is_no_longer_than_a_label():
    assert overflow_label("x" * MAX_LABEL_CHARS, 12) == "x" * (MAX_LABEL_CHARS - 5) + " (12)"


@pytest.mark.parametrize("value, position", [(1, 1), (4, 4), (2.0, 2)])
def test_a_position_is_one_of_four(value, position):
    assert parse_position(value) == position
    assert type(parse_position(value)) is int


@pytest.mark.parametrize("value", [0, 5, -1, 2.5, float("nan"), float("inf"), True, "1", None, [1], {}, 10**400])
def test_a_position_is_nothing_else(value):
    with pytest.raises(PositionError, match="those are 1, 2, 3 and 4") as caught:
        parse_position(value)
    assert caught.value.code == "INVALID_POSITION"
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("target", ["box", "x" * 64, "hall-2"])
def test_the_containers_of_auto_onboarding_are_the_target_and_those_made_for_it(target):
    made = [target, *(overflow_id(target, number) for number in (2, 3, 10, 1000))]
    assert all(is_of_target(container, target) for container in made)
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
    "by, heir, why",
    [
        ("admin", None, "it was unpaired (by admin, 2026-01-22 15:00 UTC); pair it by hand, or lift the dismissal"),
        ("-", None, "it was unpaired (without a key, 2026-01-22 15:00 UTC); pair it by hand, or lift the dismissal"),
        ("me", MAC, f"it was replaced by {MAC} (by me, 2026-01-22 15:00 UTC); pair it by hand, or lift the dismissal"),
    ],
)
def test_why_a_camera_was_taken_out_is_told_in_words(by, heir, why):
    reason = Reason.REPLACED if heir else Reason.UNPAIRED
    one = Dismissal(Mac("24:6F:28:00:00:10"), reason, "kitchen", by, datetime(2026, 1, 22, 15, tzinfo=UTC), None, heir)
    assert one.why == why
