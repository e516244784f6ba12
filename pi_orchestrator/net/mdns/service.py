"""mDNS: finds the names of cameras and advertises the daemon. A hint only: nothing may depend on it.

Multicast packets get lost, another responder may run on the same machine, and any host may announce anything. So all
input is bounded (packets by the filter; names, queries and time by the session), and every failure
sets `reason`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence
from ipaddress import IPv4Interface
from types import ModuleType

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.net.mdns.session import Advert, OnService, Service, ZeroconfSession

__all__ = ["Advert", "Mdns", "OnService", "Service", "precondition_error"]

_GROUP, _PORT = "224.0.0.251", 5353


class Mdns:
    """Browses and advertises on the given addresses only; opened and closed with the interface."""

    def __init__(self, *, clock: Clock, advert: Advert, on_service: OnService) -> None:
        self._clock = clock
        self._advert = advert
        self._on_service = on_service
        self._lock = asyncio.Lock()
        self._session: ZeroconfSession | None = None
        self._reason: str | None = "not opened"

    @property
    def reason(self) -> str | None:
        """Reason why mDNS does not work, or works only in part; None while it works."""
        return self._session.reason if self._session else self._reason

    @property
    def advertised(self) -> str | None:
        """The name under which the daemon is advertised; None after a failure, and for seconds while it is checked."""
        return self._session.advertised if self._session else None

    @property
    def services(self) -> tuple[Service, ...]:
        """Services that are announced and not withdrawn, the latest 256."""
        return tuple(self._session.services.values()) if self._session else ()

    async def open(self, *, addresses: Sequence[IPv4Interface]) -> None:
        """Start on these addresses, after closing the previous session; a failure sets `reason`."""
        async with self._lock:
            await self._close()
            try:
                library = await asyncio.to_thread(_load_library)
            except ImportError as error:
                self._reason = f"cannot load zeroconf: {error}"
                return
            session = ZeroconfSession(
                library, addresses, clock=self._clock, advert=self._advert, on_service=self._on_service
            )
            try:
                _check_sockets(addresses)
                await session.start()
            except OSError as error:
                self._reason = _describe_error(error, addresses)
            except (library.Error, RuntimeError) as error:
                self._reason = f"cannot start zeroconf: {error!r}"
            else:
                self._session = session

    async def close(self) -> None:
        """Withdraw the advertised names and stop, within a second; may be called twice."""
        async with self._lock:
            await self._close()

    async def _close(self) -> None:
        session, self._session = self._session, None
        self._reason = "not opened"
        if session is not None:
            # A cancelled caller must not leave sockets open.
            await asyncio.shield(session.close())


def precondition_error(addresses: Sequence[IPv4Interface]) -> str | None:
    """Reason why mDNS cannot work on these addresses, None if it can; sends nothing."""
    try:
        _check_sockets(addresses)
    except OSError as error:
        return _describe_error(error, addresses)
    return None


def _check_sockets(addresses: Sequence[IPv4Interface]) -> None:
    """Try what zeroconf will do; OSError if it fails. zeroconf itself would log and leave sockets open."""
    if not addresses:
        raise OSError(errno.EADDRNOTAVAIL, "the interface has no address")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as test_socket:
        test_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        test_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        test_socket.bind(("", _PORT))
        for address in addresses:
            membership = socket.inet_aton(_GROUP) + address.ip.packed
            test_socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)


def _describe_error(error: OSError, addresses: Sequence[IPv4Interface]) -> str:
    if not addresses:
        return "the interface has no address"
    shown = ", ".join(str(address.ip) for address in addresses)
    if error.errno == errno.EADDRINUSE:
        return f"port {_PORT} is used exclusively by another program; if avahi, set disallow-other-stacks=no"
    if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
        return f"no interface has the address {shown}"
    return f"cannot join the multicast group {_GROUP} on {shown}: {error.strerror or error}"


def _load_library() -> ModuleType:
    import zeroconf  # noqa: PLC0415  # loaded in a thread, if mDNS is used
    import zeroconf.asyncio  # noqa: PLC0415

    # Its errors are reported as `reason`.
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
    return zeroconf
