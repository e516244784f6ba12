"""The settings model: frozen sections; each key has a default, a range and a one-line description."""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.identifiers import parse_container_id
from pi_orchestrator.core.listen import Listen
from pi_orchestrator.core.mac import MacField
from pi_orchestrator.core.wifi import PasswordField, SsidField

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)


class Mode(StrEnum):
    """Whether auto-onboarding is allowed on this installation at all."""

    OFF = "off"
    DEV = "dev"


class Overflow(StrEnum):
    """What happens when the target container is full."""

    NEW_CONTAINER = "new_container"
    REJECT = "reject"


def parse_listen(value: object) -> Listen:
    """`host:port` or `[v6]:port` → Listen; FieldError otherwise."""
    if isinstance(value, Listen):
        return value
    host, _, port = str(value).rpartition(":")
    host = host.strip("[]")
    try:
        if host != "localhost":
            ip_address(host)
        number = int(port) if port.isascii() and port.isdigit() else -1
        if not 0 <= number <= 65535:
            raise ValueError
    except ValueError:
        raise FieldError(f"{str(value)!r} is not ADDRESS:PORT such as 0.0.0.0:8081") from None
    return Listen(host, number)


def _split(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _host_name(text: str) -> str:
    if not _HOST_NAME.fullmatch(text):
        raise FieldError(
            f"{text[:80]!r} is not a host name; write it like pi.example.org, without scheme, port and path"
        )
    return text


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _check_key_length(key: SecretStr | None) -> SecretStr | None:
    if key is not None and len(key.get_secret_value()) < 8:
        raise FieldError("shorter than 8 characters, so easy to guess; create a key with `api-key create`")
    return key


def _network(value: object) -> IPv4Network:
    try:
        return value if isinstance(value, IPv4Network) else IPv4Network(str(value))
    except ValueError as error:
        raise FieldError(f"{error}; write it like 192.168.10.0/24") from None


Network = Annotated[IPv4Network, BeforeValidator(_network), PlainSerializer(str)]
ListenField = Annotated[
    Listen, BeforeValidator(parse_listen), PlainSerializer(str), Field(json_schema_extra={"type": "string"})
]
CommaList = BeforeValidator(_split)
HostName = Annotated[str, AfterValidator(_host_name)]
Unset = BeforeValidator(_none_if_empty)
"""An empty string means None, because TOML files and environment variables have no null."""
Seconds = Annotated[float, Field(gt=0, le=86400)]


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)


class HttpSettings(Section):
    """`[http]`: addresses and pages of the HTTP server."""

    listen: Annotated[tuple[ListenField, ...], CommaList, Field(min_length=1)] = Field(
        (Listen("0.0.0.0", 8081), Listen("0.0.0.0", 8082)),
        description="addresses to listen on; 8081 is for API clients, 8082 for browsers; both serve the same paths",
    )
    trusted_hosts: Annotated[tuple[HostName, ...], CommaList] = Field(
        (),
        description="additional host names under which browsers may reach the daemon (guards against DNS rebinding)",
    )
    dashboard_dir: Annotated[Path | None, Unset] = Field(
        None, description="a built dashboard to serve at / in place of the daemon's own page"
    )
    sse_unnamed_copy: bool = Field(
        True, description="send each stream event a second time without its name, for pages that only use onmessage"
    )


class AuthSettings(Section):
    """`[auth]`: which requests need an API key."""

    mode: Literal["provisioning", "required", "off"] = Field(
        "provisioning",
        description="provisioning: requests that can destroy data or change settings need a key; required: all requests"
        " need one; off: none",
    )
    api_key: Annotated[SecretStr | None, Unset, AfterValidator(_check_key_length)] = Field(
        None, description="an admin key; safer in api_key_file or a systemd credential"
    )
    api_key_file: Annotated[Path | None, Unset] = Field(None, description="file with the admin key")


