"""What nmcli prints, and what others may make it print."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain.nmcli import LIST_FIELDS, heard, rows, split, wifi_states
from tests.support.programs import LISTED, STATES


def line(*, device="wlan1", in_use=" ", name="Office", bssid="3C:84:6A:11:22:30", **more):
    fields = {"frequency": "2437 MHz", "signal": "70", "security": "WPA2"} | more
    hexed = name if isinstance(name, str) and name.startswith("0x") else name.encode().hex().upper()
    return ":".join([device, in_use, hexed.removeprefix("0x"), bssid.replace(":", r"\:"), *fields.values()])


def test_states_of_wifi_interfaces_alone():
    assert wifi_states(STATES) == {"wlan0": "unmanaged", "wlan1": "connected"}
    assert wifi_states("") == {}


def test_the_list_as_it_is_printed():
    first, second, third = heard(LISTED)
    assert (first.interface, first.joined) == ("wlan1", True)
    assert first.network.bssid == "3C:84:6A:11:22:30"
    assert (first.network.ssid, first.network.security) == ("Office", "WPA2/WPA3")
    assert (first.network.frequency_mhz, first.network.channel) == (2437, 6)
    assert (first.network.signal_dbm, first.network.quality) == (-58, 70)
    assert (second.network.ssid, second.network.security, second.network.channel) == ("Café :\\", "Open", 36)
    assert (third.joined, third.network.ssid) == (False, "")
    assert third.network.security == "WPA/WPA2 Enterprise"


@pytest.mark.parametrize(
    "security, said",
    [
        ("", "Open"),
        ("WEP", "WEP"),
        ("WPA1", "WPA"),
        ("WPA3 802.1X", "WPA3 Enterprise"),
        ("OWE", "OWE"),
        ("WPA9", "WPA9"),
    ],
)
def test_the_words_for_security_are_those_of_beacons(security, said):
    assert heard(line(security=security))[0].network.security == said


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "wlan1",
        line(bssid="nonsense"),
        line(bssid="FF:FF:FF:FF:FF:FF"),
        line(signal=""),
        line(signal="many"),
        line(signal="-5"),
        line() + ":more",
        "Error: NetworkManager is not running.",
    ],
)
def test_a_line_that_makes_no_sense_is_no_network(broken):
    assert [one.network.bssid for one in heard(f"{broken}\n{line()}\n")] == ["3C:84:6A:11:22:30"]


@pytest.mark.parametrize("name", ["0x", "0x00000000", "0xZZ", "0x" + "41" * 33, "0x1B"])
def test_a_name_that_is_hidden_or_none_is_empty(name):
    assert heard(line(name=name))[0].network.ssid == ""


def test_a_name_may_hold_anything_and_invents_nothing():
    hostile = "x\nwlan9:*:41:3C\\:84"
    (one,) = heard(line(name=hostile))
    assert one.network.ssid == "xwlan9:*:41:3C\\:84"
    assert heard(line(frequency="junk"))[0].network.frequency_mhz == 0


@given(st.lists(st.text(st.characters(exclude_characters="\n")), min_size=1, max_size=8))
def test_what_was_escaped_comes_out(fields):
    escaped = ":".join(field.replace("\\", r"\\").replace(":", r"\:") for field in fields)
    assert split(escaped) == fields
    assert rows(f"{escaped}\n", len(fields))[0] == fields


@given(st.text())
def test_any_text_can_be_taken_apart(text):
    assert all(len(fields) == len(LIST_FIELDS) for fields in rows(text, len(LIST_FIELDS)))
    assert len(heard(text)) <= text.count("\n") + 1
    wifi_states(text)
