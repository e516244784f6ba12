"""Simulated cameras that a test starts and stops one by one, where it wants them: after a swap of addresses, say.

`CameraPlayer` is the test's end; each of its orders is one line of JSON to this file, run as a program in a namespace.
The program writes a line for each order that it has carried out, and one for everything that a camera tells.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
from ipaddress import IPv4Address
from pathlib import Path

from pi_orchestrator.sandbox.fleet import make_addresses

ROOT = Path(__file__).parents[2]
ENDED = object()


class CameraPlayer:
    """The test's end: `async with site.camera_player() as cameras`, then its orders; a camera is lan.Camera."""

    def __init__(self, site):
        self._site = site
        self._one_at_a_time = asyncio.Lock()
        self._answers = asyncio.Queue()

    async def __aenter__(self):
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *(*self._site.beyond.prefix, sys.executable, __file__),
            stdin=pipe,
            stdout=pipe,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            limit=1 << 24,
        )
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._answers.put_nowait(ENDED))
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def start(self, *cameras, fault=None, **options):
        """Switch them on with the MAC and address that they have now; returns when each has published once.

        `reported=False` does not wait for that, for those that find no broker. Those that move when they are
        provisioned get addresses after those of all cameras.
        """
        reported = options.pop("reported", True)
        options = {"broker_host": self._site.address, "http_port": 80, "interval": 1, "rejoin_s": 0.2} | options
        known = len(self._site.cameras)
        spare = make_addresses(str(self._site.network), 2 * known)[known:] if fault == "provision-moved" else ()
        hosts = {camera.mac: (camera.address, str(spare[camera.number]) if spare else None) for camera in cameras}
        await self._order("start", hosts=hosts, fault=fault, options=options, wait=reported)

    async def stop(self, *cameras):
        """Switch them off as a person would who unplugs a working one: DISCONNECT, and no last will."""
        await self._order("stop", macs=[camera.mac for camera in cameras])

    async def die(self, *cameras):
        """Power is lost: the sockets drop and the broker sends the last will."""
        await self._order("die", macs=[camera.mac for camera in cameras])

    async def records(self):
        """What each camera that was started has been asked, by its MAC: {"requests": n, "provisioned": [{…}, …]}."""
        return await self._order("records")

    async def _order(self, order, **words):
        async with self._one_at_a_time:
            self._process.stdin.write(json.dumps({"order": order, **words}).encode() + b"\n")
            answer = await asyncio.wait_for(self._answers.get(), 30)
            if answer is ENDED:
                self._reading.result()
                raise AssertionError("the cameras have ended")
            return answer

    async def _read(self):
        async for line in self._process.stdout:
            told = json.loads(line)
            if "event" in told:
                self._site.noticed(told)
            else:
                self._answers.put_nowait(told["answer"])


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

        for mac, (address, second) in hosts.items():
            await self.stop([mac])
            camera = SimulatedCamera(
                mac=Mac(mac),
                address=IPv4Address(address),
                options=CameraOptions(**options),
                fault=fault and Fault(fault),
                second_address=second and IPv4Address(second),
                on_event=_tell,
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

    async def records(self):
        return {
            mac: {
                "requests": camera.provision_requests,
                "provisioned": [dataclasses.asdict(one) for one in camera.provisioned],
            }
            for mac, (camera, _) in self.running.items()
        }


def _tell(camera, event, detail):
    print(json.dumps({"event": event, "mac": camera.mac, "url": camera.url, "detail": detail}), flush=True)


async def main():
    orders = Orders()
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        words = json.loads(line)
        answer = await getattr(orders, words.pop("order"))(**words)
        print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
