"""P8: 100 streams with 50 events per second, of the daemon and of a bare server. P13: a stop with 100 open streams."""

import asyncio
import contextlib
import json
import socket
import statistics

from tests.bench.environment import daemon, metric, wait_until_connected
from tests.bench.idle import MOONRAKER
from tests.bench.lifecycle import STARTS
from tests.bench.process import child, cpu_s, memory_mib
from tests.bench.report import Row, medians_and_ratio, quantile
from tests.bench.streamer import CLIENTS, EVENTS_PER_S, PATH
from tests.support.process import write_toml

ROUNDS = 5
ROUND_S = 4
EXTRA_READING_S = 1
STALLED_CLIENTS = 50
STALL_S = 25
BARE = "bare aiohttp: a queue and a task for each client, the same bytes; the daemon stores each event first"
COST = "memory growth at its maximum; the daemon disconnects these clients after 10 to 15 s"
RECEIVE_BUFFER_BYTES = 4096


async def streams(env):
    """P8: delay and CPU of both servers in alternating rounds, then the memory for stalled clients."""
    async with (
        env.rig("streams") as rig,
        child("tests.bench.streamer", "ours", write_toml(env.path("streams") / "config.toml", rig.tree())) as ours,
        child("tests.bench.streamer", "bare") as bare,
        child("tests.bench.streamer", "clients") as clients,
    ):
        ports = {server: int(await server.next_line()) for server in (ours, bare)}
        rounds = {ours: [], bare: []}
        for _ in range(ROUNDS):
            for server, results in rounds.items():
                results.append(await _round(server, ports[server], clients))
        growth = await _memory_growth_of_stalled(ours, ports[ours])
    rows = []
    for measure, key, unit, limit in (("p99", "p99_ms", "ms", 3), ("CPU per delivery", "cpu_us", "µs", 2)):
        median, reference_median, ratio = medians_and_ratio(
            *([result[key] for result in rounds[server]] for server in (ours, bare))
        )
        what = f"{CLIENTS} streams × {EVENTS_PER_S}/s: p99" if not rows else f"… {measure}"
        rows.append(Row("P8", what, unit, median, reference_median, ratio, f"≤ {limit} ×", ratio <= limit, BARE))
    return [
        *rows,
        Row(
            "P8", f"… {STALLED_CLIENTS} stalled clients", "MiB", growth, target="≤ 10 MiB", met=growth <= 10, note=COST
        ),
    ]


async def _round(server, port, clients):
    """Measure one server once; raises RuntimeError if a client missed an event."""
    clients.process.stdin.write(f"{port} {ROUND_S + EXTRA_READING_S}\n".encode())
    await clients.next_line()
    before = cpu_s(server.pid)
    await server.request(ROUND_S)
    result = json.loads(await clients.next_line())
    expected = CLIENTS * EVENTS_PER_S * ROUND_S
    if result["count"] != expected:
        raise RuntimeError(f"expected {expected} delivered events, got {result['count']}")
    return result | {"cpu_us": (cpu_s(server.pid) - before) / expected * 1e6}


async def _memory_growth_of_stalled(server, port):
    """Memory growth of the server in MiB with stalled clients, until it has disconnected them."""
    await server.request(2)
    await asyncio.sleep(1)
    before = memory_mib(server.pid)[0]
    producing = asyncio.create_task(server.request(STALL_S))
    peak = before
    async with _stalled(port):
        while not producing.done():
            peak = max(peak, memory_mib(server.pid)[0])
            await asyncio.sleep(0.1)
    await producing
    return peak - before


@contextlib.asynccontextmanager
async def _stalled(port):
    """Clients that stop reading after the beginning of a stream."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for _ in range(STALLED_CLIENTS):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await loop.sock_recv(sock, RECEIVE_BUFFER_BYTES)
        yield


async def stop_with_streams(env):
    """P13 with 100 open streams; as many runs as for the idle daemon."""
    stops = []
    async with env.rig_with_cameras("streams-stop") as rig:
        for _ in range(STARTS):
            async with daemon(rig) as running, contextlib.AsyncExitStack() as stack:
                await wait_until_connected(running)
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
