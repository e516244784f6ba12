"""The state folder: one daemon at a time, a marker of a clean shutdown, and private files."""

import os
import stat
import subprocess
import sys

import pytest

from pi_orchestrator.core.errors import StartupError
from pi_orchestrator.storage.files import ADMIN_KEY, SESSION_SECRET
from pi_orchestrator.storage.state_dir import StateDir


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a" / "state"


@pytest.fixture
def state(folder):
    state = StateDir(folder)
    state.lock()
    yield state
    state.unlock()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_is_created_private(state, folder):
    assert mode(folder) == 0o700
    assert mode(folder / "lock") == 0o600


def test_second_lock_is_refused(state, folder):
    with pytest.raises(StartupError, match="another daemon uses the state folder") as caught:
        StateDir(folder).lock()
    assert "--state-dir" in caught.value.remedy


def test_lock_of_killed_process_is_released(folder):
    script = (
        "import sys, pathlib; from pi_orchestrator.storage.state_dir import StateDir;"
        " StateDir(pathlib.Path(sys.argv[1])).lock(); print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(StartupError, match="another daemon"):
            StateDir(folder).lock()
        other.kill()
    state = StateDir(folder)
    state.lock()
    state.unlock()


def test_unlocked_folder_can_be_locked(state, folder):
    state.unlock()
    state.unlock()
    other = StateDir(folder)
    other.lock()
    other.unlock()


@pytest.mark.parametrize("blocked", ["parent", "itself"])
def test_unusable_folder_is_an_error_with_remedy(tmp_path, blocked):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "state" if blocked == "parent" else tmp_path / "file"
    with pytest.raises(StartupError, match="cannot use the state folder") as caught:
        StateDir(path).lock()
    assert str(path) in caught.value.message
    assert "--state-dir" in caught.value.remedy


def test_first_start_has_no_clean_marker(state):
    assert state.take_clean_marker() is False


def test_clean_marker_is_removed_when_taken(state, folder):
    state.leave_clean_marker()
    assert StateDir(folder).take_clean_marker() is True
    assert StateDir(folder).take_clean_marker() is False, "a crash after this is an unclean shutdown"


def test_write_private_is_atomic_and_private(state, folder):
    before = os.umask(0)
    try:
        file = state.write_private(ADMIN_KEY, b"key\n")
        state.leave_clean_marker()
    finally:
        os.umask(before)
    assert (mode(file), file.read_bytes()) == (0o600, b"key\n")
    assert mode(folder / "clean-shutdown") == 0o600
    state.write_private(ADMIN_KEY, b"another\n")
    assert file.read_bytes() == b"another\n"
    assert not list(folder.glob("*.partial"))


def test_partial_file_is_replaced_and_private(state, folder):
    partial = folder / "admin.partial"
    partial.write_bytes(b"a longer text than the new one")
    partial.chmod(0o644)
    file = state.write_private(ADMIN_KEY, b"key\n")
    assert (mode(file), file.read_bytes()) == (0o600, b"key\n")


def test_session_secret_is_created_once(state, folder):
    secret = state.session_secret()
    assert len(secret) == 32
    assert StateDir(folder).session_secret() == secret
    assert mode(folder / SESSION_SECRET) == 0o600


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_invalid_session_secret_is_replaced(state, folder, content):
    (folder / SESSION_SECRET).write_bytes(content)
    secret = state.session_secret()
    assert len(secret) == 32
    assert state.session_secret() == secret
