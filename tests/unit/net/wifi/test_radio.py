"""Wireless interfaces and scan results, from nl80211 messages of a simulated kernel."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.nl80211 import nl80211cmd

from pi_orchestrator.net.wifi import nl80211
from pi_orchestrator.net.wifi import radio as wireless
from pi_orchestrator.net.wifi.nl80211 import Interface, Radio, decode_bss, decode_interface
from pi_orchestrator.net.wifi.radio import Wireless
from tests.support.wireless import (
    ATTR_BSS,
    ATTR_IFINDEX,
    DUMP,
    INDEX,
    MAC,
    OTHER,
    Kernel,
    bss,
    encoded,
    interface,
    station,
    tlv,
)

WPA2 = bytes.fromhex("30140100000fac040100000fac040100000fac020000")


@pytest.fixture
async def wireless_of():
    """`wireless_of(kernel)` → a Wireless that sends its requests to this kernel."""
    kernels = set()

    def make(kernel):
        kernels.add(kernel)
        return Wireless(new_socket=kernel.new_socket)

    yield make
    for kernel in kernels:
        kernel.close()


async def test_interfaces_have_kind_and_name(wireless_of):
    kernel = Kernel(interface=[interface(), interface("station", ssid=b"Office", index=4, name="wlan1")])
    found = await wireless_of(kernel).interfaces()
    assert found == (
        Interface(3, "wlan0", Radio("ap", "DeliCasa", 2437)),
        Interface(4, "wlan1", Radio("station", "Office", 2437)),
    )
    ((command, index, flags),) = kernel.requests
    assert (command, index, flags & DUMP) == (nl80211.GET_INTERFACE, None, DUMP)


@pytest.mark.parametrize(
    "kernel, found, reason",
    [
        (Kernel(family=False), (), "no wireless driver: this kernel has no nl80211"),
        (Kernel(interface=[]), (), "no wireless interface found"),
        (Kernel(interface=[encoded(nl80211.NEW_INTERFACE, [("IFINDEX", INDEX)])]), (), "no wireless interface found"),
        (Kernel(interface=errno.EPERM), None, "nl80211 not available: Operation not permitted"),
        (Kernel(interface=None), None, "nl80211 did not answer within 0.2 s"),
    ],
    ids=["no nl80211", "no interface", "no type", "no permission", "no answer"],
)
async def test_missing_interface_has_reason(wireless_of, monkeypatch, kernel, found, reason):
    monkeypatch.setattr(wireless, "ANSWER_TIMEOUT_S", 0.2)
    wireless_interfaces = wireless_of(kernel)
    assert (await wireless_interfaces.interfaces(), wireless_interfaces.reason) == (found, reason)


async def test_missing_pyroute2_sets_reason(monkeypatch):
    def fail():
        raise ImportError("no module named pyroute2")

    monkeypatch.setattr(wireless, "_load_library", fail)
    wireless_interfaces = Wireless()
    assert await wireless_interfaces.interfaces() is None
    assert wireless_interfaces.reason == "nl80211 not available: no module named pyroute2"


async def test_signal_of_joined_access_point(wireless_of):
    assert await wireless_of(Kernel(stations=[station(OTHER, SIGNAL=-61)])).signal(4) == -61
    assert await wireless_of(Kernel(stations=[])).signal(4) is None
    assert await wireless_of(Kernel(stations=errno.EOPNOTSUPP)).signal(4) is None


async def test_scan_results_are_read(wireless_of):
    kernel = Kernel(scan_results=[bss(elements=WPA2, joined=True), bss(MAC, name=b"", frequency=5180, seen_ms=41_000)])
    office, hidden = await wireless_of(kernel).scan_results(4)
    assert (office.network.ssid, office.network.bssid, office.network.channel) == ("Office", OTHER, 6)
    assert (office.network.signal_dbm, office.network.quality, office.network.security) == (-58, 70, "WPA2")
    assert (office.joined, office.seen_s) == (True, 0.5)
    assert (hidden.network.ssid, hidden.network.channel, hidden.network.security) == ("", 36, "WEP")
    assert (hidden.joined, hidden.seen_s) == (False, 41.0)
    ((command, index, flags),) = kernel.requests
    assert (command, index, flags & DUMP) == (nl80211.GET_SCAN, 4, DUMP)


async def test_results_are_limited(wireless_of, monkeypatch):
    monkeypatch.setattr(wireless, "MAX_NETWORKS", 5)
    monkeypatch.setattr(wireless, "MAX_INTERFACES", 2)
    kernel = Kernel(
        scan_results=[bss(f"24:6F:28:00:00:{n:02X}") for n in range(20)],
        interface=[interface(index=n) for n in range(1, 9)],
    )
    assert len(await wireless_of(kernel).scan_results(4)) == 5
    assert len(await wireless_of(kernel).interfaces()) == 2


async def test_scan_results_without_permission_are_empty(wireless_of):
    wireless_interfaces = wireless_of(Kernel(scan_results=errno.EPERM))
    assert await wireless_interfaces.scan_results(4) == ()
    assert wireless_interfaces.reason == "nl80211 not available: Operation not permitted"


@pytest.mark.parametrize(
    "attrs, signal",
    [
        ({"MBM": -5849}, -58),
        ({"MBM": None, "UNSPEC": 70}, -58),
        ({"MBM": -4000, "UNSPEC": 1}, -40),
        ({"MBM": None}, None),
        ({"MBM": 0}, None),
        ({"MBM": 300}, None),
    ],
)
def test_signal_is_converted_to_dbm(attrs, signal):
    assert decode_bss(bss(**attrs)[4:]).network.signal_dbm == signal


@pytest.mark.parametrize(
    "raw, shown",
    [
        ("Küche ☕".encode(), "Küche ☕"),
        (b"caf\xe9", "caf\N{REPLACEMENT CHARACTER}"),
        (b"x\x1b[2J\ny", "x[2Jy"),
        (b"\0\0\0\0", ""),
        (b"a" * 33, ""),
        (None, ""),
    ],
)
def test_ssid_is_clean(raw, shown):
    assert decode_bss(bss(name=raw)[4:]).network.ssid == shown


def test_ssid_falls_back_to_beacon():
    assert decode_bss(bss(name=b"", beacon=b"\0\x06Office")[4:]).network.ssid == "Office"


@pytest.mark.parametrize("mac", ["00:00:00:00:00:00", "FF:FF:FF:FF:FF:FF", "01:00:5E:00:00:FB"])
def test_invalid_bssid_is_rejected(mac):
    assert decode_bss(bss(mac)[4:]) is None


def test_incomplete_message_is_rejected():
    assert decode_bss(b"") is None
    assert decode_bss(tlv(ATTR_BSS, b"")) is None
    assert decode_interface(b"") is None
    assert (
        decode_interface(tlv(ATTR_IFINDEX, struct.pack("=I", 4)) + tlv(nl80211._ATTR_IFTYPE, struct.pack("=I", 2)))
        is None
    )


@given(st.binary(max_size=300))
def test_any_bytes_never_raise(data):
    decode_bss(data)
    decode_bss(tlv(ATTR_BSS, data))
    decode_interface(data)


@given(st.binary(max_size=80), st.integers(0, 255))
def test_damaged_message_never_raises(noise, offset):
    data = bytearray(bss(elements=WPA2)[4:])
    data[offset % len(data) : offset % len(data) + len(noise)] = noise
    found = decode_bss(bytes(data))
    assert found is None or found.network.ssid.isprintable()


def test_constants_equal_pyroute2():
    numbers = {name: number for number, (name, *_) in enumerate(nl80211cmd.nla_map)}
    assert numbers["NL80211_ATTR_BSS"] == nl80211._ATTR_BSS
    assert numbers["NL80211_ATTR_IFNAME"] == nl80211._ATTR_IFNAME
    bss_numbers = {
        name.removeprefix("NL80211_BSS_"): number for number, (name, *_) in enumerate(nl80211cmd.bss.nla_map)
    }
    expected = {
        "BSSID": nl80211._BSS_BSSID,
        "FREQUENCY": nl80211._BSS_FREQUENCY,
        "CAPABILITY": nl80211._BSS_CAPABILITY,
        "INFORMATION_ELEMENTS": nl80211._BSS_ELEMENTS,
        "SIGNAL_MBM": nl80211._BSS_SIGNAL_MBM,
        "SIGNAL_UNSPEC": nl80211._BSS_SIGNAL_UNSPEC,
        "STATUS": nl80211._BSS_STATUS,
        "SEEN_MS_AGO": nl80211._BSS_SEEN_MS,
        "BEACON_IES": nl80211._BSS_BEACON_ELEMENTS,
    }
    assert {name: bss_numbers[name] for name in expected} == expected
