"""The two servers and the clients of P8, each a process that answers input lines with output lines.

`ours CONFIG` is the daemon. `bare` does only what the task needs: a queue and a task per client, the same bytes. Both
print their port. Then each input line is a duration in seconds: they send EVENTS_PER_S events per second for that
duration, each with its creation time. `clients` reads streams: for an input line with a port and seconds, it
prints the delays as JSON.
"""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

from tests.bench.report import quantile

CLIENTS = 100
EVENTS_PER_S = 50
SETTLE_S = 0.5
PATH = "/api/v1/events"
TYPE = "device.state_changed"


def payload(number):
    """A payload of the size of device.state_changed."""
    device = {
        "mac": "24:6F:28:B0:F7:F1",
        "ip": "192.168.10.21",
        "state": "provisioning",
        "rssi": -54,
        "firmware_version": "2.4.1",
        "retry_count": 0,
        "in_allowlist": True,
    }
    change = {"mac": device["mac"], "previous_state": "discovered", "new_state": "provisioning", "progress": 10}
    return {"bench_created_at": time.monotonic(), "number": number, **change, "device": device}


async def serve(port, publish):
    """Print the port; then generate events for every input line with seconds."""
    print(port, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        started = time.monotonic()
        for number in range(int(EVENTS_PER_S * float(line))):
            await asyncio.sleep(started + number / EVENTS_PER_S - time.monotonic())
            await publish(payload(number))
        print("done", flush=True)


async def ours(config):
    from pi_orchestrator.app.lifecycle import running
    from pi_orchestrator.core.logging import configure
    from pi_orchestrator.settings import load
    from pi_orchestrator.storage import event_store as event_log
    from tests.support.events import RawEvent

    configure(level="error", style="json")
    async with running(load(path=Path(config), environ={}).settings) as daemon:

        async def publish(payload):
            await daemon.app.resources.database.write(lambda tx: event_log.append(tx, RawEvent(TYPE, payload)))

        await serve(daemon.listen[0].port, publish)


async def bare():
    from aiohttp import web

    from pi_orchestrator.edge_http.stream_sources import event_frame

    queues = set()

    async def stream(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue = asyncio.Queue()
        queues.add(queue)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(await queue.get())
        queues.discard(queue)
        return response

    async def publish(payload):
        data = event_frame(
            TYPE, at="2026-01-22T15:00:00.000000Z", payload=payload, event_id=payload["number"], copy=True
        )
        for queue in tuple(queues):
            queue.put_nowait(data)

    app = web.Application()
    app.router.add_get(PATH, stream)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await serve(runner.addresses[0][1], publish)


class StreamReader(asyncio.Protocol):
    """Read one stream, and record the delay of each event."""

    def __init__(self, delays):
        self.delays = delays
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport
        transport.write(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def data_received(self, data):
        now = time.monotonic()
        *blocks, self.buffer = (self.buffer + data).split(b"\n\n")
        for block in blocks:
            # Skip unnamed copies, and events without a creation time.
            if b"event:" in block and b'"bench_created_at":' in block:
                created_at = block.partition(b'"bench_created_at":')[2].partition(b",")[0]
                self.delays.append(now - float(created_at))


async def read(port, seconds):
    """Read with all clients for `seconds`: {count, p50_ms, p99_ms}."""
    loop, delays = asyncio.get_running_loop(), []
    readers = []
    for _ in range(CLIENTS):
        _, reader = await loop.create_connection(lambda: StreamReader(delays), "127.0.0.1", port)
        readers.append(reader)
    await asyncio.sleep(SETTLE_S)
    print("reading", flush=True)
    await asyncio.sleep(seconds)
    for reader in readers:
        reader.transport.close()
    measured = delays or [0.0]
    return {"count": len(delays), "p50_ms": quantile(measured, 0.5) * 1000, "p99_ms": quantile(measured, 0.99) * 1000}


def clients():
    for line in sys.stdin:
        port, seconds = line.split()
        print(json.dumps(asyncio.run(read(int(port), float(seconds)))), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "clients":
        clients()
    else:
        asyncio.run({"ours": ours, "bare": bare}[sys.argv[1]](*sys.argv[2:]))
