"""Cameras as the dashboard sees them: who is live, one of them, how well they do, and who is paired."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pi_orchestrator.api.evidence import EvidenceView, Now, evidence_view, told_of, why
from pi_orchestrator.api.route import Reply, Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import Clock, rfc3339
from pi_orchestrator.domain.camera import (
    MAX_NAME_CHARS,
    CameraStatus,
    camera_status,
    connection_quality,
    device_id_for,
    parse_name,
)
from pi_orchestrator.domain.camera import Camera as Registered
from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.presence import HERE, Device
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.remedy import Remedy
from pi_orchestrator.errors import NotFoundError
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.workers.captures import Captures
from pi_orchestrator.workers.onboarding import OnboardingWorker
from pi_orchestrator.workers.presence import PresenceWorker
from pi_orchestrator.workers.reboots import Reboots
from pi_orchestrator.workers.remedies import Remedies

Name = Annotated[
    str | None,
    BeforeValidator(parse_name),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_NAME_CHARS}, {"type": "null"}]}),
]


class CameraHealth(Wire):
    """What the camera last said of itself; 0 where it said nothing."""

    wifi_rssi: int = 0
    free_heap: int = 0
    heap: int = 0
    uptime: int = 0
    uptime_seconds: int = 0
    resolution: str | None = None
    firmware_version: str | None = None
    last_capture: Time | None = None
    last_error: str | None = None


class Camera(Wire):
    """A camera; `id` and `device_id` are the same, and so are `lastSeen` and `last_seen`."""

    id: str
    device_id: str
    name: str
    status: CameraStatus
    lastSeen: Time | None = None  # noqa: N815  # the dashboard's spelling
    last_seen: Time | None = None
    ip_address: str
    mac_address: str
    container_id: str | None = None
    position: int | None = None
    firmware_version: str | None = None
    health: CameraHealth


class RemedyView(Wire):
    """What is being done about a camera that gives no pictures, since when, and what a person can do."""

    state: Remedy
    since: Time | None = None
    failures: int
    advice: str


class Diagnostics(Wire):
    """How well a camera is reached."""

    connection_quality: str
    error_count: int
    last_error: str | None = None
    last_error_time: Time | None = None
    avg_capture_time_ms: int | None = None
    remedy: RemedyView


class DiagnosedCamera(Camera):
    """A camera, how well it is reached, and `why` it is believed to be in its state, with the evidence."""

    diagnostics: Diagnostics
    why: str
    evidence: list[EvidenceView]


class CameraList(Wire):
    """Live cameras."""

    cameras: list[Camera]
    count: int


class PairedCamera(Wire):
    """A registered camera in its place; text is empty and the signal 0 where there is no value."""

    mac_address: str
    container_id: str
    position: int = Field(ge=1, le=4)
    status: str
    firmware_version: str
    signal_strength: int
    last_image: str
    paired_at: str
    last_seen: str
    name: str | None = None
    error_message: str | None = None


class PairedList(Wire):
    """Every registered camera that stands in a container, online or not."""

    cameras: list[PairedCamera]
    total: int
    online_count: int
    online: int


class CameraChange(BaseModel):
    """What to call a camera."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="control characters are left out; empty or null: by its device id again")


class CameraPath(BaseModel):
    """A camera by its MAC in any spelling, or by its device id."""

    id: str = Field(min_length=1, max_length=64, description="MAC in any spelling, or device id")


