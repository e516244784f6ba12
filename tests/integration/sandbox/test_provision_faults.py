"""Every fault of simulated cameras around `POST /provision`, with real MQTT and real HTTP."""

import asyncio
import contextlib
import logging

import aiohttp
import pytest

from pi_orchestrator.sandbox.faults import Fault
from tests.support.mqtt_listener import has_state, listening
from tests.support.provision import (
    CONNECTION_ERRORS,
    DIGEST,
    HOME,
    PASSWORD,
    PORT,
    TARGET,
    body_of,
    fleet_of,
    is_online_on,
    post,
    provisioned_networks,
    status,
)
from tests.support.waiting import eventually


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15)) as session:
        yield session


@contextlib.asynccontextmanager
async def camera_with(broker, fault, **more):
    """A listener, and a camera with this fault that has reported."""
    async with listening(broker) as listener, fleet_of(broker, fault, **more) as fleet:
        await listener.until(has_state("ONLINE"))
        yield listener, fleet.cameras[0]


@pytest.mark.parametrize("fault, code", [("provision-reject", 422), ("provision-500", 500)])
async def test_rejecting_camera_changes_nothing(broker, http, fault, code):
    async with camera_with(broker, fault) as (_, camera):
        for _ in range(3):
            status_code, body = await post(http, camera, body_of(broker))
            assert (status_code, body["accepted"]) == (code, False)
        assert (await status(http, camera))["ssid"] == HOME
        assert (camera.provisioned, camera.provision_requests) == ([], 3)


async def test_flaky_camera_accepts_second_request(broker, http):
    async with camera_with(broker, "provision-flaky") as (listener, camera):
        assert (await post(http, camera, body_of(broker)))[0] == 500
        assert camera.provisioned == []
        assert (await post(http, camera, body_of(broker)))[0] == 202
        await listener.until(is_online_on(TARGET))
        assert provisioned_networks(camera) == [("r-1", TARGET)]


async def test_hanging_camera_answers_status(broker, http):
    async with camera_with(broker, "provision-hang") as (_, camera):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(post(http, camera, body_of(broker)), 0.5)
        assert (await status(http, camera))["ssid"] == HOME
        assert (camera.provisioned, camera.provision_requests) == ([], 1)


async def test_echo_camera_discloses_password(broker, http):
    async with camera_with(broker, "provision-echo", interval=0.05) as (listener, camera):
        async with http.post(f"{camera.url}/provision", json=body_of(broker)) as answer:
            assert answer.status == 422
            assert PASSWORD in answer.reason
            assert PASSWORD in await answer.text()
        await listener.until(lambda _, body: PASSWORD in body.get("last_error", ""))
        assert PASSWORD in (await status(http, camera))["last_error"]
        assert camera.provisioned == []


async def test_vanishing_camera_never_returns(broker, http):
    async with camera_with(broker, "provision-vanish", rejoin_s=0.05, interval=0.05) as (listener, camera):
        assert (await post(http, camera, body_of(broker)))[0] == 202
        assert provisioned_networks(camera) == [("r-1", TARGET)]
        await listener.until(has_state("REBOOTING"))
        await asyncio.sleep(0.3)  # many times the duration of a return
        await listener.client.publish("end", "{}", qos=1)
        message, _ = await listener.until(lambda *_: True)
        assert message.topic.value == "end"
        with pytest.raises(aiohttp.ClientConnectorError):
            await status(http, camera)


async def test_moving_camera_changes_address(broker, http):
    async with listening(broker) as listener, fleet_of(broker, "provision-moved:2", count=4) as fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[3]
        first = camera.address
        assert {other.second_address for other in fleet.cameras[:2]} == {None}
        assert (await post(http, camera, body_of(broker)))[0] == 202
        _, birth = await listener.until(is_online_on(TARGET))
        assert birth["ip"] == str(camera.address)
        assert camera.address == first + 2, "the moving cameras get the two addresses after those of all cameras"
        assert (await status(http, camera))["mac"] == camera.mac
        async with http.get(f"{fleet.cameras[0].url}/status") as answer:  # the other cameras keep their addresses
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(f"http://{first}:{PORT}/status")


