"""One run of zeroconf, from start to close: browser, queries, and the daemon's advertisement."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.validation import clean_text
from pi_orchestrator.net.mdns.intake import FilteredProtocol, PacketFilter

BROWSED = ("_http._tcp", "_espcam._tcp", "_arduino._tcp")
ADVERTISED = ("_piorch._tcp", "_http._tcp")
MAX_SERVICES = 256
MAX_QUERIES = 64
RESOLVERS = 4
RESOLVE_TIMEOUT_S = 3.0
MAX_NAME_ATTEMPTS = 5
UNREGISTER_TIMEOUT_S = 0.15
"""Enough for two of the three goodbye packets, which zeroconf sends every 125 ms."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Advert:
    """The daemon's advertisement: display `name`, `host` name under `.local`, port; the rest goes into TXT."""

    name: str
    host: str
    port: int
    id: str
    version: str
    api: str


@dataclass(frozen=True, slots=True)
class Service:
    """An announced service: `name` offers `kind` (`_http._tcp`) at an address of the camera network; unproved."""

    name: str
    kind: str
    address: IPv4Address


OnService = Callable[[Service], None]


class ZeroconfSession:
    """One run of zeroconf, from `start` to `close`. `library` is the loaded module zeroconf."""

    def __init__(
        self,
        library: Any,
        addresses: Sequence[IPv4Interface],
        *,
        clock: Clock,
        advert: Advert,
        on_service: OnService,
    ) -> None:
        self._library = library
        self._addresses = tuple(addresses)
        self._advert = advert
        self._on_service = on_service
        self._filter_full = asyncio.Event()
        networks = [address.network for address in addresses]
        self._packet_filter = PacketFilter(networks=networks, clock=clock, on_full=self._filter_full.set)
        self._queries: asyncio.Queue[tuple[str, str]] = asyncio.Queue(MAX_QUERIES)
        self._pending: set[tuple[str, str]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._zeroconf: Any = None
        self._browser: Any = None
        self._task_error: str | None = None
        self._advert_error: str | None = None
        self.advertised: str | None = None
        self.services: BoundedDict[tuple[str, str], Service] = BoundedDict(MAX_SERVICES)

    @property
    def reason(self) -> str | None:
        """What does not work at the moment; None if everything works."""
        if self._packet_filter.is_full:
            return "too many announcements: new ones are ignored for a while"
        return self._task_error or self._packet_filter.send_error or self._advert_error

    async def start(self) -> None:
        """Open the sockets and start; OSError, RuntimeError or the library's error on failure."""
        self._zeroconf = self._library.asyncio.AsyncZeroconf(
            interfaces=[str(address.ip) for address in self._addresses]
        )
        engine = self._zeroconf.zeroconf.engine
        starting = asyncio.ensure_future(self._zeroconf.zeroconf.async_wait_for_start())
        try:
            # Shielded: zeroconf needs this future to close its sockets, also after a cancellation.
            await asyncio.shield(starting)
            if not engine.senders:
                raise OSError(errno.EADDRNOTAVAIL, "cannot join the multicast group")
            for reader in engine.readers:
                reader.transport.set_protocol(
                    FilteredProtocol(reader.transport.get_protocol(), packet_filter=self._packet_filter)
                )
        except BaseException:
            await asyncio.gather(starting, return_exceptions=True)
            await self._zeroconf.async_close()
            raise
        self._browse()
        jobs = [self._advertise(), self._clear_when_full(), *(self._resolve() for _ in range(RESOLVERS))]
        self._tasks = [asyncio.create_task(job, name="mdns") for job in jobs]
        for task in self._tasks:
            task.add_done_callback(self._on_task_end)

    async def close(self) -> None:
        """Withdraw the advertised names, then close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._browser.async_cancel()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(UNREGISTER_TIMEOUT_S):
                    await self._zeroconf.async_unregister_all_services()
        finally:
            await self._zeroconf.async_close()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._task_error = f"internal error: {error!r}"
            log.error("mdns task failed", error=repr(error), exc_info=error)

    def _browse(self) -> None:
        self._browser = self._library.asyncio.AsyncServiceBrowser(
            self._zeroconf.zeroconf, [f"{kind}.local." for kind in BROWSED], handlers=[self._on_change]
        )

    def _on_change(self, *, service_type: str, name: str, state_change: Any, **_: Any) -> None:
        """A service was announced or withdrawn; queue a query for its address, or drop it if the queue is full."""
        key = (service_type, name)
        if state_change is self._library.ServiceStateChange.Removed:
            self.services.pop(key, None)
        elif key not in self._pending and not self._queries.full():
            self._pending.add(key)
            self._queries.put_nowait(key)

    async def _resolve(self) -> None:
        while True:
            kind, name = key = await self._queries.get()
            try:
                info = self._library.asyncio.AsyncServiceInfo(kind, name)
                await info.async_request(self._zeroconf.zeroconf, RESOLVE_TIMEOUT_S * 1000)
            except self._library.Error:
                continue  # an invalid name
            finally:
                self._pending.discard(key)
            for address in info.ip_addresses_by_version(self._library.IPVersion.V4Only):
                self._report(key, IPv4Address(int(address)))

    def _report(self, key: tuple[str, str], address: IPv4Address) -> None:
        kind, full_name = key
        name = clean_text(full_name.removesuffix(f".{kind}"), max_chars=63)
        is_in_network = any(address in own.network and address != own.ip for own in self._addresses)
        if name is None or not is_in_network:
            return
        service = self.services[key] = Service(name, kind.removesuffix(".local."), address)
        self._on_service(service)

    async def _clear_when_full(self) -> None:
        """Delete all announcements when the filter is full: zeroconf keeps them as long as their sender specifies."""
        while True:
            await self._filter_full.wait()
            self._filter_full.clear()
            await self._browser.async_cancel()
            self._zeroconf.zeroconf.cache.async_expire(float("inf"))
            while not self._queries.empty():
                self._queries.get_nowait()
            self._pending.clear()
            self.services.clear()
            self._packet_filter.clear()
            self._browse()

    async def _advertise(self) -> None:
        for attempt in range(1, MAX_NAME_ATTEMPTS + 1):
            name = self._advert.name if attempt == 1 else f"{self._advert.name} ({attempt})"
            try:
                await self._register(name)
            except self._library.NonUniqueNameException:
                self._advert_error = f"not advertised: the name {name!r} is already used on this network"
            except (self._library.Error, OSError, ValueError) as error:
                self._advert_error = f"not advertised: {error!r}"
                return
            else:
                self.advertised, self._advert_error = name, None
                return

    async def _register(self, name: str) -> None:
        """Register both services under one name, or none of them."""
        infos = [self._info(name, f"{kind}.local.") for kind in ADVERTISED]
        announcing = [asyncio.create_task(self._announce(info), name="mdns") for info in infos]
        try:
            await asyncio.gather(*announcing)
        except self._library.Error:
            for task in announcing:
                task.cancel()
            await asyncio.gather(*announcing, return_exceptions=True)
            await self._zeroconf.async_unregister_all_services()
            raise

    async def _announce(self, info: Any) -> None:
        await (await self._zeroconf.async_register_service(info))

    def _info(self, name: str, kind: str) -> Any:
        advert = self._advert
        return self._library.asyncio.AsyncServiceInfo(
            kind,
            f"{name}.{kind}",
            addresses=[address.ip.packed for address in self._addresses],
            port=advert.port,
            properties={"id": advert.id, "ver": advert.version, "api": advert.api},
            server=f"{advert.host}.local.",
        )
