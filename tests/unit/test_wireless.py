"""The radios of this machine and what they heard, in nl80211's bytes, by a stand-in kernel."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.nl80211 import nl80211cmd

from pi_orchestrator.net import nl80211, wireless
from pi_orchestrator.net.nl80211 import Interface, Radio, decode_bss, decode_interface
from pi_orchestrator.net.wireless import Wireless
from tests.support.wireless import INDEX, MAC, OTHER, Kernel, bss, encoded, interface, station, tlv

WPA2 = bytes.fromhex("30140100000fac040100000fac040100000fac020000")


@pytest.fixture
async def asking():
    """`asking(kernel)` → who asks it."""
    kernels = set()

    def ask(kernel):
        kernels.add(kernel)
        return Wireless(new_socket=kernel.new_socket)

    yield ask
    for kernel in kernels:
        kernel.close()


async def test_every_interface_is_told_with_its_kind_and_name(asking):
    kernel = Kernel(interface=[interface(), interface("station", ssid=b"Office", index=4, name="wlan1")])
    found = await asking(kernel).interfaces()
    assert found == (
        Interface(3, "wlan0", Radio("ap", "DeliCasa", 2437)),
        Interface(4, "wlan1", Radio("station", "Office", 2437)),
    )
    ((command, index, flags),) = kernel.asked
    assert (command, index, flags & 0x300) == (nl80211.GET_INTERFACE, None, 0x300)


@pytest.mark.parametrize(
    "kernel, found, reason",
    [
        (Kernel(family=False), (), "no wireless driver: this kernel has no nl80211"),
        (Kernel(interface=[]), (), "there is no wireless interface"),
        (Kernel(interface=[encoded(7, [("IFINDEX", INDEX)])]), (), "there is no wireless interface"),
        (Kernel(interface=errno.EPERM), None, "nl80211 cannot be asked: Operation not permitted"),
        (Kernel(interface=None), None, "nl80211 did not answer within 0.2 s"),
    ],
    ids=["no family", "none", "no kind", "refused", "silence"],
)
async def test_why_there_is_no_interface(asking, monkeypatch, kernel, found, reason):
    monkeypatch.setattr(wireless, "ANSWER_WITHIN_S", 0.2)
    radios = asking(kernel)
    assert (await radios.interfaces(), radios.reason) == (found, reason)


async def test_without_the_library_nobody_can_tell(monkeypatch):
    def gone():
        raise ImportError("no module named pyroute2")

    monkeypatch.setattr(wireless, "_load_library", gone)
    radios = Wireless()
    assert await radios.interfaces() is None
    assert radios.reason == "nl80211 cannot be asked: no module named pyroute2"


async def test_the_signal_of_the_access_point_that_was_joined(asking):
    assert await asking(Kernel(stations=[station(OTHER, SIGNAL=-61)])).signal(4) == -61
    assert await asking(Kernel(stations=[])).signal(4) is None
    assert await asking(Kernel(stations=errno.EOPNOTSUPP)).signal(4) is None


async def test_what_was_heard_and_when(asking):
    kernel = Kernel(heard=[bss(elements=WPA2, joined=True), bss(MAC, name=b"", frequency=5180, seen_ms=41_000)])
    one, other = await asking(kernel).heard(4)
    assert (one.network.ssid, one.network.bssid, one.network.channel) == ("Office", OTHER, 6)
    assert (one.network.signal_dbm, one.network.quality, one.network.security) == (-58, 70, "WPA2")
    assert (one.joined, one.seen_s) == (True, 0.5)
    assert (other.network.ssid, other.network.channel, other.network.security) == ("", 36, "WEP")
    assert (other.joined, other.seen_s) == (False, 41.0)
    ((command, index, flags),) = kernel.asked
    assert (command, index, flags & 0x300) == (nl80211.GET_SCAN, 4, 0x300)


async def test_no_more_is_kept_than_one_can_read(asking, monkeypatch):
    monkeypatch.setattr(wireless, "MAX_NETWORKS", 5)
    monkeypatch.setattr(wireless, "MAX_INTERFACES", 2)
    kernel = Kernel(
        heard=[bss(f"24:6F:28:00:00:{n:02X}") for n in range(20)], interface=[interface(index=n) for n in range(1, 9)]
    )
    assert len(await asking(kernel).heard(4)) == 5
    assert len(await asking(kernel).interfaces()) == 2


async def test_an_interface_that_may_not_be_asked_has_heard_nothing(asking):
    radios = asking(Kernel(heard=errno.EPERM))
    assert await radios.heard(4) == ()
    assert radios.reason == "nl80211 cannot be asked: Operation not permitted"


@pytest.mark.parametrize(
    "told, signal",
    [
        ({"MBM": -5849}, -58),
        ({"MBM": None, "UNSPEC": 70}, -58),
        ({"MBM": -4000, "UNSPEC": 1}, -40),
        ({"MBM": None}, None),
        ({"MBM": 0}, None),
        ({"MBM": 300}, None),
    ],
)
def test_a_signal_in_either_unit_is_in_dbm(told, signal):
    assert decode_bss(bss(**told)[4:]).network.signal_dbm == signal


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
def test_a_name_is_safe_to_show(raw, shown):
    assert decode_bss(bss(name=raw)[4:]).network.ssid == shown


def test_a_name_that_only_the_beacon_tells_is_taken_from_there():
    assert decode_bss(bss(name=b"", beacon=b"\0\x06Office")[4:]).network.ssid == "Office"


@pytest.mark.parametrize("mac", ["00:00:00:00:00:00", "FF:FF:FF:FF:FF:FF", "01:00:5E:00:00:FB"])
def test_what_no_access_point_can_be_called_is_none(mac):
    assert decode_bss(bss(mac)[4:]) is None


def test_a_message_without_its_parts_is_nothing():
    assert decode_bss(b"") is None
    assert decode_bss(tlv(47, b"")) is None
    assert decode_interface(b"") is None
    assert decode_interface(tlv(3, struct.pack("=I", 4)) + tlv(5, struct.pack("=I", 2))) is None


@given(st.binary(max_size=300))
def test_any_bytes_can_be_taken_apart(data):
    decode_bss(data)
    decode_bss(tlv(47, data))
    decode_interface(data)


@given(st.binary(max_size=80), st.integers(0, 255))
def test_a_damaged_message_never_raises(noise, at):
    made = bytearray(bss(elements=WPA2)[4:])
    made[at % len(made) : at % len(made) + len(noise)] = noise
    found = decode_bss(bytes(made))
    assert found is None or found.network.ssid.isprintable()


def test_the_numbers_are_those_of_the_librarys_definitions():
    attrs = {name: number for number, (name, *_) in enumerate(nl80211cmd.nla_map)}
    assert attrs["NL80211_ATTR_BSS"] == nl80211._ATTR_BSS
    assert attrs["NL80211_ATTR_IFNAME"] == nl80211._ATTR_IFNAME
    parts = {name.removeprefix("NL80211_BSS_"): number for number, (name, *_) in enumerate(nl80211cmd.bss.nla_map)}
    ours = {
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
    assert {name: parts[name] for name in ours} == ours
