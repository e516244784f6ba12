"""The access point's stations: nl80211's own bytes, answered by a stand-in kernel."""

import asyncio
import errno
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.nl80211 import nl80211cmd

from pi_orchestrator.domain.sighting import Source
from pi_orchestrator.net import nl80211, stations, wireless
from pi_orchestrator.net.nl80211 import Radio, Station, attributes, decode_radio, decode_station
from pi_orchestrator.net.stations import Stations
from tests.support.wireless import (
    DONE,
    ERROR,
    FAMILY,
    INDEX,
    MAC,
    MULTI,
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
async def ask(clock):
    """`await ask(kernel)` → what the radio said, and why not."""
    kernels = set()

    async def ask(kernel, *, by=None):
        kernels.add(kernel)
        asking = by or Stations(clock=clock, new_socket=kernel.new_socket)
        return await asking.read(INDEX), asking.reason

    yield ask
    for kernel in kernels:
        kernel.close()


async def test_an_access_point_and_its_stations(ask, clock):
    kernel = Kernel(
        interface=[interface()],
        stations=[
            station(MAC, INACTIVE_TIME=1500, SIGNAL=-52, SIGNAL_AVG=-55, CONNECTED_TIME=3600, RX_BYTES=77),
            station(OTHER, INACTIVE_TIME=0, CONNECTED_TIME=1),
        ],
    )
    air, reason = await ask(kernel)
    assert reason is None
    assert air.at == clock.monotonic()
    assert air.radio == Radio("ap", "DeliCasa", 2437)
    assert air.stations == (Station(MAC, -52, 1.5, 3600), Station(OTHER, None, 0.0, 1))
    assert [(command, index) for command, index, _ in kernel.asked] == [(5, INDEX), (17, INDEX)]
    assert kernel.asked[1][2] & 0x300 == 0x300, "the list is asked for as a dump"


async def test_a_station_is_evidence_from_when_its_last_frame_came(ask, clock):
    kernel = Kernel(interface=[interface()], stations=[station(MAC, INACTIVE_TIME=20_000, SIGNAL=-70)])
    air, _ = await ask(kernel)
    seen = air.stations[0].sighting(clock.monotonic())
    assert (seen.mac, seen.source, seen.at, seen.rssi_dbm) == (MAC, Source.STATION, clock.monotonic() - 20, -70)
    assert (seen.alive, seen.binds, seen.ip) == (True, False, None)


async def test_many_stations_come_in_several_pieces(ask):
    macs = [f"24:6F:28:00:{n >> 8:02X}:{n & 255:02X}" for n in range(300)]
    kernel = Kernel(interface=[interface()], stations=[station(mac, SIGNAL=-60) for mac in macs], per_datagram=7)
    air, _ = await ask(kernel)
    assert [one.mac for one in air.stations] == macs


async def test_no_more_stations_are_kept_than_an_access_point_can_have(ask, monkeypatch):
    monkeypatch.setattr(stations, "MAX_STATIONS", 5)
    kernel = Kernel(interface=[interface()], stations=[station(f"24:6F:28:00:00:{n:02X}") for n in range(20)])
    air, _ = await ask(kernel)
    assert len(air.stations) == 5


@pytest.mark.parametrize("kind", ["station", "monitor"])
async def test_an_interface_that_is_no_access_point_is_told_and_has_no_stations(ask, kind):
    kernel = Kernel(interface=[interface(kind, ssid=None)], stations=[station()])
    air, reason = await ask(kernel)
    assert reason == f"the interface is no access point, but of kind {kind}"
    assert (air.radio, air.stations) == (Radio(kind, None, 2437), ())
    assert [command for command, _, _ in kernel.asked] == [5]


async def test_a_wifi_direct_group_owner_serves_too(ask):
    air, reason = await ask(Kernel(interface=[interface("p2p_go")], stations=[station()]))
    assert reason is None
    assert [one.mac for one in air.stations] == [MAC]


@pytest.mark.parametrize(
    "kernel, reason",
    [
        (Kernel(family=False), "no wireless driver: this kernel has no nl80211"),
        (Kernel(interface=errno.ENODEV), "the interface is not wireless"),
        (Kernel(interface=[]), "nl80211 did not answer within 0.2 s"),
        (Kernel(interface=None), "nl80211 did not answer within 0.2 s"),
        (Kernel(interface=errno.EPERM), "nl80211 cannot be asked: Operation not permitted"),
        (Kernel(interface=[interface()], stations=None), "nl80211 did not answer within 0.2 s"),
        (
            Kernel(interface=[interface()], stations=errno.EOPNOTSUPP),
            "nl80211 cannot be asked: Operation not supported",
        ),
        (Kernel(interface=[encoded(7, [("IFINDEX", INDEX)])]), "the interface is not wireless"),
    ],
    ids=["no family", "no radio", "nothing", "silence", "refused", "silent list", "no list", "no kind"],
)
async def test_why_there_is_nothing_to_learn(ask, kernel, reason, monkeypatch):
    monkeypatch.setattr(wireless, "ANSWER_WITHIN_S", 0.2)
    assert await ask(kernel) == (None, reason)


async def test_a_driver_that_is_loaded_later_is_found(ask, clock):
    kernel = Kernel(family=False, interface=[interface()], stations=[station()])
    asking = Stations(clock=clock, new_socket=kernel.new_socket)
    assert await ask(kernel, by=asking) == (None, "no wireless driver: this kernel has no nl80211")
    kernel.family = True
    air, reason = await ask(kernel, by=asking)
    assert reason is None
    assert len(air.stations) == 1


async def test_without_the_library_it_says_so(monkeypatch, clock):
    def gone():
        raise ImportError("no module named pyroute2")

    monkeypatch.setattr(wireless, "_load_library", gone)
    asking = Stations(clock=clock)
    assert await asking.read(INDEX) is None
    assert asking.reason == "nl80211 cannot be asked: no module named pyroute2"


async def test_the_kernel_of_this_machine_says_why_not(clock, caplog):
    """The real socket: loopback is not wireless, with or without a wireless driver in the kernel."""
    asking = Stations(clock=clock)
    assert await asking.read(1) is None
    assert asking.reason in ("no wireless driver: this kernel has no nl80211", "the interface is not wireless")
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []


async def test_asking_many_times_leaves_nothing_behind(ask, clock):
    asking = Stations(clock=clock)
    await asking.read(1)
    before, tasks = descriptors(), len(asyncio.all_tasks())
    for _ in range(200):
        await asking.read(1)
    assert (descriptors(), len(asyncio.all_tasks())) == (before, tasks)


async def test_answers_that_make_no_sense_are_a_reason_and_no_more(ask, clock, monkeypatch):
    monkeypatch.setattr(wireless, "ANSWER_WITHIN_S", 0.05)
    rng = random.Random(11)
    good = message(FAMILY, 0, 0, interface())[16:]
    for round_ in range(150):
        body = bytearray(good[: rng.randrange(1, len(good) + 1)])
        for _ in range(rng.randrange(1, 12)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        length = rng.choice([0, 7, 16, 16 + len(body), 60000])
        raw = struct.pack("=IHH", length, rng.choice([FAMILY, ERROR, DONE, 1, 999]), rng.choice([0, MULTI])) + b"SEQU"
        kernel = Kernel(interface=raw + bytes(4) + bytes(body), stations=[])
        air, reason = await ask(kernel)
        assert air is not None or reason, round_


# The bytes themselves.


def body_of(made):
    return made[4:]


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
def test_the_networks_name_is_safe_to_show(raw, shown):
    assert decode_radio(body_of(interface(ssid=raw))).ssid == shown


@pytest.mark.parametrize("signal, told", [(-1, -1), (-128, -128), (0, None), (5, None)])
def test_a_signal_that_is_not_below_zero_is_none(signal, told):
    assert decode_station(body_of(station(SIGNAL=signal))).signal_dbm == told


def test_the_average_stands_in_where_a_driver_tells_no_signal():
    assert decode_station(body_of(station(SIGNAL_AVG=-61))).signal_dbm == -61


@pytest.mark.parametrize(
    "flags, let_in",
    [((0b10, 0b10), True), ((0b10, 0), False), ((0, 0), True), ((0b11111110, 0b10001000), False)],
)
def test_a_station_that_has_not_proved_the_password_is_none(flags, let_in):
    """It may claim any MAC: only after the handshake does the radio know that it belongs here."""
    assert (decode_station(body_of(station(SIGNAL=-50, flags=flags))) is not None) is let_in


def test_an_attribute_that_is_marked_as_nested_is_the_same_one():
    info = tlv(21 | 0x8000, tlv(7, b"\xce"))
    assert decode_station(tlv(6, bytes.fromhex("246f28b0f7f1")) + info) == Station(MAC, -50)


@pytest.mark.parametrize("mac", ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb"])
def test_a_mac_that_no_device_can_have_is_no_station(mac):
    assert decode_station(body_of(station(mac))) is None


@given(st.binary(max_size=300))
def test_any_bytes_can_be_taken_apart(data):
    assert sum(len(payload) + 4 for payload in attributes(data).values()) <= len(data)
    decode_radio(data)
    decode_station(data)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), unique_by=lambda pair: pair[0]), st.data())
