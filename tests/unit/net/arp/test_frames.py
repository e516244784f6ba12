"""ARP frames: checks of the raw bytes compared with scapy, invalid frames, and loading scapy."""

import errno
import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.net.arp.engine import UNSOLICITED_PER_S, ArpEngine
from pi_orchestrator.net.arp.frames import BROADCAST, FRAME_BYTES, Frames, is_arp, is_forged, load_scapy
from tests.support.arp_player import REPLY, REQUEST, frame
from tests.support.clock import FakeClock

PI, PI_MAC = "10.77.0.1", "02:00:00:00:00:01"
HOST, MAC = "10.77.0.50", "24:6F:28:AA:00:01"
L2 = load_scapy()
FRAMES = Frames(L2, mac=Mac(PI_MAC), address=IPv4Address(PI))

binary = st.binary
arp_like = st.builds(
    lambda head, ethertype, types, op, rest: head + ethertype + types + op + rest,
    st.one_of(binary(min_size=12, max_size=12), st.just(BROADCAST + bytes.fromhex("246f28aa0001"))),
    st.sampled_from([b"\x08\x06", b"\x08\x00"]),
    st.one_of(st.just(bytes.fromhex("000108000604")), binary(min_size=6, max_size=6)),
    st.one_of(st.sampled_from([b"\0\1", b"\0\2", b"\0\3"]), binary(min_size=2, max_size=2)),
    st.one_of(binary(max_size=60), st.builds(lambda rest: bytes.fromhex("246f28aa0001") + rest, binary(max_size=40))),
)


def open_engine():
    """(engine without a socket, its sightings)."""
    seen = []
    engine = ArpEngine(clock=FakeClock(), on_sighting=seen.append)
    engine._frames = FRAMES
    engine._subnet = IPv4Network("10.77.0.0/24")
    engine._own = frozenset({IPv4Address(PI).packed})
    return engine, seen


def test_request_equals_scapy_frame():
    target = IPv4Address(HOST).packed
    expected = L2.Ether(src=PI_MAC, dst="ff:ff:ff:ff:ff:ff") / L2.ARP(
        op="who-has", hwsrc=PI_MAC, psrc=PI, hwdst="00:00:00:00:00:00", pdst=HOST
    )
    assert FRAMES.request(target, BROADCAST) == bytes(expected)
    assert FRAMES.request(target, b"\2" * 6)[:6] == b"\2" * 6
    probe = Frames(L2, mac=Mac(PI_MAC), address=None).request(target, BROADCAST)
    assert L2.ARP(probe[14:]).psrc == "0.0.0.0"


def test_reply_to_us_is_recognized():
    to_us = {"to": PI_MAC, "target": (PI_MAC, PI)}
    assert FRAMES.is_reply_to_us(frame(REPLY, sender=(MAC, HOST), **to_us))
    assert not FRAMES.is_reply_to_us(frame(REQUEST, sender=(MAC, HOST), **to_us))
    assert not FRAMES.is_reply_to_us(frame(REPLY, sender=(MAC, HOST), target=(PI_MAC, "10.77.0.9")))
    assert not FRAMES.is_reply_to_us(frame(REPLY, sender=(MAC, HOST), target=(MAC, PI)))


@pytest.mark.parametrize("extra", [b"", bytes(18), b"\xff" * 200])
def test_arp_frame_with_padding_is_accepted(extra):
    assert is_arp(frame(REQUEST, sender=(MAC, HOST)) + extra)


@pytest.mark.parametrize(
    "place, value",
    [
        (slice(12, 14), b"\x08\x00"),
        (slice(14, 16), b"\x00\x06"),
        (slice(16, 18), b"\x86\xdd"),
        (slice(18, 19), b"\x08"),
        (slice(19, 20), b"\x10"),
        (slice(20, 22), b"\x00\x03"),
        (slice(20, 22), b"\x00\x00"),
        (slice(41, 42), b""),
    ],
)
def test_frame_of_other_format_is_rejected(place, value):
    data = bytearray(frame(REPLY, sender=(MAC, HOST)))
    data[place] = value
    assert not is_arp(bytes(data))
    engine, seen = open_engine()
    assert not engine._on_frame(bytes(data))
    assert (seen, engine.counters.malformed) == ([], 1)


