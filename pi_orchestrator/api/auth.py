"""Who asks, and may they? Keys, scopes, modes, and the cookie that lets a browser open streams."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from pi_orchestrator.api.route import Route
from pi_orchestrator.clock import Clock
from pi_orchestrator.concealment import MASK
from pi_orchestrator.domain.bucket import TokenBucket
from pi_orchestrator.errors import ConflictError, ForbiddenError, RateLimitedError, UnauthorizedError
from pi_orchestrator.storage import actions, keys
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.storage.keys import ApiKey, Scope

KEY_HEADER = "X-API-Key"
KEY_QUERY = "api_key"
COOKIE = "piorch_session"
COOKIE_S = 12 * 3600
GUESSES = 10
GUESSES_PER_S = 0.2
PEERS_REMEMBERED = 1024
NOBODY = "-"


@dataclass(frozen=True, slots=True)
class Identity:
    """A key that was recognised."""

    key_id: str
    name: str
    scope: Scope


CONFIGURED = Identity("configured", "configured", Scope.ADMIN)


def new_key() -> tuple[str, str]:
    """A fresh key: its id, and its text."""
    key_id = secrets.token_hex(4)
    return key_id, f"piorch_{key_id}_{secrets.token_urlsafe(32)}"


class Keyring:
    """Every valid key: those of the database, and the one of the configuration."""

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
        """Take the configuration's key, or drop it."""
        self._configured = _digest(configured) if configured else None

    @property
    def lacks_admin(self) -> bool:
        """Whether nobody could make keys."""
        return self._configured is None and not any(key.scope is Scope.ADMIN for key in self._stored.values())

    @property
    def needs_configured(self) -> bool:
        """Whether nobody could make keys without the configuration's."""
        return self._configured is not None and not any(key.scope is Scope.ADMIN for key in self._stored.values())

    @property
    def _configured_id(self) -> str | None:
        """What stands for the configured key in a cookie: another key, another id."""
        return f"{CONFIGURED.key_id}-{self._configured.hex()[:16]}" if self._configured else None

    def listed(self) -> list[ApiKey]:
        """The stored keys, oldest first."""
        return list(self._stored.values())

    def identify(self, key: str) -> Identity | None:
        """Whose key this is; takes the same time for every wrong one."""
        digest = _digest(key)
        found = None
        if self._configured is not None and hmac.compare_digest(digest, self._configured):
            found = CONFIGURED
        for stored in self._stored.values():
            if hmac.compare_digest(digest, stored.digest):
                found = Identity(stored.id, stored.name, stored.scope)
        return found

    async def create(self, *, name: str, scope: Scope, actor: Actor) -> tuple[ApiKey, str]:
        """Make a key; the text is shown this once. ConflictError when the name is taken."""
        key_id, text = new_key()
        return await self.add(key_id, text, name=name, scope=scope, actor=actor), text

    async def add(self, key_id: str, text: str, *, name: str, scope: Scope, actor: Actor) -> ApiKey:
        """Store a key made by `new_key`."""

        async def job(tx: Tx) -> ApiKey:
            key = await keys.insert(tx, key_id=key_id, name=name, scope=scope, digest=_digest(text))
            await actions.record(tx, actor, target=name)
            tx.after_commit(lambda: self._stored.__setitem__(key.id, key))
            return key

        return await self._database.write(job)

    async def revoke(self, name: str, *, actor: Actor) -> None:
        """Remove a key by id or name; that it is gone already is fine."""
        key = next((key for key in self._stored.values() if name in (key.id, key.name)), None)
        admins = [other for other in self._stored.values() if other.scope is Scope.ADMIN]
        if key in admins and len(admins) == 1 and self._configured is None:
            raise ConflictError("this is the last admin key", details="make another one first")
        # Somebody who pastes the key itself must not have it kept in the record.
        target = MASK if self.identify(name) else name

        async def job(tx: Tx) -> None:
            await actions.record(tx, actor, target=target, outcome="ok" if key else "was not there")
            if key is not None:
                await keys.delete(tx, key.id)
                tx.after_commit(lambda: self._forget(key.id))

        await self._database.write(job)

    def _forget(self, key_id: str) -> None:
        self._stored.pop(key_id, None)

    def cookie_for(self, identity: Identity) -> str:
        """A cookie that stands for a key until it is revoked, 12 h pass, or the machine reboots."""
        # Expiry is on monotonic time: a clock that jumps must not revive or end a session.
        key_id = self._configured_id if identity is CONFIGURED else identity.key_id
        text = f"{key_id}.{int(self._clock.monotonic()) + COOKIE_S}"
        return f"{text}.{self._sign(text)}"

    def of_cookie(self, cookie: str) -> Identity | None:
        """Whose cookie this is, if it is valid still."""
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

    def fingerprint(self, data: bytes) -> bytes:
        """Tells whether two requests are the same, and nothing to whoever would guess what is in one (a password)."""
        return hmac.new(self._secret, b"request:" + data, hashlib.sha256).digest()

    def _sign(self, text: str) -> str:
        message = _bytes(f"{self._clock.boot_id}:{text}")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


