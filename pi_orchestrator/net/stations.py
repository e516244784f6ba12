"""Who is associated with the access point, by the radio itself: nl80211 over generic netlink. Needs no privilege."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pi_orchestrator.clock import Clock
from pi_orchestrator.net import nl80211
from pi_orchestrator.net.nl80211 import Radio, Station

MAX_STATIONS = 2048
"""More than an access point can number (2007)."""
ANSWER_WITHIN_S = 2.0
_NLM_REQUEST, _NLM_DUMP = 0x1, 0x300
_HEADERS = 20  # netlink's 16 bytes, generic netlink's 4

NewSocket = Callable[[], socket.socket]


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
            # Megabytes and a tenth of a second where the neighbour table has not loaded it already: not in the loop.
            library = await asyncio.to_thread(_load_library)
            async with asyncio.timeout(ANSWER_WITHIN_S):
                air = await self._ask(library, index)
        except TimeoutError:
            self.reason = f"nl80211 did not answer within {ANSWER_WITHIN_S:g} s"
        except ImportError as error:
            self.reason = f"nl80211 cannot be asked: {error}"
        except OSError as error:
            self.reason = _why(error)
        else:
            kind = air.radio.kind
            self.reason = None if air.radio.serves else f"the interface is no access point, but of kind {kind}"
            return air
        return None

    async def _ask(self, library: _Library, index: int) -> Air:
        netlink = library.socket(use_socket=self._new_socket() if self._new_socket else None)
        try:
            await netlink.bind("nl80211", library.message)
            radio: Radio | None = None
            async for data in _answers(library, netlink, nl80211.GET_INTERFACE, index):
                radio = nl80211.decode_radio(data) or radio
            if radio is None:
                raise OSError(errno.ENODEV, "no such wireless interface")
            stations: dict[str, Station] = {}
            if radio.serves:
                async for data in _answers(library, netlink, nl80211.GET_STATION, index):
                    station = nl80211.decode_station(data)
                    if station is not None and len(stations) < MAX_STATIONS:
                        stations[station.mac] = station
            return Air(self._clock.monotonic(), radio, tuple(stations.values()))
        except library.error as error:
            raise OSError(error.code, error.args[1]) from None
        except (KeyError, RuntimeError, ValueError, struct.error) as error:
            # The library's own ways of saying that it found no port, or could not take an answer apart.
            raise OSError(errno.EPROTO, f"no proper answer ({error!r})") from None
        finally:
            netlink.close()


@dataclass(frozen=True, slots=True)
class _Library:
    """What is used of the netlink library."""

    socket: Any
    message: Any
    request: Any
    error: type[Any]


async def _answers(library: _Library, netlink: Any, command: int, index: int) -> AsyncIterator[bytes]:
    """The attributes of every message that answers a question about an interface."""
    question = library.request()
    question["cmd"] = command
    question["attrs"] = [("IFINDEX", index)]
    flags = _NLM_REQUEST | (_NLM_DUMP if command in _LISTS else 0)
    async for message in await netlink.nlm_request(question, msg_type=netlink.prid, msg_flags=flags):
        if message["header"]["type"] == netlink.prid and message["cmd"] == _ANSWERS[command]:
            end = message.offset + message["header"]["length"]
            yield bytes(message.data[message.offset + _HEADERS : end])


_LISTS = frozenset({nl80211.GET_STATION})
_ANSWERS = {nl80211.GET_INTERFACE: nl80211.NEW_INTERFACE, nl80211.GET_STATION: nl80211.NEW_STATION}


def _why(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "no wireless driver: this kernel has no nl80211"
    if error.errno == errno.ENODEV:
        return "the interface is not wireless"
    return f"nl80211 cannot be asked: {error.strerror or error}"


@cache
def _load_library() -> _Library:
    from pyroute2.netlink import exceptions, genlmsg  # noqa: PLC0415  # loaded in a thread, at first use
    from pyroute2.netlink.generic import AsyncGenericNetlinkSocket  # noqa: PLC0415

    class Request(genlmsg):  # type: ignore[misc]
        nla_map = ((nl80211.ATTR_IFINDEX, "IFINDEX", "uint32"),)

    return _Library(socket=AsyncGenericNetlinkSocket, message=genlmsg, request=Request, error=exceptions.NetlinkError)
