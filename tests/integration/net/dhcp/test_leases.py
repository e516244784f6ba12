"""Lease files that are rewritten, replaced, truncated, deleted, unreadable or invalid."""

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from pi_orchestrator.net.dhcp import leases as module
from pi_orchestrator.net.dhcp.lease_file import MAX_LEASES
from pi_orchestrator.net.dhcp.leases import LeaseFiles
from tests.support.unprivileged import unprivileged
from tests.support.waiting import HANG_S

MAC, OTHER = "24:6F:28:B0:F7:F1", "24:6F:28:CA:00:10"


def line(mac=MAC, ip="192.168.10.20", name="cam", *, expires=0):
    return f"{int(expires)} {mac.lower()} {ip} {name} *\n"


def addresses_of(leases):
    return {(lease.mac, str(lease.ip)) for lease in leases}


def make_old(path, seconds=10):
    """Set the modification time back: while it is recent, it does not show whether a file has changed."""
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def root(tmp_path):
    for folder in ("var/lib/misc", "var/lib/NetworkManager"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def dnsmasq(root):
    return root / "var/lib/misc/dnsmasq.leases"


@pytest.fixture
def manager(root):
    return root / "var/lib/NetworkManager/dnsmasq-wlan0.leases"


@pytest.fixture
def files(root, clock):
    return LeaseFiles(interface="wlan0", clock=clock, root=root)


async def test_default_files_are_read(files, dnsmasq, manager):
    dnsmasq.write_text(line(MAC))
    manager.write_text(line(OTHER, "192.168.10.21"))
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.20"), (OTHER, "192.168.10.21")}
    assert files.reason is None


async def test_hotspot_of_other_interface_is_ignored(files, manager):
    manager.with_name("dnsmasq-wlan1.leases").write_text(line())
    assert await files.read() == ()
    assert files.reason is not None


async def test_configured_files_replace_defaults(root, clock, dnsmasq, tmp_path):
    dnsmasq.write_text(line(OTHER))
    own = tmp_path / "own.leases"
    own.write_text(line(MAC))
    files = LeaseFiles(interface="wlan0", configured=(own, tmp_path / "none"), clock=clock, root=root)
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.20")}
    assert files.reason is None


async def test_missing_files_are_the_reason(files, dnsmasq, manager):
    assert files.reason is None
    assert await files.read() == ()
    assert files.reason == f"no lease file found at {dnsmasq}, {manager}"


@pytest.mark.parametrize("is_old", [True, False], ids=["old", "new"])
async def test_unchanged_leases_are_not_reported_again(files, dnsmasq, is_old):
    dnsmasq.write_text(line())
    if is_old:
        make_old(dnsmasq)
    assert await files.read()
    assert await files.read() is None
    assert await files.read() is None


async def test_old_file_is_read_once(files, dnsmasq, monkeypatch):
    dnsmasq.write_text(line())
    make_old(dnsmasq)
    reads = []
    monkeypatch.setattr(module, "read_bounded", lambda path, **kwargs: reads.append(path) or original(path, **kwargs))
    await files.read()
    await files.read()
    await files.read()
    assert reads.count(dnsmasq) == 1


original = module.read_bounded


async def test_file_rewritten_in_place_is_read(files, dnsmasq):
    dnsmasq.write_text(line())
    make_old(dnsmasq)
    await files.read()
    dnsmasq.write_text(line(ip="192.168.10.30") + line(OTHER, "192.168.10.21"))
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.30"), (OTHER, "192.168.10.21")}


async def test_change_within_a_clock_tick_is_read(files, dnsmasq):
    """Same file, size and modification time: read again only because that time is recent."""
    dnsmasq.write_text(line(ip="192.168.10.20"))
    status = dnsmasq.stat()
    await files.read()
    dnsmasq.write_text(line(ip="192.168.10.21"))
    os.utime(dnsmasq, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.21")}


async def test_replaced_file_is_read(files, dnsmasq):
    dnsmasq.write_text(line(ip="192.168.10.20"))
    make_old(dnsmasq)
    await files.read()
    other = dnsmasq.with_name("new")
    other.write_text(line(ip="192.168.10.99"))
    status = dnsmasq.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert other.stat().st_size == status.st_size
    other.replace(dnsmasq)
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.99")}


async def test_truncated_file_has_no_leases(files, dnsmasq):
    dnsmasq.write_text(line())
    make_old(dnsmasq)
    await files.read()
    dnsmasq.write_text("")
    assert await files.read() == ()
    assert files.reason is None
    dnsmasq.write_text(line())
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.20")}


async def test_deleted_file_sets_reason(files, dnsmasq):
    dnsmasq.write_text(line())
    make_old(dnsmasq)
    await files.read()
    dnsmasq.unlink()
    assert await files.read() == ()
    assert "no lease file found" in files.reason
    assert await files.read() is None
    dnsmasq.write_text(line())
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.20")}
    assert files.reason is None


async def test_unreadable_file_sets_reason(files, manager):
    manager.write_text(line())
    manager.chmod(0)
    unprivileged()
    assert await files.read() == ()
    assert files.reason == f"{manager}: permission denied"
    manager.chmod(0o644)
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.20")}
    assert files.reason is None


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "NUL"])
async def test_special_file_sets_reason(root, clock, tmp_path, kind):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path = Path("a\0b")
    files = LeaseFiles(interface="wlan0", configured=(path,), clock=clock, root=root)
    assert await asyncio.wait_for(files.read(), HANG_S) == ()
    assert str(path) in files.reason


