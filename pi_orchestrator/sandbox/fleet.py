"""Many simulated cameras in one event loop."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from types import TracebackType
from typing import Final, Self

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import FieldError
from pi_orchestrator.sandbox.camera import OnEvent, SimulatedCamera
from pi_orchestrator.sandbox.faults import Fault, parse_faults
from pi_orchestrator.sandbox.options import CameraOptions

DEFAULT_NETWORK: Final = "127.77.0.0/16"
ESPRESSIF: Final = "246F28"
FIRST_HOST: Final = 10
STAGGER_S: Final = 0.1
DIALLING: Final = 64
"""Connects at once. Mosquitto's accept queue holds 100; one more, and that camera waits a second for TCP
to try again, which would be the sandbox's delay and look like the daemon's."""


class Fleet:
    """`count` cameras with addresses counted from `network`; `async with` starts and stops them.

    The second addresses of those that move follow the first ones.
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
        dialling = asyncio.Semaphore(DIALLING)
        parsed = parse_faults(faults, count=count)
        moving = parsed.count(Fault.PROVISION_MOVED)
        addresses = make_addresses(network, count + moving)
        columns = zip(make_macs(count, seed=seed), addresses[:count], parsed, strict=True)
        spare = iter(addresses[count:])
        self.cameras = [
            SimulatedCamera(
                mac=mac,
                address=address,
                options=options,
                fault=fault,
                second_address=next(spare) if fault is Fault.PROVISION_MOVED else None,
                start_delay=stagger * index,
                dialling=dialling,
                on_event=on_event,
            )
            for index, (mac, address, fault) in enumerate(columns)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._broken = asyncio.Event()
        self._failure: BaseException | None = None

    def with_fault(self, fault: Fault | None) -> list[SimulatedCamera]:
        """List the cameras that have this fault; None for the healthy ones."""
        return [camera for camera in self.cameras if camera.fault is fault]

    async def reported(self) -> None:
        """Return once every camera has published its first status; raises what stopped one instead."""
        everyone = asyncio.gather(*(camera.reported.wait() for camera in self.cameras))
        broken = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait((everyone, broken), return_when=asyncio.FIRST_COMPLETED)
        finally:
            everyone.cancel()
            broken.cancel()
            await asyncio.gather(everyone, broken, return_exceptions=True)
        self._raise_failure()

    async def failed(self) -> None:
        """Wait until a camera cannot go on, and raise why."""
        await self._broken.wait()
        self._raise_failure()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(camera.run(), name=f"{camera.device_id} run") for camera in self.cameras]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if exc_type is None:
            self._raise_failure()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()
            self._broken.set()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def make_macs(count: int, *, seed: int) -> list[Mac]:
    """Station MACs in the Espressif range 24:6F:28, the same for the same seed; none near another."""
    # An ESP32 owns four MACs in a row, so stations are multiples of four apart.
    numbers = random.Random(seed).sample(range(1 << 22), count)  # noqa: S311 - repeatable, not secret
    digits = (f"{ESPRESSIF}{number * 4:06X}" for number in numbers)
    return [Mac(":".join(d[i : i + 2] for i in range(0, 12, 2))) for d in digits]


def make_addresses(network: str, count: int) -> list[IPv4Address]:
    """`count` addresses from the tenth of the network on, none that ends in 0 or 255; FieldError."""
    try:
        net = IPv4Network(network)
    except ValueError as exc:
        raise FieldError(f"{network[:40]!r} is not a network such as {DEFAULT_NETWORK}") from exc
    addresses = list(itertools.islice(_hosts(net), count))
    if len(addresses) < count:
        raise FieldError(f"{net} has room for {len(addresses)} cameras, not for {count}")
    return addresses


def _hosts(net: IPv4Network) -> Iterator[IPv4Address]:
    for offset in range(FIRST_HOST, net.num_addresses - 1):
        address = net[offset]
        if int(address) & 0xFF not in {0, 255}:
            yield address
