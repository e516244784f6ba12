"""Batch provisioning sessions: `/api/v1/provisioning/batch` and `/api/v1/provisioning/sessions`."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.mac import MacField
from pi_orchestrator.core.wifi import PasswordField, SsidField
from pi_orchestrator.features.discovery.passive_sources import PassiveSourcesWorker
from pi_orchestrator.features.discovery.scanner import Scanner
from pi_orchestrator.features.provisioning.intake import DeviceIntake
from pi_orchestrator.features.provisioning.service import SessionRequest, SessionService
from pi_orchestrator.features.provisioning.session import SessionState
from pi_orchestrator.features.provisioning.session_device import SessionDevice, SessionDeviceState
from pi_orchestrator.features.provisioning.views import (
    DeviceResult,
    ProvisionAllResult,
    RecoverableSessions,
    RotationResult,
    SessionDetails,
    SessionDevices,
    SessionHistory,
    SessionId,
    SessionList,
    SessionNetwork,
    SessionResult,
    SessionTimes,
    SessionWithDevices,
    device_view,
    session_view,
)
from pi_orchestrator.http.model import RequestModel
from pi_orchestrator.http.paging import Pagination, Paging


class _Body(RequestModel):
    """A body that holds a password: validation errors do not repeat its content."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class NewSession(_Body):
    """Parameters of a new session. Network and password default to the configured ones."""

    network_interface: str | None = Field(
        None, pattern=r"^[^\s/]{1,15}$", description="interface on which cameras are discovered"
    )
    target_ssid: SsidField | None = Field(
        None, description="network that cameras join; default: provisioning.target_ssid"
    )
    target_password: PasswordField | None = Field(
        None, description="password of target_ssid; required unless that is missing or the configured network"
    )
    config: SessionTimes = SessionTimes()


class DashboardSession(_Body):
    """Parameters of a new session from the dashboard: the target network is required."""

    target_ssid: SsidField
    target_password: PasswordField
    config: SessionTimes = SessionTimes()


class ProvisionAll(RequestModel):
    """Selects the cameras to provision."""

    only_allowlisted: bool = Field(
        True, description="false includes cameras that are not on the allowlist, if provisioning.allow_unlisted is true"
    )


class SessionPath(RequestModel):
    """A session by its id."""

    id: SessionId = Field(description="id of the session, as returned when it was started")


class DevicePath(SessionPath):
    """A camera of a session."""

    mac: MacField


class Confirmation(RequestModel):
    """The changes of a camera that an operator has seen."""

    changes_id: str = Field(pattern=r"^[0-9a-f]{16}$", description="changes_id of the camera, as it was shown")


class ShowQuery(RequestModel):
    """Options of a session query."""

    include_devices: bool = Field(False, description="include the cameras of the session")


class DevicesQuery(RequestModel):
    """Filter of a session's cameras."""

    state: SessionDeviceState | None = Field(None, description="only cameras in this state")


async def start(scanner: Scanner, service: SessionService, body: NewSession, actor: Actor) -> SessionResult:
    """Open a session, `active` at once. 409 if one is already open on the interface; the details name that session."""
    request = SessionRequest(body.network_interface, body.target_ssid, body.target_password, body.config.config())
    return await _start_session(scanner, service, request, actor)


async def start_discovery(
    scanner: Scanner, service: SessionService, body: DashboardSession, actor: Actor
) -> SessionResult:
    """Open a session that discovers cameras first. It becomes active on a provisioning request or after the timeout."""
    request = SessionRequest(
        None, body.target_ssid, body.target_password, body.config.config(), state=SessionState.DISCOVERING
    )
    return await _start_session(scanner, service, request, actor)


async def show(
    sources: PassiveSourcesWorker, service: SessionService, intake: DeviceIntake, path: SessionPath, query: ShowQuery
) -> SessionDetails:
    """An open or closed session."""
    session = await service.get(path.id)
    devices = await service.devices(path.id) if query.include_devices else None
    network = sources.network
    return SessionDetails(
        session=session_view(session),
        devices=[device_view(intake.refreshed(device)) for device in devices] if devices is not None else None,
        timeout_remaining=f"{service.remaining_s(session):.0f}s",
        network_status=SessionNetwork(
            ssid=network.ssid, is_active=network.is_active, connected_devices=network.connected_devices
        ),
    )


async def list_open(service: SessionService) -> SessionList:
    """Open sessions, oldest first."""
    sessions = [session_view(session) for session in await service.open_sessions()]
    return SessionList(sessions=sessions, count=len(sessions))


async def devices(
    service: SessionService, intake: DeviceIntake, path: SessionPath, query: DevicesQuery
) -> SessionDevices:
    """The cameras of a session; those that are still `discovered` with their latest data."""
    found = await service.devices(path.id, state=query.state)
    return SessionDevices(devices=[device_view(intake.refreshed(device)) for device in found], count=len(found))


