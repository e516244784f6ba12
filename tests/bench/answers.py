"""P5: the list of fifty cameras. P6: rejected requests."""

import contextlib
import json
import statistics

import aiohttp

from tests.bench.load import publish_packet, publisher, status_message
from tests.bench.process import child
from tests.bench.report import Row, paired
from tests.bench.stage import api, connected, daemon
from tests.support.waiting import eventually

LIST = {"path": "/api/v1/cameras"}
BYTES = {"path": "/bytes"}
SMALL = {"path": "/small"}
ROUNDS = 15
ROUND_S = 0.3
PACED = {"rate": 200, "seconds": 3}
PACED_ROUNDS = 3
MESSAGES_PER_S = 1000
UNSENT = {"method": "POST", "declare": 2 << 20}
REFUSALS = (
    ({"path": "/api/v1/keys", "status": 401}, SMALL),
    ({"path": "/api/v1/nothing-here", "status": 404}, SMALL),
    ({"path": "/api/v1/onboarding/auto/enable", "status": 413} | UNSENT, SMALL | UNSENT),
)
BARE = "bare aiohttp: the same bytes, or 200 for a refusal (for 413 each by a connection of its own)"


async def camera_list(stage):
    """P5: requests per second in a closed loop, then the latency at a low rate with and without MQTT traffic."""
    async with _servers(stage) as (ours, bare, rig):
        rate = await _beside(ours, bare, LIST, BYTES)
        alone, loaded = [], []
        for _ in range(PACED_ROUNDS):
            alone.append((await ours(**LIST, **PACED))["p99_ms"])
            load = (rig.broker.port, MESSAGES_PER_S, ",".join(stage.macs))
            async with child("tests.bench.load", "messages", *load):
                loaded.append((await ours(**LIST, **PACED))["p99_ms"])
    median, bare_median, ratio = rate
    quiet, busy = statistics.median(alone), statistics.median(loaded)
    times = busy / quiet
    note = "its own p99 without the messages, 200 requests a second"
    return [
        Row("P5", "GET of 50 cameras", "/s", median, bare_median, ratio, "≥ 0.5 ×", ratio >= 0.5, BARE),
        Row("P5", "… p99 under 1,000 messages/s", "ms", busy, quiet, times, "≤ 5 ×", times <= 5, note),
    ]


async def refusals(stage):
    """P6: each kind of rejection, compared with a bare 200 for the same request."""
    rows = []
    async with _servers(stage) as (ours, bare, _):
        for refused, answered in REFUSALS:
            median, bare_median, ratio = await _beside(ours, bare, refused, answered)
            what = "P6", f"refused with {refused['status']}", "/s"
            rows.append(Row(*what, median, bare_median, ratio, "≥ 0.5 ×", ratio >= 0.5, BARE))
    return rows


async def _beside(ours, bare, request, bare_request):
    """Alternate short rounds, so that other load on the machine affects both."""
    rates, bare_rates = [], []
    for _ in range(ROUNDS):
        rates.append((await ours(**request, seconds=ROUND_S))["per_s"])
        bare_rates.append((await bare(**bare_request, seconds=ROUND_S))["per_s"])
    return paired(rates, bare_rates)


@contextlib.asynccontextmanager
async def _servers(stage):
    """(request ours, request bare, rig): a daemon with fifty cameras, and a bare server with the same bytes."""
    async with stage.settled_world("answers") as rig, daemon(rig) as running:
        await connected(running)
        await _let_all_speak(stage, rig, running)
        file = stage.path("bytes") / "list.json"
        async with aiohttp.ClientSession() as session, session.get(running.url + LIST["path"]) as response:
            file.write_bytes(await response.read())
        async with (
            child("tests.bench.bare", "http", file) as bare,
            child("tests.bench.load", "http") as load,
        ):

            def asker(port):
                async def ask(**request):
                    return json.loads(await load.ask(json.dumps({"port": port} | request)))

                return ask

            yield asker(running.port), asker(int(await bare.line())), rig


async def _let_all_speak(stage, rig, running):
    with contextlib.closing(publisher(rig.broker.port)) as sock:
        for mac in stage.macs:
            sock.sendall(publish_packet(*status_message(mac, uptime_s=1)))
    async with api(running) as get:

        async def all_have_spoken():
            cameras = (await get(LIST["path"]))["data"]["cameras"]
            return sum(camera["health"]["uptime"] == 1 for camera in cameras) == len(stage.macs)

        await eventually(all_have_spoken)
