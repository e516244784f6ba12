"""The check by `doctor` whether the daemon can use its state folder.

A file is written, synced and read there, and the database is read. If root runs it, it also checks that the daemon's
user can read and write the folder and its files.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pi_orchestrator.features.system.cli_finding import Finding
from pi_orchestrator.features.system.doctor_access import USER, missing_access
from pi_orchestrator.settings import Settings
from pi_orchestrator.storage.files import DATABASE, LOCK
from pi_orchestrator.storage.read_check import read_error

_CONTENT = b"written by pi-orchestrator doctor\n" * 512


def check_state_dir(settings: Settings) -> Finding:
    """Check that the daemon can create or use its folder; leaves nothing behind."""
    folder = settings.storage.state_dir
    if not folder.exists():
        parent = next(path for path in folder.parents if path.exists())
        if (error := _write_error(parent)) is None:
            return Finding("state", "ok", f"{folder} will be created at the first start")
        return Finding(
            "state",
            "fail",
            f"{folder} does not exist, and this user cannot create it: {error}",
            "install with scripts/install.sh, or use --state-dir",
        )
    if error := _write_error(folder):
        return Finding(
            "state",
            "fail",
            f"{folder} is not writable by this user: {error}",
            "free up disk space, run as the daemon's user, or use --state-dir",
        )
    ownership_remedy = f"sudo chown -R {USER}: {folder}, and: sudo chmod -R u+rwX {folder}"
    if problem := missing_access(folder, write=True):
        return Finding("state", "fail", problem, ownership_remedy)
    for name in (LOCK, DATABASE):
        if error := _open_error(folder / name):
            remedy = f"{ownership_remedy}; or run as the daemon's user"
            return Finding("state", "fail", f"{folder / name} cannot be opened: {error}", remedy)
        if (folder / name).exists() and (problem := missing_access(folder / name, write=True)):
            return Finding("state", "fail", problem, ownership_remedy)
    if error := read_error(folder / DATABASE):
        return Finding(
            "state",
            "fail",
            f"the database {folder / DATABASE} cannot be read: {error}",
            "restart the daemon: it moves a damaged database aside and keeps the rows that can be read",
        )
    return Finding("state", "ok", f"{folder} is writable: a file was written, synced and read")


def _write_error(folder: Path) -> str | None:
    """Why a file cannot be written, synced and read in a folder; None if it can."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
            file = Path(name) / "file"
            with file.open("wb") as out:
                out.write(_CONTENT)
                out.flush()
                os.fsync(out.fileno())
            if file.read_bytes() != _CONTENT:
                return "what is read is not what was written"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _open_error(file: Path) -> str | None:
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror or str(error)
    return None
