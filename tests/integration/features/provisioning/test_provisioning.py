"""Sessions from start to verified cameras, with operators, broker outages and storage failures in between."""

import asyncio
import itertools
import time
from collections import Counter

import pytest

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.features.devices.verifier import DeviceVerifier
from pi_orchestrator.features.provisioning import worker as provisioning
from pi_orchestrator.net.camera_http import CameraHttpClient
from pi_orchestrator.storage import database
from pi_orchestrator.storage.database import Database
from tests.support.provisioning import (
    BASE,
    FAST,
    HOME,
    PASSWORD,
    SSID,
    Batch,
    assert_provisioned_once,
    assert_secret_absent,
    batch,
    record_requests,
    scripted_cameras,
    set_breaker,
)
from tests.support.waiting import eventually

PAUSE_S = 0.3
"""Pause between two attempts of a failed write, in the test that measures it."""
UNDER_WAY = "SELECT count(*) FROM session_devices WHERE progress BETWEEN 10 AND 85 AND state <> 'failed'"


@pytest.fixture
async def twenty(rig):
    async with batch(rig, 20) as setup:
        yield setup


async def test_batch_of_20_is_verified(twenty: Batch, tmp_path, capfd):
    sent_requests = record_requests(twenty.cameras)
    await twenty.start()
    await twenty.wait_for_cameras(20)
    answer = await twenty.post("provision-all", json={})
    assert answer.status == 202
    assert answer.data["initiated_count"] == 20
    session = await twenty.wait_until_done()
    assert session["verified_count"] == session["provisioned_count"] == session["device_count"] == 20
    assert session["failed_count"] == 0
    assert_provisioned_once(twenty.rig, twenty.cameras, sent_requests)
    assert {len(ids) for ids in sent_requests.values()} == {1}
    devices = [twenty.running.app.devices.registry.get(camera.mac) for camera in twenty.cameras]
    assert [len(device.interruptions) for device in devices] == [0] * 20, "requested restarts are no interruptions"
    used = await twenty.admin.get(f"{BASE}/allowlist/stats")
    assert used.data == {"total": 20, "used": 20, "available": 0}
    assert_secret_absent(tmp_path)
    closed = await twenty.post("close")
    assert closed.data["session"]["state"] == "closed"
    assert PASSWORD not in closed.body.decode()
    assert twenty.rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]
    assert PASSWORD not in "".join(capfd.readouterr())


async def test_steps_are_published_in_order(twenty: Batch):
    await twenty.start()
    await twenty.wait_for_cameras(20)
    await twenty.post("provision-all", json={})
    await twenty.wait_until_done()
    steps_published = twenty.rig.rows(
        "SELECT mac, json_extract(payload, '$.new_state'), json_extract(payload, '$.progress') FROM events"
        " WHERE type = 'device.state_changed' ORDER BY id"
    )
    steps = [("provisioning", 0), ("provisioning", 10), ("provisioning", 30), ("provisioned", 50)]
    steps += [("verifying", 60), ("verifying", 85), ("verified", 100)]
    for camera in twenty.cameras:
        published = [(state, progress) for mac, state, progress in steps_published if mac == camera.mac]
        # On a slow machine a request may time out and be repeated, from the identification on.
        last_attempt = len(published) - published[::-1].index(("provisioning", 10)) - 1
        assert published[:1] + published[last_attempt:] == steps
        assert set(published[1:last_attempt]) <= {("provisioning", 10), ("provisioning", 30)}


# Queue and concurrency.


