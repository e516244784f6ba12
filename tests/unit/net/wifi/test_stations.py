"""Stations of the access point, from nl80211 messages of a simulated kernel."""

import asyncio
import errno
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.nl80211 import nl80211cmd

from pi_orchestrator.core.sighting import Source
from pi_orchestrator.net.wifi import nl80211, stations
from pi_orchestrator.net.wifi import radio as wireless
from pi_orchestrator.net.wifi.nl80211 import Radio, Station, attributes, decode_radio, decode_station
from pi_orchestrator.net.wifi.stations import Stations
from tests.support.wireless import (
    ATTR_STA_INFO,
    DONE,
    DUMP,
    ERROR,
    FAMILY,
    INDEX,
    MAC,
    MULTI,
    NESTED,
    OTHER,
    Kernel,
    encoded,
    interface,
    message,
    station,
    tlv,
)


def descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
async def read_stations(clock):
    """`await read_stations(kernel)` → (StationReading or None, reason)."""
    kernels = set()

    async def read_stations(kernel, *, reader=None):
        kernels.add(kernel)
        reader = reader or Stations(clock=clock, new_socket=kernel.new_socket)
        return await reader.read(INDEX), reader.reason

    yield read_stations
    for kernel in kernels:
        kernel.close()


async def test_access_point_and_stations_are_read(read_stations, clock):
    kernel = Kernel(
        interface=[interface()],
        stations=[
            station(MAC, INACTIVE_TIME=1500, SIGNAL=-52, SIGNAL_AVG=-55, CONNECTED_TIME=3600, RX_BYTES=77),
            station(OTHER, INACTIVE_TIME=0, CONNECTED_TIME=1),
        ],
    )
    reading, reason = await read_stations(kernel)
    assert reason is None
    assert reading.at == clock.monotonic()
    assert reading.radio == Radio("ap", "DeliCasa", 2437)
    assert reading.stations == (Station(MAC, -52, 1.5, 3600), Station(OTHER, None, 0.0, 1))
    assert [(command, index) for command, index, _ in kernel.requests] == [
        (nl80211.GET_INTERFACE, INDEX),
        (nl80211.GET_STATION, INDEX),
    ]
    assert kernel.requests[1][2] & DUMP == DUMP, "stations are requested as a dump"


async def test_sighting_time_is_last_frame(read_stations, clock):
    kernel = Kernel(interface=[interface()], stations=[station(MAC, INACTIVE_TIME=20_000, SIGNAL=-70)])
    reading, _ = await read_stations(kernel)
    seen = reading.stations[0].sighting(clock.monotonic())
    assert (seen.mac, seen.source, seen.at, seen.rssi_dbm) == (MAC, Source.STATION, clock.monotonic() - 20, -70)
    assert (seen.alive, seen.binds, seen.ip) == (True, False, None)


async def test_stations_of_several_datagrams_are_read(read_stations):
    macs = [f"24:6F:28:00:{n >> 8:02X}:{n & 255:02X}" for n in range(300)]
    kernel = Kernel(interface=[interface()], stations=[station(mac, SIGNAL=-60) for mac in macs], per_datagram=7)
    reading, _ = await read_stations(kernel)
    assert [found.mac for found in reading.stations] == macs


async def test_stations_are_limited(read_stations, monkeypatch):
    monkeypatch.setattr(stations, "MAX_STATIONS", 5)
    kernel = Kernel(interface=[interface()], stations=[station(f"24:6F:28:00:00:{n:02X}") for n in range(20)])
    reading, _ = await read_stations(kernel)
    assert len(reading.stations) == 5


@pytest.mark.parametrize("kind", ["station", "monitor"])
async def test_other_interface_kind_has_no_stations(read_stations, kind):
    kernel = Kernel(interface=[interface(kind, ssid=None)], stations=[station()])
    reading, reason = await read_stations(kernel)
    assert reason == f"the interface is not an access point, but of kind {kind}"
    assert (reading.radio, reading.stations) == (Radio(kind, None, 2437), ())
    assert [command for command, _, _ in kernel.requests] == [nl80211.GET_INTERFACE]