class Gate:
    """Decides about each request; `mode` is `provisioning`, `required` or `off`."""

    def __init__(self, *, keyring: Keyring, mode: str, clock: Clock) -> None:
        self.mode = mode
        self._keyring = keyring
        self._clock = clock
        self._guessers: OrderedDict[str, TokenBucket] = OrderedDict()
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def admit(self, route: Route, request: web.Request) -> Identity | None:
        """Who asks, or None for nobody in particular; raises where that is not enough."""
        if route.scope is None or self.mode == "off":
            return None
        offered = _offered_keys(route, request)
        identity = self._identify(request, offered)
        if identity is None:
            # A wrong key costs a guess on an open route too: a right one is told there, by its cookie.
            may_guess = not offered or self._guesses(request).take(self._clock.monotonic())
            if not (route.keyed or self.mode == "required"):
                return None
            self._refuse(offered, may_guess=may_guess)
        elif not identity.scope.covers(route.scope):
            raise ForbiddenError(
                f"this needs a key of scope {route.scope}", details=f"the key {identity.name!r} has {identity.scope}"
            )
        return identity

    def _identify(self, request: web.Request, offered: Sequence[str]) -> Identity | None:
        if offered:
            identity = self._keyring.identify(offered[0]) if len(offered) == 1 else None
            return identity if identity and self._believes(identity, request) else None
        cookie = request.cookies.get(COOKIE)
        if cookie and request.method in ("GET", "HEAD") and _is_same_origin(request):
            return self._keyring.of_cookie(cookie)
        return None

    def _believes(self, identity: Identity, request: web.Request) -> bool:
        """Whether a right key may be told so: who has guessed too often may not, who came with it before always may."""
        known = (request.remote or NOBODY, identity.key_id)
        if known not in self._proven and self._guesses(request).wait_s(self._clock.monotonic()) > 0:
            return False
        self._proven[known] = None
        if len(self._proven) > PEERS_REMEMBERED:
            self._proven.popitem(last=False)
        return True

    def _refuse(self, offered: Sequence[str], *, may_guess: bool) -> None:
        if not offered:
            raise UnauthorizedError("this needs an API key", details="send it in the X-API-Key header")
        if not may_guess:
            raise RateLimitedError(
                "too many wrong keys from this address",
                details="wait half a minute, then send the right one",
                retry_after_s=30,
            )
        raise UnauthorizedError("the API key is not valid")

    def _guesses(self, request: web.Request) -> TokenBucket:
        peer = request.remote or NOBODY
        bucket = self._guessers.get(peer)
        if bucket is None:
            now = self._clock.monotonic()
            bucket = self._guessers[peer] = TokenBucket(capacity=GUESSES, rate=GUESSES_PER_S, now=now)
            if len(self._guessers) > PEERS_REMEMBERED:
                self._guessers.popitem(last=False)
        return bucket


def _offered_keys(route: Route, request: web.Request) -> Sequence[str]:
    """The keys that a request brings; what opens a stream in a browser can send no header, so the query may hold it."""
    offered: Sequence[str] = request.headers.getall(KEY_HEADER, ())
    return request.query.getall(KEY_QUERY, ()) if route.streams and not offered else offered


def _is_same_origin(request: web.Request) -> bool:
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("Host")


def _digest(key: str) -> bytes:
    return hashlib.sha256(_bytes(key)).digest()


def _bytes(header: str) -> bytes:
    # aiohttp keeps bytes of a header that are not UTF-8 as lone surrogates.
    return header.encode("utf-8", "surrogateescape")