async def provision(service: SessionService, path: DevicePath, actor: Actor) -> DeviceResult:
    """Queue a camera for provisioning; events report its progress. A repeat changes nothing."""
    return _device_result(await service.provision(path.id, path.mac, actor))


async def retry(service: SessionService, path: DevicePath, actor: Actor) -> DeviceResult:
    """Queue a failed camera again, up to provisioning.max_retries. A repeat changes nothing."""
    return _device_result(await service.retry(path.id, path.mac, actor))


async def confirm(service: SessionService, path: DevicePath, body: Confirmation, actor: Actor) -> DeviceResult:
    """Accept that a camera answers differently than when it was first seen, and queue it. A repeat changes nothing.

    409 if its changes are no longer those of `changes_id`; the details list the present ones.
    """
    return _device_result(await service.confirm(path.id, path.mac, body.changes_id, actor))


async def skip(service: SessionService, path: DevicePath, actor: Actor) -> DeviceResult:
    """Count a camera as failed and cancel its running step. It can be retried later."""
    return _device_result(await service.skip(path.id, path.mac, actor))


async def provision_all(
    service: SessionService, path: SessionPath, body: ProvisionAll, actor: Actor
) -> ProvisionAllResult:
    """Queue every allowlisted camera of the session that was not requested yet."""
    counts = await service.provision_all(path.id, actor, only_allowlisted=body.only_allowlisted)
    parts = [f"{counts.queued} queued"]
    parts += [f"{counts.under_way} already under way"] if counts.under_way else []
    parts += [f"{counts.skipped} skipped: not on the allowlist"] if counts.skipped else []
    return ProvisionAllResult(
        initiated_count=counts.queued + counts.under_way, skipped_count=counts.skipped, message=", ".join(parts)
    )


async def pause(service: SessionService, path: SessionPath, actor: Actor) -> SessionResult:
    """Finish the running step of every camera and start nothing new."""
    return SessionResult(session=session_view(await service.pause(path.id, actor)))


async def resume(service: SessionService, path: SessionPath, actor: Actor) -> SessionResult:
    """Continue a paused session."""
    return SessionResult(session=session_view(await service.resume(path.id, actor)))


async def close(service: SessionService, path: SessionPath, actor: Actor) -> SessionResult:
    """End a session: start nothing new, let running steps finish for up to 30 s, then erase the password.

    The response waits up to 10 s for this; `session.status` reports a later end.
    """
    session = await service.close(path.id, actor)
    counts = session.counts
    return SessionResult(
        session=session_view(session),
        message="closing: running steps may finish first"
        if session.is_open
        else f"closed: {counts.verified} verified, {counts.failed} failed; the password is erased",
    )


async def recoverable(service: SessionService) -> RecoverableSessions:
    """Sessions that a restart interrupted; resume or discard them."""
    return RecoverableSessions(sessions=[session_view(session) for session in await service.recoverable()])


async def recover(service: SessionService, intake: DeviceIntake, path: SessionPath, actor: Actor) -> SessionWithDevices:
    """Continue after a restart. A camera that may have its credentials is looked for before they are sent again."""
    session = await service.recover(path.id, actor)
    found = await service.devices(path.id)
    return SessionWithDevices(
        session=session_view(session), devices=[device_view(intake.refreshed(device)) for device in found]
    )


async def discard(service: SessionService, path: SessionPath, actor: Actor) -> None:
    """End a session permanently and cancel its running steps; it stays in the history."""
    await service.discard(path.id, actor)


async def history(service: SessionService, query: Paging) -> SessionHistory:
    """Closed sessions, newest first."""
    page = await service.history(limit=query.limit, offset=query.offset)
    return SessionHistory(
        sessions=[session_view(session) for session in page.sessions],
        pagination=Pagination.of(query, rows=len(page.sessions), total=page.total),
    )


async def rotate_key(service: SessionService, actor: Actor) -> RotationResult:
    """Create a new key for stored passwords, encrypt them with it, and destroy the old key."""
    count = await service.rotate_key(actor)
    return RotationResult(rotated=count, message=f"new key created; {count} stored passwords encrypted with it")


def _device_result(device: SessionDevice) -> DeviceResult:
    messages = {
        SessionDeviceState.PROVISIONING: "queued" if not device.progress else "under way",
        SessionDeviceState.VERIFIED: "already verified",
        SessionDeviceState.DISCOVERED: "unchanged since it was first seen",
        SessionDeviceState.FAILED: device.error_message or "failed",
    }
    return DeviceResult(mac=device.mac, state=device.state, message=messages.get(device.state, "under way"))


async def _start_session(
    scanner: Scanner, service: SessionService, request: SessionRequest, actor: Actor
) -> SessionResult:
    session = await service.start(request, actor)
    scanned = scanner.interface
    return SessionResult(
        session=session_view(session),
        message="session open; cameras join it when they are discovered"
        if session.network_interface == scanned
        else f"no camera will join it: cameras are discovered on {scanned}, not on {session.network_interface}",
    )
