"""mDNS: cameras that tell their names, and the daemon telling its own. A hint only: nothing may depend on it.

Multicast gets lost, another responder may live on the same machine, and anyone may announce anything. So everything
is bounded (packets by the intake; names, questions and time by the session), and every failure is a `reason`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence
from ipaddress import IPv4Interface
from types import ModuleType

from pi_orchestrator.clock import Clock
from pi_orchestrator.net.mdns_session import Advert, OnService, Service, Session

__all__ = ["Advert", "Mdns", "OnService", "Service", "obstacle"]

_GROUP, _PORT = "224.0.0.251", 5353


class Mdns:
    """Browses and advertises on the given addresses alone; opened and closed as the interface comes and goes."""

    def __init__(self, *, clock: Clock, advert: Advert, on_service: OnService) -> None:
        self._clock = clock
        self._advert = advert
        self._on_service = on_service
        self._lock = asyncio.Lock()
        self._session: Session | None = None
        self._problem: str | None = "not opened"

    @property
    def reason(self) -> str | None:
        """Why it does not work, or not wholly; None while it does."""
        return self._session.reason if self._session else self._problem

    @property
    def advertised(self) -> str | None:
        """The name under which the daemon can be found just now; it takes seconds to make sure that it is free."""
        return self._session.advertised if self._session else None

    @property
    def services(self) -> tuple[Service, ...]:
        """Who has told of themselves and has not taken it back, the latest 256."""
        return tuple(self._session.services.values()) if self._session else ()

    async def open(self, *, addresses: Sequence[IPv4Interface]) -> None:
        """Begin on these addresses, instead of where it was open before; a failure is a `reason`."""
        async with self._lock:
            await self._close()
            try:
                library = await asyncio.to_thread(_load_library)
            except ImportError as error:
                self._problem = f"zeroconf cannot be loaded: {error}"
                return
            session = Session(library, addresses, clock=self._clock, advert=self._advert, on_service=self._on_service)
            try:
                _check(addresses)
                await session.start()
            except OSError as error:
                self._problem = _why(error, addresses)
            except (library.Error, RuntimeError) as error:
                self._problem = f"zeroconf does not start: {error!r}"
            else:
                self._session = session

    async def close(self) -> None:
        """Say goodbye and stop, within a second; may be called twice."""
        async with self._lock:
            await self._close()

    async def _close(self) -> None:
        session, self._session = self._session, None
        self._problem = "not opened"
        if session is not None:
            # Who gives up waiting for this must not leave sockets open.
            await asyncio.shield(session.close())


def obstacle(addresses: Sequence[IPv4Interface]) -> str | None:
    """Why mDNS cannot work on these addresses, None where it can; sends nothing."""
    try:
        _check(addresses)
    except OSError as error:
        return _why(error, addresses)
    return None


def _check(addresses: Sequence[IPv4Interface]) -> None:
    """Try what the library will do; OSError says why it cannot. It would log, and leave sockets open."""
    if not addresses:
        raise OSError(errno.EADDRNOTAVAIL, "the interface has no address")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind(("", _PORT))
        for address in addresses:
            membership = socket.inet_aton(_GROUP) + address.ip.packed
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)


def _why(error: OSError, addresses: Sequence[IPv4Interface]) -> str:
    where = ", ".join(str(address.ip) for address in addresses) or "no address"
    if error.errno == errno.EADDRINUSE:
        return f"another program keeps port {_PORT} for itself (avahi: set disallow-other-stacks=no)"
    if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
        return f"no interface with {where}"
    return f"no multicast with {where}: {error.strerror or error}"


def _load_library() -> ModuleType:
    import zeroconf  # noqa: PLC0415  # loaded in a thread, when it is wanted at all
    import zeroconf.asyncio  # noqa: PLC0415

    # What it complains about is told as a reason.
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
    return zeroconf
