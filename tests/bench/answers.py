"""P5: the list of fifty cameras. P6: rejected requests."""

import contextlib
import json
import statistics

import aiohttp

from tests.bench.environment import api, daemon, wait_until_connected
from tests.bench.load import publish_packet, publisher, status_message
from tests.bench.process import child
from tests.bench.report import Row, medians_and_ratio
from tests.support.waiting import eventually

LIST = {"path": "/api/v1/cameras"}
BYTES = {"path": "/bytes"}
SMALL = {"path": "/small"}
ROUNDS = 15
ROUND_S = 0.3
AT_LOW_RATE = {"rate": 200, "seconds": 3}
LOW_RATE_ROUNDS = 3
MESSAGES_PER_S = 1000
UNSENT_BODY = {"method": "POST", "unsent_bytes": 2 << 20}
REFUSALS = (
    ({"path": "/api/v1/keys", "status": 401}, SMALL),
    ({"path": "/api/v1/nothing-here", "status": 404}, SMALL),
    ({"path": "/api/v1/onboarding/auto/enable", "status": 413} | UNSENT_BODY, SMALL | UNSENT_BODY),
)
BARE = "bare aiohttp: the same bytes; for a refusal, status 200 (for 413, with a new connection for each request)"


async def camera_list(env):
    """P5: requests per second without pauses, then the latency at a low rate, with and without MQTT traffic."""
    async with _servers(env) as (ours, bare, rig):
        rate = await _alternate(ours, bare, LIST, BYTES)
        alone, loaded = [], []
        for _ in range(LOW_RATE_ROUNDS):
            alone.append((await ours(**LIST, **AT_LOW_RATE))["p99_ms"])
            load = (rig.broker.port, MESSAGES_PER_S, ",".join(env.macs))
            async with child("tests.bench.load", "messages", *load):
                loaded.append((await ours(**LIST, **AT_LOW_RATE))["p99_ms"])
    median, bare_median, ratio = rate
    p99_alone, p99_loaded = statistics.median(alone), statistics.median(loaded)
    factor = p99_loaded / p99_alone
    note = "its own p99 without the messages, at 200 requests per second"
    return [
        Row("P5", "GET of 50 cameras", "/s", median, bare_median, ratio, "≥ 0.5 ×", ratio >= 0.5, BARE),
        Row("P5", "… p99 under 1,000 messages/s", "ms", p99_loaded, p99_alone, factor, "≤ 5 ×", factor <= 5, note),
    ]


async def refusals(env):
    """P6: each kind of rejection, compared with a bare 200 for the same request."""
    rows = []
    async with _servers(env) as (ours, bare, _):
        for refused, answered in REFUSALS:
            median, bare_median, ratio = await _alternate(ours, bare, refused, answered)
            head = "P6", f"refused with {refused['status']}", "/s"
            rows.append(Row(*head, median, bare_median, ratio, "≥ 0.5 ×", ratio >= 0.5, BARE))
    return rows


async def _alternate(ours, bare, request, bare_request):
    """Rates of both in alternating short rounds, so that other load on the machine affects both."""
    rates, bare_rates = [], []
    for _ in range(ROUNDS):
        rates.append((await ours(**request, seconds=ROUND_S))["per_s"])
        bare_rates.append((await bare(**bare_request, seconds=ROUND_S))["per_s"])
    return medians_and_ratio(rates, bare_rates)


@contextlib.asynccontextmanager
async def _servers(env):
    """Yield (request to the daemon, request to the bare server, rig), the first two as functions.

    The daemon has fifty cameras; the bare server sends the bytes of the daemon's list.
    """
    async with env.rig_with_cameras("answers") as rig, daemon(rig) as running:
        await wait_until_connected(running)
        await _publish_all(env, rig, running)
        file = env.path("bytes") / "list.json"
        async with aiohttp.ClientSession() as session, session.get(running.url + LIST["path"]) as response:
            file.write_bytes(await response.read())
        async with (
            child("tests.bench.bare", "http", file) as bare,
            child("tests.bench.load", "http") as load,
        ):

            def requester(port):
                async def request(**options):
                    return json.loads(await load.request(json.dumps({"port": port} | options)))

                return request

            yield requester(running.port), requester(int(await bare.next_line())), rig


async def _publish_all(env, rig, running):
    with contextlib.closing(publisher(rig.broker.port)) as sock:
        for mac in env.macs:
            sock.sendall(publish_packet(*status_message(mac, uptime_s=1)))
    async with api(running) as get:

        async def all_are_updated():
            cameras = (await get(LIST["path"]))["data"]["cameras"]
            return sum(camera["health"]["uptime"] == 1 for camera in cameras) == len(env.macs)

        await eventually(all_are_updated)
