"""Options of simulated cameras: spellings, topics and times."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pi_orchestrator.core.mac import Mac


class MacStyle(StrEnum):
    """Spelling of a camera's MAC; `mixed` changes it with every message."""

    COLON = "colon"
    DASH = "dash"
    BARE = "bare"
    LOWER = "lower"
    MIXED = "mixed"

    def spell(self, mac: Mac, turn: int = 0) -> str:
        """Write the MAC in this style; for `mixed`, `turn` selects one of the four spellings."""
        spellings = [mac, mac.replace(":", "-"), mac.replace(":", ""), mac.lower()]
        order = [MacStyle.COLON, MacStyle.DASH, MacStyle.BARE, MacStyle.LOWER]
        return spellings[turn % 4 if self is MacStyle.MIXED else order.index(self)]


class IdStyle(StrEnum):
    """The camera's id in `camera/...` topics."""

    MAC = "mac"
    DEVICE_ID = "device-id"


class TopicStyle(StrEnum):
    """Topics: `camera/status/{id}`, or `delicasa/{container_id}/camera/{mac}/status` of newer firmware."""

    CAMERA = "camera"
    DELICASA = "delicasa"


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """Common options of a fleet's cameras; times in seconds."""

    broker_host: str
    broker_port: int = 1883
    http_port: int = 8080
    interval: float = 10.0
    """Time between two status messages."""
    mac_style: MacStyle = MacStyle.COLON
    id_style: IdStyle = IdStyle.MAC
    topic_style: TopicStyle = TopicStyle.CAMERA
    container_id: str = "sandbox"
    ssid: str = "DeliCasa-AP"
    """The WiFi network at the start."""
    retain: bool = False
    """Whether status and last will are retained, like with most real firmware."""
    keepalive: int = 30
    reboot_s: float = 3.0
    """Time off during a reboot."""
    flap_s: float = 4.0
    """Maximum time for which an unstable camera is on; a flapping camera is then off for at most half of this."""
    rejoin_s: float = 2.0
    """Time off between two networks."""
    wifi_password: str | None = field(default=None, repr=False)
    """Password of the target network; None accepts any password."""
