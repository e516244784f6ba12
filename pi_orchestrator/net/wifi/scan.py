"""Scan for WiFi networks: NetworkManager starts the scan, and the kernel's results are preferred.

The kernel's results have measured signal strengths and the beacons, NetworkManager's list only percentages. But
starting a scan needs a privilege that NetworkManager has and this daemon does not. Without NetworkManager, only scans
by other programs (wpa_supplicant) within the last 30 s are available.
"""

from __future__ import annotations

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import NetworkError, RateLimitedError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.single_flight import SingleFlight
from pi_orchestrator.net.host.programs import NotInstalledError, ProgramError
from pi_orchestrator.net.wifi.networkmanager import NetworkManager
from pi_orchestrator.net.wifi.networks import WifiNetwork
from pi_orchestrator.net.wifi.nl80211 import Interface
from pi_orchestrator.net.wifi.nmcli import ListedNetwork
from pi_orchestrator.net.wifi.radio import Wireless

MIN_INTERVAL_S = 10.0
"""A scan interrupts this machine's own WiFi connection, because the radio leaves its channel."""
MAX_RESULT_AGE_S = 30.0
MAX_INTERFACES = 4
_UNUSABLE_STATES = ("unmanaged", "unavailable")
_REMEDY = "a scan needs NetworkManager (nmcli) and a WiFi interface that is not an access point"


class WifiScan:
    """Scans at most once in 10 s; callers during a scan share its result."""

    def __init__(self, *, clock: Clock, wireless: Wireless, manager: NetworkManager) -> None:
        self._clock = clock
        self._wireless = wireless
        self._manager = manager
        self._scan = SingleFlight(self._run_scan, keep_s=0, clock=clock)
        self._started_at = float("-inf")
        self._failure = ""

    async def networks(self) -> list[WifiNetwork]:
        """The networks, strongest first; RateLimitedError within 10 s of the last scan, NetworkError on failure."""
        retry_after_s = self._started_at + MIN_INTERVAL_S - self._clock.monotonic()
        if retry_after_s > 0 and not self._scan.is_running:
            if self._failure:
                raise self._scan_error(retry_after_s)
            raise RateLimitedError("the last WiFi scan is less than 10 s ago", retry_after_s=retry_after_s)
        return await self._scan.get()

    async def _run_scan(self) -> list[WifiNetwork]:
        self._started_at, self._failure = self._clock.monotonic(), ""
        interfaces = await self._wireless.interfaces() or ()
        reasons = [self._wireless.reason] if self._wireless.reason else []
        free = [interface for interface in interfaces if not interface.radio.is_access_point][:MAX_INTERFACES]
        if interfaces and not free:
            self._failure = "every WiFi interface of this machine is an access point"
            raise self._scan_error(MIN_INTERVAL_S)
        listed = await self._manager_networks(reasons)
        found = {row.network.bssid: row.network for row in listed or ()} | await self._kernel_networks(free)
        if not found and listed is None:
            self._failure = "; ".join(reasons or ["no recent scan results"])
            raise self._scan_error(MIN_INTERVAL_S)
        return sorted(found.values(), key=lambda network: (-(network.signal_dbm or -128), network.ssid, network.bssid))

    async def _manager_networks(self, reasons: list[str]) -> list[ListedNetwork] | None:
        try:
            states = await self._manager.wifi_states()
            if all(state.startswith(_UNUSABLE_STATES) for state in states.values()):
                shown = ", ".join(f"{name} is {state}" for name, state in states.items())
                raise ProgramError(f"NetworkManager has no usable WiFi interface ({shown or 'none'})")
            try:
                return await self._manager.networks(rescan=True)
            except ProgramError as error:
                # polkit may forbid us to start a scan: the results of NetworkManager's own scans are still valid.
                reasons.append(str(error))
                return await self._manager.networks(rescan=False) or None
        except NotInstalledError:
            reasons.append("NetworkManager is not installed")
        except ProgramError as error:
            if str(error) not in reasons:
                reasons.append(str(error))
        return None

    async def _kernel_networks(self, interfaces: list[Interface]) -> dict[Mac, WifiNetwork]:
        return {
            bss.network.bssid: bss.network
            for interface in interfaces
            for bss in await self._wireless.scan_results(interface.index)
            if bss.joined or bss.seen_s <= MAX_RESULT_AGE_S
        }

    def _scan_error(self, retry_after_s: float) -> NetworkError:
        return NetworkError(
            f"WiFi scan not possible: {self._failure}", details=_REMEDY, retry_after_s=max(retry_after_s, 1.0)
        )
