"""Questions to the wireless part of the kernel: nl80211 over generic netlink. Needs no privilege.

Each conversation opens its own socket: the driver may be loaded at any time, and a question that went unanswered
leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from pi_orchestrator.net import nl80211
from pi_orchestrator.net.kernel_socket import KernelSocket, attribute, attributes
from pi_orchestrator.net.nl80211 import Bss, Interface

ANSWER_WITHIN_S = 2.0
MAX_INTERFACES = 64
MAX_NETWORKS = 512
_NETLINK_GENERIC = 16
_GENERIC = struct.Struct("=BBxx")  # command and version
_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2

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
        except OSError as error:
            self.reason = why(error)
            return () if error.errno == errno.ENOENT else None
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
        except OSError as error:
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
        except OSError as error:
            self.reason = why(error)
        return tuple(found)


@asynccontextmanager
async def conversation(new_socket: NewSocket | None = None) -> AsyncIterator[Ask]:
    """Questions and answers for the length of the block; OSError where there is no answer."""
    async with asyncio.timeout(ANSWER_WITHIN_S):
        kernel = KernelSocket(_NETLINK_GENERIC, sock=new_socket() if new_socket else None)
        try:
            yield partial(_answers, kernel, await _family(kernel))
        finally:
            kernel.close()


def why(error: OSError) -> str:
    """Why there was no answer, in words for people."""
    if isinstance(error, TimeoutError):
        return f"nl80211 did not answer within {ANSWER_WITHIN_S:g} s"
    if error.errno == errno.ENOENT:
        return "no wireless driver: this kernel has no nl80211"
    if error.errno == errno.ENODEV:
        return "the interface is not wireless"
    return f"nl80211 cannot be asked: {error.strerror or error}"


async def _family(kernel: KernelSocket) -> int:
    """The number that nl80211 has in this kernel; ENOENT where there is none."""
    name = attribute(_FAMILY_NAME, b"nl80211\0")
    for _, body in await kernel.ask(_CONTROLLER, _GENERIC.pack(_GET_FAMILY, 1) + name):
        number = attributes(body, _GENERIC.size).get(_FAMILY_ID, b"")
        if len(number) == 2:
            return int.from_bytes(number, sys.byteorder)
    raise OSError(errno.EPROTO, "no proper answer")


async def _answers(kernel: KernelSocket, family: int, command: int, index: int | None) -> AsyncIterator[bytes]:
    about = b"" if index is None else attribute(nl80211.ATTR_IFINDEX, struct.pack("=I", index))
    question = _GENERIC.pack(command, 0) + about
    for kind, body in await kernel.ask(family, question, dump=command in _LISTS or index is None):
        if kind == family and body[:1] == bytes([_ANSWERS[command]]):
            yield body[_GENERIC.size :]


_LISTS = frozenset({nl80211.GET_STATION, nl80211.GET_SCAN})
_ANSWERS = {
    nl80211.GET_INTERFACE: nl80211.NEW_INTERFACE,
    nl80211.GET_STATION: nl80211.NEW_STATION,
    nl80211.GET_SCAN: nl80211.NEW_SCAN_RESULTS,
}
