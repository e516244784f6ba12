"""API keys: authentication, and the first key of a new installation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.edge_http.auth import KeyAuthenticator
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.keyring import Keyring, new_key
from pi_orchestrator.features.api_keys import routes
from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.settings import Settings
from pi_orchestrator.storage.files import ADMIN_KEY
from pi_orchestrator.storage.state_dir import StateDir

ROUTES = routes.ROUTES
TAGS = {"keys": "API keys and their scopes"}

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ApiKeys(Feature):
    """The keys, and the authenticator that checks requests against them."""

    keyring: Keyring
    authenticator: KeyAuthenticator


def build(res: Resources) -> ApiKeys:
    """Build the keyring and the authenticator."""
    settings = res.settings
    keyring = Keyring(
        database=res.database,
        configured=configured_key(settings),
        session_secret=res.session_secret,
        clock=res.clock,
    )
    authenticator = KeyAuthenticator(keyring=keyring, mode=settings.auth.mode, clock=res.clock)

    async def load() -> None:
        await keyring.load()
        await ensure_admin_key(keyring, res.state_dir)

    def reload(settings: Settings) -> None:
        authenticator.mode = settings.auth.mode
        keyring.configure(configured_key(settings))

    return ApiKeys(
        keyring=keyring,
        authenticator=authenticator,
        provides=(keyring,),
        load=load,
        reloadable=frozenset({"auth.mode", "auth.api_key", "auth.api_key_file"}),
        reload=reload,
    )


def configured_key(settings: Settings) -> str | None:
    """The API key of the configuration, or None."""
    return settings.auth.api_key.get_secret_value() if settings.auth.api_key else None


async def ensure_admin_key(keyring: Keyring, state_dir: StateDir) -> None:
    """Create an admin key if none exists, and log its file, never the key."""
    if keyring.has_admin_key:
        return
    key_id, text = new_key()
    # Write the file first: after a crash the next start replaces it. A key without a file would be lost.
    file = await asyncio.to_thread(state_dir.write_private, ADMIN_KEY, text.encode() + b"\n")
    actor = Actor(key_name="first start", peer="-", correlation_id="-", action="api_key.create")
    name = f"admin-{key_id}" if keyring.stored_keys() else "admin"
    await keyring.add(key_id, text, name=name, scope=Scope.ADMIN, actor=actor)
    log.warning("admin key created", file=str(file))
