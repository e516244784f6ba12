"""Lease files as servers treat them: written anew, replaced, cut, gone and back, and not for everybody's eyes."""

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from pi_orchestrator.domain.lease import MAX_LEASES
from pi_orchestrator.net import leases as module
from pi_orchestrator.net.leases import LeaseFiles
from tests.support.powerless import powerless

MAC, OTHER = "24:6F:28:B0:F7:F1", "24:6F:28:CA:00:10"


def line(mac=MAC, ip="192.168.10.20", name="cam", *, expires=0):
    return f"{int(expires)} {mac.lower()} {ip} {name} *\n"


def seen(leases):
    return {(lease.mac, str(lease.ip)) for lease in leases}


def age(path, seconds=10):
    """As if the file had been written that long ago: only then is its time of writing to be relied on."""
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


async def test_the_usual_places_are_found(files, dnsmasq, manager):
    dnsmasq.write_text(line(MAC))
    manager.write_text(line(OTHER, "192.168.10.21"))
    assert seen(await files.read()) == {(MAC, "192.168.10.20"), (OTHER, "192.168.10.21")}
    assert files.reason is None


async def test_another_interfaces_hotspot_is_not_ours(files, manager):
    manager.with_name("dnsmasq-wlan1.leases").write_text(line())
    assert await files.read() == ()
    assert files.reason is not None


async def test_configured_files_are_read_instead(root, clock, dnsmasq, tmp_path):
    dnsmasq.write_text(line(OTHER))
    own = tmp_path / "own.leases"
    own.write_text(line(MAC))
    files = LeaseFiles(interface="wlan0", configured=(own, tmp_path / "none"), clock=clock, root=root)
    assert seen(await files.read()) == {(MAC, "192.168.10.20")}
    assert files.reason is None


async def test_where_there_is_none_it_says_where_it_looked(files, dnsmasq, manager):
    assert files.reason is None
    assert await files.read() == ()
    assert files.reason == f"no lease file found at {dnsmasq}, {manager}"


@pytest.mark.parametrize("aged", [True, False], ids=["old", "just written"])
async def test_what_has_not_changed_is_not_told_again(files, dnsmasq, aged):
    dnsmasq.write_text(line())
    if aged:
        age(dnsmasq)
    assert await files.read()
    assert await files.read() is None
    assert await files.read() is None


async def test_an_old_file_is_read_once(files, dnsmasq, monkeypatch):
    dnsmasq.write_text(line())
    age(dnsmasq)
    reads = []
    monkeypatch.setattr(module, "read_bounded", lambda path, **how: reads.append(path) or original(path, **how))
    await files.read()
    await files.read()
    await files.read()
    assert reads.count(dnsmasq) == 1


original = module.read_bounded


async def test_written_anew_in_place(files, dnsmasq):
    dnsmasq.write_text(line())
    age(dnsmasq)
    await files.read()
    dnsmasq.write_text(line(ip="192.168.10.30") + line(OTHER, "192.168.10.21"))
    assert seen(await files.read()) == {(MAC, "192.168.10.30"), (OTHER, "192.168.10.21")}


