"""Sessions and their devices as JSON, in one format for the API, the events and the snapshots of streams."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.events import DeviceDiscovered, DeviceStateChanged, SessionStatus
from pi_orchestrator.features.devices.fingerprint import changes_id
from pi_orchestrator.features.provisioning import session_device as domain
from pi_orchestrator.features.provisioning.session import Ending, Session, SessionConfig, SessionState
from pi_orchestrator.features.provisioning.session_device import SessionDeviceState
from pi_orchestrator.http.model import ApiModel, Time
from pi_orchestrator.http.paging import Pagination

_SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def _session_id(value: object) -> str:
    if not _SESSION_ID.fullmatch(str(value)):
        raise FieldError("must be a session id such as 550e8400-e29b-41d4-a716-446655440000")
    return str(value).lower()


SessionId = Annotated[
    str, BeforeValidator(_session_id), WithJsonSchema({"type": "string", "pattern": f"^{_SESSION_ID.pattern}$"})
]
Timeout = Annotated[int, Field(ge=1, le=86400)]


# Class docstrings are descriptions in the OpenAPI document. The order of fields is their order in events.


class SessionTimes(ApiModel):
    """Timeouts in seconds: of discovery, and of the two steps of each camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    discovery_timeout_seconds: Timeout = 60
    provisioning_timeout_seconds: Timeout = 120
    verification_timeout_seconds: Timeout = 90

    def config(self) -> SessionConfig:
        """Convert to the domain value."""
        return SessionConfig(**self.model_dump())


class SessionView(ApiModel):
    """A session. `provisioned_count` counts the devices that accepted the credentials, verified devices included.

    `expires_at`: when it expires if nothing happens. `ending`: why it ended. `interrupted` is present while it waits to
    be resumed after a restart of the daemon.
    """

    id: str
    state: SessionState
    network_interface: str
    target_ssid: str
    created_at: Time
    updated_at: Time
    device_count: int
    provisioned_count: int
    verified_count: int
    failed_count: int
    config: SessionTimes
    expires_at: Time | None = None
    closed_at: Time | None = None
    ending: Ending | None = None
    interrupted: bool | None = None


class ChangedPart(ApiModel):
    """What a camera answers differently than when it was first seen.

    `part` is `server`, `headers` or `http_device_id` (in its HTTP answers), `topic` or `device_id` (in MQTT).
    `first` is its value when the camera was first seen, `now` the latest value.
    """

    part: str
    first: str
    now: str
    text: str


class SessionDevice(ApiModel):
    """A camera of a session; `progress` is 0 to 100, `rssi` in dBm (0: unknown).

    A skipped camera is `failed` with the code `SKIPPED`, one that waits for a confirmation with `DEVICE_CHANGED`. To
    confirm it, send the `changes_id` of its `fingerprint_changes`.
    """

    mac: str
    ip: str
    state: SessionDeviceState
    progress: int
    rssi: int
    firmware_version: str
    discovered_at: Time
    retry_count: int
    in_allowlist: bool
    session_id: str
    provisioned_at: Time | None = None
    verified_at: Time | None = None
    error_code: str | None = None
    error_message: str | None = None
    container_id: str | None = None
    fingerprint_changes: list[ChangedPart] | None = None
    changes_id: str | None = None


class SessionNetwork(ApiModel):
    """Current state of the camera network."""

    ssid: str
    is_active: bool
    connected_devices: int


class SessionResult(ApiModel):
    """A session, with an optional message for operators."""

    session: SessionView
    message: str | None = None


class SessionDetails(ApiModel):
    """Current state of a session; `timeout_remaining`: seconds until it expires without activity, such as `45s`."""

    session: SessionView
    devices: list[SessionDevice] | None = None
    timeout_remaining: str
    network_status: SessionNetwork


class SessionWithDevices(ApiModel):
    """A session and all its cameras."""

    session: SessionView
    devices: list[SessionDevice]


class SessionList(ApiModel):
    """Open sessions."""

    sessions: list[SessionView]
    count: int


