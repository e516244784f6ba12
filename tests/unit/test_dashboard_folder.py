"""The window between looking at a file and opening it: what was swapped in meanwhile is not read either."""

import os

import pytest

from pi_orchestrator.api import dashboard_folder
from pi_orchestrator.api.dashboard_folder import DashboardFolder
from pi_orchestrator.errors import NotFoundError


def link(file):
    file.symlink_to("/etc/passwd")


def pipe(file):
    os.mkfifo(file)


def sparse(file):
    file.touch()
    os.truncate(file, dashboard_folder.MAX_FILE_BYTES + 1)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("trap", [link, pipe, sparse])
def test_what_took_the_place_of_a_file_is_not_read(tmp_path, clock, monkeypatch, trap):
    (tmp_path / "plain.txt").write_bytes(b"plain")
    trap(tmp_path / "trap.txt")
    folder = DashboardFolder(tmp_path, clock=clock)
    as_it_was = (tmp_path / "plain.txt").stat()
    monkeypatch.setattr(dashboard_folder.os, "stat", lambda *_, **__: as_it_was)
    assert folder.read(("plain.txt",), ()).body.data == b"plain"
    if trap is sparse:
        with pytest.raises(NotFoundError):
            folder.read(("trap.txt",), ())
    else:
        assert folder.read(("trap.txt",), ()) is None
