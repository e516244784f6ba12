"""The API keys that requests are checked against: those in the database, and the one of the configuration."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import ConflictError
from pi_orchestrator.core.redaction import MASK
from pi_orchestrator.edge_http import key_store as keys
from pi_orchestrator.edge_http.key_store import ApiKey, Scope
from pi_orchestrator.storage import audit_log
from pi_orchestrator.storage.database import Database, Tx

COOKIE_S = 12 * 3600
"""Lifetime of a session cookie."""
UNKNOWN = "-"
"""The key name of a client without a key, and the address of an unknown peer."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A valid key that a client has sent."""

    key_id: str
    name: str
    scope: Scope


CONFIGURED = Identity("configured", "configured", Scope.ADMIN)
"""The key of the configuration."""


def new_key() -> tuple[str, str]:
    """Generate a key: its id, and its text."""
    key_id = secrets.token_hex(4)
    return key_id, f"piorch_{key_id}_{secrets.token_urlsafe(32)}"


class Keyring:
    """All valid keys: those in the database, and the one of the configuration."""

    def __init__(self, *, database: Database, configured: str | None, session_secret: bytes, clock: Clock) -> None:
        self._database = database
        self._secret = session_secret
        self._clock = clock
        self._stored: dict[str, ApiKey] = {}
        self._configured = _digest(configured) if configured else None

    async def load(self) -> None:
        """Read the stored keys."""
        self._stored = {key.id: key for key in await keys.load(self._database)}

    def configure(self, configured: str | None) -> None:
        """Replace the configured key; None removes it."""
        self._configured = _digest(configured) if configured else None

    @property
    def has_admin_key(self) -> bool:
        """Whether an admin key exists, with which others can be created: the configured one or a stored one."""
        return self._configured is not None or any(key.scope is Scope.ADMIN for key in self._stored.values())

    @property
    def is_configured_key_needed(self) -> bool:
        """Whether the configured key is the only admin key."""
        return self._configured is not None and not any(key.scope is Scope.ADMIN for key in self._stored.values())

    @property
    def _configured_id(self) -> str | None:
        """Id of the configured key in cookies; another key has another id."""
        return f"{CONFIGURED.key_id}-{self._configured.hex()[:16]}" if self._configured else None

    def stored_keys(self) -> list[ApiKey]:
        """The stored keys, oldest first."""
        return list(self._stored.values())

    def identify(self, key: str) -> Identity | None:
        """The identity of a key, None if invalid; takes the same time for every invalid key."""
        digest = _digest(key)
        identity = None
        if self._configured is not None and hmac.compare_digest(digest, self._configured):
            identity = CONFIGURED
        for stored in self._stored.values():
            if hmac.compare_digest(digest, stored.digest):
                identity = Identity(stored.id, stored.name, stored.scope)
        return identity

    async def create(self, *, name: str, scope: Scope, actor: Actor) -> tuple[ApiKey, str]:
        """Create a key and return its text, which is not stored; ConflictError if the name is taken."""
        key_id, text = new_key()
        return await self.add(key_id, text, name=name, scope=scope, actor=actor), text

    async def add(self, key_id: str, text: str, *, name: str, scope: Scope, actor: Actor) -> ApiKey:
        """Store a key from `new_key`; ConflictError if the name is taken."""

        async def job(tx: Tx) -> ApiKey:
            key = await keys.insert(tx, key_id=key_id, name=name, scope=scope, digest=_digest(text))
            await audit_log.record(tx, actor, target=name)
            tx.after_commit(lambda: self._stored.__setitem__(key.id, key))
            return key

        return await self._database.write(job)

    async def revoke(self, name: str, *, actor: Actor) -> None:
        """Remove a key by id or name; a missing key is no error. ConflictError for the last admin key."""
        key = next((key for key in self._stored.values() if name in (key.id, key.name)), None)
        admins = [other for other in self._stored.values() if other.scope is Scope.ADMIN]
        if key in admins and len(admins) == 1 and self._configured is None:
            raise ConflictError("this is the last admin key", details="create another one first")
        # An operator may paste the key itself, which must not be stored in the audit log.
        target = MASK if self.identify(name) else name

        async def job(tx: Tx) -> None:
            await audit_log.record(tx, actor, target=target, outcome=audit_log.removal_outcome(key is not None))
            if key is not None:
                await keys.delete(tx, key.id)
                tx.after_commit(lambda: self._forget(key.id))

        await self._database.write(job)

    def _forget(self, key_id: str) -> None:
        self._stored.pop(key_id, None)

    def make_cookie(self, identity: Identity) -> str:
        """A cookie for a key; valid until the key is revoked, COOKIE_S have passed, or the machine reboots."""
        # Expiry uses monotonic time: a jump of the wall clock must not extend or end a session.
        key_id = self._configured_id if identity is CONFIGURED else identity.key_id
        text = f"{key_id}.{int(self._clock.monotonic()) + COOKIE_S}"
        return f"{text}.{self._sign(text)}"

    def identify_cookie(self, cookie: str) -> Identity | None:
        """The identity of a cookie, None if it is not valid."""
        text, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(_bytes(signature), self._sign(text).encode()):
            return None
        key_id, _, until = text.partition(".")
        if self._clock.monotonic() > int(until):
            return None
        if key_id == self._configured_id:
            return CONFIGURED
        key = self._stored.get(key_id)
        return Identity(key.id, key.name, key.scope) if key else None

    def hash_request(self, data: bytes) -> bytes:
        """Keyed hash to compare requests; without the secret, the hash does not help to guess a password in them."""
        return hmac.new(self._secret, b"request:" + data, hashlib.sha256).digest()

    def _sign(self, text: str) -> str:
        message = _bytes(f"{self._clock.boot_id}:{text}")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


def _digest(key: str) -> bytes:
    return hashlib.sha256(_bytes(key)).digest()


def _bytes(header: str) -> bytes:
    # aiohttp decodes header bytes that are not UTF-8 to lone surrogates.
    return header.encode("utf-8", "surrogateescape")