@given(arp_like)
def test_any_arp_frame_is_parsed_like_scapy(data):
    if not is_arp(data):
        return
    whole = L2.Ether(data)
    arp = whole[L2.ARP]
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen) == (1, 0x0800, 6, 4)
    assert arp.op in (1, 2)
    assert is_forged(data) == (whole.src != arp.hwsrc)
    sender = FRAMES.parse(data)
    if sender is not None:
        assert sender.mac.lower() == arp.hwsrc
        assert str(sender.ip or "0.0.0.0") == arp.psrc


@given(st.lists(st.one_of(arp_like, binary(max_size=80)), max_size=30))
def test_any_frames_are_counted_and_bind_nothing(frames):
    engine, seen = open_engine()
    for data in frames:
        engine._on_frame(data[:FRAME_BYTES])
    counters = engine.counters
    counted = (counters.malformed, counters.forged, counters.foreign, counters.own_claimed, counters.unsolicited)
    assert sum(counted) == len(frames)
    assert len(seen) == counters.unsolicited
    for sighting in seen:
        assert not sighting.binds
        ends = (engine._subnet[0], engine._subnet[-1])
        assert sighting.ip is None or (sighting.ip in engine._subnet and sighting.ip not in ends)
        assert int(sighting.mac[:2], 16) & 1 == 0


def test_unsolicited_frames_are_limited():
    engine, seen = open_engine()
    data = frame(REPLY, sender=(MAC, HOST))
    for _ in range(5 * UNSOLICITED_PER_S):
        engine._on_frame(data)
    assert len(seen) == UNSOLICITED_PER_S
    assert engine.counters.missed == 4 * UNSOLICITED_PER_S


LOAD_SCRIPT = """
import sys
from pi_orchestrator.net.arp.frames import load_scapy
before = open("/proc/self/statm").read().split()[1]
l2 = load_scapy()
after = open("/proc/self/statm").read().split()[1]
import os, logging, scapy.config, scapy.data
assert load_scapy() is l2
assert "scapy.all" not in sys.modules
assert "scapy.libs.manuf" not in sys.modules
assert not [name for name in os.environ if name.startswith("XDG_")]
assert not scapy.data.MANUFDB.d, "no table"
assert not logging.getLogger("scapy").handlers
assert "cryptography.hazmat.bindings._rust" not in sys.modules, "no ciphers"
from cryptography.hazmat.primitives.asymmetric import x25519  # still available for other modules
print((int(after) - int(before)) * os.sysconf("SC_PAGESIZE"))
"""


def load_with_home(home):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    process = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", LOAD_SCRIPT],
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return int(process.stdout)


def test_scapy_writes_nothing_to_home_and_uses_little_memory(tmp_path):
    assert load_with_home(tmp_path) < 24 << 20
    assert list(tmp_path.iterdir()) == []


def test_scapy_ignores_cache_in_home(tmp_path):
    """scapy would unpickle files there and delete those that it cannot read."""
    cache = tmp_path / ".cache" / "scapy"
    cache.mkdir(parents=True)
    for name in ("manufdb", "ethertypes", "services", "bluetoothids"):
        (cache / f"{name}.pickle").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/owned'\ntR.")
    load_with_home(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".cache"]
    assert len(list(cache.iterdir())) == 4


def test_loaded_modules_are_restored(monkeypatch):
    module = type(sys)("scapy.libs.manuf")
    monkeypatch.setitem(sys.modules, "scapy.libs.manuf", module)
    load_scapy()
    assert sys.modules["scapy.libs.manuf"] is module


class FullQueue:
    """A socket whose send queue is full for the first `full` attempts."""

    def __init__(self, full):
        self.full, self.sent = full, []

    def send(self, data):
        if self.full:
            self.full -= 1
            raise OSError(errno.ENOBUFS, "No buffer space available")
        self.sent.append(data)


class SkippingClock(FakeClock):
    async def sleep(self, seconds):
        self._move_to(self._monotonic + seconds)


async def test_full_send_queue_is_waited_for_and_times_out():
    engine, _ = open_engine()
    engine._clock = SkippingClock()
    engine._socket = FullQueue(full=100)
    await engine._send(IPv4Address(HOST).packed)
    assert len(engine._socket.sent) == engine.counters.requests == 1
    engine._socket = FullQueue(full=10**9)
    with pytest.raises(OSError, match="No buffer space"):
        await engine._send(IPv4Address(HOST).packed)
