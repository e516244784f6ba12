"""Encrypted secrets: AES-GCM; the key file is separate from the database and never leaves the machine.

During a rotation the key file holds the old and the new key, so a crash loses nothing. The cipher's library is loaded
at the first secret, to save memory in daemons that never provision.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.storage.state_dir import StateDir

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_FILE = "secrets.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class _Keys:
    current: str
    by_id: dict[str, bytes]

    def encoded(self) -> bytes:
        keys = {key_id: base64.b64encode(key).decode() for key_id, key in self.by_id.items()}
        return json.dumps({"current": self.current, "keys": keys}).encode() + b"\n"


class Vault:
    """Encrypts and decrypts secrets. Methods block, so call them in a thread; they are thread-safe."""

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir
        self._lock = threading.RLock()
        self._keys: _Keys | None = None

    def load(self) -> None:
        """Read the key file, or create it; a damaged key file is renamed, never overwritten."""
        file = self._state_dir.path / KEY_FILE
        with self._lock:
            try:
                self._keys = _decoded(file.read_bytes())
            except FileNotFoundError:
                self._replace_keys(_with_new_key({}))
            except ValueError:
                aside = file.with_suffix(".damaged")
                file.replace(aside)
                log.error(
                    "damaged key file set aside, open sessions need their WiFi passwords again",
                    file=str(aside),
                )
                self._replace_keys(_with_new_key({}))
            except OSError as error:
                raise _key_file_error(error) from error

    def seal(self, text: str, *, purpose: str) -> Sealed:
        """Encrypt; `open` needs the same purpose."""
        keys = self._loaded()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        content = _cipher(keys.by_id[keys.current]).encrypt(nonce, text.encode(), purpose.encode())
        return Sealed(keys.current, nonce + content)

    def open(self, sealed: Sealed, *, purpose: str) -> str:
        """Decrypt; StorageError if the key is missing, the content is damaged, or the purpose differs."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # at first use

        key = self._loaded().by_id.get(sealed.key_id)
        if key is None:
            raise StorageError(
                "a stored password cannot be decrypted: its key is missing", details="enter the password again"
            )
        nonce, content = sealed.content[:_NONCE_BYTES], sealed.content[_NONCE_BYTES:]
        try:
            return _cipher(key).decrypt(nonce, content, purpose.encode()).decode()
        except (InvalidTag, ValueError):
            raise StorageError("a stored password is damaged", details="enter the password again") from None

    def begin_rotation(self) -> None:
        """Create a new key and use it from now on; older keys can still decrypt."""
        with self._lock:
            self._replace_keys(_with_new_key(self._loaded().by_id))

    def end_rotation(self) -> None:
        """Delete the older keys, after everything was encrypted with the new one."""
        with self._lock:
            keys = self._loaded()
            self._replace_keys(_Keys(keys.current, {keys.current: keys.by_id[keys.current]}))

    def _replace_keys(self, keys: _Keys) -> None:
        # The file is written first: a secret whose key is not on disk would be lost.
        try:
            self._state_dir.write_private(KEY_FILE, keys.encoded())
        except OSError as error:
            raise _key_file_error(error) from error
        self._keys = keys

    def _loaded(self) -> _Keys:
        with self._lock:
            if self._keys is None:
                self.load()
            if self._keys is None:  # pragma: no cover  # `load` sets it or raises
                raise StorageError("the key for stored passwords is missing")
            return self._keys


def _key_file_error(error: OSError) -> StorageError:
    return StorageError("the key file of stored passwords cannot be used", details=error.strerror)


def _with_new_key(older: dict[str, bytes]) -> _Keys:
    key_id = secrets.token_hex(4)
    return _Keys(key_id, {**older, key_id: secrets.token_bytes(_KEY_BYTES)})


def _decoded(content: bytes) -> _Keys:
    """Parse the key file; ValueError if it is not valid."""
    try:
        fields = json.loads(content)
        by_id = {str(key_id): base64.b64decode(text, validate=True) for key_id, text in fields["keys"].items()}
        current = str(fields["current"])
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise ValueError("not a key file") from None
    if current not in by_id or any(len(key) != _KEY_BYTES for key in by_id.values()):
        raise ValueError("not a key file")
    return _Keys(current, by_id)


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # at first use

    return AESGCM(key)


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted secret, and the id of its key."""

    key_id: str
    content: bytes
