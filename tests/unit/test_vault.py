"""Secrets at rest: sealed, opened, and the life of the key file."""

import base64
import json
import stat
import threading

import pytest

from pi_orchestrator.errors import StorageError
from pi_orchestrator.storage.sessions import Sealed
from pi_orchestrator.storage.state_dir import StateDir
from pi_orchestrator.storage.vault import KEY_FILE, Vault

SECRET = "correct horse battery"


@pytest.fixture
def state_dir(tmp_path):
    return StateDir(tmp_path)


@pytest.fixture
def vault(state_dir):
    return Vault(state_dir)


@pytest.fixture
def file(tmp_path):
    return tmp_path / KEY_FILE


def test_what_is_sealed_opens_for_its_purpose_and_for_no_other(vault):
    sealed = vault.seal(SECRET, purpose="session 1")
    assert vault.open(sealed, purpose="session 1") == SECRET
    assert SECRET.encode() not in sealed.content
    with pytest.raises(StorageError, match="damaged"):
        vault.open(sealed, purpose="session 2")


def test_nothing_shows_that_two_secrets_are_the_same(vault):
    contents = {vault.seal(SECRET, purpose="p").content for _ in range(50)}
    assert len(contents) == len({content[:12] for content in contents}) == 50
    assert vault.open(vault.seal("", purpose="p"), purpose="p") == ""


def test_every_changed_byte_is_noticed(vault):
    sealed = vault.seal(SECRET, purpose="p")
    for place in range(len(sealed.content)):
        changed = bytearray(sealed.content)
        changed[place] ^= 1
        with pytest.raises(StorageError) as refused:
            vault.open(Sealed(sealed.key_id, bytes(changed)), purpose="p")
        assert SECRET not in str(refused.value)
    for short in (b"", sealed.content[:11], sealed.content[:12], sealed.content[:-1]):
        with pytest.raises(StorageError):
            vault.open(Sealed(sealed.key_id, short), purpose="p")


def test_the_key_file_is_the_owners_alone_and_holds_a_key_of_32_bytes(vault, file):
    vault.load()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    held = json.loads(file.read_bytes())
    assert [len(base64.b64decode(key)) for key in held["keys"].values()] == [32]
    assert held["current"] in held["keys"]
    assert list(file.parent.iterdir()) == [file]


def test_another_start_reads_the_same_key(state_dir, vault):
    sealed = vault.seal(SECRET, purpose="p")
    assert Vault(state_dir).open(sealed, purpose="p") == SECRET


def test_a_rotation_opens_old_and_new_until_it_ends(state_dir, vault, file):
    old = vault.seal(SECRET, purpose="p")
    vault.begin_rotation()
    new = vault.seal(SECRET, purpose="p")
    assert new.key_id != old.key_id
    # A crash here: whoever starts next can open both, and rotate again.
    after = Vault(state_dir)
    assert after.open(old, purpose="p") == after.open(new, purpose="p") == SECRET
    vault.end_rotation()
    assert list(json.loads(file.read_bytes())["keys"]) == [new.key_id]
    for one in (vault, Vault(state_dir)):
        assert one.open(new, purpose="p") == SECRET
        with pytest.raises(StorageError, match="its key is gone"):
            one.open(old, purpose="p")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"[]",
        b"null",
        b"{}",
        b'{"current": "a", "keys": {}}',
        b'{"current": "a", "keys": {"a": 1}}',
        b'{"current": "a", "keys": {"a": "!!!!"}}',
        b'{"current": "a", "keys": {"a": "c2hvcnQ="}}',
        b'{"current": "a", "keys": ["a"]}',
        b'{"current": [], "keys": {"a": "%s"}}' % base64.b64encode(b"k" * 32),
        b"\xff\xfe",
    ],
)
def test_a_damaged_key_file_is_set_aside_and_said_so(state_dir, file, content):
    before = Vault(state_dir)
    sealed = before.seal(SECRET, purpose="p")
    file.write_bytes(content)
    vault = Vault(state_dir)
    with pytest.raises(StorageError, match="its key is gone"):
        vault.open(sealed, purpose="p")
    assert file.with_suffix(".damaged").read_bytes() == content
    assert vault.open(vault.seal(SECRET, purpose="p"), purpose="p") == SECRET
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_missing_key_file_is_made_anew(state_dir, file):
    sealed = Vault(state_dir).seal(SECRET, purpose="p")
    file.unlink()
    with pytest.raises(StorageError) as refused:
        Vault(state_dir).open(sealed, purpose="p")
    assert refused.value.details == "give it again"
    assert file.exists()


def test_a_key_file_that_cannot_be_read_or_written_is_an_error_in_words(vault, file):
    file.mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        vault.seal(SECRET, purpose="p")
    file.rmdir()
    file.with_suffix(".partial").mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        vault.seal(SECRET, purpose="p")


def test_a_key_that_could_not_be_stored_seals_nothing(vault, file):
    before = vault.seal(SECRET, purpose="p")
    file.with_suffix(".partial").mkdir()
    with pytest.raises(StorageError):
        vault.begin_rotation()
    assert vault.seal(SECRET, purpose="p").key_id == before.key_id


def test_many_who_come_first_at_once_make_one_key(state_dir, vault):
    gate, sealed = threading.Barrier(8), []

    def seal():
        gate.wait(10)
        sealed.append(vault.seal(SECRET, purpose="p"))

    threads = [threading.Thread(target=seal) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [Vault(state_dir).open(one, purpose="p") for one in sealed] == [SECRET] * 8


def test_nothing_that_is_printed_shows_a_key(vault, file):
    vault.load()
    keys = json.loads(file.read_bytes())["keys"].values()
    shown = repr(vault) + repr(vault._keys) + str(vars(vault))
    for key in keys:
        assert key not in shown
        assert repr(base64.b64decode(key))[2:-1] not in shown