async def test_concurrency_limit_is_used_and_kept(rig):
    async with scripted_cameras(rig, 10) as setup:
        for camera in setup.cameras:
            camera.answer_now.clear()
        await setup.fleet.publish_status()
        await setup.start()
        await setup.wait_for_cameras(10)
        await setup.post("provision-all", json={})
        seen = []
        for _ in range(10):

            def waiting_for_answers():
                seen.append(rig.rows(UNDER_WAY)[0][0])
                waiting = [camera for camera in setup.cameras if camera.requests > camera.answered]
                seen.append(len(waiting))
                # Four at a time (provisioning.concurrency); each camera gets three requests.
                return len(waiting) == min(4, sum(camera.answered < 3 for camera in setup.cameras)) and waiting

            camera = (await eventually(waiting_for_answers, what="every slot has a request"))[0]
            await setup.running.wait_until_processed(rig)
            assert waiting_for_answers()
            # This camera is verified; the next one takes its slot.
            camera.answer_now.set()
            await setup.wait_for_state(camera.mac, "verifying")
            camera.body["ssid"] = SSID
            await camera.publish_status(ssid=SSID)
            await setup.wait_for_state(camera.mac, "verified")
            await eventually(lambda camera=camera: camera.answered == 3)
        assert max(seen) == 4
        assert (await setup.session())["verified_count"] == 10


async def test_skip_of_awaited_camera_frees_slot(rig):
    async with batch(rig, 2, faults=["provision-vanish"], settings={"provisioning": {"concurrency": 1}}) as setup:
        lost, healthy = setup.cameras[1].mac, setup.cameras[0].mac
        await setup.start(config=FAST | {"verification_timeout_seconds": 600})
        await setup.wait_for_cameras(2)
        await setup.post(f"devices/{lost}/provision")
        await setup.wait_for_state(lost, "verifying")
        await setup.post(f"devices/{healthy}/provision")
        await setup.running.wait_until_processed(rig)
        assert (await setup.devices())[healthy]["progress"] == 0
        assert (await setup.post(f"devices/{lost}/skip")).status == 200
        await setup.wait_for_state(healthy, "verified")
        end = (await setup.devices())[lost]
        assert (end["state"], end["error_code"]) == ("failed", "SKIPPED")


async def test_skip_and_retry_send_credentials_once(rig):
    async with scripted_cameras(rig) as setup:
        camera = setup.cameras[0]
        await camera.publish_status(ssid=HOME)
        await setup.start(config=FAST)
        await setup.wait_for_cameras(1)
        await setup.post(f"devices/{camera.mac}/provision")
        await setup.wait_for_state(camera.mac, "verifying")
        commands, actor = setup.running.app.provisioning.service, Actor("test", "127.0.0.1", "c-1", "test")
        # In one commit: the worker never sees the camera outside the queue.
        await asyncio.gather(*(command(setup.id, camera.mac, actor) for command in (commands.skip, commands.retry)))
        camera.body["ssid"] = SSID
        await camera.publish_status(ssid=SSID)
        end = await setup.wait_for_state(camera.mac, "verified", "failed")
        assert end["state"] == "verified", end
        assert camera.requests <= 4, "to identify, provision, possibly probe, verify"


# Pause, resume, close.


class RequestGate(asyncio.Semaphore):
    """Allows one response each time it is set."""

    wait, set = asyncio.Semaphore.acquire, asyncio.Semaphore.release


async def test_pause_finishes_only_the_running_step(rig):
    async with scripted_cameras(rig) as setup:
        camera = setup.cameras[0]
        camera.answer_now = RequestGate(0)
        await camera.publish_status(ssid=HOME)
        await setup.start(config=FAST)
        await setup.wait_for_cameras(1)

        async def pause(*, request, progress):
            """Pause during request number `request`; after its response no step follows `progress`."""
            await eventually(lambda: camera.requests == request)
            assert (await setup.post("pause")).data["session"]["state"] == "paused"
            camera.answer_now.set()
            await stays_at(progress, requests=request)
            assert (await setup.post("resume")).data["session"]["state"] == "active"

        async def stays_at(progress, *, requests):
            await eventually(lambda: camera.answered == requests)
            for _ in range(3):
                await setup.running.wait_until_processed(rig)
                await asyncio.sleep(0.1)
            assert (await setup.devices())[camera.mac]["progress"] == progress
            assert camera.requests == requests

        await setup.post(f"devices/{camera.mac}/provision")
        await pause(request=1, progress=10)
        # The camera is identified again, then its credentials are sent.
        await eventually(lambda: camera.requests == 2)
        camera.answer_now.set()
        await pause(request=3, progress=50)
        await setup.wait_for_state(camera.mac, "verifying")
        # A camera stays awaited during a pause, and gets no request when it returns.
        assert (await setup.post("pause")).status == 200
        camera.body["ssid"] = SSID
        await camera.publish_status(ssid=SSID)
        await stays_at(60, requests=3)
        await setup.post("resume")
        await pause(request=4, progress=100)
        assert (await setup.session())["verified_count"] == 1


