"""Every fault of a simulated camera that has to do with `POST /provision`, with real MQTT and real HTTP."""

import asyncio
import contextlib
import logging

import aiohttp
import pytest

from pi_orchestrator.sandbox.faults import Fault
from tests.support.ear import listening, says
from tests.support.provision import (
    CONNECTION,
    DIGEST,
    HOME,
    PASSWORD,
    PORT,
    TARGET,
    body_of,
    changed,
    fleet_of,
    on,
    post,
    status,
)
from tests.support.waiting import eventually


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15)) as session:
        yield session


@contextlib.asynccontextmanager
async def one(broker, fault, **more):
    """An ear, and a camera with this fault that has been heard."""
    async with listening(broker) as ear, fleet_of(broker, fault, **more) as fleet:
        await ear.until(says("ONLINE"))
        yield ear, fleet.cameras[0]


@pytest.mark.parametrize("fault, code", [("provision-reject", 422), ("provision-500", 500)])
async def test_a_refusal_changes_nothing_however_often_it_is_asked(broker, http, fault, code):
    async with one(broker, fault) as (_, camera):
        for _ in range(3):
            answered, body = await post(http, camera, body_of(broker))
            assert (answered, body["accepted"]) == (code, False)
        assert (await status(http, camera))["ssid"] == HOME
        assert (camera.provisioned, camera.provision_requests) == ([], 3)


async def test_a_flaky_one_accepts_at_the_second_attempt(broker, http):
    async with one(broker, "provision-flaky") as (ear, camera):
        assert (await post(http, camera, body_of(broker)))[0] == 500
        assert camera.provisioned == []
        assert (await post(http, camera, body_of(broker)))[0] == 202
        await ear.until(on(TARGET))
        assert changed(camera) == [("r-1", TARGET)]


async def test_a_hanging_one_answers_status_but_never_provision(broker, http):
    async with one(broker, "provision-hang") as (_, camera):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(post(http, camera, body_of(broker)), 0.5)
        assert (await status(http, camera))["ssid"] == HOME
        assert (camera.provisioned, camera.provision_requests) == ([], 1)


async def test_an_echo_tells_the_password_in_its_answer_and_in_its_status(broker, http):
    async with one(broker, "provision-echo", interval=0.05) as (ear, camera):
        async with http.post(f"{camera.url}/provision", json=body_of(broker)) as answer:
            assert answer.status == 422
            assert PASSWORD in answer.reason
            assert PASSWORD in await answer.text()
        await ear.until(lambda _, body: PASSWORD in body.get("last_error", ""))
        assert PASSWORD in (await status(http, camera))["last_error"]
        assert camera.provisioned == []


async def test_one_that_vanishes_is_heard_no_more(broker, http):
    async with one(broker, "provision-vanish", rejoin_s=0.05, interval=0.05) as (ear, camera):
        assert (await post(http, camera, body_of(broker)))[0] == 202
        assert changed(camera) == [("r-1", TARGET)]
        await ear.until(says("REBOOTING"))
        await asyncio.sleep(0.3)  # many times what a return would take
        await ear.client.publish("end", "{}", qos=1)
        message, _ = await ear.until(lambda *_: True)
        assert message.topic.value == "end"
        with pytest.raises(aiohttp.ClientConnectorError):
            await status(http, camera)


async def test_one_that_moves_comes_back_at_its_second_address(broker, http):
    async with listening(broker) as ear, fleet_of(broker, "provision-moved:2", count=4) as fleet:
        await fleet.reported()
        camera = fleet.cameras[3]
        first = camera.address
        assert {one.second_address for one in fleet.cameras[:2]} == {None}
        assert (await post(http, camera, body_of(broker)))[0] == 202
        _, birth = await ear.until(on(TARGET))
        assert birth["ip"] == str(camera.address) == str(first + 2)
        assert (await status(http, camera))["mac"] == camera.mac
        async with http.get(f"{fleet.cameras[0].url}/status") as answer:  # the others are where they were
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(f"http://{first}:{PORT}/status")


