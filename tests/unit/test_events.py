"""The hub: every subscriber hears everything it wants, in order, and a slow one costs only itself."""

import asyncio

import pytest

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.events import CameraSeen, Logged

MAC = Mac("24:6F:28:B0:F7:F1")


def logged(number):
    return Logged("camera.seen", {"number": number}, id=number)


def everything(event):
    return True


async def read(subscription):
    return [event async for event in subscription]


async def test_every_subscriber_hears_every_event_in_order(hub):
    events = [logged(number) for number in range(10)]
    with hub.subscribe(everything) as one, hub.subscribe(everything) as other:
        for event in events:
            hub.publish(event)
        hub.close()
        assert await read(one) == events
        assert await read(other) == events


async def test_a_subscriber_hears_only_what_it_wants(hub):
    seen = CameraSeen(mac=MAC, ip=None, device_id=None, firmware_version=None, appeared=True)
    with hub.subscribe(lambda event: isinstance(event, CameraSeen)) as subscription:
        hub.publish(logged(1))
        hub.publish(seen)
        hub.close()
        assert await read(subscription) == [seen]


async def test_an_unwanted_event_takes_no_room(hub):
    with hub.subscribe(lambda event: event.id == 99, maxsize=1) as subscription:
        for number in range(100):
            hub.publish(logged(number))
        hub.close()
        assert not subscription.lagged
        assert [event.id for event in await read(subscription)] == [99]


async def test_a_slow_subscriber_is_dropped_and_no_other(hub):
    heard = []
    with hub.subscribe(everything, maxsize=10) as slow, hub.subscribe(everything, maxsize=10) as quick:

        async def listen():
            async for event in quick:
                heard.append(event.id)  # noqa: PERF401  # one at a time: that is what keeps up

        listening = asyncio.create_task(listen())
        for number in range(1000):
            hub.publish(logged(number))
            await asyncio.sleep(0)
        hub.close()
        await listening
        assert heard == list(range(1000))
        assert not quick.lagged
        assert slow.lagged
        assert [event.id for event in await read(slow)] == list(range(10)), "what it had is still its own, then the end"


@pytest.mark.parametrize("published, lagged", [(10, False), (11, True)])
async def test_the_bound_is_exact(hub, published, lagged):
    with hub.subscribe(everything, maxsize=10) as subscription:
        for number in range(published):
            hub.publish(logged(number))
        assert subscription.lagged is lagged


async def test_a_dropped_subscriber_hears_nothing_more(hub):
    with hub.subscribe(everything, maxsize=2) as subscription:
        for number in range(3):
            hub.publish(logged(number))
        assert [event.id for event in await read(subscription)] == [0, 1]
        hub.publish(logged(4))
        assert subscription._queue.empty()


async def test_after_the_block_nothing_is_kept_for_it(hub):
    with hub.subscribe(everything, maxsize=1) as subscription:
        pass
    for number in range(10):
        hub.publish(logged(number))
    assert not subscription.lagged


async def test_closing_ends_those_who_wait(hub):
    with hub.subscribe(everything) as one, hub.subscribe(everything) as other:
        reading = [asyncio.create_task(read(subscription)) for subscription in (one, other)]
        await asyncio.sleep(0)
        hub.close()
        hub.close()
        assert await asyncio.gather(*reading) == [[], []]


async def test_publishing_to_nobody_is_nothing(hub):
    hub.publish(logged(1))
    hub.close()