class ApSettings(Section):
    """`[ap]`: the camera network."""

    interface: str = Field("wlan0", pattern=r"^[^\s/]{1,15}$", description="the access point's interface")
    subnet: Network = Field(
        IPv4Network("192.168.10.0/24"), description="the access point's network; only this network is scanned"
    )
    ssid: Annotated[str | None, Unset] = Field(
        None,
        max_length=32,
        description="the access point's name, used only if the radio does not report one; it then takes precedence over"
        " the names in files of hostapd and NetworkManager",
    )


class DiscoverySettings(Section):
    """`[discovery]`: how devices on the camera network are found."""

    engine: Literal["auto", "arp", "neighbour", "off"] = Field(
        "auto", description="auto: ARP where CAP_NET_RAW allows it, else the kernel's neighbour table"
    )
    interval_s: float = Field(60, ge=5, le=86400, description="seconds between scans of the whole network")
    allow_large_subnet: bool = Field(False, description="scan the network even if it is larger than a /22")
    stations: bool = Field(True, description="read the radio's station list (nl80211)")
    leases: bool = Field(True, description="read the DHCP server's leases")
    lease_files: Annotated[tuple[Path, ...], CommaList] = Field(
        (), description="lease files of the DHCP server; empty: those of dnsmasq, NetworkManager and RaspAP"
    )
    mdns: bool = Field(True, description="browse for cameras and advertise the daemon by mDNS")
    probe: bool = Field(True, description="send GET /status to devices that may be cameras")


