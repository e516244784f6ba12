"""Requests to the kernel's wireless drivers: nl80211 over generic netlink. Needs no privilege.

Every `nl80211_session` opens its own socket, because a driver may be loaded at any time, and so that an unanswered
request has no effect on later ones.
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

from pi_orchestrator.net.wifi import nl80211
from pi_orchestrator.net.wifi.nl80211 import Bss, Interface

ANSWER_TIMEOUT_S = 2.0
MAX_INTERFACES = 64
MAX_NETWORKS = 512
_NLM_REQUEST, _NLM_DUMP = 0x1, 0x300
_HEADER_BYTES = 20  # netlink's 16 bytes, generic netlink's 4

NewSocket = Callable[[], socket.socket]
SendCommand = Callable[[int, int | None], AsyncIterator[bytes]]
"""Send a command for an interface index (None: all) → the attributes of each message of the answer."""


class Wireless:
    """The wireless interfaces of this machine; `reason`: why there are none, or why a later request failed."""

    def __init__(self, *, new_socket: NewSocket | None = None) -> None:
        self._new_socket = new_socket
        self.reason: str | None = None

    async def interfaces(self) -> tuple[Interface, ...] | None:
        """All wireless interfaces, empty without a wireless driver; None if the request fails."""
        found: list[Interface] = []
        try:
            async with nl80211_session(self._new_socket) as send:
                async for data in send(nl80211.GET_INTERFACE, None):
                    interface = nl80211.decode_interface(data)
                    if interface is not None and len(found) < MAX_INTERFACES:
                        found.append(interface)
        except (ImportError, OSError) as error:
            self.reason = describe_error(error)
            return () if isinstance(error, OSError) and error.errno == errno.ENOENT else None
        self.reason = None if found else "no wireless interface found"
        return tuple(found)

    async def signal(self, index: int) -> int | None:
        """Signal strength of the joined access point in dBm; None if unknown."""
        signal: int | None = None
        try:
            async with nl80211_session(self._new_socket) as send:
                async for data in send(nl80211.GET_STATION, index):
                    station = nl80211.decode_station(data)
                    signal = station.signal_dbm if station else signal
        except (ImportError, OSError) as error:
            self.reason = describe_error(error)
        return signal

    async def scan_results(self, index: int) -> tuple[Bss, ...]:
        """The results of the last scan of an interface; starts no scan. Empty if the request fails."""
        found: list[Bss] = []
        try:
            async with nl80211_session(self._new_socket) as send:
                async for data in send(nl80211.GET_SCAN, index):
                    bss = nl80211.decode_bss(data)
                    if bss is not None and len(found) < MAX_NETWORKS:
                        found.append(bss)
        except (ImportError, OSError) as error:
            self.reason = describe_error(error)
        return tuple(found)


@asynccontextmanager
async def nl80211_session(new_socket: NewSocket | None = None) -> AsyncIterator[SendCommand]:
    """Open an nl80211 socket for the block; OSError or ImportError on failure or timeout."""
    # Loading takes 100 ms if pyroute2 is not loaded yet: done in a thread.
    library = await asyncio.to_thread(_load_library)
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        netlink = library.socket(use_socket=new_socket() if new_socket else None)
        try:
            await netlink.bind("nl80211", library.message)
            yield partial(_send, library, netlink)
        except library.error as error:
            raise OSError(error.code, error.args[1]) from None
        except (KeyError, RuntimeError, ValueError, struct.error) as error:
            # pyroute2 raises these if it finds no port number or cannot decode an answer.
            raise OSError(errno.EPROTO, f"invalid answer ({error!r})") from None
        finally:
            netlink.close()


def describe_error(error: Exception) -> str:
    """Error text for a failed request."""
    if isinstance(error, TimeoutError):
        return f"nl80211 did not answer within {ANSWER_TIMEOUT_S:g} s"
    if not isinstance(error, OSError):
        return f"nl80211 not available: {error}"
    if error.errno == errno.ENOENT:
        return "no wireless driver: this kernel has no nl80211"
    if error.errno == errno.ENODEV:
        return "the interface is not wireless"
    return f"nl80211 not available: {error.strerror or error}"


@dataclass(frozen=True, slots=True)
class _Library:
    """The used parts of pyroute2."""

    socket: Any
    message: Any
    request: Any
    error: type[Any]


async def _send(library: _Library, netlink: Any, command: int, index: int | None) -> AsyncIterator[bytes]:
    request = library.request()
    request["cmd"] = command
    request["attrs"] = [] if index is None else [("IFINDEX", index)]
    flags = _NLM_REQUEST | (_NLM_DUMP if command in _DUMP_COMMANDS or index is None else 0)
    async for message in await netlink.nlm_request(request, msg_type=netlink.prid, msg_flags=flags):
        if message["header"]["type"] == netlink.prid and message["cmd"] == _ANSWER_COMMANDS[command]:
            end = message.offset + message["header"]["length"]
            yield bytes(message.data[message.offset + _HEADER_BYTES : end])


_DUMP_COMMANDS = frozenset({nl80211.GET_STATION, nl80211.GET_SCAN})
_ANSWER_COMMANDS = {
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
