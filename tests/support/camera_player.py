"""Simulated cameras that a test starts and stops one by one, where it wants them: after a swap of addresses, say.

`CameraPlayer` is the test's end; each of its orders is one line of JSON to this file, run as a program in a namespace.
"""

import asyncio
import contextlib
import json
import os
import sys
from ipaddress import IPv4Address
from pathlib import Path

ROOT = Path(__file__).parents[2]


class CameraPlayer:
    """The test's end: `async with site.camera_player() as cameras`, then its orders; a camera is lan.Camera."""

    def __init__(self, namespace, broker_host):
        self._where = (*namespace.prefix, sys.executable, __file__)
        self._broker_host = broker_host
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self):
        pipe = asyncio.subprocess.PIPE
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = await asyncio.create_subprocess_exec(*self._where, stdin=pipe, stdout=pipe, env=env)
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def start(self, *cameras, fault=None, **options):
        """Switch them on with the MAC and address that they have now; returns when each has published once.

        `reported=False` does not wait for that, for those that find no broker.
        """
        reported = options.pop("reported", True)
        options = {"broker_host": self._broker_host, "http_port": 80, "interval": 1} | options
        hosts = {camera.mac: camera.address for camera in cameras}
        await self._order("start", hosts=hosts, fault=fault, options=options, wait=reported)

    async def stop(self, *cameras):
        """Switch them off as a person would who unplugs a working one: DISCONNECT, and no last will."""
        await self._order("stop", macs=[camera.mac for camera in cameras])

    async def die(self, *cameras):
        """Power is lost: the sockets drop and the broker sends the last will."""
        await self._order("die", macs=[camera.mac for camera in cameras])

    async def _order(self, order, **words):
        async with self._one_at_a_time:
            self._process.stdin.write(json.dumps({"order": order, **words}).encode() + b"\n")
            line = await asyncio.wait_for(self._process.stdout.readline(), 30)
            assert line, "the cameras have ended"


# What the process does.


class Orders:
    """Each method is an order."""

    def __init__(self):
        self.running = {}

    async def start(self, hosts, fault, options, wait):
        from pi_orchestrator.domain.mac import Mac
        from pi_orchestrator.sandbox.camera import SimulatedCamera
        from pi_orchestrator.sandbox.faults import Fault
        from pi_orchestrator.sandbox.options import CameraOptions

        for mac, address in hosts.items():
            await self.stop([mac])
            camera = SimulatedCamera(
                mac=Mac(mac),
                address=IPv4Address(address),
                options=CameraOptions(**options),
                fault=fault and Fault(fault),
            )
            self.running[mac] = camera, asyncio.create_task(camera.run())
        for mac in hosts if wait else ():
            camera, task = self.running[mac]
            reported = asyncio.create_task(camera.reported.wait())
            await asyncio.wait((reported, task), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()

    async def stop(self, macs):
        for mac in macs:
            if mac in self.running:
                _, task = self.running.pop(mac)
                task.cancel()
                await asyncio.wait([task])

    async def die(self, macs):
        for mac in macs:
            await self.running[mac][0].die()


async def main():
    orders = Orders()
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        words = json.loads(line)
        await getattr(orders, words.pop("order"))(**words)
        print("{}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
