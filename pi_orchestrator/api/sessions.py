"""Batch provisioning sessions: `/api/v1/provisioning/batch` and `/api/v1/provisioning/sessions`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pi_orchestrator.api.paging import Pagination, Paging
from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.api.streams import SessionId
from pi_orchestrator.domain.candidate import Candidate, CandidateState
from pi_orchestrator.domain.mac import MacField
from pi_orchestrator.domain.session import Ending, Session, SessionConfig, SessionState
from pi_orchestrator.domain.wifi import PasswordField, SsidField
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.workers.session_record import candidate_fields, session_fields
from pi_orchestrator.workers.sessions import Wish

Timeout = Annotated[int, Field(ge=1, le=86400)]


class SessionTimes(Wire):
    """How long a session looks for cameras, and how long a camera's two steps may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    discovery_timeout_seconds: Timeout = 60
    provisioning_timeout_seconds: Timeout = 120
    verification_timeout_seconds: Timeout = 90

    def config(self) -> SessionConfig:
        """The same in the words of the domain."""
        return SessionConfig(**self.model_dump())


class SessionView(Wire):
    """A session. `provisioned_count` counts the devices that took the credentials, verified ones included.

    `expires_at` is when it ends if nothing happens in it; `ending` how it came to its end; `interrupted` is there
    while it waits to be resumed after a restart.
    """

    id: str
    state: SessionState
    network_interface: str
    target_ssid: str
    created_at: Time
    updated_at: Time
    expires_at: Time | None = None
    closed_at: Time | None = None
    ending: Ending | None = None
    interrupted: bool | None = None
    device_count: int
    provisioned_count: int
    verified_count: int
    failed_count: int
    config: SessionTimes


class SessionDevice(Wire):
    """A camera of a session; `progress` 0 to 100, `rssi` in dBm (0: not known).

    One that was skipped is `failed` with the code `SKIPPED`.
    """

    mac: str
    ip: str
    state: CandidateState
    progress: int
    rssi: int
    firmware_version: str
    discovered_at: Time
    provisioned_at: Time | None = None
    verified_at: Time | None = None
    error_code: str | None = None
    error_message: str | None = None
    retry_count: int
    container_id: str | None = None
    in_allowlist: bool
    session_id: str


class SessionNetwork(Wire):
    """The camera network as it is now."""

    ssid: str
    is_active: bool
    connected_devices: int


class OneSession(Wire):
    """A session, and a word for people where there is one."""

    session: SessionView
    message: str | None = None


class SessionNow(Wire):
    """A session as it stands; `timeout_remaining` in seconds, such as `45s`."""

    session: SessionView
    devices: list[SessionDevice] | None = None
    timeout_remaining: str
    network_status: SessionNetwork


class SessionWithDevices(Wire):
    """A session and every camera of it."""

    session: SessionView
    devices: list[SessionDevice]


class SessionList(Wire):
    """Sessions."""

    sessions: list[SessionView]
    count: int


class RecoverableSessions(Wire):
    """The sessions that a restart cut off."""

    sessions: list[SessionView]


class SessionHistory(Wire):
    """A page of ended sessions, newest first."""

    sessions: list[SessionView]
    pagination: Pagination


class SessionDevices(Wire):
    """Cameras of a session, in the order in which they were found."""

    devices: list[SessionDevice]
    count: int


class DeviceAsked(Wire):
    """How a camera stands after what was asked of it."""

    mac: str
    state: CandidateState
    message: str


class BatchAsked(Wire):
    """What came of asking for all: `initiated_count` are those now under way, asked for here or before."""

    initiated_count: int
    skipped_count: int
    message: str


class Rotated(Wire):
    """What a rotation of the key has sealed anew."""

    rotated: int
    message: str


