"""P8: a hundred streams and fifty events per second, and on a bare server. P13: a stop with a hundred streams open."""

import asyncio
import contextlib
import json
import socket
import statistics

from tests.bench.lifecycle import STARTS
from tests.bench.process import child, cpu_s, memory_mib
from tests.bench.report import Row, paired, quantile
from tests.bench.rest import MOONRAKER
from tests.bench.stage import connected, daemon, metric
from tests.bench.streamer import CLIENTS, EVENTS_PER_S, PATH
from tests.support.process import write_toml

ROUNDS = 5
ROUND_S = 4
MARGIN_S = 1
STALLED = 50
STALL_S = 25
BARE = "bare aiohttp: a queue and a task for each client, the same bytes; ours are on disk before they are sent"
COST = "more memory than without them, at the worst moment; they are cut off after 10 to 15 s"
BYTES_READ_AT_MOST = 4096


async def streams(stage):
    async with (
        stage.rig("streams") as rig,
        child("tests.bench.streamer", "ours", write_toml(stage.path("streams") / "config.toml", rig.tree())) as ours,
        child("tests.bench.streamer", "bare") as bare,
        child("tests.bench.streamer", "clients") as readers,
    ):
        ports = {server: int(await server.line()) for server in (ours, bare)}
        rounds = {ours: [], bare: []}
        for _ in range(ROUNDS):
            for server, results in rounds.items():
                results.append(await _round(server, ports[server], readers))
        cost = await _cost_of_stalled(ours, ports[ours])
    rows = []
    for measure, key, unit, limit in (("p99", "p99_ms", "ms", 3), ("CPU a delivery", "cpu_us", "µs", 2)):
        median, other, ratio = paired(*([result[key] for result in rounds[server]] for server in (ours, bare)))
        what = f"{CLIENTS} streams × {EVENTS_PER_S}/s: p99" if not rows else f"… {measure}"
        rows.append(Row("P8", what, unit, median, other, ratio, f"≤ {limit} ×", ratio <= limit, BARE))
    return [*rows, Row("P8", f"… {STALLED} stalled clients", "MiB", cost, target="≤ 10 MiB", met=cost <= 10, note=COST)]


async def _round(server, port, readers):
    """Measure one server once; raises RuntimeError if a client missed an event."""
    readers.process.stdin.write(f"{port} {ROUND_S + MARGIN_S}\n".encode())
    await readers.line()
    before = cpu_s(server.pid)
    await server.ask(ROUND_S)
    result = json.loads(await readers.line())
    made = CLIENTS * EVENTS_PER_S * ROUND_S
    if result["count"] != made:
        raise RuntimeError(f"expected {made} delivered events, got {result['count']}")
    return result | {"cpu_us": (cpu_s(server.pid) - before) / made * 1e6}


async def _cost_of_stalled(server, port):
    """Memory growth of the server in MiB with stalled clients, until it has disconnected them."""
    await server.ask(2)
    await asyncio.sleep(1)
    before = memory_mib(server.pid)[0]
    making = asyncio.create_task(server.ask(STALL_S))
    most = before
    async with _stalled(port):
        while not making.done():
            most = max(most, memory_mib(server.pid)[0])
            await asyncio.sleep(0.1)
    await making
    return most - before


@contextlib.asynccontextmanager
async def _stalled(port):
    """Clients that stop reading after the beginning of a stream."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for _ in range(STALLED):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BYTES_READ_AT_MOST)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await loop.sock_recv(sock, BYTES_READ_AT_MOST)
        yield


async def stop_with_streams(stage):
    """P13: same number of runs as with the idle daemon."""
    stops = []
    async with stage.settled_world("streams-stop") as rig:
        for _ in range(STARTS):
            async with daemon(rig) as running, contextlib.AsyncExitStack() as stack:
                await connected(running)
                for _ in range(CLIENTS):
                    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
                    stack.callback(writer.close)
                    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    await reader.readuntil(b"connection.established")
                if await metric(running, "piorch_stream_clients") != CLIENTS:
                    raise RuntimeError("not every stream is open")
                stops.append(await running.stop())
    stop = quantile(stops, 0.95)
    what = f"… with {CLIENTS} streams, p95 of {len(stops)}"
    return [
        Row("P13", what, "s", stop, 0.2, stop / 0.2, "≤ 3 s", stop <= 3, MOONRAKER),
        Row("P13", "… the median", "s", statistics.median(stops), 0.2, statistics.median(stops) / 0.2, note=MOONRAKER),
    ]
