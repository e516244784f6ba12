"""Addresses that a camera may have: it cannot direct the daemon to any other host."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.ipv4 import check_camera_address, parse_ipv4

AP = IPv4Network("192.168.10.0/24")
PI = IPv4Address("192.168.10.1")
ALL_ADDRESSES = IPv4Network("0.0.0.0/0")


def check(text, *, ap=AP, allowed=(AP,), own=(PI,), **options):
    return check_camera_address(text, ap_subnet=ap, allowed=allowed, own=own, **options)


@pytest.mark.parametrize("text", ["192.168.10.2", "192.168.10.100", "192.168.10.254"])
def test_host_of_camera_network_is_accepted(text):
    assert str(check(text)) == text


@pytest.mark.parametrize(
    "text, reason",
    [
        ("192.168.10.0", "network or broadcast address"),
        ("192.168.10.255", "network or broadcast address"),
        ("192.168.10.1", "belongs to this machine"),
        ("192.168.11.5", "outside the camera network"),
        ("10.0.0.1", "outside the camera network"),
        ("8.8.8.8", "outside the camera network"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("169.254.169.254", "link-local"),
        ("224.0.0.251", "multicast"),
        ("239.255.255.250", "multicast"),
        ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
        ("0.0.0.0", "not a host address"),
    ],
)
def test_other_address_is_refused(text, reason):
    with pytest.raises(FieldError, match=reason):
        check(text)


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "169.254.169.254", "224.0.0.251", "255.255.255.255", "0.0.0.0", "240.0.0.1"],
)
def test_special_address_is_always_refused(text):
    with pytest.raises(FieldError):
        check(text, ap=ALL_ADDRESSES, allowed=(ALL_ADDRESSES,))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "localhost",
        "camera.local",
        "192.168.10.5.nip.io",
        "192.168.10.5:8081",
        "192.168.10.5/24",
        "192.168.10.5 ",
        " 192.168.10.5",
        "192.168.10.5\n",
        "192.168.10.5\x00",
        "user@192.168.10.5",
        "192.168.10.5#",
        "192.168.10",
        "192.168.10.5.6",
        "192.168.10.256",
        "192.168.10.05",
        "0300.0250.012.05",
        "192.168.10.0x5",
        "0xC0A80A05",
        "3232238085",
        "192.168.2565",
        "１９２.168.10.5",
        "::1",
        "::ffff:192.168.10.5",
        "::ffff:127.0.0.1",
        "[::1]",
        "fe80::1",
        "fe80::1%wlan0",
        "-1.0.0.0",
        "+192.168.10.5",
        "1e2.1.1.1",
    ],
)
def test_only_dotted_quad_is_parsed(text):
    with pytest.raises(FieldError, match="is not an IPv4 address"):
        parse_ipv4(text)
    with pytest.raises(FieldError):
        check(text, ap=ALL_ADDRESSES, allowed=(ALL_ADDRESSES,))


def test_subnet_allowlist_narrows_camera_network():
    half = IPv4Network("192.168.10.128/25")
    assert check("192.168.10.200", allowed=(half,))
    with pytest.raises(FieldError, match="outside subnet_allowlist"):
        check("192.168.10.100", allowed=(half,))
    with pytest.raises(FieldError, match="outside subnet_allowlist"):
        check("192.168.10.100", allowed=())


def test_subnet_allowlist_never_widens_camera_network():
    with pytest.raises(FieldError, match="outside the camera network"):
        check("192.168.11.5", allowed=(ALL_ADDRESSES,))


def test_own_addresses_are_refused():
    own = {IPv4Address("192.168.10.1"), IPv4Address("192.168.10.77")}
    with pytest.raises(FieldError, match="belongs to this machine"):
        check("192.168.10.77", own=own)


def test_loopback_needs_allow_loopback():
    loopback = IPv4Network("127.77.0.0/16")
    assert check("127.77.0.5", ap=loopback, allowed=(loopback,), allow_loopback=True)
    with pytest.raises(FieldError, match="loopback"):
        check("127.77.0.5", ap=loopback, allowed=(loopback,))
    with pytest.raises(FieldError, match="outside the camera network"):
        check("127.0.0.1", ap=loopback, allowed=(loopback,), allow_loopback=True)


def test_slash_31_has_no_broadcast_address():
    pair = IPv4Network("192.168.10.4/31")
    assert check("192.168.10.4", ap=pair, allowed=(pair,))
    assert check("192.168.10.5", ap=pair, allowed=(pair,))


@given(st.ip_addresses().map(str) | st.text(max_size=40) | st.from_regex(r"[0-9.x:]{0,20}", fullmatch=True))
def test_accepted_address_is_host_of_network(text):
    try:
        address = check(text)
    except FieldError:
        return
    assert address in AP
    assert str(address) == text
    assert address not in (IPv4Address("192.168.10.0"), IPv4Address("192.168.10.1"), IPv4Address("192.168.10.255"))
