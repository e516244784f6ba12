"""Parsing of dnsmasq lease files, valid and invalid."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.net.dhcp.lease_file import MAX_LEASES, Lease, ParsedLeases, parse_leases

MAC, IP = "24:6F:28:B0:F7:F1", IPv4Address("192.168.10.20")
LATER = 1_800_000_000


def parse_one(line):
    """The lease of a file with only this line."""
    parsed = parse_leases(line + b"\n")
    assert (len(parsed.leases), parsed.skipped) == (1, 0)
    return parsed.leases[0]


def test_lease_line_is_parsed():
    lease = parse_one(b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 espcam-b0f7f1 01:24:6f:28:b0:f7:f1")
    assert lease == Lease(MAC, IP, "espcam-b0f7f1", LATER)


@pytest.mark.parametrize(
    "line, lease",
    [
        (b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 * *", Lease(MAC, IP, None, LATER)),
        (b"0 24:6f:28:b0:f7:f1 192.168.10.20 cam *", Lease(MAC, IP, "cam", None)),
        (b"43200 24:6f:28:b0:f7:f1 192.168.10.20 cam *", Lease(MAC, IP, "cam", None)),
        (b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 cam", Lease(MAC, IP, "cam", LATER)),
        (b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 k\xc3\xbcche *", Lease(MAC, IP, "küche", LATER)),
        (b"1800000000 24:6F:28:B0:F7:F1 192.168.10.20 cam *\r", Lease(MAC, IP, "cam", LATER)),
    ],
    ids=["no name", "infinite", "duration", "no client id", "UTF-8", "CR LF"],
)
def test_lease_line_variant_is_parsed(line, lease):
    assert parse_one(line) == lease


def test_ipv6_lines_are_ignored():
    content = (
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 cam *\n"
        b"duid 00:01:00:01:2c:aa:bb:cc:dc:a6:32:00:00:01\n"
        b"1800000000 12345 fd00::20 cam 00:01:00:01:2c\n"
        b"\n"
    )
    parsed = parse_leases(content)
    assert ([lease.mac for lease in parsed.leases], parsed.skipped) == ([MAC], 0)


@pytest.mark.parametrize(
    "line",
    [
        b"1800000000 24:6f:28:b0:f7 192.168.10.20 cam *",
        b"1800000000 ff:ff:ff:ff:ff:ff 192.168.10.20 cam *",
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.299 cam *",
        b"1800000000 24:6f:28:b0:f7:f1 0x7f.1 cam *",
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 ca\x1b[31mm *",
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 cam\xff *",
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 cam\x00 *",
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 \xe2\x80\xaecam *",
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 " + b"c" * 300 + b" *",
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20",
        b"1800000000  24:6f:28:b0:f7:f1 192.168.10.20 cam *",
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 a cam *",
        b"-1 24:6f:28:b0:f7:f1 192.168.10.20 cam *",
        b"1e9 24:6f:28:b0:f7:f1 192.168.10.20 cam *",
        "١٨٠ 24:6f:28:b0:f7:f1 192.168.10.20 cam *".encode(),
        b"9" * 25 + b" 24:6f:28:b0:f7:f1 192.168.10.20 cam *",
        b"9" * 5000 + b" 24:6f:28:b0:f7:f1 192.168.10.20 cam *",
        b"hello",
        b"\x00" * 100,
    ],
)
def test_invalid_line_is_skipped_and_counted(line):
    good = b"1800000000 24:6f:28:ca:00:10 192.168.10.21 cam *\n"
    parsed = parse_leases(good + line + b"\n" + good)
    assert (len(parsed.leases), parsed.skipped) == (2, 1)


def test_incomplete_last_line_is_skipped():
    """The server is still writing it: an incomplete address would be another device's."""
    parsed = parse_leases(
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 cam *\n1800000000 24:6f:28:ca:00:10 192.168.10.2"
    )
    assert ([lease.ip for lease in parsed.leases], parsed.skipped) == ([IP], 1)


def test_leases_are_limited():
    lines = b"".join(
        b"0 24:6f:28:%02x:%02x:%02x 10.0.%d.%d c *\n" % (n >> 16, n >> 8 & 255, n & 255, n >> 8 & 255, n & 255)
        for n in range(100_000)
    )
    parsed = parse_leases(lines)
    assert (len(parsed.leases), parsed.skipped) == (MAX_LEASES, 100_000 - MAX_LEASES)


def test_empty_file_has_no_leases():
    assert parse_leases(b"") == ParsedLeases((), 0)


def test_lease_proves_neither_presence_nor_address():
    assert Lease(MAC, IP, "cam", LATER).sighting(7.0) == Sighting(
        MAC, Source.LEASE, 7.0, ip=IP, alive=False, binds=False, host_name="cam"
    )


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,30}", fullmatch=True)


@given(st.integers(315_532_800, 10**19), st.integers(1, (1 << 48) - 1), st.ip_addresses(v=4), names)
def test_any_lease_round_trips(expiry, number, ip, name):
    number &= ~(1 << 40)  # the multicast bit
    mac = ":".join(f"{number | 1:012x}"[i : i + 2] for i in range(0, 12, 2))
    lease = parse_one(f"{expiry} {mac} {ip} {name} *".encode())
    assert lease == Lease(mac.upper(), ip, name, expiry)


@given(st.binary(max_size=400))
def test_any_bytes_never_raise(content):
    parsed = parse_leases(content)
    assert len(parsed.leases) + parsed.skipped <= content.count(b"\n") + 1


@given(st.text(alphabet="0123456789abcdef:. *\n\r\t", max_size=300))
def test_lease_like_text_never_raises(content):
    parse_leases(content.encode())
