"""Parsing of nmcli output, also with hostile SSIDs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.net.wifi.nmcli import LIST_FIELDS, rows, split, wifi_networks, wifi_states
from tests.support.programs import DEVICE_STATES, WIFI_LIST


def line(*, device="wlan1", in_use=" ", name="Office", bssid="3C:84:6A:11:22:30", **more):
    """One network as nmcli prints it; a `name` that begins with 0x is the SSID in hexadecimal."""
    fields = {"frequency": "2437 MHz", "signal": "70", "security": "WPA2"} | more
    ssid_hex = name if name.startswith("0x") else name.encode().hex().upper()
    return ":".join([device, in_use, ssid_hex.removeprefix("0x"), bssid.replace(":", r"\:"), *fields.values()])


def test_states_of_wifi_interfaces():
    assert wifi_states(DEVICE_STATES) == {"wlan0": "unmanaged", "wlan1": "connected"}
    assert wifi_states("") == {}


def test_network_list_is_parsed():
    first, second, third = wifi_networks(WIFI_LIST)
    assert (first.interface, first.joined) == ("wlan1", True)
    assert first.network.bssid == "3C:84:6A:11:22:30"
    assert (first.network.ssid, first.network.security) == ("Office", "WPA2/WPA3")
    assert (first.network.frequency_mhz, first.network.channel) == (2437, 6)
    assert (first.network.signal_dbm, first.network.quality) == (-58, 70)
    assert (second.network.ssid, second.network.security, second.network.channel) == ("Café :\\", "Open", 36)
    assert (third.joined, third.network.ssid) == (False, "")
    assert third.network.security == "WPA/WPA2 Enterprise"


@pytest.mark.parametrize(
    "security, shown",
    [
        ("", "Open"),
        ("WEP", "WEP"),
        ("WPA1", "WPA"),
        ("WPA3 802.1X", "WPA3 Enterprise"),
        ("OWE", "OWE"),
        ("WPA9", "WPA9"),
    ],
)
def test_security_of_nmcli_is_named_as_in_kernel_scans(security, shown):
    assert wifi_networks(line(security=security))[0].network.security == shown


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
def test_invalid_line_is_skipped(broken):
    assert [row.network.bssid for row in wifi_networks(f"{broken}\n{line()}\n")] == ["3C:84:6A:11:22:30"]


@pytest.mark.parametrize("name", ["0x", "0x00000000", "0xZZ", "0x" + "41" * 33, "0x1B"])
def test_hidden_or_invalid_ssid_is_empty(name):
    assert wifi_networks(line(name=name))[0].network.ssid == ""


def test_hostile_ssid_adds_no_network():
    hostile = "x\nwlan9:*:41:3C\\:84"
    (row,) = wifi_networks(line(name=hostile))
    assert row.network.ssid == "xwlan9:*:41:3C\\:84"
    assert wifi_networks(line(frequency="junk"))[0].network.frequency_mhz == 0


@given(st.lists(st.text(st.characters(exclude_characters="\n")), min_size=1, max_size=8))
def test_any_escaped_fields_are_split(fields):
    escaped = ":".join(field.replace("\\", r"\\").replace(":", r"\:") for field in fields)
    assert split(escaped) == fields
    assert rows(f"{escaped}\n", len(fields))[0] == fields


@given(st.text())
def test_any_text_never_raises(text):
    assert all(len(fields) == len(LIST_FIELDS) for fields in rows(text, len(LIST_FIELDS)))
    assert len(wifi_networks(text)) <= text.count("\n") + 1
    wifi_states(text)