def test_what_was_packed_comes_out_and_a_cut_loses_only_what_it_cuts(pairs, data):
    packed = b"".join(tlv(kind, payload) for kind, payload in pairs)
    assert attributes(packed) == dict(pairs)
    cut = data.draw(st.integers(0, len(packed)))
    assert attributes(packed[:cut]).items() <= dict(pairs).items()


@given(st.binary(max_size=60), st.integers(0, 255))
def test_a_damaged_station_never_raises(noise, at):
    made = bytearray(body_of(station(MAC, SIGNAL=-50, INACTIVE_TIME=3)))
    made[at % len(made) : at % len(made) + len(noise)] = noise
    decode_station(bytes(made))


def test_the_numbers_are_those_of_the_librarys_definitions():
    names = {name: number for number, (name, *_) in enumerate(nl80211cmd.nla_map)}
    ours = {
        "IFINDEX": nl80211.ATTR_IFINDEX,
        "IFTYPE": nl80211._ATTR_IFTYPE,
        "MAC": nl80211._ATTR_MAC,
        "STA_INFO": nl80211._ATTR_STA_INFO,
        "WIPHY_FREQ": nl80211._ATTR_WIPHY_FREQ,
        "SSID": nl80211._ATTR_SSID,
    }
    assert {name: names[f"NL80211_ATTR_{name}"] for name in ours} == ours
