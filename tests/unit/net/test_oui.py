"""Vendor of a MAC: the committed table, damaged tables, and the script that generates the table."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pi_orchestrator.net import oui as module
from pi_orchestrator.net.oui import VendorLookup

ROOT = Path(__file__).parents[3]
ESP, PI = "24:6F:28:B0:F7:F1", "B8:27:EB:00:00:01"


@pytest.fixture(scope="module")
def committed():
    """The committed table, loaded once."""
    vendors = VendorLookup()
    asyncio.run(vendors.load())
    return vendors


@pytest.fixture(scope="module")
def lines():
    """Name and prefixes of each line of the committed table, read without the module under test."""
    text = (ROOT / "pi_orchestrator/net/oui.txt").read_text(encoding="utf-8")
    return [(name, prefixes.split(" ")) for name, prefixes in (row.split("\t") for row in text.splitlines()[1:])]


def test_committed_table_is_loaded_completely(committed, lines):
    assert committed.reason is None
    assert len(committed._index) == sum(len(prefixes) for _, prefixes in lines) > 40_000
    assert {len(prefix) for _, prefixes in lines for prefix in prefixes} == {6, 7, 9}


def test_committed_table_is_sorted_and_clean(lines):
    names = [name for name, _ in lines]
    prefixes = [prefix for _, prefixes in lines for prefix in prefixes]
    assert names == sorted(names, key=str.casefold)
    assert len({name.casefold() for name in names}) == len(names)
    assert len(set(prefixes)) == len(prefixes)
    assert all(name.isprintable() and name == name.strip() and 0 < len(name) <= 40 for name in names)


def test_committed_table_prefixes_are_found(committed, lines):
    assert all(committed._find(module._key(prefix)) == name for name, prefixes in lines for prefix in prefixes[::9])
    assert committed._find(0) is None
    assert committed._find((1 << 40) - 1) is None
    assert VendorLookup()._find(5) is None


@pytest.mark.parametrize(
    "mac",
    [ESP, "30:AE:A4:00:00:01", "A4:CF:12:00:00:01", "7C:9E:BD:01:02:03", "D8:A0:1D:01:02:03", "34:CD:B0:00:00:01"],
)
def test_espressif_mac_is_recognized(committed, mac):
    assert committed.is_espressif(mac)
    assert committed.name(mac) == "Espressif Inc."


@pytest.mark.parametrize(
    "mac, name",
    [
        (PI, "Raspberry Pi Foundation"),
        ("DC:A6:32:00:00:01", "Raspberry Pi Trading"),
        ("20:85:93:B0:00:00", "IOG Products"),
        ("20:85:93:BF:FF:FF", "IOG Products"),
        ("20:85:93:AF:FF:FF", "H3 Industries"),
        ("20:85:93:C0:00:00", "Regloplas AG"),
        ("00:1B:C5:00:00:11", "Converging Systems"),
        ("00:1B:C5:00:0F:FF", "Converging Systems"),
        ("00:1B:C5:00:10:00", "OpenRB.com, Direct SIA"),
        ("00:00:00:00:00:01", "XEROX Corp."),
        ("70:B3:D5:98:20:00", "3S - Sensors, Signal Processing, Systems"),
    ],
    ids=[
        "24 bits",
        "24 bits, legal form dropped",
        "28 bits, first",
        "28 bits, last",
        "28 bits, one below",
        "28 bits, one above",
        "36 bits",
        "36 bits, last",
        "36 bits, one above",
        "first prefix of all",
        "name of 40 characters",
    ],
)
def test_known_mac_has_vendor_name(committed, mac, name):
    assert committed.name(mac) == name
    assert committed.name(mac) == name, "from the cache"
    assert not committed.is_espressif(mac)


@pytest.mark.parametrize(
    "mac", ["00:1B:C5:FF:F0:11", "00:50:C2:00:00:01", "FC:FF:FF:FF:FF:FF"], ids=["block", "block", "unassigned"]
)
def test_unassigned_mac_has_no_vendor(committed, mac):
    """The IEEE owns the prefix of a block that it assigns in pieces; it is not the vendor of the unassigned pieces."""
    assert committed.name(mac) is None


@pytest.mark.parametrize("mac", ["26:6F:28:B0:F7:F1", "DA:A1:19:00:00:01", "02:60:8C:00:00:01"])
def test_locally_administered_mac_has_no_vendor(committed, mac):
    assert committed.name(mac) is None
    assert not committed.is_espressif(mac)


def test_name_cache_is_bounded(committed, monkeypatch):
    monkeypatch.setattr(module, "_MAX_CACHED", 16)
    for number in range(200):
        committed.name(f"00:00:{number:02X}:00:00:01")
    assert len(committed._cache) <= 16
    assert committed.name(PI) == "Raspberry Pi Foundation"


def test_lookup_before_load_is_empty():
    vendors = VendorLookup()
    assert (vendors.name(ESP), vendors.is_espressif(ESP)) == (None, False)
    assert vendors.reason == "vendor table not loaded yet"


# Tables that the tests make.


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`await load(content)` → a VendorLookup with this table; None: without a file."""

    async def load(content):
        file = tmp_path / "oui.txt"
        if content is not None:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        monkeypatch.setattr(module, "TABLE", file)
        vendors = VendorLookup()
        await vendors.load()
        return vendors

    return load


