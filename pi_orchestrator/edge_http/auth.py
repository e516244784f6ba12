"""Access control of the edge's API: keys, scopes, modes, and the session cookie with which a browser opens streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from aiohttp import web

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import ForbiddenError, OrchestratorError, RateLimitedError, UnauthorizedError
from pi_orchestrator.core.token_bucket import TokenBucket
from pi_orchestrator.edge_http.keyring import COOKIE_S, UNKNOWN, Identity, Keyring
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.http.route import Json

KEY_HEADER = "X-API-Key"
KEY_QUERY = "api_key"
COOKIE = "piorch_session"
MAX_WRONG_KEYS = 10
WRONG_KEYS_PER_S = 0.2
MAX_PEERS = 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request; `has_key_access`: it may use routes that need a key."""

    has_key_access: bool


class KeyAccess:
    """See `Access`: keys in a header, for streams also in the query, and the session cookie."""

    schemes: ClassVar[Json] = {
        "key": {"type": "apiKey", "in": "header", "name": KEY_HEADER},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
        "link": {"type": "apiKey", "in": "query", "name": KEY_QUERY},
    }

    def security(self, route: Route) -> list[Json]:
        """See `Access`."""
        if route.scope is None:
            return []
        options: list[Json] = [{"key": []}] if route.writes else [{"key": []}, {"session": []}]
        if route.streams:
            options.append({"link": []})
        return options if route.needs_key_in_provisioning_mode else [{}, *options]

    def errors(self, route: Route) -> Iterable[str]:
        """See `Access`."""
        if route.scope is None:
            return ()
        return (ErrorCode.UNAUTHORIZED, ErrorCode.RATE_LIMITED, ErrorCode.DATABASE_ERROR)


class KeyAuthenticator:
    """Checks API keys and the browser's session cookie; `mode` is `provisioning`, `required` or `off`."""

    def __init__(self, *, keyring: Keyring, mode: str, clock: Clock) -> None:
        self.mode = mode
        self._keyring = keyring
        self._clock = clock
        self._wrong_keys: BoundedDict[str, TokenBucket] = BoundedDict(MAX_PEERS)
        self._used_keys: BoundedDict[tuple[str, str], None] = BoundedDict(MAX_PEERS)

    def admit(self, route: Route, request: web.Request) -> Identity | None:
        """The identity, None for an anonymous client; OrchestratorError if access is denied."""
        if route.scope is None or self.mode == "off":
            return None
        keys = _keys_of(route, request)
        identity = self._identify(request, keys)
        if identity is None:
            # Wrong keys count on routes that need no key too: the cookie in the answer would reveal a guessed key.
            within_limit = not keys or self._wrong_key_limit(request).take(self._clock.monotonic())
            if not (route.needs_key_in_provisioning_mode or self.mode == "required"):
                return None
            self._refuse(keys, within_limit=within_limit)
        elif not identity.scope.covers(route.scope):
            raise ForbiddenError(
                f"this needs a key with scope {route.scope}",
                details=f"the key {identity.name!r} has scope {identity.scope}",
            )
        return identity

    def stream_check(self, route: Route, request: web.Request, identity: Identity | None) -> Callable[[], bool]:
        """See `Authenticator`; a change of `mode` also ends a stream, because the stream's content depends on it."""
        admitted = (self.mode, identity)

        def may_continue() -> bool:
            try:
                return (self.mode, self.admit(route, request)) == admitted
            except OrchestratorError:
                return False

        return may_continue

    def amend_response(self, request: web.Request, response: web.StreamResponse, identity: Identity | None) -> None:
        """Set the session cookie for a browser."""
        # Only for a key in the header: following a link that contains a key must not log in the browser.
        if identity is None or KEY_HEADER not in request.headers:
            return
        cookie = request.cookies.get(COOKIE)
        if cookie is None or self._keyring.identify_cookie(cookie) is None:
            response.set_cookie(
                COOKIE, self._keyring.make_cookie(identity), max_age=COOKIE_S, httponly=True, samesite="Strict"
            )

    def caller(self, _route: Route, _request: web.Request, identity: Identity | None) -> Caller:
        """The caller, for handlers that request it."""
        return Caller(has_key_access=identity is not None or self.mode == "off")

    def _identify(self, request: web.Request, keys: Sequence[str]) -> Identity | None:
        if keys:
            identity = self._keyring.identify(keys[0]) if len(keys) == 1 else None
            return identity if identity and self._is_accepted(identity, request) else None
        cookie = request.cookies.get(COOKIE)
        if cookie and request.method in ("GET", "HEAD") and _is_same_origin(request):
            return self._keyring.identify_cookie(cookie)
        return None

    def _is_accepted(self, identity: Identity, request: web.Request) -> bool:
        """Whether a valid key is accepted: if this peer has used it before, or has not sent too many wrong keys."""
        peer_and_key = (request.remote or UNKNOWN, identity.key_id)
        if peer_and_key not in self._used_keys and self._wrong_key_limit(request).wait_s(self._clock.monotonic()) > 0:
            return False
        self._used_keys[peer_and_key] = None
        return True

    def _refuse(self, keys: Sequence[str], *, within_limit: bool) -> None:
        if not keys:
            raise UnauthorizedError("this needs an API key", details="send it in the X-API-Key header")
        if not within_limit:
            raise RateLimitedError(
                "too many wrong keys from this address",
                details="wait 30 seconds, then send a valid key",
                retry_after_s=30,
            )
        raise UnauthorizedError("the API key is not valid")

    def _wrong_key_limit(self, request: web.Request) -> TokenBucket:
        peer = request.remote or UNKNOWN
        bucket = self._wrong_keys.get(peer)
        if bucket is None:
            now = self._clock.monotonic()
            bucket = self._wrong_keys[peer] = TokenBucket(capacity=MAX_WRONG_KEYS, rate=WRONG_KEYS_PER_S, now=now)
        return bucket


def _keys_of(route: Route, request: web.Request) -> Sequence[str]:
    """The keys in the headers of a request; for a stream without these, the keys in its query.

    A browser cannot set headers for a stream.
    """
    keys: Sequence[str] = request.headers.getall(KEY_HEADER, ())
    return request.query.getall(KEY_QUERY, ()) if route.streams and not keys else keys


def _is_same_origin(request: web.Request) -> bool:
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("Host")
