"""Secrets at rest: AES-GCM under a key whose file lies apart from the database and never leaves the machine.

The key file holds one key, or two for as long as a rotation takes: a crash in the middle of it loses nothing.
The cipher's library is loaded at the first secret: a daemon that provisions nothing does not carry it.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pi_orchestrator.errors import StorageError
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage.sessions import Sealed
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
    """Seals and opens; every method blocks for a moment, so call it in a thread; several may at once."""

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir
        self._lock = threading.RLock()
        self._keys: _Keys | None = None

    def load(self) -> None:
        """Read the key file, or make one; what cannot be read is set aside, never overwritten."""
        file = self._state_dir.path / KEY_FILE
        with self._lock:
            try:
                self._keys = _decoded(file.read_bytes())
            except FileNotFoundError:
                self._take(_fresh({}))
            except ValueError:
                aside = file.with_suffix(".damaged")
                file.replace(aside)
                log.error("the key of stored passwords is damaged: open sessions need theirs again", file=str(aside))
                self._take(_fresh({}))
            except OSError as error:
                raise _unusable(error) from error

    def seal(self, text: str, *, purpose: str) -> Sealed:
        """Encrypt; only `open` with the same purpose gives it back."""
        keys = self._loaded()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        content = _cipher(keys.by_id[keys.current]).encrypt(nonce, text.encode(), purpose.encode())
        return Sealed(keys.current, nonce + content)

    def open(self, sealed: Sealed, *, purpose: str) -> str:
        """Decrypt; StorageError where the key is gone or the content was tampered with."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # see above

        key = self._loaded().by_id.get(sealed.key_id)
        if key is None:
            raise StorageError("a stored password cannot be read: its key is gone", details="give it again")
        nonce, content = sealed.content[:_NONCE_BYTES], sealed.content[_NONCE_BYTES:]
        try:
            return _cipher(key).decrypt(nonce, content, purpose.encode()).decode()
        except (InvalidTag, ValueError):
            raise StorageError("a stored password is damaged", details="give it again") from None

    def begin_rotation(self) -> None:
        """Make a new key that seals from now on; what older ones sealed can still be opened."""
        with self._lock:
            self._take(_fresh(self._loaded().by_id))

    def end_rotation(self) -> None:
        """Forget the older keys: everything was sealed anew."""
        with self._lock:
            keys = self._loaded()
            self._take(_Keys(keys.current, {keys.current: keys.by_id[keys.current]}))

    def _take(self, keys: _Keys) -> None:
        # The file comes first: what is sealed under a key that is not on disk would be lost.
        try:
            self._state_dir.write_private(KEY_FILE, keys.encoded())
        except OSError as error:
            raise _unusable(error) from error
        self._keys = keys

    def _loaded(self) -> _Keys:
        with self._lock:
            if self._keys is None:
                self.load()
            if self._keys is None:  # pragma: no cover  # `load` gives it or raises
                raise StorageError("there is no key for stored passwords")
            return self._keys


def _unusable(error: OSError) -> StorageError:
    return StorageError("the key file of stored passwords cannot be used", details=error.strerror)


def _fresh(older: dict[str, bytes]) -> _Keys:
    key_id = secrets.token_hex(4)
    return _Keys(key_id, {**older, key_id: secrets.token_bytes(_KEY_BYTES)})


def _decoded(content: bytes) -> _Keys:
    """The key file's content; ValueError where it is anything else."""
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
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # see above

    return AESGCM(key)
