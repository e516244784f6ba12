"""Questions to the wireless part of the kernel: nl80211 over generic netlink. Needs no privilege.

Each conversation opens its own socket: the driver may be loaded at any time, and a question that went unanswered
leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from pi_orchestrator.net import nl80211
from pi_orchestrator.net.nl80211 import Bss, Interface

ANSWER_WITHIN_S = 2.0
MAX_INTERFACES = 64
MAX_NETWORKS = 512
_NLM_REQUEST, _NLM_DUMP = 0x1, 0x300
_HEADERS = 20  # netlink's 16 bytes, generic netlink's 4

NewSocket = Callable[[], socket.socket]
Ask = Callable[[int, int | None], AsyncIterator[bytes]]
"""A command and the interface that it is about (None: all of them) → the attributes of every message that answers."""


class Wireless:
    """The wireless interfaces of this machine; where there are none to be had, `reason` says why."""

    def __init__(self, *, new_socket: NewSocket | None = None) -> None:
        self._new_socket = new_socket
        self.reason: str | None = None

    async def interfaces(self) -> tuple[Interface, ...] | None:
        """Every wireless interface (none in a kernel without wireless); None where it cannot be asked."""
        found: list[Interface] = []
        try:
            async with conversation(self._new_socket) as ask:
                async for data in ask(nl80211.GET_INTERFACE, None):
                    interface = nl80211.decode_interface(data)
                    if interface is not None and len(found) < MAX_INTERFACES:
                        found.append(interface)
        except (ImportError, OSError) as error:
            self.reason = why(error)
            return () if isinstance(error, OSError) and error.errno == errno.ENOENT else None
        self.reason = None if found else "there is no wireless interface"
        return tuple(found)

    async def signal(self, index: int) -> int | None:
        """How strongly an interface hears the access point that it has joined, in dBm."""
        signal: int | None = None
        try:
            async with conversation(self._new_socket) as ask:
                async for data in ask(nl80211.GET_STATION, index):
                    station = nl80211.decode_station(data)
                    signal = station.signal_dbm if station else signal
        except (ImportError, OSError) as error:
            self.reason = why(error)
        return signal

    async def heard(self, index: int) -> tuple[Bss, ...]:
        """What an interface heard when somebody last let it look around; nobody is made to look now."""
        found: list[Bss] = []
        try:
            async with conversation(self._new_socket) as ask:
                async for data in ask(nl80211.GET_SCAN, index):
                    bss = nl80211.decode_bss(data)
                    if bss is not None and len(found) < MAX_NETWORKS:
                        found.append(bss)
        except (ImportError, OSError) as error:
            self.reason = why(error)
        return tuple(found)


@asynccontextmanager
async def conversation(new_socket: NewSocket | None = None) -> AsyncIterator[Ask]:
    """Questions and answers for the length of the block; OSError or ImportError where there is no answer."""
    # Megabytes and a tenth of a second where the neighbour table has not loaded it already: not in the loop.
    library = await asyncio.to_thread(_load_library)
    async with asyncio.timeout(ANSWER_WITHIN_S):
        netlink = library.socket(use_socket=new_socket() if new_socket else None)
        try:
            await netlink.bind("nl80211", library.message)
            yield partial(_answers, library, netlink)
        except library.error as error:
            raise OSError(error.code, error.args[1]) from None
        except (KeyError, RuntimeError, ValueError, struct.error) as error:
            # The library's own ways of saying that it found no port, or could not take an answer apart.
            raise OSError(errno.EPROTO, f"no proper answer ({error!r})") from None
        finally:
            netlink.close()


def why(error: Exception) -> str:
    """Why there was no answer, in words for people."""
    if isinstance(error, TimeoutError):
        return f"nl80211 did not answer within {ANSWER_WITHIN_S:g} s"
    if not isinstance(error, OSError):
        return f"nl80211 cannot be asked: {error}"
    if error.errno == errno.ENOENT:
        return "no wireless driver: this kernel has no nl80211"
    if error.errno == errno.ENODEV:
        return "the interface is not wireless"
    return f"nl80211 cannot be asked: {error.strerror or error}"


@dataclass(frozen=True, slots=True)
class _Library:
    """What is used of the netlink library."""

    socket: Any
    message: Any
    request: Any
    error: type[Any]


async def _answers(library: _Library, netlink: Any, command: int, index: int | None) -> AsyncIterator[bytes]:
    question = library.request()
    question["cmd"] = command
    question["attrs"] = [] if index is None else [("IFINDEX", index)]
    flags = _NLM_REQUEST | (_NLM_DUMP if command in _LISTS or index is None else 0)
    async for message in await netlink.nlm_request(question, msg_type=netlink.prid, msg_flags=flags):
        if message["header"]["type"] == netlink.prid and message["cmd"] == _ANSWERS[command]:
            end = message.offset + message["header"]["length"]
            yield bytes(message.data[message.offset + _HEADERS : end])


_LISTS = frozenset({nl80211.GET_STATION, nl80211.GET_SCAN})
_ANSWERS = {
    nl80211.GET_INTERFACE: nl80211.NEW_INTERFACE,
    nl80211.GET_STATION: nl80211.NEW_STATION,
    nl80211.GET_SCAN: nl80211.NEW_SCAN_RESULTS,
}


@cache
def _load_library() -> _Library:
    from pyroute2.netlink import exceptions, genlmsg  # noqa: PLC0415  # loaded in a thread, at first use
    from pyroute2.netlink.generic import AsyncGenericNetlinkSocket  # noqa: PLC0415

    class Request(genlmsg):  # type: ignore[misc]
        nla_map = ((nl80211.ATTR_IFINDEX, "IFINDEX", "uint32"),)

    return _Library(socket=AsyncGenericNetlinkSocket, message=genlmsg, request=Request, error=exceptions.NetlinkError)
