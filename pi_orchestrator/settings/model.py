"""Every key that can be configured: frozen sections with a default, a range and one line why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr

from pi_orchestrator.domain.container import parse_container_id
from pi_orchestrator.domain.mac import MacField
from pi_orchestrator.domain.onboarding import Mode, Overflow
from pi_orchestrator.domain.wifi import PasswordField, SsidField
from pi_orchestrator.errors import FieldError

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Listen:
    """One address to listen on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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
        raise FieldError(f"{text[:80]!r} is no host name; write it as in pi.example.org, without scheme, port and path")
    return text


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _hard_to_guess(key: SecretStr | None) -> SecretStr | None:
    if key is not None and len(key.get_secret_value()) < 8:
        raise FieldError("shorter than 8 characters can be guessed; `api-key create` makes a good one")
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
"""Nothing, written as an empty string: what a TOML file and an environment variable have in place of a null."""
Seconds = Annotated[float, Field(gt=0, le=86400)]


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)


class HttpSettings(Section):
    """`[http]`: where the API is served."""

    listen: Annotated[tuple[ListenField, ...], CommaList, Field(min_length=1)] = Field(
        (Listen("0.0.0.0", 8081), Listen("0.0.0.0", 8082)),
        description="8081 is the API's port, 8082 the dashboard's; both serve the same",
    )
    trusted_hosts: Annotated[tuple[HostName, ...], CommaList] = Field(
        (),
        description="further host names under which browsers may reach the daemon (guards against DNS rebinding)",
    )
    dashboard_dir: Annotated[Path | None, Unset] = Field(
        None, description="a built dashboard to serve at / in place of the daemon's own page"
    )
    sse_unnamed_copy: bool = Field(
        True, description="send each event of a stream once more without its name, for pages that use onmessage alone"
    )


class AuthSettings(Section):
    """`[auth]`: who may do what."""

    mode: Literal["provisioning", "required", "off"] = Field(
        "provisioning", description="provisioning: keys where data can be lost; required: everywhere; off: tests"
    )
    api_key: Annotated[SecretStr | None, Unset, AfterValidator(_hard_to_guess)] = Field(
        None, description="one admin key from the configuration; better in a file or a systemd credential"
    )
    api_key_file: Annotated[Path | None, Unset] = Field(None, description="a file that holds that key")


class ApSettings(Section):
    """`[ap]`: the camera network."""

    interface: str = Field("wlan0", pattern=r"^[^\s/]{1,15}$", description="the access point's interface")
    subnet: Network = Field(
        IPv4Network("192.168.10.0/24"), description="the access point's network; cameras are only looked for here"
    )
    ssid: Annotated[str | None, Unset] = Field(
        None, max_length=32, description="its name, where neither the radio nor hostapd's file tells it"
    )


class DiscoverySettings(Section):
    """`[discovery]`: who is on the camera network, and how that is found out."""

    engine: Literal["auto", "arp", "neighbour", "off"] = Field(
        "auto", description="auto: ARP where CAP_NET_RAW allows it, else the kernel's neighbour table"
    )
    interval_s: float = Field(60, ge=5, le=86400, description="a scan of the whole network this often")
    rounds: int = Field(2, ge=1, le=5, description="how often a scan asks addresses that stay silent")
    allow_large_subnet: bool = Field(False, description="scan a network larger than a /22 all the same")
    stations: bool = Field(True, description="read the radio's station list (nl80211)")
    leases: bool = Field(True, description="read the DHCP server's leases")
    lease_files: Annotated[tuple[Path, ...], CommaList] = Field(
        (), description="where they are, if not in the usual places (dnsmasq, NetworkManager, RaspAP)"
    )
    mdns: bool = Field(True, description="browse for cameras and advertise the daemon by mDNS")
    probe: bool = Field(True, description="ask likely cameras for their /status")


class MqttSettings(Section):
    """`[mqtt]`: the broker that the cameras speak to."""

    host: str = Field("127.0.0.1", min_length=1, description="mosquitto on the same Pi, as the installer sets it up")
    port: int = Field(1883, ge=0, le=65535, description="0 lets the embedded broker choose a free one")
    username: Annotated[str | None, Unset] = Field(None, description="only where the broker asks for it")
    password: Annotated[SecretStr | None, Unset] = Field(None, description="better in a file or a systemd credential")
    password_file: Annotated[Path | None, Unset] = Field(None, description="a file that holds the password")
    tls: bool = Field(False, description="TLS to a broker elsewhere; needless on the Pi itself")
    ca_file: Annotated[Path | None, Unset] = Field(
        None, description="trust this certificate authority instead of the system's"
    )
    client_id: str = Field("pi-orchestrator", min_length=1, description="stable, and one for each daemon on a broker")
    keepalive_s: int = Field(15, ge=5, le=600, description="a broker that hangs is noticed after 1.5 times this")
    embedded: bool = Field(False, description="run a broker inside the process: for demos, not for a fleet")