class CameraViews:
    """Cameras as JSON, each encoded once per change: a list of them is put together from what is there."""

    def __init__(
        self,
        *,
        roster: Roster,
        registry: Registry,
        presence: PresenceWorker,
        onboarding: OnboardingWorker,
        captures: Captures,
        reboots: Reboots,
        remedies: Remedies,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._roster = roster
        self._registry = registry
        self._presence = presence
        self._onboarding = onboarding
        self._captures = captures
        self._reboots = reboots
        self._remedies = remedies
        self._encoded: dict[Mac, tuple[object, bytes]] = {}
        self._list: tuple[object, bytes] = (None, b"")

    def live(self) -> list[Mac]:
        """Who has been heard: registered cameras in the order of registration, then strangers who are here."""
        heard = [
            camera.mac
            for camera in self._roster
            if (device := self._registry.get(camera.mac)) and device.alive_at is not None
        ]
        strangers = [
            device.mac
            for device in self._registry
            if device.is_camera and device.shown in HERE and device.mac not in self._roster
        ]
        return heard + sorted(strangers)

    def find(self, name: str) -> Mac:
        """The MAC that an id stands for; NotFoundError when there is no such camera."""
        mac = self._meant(name)
        if mac is None or (mac not in self._roster and self._registry.get(mac) is None):
            raise NotFoundError(
                f"there is no camera {name!r}",
                code="CAMERA_NOT_FOUND",
                details="the list of cameras has those that are registered or heard",
            )
        return mac

    def _meant(self, name: str) -> Mac | None:
        return self._roster.find(name) or self._registry.find(name) or try_mac(name)

    def _id(self, mac: Mac, device: Device | None, camera: Registered | None) -> str:
        """What a camera is known by: what it claims only where that leads to it, and to no other."""
        if camera:
            return camera.device_id
        claimed = device_id_for(mac, device.device_id if device else None)
        return claimed if self._meant(claimed) == mac else mac

    def encoded_list(self) -> bytes:
        """The live cameras as JSON, put together anew when one of them has changed."""
        cared = (self._captures.revision, self._remedies.revision)
        made_from = (self._registry.revision, self._roster.revision, self._onboarding.under_way, *cared)
        if self._list[0] != made_from:
            bodies = [self.encoded(mac) for mac in self.live()]
            self._list = (made_from, b'{"cameras":[%b],"count":%d}' % (b",".join(bodies), len(bodies)))
        return self._list[1]

    def encoded(self, mac: Mac) -> bytes:
        """A camera as JSON."""
        device, camera = self._registry.get(mac), self._roster.get(mac)
        revision = device.revision if device else -1
        onboarding = self._onboarding.is_onboarding(mac)
        made_from = (device, revision, camera, self._id(mac, device, camera), onboarding, self._care(mac))
        known = self._encoded.get(mac)
        if known and known[0] == made_from:
            return known[1]
        body = self.camera(mac).model_dump_json(exclude_none=True).encode()
        if len(self._encoded) > 2 * (len(self._registry) + 64):
            self._encoded.clear()  # most of them are long gone
        self._encoded[mac] = (made_from, body)
        return body

    def _care(self, mac: Mac) -> object:
        """What is shown of a camera's pictures and reboots."""
        ladder, picture = self._remedies.of(mac), self._captures.kept(mac)
        return ladder.state, ladder.trouble, self._reboots.is_rebooting(mac), picture.taken_at if picture else None

    def camera(self, mac: Mac) -> Camera:
        """A camera from all that is known of it."""
        device, camera = self._registry.get(mac), self._roster.get(mac)
        claims = device.claims if device else None
        picture = self._captures.kept(mac)
        device_id = self._id(mac, device, camera)
        seen = self._last_seen(device, camera)
        heap = (claims.free_heap_bytes if claims else None) or 0
        uptime = int((claims.uptime_s if claims else None) or 0)
        firmware = (claims.firmware_version if claims else None) or (camera.firmware_version if camera else None)
        return Camera(
            id=device_id,
            device_id=device_id,
            name=(camera.name if camera else None) or device_id,
            status=self.status(mac),
            lastSeen=seen,
            last_seen=seen,
            ip_address=self._address(mac, device, camera),
            mac_address=mac,
            container_id=camera.container_id if camera else None,
            position=camera.position if camera else None,
            firmware_version=firmware,
            health=CameraHealth(
                wifi_rssi=(claims.rssi_dbm if claims else None) or 0,
                free_heap=heap,
                heap=heap,
                uptime=uptime,
                uptime_seconds=uptime,
                resolution=claims.resolution if claims else None,
                firmware_version=firmware,
                last_capture=rfc3339(picture.taken_at) if picture else None,
                last_error=self._trouble(mac),
            ),
        )

    def status(self, mac: Mac) -> CameraStatus:
        """A camera's state in one word."""
        if self._reboots.is_rebooting(mac):
            return CameraStatus.REBOOTING
        status = camera_status(
            device=self._registry.get(mac),
            registered=mac in self._roster,
            onboarding=self._onboarding.is_onboarding(mac),
        )
        stuck = self._remedies.of(mac).state is Remedy.NEEDS_POWER_CYCLE
        return CameraStatus.ERROR if stuck and status is not CameraStatus.OFFLINE else status

    def diagnosed(self, mac: Mac, now: Now) -> DiagnosedCamera:
        """A camera, how well it is reached, and why that is believed."""
        device = self._registry.get(mac)
        rssi = device.claims.rssi_dbm if device and device.claims else None
        ladder = self._remedies.of(mac)
        return DiagnosedCamera(
            **dict(self.camera(mac)),
            diagnostics=Diagnostics(
                connection_quality=connection_quality(rssi),
                error_count=device.error_count if device else 0,
                last_error=self._trouble(mac),
                last_error_time=self._moment(ladder.failed_at) if ladder.trouble else None,
                avg_capture_time_ms=self._captures.average_ms(mac),
                remedy=RemedyView(
                    state=ladder.state,
                    since=self._moment(ladder.since) if ladder.state is not Remedy.OK else None,
                    failures=ladder.failures,
                    advice=ladder.advice,
                ),
            ),
            why=why(now, device) if device else "",
            evidence=[evidence_view(now, one) for one in told_of(device)] if device else [],
        )

    def paired(self, camera: Registered) -> PairedCamera:
        """A registered camera in its place."""
        view = self.camera(camera.mac)
        return PairedCamera(
            mac_address=camera.mac,
            container_id=camera.container_id or "",
            position=camera.position or 0,
            status=_PAIRED_WORDS.get(view.status, "offline"),
            firmware_version=view.firmware_version or "",
            signal_strength=view.health.wifi_rssi,
            last_image=_image_path(camera.mac, view.health.last_capture),
            paired_at=rfc3339(camera.paired_at) if camera.paired_at else "",
            last_seen=view.last_seen or "",
            name=view.name,
            error_message=view.health.last_error if view.status is CameraStatus.ERROR else None,
        )

    def _address(self, mac: Mac, device: Device | None, camera: Registered | None) -> str:
        """Where it answers; else where it says that it is, else where it was."""
        proven = self._registry.address_of(mac)
        claimed = device.claims.ip if device and device.claims else None
        return str(proven) if proven else claimed or (camera.ip_address if camera else None) or ""

    def _trouble(self, mac: Mac) -> str | None:
        """What is wrong with a camera, in words."""
        ladder, device = self._remedies.of(mac), self._registry.get(mac)
        if ladder.state is Remedy.NEEDS_POWER_CYCLE:
            told = ladder.trouble.startswith("REBOOT_FAILED")
            return ladder.trouble if told else f"needs power cycle: {ladder.trouble}"
        if device and device.unstable:
            return f"unstable: it went away {len(device.drops)} times in the last minutes"
        return ladder.trouble or (device.last_error if device else None)

    def _moment(self, at: float | None) -> str | None:
        return None if at is None else rfc3339(self._clock.wall() - timedelta(seconds=self._clock.monotonic() - at))

    def _last_seen(self, device: Device | None, camera: Registered | None) -> str | None:
        seen = self._presence.last_seen(device) if device else None
        seen = seen or (camera.last_seen_at if camera else None)
        return rfc3339(seen) if seen else None


def _image_path(mac: Mac, taken_at: str | None) -> str:
    """Where the last picture is; another path for another picture, so that pages show it."""
    return f"/api/v1/cameras/{mac}/image?t={taken_at}" if taken_at else ""


def is_online(status: CameraStatus) -> bool:
    """Whether a camera counts as there: a silent one that was not given up yet does."""
    return _PAIRED_WORDS.get(status) == "online"


# The pairing answer knows four words: a silent camera that was not given up yet still counts as there.
_PAIRED_WORDS = {
    CameraStatus.ONLINE: "online",
    CameraStatus.IDLE: "online",
    CameraStatus.ERROR: "error",
    CameraStatus.PAIRING: "pairing",
}


async def list_live(services: Services) -> Reply[CameraList]:
    """Live cameras: those that have sent MQTT status."""
    return Reply(encoded=services.views.encoded_list())


async def show(services: Services, path: CameraPath) -> Reply[Camera]:
    """One camera, by MAC in any spelling or by device id."""
    return Reply(encoded=services.views.encoded(services.views.find(path.id)))


async def rename(services: Services, path: CameraPath, body: CameraChange, actor: Actor) -> Camera:
    """Call a registered camera something else."""
    camera = await services.inventory.rename(services.views.find(path.id), body.name, actor)
    return services.views.camera(camera.mac)


async def diagnostics(services: Services) -> list[DiagnosedCamera]:
    """Live cameras with how well they are reached, and the evidence for what is said of each."""
    now = Now.by(services.clock)
    return [services.views.diagnosed(mac, now) for mac in services.views.live()]


async def list_unassigned(services: Services) -> CameraList:
    """Registered cameras that stand in no container, online or not."""
    cameras = [services.views.camera(one.mac) for one in services.roster if one.container_id is None]
    return CameraList(cameras=cameras, count=len(cameras))


async def list_paired(services: Services) -> PairedList:
    """Every registered camera that stands in a container, online or not; the others are `/cameras/unassigned`."""
    cameras = [services.views.paired(camera) for camera in services.roster if camera.container_id is not None]
    online = sum(camera.status == "online" for camera in cameras)
    return PairedList(cameras=cameras, total=len(cameras), online_count=online, online=online)
