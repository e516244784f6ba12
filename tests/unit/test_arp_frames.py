"""What comes in by ARP, byte by byte: our own quick look held against scapy, and nothing that breaks either."""

import errno
import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.net.arp import UNASKED_PER_S, ArpEngine
from pi_orchestrator.net.arp_frames import BROADCAST, FRAME, Frames, is_arp, is_forged, load_scapy
from tests.support.arp_player import REPLY, REQUEST, frame
from tests.support.clock import FakeClock

PI, PI_MAC = "10.77.0.1", "02:00:00:00:00:01"
HOST, MAC = "10.77.0.50", "24:6F:28:AA:00:01"
L2 = load_scapy()
FRAMES = Frames(L2, mac=Mac(PI_MAC), address=IPv4Address(PI))

bytes_of = st.binary
near_arp = st.builds(
    lambda head, kind, form, op, rest: head + kind + form + op + rest,
    st.one_of(bytes_of(min_size=12, max_size=12), st.just(BROADCAST + bytes.fromhex("246f28aa0001"))),
    st.sampled_from([b"\x08\x06", b"\x08\x00"]),
    st.one_of(st.just(bytes.fromhex("000108000604")), bytes_of(min_size=6, max_size=6)),
    st.one_of(st.sampled_from([b"\0\1", b"\0\2", b"\0\3"]), bytes_of(min_size=2, max_size=2)),
    st.one_of(
        bytes_of(max_size=60), st.builds(lambda rest: bytes.fromhex("246f28aa0001") + rest, bytes_of(max_size=40))
    ),
)


def listening(**more):
    """An engine that hears what it is given, and what it reported."""
    seen = []
    engine = ArpEngine(clock=FakeClock(), on_sighting=seen.append)
    engine._frames = FRAMES
    engine._subnet = IPv4Network("10.77.0.0/24")
    engine._own = frozenset({IPv4Address(PI).packed})
    return engine, seen


def test_a_request_is_as_scapy_would_make_it():
    target = IPv4Address(HOST).packed
    expected = L2.Ether(src=PI_MAC, dst="ff:ff:ff:ff:ff:ff") / L2.ARP(
        op="who-has", hwsrc=PI_MAC, psrc=PI, hwdst="00:00:00:00:00:00", pdst=HOST
    )
    assert FRAMES.request(target, BROADCAST) == bytes(expected)
    assert FRAMES.request(target, b"\2" * 6)[:6] == b"\2" * 6
    probe = Frames(L2, mac=Mac(PI_MAC), address=None).request(target, BROADCAST)
    assert L2.ARP(probe[14:]).psrc == "0.0.0.0"


def test_a_reply_to_us_is_told_from_any_other():
    to_us = {"to": PI_MAC, "target": (PI_MAC, PI)}
    assert FRAMES.is_for_us(frame(REPLY, sender=(MAC, HOST), **to_us))
    assert not FRAMES.is_for_us(frame(REQUEST, sender=(MAC, HOST), **to_us))
    assert not FRAMES.is_for_us(frame(REPLY, sender=(MAC, HOST), target=(PI_MAC, "10.77.0.9")))
    assert not FRAMES.is_for_us(frame(REPLY, sender=(MAC, HOST), target=(MAC, PI)))


@pytest.mark.parametrize("extra", [b"", bytes(18), b"\xff" * 200])
def test_padding_is_allowed(extra):
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
def test_another_form_is_no_arp(place, value):
    data = bytearray(frame(REPLY, sender=(MAC, HOST)))
    data[place] = value
    assert not is_arp(bytes(data))
    engine, seen = listening()
    assert not engine._hear(bytes(data))
    assert (seen, engine.counters.malformed) == ([], 1)


@given(near_arp)
def test_whatever_looks_like_arp_is_read_as_scapy_reads_it(data):
    if not is_arp(data):
        return
    whole = L2.Ether(data)
    said = whole[L2.ARP]
    assert (said.hwtype, said.ptype, said.hwlen, said.plen) == (1, 0x0800, 6, 4)
    assert said.op in (1, 2)
    assert is_forged(data) == (whole.src != said.hwsrc)
    heard = FRAMES.take_apart(data)
    if heard is not None:
        assert heard.mac.lower() == said.hwsrc
        assert str(heard.ip or "0.0.0.0") == said.psrc


@given(st.lists(st.one_of(near_arp, bytes_of(max_size=80)), max_size=30))
def test_nothing_that_comes_in_breaks_it_or_is_believed_beyond_its_due(frames):
    engine, seen = listening()
    for data in frames:
        engine._hear(data[:FRAME])
    counters = engine.counters
    counted = (counters.malformed, counters.forged, counters.foreign, counters.own_claimed, counters.unasked)
    assert sum(counted) == len(frames)
    assert len(seen) == counters.unasked
    for one in seen:
        assert not one.binds
        assert one.ip is None or (one.ip in engine._subnet and one.ip not in (engine._subnet[0], engine._subnet[-1]))
        assert int(one.mac[:2], 16) & 1 == 0


def test_only_so_many_frames_are_looked_at_in_a_second():
    engine, seen = listening()
    data = frame(REPLY, sender=(MAC, HOST))
    for _ in range(5 * UNASKED_PER_S):
        engine._hear(data)
    assert len(seen) == UNASKED_PER_S
    assert engine.counters.missed == 4 * UNASKED_PER_S


HOME = """
import sys
from pi_orchestrator.net.arp_frames import load_scapy
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
from cryptography.hazmat.primitives.asymmetric import x25519  # they are there for others
print((int(after) - int(before)) * os.sysconf("SC_PAGESIZE"))
"""


def run_at(home):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", HOME],
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return int(done.stdout)


def test_scapy_makes_nothing_in_a_home_and_stays_small(tmp_path):
    assert run_at(tmp_path) < 24 << 20
    assert list(tmp_path.iterdir()) == []


def test_scapy_reads_nothing_from_a_home(tmp_path):
    """It unpickles what it finds there, and deletes what it cannot read."""
    cache = tmp_path / ".cache" / "scapy"
    cache.mkdir(parents=True)
    for name in ("manufdb", "ethertypes", "services", "bluetoothids"):
        (cache / f"{name}.pickle").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/owned'\ntR.")
    run_at(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".cache"]
    assert len(list(cache.iterdir())) == 4


def test_what_was_loaded_before_is_there_again_afterwards(monkeypatch):
    ours = type(sys)("scapy.libs.manuf")
    monkeypatch.setitem(sys.modules, "scapy.libs.manuf", ours)
    load_scapy()
    assert sys.modules["scapy.libs.manuf"] is ours


class Queue:
    """A send queue that is full for so many attempts."""

    def __init__(self, full):
        self.full, self.sent = full, []

    def send(self, data):
        if self.full:
            self.full -= 1
            raise OSError(errno.ENOBUFS, "No buffer space available")
        self.sent.append(data)


class Impatient(FakeClock):
    async def sleep(self, seconds):
        self._move_to(self._monotonic + seconds)


async def test_a_queue_that_is_full_is_waited_for_and_not_for_ever():
    engine, _ = listening()
    engine._clock = Impatient()
    engine._socket = Queue(full=100)
    await engine._send(IPv4Address(HOST).packed)
    assert len(engine._socket.sent) == engine.counters.asked == 1
    engine._socket = Queue(full=10**9)
    with pytest.raises(OSError, match="No buffer space"):
        await engine._send(IPv4Address(HOST).packed)