async def test_resume_starts_remaining_cameras(twenty: Batch):
    await twenty.start()
    await twenty.wait_for_cameras(20)
    await twenty.post("provision-all", json={})
    await eventually(lambda: any(camera.provisioned for camera in twenty.cameras))
    await twenty.post("pause")

    def rows_at_rest():  # a camera that was being identified stays at 10
        rows = twenty.rig.rows("SELECT mac, progress FROM session_devices ORDER BY mac")
        return Counter(progress for _, progress in rows).keys() & {30, 85} == set() and rows

    await eventually(rows_at_rest)
    await asyncio.sleep(0.5)
    before = await eventually(rows_at_rest)
    request_counts = [camera.provision_requests for camera in twenty.cameras]
    assert 0 < sum(request_counts) < 20
    await asyncio.sleep(0.5)
    assert (rows_at_rest(), [camera.provision_requests for camera in twenty.cameras]) == (before, request_counts)
    await twenty.post("resume")
    assert (await twenty.wait_until_done())["verified_count"] == 20
    assert all(len(camera.provisioned) == 1 for camera in twenty.cameras)


async def test_close_waits_for_camera_under_way_then_erases_password(rig):
    async with scripted_cameras(rig, 2, provisioning={"concurrency": 1}) as setup:
        await setup.fleet.publish_status()
        await setup.start(config=FAST)
        await setup.wait_for_cameras(2)
        await setup.post("provision-all", json={})
        first = (await eventually(lambda: [camera for camera in setup.cameras if camera.requests == 2]))[0]
        await setup.wait_for_state(first.mac, "verifying")
        closing = asyncio.create_task(setup.post("close"))
        await eventually(lambda: rig.rows("SELECT state FROM sessions") == [("closing",)])
        assert rig.rows("SELECT count(*) FROM session_secrets") == [(1,)]
        assert (await setup.post("provision-all", json={})).json["error"]["code"] == "SESSION_ALREADY_CLOSED"
        first.body["ssid"] = SSID
        await first.publish_status(ssid=SSID)
        session = (await closing).data["session"]
        assert (session["state"], session["verified_count"], session["failed_count"]) == ("closed", 1, 1)
        assert rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]
        states = {(device["state"], device.get("error_code")) for device in (await setup.devices()).values()}
        assert states == {("verified", None), ("failed", "SESSION_CLOSED")}
        assert sum(camera.requests for camera in setup.cameras) == 3, "the other camera was not started"


# Circuit breakers and the broker.

BREAKER = {"failures": 2, "reset_s": 1}
SHORT_TIMEOUT = {"request_timeout_s": 0.5, "concurrency": 1}


async def test_camera_circuit_opens_longer_each_time(rig, monkeypatch):
    set_breaker(monkeypatch, **BREAKER)
    async with scripted_cameras(rig, provisioning=SHORT_TIMEOUT) as setup:
        camera = setup.cameras[0]
        camera.body["mac"] = "nonsense"
        await camera.publish_status(ssid=HOME)
        await setup.start(config=FAST)
        await setup.wait_for_cameras(1)
        await setup.post(f"devices/{camera.mac}/provision")
        waits = []
        for _ in range(2):
            end = await setup.wait_for_state(camera.mac, "failed")
            assert end["error_code"] == "VERIFY_BAD_BODY"
            refused = await setup.post(f"devices/{camera.mac}/retry")
            error = refused.json["error"]
            assert (refused.status, error["code"], error["retryable"]) == (503, "CIRCUIT_OPEN", True)
            waits.append(error["retry_after_seconds"])
            assert int(refused.headers["Retry-After"]) == waits[-1]

            async def is_accepted():
                return (await setup.post(f"devices/{camera.mac}/retry")).status == 202

            await eventually(is_accepted)
        assert waits == [1, 2]
        end = await setup.wait_for_state(camera.mac, "failed")
        camera.body["mac"] = camera.mac
        await eventually(is_accepted)
        await setup.wait_for_state(camera.mac, "verifying")


