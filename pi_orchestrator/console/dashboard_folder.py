"""A folder with a built dashboard: files opened without following links. Blocking: call it in a thread.

The folder's content is untrusted and may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi_orchestrator.console.static_files import INDEX, inline_scripts, media_type
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import RateLimitedError

MAX_FILE_BYTES = 16 * 2**20
SETTLED_S = 60.0
STALE_SIBLING_S = 60.0
_SUFFIXES = {"br": ".br", "gzip": ".gz"}
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC  # opens no device, FIFO or link, and pins what is then checked


@dataclass(frozen=True, slots=True)
class StaticFile:
    """An open file, closed by the receiver; `parts` is its path below the root, `encoding` is "" if not compressed.

    `scripts`: hashes of its inline scripts. `is_settled`: not modified for `SETTLED_S`, so it may be cached forever.
    """

    parts: tuple[str, ...]
    content: io.FileIO | io.BytesIO
    size: int
    etag: str
    encoding: str = ""
    scripts: tuple[str, ...] = ()
    is_settled: bool = False


class StableFile(io.FileIO):
    """An open file; `read` closes it and raises OSError (ESTALE) once it has been modified."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.status = os.fstat(descriptor)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes of the version that was opened."""
        data = super().read(size) or b""
        status = os.fstat(self.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns):
            self.close()
            raise OSError(errno.ESTALE, "the file was modified while it was read")
        return data

    def read_all(self) -> bytes:
        """Read the whole content and return to the start."""
        data = self.read()
        self.seek(0)
        return data


def content_tag(data: bytes) -> str:
    """An ETag of the content only, independent of time and size."""
    return f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'


class DashboardFolder:
    """A folder with a built dashboard."""

    def __init__(self, root: Path, *, clock: Clock) -> None:
        self.root = root
        self._clock = clock

    def unavailable_reason(self) -> str:
        """Why the folder has no usable dashboard; "" if it has one."""
        try:
            with self._folder(()) as folder, _open(INDEX, folder):
                return ""
        except OSError as error:
            return f"{self.root}/{INDEX}: {error.strerror}"

    def open(self, parts: tuple[str, ...], encodings: Sequence[str]) -> StaticFile | None:
        """Open a file or its compressed sibling; None if not found, RateLimitedError while it is being written."""
        *folders, name = parts
        try:
            with self._folder(folders) as folder:
                file, encoding = _open(name, folder), ""
                scripts = inline_scripts(file.read_all()) if media_type(name).startswith("text/html") else ()
                for candidate in encodings:
                    with contextlib.suppress(OSError):
                        sibling = _open(name + _SUFFIXES[candidate], folder)
                        # Compressed files of a previous build remain if the new build has none.
                        is_stale = sibling.status.st_mtime < file.status.st_mtime - STALE_SIBLING_S
                        (sibling if is_stale else file).close()
                        if not is_stale:
                            file, encoding = sibling, candidate
                            break
                data = file.read_all()
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise RateLimitedError("the file is being written", retry_after_s=1) from error
            return None
        # File times are wall time; a file time in the future is never settled.
        is_settled = self._clock.wall().timestamp() - file.status.st_mtime > SETTLED_S
        return StaticFile(parts, file, len(data), content_tag(data), encoding, scripts, is_settled)

    @contextlib.contextmanager
    def _folder(self, names: Sequence[str]) -> Iterator[int]:
        """A descriptor of a folder below the root; only the root may be a link, so that builds can be switched."""
        current = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                child = os.open(name, _PIN | os.O_DIRECTORY, dir_fd=current)
                os.close(current)
                current = child
            yield current
        finally:
            os.close(current)


def _open(name: str, folder: int) -> StableFile:
    """Open a regular file of a folder for reading; OSError for anything else."""
    pinned = os.open(name, _PIN, dir_fd=folder)
    try:
        status = os.fstat(pinned)
        if stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, "symbolic links are not followed")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"the file is over {MAX_FILE_BYTES // 2**20} MiB")
        return StableFile(os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        os.close(pinned)
