"""WiFi networks: channels, signals, and what beacons say, as access points and as anybody else may write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain.wlan import (
    WifiNetwork,
    channel_of,
    elements,
    quality_of,
    security_in,
    security_words,
    signal_of,
    ssid_in,
)

RSN, MICROSOFT = "000fac", "0050f2"


def element(kind, value):
    return bytes([kind, len(value)]) + value


def suites(maker, *numbers):
    return len(numbers).to_bytes(2, "little") + b"".join(bytes.fromhex(maker) + bytes([n]) for n in numbers)


def rsn(*keys, pairwise=(4,)):
    """A robust security network: CCMP, and these suites of key management."""
    return element(48, b"\x01\0" + bytes.fromhex(f"{RSN}04") + suites(RSN, *pairwise) + suites(RSN, *keys) + b"\0\0")


def wpa(*keys):
    head = bytes.fromhex("0050f201") + b"\x01\0" + bytes.fromhex(f"{MICROSOFT}02")
    return element(221, head + suites(MICROSOFT, 2) + suites(MICROSOFT, *keys))


def name(raw):
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
def test_a_frequency_is_a_channel_of_its_band(frequency, channel):
    assert channel_of(frequency) == channel


@pytest.mark.parametrize("signal, quality", [(-100, 0), (-70, 50), (-40, 100), (-120, 0), (-3, 100)])
def test_signal_in_per_cent_as_networkmanager_counts(signal, quality):
    assert quality_of(signal) == quality


@given(st.integers(-100, -40))
def test_per_cent_and_back_is_the_same_signal(signal):
    assert signal_of(quality_of(signal)) == signal


def test_what_nobody_measured_has_no_quality():
    assert WifiNetwork("24:6F:28:00:00:10", "x", 2437, None, "Open").quality == 0


@pytest.mark.parametrize(
    "data, capabilities, said",
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
        (name(b"x") + rsn(2), 0x11, "WPA2"),
        (rsn(200), 0x11, "WPA2"),
        (element(48, b"\x01\0"), 0x11, "WPA2"),
        (element(48, b""), 0, "WPA2"),
        (element(221, bytes.fromhex("0050f204") + b"\x10"), 0, "Open"),
        (rsn(2)[:-3], 0x10, "WEP"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else str(value),
)
def test_how_a_network_is_guarded(data, capabilities, said):
    assert security_in(data, capabilities=capabilities) == said


def test_a_count_that_promises_more_than_there_is_ends_where_the_element_does():
    many = element(48, b"\x01\0" + bytes.fromhex(f"{RSN}04") + b"\xff\xff" + bytes.fromhex(f"{RSN}04") * 3)
    assert security_in(many, capabilities=0) == "WPA2"
    short = element(48, b"\x01\0" + bytes.fromhex(f"{RSN}04") + suites(RSN, 4) + b"\x05\0" + bytes.fromhex(f"{RSN}08"))
    assert security_in(short, capabilities=0) == "WPA3"


@pytest.mark.parametrize(
    "data, raw",
    [
        (name(b"Office"), b"Office"),
        (rsn(2) + name(b"Office"), b"Office"),
        (name(b""), b""),
        (name(b"\0" * 6), b""),
        (name(b"caf\xe9"), b"caf\xe9"),
        (b"", b""),
        (b"\0\x20Offi", b""),
        (name(b"one") + name(b"two"), b"one"),
    ],
)
def test_a_name_is_its_bytes_and_a_hidden_one_is_none(data, raw):
    assert ssid_in(data) == raw


def test_words_stand_in_the_order_of_their_age():
    assert security_words(["WPA3", "WPA2", ""], enterprise=False) == "WPA2/WPA3"
    assert security_words([""], enterprise=True) == "Open"


@given(st.binary(max_size=300), st.integers(0, 0xFFFF))
def test_any_bytes_can_be_taken_apart(data, capabilities):
    assert sum(len(value) + 2 for _, value in elements(data)) <= len(data)
    assert len(ssid_in(data)) <= 255
    words = security_in(data, capabilities=capabilities).removesuffix(" Enterprise").split("/")
    assert set(words) <= {"Open", "WEP", "WPA", "WPA2", "WPA3", "OWE"}


@given(st.lists(st.sampled_from([1, 2, 6, 8, 12, 18, 77]), max_size=8), st.data())
def test_a_cut_never_makes_a_network_look_open_that_said_how_it_is_guarded(keys, data):
    whole = rsn(*keys)
    cut = data.draw(st.integers(2, len(whole)))
    value = whole[2:cut]
    assert security_in(element(48, value), capabilities=0) != "Open"


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8), st.data())
def test_what_was_packed_comes_out_and_a_cut_loses_only_what_it_cuts(pairs, data):
    packed = b"".join(element(kind, value) for kind, value in pairs)
    assert list(elements(packed)) == pairs
    cut = data.draw(st.integers(0, len(packed)))
    kept = list(elements(packed[:cut]))
    assert kept == pairs[: len(kept)]
