"""Who is associated with the access point, by the radio itself: nl80211 over generic netlink. Needs no privilege."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pi_orchestrator.clock import Clock
from pi_orchestrator.net import nl80211
from pi_orchestrator.net.nl80211 import Radio, Station
from pi_orchestrator.net.wireless import Ask, NewSocket, conversation, why

MAX_STATIONS = 2048
"""More than an access point can number (2007)."""


@dataclass(frozen=True, slots=True)
class Air:
    """What the radio said at `at` (monotonic s)."""

    at: float
    radio: Radio
    stations: tuple[Station, ...]


class Stations:
    """Asks the radio; where there is none, or no access point on it, `reason` says so.

    Each question opens its own socket: the driver may be loaded at any time, and a question that went unanswered
    leaves nothing behind.
    """

    def __init__(self, *, clock: Clock, new_socket: NewSocket | None = None) -> None:
        self._clock = clock
        self._new_socket = new_socket
        self.reason: str | None = None

    async def read(self, index: int) -> Air | None:
        """The radio of the interface with this number and who is on it; None where it is not wireless."""
        try:
            async with conversation(self._new_socket) as ask:
                air = await self._ask(ask, index)
        except (ImportError, OSError) as error:
            self.reason = why(error)
            return None
        kind = air.radio.kind
        self.reason = None if air.radio.serves else f"the interface is no access point, but of kind {kind}"
        return air

    async def _ask(self, ask: Ask, index: int) -> Air:
        radio: Radio | None = None
        async for data in ask(nl80211.GET_INTERFACE, index):
            radio = nl80211.decode_radio(data) or radio
        if radio is None:
            raise OSError(errno.ENODEV, "no such wireless interface")
        stations: dict[str, Station] = {}
        if radio.serves:
            async for data in ask(nl80211.GET_STATION, index):
                station = nl80211.decode_station(data)
                if station is not None and len(stations) < MAX_STATIONS:
                    stations[station.mac] = station
        return Air(self._clock.monotonic(), radio, tuple(stations.values()))
