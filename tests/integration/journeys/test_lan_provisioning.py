"""Cameras in a namespace move to another network and return, one of them with another address."""

import asyncio

from tests.support import lan
from tests.support.mqtt_listener import listening_in
from tests.support.provision import DIGEST, TARGET, body_of
from tests.support.waiting import eventually


async def test_cameras_join_target_network(tmp_path):
    async with lan.opened(tmp_path, cameras=4) as site, site.camera_player() as cameras:
        *staying, moving = site.cameras
        before = {camera.mac: camera.address for camera in site.cameras}
        async with listening_in(site.pi) as messages, site.pi.session() as session:
            await cameras.start(*staying, interval=30)
            await cameras.start(moving, interval=30, fault="provision-moved")
            for number, camera in enumerate(site.cameras):
                body = body_of(site.broker, request_id=f"r-{number}")
                async with session.post(f"http://{camera.address}/provision", json=body) as answer:
                    assert (answer.status, (await answer.json())["accepted"]) == (202, True)

            def returned():
                found = {message["mac"]: message["ip"] for message in messages if message.get("ssid") == TARGET}
                return len(found) == 4 and found

            found = await eventually(returned)
            assert [message for message in messages if message["retained"]] == []
            assert found == {camera.mac: camera.address for camera in site.cameras}
            assert {mac for mac in found if found[mac] != before[mac]} == {moving.mac}
            # The same camera answers for the new address; no device answers for the old one.
            old = before[moving.mac]
            assert await site.arp_request(moving.address, old) == {moving.address: {moving.mac}, old: set()}
            for camera in site.cameras:
                async with session.get(f"http://{camera.address}/status") as answer:
                    status = await answer.json()
                    assert (status["mac"], status["ssid"]) == (camera.mac, TARGET)
        expected = {"ssid": TARGET, "container_id": "kitchen", "password_sha256": DIGEST}
        assert await cameras.records() == {
            camera.mac: {"requests": 1, "provisioned": [expected | {"request_id": f"r-{number}"}]}
            for number, camera in enumerate(site.cameras)
        }
        await eventually(lambda: {event["mac"] for event in site.events if event["event"] == "joined"} == {*found})


async def test_cameras_of_sandbox_command_join_target_network(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=3) as site,
        site.fleet(interval=30, fault="provision-moved:1"),
        listening_in(site.pi) as messages,
        site.pi.session() as session,
    ):
        first = site.cameras[2].address
        for number, camera in enumerate(site.cameras):
            body = body_of(site.broker, request_id=f"r-{number}")
            async with session.post(f"http://{camera.address}/provision", json=body) as answer:
                assert answer.status == 202
        await eventually(
            lambda: (
                {message["mac"] for message in messages if message.get("ssid") == TARGET}
                == {camera.mac for camera in site.cameras}
            )
        )
        assert site.cameras[2].address == "10.77.0.13"
        assert first != "10.77.0.13"
        found = await site.arp_request(*(camera.address for camera in site.cameras), first)
        assert found == {camera.address: {camera.mac} for camera in site.cameras} | {first: set()}
        details = {event["mac"]: event["detail"] for event in site.events if event["event"] == "provisioned"}
        assert details == {camera.mac: f"{TARGET} r-{camera.number}" for camera in site.cameras}


async def test_camera_waits_for_late_address(tmp_path, monkeypatch):
    async with lan.opened(tmp_path, cameras=2) as site, site.camera_player() as cameras:
        camera, assign_address = site.cameras[0], site.handle_event
        events = []
        monkeypatch.setattr(site, "handle_event", events.append)
        async with listening_in(site.pi) as messages, site.pi.session() as session:
            await cameras.start(camera, fault="provision-moved", rejoin_s=0.01)
            async with session.post(f"http://{camera.address}/provision", json=body_of(site.broker)) as answer:
                assert answer.status == 202
            provisioned = await eventually(lambda: [event for event in events if event["event"] == "provisioned"])
            await asyncio.sleep(0.3)  # the camera has rejoined long ago, but has no address yet
            assert [message for message in messages if message.get("ssid") == TARGET] == []
            assign_address(provisioned[0])
            await eventually(lambda: [message for message in messages if message.get("ssid") == TARGET])
            assert camera.address == "10.77.0.12"
            async with session.get(f"http://{camera.address}/status") as answer:
                assert (await answer.json())["mac"] == camera.mac
