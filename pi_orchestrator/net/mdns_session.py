"""One life of the mDNS library, from opening to closing: its browser, its questions, and the daemon's own name."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.strict_json import clean_text
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.mdns_intake import Gate, Intake

BROWSED = ("_http._tcp", "_espcam._tcp", "_arduino._tcp")
ADVERTISED = ("_piorch._tcp", "_http._tcp")
MAX_SERVICES = 256
MAX_QUESTIONS = 64
RESOLVERS = 4
RESOLVE_S = 3.0
NAMES_TRIED = 5
GOODBYE_S = 0.15

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Advert:
    """What the daemon tells of itself: `name` is for people, `host` its name under `.local`, the rest is TXT."""

    name: str
    host: str
    port: int
    id: str
    version: str
    api: str


@dataclass(frozen=True, slots=True)
class Service:
    """Somebody says that `name` offers `kind` (`_http._tcp`) at an address of the camera network."""

    name: str
    kind: str
    address: IPv4Address


OnService = Callable[[Service], None]


class Session:
    """Opened once and closed once; `library` is zeroconf, loaded."""

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
        self._full = asyncio.Event()
        networks = [address.network for address in addresses]
        self._intake = Intake(networks=networks, clock=clock, on_full=self._full.set)
        self._questions: asyncio.Queue[tuple[str, str]] = asyncio.Queue(MAX_QUESTIONS)
        self._asked: set[tuple[str, str]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._zeroconf: Any = None
        self._browser: Any = None
        self._broken: str | None = None
        self._unnamed: str | None = None
        self.advertised: str | None = None
        self.services: dict[tuple[str, str], Service] = {}

    @property
    def reason(self) -> str | None:
        """What does not work at present."""
        if self._intake.is_full:
            return "too many announcements: new ones are not heard for a while"
        return self._broken or self._intake.problem or self._unnamed

    async def start(self) -> None:
        """Open the sockets and begin; OSError, RuntimeError or the library's error where that cannot be."""
        self._zeroconf = self._library.asyncio.AsyncZeroconf(
            interfaces=[str(address.ip) for address in self._addresses]
        )
        engine = self._zeroconf.zeroconf.engine
        starting = asyncio.ensure_future(self._zeroconf.zeroconf.async_wait_for_start())
        try:
            # Unshielded, a cancellation would end a future that the library needs for closing its sockets.
            await asyncio.shield(starting)
            if not engine.senders:
                raise OSError(errno.EADDRNOTAVAIL, "cannot join the multicast group")
            for reader in engine.readers:
                reader.transport.set_protocol(Gate(reader.transport.get_protocol(), intake=self._intake))
        except BaseException:
            await asyncio.gather(starting, return_exceptions=True)
            await self._zeroconf.async_close()
            raise
        self._browse()
        jobs = [self._advertise(), self._forget_when_full(), *(self._resolve() for _ in range(RESOLVERS))]
        self._tasks = [asyncio.create_task(job, name="mdns") for job in jobs]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Goodbye, then everything that was opened."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._browser.async_cancel()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._zeroconf.async_unregister_all_services()
        finally:
            await self._zeroconf.async_close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._broken = f"a part of it has failed: {error!r}"
            log.error("mdns has failed in part", error=repr(error), exc_info=error)

    def _browse(self) -> None:
        self._browser = self._library.asyncio.AsyncServiceBrowser(
            self._zeroconf.zeroconf, [f"{kind}.local." for kind in BROWSED], handlers=[self._on_change]
        )

    def _on_change(self, *, service_type: str, name: str, state_change: Any, **_: Any) -> None:
        """The browser has heard of a service; who asks next is found out one after the other, or not at all."""
        key = (service_type, name)
        if state_change is self._library.ServiceStateChange.Removed:
            self.services.pop(key, None)
        elif key not in self._asked and not self._questions.full():
            self._asked.add(key)
            self._questions.put_nowait(key)

    async def _resolve(self) -> None:
        while True:
            kind, name = key = await self._questions.get()
            try:
                info = self._library.asyncio.AsyncServiceInfo(kind, name)
                await info.async_request(self._zeroconf.zeroconf, RESOLVE_S * 1000)
            except self._library.Error:
                continue  # a name that cannot be asked for
            finally:
                self._asked.discard(key)
            for address in info.ip_addresses_by_version(self._library.IPVersion.V4Only):
                self._tell(key, IPv4Address(int(address)))

    def _tell(self, key: tuple[str, str], address: IPv4Address) -> None:
        kind, full_name = key
        name = clean_text(full_name.removesuffix(f".{kind}"), max_chars=63)
        inside = any(address in own.network and address != own.ip for own in self._addresses)
        if name is None or not inside:
            return
        self.services.pop(key, None)
        while len(self.services) >= MAX_SERVICES:
            del self.services[next(iter(self.services))]
        service = self.services[key] = Service(name, kind.removesuffix(".local."), address)
        self._on_service(service)

    async def _forget_when_full(self) -> None:
        """What was announced is kept by the library for as long as the announcer says; this is where that ends."""
        while True:
            await self._full.wait()
            self._full.clear()
            await self._browser.async_cancel()
            self._zeroconf.zeroconf.cache.async_expire(float("inf"))
            while not self._questions.empty():
                self._questions.get_nowait()
            self._asked.clear()
            self.services.clear()
            self._intake.clear()
            self._browse()

    async def _advertise(self) -> None:
        for number in range(1, NAMES_TRIED + 1):
            name = self._advert.name if number == 1 else f"{self._advert.name} ({number})"
            try:
                await self._register(name)
            except self._library.NonUniqueNameException:
                self._unnamed = f"not advertised: the name {name!r} is taken on this network"
            except (self._library.Error, OSError, ValueError) as error:
                self._unnamed = f"not advertised: {error!r}"
                return
            else:
                self.advertised, self._unnamed = name, None
                return

    async def _register(self, name: str) -> None:
        """Both services under one name, or neither."""
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
