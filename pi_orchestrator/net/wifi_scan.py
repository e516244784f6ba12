"""Which WiFi networks are around: NetworkManager is asked to look, and what it heard is told in the kernel's words.

The kernel's table holds what was really measured and what the beacons say, NetworkManager's list only a percentage;
but to let a radio look around needs a privilege that this daemon does not have, and NetworkManager has. Where it is
not there, what others (wpa_supplicant) have let the radio hear within half a minute is all there is.
"""

from __future__ import annotations

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.nmcli import Heard
from pi_orchestrator.domain.wlan import WifiNetwork
from pi_orchestrator.errors import NetworkError, RateLimitedError
from pi_orchestrator.net.networkmanager import NetworkManager
from pi_orchestrator.net.nl80211 import Interface
from pi_orchestrator.net.programs import NotInstalledError, ProgramError
from pi_orchestrator.net.shared import Shared
from pi_orchestrator.net.wireless import Wireless

EACH_S = 10.0
"""A radio that looks around does not hear its own network meanwhile."""
HEARD_WITHIN_S = 30.0
MAX_INTERFACES = 4
_OF_NO_USE = ("unmanaged", "unavailable")
_REMEDY = "a scan needs a WiFi interface that serves no access point, and NetworkManager (nmcli) to let it look around"


class WifiScan:
    """At most one scan in ten seconds; who asks while one is under way shares it."""

    def __init__(self, *, clock: Clock, wireless: Wireless, manager: NetworkManager) -> None:
        self._clock = clock
        self._wireless = wireless
        self._manager = manager
        self._scan = Shared(self._look, keep_s=0, clock=clock)
        self._begun_at = float("-inf")
        self._failure = ""

    async def networks(self) -> list[WifiNetwork]:
        """The networks around, strongest first; RateLimitedError too soon after the last, NetworkError without any."""
        left = self._begun_at + EACH_S - self._clock.monotonic()
        if left > 0 and not self._scan.under_way:
            if self._failure:
                raise self._refusal(left)
            raise RateLimitedError("WiFi networks were looked for just now", retry_after_s=left)
        return await self._scan.get()

    async def _look(self) -> list[WifiNetwork]:
        self._begun_at, self._failure = self._clock.monotonic(), ""
        interfaces = await self._wireless.interfaces() or ()
        reasons = [self._wireless.reason] if self._wireless.reason else []
        free = [one for one in interfaces if not one.radio.serves][:MAX_INTERFACES]
        if interfaces and not free:
            self._failure = "each radio of this machine serves an access point"
            raise self._refusal(EACH_S)
        listed = await self._ask_manager(reasons)
        found = {one.network.bssid: one.network for one in listed or ()} | await self._by_kernel(free)
        if not found and listed is None:
            self._failure = "; ".join(reasons or ["no radio has looked around lately"])
            raise self._refusal(EACH_S)
        return sorted(found.values(), key=lambda one: (-(one.signal_dbm or -128), one.ssid, one.bssid))

    async def _ask_manager(self, reasons: list[str]) -> list[Heard] | None:
        try:
            states = await self._manager.wifi_states()
            if all(state.startswith(_OF_NO_USE) for state in states.values()):
                told = ", ".join(f"{name} is {state}" for name, state in states.items())
                raise ProgramError(f"NetworkManager has no WiFi interface of use ({told or 'none'})")
            try:
                return await self._manager.heard(look=True)
            except ProgramError as error:
                # It may keep us from letting the radio look (polkit): what it heard by itself is as real.
                reasons.append(str(error))
                return await self._manager.heard(look=False) or None
        except NotInstalledError:
            reasons.append("NetworkManager is not installed")
        except ProgramError as error:
            if str(error) not in reasons:
                reasons.append(str(error))
        return None

    async def _by_kernel(self, interfaces: list[Interface]) -> dict[Mac, WifiNetwork]:
        return {
            bss.network.bssid: bss.network
            for interface in interfaces
            for bss in await self._wireless.heard(interface.index)
            if bss.joined or bss.seen_s <= HEARD_WITHIN_S
        }

    def _refusal(self, left: float) -> NetworkError:
        return NetworkError(
            f"WiFi networks cannot be looked for: {self._failure}", details=_REMEDY, retry_after_s=max(left, 1.0)
        )
