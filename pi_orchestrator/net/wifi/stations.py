"""Stations of the access point, from nl80211. Needs no privilege."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.net.wifi import nl80211
from pi_orchestrator.net.wifi.nl80211 import Radio, Station
from pi_orchestrator.net.wifi.radio import NewSocket, SendCommand, describe_error, nl80211_session

MAX_STATIONS = 2048
"""More than the maximum of an access point (2007)."""


@dataclass(frozen=True, slots=True)
class StationReading:
    """Radio and stations at the time `at` (monotonic s)."""

    at: float
    radio: Radio
    stations: tuple[Station, ...]


class Stations:
    """Reads the stations; `reason` is the cause if there is no radio or no access point."""

    def __init__(self, *, clock: Clock, new_socket: NewSocket | None = None) -> None:
        self._clock = clock
        self._new_socket = new_socket
        self.reason: str | None = None

    async def read(self, index: int) -> StationReading | None:
        """The radio of an interface (by index) and its stations; None if it is not wireless or cannot be read."""
        try:
            async with nl80211_session(self._new_socket) as send:
                reading = await self._read(send, index)
        except (ImportError, OSError) as error:
            self.reason = describe_error(error)
            return None
        kind = reading.radio.kind
        self.reason = (
            None if reading.radio.is_access_point else f"the interface is not an access point, but of kind {kind}"
        )
        return reading

    async def _read(self, send: SendCommand, index: int) -> StationReading:
        radio: Radio | None = None
        async for data in send(nl80211.GET_INTERFACE, index):
            radio = nl80211.decode_radio(data) or radio
        if radio is None:
            raise OSError(errno.ENODEV, "no such wireless interface")
        stations: dict[str, Station] = {}
        if radio.is_access_point:
            async for data in send(nl80211.GET_STATION, index):
                station = nl80211.decode_station(data)
                if station is not None and len(stations) < MAX_STATIONS:
                    stations[station.mac] = station
        return StationReading(self._clock.monotonic(), radio, tuple(stations.values()))
