"""WiFi networks: channels, signal strength, and information elements, valid and invalid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.net.wifi.networks import (
    WifiNetwork,
    channel_of,
    elements,
    parse_security,
    parse_ssid,
    quality_of,
    security_name,
    signal_of,
)

RSN_OUI, MICROSOFT_OUI = "000fac", "0050f2"


def element(kind, value):
    return bytes([kind, len(value)]) + value


def suites(vendor, *numbers):
    """A list of cipher or key management suites: its length, then OUI and number of each."""
    return len(numbers).to_bytes(2, "little") + b"".join(bytes.fromhex(vendor) + bytes([n]) for n in numbers)


def rsn(*keys, pairwise=(4,)):
    """An RSN element with CCMP and these key management suites."""
    return element(
        48, b"\x01\0" + bytes.fromhex(f"{RSN_OUI}04") + suites(RSN_OUI, *pairwise) + suites(RSN_OUI, *keys) + b"\0\0"
    )


def wpa(*keys):
    """A WPA element with TKIP and these key management suites."""
    head = bytes.fromhex("0050f201") + b"\x01\0" + bytes.fromhex(f"{MICROSOFT_OUI}02")
    return element(221, head + suites(MICROSOFT_OUI, 2) + suites(MICROSOFT_OUI, *keys))


def ssid(raw):
    return element(0, raw)


@pytest.mark.parametrize(
    "frequency, channel",
    [
        *((2412, 1), (2437, 6), (2472, 13), (2484, 14)),
        *((5180, 36), (5745, 149), (5885, 177)),
        *((5935, 2), (5955, 1), (6115, 33), (7115, 233)),
        *((0, 0), (2400, 0), (5900, 0), (60480, 0), (-5, 0)),
    ],
)
def test_channel_of_frequency(frequency, channel):
    assert channel_of(frequency) == channel


@pytest.mark.parametrize("signal, quality", [(-100, 0), (-70, 50), (-40, 100), (-120, 0), (-3, 100)])
def test_quality_of_signal(signal, quality):
    assert quality_of(signal) == quality


@given(st.integers(-100, -40))
def test_signal_of_quality_is_inverse(signal):
    assert signal_of(quality_of(signal)) == signal


def test_unknown_signal_has_quality_zero():
    assert WifiNetwork("24:6F:28:00:00:10", "x", 2437, None, "Open").quality == 0


@pytest.mark.parametrize(
    "data, capabilities, security",
    [
        (b"", 0, "Open"),
        (b"", 0x10, "WEP"),
        (rsn(2), 0x11, "WPA2"),
        (rsn(6), 0x11, "WPA2"),
        (rsn(8), 0x11, "WPA3"),
        (rsn(2, 8), 0x11, "WPA2/WPA3"),
        (rsn(24, pairwise=(4, 8, 9)), 0x11, "WPA3"),
        (rsn(18), 0x11, "OWE"),
        (rsn(1), 0x11, "WPA2 Enterprise"),
        (rsn(5, 12), 0x11, "WPA2/WPA3 Enterprise"),
        (rsn(12), 0x11, "WPA3 Enterprise"),
        (wpa(2), 0x11, "WPA"),
        (wpa(1), 0x11, "WPA Enterprise"),
        (wpa(2) + rsn(2), 0x11, "WPA/WPA2"),
        (ssid(b"x") + rsn(2), 0x11, "WPA2"),
        (rsn(200), 0x11, "WPA2"),
        (element(48, b"\x01\0"), 0x11, "WPA2"),
        (element(48, b""), 0, "WPA2"),
        (element(221, bytes.fromhex("0050f204") + b"\x10"), 0, "Open"),
        (rsn(2)[:-3], 0x10, "WEP"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else str(value),
)
def test_security_of_elements(data, capabilities, security):
    assert parse_security(data, capabilities=capabilities) == security


def test_suite_count_beyond_end_is_limited():
    too_many_ciphers = element(
        48, b"\x01\0" + bytes.fromhex(f"{RSN_OUI}04") + b"\xff\xff" + bytes.fromhex(f"{RSN_OUI}04") * 3
    )
    assert parse_security(too_many_ciphers, capabilities=0) == "WPA2"
    too_many_keys = element(
        48, b"\x01\0" + bytes.fromhex(f"{RSN_OUI}04") + suites(RSN_OUI, 4) + b"\x05\0" + bytes.fromhex(f"{RSN_OUI}08")
    )
    assert parse_security(too_many_keys, capabilities=0) == "WPA3"


@pytest.mark.parametrize(
    "data, raw",
    [
        (ssid(b"Office"), b"Office"),
        (rsn(2) + ssid(b"Office"), b"Office"),
        (ssid(b""), b""),
        (ssid(b"\0" * 6), b""),
        (ssid(b"caf\xe9"), b"caf\xe9"),
        (b"", b""),
        (b"\0\x20Offi", b""),
        (ssid(b"one") + ssid(b"two"), b"one"),
    ],
)
def test_ssid_of_elements(data, raw):
    assert parse_ssid(data) == raw


def test_security_name_is_oldest_first():
    assert security_name(["WPA3", "WPA2", ""], enterprise=False) == "WPA2/WPA3"
    assert security_name([""], enterprise=True) == "Open"


@given(st.binary(max_size=300), st.integers(0, 0xFFFF))
def test_any_bytes_never_raise(data, capabilities):
    assert sum(len(value) + 2 for _, value in elements(data)) <= len(data)
    assert len(parse_ssid(data)) <= 255
    kinds = parse_security(data, capabilities=capabilities).removesuffix(" Enterprise").split("/")
    assert set(kinds) <= {"Open", "WEP", "WPA", "WPA2", "WPA3", "OWE"}


@given(st.lists(st.sampled_from([1, 2, 6, 8, 12, 18, 77]), max_size=8), st.data())
def test_truncated_rsn_is_never_open(keys, data):
    whole = rsn(*keys)
    cut = data.draw(st.integers(2, len(whole)))
    value = whole[2:cut]
    assert parse_security(element(48, value), capabilities=0) != "Open"


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8), st.data())
def test_complete_elements_are_kept_if_data_is_truncated(pairs, data):
    packed = b"".join(element(kind, value) for kind, value in pairs)
    assert list(elements(packed)) == pairs
    cut = data.draw(st.integers(0, len(packed)))
    complete = list(elements(packed[:cut]))
    assert complete == pairs[: len(complete)]
