"""Many simulated cameras in one event loop."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from types import TracebackType
from typing import Final, Self

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.sandbox.camera import OnEvent, SimulatedCamera
from pi_orchestrator.sandbox.faults import Fault, parse_faults
from pi_orchestrator.sandbox.options import CameraOptions

DEFAULT_NETWORK: Final = "127.77.0.0/16"
ESPRESSIF: Final = "246F28"
FIRST_HOST: Final = 10
STAGGER_S: Final = 0.1
MAX_CONNECTING: Final = 64
"""Concurrent connects. Mosquitto's accept queue holds 100; a further camera would wait a second for TCP to retry, and
this delay would look like the daemon's."""


class Fleet:
    """`count` cameras with ascending addresses in `network`; `async with` starts and stops them.

    Second addresses, for the fault provision-moved, follow the first addresses.
    """

    def __init__(
        self,
        *,
        count: int,
        options: CameraOptions,
        network: str = DEFAULT_NETWORK,
        faults: Sequence[str] = (),
        seed: int = 1,
        storm: bool = False,
        on_event: OnEvent | None = None,
    ) -> None:
        stagger = 0.0 if storm else min(STAGGER_S, options.interval / max(1, count))
        connect_limit = asyncio.Semaphore(MAX_CONNECTING)
        parsed = parse_faults(faults, count=count)
        moving = parsed.count(Fault.PROVISION_MOVED)
        addresses = make_addresses(network, count + moving)
        macs = make_macs(count, seed=seed)
        for index, fault in enumerate(parsed):
            if fault is Fault.MAC_SHORT:
                macs[index] = _with_leading_zero(macs[index], taken=macs)
        rows = zip(macs, addresses[:count], parsed, strict=True)
        victim = next((mac for mac, fault in zip(macs, parsed, strict=True) if fault is None), None)
        second_addresses = iter(addresses[count:])
        self.cameras = [
            SimulatedCamera(
                mac=mac,
                address=address,
                options=options,
                fault=fault,
                second_address=next(second_addresses) if fault is Fault.PROVISION_MOVED else None,
                start_delay=stagger * index,
                connect_limit=connect_limit,
                on_event=on_event,
                victim=victim,
            )
            for index, (mac, address, fault) in enumerate(rows)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._has_failed = asyncio.Event()
        self._failure: BaseException | None = None

    def with_fault(self, fault: Fault | None) -> list[SimulatedCamera]:
        """List the cameras with this fault; None for healthy cameras."""
        return [camera for camera in self.cameras if camera.fault is fault]

    async def wait_until_reported(self) -> None:
        """Wait until every camera has published its first status; raises the error of a failed camera."""
        all_reported = asyncio.gather(*(camera.reported.wait() for camera in self.cameras))
        failed = asyncio.ensure_future(self._has_failed.wait())
        try:
            await asyncio.wait((all_reported, failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            all_reported.cancel()
            failed.cancel()
            await asyncio.gather(all_reported, failed, return_exceptions=True)
        self._raise_failure()

    async def wait_for_failure(self) -> None:
        """Wait until a camera fails, and raise its error."""
        await self._has_failed.wait()
        self._raise_failure()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(camera.run(), name=f"{camera.device_id} run") for camera in self.cameras]
        for task in self._tasks:
            task.add_done_callback(self._on_task_end)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if exc_type is None:
            self._raise_failure()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()
            self._has_failed.set()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def make_macs(count: int, *, seed: int) -> list[Mac]:
    """Station MACs in the Espressif range 24:6F:28, repeatable by seed, each of a different ESP32."""
    # An ESP32 owns four MACs in a row, so stations are multiples of four apart.
    numbers = random.Random(seed).sample(range(1 << 22), count)  # noqa: S311 - repeatable, not secret
    digits = (f"{ESPRESSIF}{number * 4:06X}" for number in numbers)
    return [Mac(":".join(d[i : i + 2] for i in range(0, 12, 2))) for d in digits]


def _with_leading_zero(mac: Mac, *, taken: Sequence[Mac]) -> Mac:
    """The MAC, its fourth byte changed to one with a leading zero, so that the result is not in `taken`."""
    candidates = (Mac(f"{mac[:9]}0{digit}{mac[11:]}") for digit in f"{mac[10]}0123456789ABCDEF")
    return next(candidate for candidate in candidates if candidate not in taken)


def make_addresses(network: str, count: int) -> list[IPv4Address]:
    """`count` addresses from number 10 of the network on, without those that end in 0 or 255; FieldError."""
    try:
        net = IPv4Network(network)
    except ValueError as exc:
        raise FieldError(f"{network[:40]!r} is not an IPv4 network, for example {DEFAULT_NETWORK}") from exc
    addresses = list(itertools.islice(_hosts(net), count))
    if len(addresses) < count:
        raise FieldError(f"{net} has addresses for {len(addresses)} cameras, but {count} are needed")
    return addresses


def _hosts(net: IPv4Network) -> Iterator[IPv4Address]:
    for offset in range(FIRST_HOST, net.num_addresses - 1):
        address = net[offset]
        if int(address) & 0xFF not in {0, 255}:
            yield address
