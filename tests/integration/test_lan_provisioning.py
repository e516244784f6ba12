"""Cameras in a namespace are sent to another network and come back, one of them with another address."""

import asyncio

from tests.support import lan
from tests.support.ear import listening_in
from tests.support.provision import DIGEST, TARGET, body_of
from tests.support.waiting import eventually


async def test_in_namespaces_four_come_back_and_one_of_them_elsewhere(tmp_path):
    async with lan.opened(tmp_path, cameras=4) as site, site.camera_player() as cameras:
        *well, moving = site.cameras
        before = {camera.mac: camera.address for camera in site.cameras}
        async with listening_in(site.pi) as heard, site.pi.session() as session:
            await cameras.start(*well, interval=30)
            await cameras.start(moving, interval=30, fault="provision-moved")
            for number, camera in enumerate(site.cameras):
                body = body_of(site.broker, request_id=f"r-{number}")
                async with session.post(f"http://{camera.address}/provision", json=body) as answer:
                    assert (answer.status, (await answer.json())["accepted"]) == (202, True)

            def there():
                found = {message["mac"]: message["ip"] for message in heard if message.get("ssid") == TARGET}
                return len(found) == 4 and found

            found = await eventually(there)
            assert [message for message in heard if message["retained"]] == []
            assert found == {camera.mac: camera.address for camera in site.cameras}
            assert {mac for mac in found if found[mac] != before[mac]} == {moving.mac}
            # The new address is answered for by the same camera, the old one by nobody.
            old = before[moving.mac]
            assert await site.who_has(moving.address, old) == {moving.address: {moving.mac}, old: set()}
            for camera in site.cameras:
                async with session.get(f"http://{camera.address}/status") as answer:
                    told = await answer.json()
                    assert (told["mac"], told["ssid"]) == (camera.mac, TARGET)
        expected = {"ssid": TARGET, "container_id": "kitchen", "password_sha256": DIGEST}
        assert await cameras.records() == {
            camera.mac: {"requests": 1, "provisioned": [expected | {"request_id": f"r-{number}"}]}
            for number, camera in enumerate(site.cameras)
        }
        await eventually(lambda: {event["mac"] for event in site.told if event["event"] == "joined"} == {*found})


async def test_in_namespaces_the_command_does_the_same(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=3) as site,
        site.fleet(interval=30, fault="provision-moved:1"),
        listening_in(site.pi) as heard,
        site.pi.session() as session,
    ):
        first = site.cameras[2].address
        for number, camera in enumerate(site.cameras):
            body = body_of(site.broker, request_id=f"r-{number}")
            async with session.post(f"http://{camera.address}/provision", json=body) as answer:
                assert answer.status == 202
        await eventually(
            lambda: (
                {message["mac"] for message in heard if message.get("ssid") == TARGET}
                == {camera.mac for camera in site.cameras}
            )
        )
        assert site.cameras[2].address == "10.77.0.13" != first
        found = await site.who_has(*(camera.address for camera in site.cameras), first)
        assert found == {camera.address: {camera.mac} for camera in site.cameras} | {first: set()}
        details = {event["mac"]: event["detail"] for event in site.told if event["event"] == "provisioned"}
        assert details == {camera.mac: f"{TARGET} r-{camera.number}" for camera in site.cameras}


async def test_a_camera_waits_for_the_address_that_it_is_given_late(tmp_path, monkeypatch):
    async with lan.opened(tmp_path, cameras=2) as site, site.camera_player() as cameras:
        camera, give = site.cameras[0], site.noticed
        kept = []
        monkeypatch.setattr(site, "noticed", kept.append)
        async with listening_in(site.pi) as heard, site.pi.session() as session:
            await cameras.start(camera, fault="provision-moved", rejoin_s=0.01)
            async with session.post(f"http://{camera.address}/provision", json=body_of(site.broker)) as answer:
                assert answer.status == 202
            left = await eventually(lambda: [event for event in kept if event["event"] == "provisioned"])
            await asyncio.sleep(0.3)  # it has been back for long, and nobody has given it its address
            assert [message for message in heard if message.get("ssid") == TARGET] == []
            give(left[0])
            await eventually(lambda: [message for message in heard if message.get("ssid") == TARGET])
            assert camera.address == "10.77.0.12"
            async with session.get(f"http://{camera.address}/status") as answer:
                assert (await answer.json())["mac"] == camera.mac
