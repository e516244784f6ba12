"""The catalogue of events, one frozen class each.

`type` is the stable name on streams and in the database; the fields that have a value are the payload. The last two
classes are for workers only and never stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pi_orchestrator.core.stream_events import SESSION_ERROR

if TYPE_CHECKING:
    from pi_orchestrator.core.mac import Mac

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the event log; `id` is 0 and `at` "" until it is stored."""

    type: str
    payload: Json
    mac: Mac | None = None
    session_id: str | None = None
    id: int = 0
    at: str = ""


class Event:
    """Base of every stored event: a frozen dataclass whose fields are its payload."""

    type: ClassVar[str]
    columns: ClassVar[frozenset[str]] = frozenset()
    """Fields (`mac`, `session_id`) that are only columns of the row, not in the payload.

    A `mac` is always a column; if it is not named here, it is in the payload, too.
    """

    def payload(self) -> Json:
        """The fields with a value, as plain JSON data."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return {name: value for name, value in values if value is not None and name not in self.columns}

    def row(self, *, event_id: int = 0, at: str = "") -> StoredEvent:
        """The event as a row of the event log."""
        session_id = getattr(self, "session_id", None) if "session_id" in self.columns else None
        mac = getattr(self, "mac", None)
        return StoredEvent(self.type, self.payload(), mac=mac, session_id=session_id, id=event_id, at=at)


def catalogue() -> dict[str, type[Event]]:
    """All stored events: type → class."""

    def subclasses(parent: type[Event]) -> Iterator[type[Event]]:
        for child in parent.__subclasses__():
            yield child
            yield from subclasses(child)

    return {kind.type: kind for kind in subclasses(Event) if "type" in vars(kind)}


# Cameras.


@dataclass(frozen=True, kw_only=True)
class CameraEvent(Event):
    """A change of a registered camera, and its position; `by` is the key name of the operator, if there was one."""

    mac: Mac
    device_id: str
    container_id: str | None = None
    position: int | None = None
    name: str | None = None
    replaces: Mac | None = None
    session_id: str | None = None
    by: str | None = None


class CameraOnboarded(CameraEvent):
    """A camera was registered automatically."""

    type = "camera.onboarded"


class CameraRegistered(CameraEvent):
    """A camera was registered by an operator, or by a provisioning session."""

    type = "camera.registered"


class CameraPaired(CameraEvent):
    """A registered camera was assigned to a position."""

    type = "camera.paired"


class CameraUnassigned(CameraEvent):
    """A camera left its container; the fields are its former container and position."""

    type = "camera.unassigned"


class CameraRenamed(CameraEvent):
    """A camera was renamed, or its name was removed."""

    type = "camera.renamed"


class CameraRemoved(CameraEvent):
    """A camera was unregistered."""

    type = "camera.removed"


class CameraReplaced(CameraEvent):
    """A camera took the place of another one, which is no longer registered."""

    type = "camera.replaced"


@dataclass(frozen=True, kw_only=True)
class ExclusionLifted(Event):
    """An excluded camera may be onboarded again."""

    type = "camera.dismissal_lifted"
    mac: Mac
    by: str


@dataclass(frozen=True, kw_only=True)
class CameraStatusChanged(Event):
    """The status of a registered camera changed."""

    type = "camera.status_changed"
    mac: Mac
    status: str
    previous: str


@dataclass(frozen=True, kw_only=True)
class CameraCaptured(Event):
    """A picture was taken; `size` is in bytes, `took_ms` is from the request to the last byte."""

    type = "camera.captured"
    mac: Mac
    at: str
    size: int
    took_ms: int
    source: str


@dataclass(frozen=True, kw_only=True)
class CameraReboot(Event):
    """A reboot command was sent to a camera (`requested`); then the camera returned (`back`) or did not (`failed`)."""

    type = "camera.reboot"
    mac: Mac
    state: Literal["requested", "back", "failed"]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class CameraRecovery(Event):
    """The recovery state of a camera changed."""

    type = "camera.remedy"
    mac: Mac
    state: str
    failures: int
    advice: str


# Onboarding, containers, allowlist, configuration.


@dataclass(frozen=True, kw_only=True)
class OnboardingFailed(Event):
    """An onboarding attempt failed."""

    type = "camera.onboarding_failed"
    mac: Mac
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class OnboardingAudited(Event):
    """Onboarding events were stored: their number, and the fields of the last one."""

    type = "onboarding.audited"
    rows: int
    mac: Mac
    stage: str
    error_code: str | None = None


@dataclass(frozen=True, kw_only=True)
class OnboardingEnabled(Event):
    """Auto-onboarding was enabled."""

    type = "onboarding.enabled"
    by: str


@dataclass(frozen=True, kw_only=True)
class OnboardingDisabled(Event):
    """Auto-onboarding was disabled."""

    type = "onboarding.disabled"
    by: str


@dataclass(frozen=True, kw_only=True)
class ContainerEvent(Event):
    """A change of a container."""

    id: str
    label: str | None = None
    description: str | None = None
    created_at: str
    updated_at: str


class ContainerCreated(ContainerEvent):
    """A container was created."""

    type = "container.created"


class ContainerUpdated(ContainerEvent):
    """The label or description of a container changed."""

    type = "container.updated"


class ContainerDeleted(ContainerEvent):
    """A container was deleted."""

    type = "container.deleted"


@dataclass(frozen=True, kw_only=True)
class AllowlistChanged(Event):
    """Entries of the allowlist were added, removed or updated; the fields are their numbers."""

    type = "allowlist.changed"
    columns = frozenset({"mac"})
    added: int
    removed: int
    updated: int
    mac: Mac | None = None
    """The entry, if only one changed."""


@dataclass(frozen=True, kw_only=True)
class ConfigChanged(Event):
    """A setting was changed at run time."""

    type = "config.changed"
    key: str
    by: str


# Devices, scans, network.


@dataclass(frozen=True, kw_only=True)
class DeviceFound(Event):
    """A device was seen for the first time; `near`: known devices whose MAC may be one of the same ESP32."""

    type = "device.found"
    mac: Mac
    ip: str | None = None
    locally_administered: bool
    near: Sequence[Mac]


@dataclass(frozen=True, kw_only=True)
class DeviceMoved(Event):
    """The address of a device changed."""

    type = "device.moved"
    mac: Mac
    ip: str | None = None
    previous_ip: str | None = None


@dataclass(frozen=True, kw_only=True)
class MultipleAddresses(Event):
    """A device answers for several addresses."""

    type = "device.multiple_addresses"
    mac: Mac
    ip: str | None = None
    ips: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class AddressConflict(Event):
    """Several devices answer for one address."""

    type = "device.conflict"
    mac: Mac
    ip: str | None = None
    macs: Sequence[Mac] | None = None


@dataclass(frozen=True, kw_only=True)
class ConflictResolved(Event):
    """One device alone answers for an address again."""

    type = "device.conflict_resolved"
    mac: Mac
    ip: str | None = None
    macs: Sequence[Mac] | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceIdConflict(Event):
    """Several cameras share a device id, and the status topic if `topic` is set; if `macs` has only one MAC, another
    client publishes as this camera.
    """

    type = "device.id_conflict"
    mac: Mac
    id: str
    topic: str | None = None
    macs: Sequence[Mac]


@dataclass(frozen=True, kw_only=True)
class DeviceIdConflictResolved(Event):
    """One camera alone uses a device id again, or no other client publishes as this camera any more."""

    type = "device.id_conflict_resolved"
    mac: Mac
    id: str
    topic: str | None = None
    macs: Sequence[Mac]


@dataclass(frozen=True, kw_only=True)
class AnswersForMany(Event):
    """A device answers for so many addresses that it is treated as a proxy."""

    type = "device.answers_for_many"
    mac: Mac
    ip: str | None = None
    ips: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceFlapping(Event):
    """A camera restarts or goes offline repeatedly; `drops` counts all interruptions, `reason` is their summary."""

    type = "device.flapping"
    mac: Mac
    drops: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ScanStarted(Event):
    """A scan began."""

    type = "scan.started"
    id: str
    by: str


@dataclass(frozen=True, kw_only=True)
class ScanEnded(Event):
    """A scan ended; `new`, `moved` and `gone` are devices relative to the previous scan."""

    type = "scan.ended"
    id: str
    state: str
    found: int
    new: int
    moved: int
    gone: int


@dataclass(frozen=True, kw_only=True)
class NetworkStatusChanged(Event):
    """The access point went up or down, or its number of devices changed."""

    type = "network.status_changed"
    ssid: str
    is_active: bool
    connected_devices: int


# Provisioning sessions.


@dataclass(frozen=True, kw_only=True)
class SessionStatus(Event):
    """The state or the counters of a session changed."""

    type = "session.status"
    columns = frozenset({"session_id"})
    session_id: str
    session: Json


@dataclass(frozen=True, kw_only=True)
class DeviceDiscovered(Event):
    """A device joined a session, or its data changed."""

    type = "device.discovered"
    columns = frozenset({"session_id"})
    session_id: str
    mac: Mac
    ip: str | None
    rssi: int | None
    firmware_version: str | None
    in_allowlist: bool
    device: Json

    def payload(self) -> Json:
        """Every field, null if it has no value, as the provisioning contract requires."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in self.columns}


@dataclass(frozen=True, kw_only=True)
class DeviceStateChanged(Event):
    """A session device reached another step."""

    type = "device.state_changed"
    columns = frozenset({"session_id"})
    session_id: str
    mac: Mac
    previous_state: str
    new_state: str
    progress: int
    device: Json
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class SessionError(Event):
    """An error of a session as a whole."""

    type = SESSION_ERROR
    columns = frozenset({"session_id"})
    session_id: str
    code: str
    message: str
    retryable: bool
    retry_after_seconds: int | None = None


# For workers only.


@dataclass(frozen=True, slots=True)
class CameraSeen:
    """A camera is present: it sent a message, or a scan found it and it answered a probe.

    `appeared`: this is the first evidence after silence.
    """

    mac: Mac
    ip: str | None
    device_id: str | None
    firmware_version: str | None
    appeared: bool
    trigger: Literal["mqtt", "scan"] = "mqtt"


@dataclass(frozen=True, slots=True)
class MacContradicted:
    """A message of `mac` also names another MAC; stored as an onboarding event."""

    mac: Mac
    message: str