GOOD = "# 2 prefixes of a test\nEspressif Inc.\t246F28\nSmall Ltd\tACDE400\n"


async def test_small_table_is_loaded(load):
    vendors = await load(GOOD)
    assert vendors.reason is None
    assert vendors.name("AC:DE:40:01:02:03") == "Small Ltd"
    assert vendors.name("AC:DE:41:01:02:03") is None
    assert vendors.is_espressif(ESP)


async def test_longest_prefix_wins(load):
    vendors = await load("# 3 prefixes \nLarge\tACDE40\nMiddle\tACDE405\nSmall\tACDE40501\n")
    names = [vendors.name(f"AC:DE:40:{rest}:01") for rest in ("40:00", "50:00", "50:10", "50:20", "60:10")]
    assert names == ["Large", "Middle", "Small", "Middle", "Large"]


async def test_prefixes_of_different_length_are_distinct(load):
    vendors = await load("# 2 prefixes \nBlock\tACDE400\nPiece\tACDE40000\n")
    names = [vendors.name(f"AC:DE:40:{rest}") for rest in ("00:00:01", "00:10:01", "10:00:01")]
    assert names == ["Piece", "Block", None]


async def test_index_of_several_sorted_runs_is_complete(load, monkeypatch):
    monkeypatch.setattr(module, "_RUN", 3)
    prefixes = [f"{number * 7919 % 256:02X}{number:02X}00" for number in range(100)]
    rows = "".join(f"V{prefix}\t{prefix}\n" for prefix in prefixes)
    vendors = await load(f"# 100 prefixes \n{rows}")
    assert list(vendors._index) == sorted(vendors._index)
    assert all(vendors._find(module._key(prefix)) == f"V{prefix}" for prefix in prefixes)


@pytest.mark.parametrize("name, found", [("ESPRESSIF", True), ("espressif Systems", True), ("Not Espressif", False)])
async def test_vendor_is_espressif_by_first_word_in_any_case(load, name, found):
    vendors = await load(f"# 1 prefixes \n{name}\t246F28\n")
    assert vendors.is_espressif(ESP) is found


async def test_hostile_names_are_safe_to_show(load):
    hostile = f"\x1b[2J\x00Evil\u202e\u2028 Corp\t000002\n\x00\t000004\n{'x' * 999}\t000005\n\t000006\n".encode()
    vendors = await load(b"# 6 prefixes \n# comment\t000003\n\nno tab\n\xff\xfeB\t000008\n" + hostile + b"Last\t00000A")
    assert vendors.reason is None
    names = [vendors.name(f"00:00:{number:02X}:00:00:01") for number in (2, 3, 4, 5, 6, 8, 10)]
    assert names == ["[2JEvil Corp", None, None, "x" * 40, None, "\ufffd\ufffdB", "Last"]


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "No such file"),
        ("", "no header line"),
        ("Espressif Inc.\t246F28\n", "no header line"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "no header line"),
        (GOOD[:-6], "'AC' is not a MAC prefix"),
        (GOOD[:-18], "has 1 prefixes, but its header says 2"),
        (GOOD + "A\t000001\n", "has 3 prefixes, but its header says 2"),
        (GOOD.replace("ACDE400", "-CDE400"), "'-CDE400' is not a MAC prefix"),
        (GOOD.replace("ACDE400", "XCDE400"), "invalid literal"),
        (GOOD.replace("ACDE400", "ÄCDE400"), "ordinal not in range"),
        (GOOD + "x" * 4 * 1024 * 1024, "larger than 4194304 bytes"),
    ],
    ids=[
        "no file",
        "empty",
        "no header",
        "binary",
        "cut in a prefix",
        "cut in a name",
        "too many",
        "negative",
        "not hexadecimal",
        "not ASCII",
        "too large",
    ],
)
async def test_damaged_table_is_reported(load, content, reason):
    vendors = await load(content)
    assert vendors.reason.startswith("the vendor table cannot be used: ")
    assert reason in vendors.reason
    assert (vendors.name(ESP), vendors.is_espressif(ESP)) == (None, False)


COST = """
import asyncio, sys
from pathlib import Path
from pi_orchestrator.net.oui import VendorLookup

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4

async def main():
    await asyncio.to_thread(int)
    before = resident()
    vendors = VendorLookup()
    await vendors.load()
    assert vendors.reason is None
    print(resident() - before, "scapy" in sys.modules)

asyncio.run(main())
"""