async def test_network_circuit_allows_one_trial(rig, monkeypatch):
    set_breaker(monkeypatch, **BREAKER | {"reset_s": 6})  # the cameras under way fail earlier
    async with scripted_cameras(rig, 6, provisioning=SHORT_TIMEOUT | {"concurrency": 3}) as setup:
        await setup.fleet.publish_status()
        await setup.start(config=FAST | {"verification_timeout_seconds": 2})
        await setup.wait_for_cameras(6)
        await setup.post("provision-all", json={})
        errors = (
            "SELECT json_extract(payload, '$.code'), json_extract(payload, '$.retry_after_seconds')"
            " FROM events WHERE type = 'error'"
        )
        assert (await eventually(lambda: rig.rows(errors))) == [("CIRCUIT_OPEN", 6)]
        await eventually(lambda: rig.rows(UNDER_WAY) == [(0,)], what="the cameras under way have failed too")
        waiting = [camera for camera in setup.cameras if camera.requests == 0]
        assert len(waiting) >= 2
        failed = next(camera for camera in setup.cameras if camera.requests)
        answer = await setup.post(f"devices/{failed.mac}/retry")
        assert (answer.status, answer.json["error"]["code"]) == (503, "CIRCUIT_OPEN")

        def trial_camera():
            requested = [camera for camera in waiting if camera.requests]
            assert len(requested) <= 1, "although the concurrency is three"
            return requested and requested[0].requests == 2 and requested[0]

        trial = await eventually(trial_camera)
        trial.body["ssid"] = SSID
        await trial.publish_status(ssid=SSID)
        await eventually(lambda: all(camera.requests for camera in waiting))
        assert len(rig.rows(errors)) == 1


async def test_provisioning_is_refused_until_broker_is_connected(rig):
    async with scripted_cameras(rig) as setup:
        camera = setup.cameras[0]
        await camera.publish_status(ssid=HOME)
        await setup.start(config=FAST)
        await setup.wait_for_cameras(1)
        await rig.broker.stop()
        await eventually(lambda: not setup.running.app.resources.mqtt.connected)
        for path in ("provision-all", f"devices/{camera.mac}/provision"):
            answer = await setup.post(path, json={})
            assert (answer.status, answer.json["error"]["code"]) == (503, "MQTT_UNAVAILABLE")
        assert (await setup.devices())[camera.mac]["state"] == "discovered"
        await rig.broker.start()
        await eventually(lambda: setup.running.app.resources.mqtt.connected)
        assert (await setup.post("provision-all", json={})).status == 202
        await setup.wait_for_state(camera.mac, "verifying")
        assert camera.requests == 2


async def test_broker_outage_suspends_timeout(rig):
    # The first status after the outage may come before the daemon has subscribed again.
    async with batch(rig, 1, rejoin_s=0.5, interval=1) as setup:
        camera = setup.cameras[0]
        await setup.start(config=FAST | {"verification_timeout_seconds": 1})
        await setup.wait_for_cameras(1)
        await setup.post("provision-all", json={})
        await eventually(lambda: camera.provisioned)
        await rig.broker.stop()
        await setup.wait_for_state(camera.mac, "verifying")
        await asyncio.sleep(2)
        assert (await setup.devices())[camera.mac]["state"] == "verifying"
        await rig.broker.start()
        await setup.wait_for_state(camera.mac, "verified")


# Internal faults.


async def test_unexpected_error_affects_one_camera(twenty: Batch, monkeypatch, capfd):
    faulty = twenty.cameras[7]
    post = CameraHttpClient.provision

    async def provision(self, address, **fields):
        if address == str(faulty.address):
            raise RuntimeError(f"a bug with {fields['credentials']}")
        await post(self, address, **fields)

    monkeypatch.setattr(CameraHttpClient, "provision", provision)
    await twenty.start()
    await twenty.wait_for_cameras(20)
    await twenty.post("provision-all", json={})
    session = await twenty.wait_until_done()
    assert (session["verified_count"], session["failed_count"]) == (19, 1)
    assert (await twenty.devices())[faulty.mac]["error_code"] == "INTERNAL_ERROR"
    monkeypatch.undo()
    await twenty.post(f"devices/{faulty.mac}/retry")
    assert (await twenty.wait_for_state(faulty.mac, "verified", "failed"))["state"] == "verified"
    log = "".join(capfd.readouterr())
    assert "RuntimeError" in log
    assert PASSWORD not in log


