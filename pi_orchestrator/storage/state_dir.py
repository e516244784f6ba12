"""State folder: lock against a second daemon, clean-shutdown marker, private files."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from pi_orchestrator.core.errors import StartupError
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.storage.files import BACKUPS, CLEAN_MARKER, DATABASE, LOCK, SESSION_SECRET, STARTS
from pi_orchestrator.storage.schema import fsync_folder

log = get_logger(__name__)


class StateDir:
    """The state folder; locked from `lock` to `unlock`."""

    def __init__(self, path: Path) -> None:
        self._lock: int | None = None
        self.path = path
        self.database = path / DATABASE
        self.backups = path / BACKUPS

    def lock(self) -> None:
        """Create the folder if needed and lock it; StartupError with a remedy if that fails."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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

    def unlock(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def take_clean_marker(self) -> bool:
        """Remove the clean-shutdown marker; returns whether it existed."""
        marker = self.path / CLEAN_MARKER
        was_clean = marker.exists()
        if was_clean:
            marker.unlink()
            fsync_folder(self.path)
        return was_clean

    def leave_clean_marker(self) -> None:
        """Mark that the database was closed cleanly."""
        (self.path / CLEAN_MARKER).touch(mode=0o600)
        fsync_folder(self.path)

    def count_start(self) -> int:
        """Increment and return the number of starts; ids made from it are not reused by a later start."""
        try:
            number = max(0, int((self.path / STARTS).read_bytes()[:20])) + 1
        except (OSError, ValueError):
            number = 1
        try:
            self.write_private(STARTS, b"%d\n" % number)
        except OSError as error:
            # A full disk must not prevent the start.
            log.warning("start counter not written, log line ids may repeat", reason=error.strerror)
        return number

    def session_secret(self) -> bytes:
        """The secret that signs session cookies; created at first use."""
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
        """Write a file of mode 0600 atomically; returns its path."""
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
            partial.unlink(missing_ok=True)  # the rest of it would take space on a full disk
            raise
        fsync_folder(self.path)
        return target
