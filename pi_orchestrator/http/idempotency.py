"""Idempotency-Key: a request that is repeated with the same key gets the first answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

from aiohttp import web

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import ConflictError, ValidationFailedError
from pi_orchestrator.http.request import WELL_FORMED_ID
from pi_orchestrator.http.route import EncodedAnswer, Route

SECRET_ANSWERS = 64
SECRET_ANSWERS_S = 300.0


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A stored answer, and the hash of its request."""

    request_hash: bytes
    status: int
    body: bytes


class AnswerStore(Protocol):
    """Stores answers across restarts."""

    async def find(self, *, key: str, operation: str) -> StoredAnswer | None:
        """The answer to an earlier request with this key; None if there was none."""

    async def save(self, *, key: str, operation: str, answer: StoredAnswer) -> None:
        """Store an answer; return once it is durable."""


class Idempotency:
    """Runs a handler once per key and operation; an overlapping repeat waits for the first request.

    Only successes are stored: a repeat of a refused or failed request runs the handler again.

    `hash_request` must compute a keyed hash: a plain one would allow guessing a password in the body of the request.
    """

    def __init__(self, *, store: AnswerStore, hash_request: Callable[[bytes], bytes], clock: Clock) -> None:
        self._store = store
        self._hash_request = hash_request
        self._secrets = _SecretAnswers(clock)
        # Weak: a lock exists while a request holds it or waits for it.
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @staticmethod
    def key_of(request: web.Request) -> str | None:
        """The request's key; ValidationFailedError if it is malformed."""
        key = request.headers.get("Idempotency-Key")
        if key is not None and not WELL_FORMED_ID.fullmatch(key):
            raise ValidationFailedError(
                "Validation failed", details="Idempotency-Key: must be 1 to 128 visible ASCII characters"
            )
        return key

    async def once(
        self, key: str, route: Route, request: web.Request, raw: bytes, run: Callable[[], Awaitable[EncodedAnswer]]
    ) -> EncodedAnswer:
        """The stored answer, else the answer of `run`; ConflictError if the key was used for another request."""
        path = request.raw_path.encode("utf-8", "surrogateescape")
        request_hash = self._hash_request(path + b"\n" + raw)
        operation = route.operation_id
        store = self._secrets if route.secret else self._store
        lock = self._locks.setdefault((key, operation), asyncio.Lock())
        async with lock:
            stored = await store.find(key=key, operation=operation)
            if stored is not None:
                if stored.request_hash != request_hash:
                    raise ConflictError("this Idempotency-Key was used for another request")
                return EncodedAnswer(stored.body, stored.status)
            encoded = await run()
            answer = StoredAnswer(request_hash, encoded.status, encoded.body)
            await store.save(key=key, operation=operation, answer=answer)
            return encoded


class _SecretAnswers:
    """An `AnswerStore` in memory, for answers that must not be on disk; keeps the last ones for SECRET_ANSWERS_S."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: BoundedDict[tuple[str, str], tuple[float, StoredAnswer]] = BoundedDict(SECRET_ANSWERS)

    async def save(self, *, key: str, operation: str, answer: StoredAnswer) -> None:
        self._answers[key, operation] = (self._clock.monotonic() + SECRET_ANSWERS_S, answer)

    async def find(self, *, key: str, operation: str) -> StoredAnswer | None:
        now = self._clock.monotonic()
        for expired in [name for name, (until, _) in self._answers.items() if until <= now]:
            del self._answers[expired]
        found = self._answers.get((key, operation))
        return found[1] if found else None
