"""The state folder: one daemon at a time, a marker of the last clean end, and files that only we read."""

import os
import stat
import subprocess
import sys

import pytest

from pi_orchestrator.errors import StartupError
from pi_orchestrator.storage.state_dir import ADMIN_KEY, SESSION_SECRET, StateDir


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a" / "state"


@pytest.fixture
def state(folder):
    state = StateDir(folder)
    state.claim()
    yield state
    state.release()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_made_for_us_alone(state, folder):
    assert mode(folder) == 0o700
    assert mode(folder / "lock") == 0o600


def test_a_second_claim_is_refused_with_a_remedy(state, folder):
    with pytest.raises(StartupError, match="another daemon uses the state folder") as caught:
        StateDir(folder).claim()
    assert "--state-dir" in caught.value.remedy


def test_another_process_is_refused_too_and_the_kernel_frees_the_lock_of_a_dead_one(folder):
    claim = (
        "import sys, pathlib; from pi_orchestrator.storage.state_dir import StateDir;"
        " StateDir(pathlib.Path(sys.argv[1])).claim(); print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", claim, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(StartupError, match="another daemon"):
            StateDir(folder).claim()
        other.kill()
    state = StateDir(folder)
    state.claim()
    state.release()


def test_a_released_folder_is_free_for_the_next(state, folder):
    state.release()
    state.release()
    other = StateDir(folder)
    other.claim()
    other.release()


@pytest.mark.parametrize("blocked", ["parent", "itself"])
def test_a_folder_that_cannot_be_used_is_named_with_a_remedy(tmp_path, blocked):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "state" if blocked == "parent" else tmp_path / "file"
    with pytest.raises(StartupError, match="cannot use the state folder") as caught:
        StateDir(path).claim()
    assert str(path) in caught.value.message
    assert "--state-dir" in caught.value.remedy


def test_a_first_start_was_not_closed_cleanly(state):
    assert state.take_clean_marker() is False


def test_the_marker_is_good_for_one_start(state, folder):
    state.leave_clean_marker()
    assert StateDir(folder).take_clean_marker() is True
    assert StateDir(folder).take_clean_marker() is False, "a crash from here on is an unclean end"


def test_private_files_are_whole_and_only_ours(state, folder):
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


def test_what_a_crash_left_half_written_is_replaced_and_closed_to_others(state, folder):
    partial = folder / "admin.partial"
    partial.write_bytes(b"a longer text than the new one")
    partial.chmod(0o644)
    file = state.write_private(ADMIN_KEY, b"key\n")
    assert (mode(file), file.read_bytes()) == (0o600, b"key\n")


def test_the_session_secret_is_made_once_and_stays(state, folder):
    secret = state.session_secret()
    assert len(secret) == 32
    assert StateDir(folder).session_secret() == secret
    assert mode(folder / SESSION_SECRET) == 0o600


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_session_secret_that_makes_no_sense_is_made_anew(state, folder, content):
    (folder / SESSION_SECRET).write_bytes(content)
    secret = state.session_secret()
    assert len(secret) == 32
    assert state.session_secret() == secret
