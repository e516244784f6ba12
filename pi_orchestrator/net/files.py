"""Small files that other programs write, read with bounds; for threads, because reading blocks."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Version:
    """Which content a path had: another file, size or time of writing is another version."""

    device: int
    inode: int
    size: int
    written_ns: int


def version_of(path: Path) -> Version:
    """The version that a path has now; OSError where there is none."""
    return _version(_proper(path).stat())


def read_bounded(path: Path, *, max_bytes: int) -> tuple[bytes, Version]:
    """The beginning of a regular file, at most `max_bytes`, and its version before reading; OSError otherwise."""
    # A pipe would block at opening, a device might never end: neither is what a program's file looks like.
    descriptor = os.open(_proper(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        content = bytearray()
        while part := os.read(descriptor, min(65536, max_bytes - len(content))):
            content += part
    finally:
        os.close(descriptor)
    return bytes(content), _version(status)


def why(path: Path, error: OSError) -> str:
    """A failure in words for people: `/etc/x: permission denied`."""
    return f"{path}: {(error.strerror or type(error).__name__).lower()}"


def _version(status: os.stat_result) -> Version:
    return Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _proper(path: Path) -> Path:
    # Python's own complaint would be a ValueError, which nobody expects of a file.
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "no path of a file")
    return path
