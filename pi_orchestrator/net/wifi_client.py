"""Whether this machine has joined a WiFi network: by the kernel, else by NetworkManager."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pi_orchestrator.clock import Clock
from pi_orchestrator.net.netlink import Netlink
from pi_orchestrator.net.networkmanager import NetworkManager
from pi_orchestrator.net.programs import NotInstalledError, ProgramError
from pi_orchestrator.net.shared import Shared
from pi_orchestrator.net.wireless import Wireless

KEEP_S = 5.0
_JOIN = ("station", "p2p_client")

ClientStatus = Literal["connected", "connecting", "disconnected", "error"]
"""`error` where nobody can tell; a machine without WiFi is disconnected."""


@dataclass(frozen=True, slots=True)
class Client:
    """The network that was joined, the address there, and how strongly it is heard."""

    status: ClientStatus
    ssid: str | None = None
    ip: str | None = None
    signal_dbm: int | None = None


class WifiClient:
    """Asks at most once in a few seconds, however many want to know."""

    def __init__(self, *, clock: Clock, netlink: Netlink, wireless: Wireless, manager: NetworkManager) -> None:
        self._netlink = netlink
        self._wireless = wireless
        self._manager = manager
        self._look = Shared(self._find, keep_s=KEEP_S, clock=clock)

    async def read(self) -> Client:
        """How it is now."""
        return await self._look.get()

    async def _find(self) -> Client:
        interfaces = await self._wireless.interfaces()
        clients = [one for one in interfaces or () if one.radio.kind in _JOIN]
        for one in clients:
            if one.radio.ssid:
                signal = await self._wireless.signal(one.index)
                return await self._joined(one.name, one.radio.ssid, signal)
        if interfaces:
            return Client("disconnected")
        try:
            return await self._by_manager()
        except (NotInstalledError, ProgramError):
            return Client("error" if interfaces is None else "disconnected")

    async def _by_manager(self) -> Client:
        states = await self._manager.wifi_states()
        if any(state.startswith("connected") for state in states.values()):
            for heard in await self._manager.heard(look=False):
                if heard.joined:
                    return await self._joined(heard.interface, heard.network.ssid, heard.network.signal_dbm)
        connecting = any(state.startswith("connecting") for state in states.values())
        return Client("connecting" if connecting else "disconnected")

    async def _joined(self, interface: str, ssid: str, signal_dbm: int | None) -> Client:
        link = await self._netlink.link(interface)
        address = next((str(one.ip) for one in link.addresses), None) if link else None
        return Client("connected" if address else "connecting", ssid or None, address, signal_dbm)
