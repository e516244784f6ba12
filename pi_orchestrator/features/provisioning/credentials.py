"""Credentials for cameras: the session's password, sealed while stored, and the broker's address."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network

from pydantic import SecretStr

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.errors import OrchestratorError, StorageError
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.wifi import Credentials, MqttAccess
from pi_orchestrator.features.provisioning import store
from pi_orchestrator.features.provisioning.session import Session
from pi_orchestrator.net.kernel.neighbours import NeighbourTable
from pi_orchestrator.settings import ProvisioningSettings
from pi_orchestrator.storage import audit_log
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.storage.vault import Sealed, Vault

log = get_logger(__name__)


class PasswordUnavailableError(OrchestratorError):
    """A session's password is missing or cannot be opened. Not raised for a busy database."""


class SessionPasswords:
    """Seals and opens the passwords of sessions. A password is in plain text only while it is used."""

    def __init__(self, *, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self.rotation = asyncio.Lock()
        """Hold this lock from `seal` until its result is stored: a rotation before that would destroy the key."""

    async def seal(self, session_id: str, password: SecretStr) -> Sealed:
        """Seal a new session's password."""
        return await asyncio.to_thread(self._vault.seal, password.get_secret_value(), purpose=purpose(session_id))

    async def open(self, session: Session) -> Credentials:
        """Open a session's password for one request; PasswordUnavailableError, or StorageError from the database."""
        failure = StorageError("the session's password is missing; start a new session")
        for _ in range(2):  # a rotation may reseal the password after it was read
            sealed = await store.password(self._database.read, session.id)
            if sealed is None:
                break
            try:
                text = await asyncio.to_thread(self._vault.open, sealed, purpose=purpose(session.id))
            except StorageError as error:
                failure = error
            else:
                return Credentials(session.target_ssid, SecretStr(text))
        raise PasswordUnavailableError(failure.message, code=failure.code)

    async def rotate(self, actor: Actor) -> int:
        """Seal every stored password with a new key and destroy the old key; return the number of passwords."""
        async with self.rotation:
            await asyncio.to_thread(self._vault.begin_rotation)
            stored = await store.passwords(self._database.read)
            resealed = await asyncio.to_thread(self._reseal, stored)

            async def job(tx: Tx) -> int:
                current = await store.passwords(tx.run)
                for session_id, sealed in resealed.items():
                    if session_id in current:
                        await store.put_password(tx, session_id, sealed)
                await audit_log.record(tx, actor, target=f"{len(resealed)} passwords")
                return len(resealed)

            count = await self._database.write(job)
            await asyncio.to_thread(self._vault.end_rotation)
            await self._database.erase_deleted_content()
            return count

    def _reseal(self, stored: dict[str, Sealed]) -> dict[str, Sealed]:
        resealed = {}
        for session_id, sealed in stored.items():
            try:
                text = self._vault.open(sealed, purpose=purpose(session_id))
            except StorageError as error:
                log.error("stored password not rotated", session_id=session_id, reason=error.message)
            else:
                resealed[session_id] = self._vault.seal(text, purpose=purpose(session_id))
        return resealed


class CameraBroker:
    """The MQTT broker as cameras reach it."""

    def __init__(
        self,
        *,
        settings: ProvisioningSettings,
        host: str,
        port: int,
        ap_subnet: IPv4Network,
        neighbours: NeighbourTable,
    ) -> None:
        self._settings = settings
        self._host = host
        self._port = port
        self._ap_subnet = ap_subnet
        self._neighbours = neighbours

    async def access(self) -> MqttAccess:
        """Address and login for cameras; a loopback host is replaced by this machine's camera network address."""
        settings, host = self._settings, self._settings.mqtt_host or self._host
        if host == "localhost" or host.startswith("127."):
            own = await self._neighbours.own_addresses()
            host = next((str(address) for address in sorted(own) if address in self._ap_subnet), host)
        return MqttAccess(host, self._port, settings.mqtt_username, settings.mqtt_password)


def purpose(session_id: str) -> str:
    """The purpose that a session's password is sealed for; it can be opened only for the same purpose."""
    return f"password of session {session_id}"
