"""Secrets at rest: sealing, opening, and the key file."""

import base64
import json
import stat
import threading

import pytest

from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.storage.state_dir import StateDir
from pi_orchestrator.storage.vault import KEY_FILE, Sealed, Vault

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


def test_secret_opens_only_for_its_purpose(vault):
    sealed = vault.seal(SECRET, purpose="session 1")
    assert vault.open(sealed, purpose="session 1") == SECRET
    assert SECRET.encode() not in sealed.content
    with pytest.raises(StorageError, match="damaged"):
        vault.open(sealed, purpose="session 2")


def test_equal_secrets_have_different_ciphertexts(vault):
    contents = {vault.seal(SECRET, purpose="p").content for _ in range(50)}
    assert len(contents) == len({content[:12] for content in contents}) == 50
    assert vault.open(vault.seal("", purpose="p"), purpose="p") == ""


def test_every_changed_byte_is_detected(vault):
    sealed = vault.seal(SECRET, purpose="p")
    for index in range(len(sealed.content)):
        changed = bytearray(sealed.content)
        changed[index] ^= 1
        with pytest.raises(StorageError) as refused:
            vault.open(Sealed(sealed.key_id, bytes(changed)), purpose="p")
        assert SECRET not in str(refused.value)
    for short in (b"", sealed.content[:11], sealed.content[:12], sealed.content[:-1]):
        with pytest.raises(StorageError):
            vault.open(Sealed(sealed.key_id, short), purpose="p")


def test_key_file_is_private_with_32_byte_key(vault, file):
    vault.load()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = json.loads(file.read_bytes())
    assert [len(base64.b64decode(key)) for key in content["keys"].values()] == [32]
    assert content["current"] in content["keys"]
    assert list(file.parent.iterdir()) == [file]


def test_next_start_reads_the_same_key(state_dir, vault):
    sealed = vault.seal(SECRET, purpose="p")
    assert Vault(state_dir).open(sealed, purpose="p") == SECRET


def test_rotation_keeps_old_key_until_its_end(state_dir, vault, file):
    old = vault.seal(SECRET, purpose="p")
    vault.begin_rotation()
    new = vault.seal(SECRET, purpose="p")
    assert new.key_id != old.key_id
    # After a crash here, the next start can open both and rotate again.
    restarted = Vault(state_dir)
    assert restarted.open(old, purpose="p") == restarted.open(new, purpose="p") == SECRET
    vault.end_rotation()
    assert list(json.loads(file.read_bytes())["keys"]) == [new.key_id]
    for current_vault in (vault, Vault(state_dir)):
        assert current_vault.open(new, purpose="p") == SECRET
        with pytest.raises(StorageError, match="its key is missing"):
            current_vault.open(old, purpose="p")


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
def test_damaged_key_file_is_set_aside_and_logged(state_dir, file, content):
    before = Vault(state_dir)
    sealed = before.seal(SECRET, purpose="p")
    file.write_bytes(content)
    vault = Vault(state_dir)
    with pytest.raises(StorageError, match="its key is missing"):
        vault.open(sealed, purpose="p")
    assert file.with_suffix(".damaged").read_bytes() == content
    assert vault.open(vault.seal(SECRET, purpose="p"), purpose="p") == SECRET
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_missing_key_file_is_created(state_dir, file):
    sealed = Vault(state_dir).seal(SECRET, purpose="p")
    file.unlink()
    with pytest.raises(StorageError) as refused:
        Vault(state_dir).open(sealed, purpose="p")
    assert refused.value.details == "enter the password again"
    assert file.exists()


def test_unusable_key_file_is_a_storage_error(vault, file):
    file.mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        vault.seal(SECRET, purpose="p")
    file.rmdir()
    file.with_suffix(".partial").mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        vault.seal(SECRET, purpose="p")


def test_key_that_was_not_stored_is_not_used(vault, file):
    before = vault.seal(SECRET, purpose="p")
    file.with_suffix(".partial").mkdir()
    with pytest.raises(StorageError):
        vault.begin_rotation()
    assert vault.seal(SECRET, purpose="p").key_id == before.key_id


def test_concurrent_first_uses_create_one_key(state_dir, vault):
    gate, sealed = threading.Barrier(8), []

    def seal():
        gate.wait(10)
        sealed.append(vault.seal(SECRET, purpose="p"))

    threads = [threading.Thread(target=seal) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [Vault(state_dir).open(secret, purpose="p") for secret in sealed] == [SECRET] * 8


def test_keys_are_not_in_any_repr(vault, file):
    vault.load()
    keys = json.loads(file.read_bytes())["keys"].values()
    shown = repr(vault) + repr(vault._keys) + str(vars(vault))
    for key in keys:
        assert key not in shown
        assert repr(base64.b64decode(key))[2:-1] not in shown
