"""Files of a folder that somebody else fills: read without leaving it, shared while they are being sent.

All of it touches the file system and belongs into a thread. The folder may change, break or go at any moment, and
what is in it is not trusted: no symbolic link below it is followed, nothing but a plain file is opened, and nothing
that is too large for memory is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from pi_orchestrator.api.web_files import INDEX, inline_scripts, media_type
from pi_orchestrator.clock import Clock
from pi_orchestrator.errors import NotFoundError, RateLimitedError

MAX_FILE_BYTES = 16 * 2**20
KEPT_BYTES = 16 * 2**20
IN_USE_BYTES = 64 * 2**20
QUIET_S = 2.0
SETTLED_S = 60.0
STALE_SIBLING_S = 60.0
ATTEMPTS = 3
_SUFFIXES = {"br": ".br", "gzip": ".gz"}
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# Without waiting for whoever would write into a pipe.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_Identity = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Body:
    """The bytes of a file, with their tag and the inline scripts of a page; shared by all who are sent it."""

    data: bytes
    etag: str
    scripts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What answers for a path: bytes, how they are encoded ("" as they are), and whether they may change soon."""

    parts: tuple[str, ...]
    body: Body
    encoding: str = ""
    settled: bool = False

    @property
    def media_type(self) -> str:
        """The type of what is encoded."""
        return media_type(self.parts[-1])


def make_body(name: str, data: bytes) -> Body:
    """Bytes, tagged by what they are: the same file copied once more is still the same."""
    scripts = inline_scripts(data) if media_type(name).startswith("text/html") else ()
    return Body(data, f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"', scripts)


class DashboardFolder:
    """A folder with a built page."""

    def __init__(self, root: Path, *, clock: Clock) -> None:
        self.root = root
        self._clock = clock
        self._shelf = _Shelf()

    def trouble(self) -> str:
        """Why there is no page in it, in words; "" where there is one."""
        try:
            with self._inside(()) as folder, _opened(INDEX, folder):
                return ""
        except NotFoundError as error:
            return f"{self.root}/{INDEX}: {error.details}"
        except OSError as error:
            return f"{self.root}/{INDEX}: {error.strerror}"

    def read(self, parts: tuple[str, ...], encodings: Sequence[str]) -> Found | None:
        """A file, compressed where a sibling is and the client takes it; None where there is none."""
        *folders, name = parts
        try:
            with self._inside(folders) as folder:
                with _opened(name, folder) as file:
                    original = os.fstat(file)
                for encoding in encodings:
                    with (
                        contextlib.suppress(OSError, NotFoundError),
                        _opened(name + _SUFFIXES[encoding], folder) as file,
                    ):
                        # A new build that brings no compressed files leaves those of the one before.
                        if os.fstat(file).st_mtime >= original.st_mtime - STALE_SIBLING_S:
                            return self._found(parts, file, encoding)
                with _opened(name, folder) as file:
                    return self._found(parts, file, "")
        except OSError:
            return None

    def _found(self, parts: tuple[str, ...], file: int, encoding: str) -> Found:
        # Measured by the wall, as files are; a file from the future is one that we know nothing about.
        quiet_s = self._clock.wall().timestamp() - os.fstat(file).st_mtime
        name = parts[-1] + _SUFFIXES.get(encoding, "")
        return Found(parts, self._shelf.body(name, file, quiet=quiet_s > QUIET_S), encoding, quiet_s > SETTLED_S)

    @contextlib.contextmanager
    def _inside(self, folders: Sequence[str]) -> Iterator[int]:
        """A folder below the root; the root itself may be a link, so that builds can be switched."""
        at = os.open(self.root, _FOLDER)
        try:
            for name in folders:
                below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)


class _Shelf:
    """Bodies by what their files are: the same bytes are in memory once, however many are being sent them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_use: WeakValueDictionary[_Identity, Body] = WeakValueDictionary()
        self._kept: OrderedDict[_Identity, Body] = OrderedDict()
        self._reads = itertools.count()

    def body(self, name: str, file: int, *, quiet: bool) -> Body:
        """The bytes of an open file; RateLimitedError while too much is being sent."""
        identity = _identity(os.fstat(file))
        with self._lock:
            known = self._in_use.get(identity)
            if known is not None and quiet:
                self._keep(identity, known)
                return known
            room = IN_USE_BYTES - sum(len(body.data) for body in self._in_use.values())
        body = _read(name, file, room)
        with self._lock:
            # What was written a moment ago may be written once more without a trace in its times: not shared.
            self._in_use[identity if quiet else (*identity, next(self._reads))] = body
            if quiet:
                self._keep(identity, body)
        return body

    def _keep(self, identity: _Identity, body: Body) -> None:
        self._kept[identity] = body
        self._kept.move_to_end(identity)
        while sum(len(body.data) for body in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)


def _read(name: str, file: int, room: int) -> Body:
    data = b""
    for _ in range(ATTEMPTS):
        before = os.fstat(file)
        if before.st_size > room:
            raise RateLimitedError("too many large files are being sent", retry_after_s=5)
        data = os.pread(file, before.st_size, 0)
        if _identity(os.fstat(file)) == _identity(before):
            break
    return make_body(name, data)


@contextlib.contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    """A plain file of a folder; looked at before it is opened, because opening a device can have effects."""
    _check(os.stat(name, dir_fd=folder, follow_symlinks=False))
    file = os.open(name, _FILE, dir_fd=folder)
    try:
        _check(os.fstat(file))
        yield file
    finally:
        os.close(file)


def _check(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise NotFoundError("there is nothing here", details="symbolic links are not followed")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EISDIR, "it is no plain file")
    if status.st_size > MAX_FILE_BYTES:
        raise NotFoundError("there is nothing here", details=f"the file is over {MAX_FILE_BYTES // 2**20} MiB")


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