class CameraSettings(Section):
    """`[cameras]`: when a camera counts as here."""

    http_port: int = Field(80, ge=1, le=65535, description="the port of the cameras' own web server")
    idle_after_s: Seconds = Field(120, description="a registered camera that is silent for this long is idle")
    offline_after_s: Seconds = Field(600, description="and after this long offline")
    max_devices: int = Field(
        4096, ge=16, le=65536, description="how many devices are remembered; registered ones always are"
    )
    capture_cache_s: float = Field(2, ge=0, le=60, description="a picture this young is given to whoever asks for one")
    auto_reboot: bool = Field(True, description="reboot a camera by itself when it fails to give pictures")
    reboot_after: int = Field(3, ge=1, le=100, description="after so many failures in a row")
    images_kept_mb: int = Field(16, ge=8, le=1024, description="memory for the last picture of each camera")


class AutoOnboardSettings(Section):
    """`[auto_onboard]`: cameras onboarded by themselves (development only)."""

    enabled: bool = Field(False, description="the first value only: enable and disable by API or command persist")
    mode: Mode = Field(Mode.OFF, description="'dev' allows it; leave it 'off' in production")
    target_container: Annotated[str, AfterValidator(parse_container_id)] = Field(
        "auto-onboard", description="the container that cameras are paired to; made at start if it is not there"
    )
    triggers: Annotated[tuple[Literal["mqtt", "scan"], ...], CommaList, Field(min_length=1)] = Field(
        ("mqtt",), description="what makes a camera a candidate: its own message, or a scan and its /status"
    )
    max_per_minute: int = Field(10, ge=1, le=6000, description="how many attempts a minute, in the long run")
    burst_size: int = Field(5, ge=1, le=1000, description="how many at once after a quiet time")
    subnet_allowlist: Annotated[tuple[Network, ...], CommaList] = Field(
        (IPv4Network("192.168.10.0/24"),), description="only cameras with an address in here"
    )
    verification_timeout_sec: float = Field(5, gt=0, le=60, description="the longest a camera may take to answer")
    deny: Annotated[tuple[MacField, ...], CommaList] = Field((), description="MACs that are never onboarded")
    overflow: Overflow = Field(
        Overflow.NEW_CONTAINER, description="when the target is full: new_container makes further ones, reject fails"
    )
    concurrency: int = Field(8, ge=1, le=64, description="how many cameras are verified at the same time")
    queue_limit: int = Field(1000, ge=1, le=100000, description="how many cameras may wait for a token")
    allow_loopback: bool = Field(False, description="cameras at 127.x: for the sandbox on this machine only")


class ProvisioningSettings(Section):
    """`[provisioning]`: cameras given the credentials of their network, many at once."""

    target_ssid: Annotated[SsidField | None, Unset] = Field(
        None, description="the network that cameras are sent to where a session names none"
    )
    target_password: Annotated[PasswordField | None, Unset] = Field(
        None, description="its password, empty for an open network; better in a file or a credential"
    )
    target_password_file: Annotated[Path | None, Unset] = Field(None, description="a file that holds that password")
    target_subnets: Annotated[tuple[Network, ...], CommaList] = Field(
        tuple(IPv4Network(one) for one in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),
        description="where a camera may turn up again; it is asked who it is nowhere else",
    )
    mqtt_host: Annotated[str | None, Unset] = Field(
        None, description="the broker as cameras reach it, if not mqtt.host or this machine"
    )
    mqtt_username: Annotated[str | None, Unset] = Field(None, description="what cameras say to that broker")
    mqtt_password: Annotated[SecretStr | None, Unset] = Field(None, description="better in a file or a credential")
    mqtt_password_file: Annotated[Path | None, Unset] = Field(None, description="a file that holds that password")
    allow_unlisted: bool = Field(False, description="let provision-all take unlisted cameras too, when it is asked to")
    concurrency: int = Field(4, ge=1, le=32, description="how many cameras are provisioned at the same time")
    max_retries: int = Field(3, ge=0, le=100, description="how often a camera may be retried by hand")
    request_timeout_s: float = Field(10, gt=0, le=120, description="the longest that one answer of a camera may take")
    breaker_failures: int = Field(
        5, ge=1, le=1000, description="so many failures in a row, of a camera or of all of them, and it waits"
    )
    breaker_reset_s: Seconds = Field(30, description="how long, before one attempt shows whether it works again")


class StorageSettings(Section):
    """`[storage]`: where the record is kept."""

    state_dir: Path = Field(Path("/var/lib/pi-orchestrator"), description="database, keys and backups")
    retention_days: int = Field(90, ge=1, le=3650, description="how long audit rows and operator actions are kept")
    backups_kept: int = Field(5, ge=1, le=100, description="how many backups taken before migrations are kept")


class LoggingSettings(Section):
    """`[logging]`: what is written to the journal."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is written")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")


class Settings(Section):
    """Everything that can be configured; see `config/config.toml`."""

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
