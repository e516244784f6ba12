"""Which devices join a session: cameras that are here, seen on its interface, and not yet where it would send them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.address import parse_ipv4
from pi_orchestrator.domain.candidate import Candidate, CandidateState
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.presence import HERE, NEVER, Device, is_likely_camera
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.session import Session
from pi_orchestrator.domain.wifi import names_network
from pi_orchestrator.errors import FieldError
from pi_orchestrator.storage import allowlist, sessions
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.workers.session_record import SessionRecord

MAX_STRANGERS = 256
"""Anyone on the network can invent cameras; those on the allowlist have no limit but its own."""
FEW_STRANGERS = 32
"""So many may keep a session alive by coming: cameras that somebody is about to put on the allowlist."""
TOLD_AGAIN_AFTER_S = 10.0


class Joining:
    """`pass_once` lets in who has come, and keeps what is known of those who only wait."""

    def __init__(
        self,
        *,
        interface: str,
        ap_subnet: IPv4Network,
        clock: Clock,
        database: Database,
        registry: Registry,
        record: SessionRecord,
        is_espressif: Callable[[Mac], bool],
    ) -> None:
        self._interface = interface
        self._ap_subnet = ap_subnet
        self._clock = clock
        self._database = database
        self._registry = registry
        self._record = record
        self._is_espressif = is_espressif
        self._looked_at: dict[str, int] = {}
        self._told_at: dict[tuple[str, Mac], float] = {}

    async def pass_once(self, session: Session) -> None:
        """Look once, if anything has changed since the last look."""
        revision = self._registry.revision
        if session.network_interface != self._interface or self._looked_at.get(session.id) == revision:
            return
        here = [device for device in self._registry if self._belongs(device, session)]
        known = {one.mac: one for one in await sessions.candidates(self._database.read, session.id)}
        if any(self._is_news(device, known.get(device.mac)) for device in here):
            await self._database.write(lambda tx: self._let_in(tx, session.id, here))
        self._looked_at[session.id] = revision

    def forget(self, session_id: str) -> None:
        """It has ended."""
        self._looked_at.pop(session_id, None)
        self._told_at = {key: at for key, at in self._told_at.items() if key[0] != session_id}

    async def _let_in(self, tx: Tx, session_id: str, here: list[Device]) -> None:
        session = await sessions.get(tx.run, session_id)
        if session is None or not session.expires_at:
            return  # it is ending
        known = {one.mac: one for one in await sessions.candidates(tx.run, session_id)}
        strangers = sum(not one.in_allowlist for one in known.values())
        found = []
        for device in here:
            before = known.get(device.mac)
            if not self._is_news(device, before):
                continue
            if before is None:
                entry = await allowlist.find(tx, device.mac)
                strangers += entry is None
                if entry is None and strangers > MAX_STRANGERS:
                    continue
                before = Candidate(
                    session_id,
                    device.mac,
                    ip="",
                    discovered_at=self._clock.wall(),
                    in_allowlist=entry is not None,
                    container_id=entry.container_id if entry else None,
                )
            found.append(self._as_seen(device, before))
            self._told_at[session_id, device.mac] = self._clock.monotonic()
        if found:
            newcomers = [one for one in found if one.mac not in known]
            welcome = any(one.in_allowlist for one in newcomers) or (bool(newcomers) and strangers <= FEW_STRANGERS)
            await self._record.joined(tx, found, is_activity=welcome)

    def _belongs(self, device: Device, session: Session) -> bool:
        if device.shown not in HERE or not is_likely_camera(device, espressif=self._is_espressif(device.mac)):
            return False
        claims = device.claims
        there = claims is not None and device.heard_at is not None and names_network(claims.ssid, session.target_ssid)
        return not there and self.address_of(device) is not None

    def address_of(self, device: Device) -> str | None:
        """The device's address on the camera network: the one that it answers for, else the one that it says."""
        proven = self._registry.address_of(device.mac)
        if proven:
            return str(proven)
        claimed = device.claims.ip if device.claims and device.heard_at is not None else None
        try:
            return claimed if claimed and parse_ipv4(claimed) in self._ap_subnet else None
        except FieldError:
            return None

    def _is_news(self, device: Device, known: Candidate | None) -> bool:
        if known is None:
            return True
        if known.state is not CandidateState.DISCOVERED:
            return False
        if self._clock.monotonic() - self._told_at.get((known.session_id, known.mac), NEVER) < TOLD_AGAIN_AFTER_S:
            return False
        seen = self._as_seen(device, known)
        return (seen.ip, seen.firmware_version) != (known.ip, known.firmware_version)

    def _as_seen(self, device: Device, one: Candidate) -> Candidate:
        claims = device.claims
        heard = (evidence.rssi_dbm for evidence in device.evidence.values() if evidence.rssi_dbm is not None)
        return replace(
            one,
            ip=self.address_of(device) or one.ip,
            rssi=next(heard, one.rssi),
            firmware_version=(claims.firmware_version if claims else None) or one.firmware_version,
        )

    def refreshed(self, one: Candidate) -> Candidate:
        """A camera that only waits, with what is known of it at this moment."""
        device = self._registry.get(one.mac)
        waits = one.state is CandidateState.DISCOVERED
        return self._as_seen(device, one) if device and waits and device.shown in HERE else one
