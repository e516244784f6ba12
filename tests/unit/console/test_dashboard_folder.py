"""A dashboard's folder: files replaced between check and open, files modified while they are read."""

import os

import pytest

from pi_orchestrator.console import dashboard_folder
from pi_orchestrator.console.dashboard_folder import DashboardFolder, StableFile
from pi_orchestrator.core.errors import RateLimitedError


def link(file):
    file.symlink_to("/etc/passwd")


def pipe(file):
    os.mkfifo(file)


def sparse(file):
    file.touch()
    os.truncate(file, dashboard_folder.MAX_FILE_BYTES + 1)


@pytest.fixture
def folder(tmp_path, clock):
    return DashboardFolder(tmp_path, clock=clock)


@pytest.mark.timeout(5)  # opening a pipe for reading would block
@pytest.mark.parametrize("trap", [link, pipe, sparse])
def test_irregular_or_too_large_file_is_not_opened(tmp_path, folder, trap):
    trap(tmp_path / "trap.txt")
    assert folder.open(("trap.txt",), ()) is None


@pytest.mark.timeout(5)
@pytest.mark.parametrize("trap", [link, pipe, sparse])
def test_file_swapped_after_check_is_not_read(tmp_path, folder, monkeypatch, trap):
    (tmp_path / "plain.txt").write_bytes(b"plain")
    trap(tmp_path / "trap.txt")
    fstat, swapped = os.fstat, []

    def swap_after_check(descriptor):
        status = fstat(descriptor)
        if not swapped:
            (tmp_path / "trap.txt").replace(tmp_path / "plain.txt")
            swapped.append(status)
        return status

    monkeypatch.setattr(dashboard_folder.os, "fstat", swap_after_check)
    found = folder.open(("plain.txt",), ())
    with found.content:
        assert found.content.read() == b"plain"
    assert swapped
    assert folder.open(("plain.txt",), ()) is None


def test_open_never_reads_device_or_fifo(tmp_path, folder, monkeypatch):
    pipe(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    opened = []
    real_open = os.open

    def record(path, flags, **options):
        opened.append((path, flags))
        return real_open(path, flags, **options)

    monkeypatch.setattr(dashboard_folder.os, "open", record)
    assert folder.open(("pipe",), ()) is None
    assert folder.open(("link",), ()) is None
    assert opened
    assert all(flags & os.O_PATH for _, flags in opened)


def test_compressed_page_keeps_script_hashes(tmp_path, folder):
    (tmp_path / "index.html").write_bytes(b"<script>let a</script>")
    (tmp_path / "index.html.gz").write_bytes(b"compressed")
    plain, packed = (folder.open(("index.html",), encodings) for encodings in ((), ("gzip",)))
    with plain.content, packed.content:
        assert packed.content.read() == b"compressed"
        assert packed.scripts == plain.scripts
        assert plain.scripts


def test_etag_of_changed_file_with_same_size_and_time_differs(tmp_path, folder):
    file = tmp_path / "index.html"
    tags = set()
    for content in (b"one", b"two"):
        file.write_bytes(content)
        os.utime(file, (1, 1))
        found = folder.open(("index.html",), ())
        found.content.close()
        tags.add(found.etag)
    assert len(tags) == 2


@pytest.mark.parametrize("content", [b"x", b"other", b"longer than before"])
def test_reading_modified_file_fails(tmp_path, content):
    file = tmp_path / "file"
    file.write_bytes(b"first")
    os.utime(file, (1, 1))
    stable = StableFile(os.open(file, os.O_RDONLY))
    assert stable.read(2) == b"fi"
    file.write_bytes(content)
    with pytest.raises(OSError, match="modified"):
        stable.read(2)
    assert stable.closed


def test_file_written_while_it_is_opened_is_a_rate_limit_error(tmp_path, folder, monkeypatch):
    file = tmp_path / "file.bin"
    file.write_bytes(b"first")
    os.utime(file, (1, 1))

    class Written(StableFile):
        def __init__(self, descriptor):
            super().__init__(descriptor)
            file.write_bytes(b"first and second")

    monkeypatch.setattr(dashboard_folder, "StableFile", Written)
    with pytest.raises(RateLimitedError):
        folder.open(("file.bin",), ())