async def test_wifi_direct_group_owner_has_stations(read_stations):
    reading, reason = await read_stations(Kernel(interface=[interface("p2p_go")], stations=[station()]))
    assert reason is None
    assert [found.mac for found in reading.stations] == [MAC]


@pytest.mark.parametrize(
    "kernel, reason",
    [
        (Kernel(family=False), "no wireless driver: this kernel has no nl80211"),
        (Kernel(interface=errno.ENODEV), "the interface is not wireless"),
        (Kernel(interface=[]), "nl80211 did not answer within 0.2 s"),
        (Kernel(interface=None), "nl80211 did not answer within 0.2 s"),
        (Kernel(interface=errno.EPERM), "nl80211 not available: Operation not permitted"),
        (Kernel(interface=[interface()], stations=None), "nl80211 did not answer within 0.2 s"),
        (
            Kernel(interface=[interface()], stations=errno.EOPNOTSUPP),
            "nl80211 not available: Operation not supported",
        ),
        (Kernel(interface=[encoded(nl80211.NEW_INTERFACE, [("IFINDEX", INDEX)])]), "the interface is not wireless"),
    ],
    ids=[
        "no nl80211",
        "not wireless",
        "empty answer",
        "no answer",
        "no permission",
        "no station answer",
        "no station list",
        "no type",
    ],
)
async def test_failed_read_has_reason(read_stations, kernel, reason, monkeypatch):
    monkeypatch.setattr(wireless, "ANSWER_TIMEOUT_S", 0.2)
    assert await read_stations(kernel) == (None, reason)


async def test_driver_loaded_later_is_found(read_stations, clock):
    kernel = Kernel(family=False, interface=[interface()], stations=[station()])
    reader = Stations(clock=clock, new_socket=kernel.new_socket)
    assert await read_stations(kernel, reader=reader) == (None, "no wireless driver: this kernel has no nl80211")
    kernel.family = True
    reading, reason = await read_stations(kernel, reader=reader)
    assert reason is None
    assert len(reading.stations) == 1


async def test_missing_pyroute2_sets_reason(monkeypatch, clock):
    def fail():
        raise ImportError("no module named pyroute2")

    monkeypatch.setattr(wireless, "_load_library", fail)
    reader = Stations(clock=clock)
    assert await reader.read(INDEX) is None
    assert reader.reason == "nl80211 not available: no module named pyroute2"


async def test_loopback_has_reason(clock, caplog):
    """With a real socket: loopback is not wireless, with or without a wireless driver."""
    reader = Stations(clock=clock)
    assert await reader.read(1) is None
    assert reader.reason in ("no wireless driver: this kernel has no nl80211", "the interface is not wireless")
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []


async def test_repeated_reads_leak_nothing(read_stations, clock):
    reader = Stations(clock=clock)
    await reader.read(1)
    before, tasks = descriptors(), len(asyncio.all_tasks())
    for _ in range(200):
        await reader.read(1)
    assert (descriptors(), len(asyncio.all_tasks())) == (before, tasks)