class RecoverableSessions(ApiModel):
    """Sessions that a restart interrupted."""

    sessions: list[SessionView]


class SessionHistory(ApiModel):
    """A page of closed sessions, newest first."""

    sessions: list[SessionView]
    pagination: Pagination


class SessionDevices(ApiModel):
    """Cameras of a session, in the order of their discovery."""

    devices: list[SessionDevice]
    count: int


class DeviceResult(ApiModel):
    """State of a camera after the request."""

    mac: str
    state: SessionDeviceState
    message: str


class ProvisionAllResult(ApiModel):
    """Result of `provision-all`. `initiated_count`: cameras queued now, or under way before.

    `skipped_count`: cameras that are not on the allowlist.
    """

    initiated_count: int
    skipped_count: int
    message: str


class RotationResult(ApiModel):
    """Result of a key rotation; `rotated` is the number of passwords."""

    rotated: int
    message: str


def session_view(session: Session) -> SessionView:
    """Convert a session."""
    config, counts = session.config, session.counts
    return SessionView(
        id=session.id,
        state=session.state,
        network_interface=session.network_interface,
        target_ssid=session.target_ssid,
        created_at=rfc3339(session.created_at),
        updated_at=rfc3339(session.updated_at),
        device_count=counts.device,
        provisioned_count=counts.provisioned,
        verified_count=counts.verified,
        failed_count=counts.failed,
        config=SessionTimes(
            discovery_timeout_seconds=config.discovery_timeout_seconds,
            provisioning_timeout_seconds=config.provisioning_timeout_seconds,
            verification_timeout_seconds=config.verification_timeout_seconds,
        ),
        expires_at=rfc3339(session.expires_at) if session.expires_at else None,
        closed_at=rfc3339(session.closed_at) if session.closed_at else None,
        ending=session.ending,
        interrupted=session.interrupted or None,
    )


def device_view(device: domain.SessionDevice) -> SessionDevice:
    """Convert a session device."""
    return SessionDevice(
        mac=device.mac,
        ip=device.ip,
        state=device.state,
        progress=int(device.progress),
        rssi=device.rssi,
        firmware_version=device.firmware_version,
        discovered_at=rfc3339(device.discovered_at),
        retry_count=device.retry_count,
        in_allowlist=device.in_allowlist,
        session_id=device.session_id,
        provisioned_at=rfc3339(device.provisioned_at) if device.provisioned_at else None,
        verified_at=rfc3339(device.verified_at) if device.verified_at else None,
        error_code=device.error_code,
        error_message=device.error_message,
        container_id=device.container_id,
        fingerprint_changes=[
            ChangedPart(part=change.part, first=change.first, now=change.now, text=change.text)
            for change in device.changed
        ]
        or None,
        changes_id=changes_id(device.changed) if device.changed else None,
    )


def status_event(session: Session) -> SessionStatus:
    """`session.status`: current state of the session."""
    return SessionStatus(session_id=session.id, session=_json(session_view(session)))


def discovered_event(device: domain.SessionDevice) -> DeviceDiscovered:
    """`device.discovered`: the device has joined a session, or its data was updated."""
    return DeviceDiscovered(
        session_id=device.session_id,
        mac=device.mac,
        ip=device.ip,
        rssi=device.rssi,
        firmware_version=device.firmware_version,
        in_allowlist=device.in_allowlist,
        device=_json(device_view(device)),
    )


def state_changed_event(before: domain.SessionDevice, after: domain.SessionDevice) -> DeviceStateChanged:
    """`device.state_changed`: the device has reached another step."""
    return DeviceStateChanged(
        session_id=after.session_id,
        mac=after.mac,
        previous_state=before.state,
        new_state=after.state,
        progress=int(after.progress),
        device=_json(device_view(after)),
        error=after.error_message or None,
    )


def _json(view: ApiModel) -> dict[str, Any]:
    """The view as the API encodes it: fields without a value are left out."""
    return view.model_dump(mode="json", exclude_none=True)
