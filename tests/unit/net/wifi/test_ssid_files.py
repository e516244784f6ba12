"""SSIDs in files of hostapd and NetworkManager, valid and invalid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.wifi import ssid_text
from pi_orchestrator.net.wifi.ssid_files import Profile, parse_hostapd, parse_keyfile

RASPAP = b"""\
driver=nl80211
ctrl_interface=/var/run/hostapd
auth_algs=1
wpa_key_mgmt=WPA-PSK
beacon_int=100
ssid=DeliCasa Setup
channel=1
wpa_passphrase=very secret
interface=wlan0
"""
HOTSPOT = b"""\
[connection]
id=Hotspot
type=wifi
interface-name=wlan0

[wifi]
mode=ap
ssid=DeliCasa

[wifi-security]
key-mgmt=wpa-psk
psk=very secret

[ipv4]
method=shared
"""


def test_hostapd_file_is_parsed():
    assert parse_hostapd(RASPAP) == [Profile("wlan0", "DeliCasa Setup")]


def test_hostapd_bss_has_own_interface():
    content = b"interface=wlan0\nssid=one\nbss=wlan0_1\nssid=two\nbss=wlan0_2\n"
    assert parse_hostapd(content) == [Profile("wlan0", "one"), Profile("wlan0_1", "two")]


@pytest.mark.parametrize(
    "lines, name",
    [
        (b'ssid2="quoted"', "quoted"),
        (b'ssid2="with "inner" ones"', 'with "inner" ones'),
        (b'ssid2=P"caf\\xc3\\xa9\\041"', "café!"),
        (b'ssid2=P"a\\\\b\\"c"', 'a\\b"c'),
        (b"ssid2=4b616d65726173", "Kameras"),
        (b"ssid=first\nssid=second", "second"),
        (b"ssid=first\nssid2=4b", "K"),
        (b"#ssid=comment\nssid=real", "real"),
        (b"ssid=a=b#c", "a=b#c"),
        (b"  ssid=indented", "indented"),
        (b"ssid=dos\r", "dos"),
        (b"ssid=k\xc3\xbcche", "küche"),
        (b"ssid=caf\xe9", "caf\N{REPLACEMENT CHARACTER}"),
        (b"ssid=red\x1b[31m", "red[31m"),
        (b"ssid=" + b"a" * 32, "a" * 32),
        (b"ssid=" + b"a" * 33, None),
        (b"ssid=", None),
        (b"ssid2=xyz", None),
        (b'ssid2="', None),
        (b"ssid", None),
        (b"", None),
    ],
)
def test_hostapd_ssid_formats(lines, name):
    expected = [] if name is None else [Profile("wlan0", name)]
    assert parse_hostapd(b"interface=wlan0\n" + lines + b"\n") == expected


def test_hostapd_without_interface_is_ignored():
    assert parse_hostapd(b"ssid=lonely\n") == []


def test_keyfile_of_hotspot_is_parsed():
    assert parse_keyfile(HOTSPOT) == Profile("wlan0", "DeliCasa")


@pytest.mark.parametrize(
    "value, name",
    [
        (b"68;101;108;105;", "Deli"),
        (b"68; 101; 108;105", "Deli"),
        (b"195;188;", "ü"),
        (b"12345678", "12345678"),
        (b"300;1;", "300;1;"),
        (b"semi\\;colon", "semi;colon"),
        (b"\\sspace\\s", "space"),
        (b"back\\\\slash", "back\\slash"),
        (b"tab\\there", "tabhere"),
        (b"68;101;" * 20, None),
        (b"a" * 33, None),
        (b"", None),
    ],
)
def test_keyfile_ssid_formats(value, name):
    expected = None if name is None else Profile("wlan0", name)
    assert parse_keyfile(HOTSPOT.replace(b"ssid=DeliCasa", b"ssid=" + value)) == expected


def test_keyfile_section_alias_and_spaces():
    content = HOTSPOT.replace(b"[wifi]", b"[802-11-wireless]").replace(b"mode=ap", b"mode = ap")
    assert parse_keyfile(content) == Profile("wlan0", "DeliCasa")


@pytest.mark.parametrize(
    "before, after",
    [(b"mode=ap", b"mode=infrastructure"), (b"mode=ap\n", b""), (b"[wifi]", b"[vpn]"), (b"ssid=", b"#ssid=")],
)
def test_keyfile_without_access_point_is_ignored(before, after):
    assert parse_keyfile(HOTSPOT.replace(before, after)) is None


def test_keyfile_without_interface_is_parsed():
    assert parse_keyfile(HOTSPOT.replace(b"interface-name=wlan0\n", b"")) == Profile(None, "DeliCasa")


@given(st.binary(max_size=300))
def test_any_bytes_never_raise(content):
    for profile in parse_hostapd(content):
        assert profile.ssid.isprintable()
    parse_keyfile(content)


@given(st.text(alphabet='bssid2=P"\\x04;[]wif\n\r #', max_size=200))
def test_config_like_text_never_raises(text):
    parse_hostapd(b"interface=wlan0\n" + text.encode())
    parse_keyfile(b"[wifi]\nmode=ap\n" + text.encode())


@given(st.binary(min_size=1, max_size=32))
def test_any_ssid_in_numbers_is_parsed(raw):
    shown = ssid_text(raw)
    expected = [] if shown is None else [Profile("wlan0", shown)]
    assert parse_hostapd(b"interface=wlan0\nssid2=" + raw.hex().encode()) == expected
    listed = HOTSPOT.replace(b"DeliCasa", b"".join(b"%d;" % byte for byte in raw))
    assert parse_keyfile(listed) == (expected[0] if expected else None)
