"""API keys: `/api/v1/keys`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.keys import ApiKey, Scope

NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$"


class Key(Wire):
    """A key, without the key."""

    id: str
    name: str
    scope: Scope
    created_at: Time


class KeyList(Wire):
    """Every stored key."""

    keys: list[Key]
    count: int


class CreatedKey(Wire):
    """A new key; `secret` is what to send as X-API-Key, and is shown this once."""

    key: Key
    secret: str


class NewKey(BaseModel):
    """What to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME, description="who will use it")
    scope: Scope = Field(Scope.OPERATE, description="read < operate < admin")


class KeyPath(BaseModel):
    """A key by id or name."""

    id: str = Field(pattern=NAME, description="a key's id or name")


async def list_keys(services: Services) -> KeyList:
    """Every stored key, oldest first."""
    keys = [_shown(key) for key in services.keyring.listed()]
    return KeyList(keys=keys, count=len(keys))


async def create(services: Services, body: NewKey, actor: Actor) -> CreatedKey:
    """Make a key; 409 when the name is taken."""
    key, secret = await services.keyring.create(name=body.name, scope=body.scope, actor=actor)
    return CreatedKey(key=_shown(key), secret=secret)


async def revoke(services: Services, path: KeyPath, actor: Actor) -> None:
    """Remove a key, by id or name; it stops working at once. 204 also when it was not there."""
    await services.keyring.revoke(path.id, actor=actor)


def _shown(key: ApiKey) -> Key:
    return Key(id=key.id, name=key.name, scope=key.scope, created_at=rfc3339(key.created_at))