@pytest.fixture
def refused(monkeypatch):
    """Errors of refused database writes; retries are quick."""
    monkeypatch.setattr(provisioning, "RETRY_S", 0.1)
    errors, write = [], Database.write

    async def recording_write(self, job):
        try:
            return await write(self, job)
        except StorageError as error:
            errors.append(error)
            raise

    monkeypatch.setattr(Database, "write", recording_write)
    return errors


@pytest.mark.parametrize("progress", [10, 30, 50, 60, 85, 100])
async def test_failed_step_write_delays_batch(rig, refused, progress):
    async with batch(rig, 6) as setup:
        sent_requests = record_requests(setup.cameras)
        await setup.start()
        await setup.wait_for_cameras(6)
        condition = f"NEW.progress = {progress}"
        await rig.execute_in_thread(
            f"CREATE TRIGGER full BEFORE INSERT ON session_devices WHEN {condition}"
            " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        await setup.post("provision-all", json={})
        held = f"SELECT count(*) FROM session_devices WHERE progress >= {progress}"
        await eventually(lambda: len(refused) >= 4, what="several attempts were made")
        assert rig.rows(held) == [(0,)]
        await rig.execute_in_thread("DROP TRIGGER full")
        await setup.wait_until_done()
        assert_provisioned_once(rig, setup.cameras, sent_requests)


@pytest.mark.parametrize("fault", ["provision-reject", None], ids=["rejected", "unexpected"])
async def test_failure_write_is_retried_slowly(rig, monkeypatch, fault):
    async with batch(rig, 1, faults=[fault] if fault else ()) as setup:
        camera, calls = setup.cameras[0], []
        monkeypatch.setattr(provisioning, "RETRY_S", PAUSE_S)
        identify = DeviceVerifier.proven_connection

        def proven_connection(self, *args, **kwargs):
            calls.append(time.monotonic())
            if fault is None:
                raise RuntimeError("a bug")
            return identify(self, *args, **kwargs)

        monkeypatch.setattr(DeviceVerifier, "proven_connection", proven_connection)
        await setup.start()
        await setup.wait_for_cameras(1)
        await rig.execute_in_thread(
            "CREATE TRIGGER full BEFORE INSERT ON session_devices WHEN NEW.state = 'failed'"
            " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        await setup.post("provision-all", json={})
        await eventually(lambda: len(calls) >= 4)
        between = [after - before for before, after in itertools.pairwise(calls)]
        assert min(between) >= PAUSE_S, "a pause before each attempt"
        assert (await setup.devices())[camera.mac]["state"] == "provisioning"
        await rig.execute_in_thread("DROP TRIGGER full")
        end = await setup.wait_for_state(camera.mac, "failed")
        assert end["error_code"] == ("DEVICE_REJECTED" if fault else "INTERNAL_ERROR")


async def test_locked_database_delays_batch(rig, refused, monkeypatch):
    monkeypatch.setattr(database, "BUSY_MS", 500)
    async with batch(rig, 6) as setup:
        sent_requests = record_requests(setup.cameras)
        await setup.start()
        await setup.wait_for_cameras(6)
        await setup.post("provision-all", json={})
        await eventually(lambda: any(camera.provisioned for camera in setup.cameras))
        with rig.connect(isolation_level=None, check_same_thread=False) as other:
            await asyncio.to_thread(
                other.execute, "BEGIN IMMEDIATE"
            )  # the previous transaction needs the event loop to end
            await eventually(lambda: refused, what="the writer has timed out")
            other.execute("ROLLBACK")
        session = await setup.wait_until_done()
        assert session["verified_count"] == 6
        assert_provisioned_once(rig, setup.cameras, sent_requests)
