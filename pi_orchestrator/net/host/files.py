"""Bounded reads of files that other programs write. They block: call them in a thread."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Version:
    """Identifies the content of a path: a change of file, size or modification time is a new version."""

    device: int
    inode: int
    size: int
    written_ns: int


def file_version(path: Path) -> Version:
    """The current version of a path; OSError if it cannot be read."""
    return _version(_checked(path).stat())


def read_bounded(path: Path, *, max_bytes: int) -> tuple[bytes, Version]:
    """The first `max_bytes` bytes of a file, and its version before the read; OSError if it is not a regular file."""
    # Opening a pipe would block, and a device file may be endless: neither is accepted.
    descriptor = os.open(_checked(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        content = bytearray()
        while chunk := os.read(descriptor, min(65536, max_bytes - len(content))):
            content += chunk
    finally:
        os.close(descriptor)
    return bytes(content), _version(status)


def describe_error(path: Path, error: OSError) -> str:
    """Error text with the path: `/etc/x: permission denied`."""
    return f"{path}: {(error.strerror or type(error).__name__).lower()}"


def _version(status: os.stat_result) -> Version:
    return Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _checked(path: Path) -> Path:
    # Python would raise ValueError, which callers do not expect from a file operation.
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "path contains NUL")
    return path
