"""P4: maximum rate of status messages of known cameras that stay online."""

import asyncio
import time

from tests.bench.load import publish_packet, publisher, status_message
from tests.bench.process import child
from tests.bench.report import Row, paired
from tests.bench.stage import CAMERAS, api, connected, daemon, metric
from tests.support.waiting import eventually

ROUNDS = 15
BURST = 3000
"""Below the capacity of the daemon's queue: no message may be dropped."""

POLL_S = 0.005


async def status_messages(stage):
    async with (
        stage.settled_world("messages") as rig,
        daemon(rig) as running,
        api(running) as get,
        stage.rig("bare-messages") as other,
        child("tests.bench.bare", "mqtt", other.broker.port) as bare,
    ):
        await connected(running)
        await bare.line()
        last = stage.macs[(BURST - 1) % CAMERAS]
        sock, bare_sock = publisher(rig.broker.port), publisher(other.broker.port)
        ours, reference = [], []
        for number in range(1, ROUNDS + 1):
            packets = _burst(stage.macs, number)

            async def taken(number=number):
                await asyncio.sleep(POLL_S)
                answer = await get(f"/api/v1/cameras/{last}")
                return answer["data"]["health"]["uptime"] == number * BURST + BURST - 1

            ours.append(await _rate(sock, packets, eventually(taken, within=30)))
            reference.append(await _rate(bare_sock, packets, bare.line()))
        sock.close()
        bare_sock.close()
        received = await metric(running, 'piorch_status_messages_total{kind="live"}')
    if received != ROUNDS * BURST:
        raise RuntimeError(f"{ROUNDS * BURST} messages were sent, {received:.0f} taken")
    median, bare_median, ratio = paired(ours, reference)
    note = "aiomqtt and json.loads, nothing else"
    return [Row("P4", "status messages, no change", "/s", median, bare_median, ratio, "≥ 0.5 ×", ratio >= 0.5, note)]


def _burst(macs, number):
    first = number * BURST
    messages = [status_message(macs[turn % len(macs)], uptime_s=first + turn) for turn in range(BURST - 1)]
    messages.append(status_message(macs[(BURST - 1) % len(macs)], uptime_s=first + BURST - 1, last_of_burst=True))
    return b"".join(publish_packet(*message) for message in messages)


async def _rate(sock, packets, until):
    began = time.perf_counter()
    sending = asyncio.create_task(asyncio.to_thread(sock.sendall, packets))
    await until
    took = time.perf_counter() - began
    await sending
    return BURST / took
