"""JSON from untrusted senders: just below and just above every limit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.validation import clean_number, clean_text, parse_camera_object, parse_object, plain_word


def nested(levels, inner="1"):
    return ('{"a":' * levels + inner + "}" * levels).encode()


def nested_lists(levels):
    return ('{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}").encode()


def test_parse_valid_object():
    assert parse_object(b' {"a": [1, 2.5, null, true, "\xc3\xa9"]}\n', max_bytes=100) == {
        "a": [1, 2.5, None, True, "é"]
    }


@pytest.mark.parametrize("size, is_accepted", [(16384, True), (16385, False)])
def test_parse_size_limit_is_exact(size, is_accepted):
    payload = b'{"a":"' + b"x" * (size - 8) + b'"}'
    assert len(payload) == size
    if is_accepted:
        assert parse_object(payload, max_bytes=16384)
    else:
        with pytest.raises(FieldError, match="16385 bytes, over the limit of 16384"):
            parse_object(payload, max_bytes=16384)


@pytest.mark.parametrize("build", [nested, nested_lists])
def test_parse_depth_limit_is_exact(build):
    assert parse_object(build(8), max_bytes=1000)
    with pytest.raises(FieldError, match="deeper than 8 levels"):
        parse_object(build(9), max_bytes=1000)


def test_parse_many_flat_brackets():
    assert len(parse_object(b'{"a":[' + b"[]," * 999 + b"[]]}", max_bytes=10_000)["a"]) == 1000


@pytest.mark.parametrize("levels", [200, 2700])
@pytest.mark.parametrize("build", [nested, nested_lists])
def test_parse_depth_bomb_is_refused(build, levels):
    with pytest.raises(FieldError):
        parse_object(build(levels), max_bytes=64 * 1024)


def test_parse_unclosed_brackets_are_refused():
    with pytest.raises(FieldError):
        parse_object(b"[" * 16384, max_bytes=16384)
    with pytest.raises(FieldError):
        parse_object(b'{"a":' * 3276, max_bytes=16384)


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[1e400]", "0." + "1" * 9 + "e500"]
)
def test_parse_non_finite_number_is_refused(number):
    with pytest.raises(FieldError, match="not JSON"):
        parse_object(f'{{"a": {number}}}'.encode(), max_bytes=1000)


def test_parse_huge_number_is_refused():
    with pytest.raises(FieldError):
        parse_object(b'{"a": ' + b"9" * 5000 + b"}", max_bytes=16384)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"null",
        b"true",
        b"1",
        b'"text"',
        b"[]",
        b'[{"a": 1}]',
        b"{",
        b'{"a"}',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1} {"b": 2}',
        b'{"a": 01}',
        b'{"a": +1}',
        b'{"a": 0x10}',
        b'{"a": "\n"}',
        b'{"a": "\\x00"}',
        b"\xef\xbb\xbf{}",
        b'{"a": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\xc0\xaf"}',
        b"// {}\n{}",
    ],
)
def test_parse_invalid_payload_is_refused(payload):
    with pytest.raises(FieldError):
        parse_object(payload, max_bytes=1000)


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b" \r\n", b"\xef\xbb\xbf \t", b"\0"], ids=repr)
@pytest.mark.parametrize("after", [b"", b"\0", bytes(300), b"\r\n\0", b" \0 \0", b"\v\f"], ids=repr)
def test_padding_around_a_camera_object_is_ignored(before, after):
    assert parse_camera_object(before + b'{"a": "x"}' + after, max_bytes=1000) == {"a": "x"}


@pytest.mark.parametrize(
    "payload", [b'{"a":"x\0y"}', b'{"a":1}\0{"b":2}', b"\0", b"{}\xef\xbb\xbf", bytes(1001)], ids=repr
)
def test_other_zero_bytes_are_refused(payload):
    with pytest.raises(FieldError):
        parse_camera_object(payload, max_bytes=1000)


def test_plain_word_is_returned_if_short_and_alone():
    words = [b"Offline", b"OFFLINE\0", b' "offline"\r\n', b"0", b"off line", b"{}", b"", b"x" * 65, b"\xff", b'""']
    assert [plain_word(word) for word in words] == ["offline", "offline", "offline", "0", "", "", "", "", "", ""]


@given(st.binary(max_size=200))
def test_parse_any_camera_bytes_is_object_or_error(payload):
    try:
        value = parse_camera_object(payload, max_bytes=150)
    except FieldError:
        return
    assert isinstance(value, dict)


@given(st.binary(max_size=200))
def test_parse_any_bytes_is_object_or_error(payload):
    try:
        value = parse_object(payload, max_bytes=150)
    except FieldError:
        return
    assert isinstance(value, dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


def depth(value):
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth, children), default=0)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), st.integers(1, 6))
def test_parse_counts_depth_correctly(value, limit):
    payload = json.dumps(value).encode()
    if depth(value) <= limit:
        assert parse_object(payload, max_bytes=100_000, max_depth=limit) == value
    else:
        with pytest.raises(FieldError, match="nested deeper"):
            parse_object(payload, max_bytes=100_000, max_depth=limit)


@pytest.mark.parametrize(
    "value, expected",
    [
        ("  plain  ", "plain"),
        ("ümlaut 日本", "ümlaut 日本"),
        ("a\x00b\x1bc\r\nd\x7fe\x85f", "abcdef"),
        ("a\ud800b\udfffc", "abc"),
        ("a\u202eb\u2028c\u200bd", "abcd"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("", None),
        ("   ", None),
        ("\r\n\t", None),
        (None, None),
        (5, None),
        (["a"], None),
        ({"a": 1}, None),
        (True, None),
        (b"bytes", None),
    ],
)
def test_clean_text_removes_unsafe_characters(value, expected):
    assert clean_text(value) == expected


def test_clean_text_is_bounded():
    assert clean_text("x" * 500) == "x" * 128
    assert clean_text("x" * 500, max_chars=40) == "x" * 40


@given(st.text())
def test_clean_text_can_be_stored_and_shown(value):
    text = clean_text(value)
    assert text is None or (text.isprintable() and text.encode("utf-8") and len(text) <= 128)


@pytest.mark.parametrize(
    "value, expected",
    [
        (-127, -127),
        (0, 0),
        (-60.5, -60.5),
        (1, None),
        (-128, None),
        (10**400, None),
        (-(10**400), None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        (False, None),
        ("-60", None),
        (None, None),
        ([-60], None),
    ],
)
def test_clean_number_outside_range_is_none(value, expected):
    assert clean_number(value, low=-127, high=0) == expected
