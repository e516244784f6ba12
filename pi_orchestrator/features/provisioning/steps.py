"""Stores the steps of session devices; errors for devices that must not continue or have failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pi_orchestrator.core.errors import ConflictError, OrchestratorError
from pi_orchestrator.features.provisioning import store
from pi_orchestrator.features.provisioning.recorder import SessionRecorder
from pi_orchestrator.features.provisioning.session import SessionState
from pi_orchestrator.features.provisioning.session_device import SessionDevice
from pi_orchestrator.storage.database import Database, Tx


class ProvisioningInterruptedError(Exception):
    """The next step must not be taken: the session was paused or closed, or the device was skipped."""


class DeviceFailedError(OrchestratorError):
    """The device has failed; `not_delivered` if it certainly does not have the credentials."""

    def __init__(self, message: str, *, code: str, not_delivered: bool = False) -> None:
        super().__init__(message, code=code)
        self.not_delivered = not_delivered


class DeviceSteps:
    """Changes session devices based on their stored state, which may be newer than the caller's."""

    def __init__(self, *, database: Database, recorder: SessionRecorder) -> None:
        self._database = database
        self._recorder = recorder

    async def take(
        self,
        device: SessionDevice,
        change: Callable[[SessionDevice], SessionDevice],
        *,
        starts_work: bool = False,
        before_save: Callable[[Tx, SessionDevice], Awaitable[None]] | None = None,
    ) -> SessionDevice:
        """Store a step and return the device; ProvisioningInterruptedError if it must not be taken any more.

        `before_save` runs in the same transaction; its errors prevent the step. A step that `starts_work` is not taken
        while the session is paused.
        """

        async def job(tx: Tx) -> SessionDevice:
            session = await store.get(tx.run, device.session_id)
            before = await store.device(tx.run, device.session_id, device.mac)
            if session is None or before is None or not session.is_open or not before.under_way:
                raise ProvisioningInterruptedError
            if starts_work and session.state is SessionState.PAUSED:
                raise ProvisioningInterruptedError
            try:
                after = change(before)
            except ConflictError:
                raise ProvisioningInterruptedError from None  # it was skipped and requested again in the meantime
            if before_save:
                await before_save(tx, after)
            await self._recorder.save_step(tx, before, after)
            return after

        return await self._database.write(job)

    async def current(self, device: SessionDevice) -> SessionDevice:
        """The device as stored; ProvisioningInterruptedError if it is not under way any more."""
        stored = await store.device(self._database.read, device.session_id, device.mac)
        if stored is None or not stored.under_way:
            raise ProvisioningInterruptedError
        return stored