def test_load_needs_at_most_2_mib():
    done = subprocess.run(
        [sys.executable, "-c", COST],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    kib, imported = done.stdout.split()
    assert imported == "False"
    assert int(kib) <= 2048


# The generator, on samples in the format of the package.


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("oui_table", ROOT / "scripts/oui_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


HEAD = "Registry,Assignment,Organization Name,Organization Address\r\n"
OUI = f"""{HEAD}MA-L,246F28,Espressif Inc.,"Room 204, Building 2, Shanghai CN 201203 "\r
MA-L,001BC5,IEEE Registration Authority,445 Hoes Lane Piscataway NJ US 08554 \r
MA-L,0001C8,THOMAS CONRAD CORP.,1908-R KRAMER LANE AUSTIN TX US 78758 \r
MA-L,0001C8,CONRAD CORP.,     \r
MA-L,02608C,3COM,5400 BAYFRONT PLAZA SANTA CLARA CA US 95052 \r
MA-L,080001,Private,\r
MA-L,30AEA4,ESPRESSIF INC.,\r
MA-L,083A8D,Espressif Inc.,\r
MA-L,080002,"Quoted ""Name"", Inc",\r
"""
MAM = f"{HEAD}MA-M,208593B,IOG Products LLC,9737 LURLINE AVENUE CHATSWORTH CA US 91311 \r\n"
OUI36 = f"{HEAD}MA-S,001BC5000,Converging Systems Inc.,\r\nMA-S,70B3D5F2F, IOG Products \r\n"
TABLE = """# 8 prefixes from Debian package ieee-data 1.2; generated by scripts/oui_table.py
CONRAD Corp.\t0001C8
Converging Systems\t001BC5000
Espressif Inc.\t083A8D 246F28 30AEA4
IOG Products\t208593B 70B3D5F2F
Quoted "Name"\t080002
"""


@pytest.fixture
def package(tmp_path):
    """An unpacked package."""
    folder = tmp_path / "usr/share/ieee-data"
    folder.mkdir(parents=True)
    for name, text in (("oui.csv", OUI), ("mam.csv", MAM), ("oui36.csv", OUI36)):
        (folder / name).write_bytes(text.encode())
    return tmp_path


async def test_generated_table_can_be_loaded(generator, package, load):
    table = generator.make_table(generator.read_package(package), version="1.2")
    assert table == TABLE
    vendors = await load(table)
    assert vendors.reason is None
    assert vendors.name("70:B3:D5:F2:F0:01") == "IOG Products"


def test_generator_ignores_input_order(generator, package):
    assignments = list(generator.read_package(package))
    assert generator.make_table(reversed(assignments), version="1.2") == TABLE


@pytest.mark.parametrize("prefix", ["", "246F2", "246F2800", "246f28", "24-6F-28"])
def test_generator_rejects_invalid_prefix(generator, prefix):
    with pytest.raises(ValueError, match="is not a MAC prefix"):
        list(generator.read_registry([HEAD, f"MA-L,{prefix},Name,\r\n"]))


@pytest.mark.parametrize(
    "registered, name",
    [
        ("Espressif Inc.", "Espressif Inc."),
        ("Apple, Inc.", "Apple Inc."),
        ("NETGEAR", "NETGEAR"),
        ("Nokia Corporation", "Nokia Corp."),
        ("Acme Company Limited", "Acme Ltd"),
        ("HUAWEI TECHNOLOGIES CO.,LTD", "HUAWEI TECHNOLOGIES"),
        ("Samsung Electronics Co.,Ltd", "Samsung Electronics"),
        ("New H3C Technologies Co., Ltd", "New H3C Technologies"),
        ("Anton Paar GmbH &amp; Co. KG", "Anton Paar"),
        ("Nova Sistemi S.p.A.", "Nova Sistemi"),
        ("Tata Power Pvt. Ltd.", "Tata Power"),
        ("Bosch-AG", "Bosch-AG"),
        ("Coast Data Cosco", "Coast Data Cosco"),
        ("  Shenzhen\tSkyworth  Digital\u2002", "Shenzhen Skyworth Digital"),
        ("\x1b# Evil\u202e One", "Evil One"),
        ("3S - Sensors, Signal Processing, Systems and more", "3S - Sensors, Signal Processing, Systems"),
        ("A Beltrónica-Companhia de Comunicações, Lda", "A Beltrónica-Companhia de Comunicações"),
        ("\u200e", ""),
    ],
)
def test_generator_shortens_registered_name(generator, registered, name):
    assert generator.short_name(registered) == name


def test_generator_without_package_fails(generator, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["oui_table.py", "/nonexistent.deb"])
    monkeypatch.setattr(generator, "_output", lambda *command: str(Path(command[-1], "missing")))
    assert generator.main() == 1
    assert "apt-get install ieee-data" in capsys.readouterr().err


@pytest.mark.parametrize("before, code", [(TABLE, 0), (TABLE + "x", 1), (None, 1)], ids=["same", "other", "missing"])
def test_generator_check_compares_and_writes_nothing(generator, tmp_path, monkeypatch, before, code):
    file = tmp_path / "oui.txt"
    if before:
        file.write_text(before)
    monkeypatch.setattr(generator, "TABLE", file)
    monkeypatch.setattr(generator, "generate", lambda package: TABLE)
    monkeypatch.setattr(sys, "argv", ["oui_table.py", "--check"])
    assert generator.main() == code
    assert (file.read_text() if file.exists() else None) == before
    monkeypatch.setattr(sys, "argv", ["oui_table.py"])
    assert generator.main() == 0
    assert file.read_text() == TABLE
