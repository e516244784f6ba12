"""Builds the edge's API from its parts: access control, error format, idempotency, audit of refused actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.edge_http.auth import Caller, KeyAuthenticator
from pi_orchestrator.edge_http.envelope import EnvelopeErrors
from pi_orchestrator.edge_http.idempotency_store import IdempotencyStore
from pi_orchestrator.edge_http.keyring import UNKNOWN, Identity, Keyring
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.http.endpoint import Api
from pi_orchestrator.http.idempotency import Idempotency
from pi_orchestrator.http.request import REQUEST_ID_KEY
from pi_orchestrator.http.sse import EventStreams
from pi_orchestrator.storage import audit_log
from pi_orchestrator.storage.database import Database, Tx

_TARGET_FIELDS = ("name", "mac", "old_mac")


def edge_api(
    *,
    authenticator: KeyAuthenticator,
    keyring: Keyring,
    streams: EventStreams,
    database: Database,
    clock: Clock,
    provided: Mapping[type, object],
) -> Api[Route, Identity]:
    """Build the edge's API; `provided` are the objects that handlers request by type."""

    async def record_refusal(arguments: Mapping[str, Any], error: OrchestratorError) -> None:
        """Store a refused operator action in the audit log, unless it is already there."""
        actor = next((value for value in arguments.values() if isinstance(value, Actor)), None)
        if actor is None or error.is_audited:
            return
        target, outcome = _target(arguments), error.code

        async def job(tx: Tx) -> None:
            await audit_log.record(tx, actor, target=target, outcome=outcome)

        await database.write(job)

    return Api(
        authenticator=authenticator,
        errors=EnvelopeErrors(),
        streams=streams,
        provided=provided,
        per_request={Actor: _actor, Caller: authenticator.caller},
        idempotency=Idempotency(store=IdempotencyStore(database), hash_request=keyring.hash_request, clock=clock),
        on_refused=record_refusal,
    )


def _actor(route: Route, request: web.Request, identity: Identity | None) -> Actor:
    return Actor(
        key_name=identity.name if identity else UNKNOWN,
        peer=request.remote or UNKNOWN,
        correlation_id=request[REQUEST_ID_KEY],
        action=route.action,
    )


def _target(arguments: Mapping[str, Any]) -> str | None:
    """The target of a write, for the audit log: its first path value; without these, its first of `_TARGET_FIELDS`."""
    path, body = arguments.get("path"), arguments.get("body")
    candidates = [*dict(path).values()] if path is not None else [getattr(body, name, None) for name in _TARGET_FIELDS]
    return next((str(value) for value in candidates if value is not None), None)
