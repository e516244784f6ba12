"""Error texts for invalid JSON: they name the problem and its position."""

import pytest

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.validation import parse_camera_object, parse_object


@pytest.mark.parametrize(
    "payload, problem",
    [
        (b'{"location":"the "blue" room"}', "unescaped quote at byte 18"),
        (b'{"a":"5" tall"}', "unescaped quote at byte 8"),
        (b'{"a":"x""}', "unescaped quote at byte 8"),
        (b'{"a "b" c":1}', "unescaped quote at byte 5"),
        ('{"a":"é "x" "}'.encode(), "unescaped quote at byte 10"),
        (b'{"a":"x" "b":1}', "comma missing at byte 10"),
        (b'{"a":1 "b":1}', "comma missing at byte 8"),
        (b'{"a":"x"\0,"b":1}', "control character 0x00 at byte 9"),
        (b'{"a":"\n"}', "control character 0x0A inside a text at byte 7"),
        (b'{"a":"\\x"}', "invalid escape at byte 7"),
        (b'{"a":1} x', "more data after its end at byte 9"),
        (b'{"a":nan}', "no valid value at byte 6"),
        (b"{'a':1}", "name without double quotes at byte 2"),
        (b"busy", "no { at byte 1"),
        (b'{"a":1', "it ends too early, after 6 bytes"),
        (b'{"a":"x', "it ends too early, after 7 bytes"),
        (b" ", "it is empty"),
    ],
)
def test_error_names_problem_and_position(payload, problem):
    with pytest.raises(FieldError) as caught:
        parse_object(payload, max_bytes=1000)
    assert str(caught.value) == f"not JSON: {problem}"


@pytest.mark.parametrize("payload", [b'{"a":1,}', b'{"a":[1,]}', b'{"a":1, }'], ids=repr)
def test_superfluous_comma_is_named(payload):
    """The position of the comma differs between versions of Python."""
    with pytest.raises(FieldError, match="not JSON: comma before the closing bracket at byte "):
        parse_object(payload, max_bytes=1000)


def test_position_counts_ignored_padding():
    with pytest.raises(FieldError, match="unescaped quote at byte 13$"):
        parse_camera_object(b'\xef\xbb\xbf \0{"a":"h"x"}\0', max_bytes=1000)


def test_position_of_other_encoding_is_named():
    with pytest.raises(FieldError, match="not UTF-8: 0xE9 at byte 7"):
        parse_object(b'{"a":"\xe9"}', max_bytes=1000)
