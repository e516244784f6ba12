"""P5: the list of fifty cameras. P6: requests that are refused."""

import contextlib
import json
import statistics

import aiohttp

from tests.bench.load import publish_packet, publisher, status_message
from tests.bench.process import child
from tests.bench.report import Row, paired
from tests.bench.stage import api, connected, daemon
from tests.support.waiting import eventually

LIST = "/api/v1/cameras"
LIST_ROUNDS = 5
REFUSAL_ROUNDS = 3
PACED = ("--rate", 200, "--seconds", 4)
MQTT_RATE = 1000
REFUSALS = {
    "401": (("--path", "/api/v1/keys"), ("--path", "/small")),
    "404": (("--path", "/api/v1/nothing-here"), ("--path", "/small")),
    "413": (
        ("--path", "/api/v1/onboarding/auto/enable", "--method", "POST", "--declare", 2 << 20),
        ("--path", "/small", "--method", "POST", "--declare", 2 << 20),
    ),
}


async def camera_list(stage):
    """P5: requests a second in a closed loop, then the delay at a gentle pace with and without MQTT traffic."""
    async with _both_servers(stage) as (running, world, bare_port):
        ours, reference = [], []
        for _ in range(LIST_ROUNDS):
            ours.append((await _load(running.port, "--path", LIST))["per_s"])
            reference.append((await _load(bare_port, "--path", "/bytes"))["per_s"])
        alone, loaded = [], []
        for _ in range(2):
            alone.append((await _load(running.port, "--path", LIST, *PACED))["p99_ms"])
            messages = ("--port", world.broker.port, "--rate", MQTT_RATE, "--macs", ",".join(stage.macs))
            async with child("tests.bench.load", "mqtt", *messages):
                loaded.append((await _load(running.port, "--path", LIST, *PACED))["p99_ms"])
    median, bare_median, ratio = paired(ours, reference)
    quiet, busy = statistics.median(alone), statistics.median(loaded)
    note, busy_note = "bare aiohttp, the same bytes", "its own without the messages, 200 requests a second"
    times = busy / quiet
    return [
        Row("P5", "GET of 50 cameras", "/s", median, bare_median, ratio, "≥ 0.5 ×", ratio >= 0.5, note),
        Row("P5", "… p99 under 1,000 messages/s", "ms", busy, quiet, times, "≤ 5 ×", times <= 5, busy_note),
    ]


async def refusals(stage):
    """P6: each kind beside a bare 200 that is asked in the same way."""
    rows = []
    async with _both_servers(stage) as (running, _, bare_port):
        for status, (refused, answered) in REFUSALS.items():
            ours, reference = [], []
            for _ in range(REFUSAL_ROUNDS):
                ours.append((await _load(running.port, *refused, "--status", status))["per_s"])
                reference.append((await _load(bare_port, *answered))["per_s"])
            median, bare_median, ratio = paired(ours, reference)
            note = "bare aiohttp answering 200" + (", a connection each" if status == "413" else "")
            what = "P6", f"refused with {status}", "/s"
            rows.append(Row(*what, median, bare_median, ratio, "≥ 0.5 ×", ratio >= 0.5, note))
    return rows


@contextlib.asynccontextmanager
async def _both_servers(stage):
    """A daemon with fifty live cameras, and a bare server that has the bytes of their list."""
    async with stage.settled_world("answers") as world, daemon(world) as running:
        await connected(running)
        with contextlib.closing(publisher(world.broker.port)) as sock:
            for mac in stage.macs:
                sock.sendall(publish_packet(*status_message(mac, uptime_s=1)))
        async with api(running) as get:

            async def all_have_spoken():
                cameras = (await get(LIST))["data"]["cameras"]
                return sum(camera["health"]["uptime"] == 1 for camera in cameras) == len(stage.macs)

            await eventually(all_have_spoken)
        file = stage.path("bytes") / "list.json"
        async with aiohttp.ClientSession() as session, session.get(running.url + LIST) as response:
            file.write_bytes(await response.read())
        async with child("tests.bench.bare", "http", file) as bare:
            yield running, world, int(await bare.line())


async def _load(port, *options):
    async with child("tests.bench.load", "http", "--port", port, *options) as load:
        return json.loads(await load.line())
