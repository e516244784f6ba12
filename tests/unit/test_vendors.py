"""Who made it: the list that comes with scapy, read without scapy, and lists that are not what they were."""

import asyncio
import base64
import gzip
import os
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from pi_orchestrator.net import vendors as module
from pi_orchestrator.net.vendors import Vendors

ESP, PI = "24:6F:28:B0:F7:F1", "B8:27:EB:00:00:01"


@pytest.fixture(scope="module")
def real():
    """Loaded once: it takes a fifth of a second."""
    vendors = Vendors()
    asyncio.run(vendors.load())
    return vendors


def test_the_list_is_there_and_whole(real):
    assert real.reason is None
    assert sum(entries(block) for block in real._names.blocks) > 40_000


def entries(block):
    return zlib.decompress(block).count(b"\t")


@pytest.mark.parametrize(
    "mac", [ESP, "30:AE:A4:00:00:01", "A4:CF:12:00:00:01", "7C:9E:BD:01:02:03", "D8:A0:1D:01:02:03"]
)
def test_chips_of_the_cameras_are_known(real, mac):
    assert real.is_espressif(mac)
    assert real.name(mac) == "Espressif Inc."


@pytest.mark.parametrize(
    "mac, name",
    [
        (PI, "Raspberry Pi Foundation"),
        ("DC:A6:32:00:00:01", "Raspberry Pi Trading Ltd"),
        ("00:1B:C5:00:00:11", "Converging Systems Inc."),
        ("00:00:00:00:00:01", "Officially Xerox, but 0:0:0:0:0:0 is mor"),
    ],
    ids=["24 bits", "24 bits", "36 bits", "a long name is cut"],
)
def test_names(real, mac, name):
    assert real.name(mac) == name
    assert real.name(mac) == name
    assert not real.is_espressif(mac)


def test_what_was_given_to_nobody_is_nobodys(real):
    """00:1B:C5 is given away in pieces of 36 bits."""
    assert real.name("00:1B:C5:FF:F0:11") is None


@pytest.mark.parametrize("mac", ["26:6F:28:B0:F7:F1", "DA:A1:19:00:00:01", "02:00:00:00:00:01"])
def test_a_mac_that_was_made_up_has_no_maker(real, mac):
    assert real.name(mac) is None
    assert not real.is_espressif(mac)


def test_every_entry_of_the_list_is_found_again(real):
    """The first and the last of each block, and one before the first of all."""
    for block in real._names.blocks:
        lines = zlib.decompress(block).decode().strip("\n").split("\n")
        for line in (lines[0], lines[-1]):
            key, name = line.split("\t")
            assert real._names.find(int(key, 16)) == name
    assert module._Names().find(5) is None
    assert real._names.find(0) is None


def test_what_was_asked_is_remembered_within_bounds(real, monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 16)
    for number in range(200):
        real.name(f"00:00:{number:02X}:00:00:01")
    assert len(real._asked) <= 16
    assert real.name(PI) == "Raspberry Pi Foundation"


async def test_before_it_is_read_nothing_is_known():
    vendors = Vendors()
    assert (vendors.name(ESP), vendors.is_espressif(ESP)) == (None, False)
    assert vendors.reason == "the list of manufacturers has not been read yet"


# Lists that are not what they were.


def source(text, *, cut=None, ending='""")\n'):
    packed = base64.b85encode(gzip.compress(text.encode())[:cut]).decode()
    lines = "\n".join(packed[at : at + 79] for at in range(0, len(packed), 79))
    return f'def _d(x):\n    pass\n\nDATA = _d("""\n{lines}\n{ending}'


@pytest.fixture
def scapy(tmp_path, monkeypatch):
    """An installation of scapy with this list."""

    def install(content):
        folder = tmp_path / "scapy/libs"
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "manuf.py").write_text(content)
        spec = SimpleNamespace(submodule_search_locations=[str(folder.parent)])
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: spec)

    return install


GOOD = "24:6F:28  \tEspressif\tEspressif Inc.\nAC:DE:40:00:00/28\tSmall\tSmall Ltd\n"


async def test_a_list_of_two(scapy):
    scapy(source(GOOD))
    vendors = Vendors()
    await vendors.load()
    assert vendors.reason is None
    assert vendors.name("AC:DE:40:01:02:03") == "Small Ltd"
    assert vendors.name("AC:DE:41:01:02:03") is None
    assert vendors.is_espressif(ESP)


async def test_the_longest_prefix_counts(scapy):
    scapy(source("AC:DE:40\tA\tLarge\nAC:DE:40:50:00/28\tB\tMiddle\nAC:DE:40:50:10/36\tC\tSmall\n"))
    vendors = Vendors()
    await vendors.load()
    assert [vendors.name(f"AC:DE:40:{rest}:01") for rest in ("40:00", "50:00", "50:10", "50:20", "60:10")] == [
        *("Large", "Middle", "Small", "Middle", "Large")
    ]


async def test_names_are_safe_to_show_and_lines_of_another_form_are_passed_over(scapy):
    odd = "\t\t\n# comment\nzz:zz:zz\tA\tB\n00:00:01/99\tA\tB\n00:00:03\tA\t\x00\n"
    hostile = "00:00:02\tA\t\x1b[2J\x00Evil\u202e\u2028 Corp\n"
    scapy(source(odd + hostile + GOOD))
    vendors = Vendors()
    await vendors.load()
    assert vendors.name("00:00:02:00:00:01") == "[2JEvil Corp"
    assert vendors.name("00:00:03:00:00:01") is None
    assert sum(entries(block) for block in vendors._names.blocks) == 3


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "No such file"),
        ("", "has another form than it used to"),
        ("DATA = open('manuf')", "has another form than it used to"),
        (source(GOOD, ending=""), "has another form than it used to"),
        (source(GOOD, cut=60), "it ends too early"),
        (source(""), "it is empty"),
        (source("BB:00:00\tB\tB\nAA:00:00\tA\tA\n"), "it is not sorted"),
        (source("x" * 17_000_000), "it is too large"),
        ('DATA = _d("""\n~~~\x7f\n""")\n', "no list of manufacturers: "),
        ('DATA = _d("""\n' + base64.b85encode(b"not gzip").decode() + '\n""")\n', "incorrect header"),
    ],
    ids=[
        "no file",
        "empty file",
        "other file",
        "no end",
        "cut",
        "no entry",
        "unsorted",
        "bomb",
        "no base 85",
        "no gzip",
    ],
)
async def test_a_list_that_cannot_be_read_is_a_reason(scapy, content, reason):
    scapy(content)
    vendors = Vendors()
    await vendors.load()
    assert reason in vendors.reason
    assert (vendors.name(ESP), vendors.is_espressif(ESP)) == (None, False)


async def test_without_scapy_nothing_breaks(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    vendors = Vendors()
    await vendors.load()
    assert vendors.reason == "no list of manufacturers: scapy is not installed"
    assert vendors.name(ESP) is None


COST = """
import asyncio, sys
from pathlib import Path
from pi_orchestrator.net.vendors import Vendors

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4

async def main():
    await asyncio.to_thread(int)
    before = resident()
    vendors = Vendors()
    await vendors.load()
    assert vendors.reason is None
    print(resident() - before, "scapy" in sys.modules)

asyncio.run(main())
"""


def test_it_costs_two_megabytes_at_most_and_does_not_import_scapy():
    done = subprocess.run(
        [sys.executable, "-c", COST],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    kib, imported = done.stdout.split()
    assert imported == "False"
    assert int(kib) <= 2048
