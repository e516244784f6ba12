"""What a DHCP server's lease file says, whoever wrote into it."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain.lease import MAX_LEASES, Lease, LeaseText, parse_leases
from pi_orchestrator.domain.sighting import Sighting, Source

MAC, IP = "24:6F:28:B0:F7:F1", IPv4Address("192.168.10.20")
LATER = 1_800_000_000


def only(line):
    """The one lease of a file with this line alone."""
    text = parse_leases(line + b"\n")
    assert (len(text.leases), text.skipped) == (1, 0)
    return text.leases[0]


def test_a_line_is_expiry_mac_address_name_and_client_id():
    lease = only(b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 espcam-b0f7f1 01:24:6f:28:b0:f7:f1")
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
    ids=["no name", "for ever", "a length in place of a date", "no client id", "UTF-8", "CR LF"],
)
def test_the_forms_that_servers_write(line, lease):
    assert only(line) == lease


def test_lines_about_ipv6_belong_there_and_are_no_leases_of_cameras():
    content = (
        b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 cam *\n"
        b"duid 00:01:00:01:2c:aa:bb:cc:dc:a6:32:00:00:01\n"
        b"1800000000 12345 fd00::20 cam 00:01:00:01:2c\n"
        b"\n"
    )
    text = parse_leases(content)
    assert ([lease.mac for lease in text.leases], text.skipped) == ([MAC], 0)


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
def test_a_line_that_no_server_writes_is_skipped_and_counted(line):
    good = b"1800000000 24:6f:28:ca:00:10 192.168.10.21 cam *\n"
    text = parse_leases(good + line + b"\n" + good)
    assert (len(text.leases), text.skipped) == (2, 1)


def test_a_line_that_is_cut_off_is_not_believed():
    """The server is writing it just now: half an address would be another device's."""
    text = parse_leases(b"1800000000 24:6f:28:b0:f7:f1 192.168.10.20 cam *\n1800000000 24:6f:28:ca:00:10 192.168.10.2")
    assert ([lease.ip for lease in text.leases], text.skipped) == ([IP], 1)


def test_an_endless_file_ends_at_the_limit():
    lines = b"".join(
        b"0 24:6f:28:%02x:%02x:%02x 10.0.%d.%d c *\n" % (n >> 16, n >> 8 & 255, n & 255, n >> 8 & 255, n & 255)
        for n in range(100_000)
    )
    text = parse_leases(lines)
    assert (len(text.leases), text.skipped) == (MAX_LEASES, 100_000 - MAX_LEASES)


def test_nothing_in_it_is_nothing():
    assert parse_leases(b"") == LeaseText((), 0)


def test_a_lease_is_hearsay():
    """It says who was here once, not who is, nor that anybody answers there."""
    assert Lease(MAC, IP, "cam", LATER).sighting(7.0) == Sighting(
        MAC, Source.LEASE, 7.0, ip=IP, alive=False, binds=False, host_name="cam"
    )


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,30}", fullmatch=True)


@given(st.integers(315_532_800, 10**19), st.integers(1, (1 << 48) - 1), st.ip_addresses(v=4), names)
def test_every_lease_comes_out_as_it_went_in(expiry, number, ip, name):
    number &= ~(1 << 40)  # the bit of multicast
    mac = ":".join(f"{number | 1:012x}"[i : i + 2] for i in range(0, 12, 2))
    lease = only(f"{expiry} {mac} {ip} {name} *".encode())
    assert lease == Lease(mac.upper(), ip, name, expiry)


@given(st.binary(max_size=400))
def test_any_bytes_are_leases_or_counted(content):
    text = parse_leases(content)
    assert len(text.leases) + text.skipped <= content.count(b"\n") + 1


@given(st.text(alphabet="0123456789abcdef:. *\n\r\t", max_size=300))
def test_what_looks_like_a_lease_file_never_raises(content):
    parse_leases(content.encode())