async def test_huge_file_is_read_to_the_limit(files, dnsmasq):
    filler = line("02:00:00:00:00:01", name="x" * 200)
    count = 3 * module.MAX_BYTES // len(filler)
    dnsmasq.write_text(line() + filler * count)
    leases = await files.read()
    assert (MAC, "192.168.10.20") in addresses_of(leases)
    whole = (module.MAX_BYTES - len(line())) // len(filler)
    assert files.skipped == whole + 1 - MAX_LEASES + 1, "beyond the limit, and the line that the limit has cut"


async def test_invalid_lines_are_counted(files, dnsmasq):
    dnsmasq.write_bytes(b"\xff\xfe\n" + line().encode() + b"nonsense\n")
    assert len(await files.read()) == 1
    assert files.skipped == 2


async def test_expired_leases_are_omitted(files, dnsmasq, clock):
    now = clock.wall().timestamp()
    dnsmasq.write_text(
        line(expires=now + 60) + line(OTHER, "192.168.10.21", expires=0) + line(ip="192.168.10.9", expires=now - 1)
    )
    make_old(dnsmasq)
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.20"), (OTHER, "192.168.10.21")}
    assert await files.read() is None
    await clock.advance(61)
    assert addresses_of(await files.read()) == {(OTHER, "192.168.10.21")}


async def test_untrusted_clock_expires_no_lease(files, dnsmasq, clock):
    """A Pi without a real-time clock has a wrong date until time synchronization."""
    dnsmasq.write_text(line(expires=clock.wall().timestamp() + 60))
    clock.is_trusted = False
    clock.jump_wall(timedelta(days=400))
    assert addresses_of(await files.read()) == {(MAC, "192.168.10.20")}
    clock.is_trusted = True
    assert await files.read() == ()


async def test_duplicate_lease_that_expires_later_is_used(files, dnsmasq, manager, clock):
    now = clock.wall().timestamp()
    dnsmasq.write_text(line(name="old", expires=now + 10))
    manager.write_text(line(name="new", expires=now + 3600))
    leases = await files.read()
    assert [lease.host_name for lease in leases] == ["new"]


async def test_concurrent_rewrites_are_read_completely(files, dnsmasq):
    """A server writes in place during the reads: only complete lines are reported."""
    contents = [line(ip=f"192.168.10.{n}") * 40 for n in (20, 200)]
    dnsmasq.write_text(contents[0])
    done = asyncio.Event()

    def rewrite():
        for number in range(1000):
            with dnsmasq.open("r+") as file:
                file.write(contents[number % 2])
                file.truncate()

    writing = asyncio.get_running_loop().run_in_executor(None, rewrite)
    writing.add_done_callback(lambda _: done.set())
    while not done.is_set():
        leases = await files.read()
        assert leases is None or addresses_of(leases) <= {(MAC, f"192.168.10.{n}") for n in (20, 200)}
    await writing
    dnsmasq.write_text(contents[0])
    await files.read()
    assert files._last_leases is not None
    assert addresses_of(files._last_leases) == {(MAC, "192.168.10.20")}