class MqttSettings(Section):
    """`[mqtt]`: the broker that the cameras use."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="broker address; default: mosquitto on the Pi, set up by the installer"
    )
    port: int = Field(1883, ge=0, le=65535, description="broker port; 0: the embedded broker chooses a free one")
    username: Annotated[str | None, Unset] = Field(
        None, description="the daemon's user name at the broker, if the broker requires one"
    )
    password: Annotated[SecretStr | None, Unset] = Field(
        None, description="the daemon's password at the broker; safer in password_file or a systemd credential"
    )
    password_file: Annotated[Path | None, Unset] = Field(
        None, description="file with the daemon's password at the broker"
    )
    tls: bool = Field(False, description="use TLS; not needed for a broker on the Pi itself")
    ca_file: Annotated[Path | None, Unset] = Field(
        None, description="certificate authority to trust instead of the system's"
    )
    client_id: str = Field(
        "pi-orchestrator", min_length=1, description="prefix of the MQTT client id; 8 random characters are added"
    )
    embedded: bool = Field(False, description="run a broker inside the process: for demos, not for production")


class CameraSettings(Section):
    """`[cameras]`: presence, pictures and automatic reboots of cameras."""

    http_port: int = Field(80, ge=1, le=65535, description="the HTTP port of the cameras")
    idle_after_s: Seconds = Field(120, description="seconds without evidence until a registered camera is idle")
    offline_after_s: Seconds = Field(600, description="seconds without evidence until a registered camera is offline")
    max_devices: int = Field(
        4096, ge=16, le=65536, description="limit of devices in memory; registered cameras are always included"
    )
    capture_cache_s: float = Field(
        2, ge=0, le=60, description="a picture at most this old, in seconds, is reused for further requests"
    )
    auto_reboot: bool = Field(True, description="reboot a camera automatically when its captures fail")
    reboot_after: int = Field(3, ge=1, le=100, description="failed captures in a row before a reboot")


class AutoOnboardSettings(Section):
    """`[auto_onboard]`: auto-onboarding of cameras (development only)."""

    enabled: bool = Field(
        False,
        description="whether auto-onboarding is enabled at the first start; after that only the API and commands"
        " change it",
    )
    mode: Mode = Field(Mode.OFF, description="'dev' allows auto-onboarding; keep 'off' in production")
    target_container: Annotated[str, AfterValidator(parse_container_id)] = Field(
        "auto-onboard", description="the container that cameras are paired to; created at start if missing"
    )
    triggers: Annotated[tuple[Literal["mqtt", "scan"], ...], CommaList, Field(min_length=1)] = Field(
        ("mqtt",),
        description="what starts an onboarding; mqtt: a message of the camera; scan: a scan finds the camera and it"
        " answers GET /status",
    )
    max_per_minute: int = Field(10, ge=1, le=6000, description="long-term limit of attempts per minute")
    burst_size: int = Field(5, ge=1, le=1000, description="limit of attempts in a burst after a quiet period")
    subnet_allowlist: Annotated[tuple[Network, ...], CommaList] = Field(
        (IPv4Network("192.168.10.0/24"),), description="only cameras with an address in these networks are onboarded"
    )
    verification_timeout_sec: float = Field(
        5, gt=0, le=60, description="seconds that a camera may take to answer its verification"
    )
    deny: Annotated[tuple[MacField, ...], CommaList] = Field((), description="MACs that are never onboarded")
    overflow: Overflow = Field(
        Overflow.NEW_CONTAINER,
        description="if the target container is full; new_container: create another container; reject: do not onboard"
        " the camera",
    )
    concurrency: int = Field(8, ge=1, le=64, description="cameras verified at the same time")
    allow_loopback: bool = Field(False, description="allow cameras at 127.x: only for the sandbox on this machine")


class ProvisioningSettings(Section):
    """`[provisioning]`: sending many cameras the credentials of the target network."""

    target_ssid: Annotated[SsidField | None, Unset] = Field(
        None, description="target network of sessions that do not name one"
    )
    target_password: Annotated[PasswordField | None, Unset] = Field(
        None,
        description="password of target_ssid, empty for an open network; safer in target_password_file or a systemd"
        " credential",
    )
    target_password_file: Annotated[Path | None, Unset] = Field(
        None, description="file with the password of target_ssid"
    )
    target_subnets: Annotated[tuple[Network, ...], CommaList] = Field(
        tuple(IPv4Network(subnet) for subnet in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),
        description="networks in which a provisioned camera may reappear; it is verified nowhere else",
    )
    mqtt_host: Annotated[str | None, Unset] = Field(
        None,
        description="broker address that cameras use; empty: mqtt.host. A loopback address is replaced by this"
        " machine's address on the camera network",
    )
    mqtt_username: Annotated[str | None, Unset] = Field(None, description="user name that cameras use at the broker")
    mqtt_password: Annotated[SecretStr | None, Unset] = Field(
        None,
        description="password that cameras use at the broker; safer in mqtt_password_file or a systemd credential",
    )
    mqtt_password_file: Annotated[Path | None, Unset] = Field(
        None, description="file with the password that cameras use at the broker"
    )
    allow_unlisted: bool = Field(
        False, description="allow requests to provision-all to include cameras outside the allowlist"
    )
    confirm_changed: bool = Field(
        False,
        description="if a camera's fingerprint has changed since it was first seen, send it credentials only after an"
        " operator has confirmed the camera: its MAC may be a copy",
    )
    concurrency: int = Field(4, ge=1, le=32, description="cameras provisioned at the same time")
    max_retries: int = Field(3, ge=0, le=100, description="limit of manual retries per camera in a session")
    request_timeout_s: float = Field(10, gt=0, le=120, description="seconds that a camera may take to answer a request")


class StorageSettings(Section):
    """`[storage]`: where data is stored, and for how long."""

    state_dir: Path = Field(Path("/var/lib/pi-orchestrator"), description="database, keys and backups")
    retention_days: int = Field(
        90, ge=1, le=3650, description="days that onboarding events and operator actions are kept"
    )


class LoggingSettings(Section):
    """`[logging]`: what is logged."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")


class Settings(Section):
    """All settings; see `config/config.toml`."""

    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()
    ap: ApSettings = ApSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    mqtt: MqttSettings = MqttSettings()
    cameras: CameraSettings = CameraSettings()
    auto_onboard: AutoOnboardSettings = AutoOnboardSettings()
    provisioning: ProvisioningSettings = ProvisioningSettings()
    storage: StorageSettings = StorageSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def loopback_cameras(self) -> bool:
        """Whether cameras may have addresses in 127.x; only for the sandbox on this machine."""
        return self.auto_onboard.allow_loopback
