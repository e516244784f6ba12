"""Names, signal words, and the four places of a container."""

import pytest

from pi_orchestrator.domain.camera import connection_quality, device_id_for
from pi_orchestrator.domain.container import free_position, overflow_id, overflow_label, parse_container_id
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import FieldError

MAC = Mac("24:6F:28:B0:F7:F1")


@pytest.mark.parametrize(
    "claimed, expected",
    [
        (None, "espcam-b0f7f1"),
        ("", "espcam-b0f7f1"),
        ("kitchen", "kitchen"),
        ("24-6f-28-b0-f7-f1", MAC),
        ("246f28b0f7f1", MAC),
    ],
)
def test_a_camera_is_known_by_its_own_id_or_one_made_of_its_mac(claimed, expected):
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