class _Body(BaseModel):
    """A body with a password in it: what is wrong with it is told without its content."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class NewSession(_Body):
    """How to open a session; the network and its password default to the configured ones."""

    network_interface: str | None = Field(None, pattern=r"^[^\s/]{1,15}$", description="where cameras are looked for")
    target_ssid: SsidField | None = Field(None, description="where cameras are sent; as configured if left out")
    target_password: PasswordField | None = Field(
        None, description="what it is joined with; needed with another network than the configured one"
    )
    config: SessionTimes = SessionTimes()


class DashboardSession(_Body):
    """The dashboard's form: the target network must be given."""

    target_ssid: SsidField
    target_password: PasswordField
    config: SessionTimes = SessionTimes()


class ProvisionAll(BaseModel):
    """Which cameras."""

    only_allowlisted: bool = Field(
        True, description="false takes cameras that are not on the allowlist too, where the configuration allows it"
    )


class SessionPath(BaseModel):
    """A session by its id."""

    id: SessionId = Field(description="a session's id, as its start was answered with")


class DevicePath(SessionPath):
    """A camera of a session."""

    mac: MacField


class ShowQuery(BaseModel):
    """What to show with a session."""

    include_devices: bool = Field(False, description="its cameras too")


class DevicesQuery(BaseModel):
    """Which cameras."""

    state: CandidateState | None = Field(None, description="only those in this state")


async def start(services: Services, body: NewSession, actor: Actor) -> OneSession:
    """Open a session and provision at once; one may be open on an interface, a second start names it (409)."""
    wish = Wish(body.network_interface, body.target_ssid, body.target_password, body.config.config())
    return await _started(services, wish, actor)


async def start_discovery(services: Services, body: DashboardSession, actor: Actor) -> OneSession:
    """Open a session that looks for cameras first; asking for one, or the time-out, makes it active."""
    wish = Wish(None, body.target_ssid, body.target_password, body.config.config(), state=SessionState.DISCOVERING)
    return await _started(services, wish, actor)


async def show(services: Services, path: SessionPath, query: ShowQuery) -> SessionNow:
    """A session of now or of the past."""
    session = await services.provisioning.get(path.id)
    devices = await services.provisioning.candidates(path.id) if query.include_devices else None
    network = services.sources.network
    return SessionNow(
        session=view(session),
        devices=[_device(services, one) for one in devices] if devices is not None else None,
        timeout_remaining=f"{services.provisioning.left_s(session):.0f}s",
        network_status=SessionNetwork(
            ssid=network.ssid, is_active=network.is_active, connected_devices=network.connected_devices
        ),
    )


async def list_open(services: Services) -> SessionList:
    """Sessions that have not ended, oldest first."""
    found = [view(session) for session in await services.provisioning.opened()]
    return SessionList(sessions=found, count=len(found))


async def devices(services: Services, path: SessionPath, query: DevicesQuery) -> SessionDevices:
    """The cameras of a session, those that only wait with their present signal."""
    found = await services.provisioning.candidates(path.id, state=query.state)
    return SessionDevices(devices=[_device(services, one) for one in found], count=len(found))


async def provision(services: Services, path: DevicePath, actor: Actor) -> DeviceAsked:
    """Provision one camera: it is put in line, and events tell how it goes. A repeat changes nothing."""
    return _asked(await services.provisioning.provision(path.id, path.mac, actor))


async def retry(services: Services, path: DevicePath, actor: Actor) -> DeviceAsked:
    """Provision a camera again that has failed; a few times only. A repeat changes nothing."""
    return _asked(await services.provisioning.retry(path.id, path.mac, actor))


async def skip(services: Services, path: DevicePath, actor: Actor) -> DeviceAsked:
    """Take a camera out of the batch; what is being done to it is broken off. It can be retried later."""
    return _asked(await services.provisioning.skip(path.id, path.mac, actor))


