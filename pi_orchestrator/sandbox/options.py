"""How a simulated camera spells, names and times things."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pi_orchestrator.domain.mac import Mac


class MacStyle(StrEnum):
    """How a camera spells its MAC; `mixed` takes the next spelling with every message."""

    COLON = "colon"
    DASH = "dash"
    BARE = "bare"
    LOWER = "lower"
    MIXED = "mixed"

    def spell(self, mac: Mac, turn: int = 0) -> str:
        """Write the MAC in this style; `turn` chooses among the four where the style is mixed."""
        spellings = [mac, mac.replace(":", "-"), mac.replace(":", ""), mac.lower()]
        order = [MacStyle.COLON, MacStyle.DASH, MacStyle.BARE, MacStyle.LOWER]
        return spellings[turn % 4 if self is MacStyle.MIXED else order.index(self)]


class IdStyle(StrEnum):
    """What stands for the camera in its `camera/...` topics."""

    MAC = "mac"
    DEVICE_ID = "device-id"


class TopicStyle(StrEnum):
    """`camera/status/{id}`, or `delicasa/{container_id}/camera/{mac}/status` of newer firmware."""

    CAMERA = "camera"
    DELICASA = "delicasa"


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """What the cameras of one fleet have in common; times in seconds."""

    broker_host: str
    broker_port: int = 1883
    http_port: int = 8080
    interval: float = 10.0
    mac_style: MacStyle = MacStyle.COLON
    id_style: IdStyle = IdStyle.MAC
    topic_style: TopicStyle = TopicStyle.CAMERA
    container_id: str = "sandbox"
    ssid: str = "DeliCasa-AP"
    """The network that they start on."""
    retain: bool = False
    """Whether birth, status and last will are retained, as much real firmware does."""
    keepalive: int = 30
    reboot_s: float = 3.0
    flap_s: float = 4.0
    rejoin_s: float = 2.0
    """How long a camera is off the air between two networks."""
    wifi_password: str | None = field(default=None, repr=False)
    """The one with which the target network can be joined; None lets any."""