async def test_invalid_answer_sets_reason(read_stations, clock, monkeypatch):
    monkeypatch.setattr(wireless, "ANSWER_TIMEOUT_S", 0.05)
    rng = random.Random(11)
    good = message(FAMILY, 0, 0, interface())[16:]
    for number in range(150):
        body = bytearray(good[: rng.randrange(1, len(good) + 1)])
        for _ in range(rng.randrange(1, 12)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        length = rng.choice([0, 7, 16, 16 + len(body), 60000])
        raw = struct.pack("=IHH", length, rng.choice([FAMILY, ERROR, DONE, 1, 999]), rng.choice([0, MULTI])) + b"SEQU"
        kernel = Kernel(interface=raw + bytes(4) + bytes(body), stations=[])
        reading, reason = await read_stations(kernel)
        assert reading is not None or reason, number


# Decoding.


def body_of(data):
    return data[4:]


@pytest.mark.parametrize(
    "raw, shown",
    [
        (b"DeliCasa", "DeliCasa"),
        ("Küche ☕".encode(), "Küche ☕"),
        (b"caf\xe9", "caf\N{REPLACEMENT CHARACTER}"),
        (b"x\x1b[2J\ny", "x[2Jy"),
        (b"", None),
        (b"\0" * 8, None),
        (b"a" * 33, None),
    ],
)
def test_ssid_is_clean(raw, shown):
    assert decode_radio(body_of(interface(ssid=raw))).ssid == shown


@pytest.mark.parametrize("signal, signal_dbm", [(-1, -1), (-128, -128), (0, None), (5, None)])
def test_signal_not_below_zero_is_unknown(signal, signal_dbm):
    assert decode_station(body_of(station(SIGNAL=signal))).signal_dbm == signal_dbm


def test_signal_falls_back_to_average():
    assert decode_station(body_of(station(SIGNAL_AVG=-61))).signal_dbm == -61


@pytest.mark.parametrize(
    "flags, authorized",  # (mask, values); bit 1 is NL80211_STA_FLAG_AUTHORIZED
    [((0b10, 0b10), True), ((0b10, 0), False), ((0, 0), True), ((0b11111110, 0b10001000), False)],
)
def test_unauthorized_station_is_ignored(flags, authorized):
    """Before the handshake a station may claim any MAC."""
    assert (decode_station(body_of(station(SIGNAL=-50, flags=flags))) is not None) is authorized


def test_nested_flag_of_attribute_is_ignored():
    signal = 7  # NL80211_STA_INFO_SIGNAL; 0xCE is -50
    info = tlv(ATTR_STA_INFO | NESTED, tlv(signal, b"\xce"))
    assert decode_station(tlv(nl80211._ATTR_MAC, bytes.fromhex("246f28b0f7f1")) + info) == Station(MAC, -50)


@pytest.mark.parametrize("mac", ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb"])
def test_invalid_mac_is_no_station(mac):
    assert decode_station(body_of(station(mac))) is None


@given(st.binary(max_size=300))
def test_any_bytes_never_raise(data):
    assert sum(len(payload) + 4 for payload in attributes(data).values()) <= len(data)
    decode_radio(data)
    decode_station(data)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), unique_by=lambda pair: pair[0]), st.data())
def test_truncated_attributes_keep_the_complete_ones(pairs, data):
    packed = b"".join(tlv(kind, payload) for kind, payload in pairs)
    assert attributes(packed) == dict(pairs)
    cut = data.draw(st.integers(0, len(packed)))
    assert attributes(packed[:cut]).items() <= dict(pairs).items()


@given(st.binary(max_size=60), st.integers(0, 255))
def test_damaged_station_never_raises(noise, offset):
    data = bytearray(body_of(station(MAC, SIGNAL=-50, INACTIVE_TIME=3)))
    data[offset % len(data) : offset % len(data) + len(noise)] = noise
    decode_station(bytes(data))


def test_constants_equal_pyroute2():
    names = {name: number for number, (name, *_) in enumerate(nl80211cmd.nla_map)}
    expected = {
        "IFINDEX": nl80211.ATTR_IFINDEX,
        "IFTYPE": nl80211._ATTR_IFTYPE,
        "MAC": nl80211._ATTR_MAC,
        "STA_INFO": nl80211._ATTR_STA_INFO,
        "WIPHY_FREQ": nl80211._ATTR_WIPHY_FREQ,
        "SSID": nl80211._ATTR_SSID,
    }
    assert {name: names[f"NL80211_ATTR_{name}"] for name in expected} == expected