@pytest.mark.parametrize("cause", ["fault", "option"])
async def test_wrong_password_returns_to_old_network(broker, http, cause):
    faults = ["wrong-password"] if cause == "fault" else []
    more = {} if cause == "fault" else {"wifi_password": PASSWORD}
    async with listening(broker) as listener, fleet_of(broker, *faults, **more) as fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[0]
        await post(http, camera, body_of(broker, password="not the password"))
        await listener.until(has_state("REBOOTING"))
        _, birth = await listener.until(has_state("ONLINE"))
        assert (birth["ssid"], birth["message_count"]) == (HOME, 1)
        assert birth["last_error"] == f"cannot join {TARGET}: authentication failed"
        assert "container_id" not in birth
        assert (await status(http, camera))["ssid"] == HOME
        assert provisioned_networks(camera) == [("r-1", TARGET)]
        assert camera.provisioned[0].password_sha256 != DIGEST
        if cause == "option":
            await post(http, camera, body_of(broker, request_id="r-2"))
            _, birth = await listener.until(is_online_on(TARGET))
            assert "last_error" not in birth


async def test_lost_answer_is_applied_once(broker, http):
    async with camera_with(broker, "answer-lost") as (listener, camera):
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(http, camera, body_of(broker))
        await listener.until(is_online_on(TARGET))
        assert (await post(http, camera, body_of(broker)))[0] == 202
        assert provisioned_networks(camera) == [("r-1", TARGET)]
        assert camera.provision_requests == 2


async def test_boot_loop_camera_restarts(broker, http):
    async with camera_with(broker, "provision-boot-loop", interval=0.05) as (listener, camera):
        await listener.until(lambda _, body: body["message_count"] > 3)  # healthy until it is provisioned
        assert (await post(http, camera, body_of(broker)))[0] == 202
        await listener.until(is_online_on(TARGET))
        seen = []
        while len(seen) < 4:
            _, body = await listener.until(lambda _, body: body["state"] in {"ONLINE", "OFFLINE"})
            seen.append((body["state"], body.get("ssid"), body.get("message_count")))
        assert seen == [("OFFLINE", None, None), ("ONLINE", TARGET, 1)] * 2

        answers = set()
        while len(answers) < 2:  # it answers only while it is running
            try:
                answers.add((await status(http, camera))["ssid"])
            except CONNECTION_ERRORS:
                answers.add(None)
        assert answers == {TARGET, None}
        assert provisioned_networks(camera) == [("r-1", TARGET)]


@pytest.mark.parametrize("fault", ["flapping", "no-mac", "wrong-mac"])
async def test_camera_with_other_fault_can_be_provisioned(broker, http, fault):
    async with camera_with(broker, fault) as (listener, camera):

        async def accepted():
            with contextlib.suppress(*CONNECTION_ERRORS):  # the flapping camera may be off
                return (await post(http, camera, body_of(broker)))[0] == 202

        await eventually(accepted)
        await listener.until(is_online_on(TARGET))


async def test_password_disclosed_by_echo_only(broker, http, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    events = []
    fleet = fleet_of(
        broker,
        *(fault for fault in Fault if fault.accepts_tcp and not fault.is_raw),
        count=len(Fault),
        wifi_password=PASSWORD,
        on_event=lambda *event: events.append(event),
    )

    async def provision(camera, request_id):
        with contextlib.suppress(*CONNECTION_ERRORS, TimeoutError, ValueError):
            await asyncio.wait_for(post(http, camera, body_of(broker, request_id=request_id)), 0.5)

    async with fleet:
        await fleet.wait_until_reported()
        for request_id in ("r-1", "r-2"):
            await asyncio.gather(*(provision(camera, request_id) for camera in fleet.cameras))
        await eventually(lambda: {"provisioned", "joined"} <= {event for _, event, _ in events})
        shown = [repr(vars(camera)) for camera in fleet.cameras if camera.fault is not Fault.PROVISION_ECHO]
        shown += [repr(camera.provisioned) for camera in fleet.cameras]
        shown += [repr(camera.options) for camera in fleet.cameras]
    captured = capsys.readouterr()
    assert sum(len(camera.provisioned) for camera in fleet.cameras) >= 10
    for text in (caplog.text, captured.out, captured.err, repr(events), *shown):
        assert PASSWORD not in text
