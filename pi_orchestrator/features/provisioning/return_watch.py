"""Evidence that a camera is on the target network after its credentials were sent. No I/O; times are parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.ipv4 import check_camera_address, parse_ipv4
from pi_orchestrator.core.wifi import is_same_ssid
from pi_orchestrator.features.devices.model import NEVER, Device
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.status_message import Status
from pi_orchestrator.features.provisioning.session import Session
from pi_orchestrator.features.provisioning.session_device import Sent, SessionDevice

SETTLED_S = 3.0
"""A camera that accepts its credentials leaves its old network within this time; one that stays did not accept."""
SETTLED_UNNAMED_S = 10.0
"""The same for a camera whose firmware does not report its network."""
POLL_S = 0.1
"""Interval between checks of received messages; a check sends no request."""
PROBE_INTERVAL_S = 1.0
"""Minimum time between two requests to a camera whose return is awaited."""
RECONNECT_S = 10.0
"""Time that cameras may need to reconnect after the broker was disconnected."""


@dataclass(frozen=True, slots=True)
class Report:
    """A camera's latest status message, published after its credentials were sent."""

    status: Status
    address: str | None
    """The address in the message, else the address that the camera answers for on the camera network."""
    sent_ip: str
    since_sent_s: float
    """Seconds from the send to the message; infinite if this machine has rebooted since the send."""
    connected_at: float
    """Start of the camera's MQTT session, monotonic seconds."""

    def return_address(self, target_ssid: str) -> str | None:
        """The address if the message shows the camera on the target network.

        If the firmware does not report its network, a changed address is enough.
        """
        if is_same_ssid(self.status.ssid, target_ssid):
            return self.address
        return self.address if self.status.ssid is None and self.address != self.sent_ip else None

    def wrong_network(self, target_ssid: str, now: float) -> str | None:
        """The network that the camera reports, if that is not the target network; else None.

        None, too, until the camera has rebooted since the send and been connected for SETTLED_S.
        """
        # A new MQTT session is no proof of a reboot: after a restart of the daemon every session is new.
        has_rebooted = self.status.uptime_s is not None and self.status.uptime_s < self.since_sent_s
        has_settled = now - self.connected_at >= SETTLED_S
        if has_rebooted and has_settled and not self.return_address(target_ssid):
            return self.status.ssid or None
        return None


def report_since(sent: Sent, seen: Device, address: IPv4Address | None, *, boot_id: str) -> Report | None:
    """The camera's latest message if it is newer than the send; `address` is the address that it answers for."""
    if seen.last_message_at is None or seen.last_status is None:
        return None
    # After a reboot of this machine every message is newer than the send.
    sent_at = sent.monotonic if sent.boot_id == boot_id else NEVER
    if seen.last_message_at <= sent_at:
        return None
    return Report(
        status=seen.last_status,
        address=seen.last_status.ip or str(address or "") or None,
        sent_ip=sent.ip,
        since_sent_s=seen.last_message_at - sent_at,
        connected_at=seen.mqtt_session_since,
    )


def confirms_return(ssid: str | None, target_ssid: str, *, has_moved: bool, has_reported: bool) -> bool:
    """Whether a camera's answer over HTTP shows it on the target network.

    `ssid` is the network in the answer. Without one, a changed address or the camera's own report must show it.
    """
    if is_same_ssid(ssid, target_ssid):
        return True
    return not ssid and (has_moved or has_reported)


def settle_s(ssid: str | None) -> float:
    """Seconds after which a camera that still answers at its old address did not accept the credentials."""
    return SETTLED_S if ssid else SETTLED_UNNAMED_S


def check_target_address(
    ip: str, networks: Iterable[IPv4Network], *, own: frozenset[IPv4Address], allow_loopback: bool
) -> None:
    """Raise FieldError if a returned camera must not be contacted at this address."""
    address = parse_ipv4(ip)
    network = next((network for network in networks if address in network), None)
    if network is None:
        raise FieldError(f"{ip} is outside provisioning.target_subnets")
    check_camera_address(ip, ap_subnet=network, allowed=(network,), own=own, allow_loopback=allow_loopback)


class ReturnWatch:
    """Reads the evidence about a session device from the registry."""

    def __init__(self, *, registry: DeviceRegistry, boot_id: str) -> None:
        self._registry = registry
        self._boot_id = boot_id

    def report(self, device: SessionDevice) -> Report | None:
        """The camera's latest message if it is newer than the send of its credentials."""
        seen = self._registry.get(device.mac)
        if seen is None or device.sent is None:
            return None
        return report_since(device.sent, seen, self._registry.address_of(device.mac), boot_id=self._boot_id)

    def return_address(self, session: Session, device: SessionDevice) -> str | None:
        """The address from which the camera has reported on the target network; None if it has not."""
        report = self.report(device)
        return report.return_address(session.target_ssid) if report else None

    def names_no_network(self, device: SessionDevice) -> bool:
        """Whether the camera has sent a message since the send of its credentials that names no network."""
        report = self.report(device)
        return report is not None and report.status.ssid is None

    def known_addresses(self, device: SessionDevice) -> list[str]:
        """Addresses at which to ask the camera: the proved, the reported, and the one its credentials were sent to."""
        report, proved = self.report(device), self._registry.address_of(device.mac)
        found = (str(proved or ""), report.address if report else None, device.sent.ip if device.sent else None)
        return list(dict.fromkeys(ip for ip in found if ip))

    def wrong_network(self, session: Session, device: SessionDevice, now: float) -> str | None:
        """The network that the camera reports instead of the target network, if any; unconfirmed."""
        report = self.report(device)
        return report.wrong_network(session.target_ssid, now) if report else None


class ListeningTime:
    """A timeout for an MQTT message, suspended while the broker cannot deliver messages."""

    def __init__(self, limit_s: float, now: float) -> None:
        self._left_s = limit_s
        self._counted_to = now
        self._suspended_until = NEVER

    @property
    def left_s(self) -> float:
        """Remaining seconds; 0 or less when the limit is reached."""
        return self._left_s

    def advance(self, now: float, *, is_connected: bool) -> None:
        """Count the time since the last call, except while the broker is disconnected and RECONNECT_S afterwards."""
        if not is_connected:
            self._suspended_until = now + RECONNECT_S
        elif now >= self._suspended_until:
            self._left_s -= now - self._counted_to
        self._counted_to = now