async def provision_all(services: Services, path: SessionPath, body: ProvisionAll, actor: Actor) -> BatchAsked:
    """Provision every camera of the session that is on the allowlist and was not asked for yet."""
    batch = await services.provisioning.provision_all(path.id, actor, only_allowlisted=body.only_allowlisted)
    told = [f"{batch.queued} put in line"]
    told += [f"{batch.under_way} under way already"] if batch.under_way else []
    told += [f"{batch.skipped} skipped: not on the allowlist"] if batch.skipped else []
    return BatchAsked(
        initiated_count=batch.queued + batch.under_way, skipped_count=batch.skipped, message=", ".join(told)
    )


async def pause(services: Services, path: SessionPath, actor: Actor) -> OneSession:
    """Finish the step in hand of every camera, and start nothing new."""
    return OneSession(session=view(await services.provisioning.pause(path.id, actor)))


async def resume(services: Services, path: SessionPath, actor: Actor) -> OneSession:
    """Go on with a paused session."""
    return OneSession(session=view(await services.provisioning.resume(path.id, actor)))


async def close(services: Services, path: SessionPath, actor: Actor) -> OneSession:
    """End a session: nothing new is started, what runs may finish (for 30 s), then the password is erased.

    The answer waits for that, 10 s at most; `session.status` tells the end where it comes later.
    """
    session = await services.provisioning.close(path.id, actor)
    counts = session.counts
    return OneSession(
        session=view(session),
        message="what runs may finish first"
        if session.is_open
        else f"closed: {counts.verified} verified, {counts.failed} failed; the password is erased",
    )


async def recoverable(services: Services) -> RecoverableSessions:
    """Sessions that a restart cut off: to be resumed, or discarded."""
    return RecoverableSessions(sessions=[view(session) for session in await services.provisioning.recoverable()])


async def recover(services: Services, path: SessionPath, actor: Actor) -> SessionWithDevices:
    """Go on after a restart: what may have its credentials is looked for before anything is sent again."""
    session = await services.provisioning.recover(path.id, actor)
    found = await services.provisioning.candidates(path.id)
    return SessionWithDevices(session=view(session), devices=[_device(services, one) for one in found])


async def discard(services: Services, path: SessionPath, actor: Actor) -> None:
    """End a session for good, cutting off what runs; its place in history stays."""
    await services.provisioning.discard(path.id, actor)


async def history(services: Services, query: Paging) -> SessionHistory:
    """Sessions that have ended, newest first."""
    page = await services.provisioning.history(limit=query.limit, offset=query.offset)
    return SessionHistory(
        sessions=[view(session) for session in page.sessions],
        pagination=Pagination.of(query, rows=len(page.sessions), total=page.total),
    )


async def rotate_key(services: Services, actor: Actor) -> Rotated:
    """Make a new key for stored passwords, seal them under it, and forget the old one."""
    count = await services.provisioning.rotate_key(actor)
    return Rotated(rotated=count, message=f"a new key was made; {count} passwords were sealed under it")


def view(session: Session) -> SessionView:
    """A session as it is told."""
    return SessionView(**session_fields(session))


def _device(services: Services, one: Candidate) -> SessionDevice:
    return SessionDevice(**candidate_fields(services.joining.refreshed(one)))


def _asked(one: Candidate) -> DeviceAsked:
    said = {
        CandidateState.PROVISIONING: "it is in line" if not one.progress else "it is under way",
        CandidateState.VERIFIED: "it is verified already",
        CandidateState.FAILED: one.error_message or "it failed",
    }
    return DeviceAsked(mac=one.mac, state=one.state, message=said.get(one.state, "it is under way"))


async def _started(services: Services, wish: Wish, actor: Actor) -> OneSession:
    session = await services.provisioning.start(wish, actor)
    watched = services.scanner.watches
    return OneSession(
        session=view(session),
        message="the session is open; cameras join it as they are found"
        if session.network_interface == watched
        else f"no camera will join it: cameras are looked for on {watched}, not on {session.network_interface}",
    )
