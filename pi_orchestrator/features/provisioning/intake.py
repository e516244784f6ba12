"""Device intake: cameras join a session if they are present on its interface, and not on its target network.

Until its provisioning is requested, a device of a session is updated with its latest address, signal, firmware version
and fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.wifi import is_same_ssid
from pi_orchestrator.features.allowlist import store as allowlist
from pi_orchestrator.features.devices import fingerprint_store
from pi_orchestrator.features.devices.best_address import best_address
from pi_orchestrator.features.devices.fingerprint import Fingerprint
from pi_orchestrator.features.devices.model import NEVER, PRESENT_STATES, Device, is_likely_camera
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.provisioning import store
from pi_orchestrator.features.provisioning.recorder import SessionRecorder
from pi_orchestrator.features.provisioning.session import Session
from pi_orchestrator.features.provisioning.session_device import SessionDevice, SessionDeviceState
from pi_orchestrator.storage.database import Database, Tx

MAX_UNLISTED = 256
"""Maximum number of unlisted devices in a session: anyone on the network can fake cameras."""
MAX_UNLISTED_ACTIVITY = 32
"""While a session has at most this many unlisted devices, a new one counts as activity: it may soon be allowlisted."""
REPORT_INTERVAL_S = 10.0
"""Minimum time between two `device.discovered` events of one device."""


class DeviceIntake:
    """Adds devices to sessions, and updates those whose provisioning was not requested yet."""

    def __init__(
        self,
        *,
        interface: str,
        ap_subnet: IPv4Network,
        clock: Clock,
        database: Database,
        registry: DeviceRegistry,
        recorder: SessionRecorder,
        is_espressif: Callable[[Mac], bool],
    ) -> None:
        self._interface = interface
        self._ap_subnet = ap_subnet
        self._clock = clock
        self._database = database
        self._registry = registry
        self._recorder = recorder
        self._is_espressif = is_espressif
        self._seen_revisions: dict[str, int] = {}
        self._reported_at: dict[tuple[str, Mac], float] = {}
        self._fingerprints: dict[tuple[str, Mac], Fingerprint] = {}

    async def run_pass(self, session: Session) -> None:
        """Add and update devices if the registry has changed since the last pass of this session.

        Does nothing for a session of another interface.
        """
        revision = self._registry.revision
        if session.network_interface != self._interface or self._seen_revisions.get(session.id) == revision:
            return
        present = [device for device in self._registry if self._can_join(device, session)]
        stored = {device.mac: device for device in await store.devices(self._database.read, session.id)}
        if any(self._must_store(device, stored.get(device.mac)) for device in present):
            await self._database.write(lambda tx: self._store(tx, session.id, present))
        self._seen_revisions[session.id] = revision

    def forget(self, session_id: str) -> None:
        """Drop the state of a closed session."""
        self._seen_revisions.pop(session_id, None)
        self._reported_at = {key: at for key, at in self._reported_at.items() if key[0] != session_id}
        self._fingerprints = {key: seen for key, seen in self._fingerprints.items() if key[0] != session_id}

    async def _store(self, tx: Tx, session_id: str, present: list[Device]) -> None:
        session = await store.get(tx.run, session_id)
        if session is None or not session.expires_at:
            return  # closing or closed
        stored = {device.mac: device for device in await store.devices(tx.run, session_id)}
        unlisted = sum(not device.in_allowlist for device in stored.values())
        changed = []
        for seen in present:
            before = stored.get(seen.mac)
            if not self._must_store(seen, before):
                continue
            if before is None:
                entry = await allowlist.find(tx, seen.mac)
                unlisted += entry is None
                if entry is None and unlisted > MAX_UNLISTED:
                    continue
                before = SessionDevice(
                    session_id,
                    seen.mac,
                    ip="",
                    discovered_at=self._clock.wall(),
                    in_allowlist=entry is not None,
                    container_id=entry.container_id if entry else None,
                )
            differences = await fingerprint_store.remember(tx, seen.mac, seen.fingerprint)
            changed.append(replace(self._updated(before, seen), changed=differences))
            self._reported_at[session_id, seen.mac] = self._clock.monotonic()
            self._fingerprints[session_id, seen.mac] = seen.fingerprint
        if changed:
            new = [device for device in changed if device.mac not in stored]
            is_activity = any(device.in_allowlist for device in new) or (
                bool(new) and unlisted <= MAX_UNLISTED_ACTIVITY
            )
            await self._recorder.save_discovered(tx, changed, is_activity=is_activity)

    def _can_join(self, device: Device, session: Session) -> bool:
        if device.shown not in PRESENT_STATES or not is_likely_camera(device, espressif=self._is_espressif(device.mac)):
            return False
        claims = device.claims
        is_on_target = (
            claims is not None and device.last_message_at is not None and is_same_ssid(claims.ssid, session.target_ssid)
        )
        return not is_on_target and self.address_of(device) is not None

    def address_of(self, device: Device) -> str | None:
        """The device's best known address on the camera network; a retained message does not count."""
        return best_address(self._registry, device.mac, live_only=True, within=self._ap_subnet)

    def _must_store(self, seen: Device, stored: SessionDevice | None) -> bool:
        if stored is None:
            return True
        if stored.state is not SessionDeviceState.DISCOVERED:
            return False
        reported_at = self._reported_at.get((stored.session_id, stored.mac), NEVER)
        if self._clock.monotonic() - reported_at < REPORT_INTERVAL_S:
            return False
        updated = self._updated(stored, seen)
        if seen.fingerprint != self._fingerprints.get((stored.session_id, stored.mac)):
            return True
        return (updated.ip, updated.firmware_version) != (stored.ip, stored.firmware_version)

    def _updated(self, device: SessionDevice, seen: Device) -> SessionDevice:
        claims = seen.claims
        signals = (evidence.rssi_dbm for evidence in seen.evidence.values() if evidence.rssi_dbm is not None)
        return replace(
            device,
            ip=self.address_of(seen) or device.ip,
            rssi=next(signals, device.rssi),
            firmware_version=(claims.firmware_version if claims else None) or device.firmware_version,
        )

    def refreshed(self, device: SessionDevice) -> SessionDevice:
        """The device with the registry's latest data if it is `discovered` and present; any other device unchanged."""
        seen = self._registry.get(device.mac)
        is_discovered = device.state is SessionDeviceState.DISCOVERED
        return self._updated(device, seen) if seen and is_discovered and seen.shown in PRESENT_STATES else device
