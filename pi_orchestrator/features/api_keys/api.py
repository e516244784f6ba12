"""API keys: `/api/v1/keys`."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.edge_http.key_store import ApiKey, Scope
from pi_orchestrator.edge_http.keyring import Keyring
from pi_orchestrator.http.model import ApiModel, RequestModel, Time

NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$"


class Key(ApiModel):
    """An API key without its secret."""

    id: str
    name: str
    scope: Scope
    created_at: Time


class KeyList(ApiModel):
    """All stored keys."""

    keys: list[Key]
    count: int


class CreatedKey(ApiModel):
    """A new key; `secret` is the value of X-API-Key and is shown only once."""

    key: Key
    secret: str


class NewKey(RequestModel):
    """The key to create."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME, description="name of the program or person that will use the key")
    scope: Scope = Field(
        Scope.OPERATE, description="what the key permits; `operate` includes `read`, and `admin` includes both"
    )


class KeyPath(RequestModel):
    """A key by id or name."""

    id: str = Field(pattern=NAME, description="a key's id or name")


async def list_keys(keyring: Keyring) -> KeyList:
    """All stored keys, oldest first."""
    keys = [_to_model(key) for key in keyring.stored_keys()]
    return KeyList(keys=keys, count=len(keys))


async def create(keyring: Keyring, body: NewKey, actor: Actor) -> CreatedKey:
    """Create a key; 409 if the name is taken."""
    key, secret = await keyring.create(name=body.name, scope=body.scope, actor=actor)
    return CreatedKey(key=_to_model(key), secret=secret)


async def revoke(keyring: Keyring, path: KeyPath, actor: Actor) -> None:
    """Revoke a key by id or name, with immediate effect; 204 even if it does not exist."""
    await keyring.revoke(path.id, actor=actor)


def _to_model(key: ApiKey) -> Key:
    return Key(id=key.id, name=key.name, scope=key.scope, created_at=rfc3339(key.created_at))