async def test_a_change_within_one_tick_of_the_file_systems_clock_is_not_missed(files, dnsmasq):
    """Same file, same length, same time of writing: only that this time is so young gives it away."""
    dnsmasq.write_text(line(ip="192.168.10.20"))
    status = dnsmasq.stat()
    await files.read()
    dnsmasq.write_text(line(ip="192.168.10.21"))
    os.utime(dnsmasq, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert seen(await files.read()) == {(MAC, "192.168.10.21")}


async def test_replaced_by_another_file(files, dnsmasq):
    dnsmasq.write_text(line(ip="192.168.10.20"))
    age(dnsmasq)
    await files.read()
    other = dnsmasq.with_name("new")
    other.write_text(line(ip="192.168.10.99"))
    status = dnsmasq.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert other.stat().st_size == status.st_size
    other.replace(dnsmasq)
    assert seen(await files.read()) == {(MAC, "192.168.10.99")}


async def test_cut_to_nothing_and_filled_again(files, dnsmasq):
    dnsmasq.write_text(line())
    age(dnsmasq)
    await files.read()
    dnsmasq.write_text("")
    assert await files.read() == ()
    assert files.reason is None
    dnsmasq.write_text(line())
    assert seen(await files.read()) == {(MAC, "192.168.10.20")}


async def test_gone_and_back(files, dnsmasq):
    dnsmasq.write_text(line())
    age(dnsmasq)
    await files.read()
    dnsmasq.unlink()
    assert await files.read() == ()
    assert "no lease file found" in files.reason
    assert await files.read() is None
    dnsmasq.write_text(line())
    assert seen(await files.read()) == {(MAC, "192.168.10.20")}
    assert files.reason is None


async def test_not_for_our_eyes(files, manager):
    manager.write_text(line())
    manager.chmod(0)
    powerless()
    assert await files.read() == ()
    assert files.reason == f"{manager}: permission denied"
    manager.chmod(0o644)
    assert seen(await files.read()) == {(MAC, "192.168.10.20")}
    assert files.reason is None


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "NUL"])
async def test_what_is_no_file_neither_blocks_nor_raises(root, clock, tmp_path, kind):
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
    assert await asyncio.wait_for(files.read(), 5) == ()
    assert str(path) in files.reason


async def test_a_file_without_end_is_read_to_a_limit(files, dnsmasq):
    filler = line("02:00:00:00:00:01", name="x" * 200)
    count = 3 * module.MAX_BYTES // len(filler)
    dnsmasq.write_text(line() + filler * count)
    leases = await files.read()
    assert (MAC, "192.168.10.20") in seen(leases)
    whole = (module.MAX_BYTES - len(line())) // len(filler)
    assert files.skipped == whole + 1 - MAX_LEASES + 1, "too many, and the one that the limit has cut"


async def test_lines_that_make_no_sense_are_counted(files, dnsmasq):
    dnsmasq.write_bytes(b"\xff\xfe\n" + line().encode() + b"nonsense\n")
    assert len(await files.read()) == 1
    assert files.skipped == 2


async def test_expired_leases_are_left_out_once_their_time_has_come(files, dnsmasq, clock):
    now = clock.wall().timestamp()
    dnsmasq.write_text(
        line(expires=now + 60) + line(OTHER, "192.168.10.21", expires=0) + line(ip="192.168.10.9", expires=now - 1)
    )
    age(dnsmasq)
    assert seen(await files.read()) == {(MAC, "192.168.10.20"), (OTHER, "192.168.10.21")}
    assert await files.read() is None
    await clock.advance(61)
    assert seen(await files.read()) == {(OTHER, "192.168.10.21")}


async def test_a_clock_that_is_not_sure_ends_no_lease(files, dnsmasq, clock):
    """A Pi boots in the past, or believes a wrong date until it hears the right one."""
    dnsmasq.write_text(line(expires=clock.wall().timestamp() + 60))
    clock.is_trusted = False
    clock.jump_wall(timedelta(days=400))
    assert seen(await files.read()) == {(MAC, "192.168.10.20")}
    clock.is_trusted = True
    assert await files.read() == ()


async def test_where_two_servers_files_tell_of_one_lease_the_later_end_holds(files, dnsmasq, manager, clock):
    now = clock.wall().timestamp()
    dnsmasq.write_text(line(name="old", expires=now + 10))
    manager.write_text(line(name="new", expires=now + 3600))
    leases = await files.read()
    assert [lease.host_name for lease in leases] == ["new"]


async def test_a_thousand_rewrites_are_never_half_believed(files, dnsmasq):
    """A server that writes in place while we read: what is told is always whole lines."""
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
        assert leases is None or seen(leases) <= {(MAC, f"192.168.10.{n}") for n in (20, 200)}
    await writing
    dnsmasq.write_text(contents[0])
    await files.read()
    assert files._told is not None
    assert seen(files._told) == {(MAC, "192.168.10.20")}
