"""MAC addresses: many spellings, one device."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac, MacField, may_be_same_chip, parse_mac, try_mac

CANONICAL = "24:6F:28:B0:F7:F1"


@pytest.mark.parametrize(
    "spelling",
    [
        "24:6F:28:B0:F7:F1",
        "24:6f:28:b0:f7:f1",
        "24-6F-28-b0-f7-f1",
        "24_6f_28_b0_f7_f1",
        "24 6f 28 b0 f7 f1",
        "246F28B0F7F1",
        "246f28b0f7f1",
        "246f.28b0.f7f1",
    ],
)
def test_parse_usual_spellings(spelling):
    assert parse_mac(spelling) == CANONICAL


@pytest.mark.parametrize(
    "spelling", ["24:6F:28:8:0:1", "24:6f:28:8:0:1", "24-6F-28-08-0-1", "24_6f_28_8_00_1", "24 6f 28 8 0 01"]
)
def test_parse_groups_without_leading_zeros(spelling):
    assert parse_mac(spelling) == "24:6F:28:08:00:01"


def test_first_group_without_leading_zero():
    assert parse_mac("4:6F:28:0:0:1") == "04:6F:28:00:00:01"
    assert try_mac("1:6F:28:0:0:1") is None, "a multicast address"
    assert try_mac("0:0:0:0:0:0") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "246F2880001",
        "24:6F:28:800:0:1",
        "24:6F:28:8::1",
        "24:6F:28:8:0:",
        "24.6F.28.8.0.1",
        "24:6F:28:B0:F7",
        "24:6F:28:B0:F7:F1:00",
        "24:6F-28:B0:F7:F1",
        "24:6F:28:B0:F7:G1",
        "246F28B0F7F",
        "246F28B0F7F12",
        "24:6F:28:B0:F7:F1\n",
        " 24:6F:28:B0:F7:F1",
        "24::6F:28:B0:F7:F1",
        "2:46F:28:B0:F7:F1",
        "24:6F:28:B0:F7:F\x00",
        "２４:6F:28:B0:F7:F1",
        "0x246F28B0F7F1",
        "espcam-b0f7f1",
        "24%3A6F%3A28%3AB0%3AF7%3AF1",
    ],
)
def test_parse_other_text_is_refused(text):
    with pytest.raises(FieldError, match="is not a MAC address"):
        parse_mac(text)


@pytest.mark.parametrize("value", [None, 0, 0x246F28B0F7F1, True, b"246F28B0F7F1", ["24"], {}])
def test_parse_other_type_is_refused(value):
    with pytest.raises(FieldError):
        parse_mac(value)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("00:00:00:00:00:00", "all-zero"),
        ("FF:FF:FF:FF:FF:FF", "multicast or broadcast"),
        ("01:00:5E:00:00:01", "multicast or broadcast"),
        ("33:33:00:00:00:01", "multicast or broadcast"),
    ],
)
def test_parse_non_device_mac_is_refused(text, reason):
    with pytest.raises(FieldError, match=reason):
        parse_mac(text)
    assert try_mac(text) is None


def test_parse_local_mac_is_accepted():
    assert parse_mac("02:00:00:00:00:01") == "02:00:00:00:00:01"


def test_long_text_is_cut_in_error():
    with pytest.raises(FieldError) as caught:
        parse_mac("A" * 10_000)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("last, is_candidate", [("F1", False), ("F2", True), ("F4", True), ("F5", False), ("EE", True)])
def test_macs_up_to_3_apart_may_be_same_chip(last, is_candidate):
    assert may_be_same_chip(Mac(CANONICAL), Mac(f"{CANONICAL[:-2]}{last}")) is is_candidate


def test_same_chip_macs_across_byte_boundary():
    assert may_be_same_chip(Mac("24:6F:28:B0:F7:FF"), Mac("24:6F:28:B0:F8:01"))


def test_mac_field_takes_any_spelling():
    field = TypeAdapter(MacField)
    assert field.validate_python("246f.28b0.f7f1") == CANONICAL
    with pytest.raises(ValidationError):
        field.validate_python("ff:ff:ff:ff:ff:ff")


PATTERN = re.compile(TypeAdapter(MacField).json_schema(mode="validation")["pattern"].removesuffix("$") + r"\Z")
BYTE = st.sampled_from(["00", "01", "02", "24", "6f", "FF", "b0", "3", "0", "8"])


@given(st.lists(BYTE, min_size=5, max_size=7), st.sampled_from([":", "-", "_", " ", "", ".", "::"]), st.booleans())
def test_schema_pattern_matches_parser(parts, separator, dotted):
    text = separator.join(parts)
    if dotted and len(parts) == 6:
        text = ".".join(parts[i] + parts[i + 1] for i in (0, 2, 4))
    assert bool(PATTERN.match(text)) is (try_mac(text) is not None)


@given(st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.from_regex(r"[0-9A-Fa-f:.\-]{0,20}")))
def test_parse_any_value_is_mac_or_error(value):
    try:
        mac = parse_mac(value)
    except FieldError:
        return
    assert parse_mac(mac) == mac
    assert len(mac) == 17


@given(st.binary(min_size=6, max_size=6).filter(lambda raw: not raw[0] & 1 and any(raw)))
def test_spellings_of_same_bytes_agree(raw):
    digits = raw.hex()
    expected = raw.hex(":").upper()
    dotted = ".".join(digits[i : i + 4] for i in (0, 4, 8))
    short = "-".join(f"{byte:x}" for byte in raw)
    for spelling in (digits, digits.upper(), raw.hex(":"), raw.hex("-").upper(), dotted, short):
        assert parse_mac(spelling) == expected
