"""The state folder: one daemon at a time, a marker of the last clean shutdown, and key files that only we read."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from pi_orchestrator.errors import StartupError
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage.schema import fsync_folder

DATABASE = "orchestrator.db"
BACKUPS = "backups"
ADMIN_KEY = "admin.key"
SESSION_SECRET = "session.secret"  # noqa: S105  # a file's name
STARTS = "starts"
_LOCK = "lock"
_CLEAN = "clean-shutdown"

log = get_logger(__name__)


class StateDir:
    """The folder as it is used, from `claim` to `release`."""

    def __init__(self, path: Path) -> None:
        self._lock: int | None = None
        self.path = path
        self.database = path / DATABASE
        self.backups = path / BACKUPS

    def claim(self) -> None:
        """Create the folder if needed and hold it alone; StartupError says what to do where that fails."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupError(
                f"cannot use the state folder {self.path}: {error.strerror}",
                remedy="make it writable for this user, or choose another with --state-dir",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise StartupError(
                f"another daemon uses the state folder {self.path}",
                remedy="stop it (systemctl stop pi-orchestrator), or choose another with --state-dir",
            ) from None
        self._lock = descriptor

    def release(self) -> None:
        """Let the next daemon have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def take_clean_marker(self) -> bool:
        """Whether the last shutdown was clean; from now on it is not, until `leave_clean_marker`."""
        marker = self.path / _CLEAN
        was_clean = marker.exists()
        if was_clean:
            marker.unlink()
            fsync_folder(self.path)
        return was_clean

    def leave_clean_marker(self) -> None:
        """Say that the database was closed in order."""
        (self.path / _CLEAN).touch(mode=0o600)
        fsync_folder(self.path)

    def count_start(self) -> int:
        """Which start this is, from 1 on: what was made of the number of another one is never made again."""
        try:
            number = max(0, int((self.path / STARTS).read_bytes()[:20])) + 1
        except (OSError, ValueError):
            number = 1
        try:
            self.write_private(STARTS, b"%d\n" % number)
        except OSError as error:
            # A full disk is no reason not to start.
            log.warning("this start cannot be counted: ids of log lines may repeat", reason=error.strerror)
        return number

    def session_secret(self) -> bytes:
        """The secret behind session cookies; made at first use."""
        file = self.path / SESSION_SECRET
        try:
            secret = file.read_bytes()
        except FileNotFoundError:
            secret = b""
        if len(secret) != 32:
            secret = secrets.token_bytes(32)
            self.write_private(SESSION_SECRET, secret)
        return secret

    def write_private(self, name: str, content: bytes) -> Path:
        """Write a file of mode 0600 so that it is there whole or not at all."""
        target = self.path / name
        partial = target.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)  # on a full disk its bytes are missed elsewhere
            raise
        fsync_folder(self.path)
        return target