@pytest.mark.parametrize("how", ["fault", "option"])
async def test_with_a_wrong_password_it_comes_back_where_it_was(broker, http, how):
    faults = ["wrong-password"] if how == "fault" else []
    more = {} if how == "fault" else {"wifi_password": PASSWORD}
    async with listening(broker) as ear, fleet_of(broker, *faults, **more) as fleet:
        await fleet.reported()
        camera = fleet.cameras[0]
        await post(http, camera, body_of(broker, password="not the password"))
        await ear.until(says("REBOOTING"))
        _, birth = await ear.until(says("ONLINE"))
        assert (birth["ssid"], birth["message_count"]) == (HOME, 1)
        assert birth["last_error"] == f"cannot join {TARGET}: authentication failed"
        assert "container_id" not in birth
        assert (await status(http, camera))["ssid"] == HOME
        assert changed(camera) == [("r-1", TARGET)]
        assert camera.provisioned[0].password_sha256 != DIGEST
        if how == "option":
            await post(http, camera, body_of(broker, request_id="r-2"))
            _, birth = await ear.until(on(TARGET))
            assert "last_error" not in birth


async def test_an_answer_that_is_lost_is_no_reason_to_do_it_twice(broker, http):
    async with one(broker, "answer-lost") as (ear, camera):
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(http, camera, body_of(broker))
        await ear.until(on(TARGET))
        assert (await post(http, camera, body_of(broker)))[0] == 202
        assert changed(camera) == [("r-1", TARGET)]
        assert camera.provision_requests == 2


async def test_a_boot_loop_is_one_birth_after_the_other(broker, http):
    async with one(broker, "boot-loop", interval=0.05) as (ear, camera):
        await ear.until(lambda _, body: body["message_count"] > 3)  # until then it is well
        assert (await post(http, camera, body_of(broker)))[0] == 202
        await ear.until(on(TARGET))
        seen = []
        while len(seen) < 4:
            _, body = await ear.until(lambda _, body: body["state"] in {"ONLINE", "OFFLINE"})
            seen.append((body["state"], body.get("ssid"), body.get("message_count")))
        assert seen == [("OFFLINE", None, None), ("ONLINE", TARGET, 1)] * 2

        answers = set()
        while len(answers) < 2:  # it answers while it is up, and only then
            try:
                answers.add((await status(http, camera))["ssid"])
            except CONNECTION:
                answers.add(None)
        assert answers == {TARGET, None}
        assert changed(camera) == [("r-1", TARGET)]


@pytest.mark.parametrize("fault", ["flapping", "no-mac", "wrong-mac"])
async def test_cameras_with_other_faults_can_be_provisioned(broker, http, fault):
    async with one(broker, fault) as (ear, camera):

        async def accepted():
            with contextlib.suppress(*CONNECTION):  # the flapping one may be away
                return (await post(http, camera, body_of(broker)))[0] == 202

        await eventually(accepted)
        await ear.until(on(TARGET))


async def test_the_password_is_nowhere_but_where_an_echo_tells_it(broker, http, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    told = []
    fleet = fleet_of(
        broker,
        *(fault for fault in Fault if fault.listens and not fault.is_raw),
        count=len(Fault),
        wifi_password=PASSWORD,
        on_event=lambda *event: told.append(event),
    )

    async def one(camera, request_id):
        with contextlib.suppress(*CONNECTION, TimeoutError, ValueError):
            await asyncio.wait_for(post(http, camera, body_of(broker, request_id=request_id)), 0.5)

    async with fleet:
        await fleet.reported()
        for request_id in ("r-1", "r-2"):
            await asyncio.gather(*(one(camera, request_id) for camera in fleet.cameras))
        await eventually(lambda: {"provisioned", "joined"} <= {event for _, event, _ in told})
        shown = [repr(vars(camera)) for camera in fleet.cameras if camera.fault is not Fault.PROVISION_ECHO]
        shown += [repr(camera.provisioned) for camera in fleet.cameras]
        shown += [repr(camera.options) for camera in fleet.cameras]
    captured = capsys.readouterr()
    assert sum(len(camera.provisioned) for camera in fleet.cameras) >= 10
    for text in (caplog.text, captured.out, captured.err, repr(told), *shown):
        assert PASSWORD not in text
