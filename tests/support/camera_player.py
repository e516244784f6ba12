"""Simulated cameras that a test starts and stops one by one, for example after a swap of addresses.

`CameraPlayer` is the client in the test. Each order is one line of JSON to this module, which runs as a program in a
namespace. The program writes one line per completed order, and one per camera event.
"""

import asyncio
import dataclasses
import json
import sys
from ipaddress import IPv4Address

from pi_orchestrator.sandbox.fleet import make_addresses
from tests.support.waiting import HANG_S

ENDED = object()


class CameraPlayer:
    """Client of the camera process: `async with site.camera_player() as cameras`; cameras are `lan.Camera` objects."""

    def __init__(self, site):
        self._site = site
        self._lock = asyncio.Lock()
        self._answers = asyncio.Queue()

    async def __aenter__(self):
        from tests.support.process import connected  # imported here: the camera process does not need it

        command = (*self._site.camera_ns.prefix, sys.executable, "-m", "tests.support.camera_player")
        self._connected = connected(*command, limit=1 << 24)
        self._process = await self._connected.__aenter__()
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._answers.put_nowait(ENDED))
        return self

    async def __aexit__(self, *_):
        await self._connected.__aexit__(None, None, None)
        await self._reading

    async def start(self, *cameras, fault=None, **options):
        """Power on cameras with their current MAC and address; returns when each has published once.

        `reported=False` does not wait for the first message (for tests without a broker). With the fault
        "provision-moved", a camera gets a new address when it is provisioned; no other camera has that address.
        """
        reported = options.pop("reported", True)
        options = {"broker_host": self._site.address, "http_port": 80, "interval": 1, "rejoin_s": 0.2} | options
        count = len(self._site.cameras)
        spare_addresses = (
            make_addresses(str(self._site.network), 2 * count)[count:] if fault == "provision-moved" else ()
        )
        hosts = {
            camera.mac: (camera.address, str(spare_addresses[camera.number]) if spare_addresses else None)
            for camera in cameras
        }
        await self._order("start", hosts=hosts, fault=fault, options=options, wait=reported)

    async def stop(self, *cameras):
        """Stop cameras cleanly: MQTT DISCONNECT, no last will."""
        await self._order("stop", macs=[camera.mac for camera in cameras])

    async def cut_power(self, *cameras):
        """Cut the power: the sockets drop and the broker sends the last will."""
        await self._order("cut_power", macs=[camera.mac for camera in cameras])

    async def records(self):
        """Provisioning requests of each started camera: {MAC: {"requests": n, "provisioned": [{…}, …]}}."""
        return await self._order("records")

    async def _order(self, order, **args):
        async with self._lock:
            self._process.stdin.write(json.dumps({"order": order, **args}).encode() + b"\n")
            answer = await asyncio.wait_for(self._answers.get(), HANG_S)
            if answer is ENDED:
                self._reading.result()
                raise AssertionError("the camera process has exited")
            return answer

    async def _read(self):
        async for line in self._process.stdout:
            message = json.loads(line)
            if "event" in message:
                self._site.handle_event(message)
            else:
                self._answers.put_nowait(message["answer"])


# The camera process.


class Orders:
    """The orders of the camera process; each public method is one."""

    def __init__(self):
        self.running = {}

    async def start(self, hosts, fault, options, wait):
        from pi_orchestrator.core.mac import Mac
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
                on_event=_print_event,
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

    async def cut_power(self, macs):
        for mac in macs:
            await self.running[mac][0].power_off()

    async def records(self):
        return {
            mac: {
                "requests": camera.provision_requests,
                "provisioned": [dataclasses.asdict(record) for record in camera.provisioned],
            }
            for mac, (camera, _) in self.running.items()
        }


def _print_event(camera, event, detail):
    print(json.dumps({"event": event, "mac": camera.mac, "url": camera.url, "detail": detail}), flush=True)


async def main():
    orders = Orders()
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        args = json.loads(line)
        answer = await getattr(orders, args.pop("order"))(**args)
        print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
