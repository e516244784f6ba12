"""P4: maximum rate of status messages of known cameras that stay online."""

import asyncio
import time

from tests.bench.environment import CAMERAS, api, daemon, metric, wait_until_connected
from tests.bench.load import publish_packet, publisher, status_message
from tests.bench.process import child
from tests.bench.report import Row, medians_and_ratio
from tests.support.waiting import eventually

ROUNDS = 15
BURST = 3000
"""Below the capacity of the daemon's queue: no message may be dropped."""

POLL_S = 0.005


async def status_messages(env):
    """P4: bursts to the daemon and to the reference in turn."""
    async with (
        env.rig_with_cameras("messages") as rig,
        daemon(rig) as running,
        api(running) as get,
        env.rig("bare-messages") as bare_rig,
        child("tests.bench.bare", "mqtt", bare_rig.broker.port) as bare,
    ):
        await wait_until_connected(running)
        await bare.next_line()
        last = env.macs[(BURST - 1) % CAMERAS]
        sock, bare_sock = publisher(rig.broker.port), publisher(bare_rig.broker.port)
        ours, reference = [], []
        for number in range(1, ROUNDS + 1):
            packets = _burst(env.macs, number)

            async def is_processed(number=number):
                await asyncio.sleep(POLL_S)
                answer = await get(f"/api/v1/cameras/{last}")
                return answer["data"]["health"]["uptime"] == number * BURST + BURST - 1

            ours.append(await _rate(sock, packets, eventually(is_processed, within=30)))
            reference.append(await _rate(bare_sock, packets, bare.next_line()))
        sock.close()
        bare_sock.close()
        received = await metric(running, 'piorch_status_messages_total{kind="live"}')
    if received != ROUNDS * BURST:
        raise RuntimeError(f"{ROUNDS * BURST} messages were sent, {received:.0f} processed")
    median, bare_median, ratio = medians_and_ratio(ours, reference)
    note = "aiomqtt and json.loads, nothing else"
    return [Row("P4", "status messages, no change", "/s", median, bare_median, ratio, "≥ 0.5 ×", ratio >= 0.5, note)]


def _burst(macs, number):
    first = number * BURST
    messages = [status_message(macs[turn % len(macs)], uptime_s=first + turn) for turn in range(BURST - 1)]
    # The reference, tests.bench.bare, prints a line when it has read the message with `last_of_burst`; the daemon
    # ignores this field.
    messages.append(status_message(macs[(BURST - 1) % len(macs)], uptime_s=first + BURST - 1, last_of_burst=True))
    return b"".join(publish_packet(*message) for message in messages)


async def _rate(sock, packets, processed):
    """Messages per second of one burst, until the awaitable `processed` is done."""
    began = time.perf_counter()
    sending = asyncio.create_task(asyncio.to_thread(sock.sendall, packets))
    await processed
    took = time.perf_counter() - began
    await sending
    return BURST / took
