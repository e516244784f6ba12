"""The references: each does only what the task needs, with the libraries of the daemon.

`http FILE` serves a file's bytes · `mqtt PORT` decodes status messages · `stack PORT` loads every library and idles ·
`onboard DATABASE` does one GET and four commits per line · `naive DATABASE` commits every status message.
"""

import asyncio
import json
import os
import sqlite3
import sys
import time
from pathlib import Path

from tests.bench.process import write_bytes

ROW = "INSERT INTO operator_actions VALUES (NULL, 'bench', '-', '-', 'bench', NULL, 'ok', ?, 'boot', 1.0, 1)"
NOW = "2026-01-22T15:00:00.000000Z"


def open_database(path):
    """Open a database with the options of the daemon."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def commit_row(connection):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(ROW, (NOW,))
    connection.execute("COMMIT")


async def http(file):
    from aiohttp import web

    body = Path(file).read_bytes()

    async def answer(_request):
        return web.Response(body=body, content_type="application/json")

    async def answer_small_and_close(_request):
        return web.Response(body=b'{"status":"ok"}', content_type="application/json", headers={"Connection": "close"})

    async def answer_small(_request):
        return web.Response(body=b'{"status":"ok"}', content_type="application/json")

    async def answer_as_page(_request):
        return web.Response(body=body, content_type="text/html")

    app = web.Application()
    app.router.add_get("/bytes", answer)
    app.router.add_get("/page", answer_as_page)
    app.router.add_get("/small", answer_small)
    app.router.add_post("/small", answer_small_and_close)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def mqtt(port):
    import aiomqtt

    async with aiomqtt.Client("127.0.0.1", int(port)) as client:
        await client.subscribe("camera/status/+", qos=1)
        print("ready", flush=True)
        async for message in client.messages:
            if json.loads(message.payload).get("last_of_burst"):
                print("done", flush=True)


async def stack(port):
    import aiomqtt
    import aiosqlite
    import structlog
    from aiohttp import ClientSession, web
    from prometheus_client import CollectorRegistry, ProcessCollector
    from pydantic import BaseModel
    from pyroute2.iproute.linux import AsyncIPRoute

    class Answer(BaseModel):
        status: str

    async def answer(_request):
        return web.json_response(Answer(status="ok").model_dump())

    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    netlink = AsyncIPRoute()
    async with (
        ClientSession() as session,
        aiosqlite.connect(":memory:") as database,
        aiomqtt.Client("127.0.0.1", int(port)) as client,
    ):
        await session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        await database.execute("SELECT 1")
        await client.subscribe("camera/status/+", qos=1)
        print("ready", flush=True)
        async for message in client.messages:
            json.loads(message.payload)
    netlink.close()


async def onboard(database):
    """For each input line, the URL of a camera: one GET and four commits; print the milliseconds."""
    import aiohttp

    connection = open_database(database)
    connection.execute(TABLE)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            started = time.perf_counter()
            async with session.get(line.strip()) as response:
                json.loads(await response.read())
            for _ in range(4):
                commit_row(connection)
            print((time.perf_counter() - started) * 1000, flush=True)


async def naive(database):
    """Print the bytes written to disk per message, with one commit for each message."""
    messages = 2000
    connection = open_database(database)
    connection.execute("CREATE TABLE presence (mac TEXT PRIMARY KEY, state TEXT, seen_at TEXT, payload TEXT)")
    before = write_bytes(os.getpid())
    for number in range(messages):
        mac = f"24:6F:28:00:00:{number % 50:02X}"
        connection.execute("INSERT OR REPLACE INTO presence VALUES (?, 'online', ?, ?)", (mac, NOW, "x" * 330))
    print((write_bytes(os.getpid()) - before) / messages, flush=True)


TABLE = (
    "CREATE TABLE operator_actions (id INTEGER PRIMARY KEY AUTOINCREMENT, actor TEXT, peer TEXT, correlation_id TEXT,"
    " action TEXT, target TEXT, outcome TEXT, at TEXT, boot_id TEXT, monotonic REAL, clock_trusted INTEGER)"
)

if __name__ == "__main__":
    asyncio.run({run.__name__: run for run in (http, mqtt, stack, onboard, naive)}[sys.argv[1]](sys.argv[2]))
