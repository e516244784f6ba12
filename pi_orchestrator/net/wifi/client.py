"""WiFi client status of this machine, from the kernel, else from NetworkManager."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.single_flight import SingleFlight
from pi_orchestrator.net.host.programs import NotInstalledError, ProgramError
from pi_orchestrator.net.kernel.netlink import Netlink
from pi_orchestrator.net.wifi.networkmanager import NetworkManager
from pi_orchestrator.net.wifi.radio import Wireless

KEEP_S = 5.0
_CLIENT_KINDS = ("station", "p2p_client")

ClientStatus = Literal["connected", "connecting", "disconnected", "error"]
"""`connecting`: not joined yet, or joined but without an address. `error`: neither source is available. A machine
without WiFi is `disconnected`."""


@dataclass(frozen=True, slots=True)
class ClientState:
    """Status, and the joined network with this machine's address and signal strength; None if unknown."""

    status: ClientStatus
    ssid: str | None = None
    ip: str | None = None
    signal_dbm: int | None = None


class WifiClient:
    """Reads the status at most once per `KEEP_S`."""

    def __init__(self, *, clock: Clock, netlink: Netlink, wireless: Wireless, manager: NetworkManager) -> None:
        self._netlink = netlink
        self._wireless = wireless
        self._manager = manager
        self._cached = SingleFlight(self._read, keep_s=KEEP_S, clock=clock)

    async def read(self) -> ClientState:
        """The current status."""
        return await self._cached.get()

    async def _read(self) -> ClientState:
        interfaces = await self._wireless.interfaces()
        clients = [interface for interface in interfaces or () if interface.radio.kind in _CLIENT_KINDS]
        for interface in clients:
            if interface.radio.ssid:
                signal = await self._wireless.signal(interface.index)
                return await self._joined(interface.name, interface.radio.ssid, signal)
        if interfaces:
            return ClientState("disconnected")
        try:
            return await self._from_network_manager()
        except (NotInstalledError, ProgramError):
            return ClientState("error" if interfaces is None else "disconnected")

    async def _from_network_manager(self) -> ClientState:
        states = await self._manager.wifi_states()
        if any(state.startswith("connected") for state in states.values()):
            for row in await self._manager.networks(rescan=False):
                if row.joined:
                    return await self._joined(row.interface, row.network.ssid, row.network.signal_dbm)
        connecting = any(state.startswith("connecting") for state in states.values())
        return ClientState("connecting" if connecting else "disconnected")

    async def _joined(self, interface: str, ssid: str, signal_dbm: int | None) -> ClientState:
        link = await self._netlink.link(interface)
        address = next((str(own.ip) for own in link.addresses), None) if link else None
        return ClientState("connected" if address else "connecting", ssid or None, address, signal_dbm)
