"""The event bus: every subscriber receives its events in order, and a slow one affects only itself."""

import asyncio

import pytest

from pi_orchestrator.core.events import CameraSeen, StoredEvent
from pi_orchestrator.core.mac import Mac
from tests.support.waiting import eventually

MAC = Mac("24:6F:28:B0:F7:F1")


def stored_event(number):
    return StoredEvent("camera.seen", {"number": number}, id=number)


async def read(subscription):
    return [event async for event in subscription]


async def test_events_reach_all_subscribers_in_order(bus):
    events = [stored_event(number) for number in range(10)]
    with bus.subscribe(StoredEvent) as first, bus.subscribe(StoredEvent) as second:
        for event in events:
            bus.publish(event)
        bus.close()
        assert await read(first) == events
        assert await read(second) == events


async def test_subscriber_receives_only_its_classes(bus):
    seen = CameraSeen(mac=MAC, ip=None, device_id=None, firmware_version=None, appeared=True)
    with bus.subscribe(CameraSeen) as subscription:
        bus.publish(stored_event(1))
        bus.publish(seen)
        bus.close()
        assert await read(subscription) == [seen]


async def test_events_of_other_classes_use_no_capacity(bus):
    seen = CameraSeen(mac=MAC, ip=None, device_id=None, firmware_version=None, appeared=True)
    with bus.subscribe(CameraSeen, maxsize=1) as subscription:
        for number in range(100):
            bus.publish(stored_event(number))
        bus.publish(seen)
        bus.close()
        assert not subscription.lagged
        assert await read(subscription) == [seen]


async def test_only_slow_subscriber_is_dropped(bus):
    received = []
    with bus.subscribe(StoredEvent, maxsize=10) as slow, bus.subscribe(StoredEvent, maxsize=10) as quick:

        async def listen():
            async for event in quick:
                received.append(event.id)  # noqa: PERF401  # one at a time, so that it keeps up

        listening = asyncio.create_task(listen())
        for number in range(1000):
            bus.publish(stored_event(number))
            await asyncio.sleep(0)
        bus.close()
        await listening
        assert received == list(range(1000))
        assert not quick.lagged
        assert slow.lagged
        assert [event.id for event in await read(slow)] == list(range(10)), "queued events are delivered, then it ends"


@pytest.mark.parametrize("published, lagged", [(10, False), (11, True)])
async def test_queue_limit_is_exact(bus, published, lagged):
    with bus.subscribe(StoredEvent, maxsize=10) as subscription:
        for number in range(published):
            bus.publish(stored_event(number))
        assert subscription.lagged is lagged


async def test_dropped_subscriber_receives_nothing(bus):
    with bus.subscribe(StoredEvent, maxsize=2) as subscription:
        for number in range(3):
            bus.publish(stored_event(number))
        assert [event.id for event in await read(subscription)] == [0, 1]
        bus.publish(stored_event(4))
        assert subscription._queue.empty()


async def test_subscription_ends_with_block(bus):
    with bus.subscribe(StoredEvent, maxsize=1) as subscription:
        pass
    for number in range(10):
        bus.publish(stored_event(number))
    assert not subscription.lagged


async def test_close_ends_waiting_readers(bus):
    with bus.subscribe(StoredEvent) as first, bus.subscribe(StoredEvent) as second:
        reading = [asyncio.create_task(read(subscription)) for subscription in (first, second)]
        await asyncio.sleep(0)
        bus.close()
        bus.close()
        assert await asyncio.gather(*reading) == [[], []]


async def test_publish_without_subscribers_does_nothing(bus):
    bus.publish(stored_event(1))
    bus.close()


async def test_follow_handles_events_during_prepare(bus):
    handled = []

    async def prepare():
        bus.publish(stored_event(1))

    async def pause():
        pytest.fail("paused, although the follower has not fallen behind")

    following = asyncio.create_task(bus.follow(StoredEvent, handle=handled.append, pause=pause, prepare=prepare))
    await eventually(lambda: handled == [stored_event(1)])
    following.cancel()
    await asyncio.wait([following])
