"""A session from its start to every camera verified, and what operators, brokers and disks do to it on the way."""

import asyncio
import itertools
import time
from collections import Counter

import pytest

from pi_orchestrator.errors import StorageError
from pi_orchestrator.net.espcam import EspCamClient
from pi_orchestrator.storage import database
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database
from pi_orchestrator.workers import provisioning
from pi_orchestrator.workers.identity import Verifier
from tests.support.provisioning import (
    BASE,
    FAST,
    HOME,
    PASSWORD,
    SSID,
    Batch,
    assert_done_once,
    assert_nowhere,
    batch,
    by_hand,
    write_down,
)
from tests.support.waiting import eventually

PAUSE_S = 0.3
UNDER_WAY = "SELECT count(*) FROM session_devices WHERE progress BETWEEN 10 AND 85 AND state <> 'failed'"


@pytest.fixture
async def twenty(world):
    async with batch(world, 20) as one:
        yield one


async def test_a_batch_of_twenty_goes_from_start_to_all_verified(twenty: Batch, tmp_path, capfd):
    asked = write_down(twenty.cameras)
    await twenty.start()
    await twenty.joined(20)
    answer = await twenty.post("provision-all", json={})
    assert answer.status == 202
    assert answer.data["initiated_count"] == 20
    session = await twenty.until_done()
    assert session["verified_count"] == session["provisioned_count"] == session["device_count"] == 20
    assert session["failed_count"] == 0
    assert_done_once(twenty.world, twenty.cameras, asked)
    assert {len(ids) for ids in asked.values()} == {1}
    used = await twenty.admin.get(f"{BASE}/allowlist/stats")
    assert used.data == {"total": 20, "used": 20, "available": 0}
    assert_nowhere(tmp_path)
    closed = await twenty.post("close")
    assert closed.data["session"]["state"] == "closed"
    assert PASSWORD not in closed.body.decode()
    assert twenty.world.rows("SELECT count(*) FROM session_secrets") == [(0,)]
    assert PASSWORD not in "".join(capfd.readouterr())


async def test_every_camera_tells_each_of_its_steps_once_and_in_order(twenty: Batch):
    await twenty.start()
    await twenty.joined(20)
    await twenty.post("provision-all", json={})
    await twenty.until_done()
    told = twenty.world.rows(
        "SELECT mac, json_extract(payload, '$.new_state'), json_extract(payload, '$.progress') FROM events"
        " WHERE type = 'device.state_changed' ORDER BY id"
    )
    steps = [("provisioning", 0), ("provisioning", 10), ("provisioning", 30), ("provisioned", 50)]
    steps += [("verifying", 60), ("verifying", 85), ("verified", 100)]
    for camera in twenty.cameras:
        assert [(state, progress) for mac, state, progress in told if mac == camera.mac] == steps


# Whose turn it is.


async def test_never_more_than_four_are_under_way_and_every_slot_is_used(world):
    async with by_hand(world, 10) as one:
        for camera in one.cameras:
            camera.answer_now.clear()
        await one.fleet.say()
        await one.start()
        await one.joined(10)
        await one.post("provision-all", json={})
        seen = []
        for _ in range(10):

            def busy():
                seen.append(world.rows(UNDER_WAY)[0][0])
                asked = [camera for camera in one.cameras if camera.requests > camera.answered]
                seen.append(len(asked))
                return len(asked) == min(4, sum(camera.answered < 3 for camera in one.cameras)) and asked

            camera = (await eventually(busy, what="as many cameras as may be are being asked"))[0]
            await one.running.considered(world)
            assert busy()
            # One goes all the way; its place is taken by the next.
            camera.answer_now.set()
            await one.until(camera.mac, "verifying")
            camera.body["ssid"] = SSID
            await camera.say(ssid=SSID)
            await one.until(camera.mac, "verified")
            await eventually(lambda camera=camera: camera.answered == 3)
        assert max(seen) == 4
        assert (await one.session())["verified_count"] == 10


async def test_skipping_one_that_is_awaited_frees_its_slot(world):
    async with batch(world, 2, faults=["provision-vanish"], settings={"provisioning": {"concurrency": 1}}) as one:
        lost, healthy = one.cameras[1].mac, one.cameras[0].mac
        await one.start(config=FAST | {"verification_timeout_seconds": 600})
        await one.joined(2)
        await one.post(f"devices/{lost}/provision")
        await one.until(lost, "verifying")
        await one.post(f"devices/{healthy}/provision")
        await one.running.considered(world)
        assert (await one.devices())[healthy]["progress"] == 0
        assert (await one.post(f"devices/{lost}/skip")).status == 200
        await one.until(healthy, "verified")
        end = (await one.devices())[lost]
        assert (end["state"], end["error_code"]) == ("failed", "SKIPPED")


async def test_skipped_and_asked_for_again_at_once_it_is_begun_anew_and_sent_to_once(world):
    async with by_hand(world) as one:
        camera = one.cameras[0]
        await camera.say(ssid=HOME)
        await one.start(config=FAST)
        await one.joined(1)
        await one.post(f"devices/{camera.mac}/provision")
        await one.until(camera.mac, "verifying")
        commands, actor = one.running.services.provisioning, Actor("test", "127.0.0.1", "c-1", "test")
        # In one commit: the worker never sees it out of line.
        await asyncio.gather(*(what(one.id, camera.mac, actor) for what in (commands.skip, commands.retry)))
        camera.body["ssid"] = SSID
        await camera.say(ssid=SSID)
        end = await one.until(camera.mac, "verified", "failed")
        assert end["state"] == "verified", end
        assert camera.requests <= 4, "asked who it is, sent to, looked for perhaps, read back"


# Pause, resume, close.


class Turnstile(asyncio.Semaphore):
    """Lets one request be answered each time it is set."""

    wait, set = asyncio.Semaphore.acquire, asyncio.Semaphore.release


async def test_a_pause_finishes_the_step_in_hand_and_begins_no_other(world):
    async with by_hand(world) as one:
        camera = one.cameras[0]
        camera.answer_now = Turnstile(0)
        await camera.say(ssid=HOME)
        await one.start(config=FAST)
        await one.joined(1)

        async def pause(*, request, progress):
            """Pause while it is asked for the n-th time; answered, it stands at `progress` and is asked no more."""
            await eventually(lambda: camera.requests == request)
            assert (await one.post("pause")).data["session"]["state"] == "paused"
            camera.answer_now.set()
            await stands_at(progress, requests=request)
            assert (await one.post("resume")).data["session"]["state"] == "active"

        async def stands_at(progress, *, requests):
            await eventually(lambda: camera.answered == requests)
            for _ in range(3):
                await one.running.considered(world)
                await asyncio.sleep(0.1)
            assert (await one.devices())[camera.mac]["progress"] == progress
            assert camera.requests == requests

        await one.post(f"devices/{camera.mac}/provision")
        await pause(request=1, progress=10)
        # It is asked again who it is, and then sent to.
        await eventually(lambda: camera.requests == 2)
        camera.answer_now.set()
        await pause(request=3, progress=50)
        await one.until(camera.mac, "verifying")
        # Who is awaited goes on being awaited, and is not asked when it comes.
        assert (await one.post("pause")).status == 200
        camera.body["ssid"] = SSID
        await camera.say(ssid=SSID)
        await stands_at(60, requests=3)
        await one.post("resume")
        await pause(request=4, progress=100)
        assert (await one.session())["verified_count"] == 1


async def test_a_paused_session_starts_nobody_and_a_resumed_one_everybody(twenty: Batch):
    await twenty.start()
    await twenty.joined(20)
    await twenty.post("provision-all", json={})
    await eventually(lambda: any(camera.provisioned for camera in twenty.cameras))
    await twenty.post("pause")

    def still():
        rows = twenty.world.rows("SELECT mac, progress FROM session_devices ORDER BY mac")
        return Counter(progress for _, progress in rows).keys() & {10, 30, 85} == set() and rows

    await eventually(still)
    await asyncio.sleep(0.5)
    before = await eventually(still)
    asked = [camera.provision_requests for camera in twenty.cameras]
    assert 0 < sum(asked) < 20
    await asyncio.sleep(0.5)
    assert (still(), [camera.provision_requests for camera in twenty.cameras]) == (before, asked)
    await twenty.post("resume")
    assert (await twenty.until_done())["verified_count"] == 20
    assert all(len(camera.provisioned) == 1 for camera in twenty.cameras)


async def test_closing_waits_for_what_runs_and_then_erases_the_password(world):
    async with by_hand(world, 2, provisioning={"concurrency": 1}) as one:
        await one.fleet.say()
        await one.start(config=FAST)
        await one.joined(2)
        await one.post("provision-all", json={})
        first = (await eventually(lambda: [camera for camera in one.cameras if camera.requests == 2]))[0]
        await one.until(first.mac, "verifying")
        closing = asyncio.create_task(one.post("close"))
        await eventually(lambda: world.rows("SELECT state FROM sessions") == [("closing",)])
        assert world.rows("SELECT count(*) FROM session_secrets") == [(1,)]
        assert (await one.post("provision-all", json={})).json["error"]["code"] == "SESSION_ALREADY_CLOSED"
        first.body["ssid"] = SSID
        await first.say(ssid=SSID)
        session = (await closing).data["session"]
        assert (session["state"], session["verified_count"], session["failed_count"]) == ("closed", 1, 1)
        assert world.rows("SELECT count(*) FROM session_secrets") == [(0,)]
        states = {(one["state"], one.get("error_code")) for one in (await one.devices()).values()}
        assert states == {("verified", None), ("failed", "SESSION_CLOSED")}
        assert sum(camera.requests for camera in one.cameras) == 3, "the other was not begun with"


# Circuit breakers and the broker.

BREAKER = {"provisioning": {"breaker_failures": 2, "breaker_reset_s": 1, "request_timeout_s": 0.5, "concurrency": 1}}


async def test_a_camera_that_fails_again_and_again_is_left_alone_for_longer_each_time(world):
    async with by_hand(world, **BREAKER) as one:
        camera = one.cameras[0]
        camera.body["mac"] = "nonsense"
        await camera.say(ssid=HOME)
        await one.start(config=FAST)
        await one.joined(1)
        await one.post(f"devices/{camera.mac}/provision")
        waits = []
        for _ in range(2):
            end = await one.until(camera.mac, "failed")
            assert end["error_code"] == "VERIFY_BAD_BODY"
            refused = await one.post(f"devices/{camera.mac}/retry")
            error = refused.json["error"]
            assert (refused.status, error["code"], error["retryable"]) == (503, "CIRCUIT_OPEN", True)
            waits.append(error["retry_after_seconds"])
            assert int(refused.headers["Retry-After"]) == waits[-1]

            async def let_in():
                return (await one.post(f"devices/{camera.mac}/retry")).status == 202

            await eventually(let_in)
        assert waits == [1, 2]
        end = await one.until(camera.mac, "failed")
        camera.body["mac"] = camera.mac
        await eventually(let_in)
        await one.until(camera.mac, "verifying")


async def test_when_camera_after_camera_fails_the_rest_waits_and_one_alone_shows_whether_it_works_again(world):
    async with by_hand(
        world, 6, provisioning=BREAKER["provisioning"] | {"concurrency": 3, "breaker_reset_s": 3}
    ) as one:
        await one.fleet.say()
        await one.start(config=FAST | {"verification_timeout_seconds": 1})
        await one.joined(6)
        await one.post("provision-all", json={})
        told = (
            "SELECT json_extract(payload, '$.code'), json_extract(payload, '$.retry_after_seconds')"
            " FROM events WHERE type = 'error'"
        )
        assert (await eventually(lambda: world.rows(told))) == [("CIRCUIT_OPEN", 3)]
        await eventually(lambda: world.rows(UNDER_WAY) == [(0,)], what="those that were under way have failed too")
        waiting = [camera for camera in one.cameras if camera.requests == 0]
        assert len(waiting) >= 2
        failed = next(camera for camera in one.cameras if camera.requests)
        answer = await one.post(f"devices/{failed.mac}/retry")
        assert (answer.status, answer.json["error"]["code"]) == (503, "CIRCUIT_OPEN")

        def alone():
            asked = [camera for camera in waiting if camera.requests]
            assert len(asked) <= 1
            return asked and asked[0].requests == 2 and asked[0]

        probe = await eventually(alone)
        await one.until(probe.mac, "verifying")
        await one.running.considered(world)
        assert alone(), "though three may be under way"
        probe.body["ssid"] = SSID
        await probe.say(ssid=SSID)
        await eventually(lambda: all(camera.requests for camera in waiting))
        assert len(world.rows(told)) == 1


async def test_without_a_broker_nothing_is_started_and_what_is_in_line_waits(world):
    async with by_hand(world) as one:
        camera = one.cameras[0]
        await camera.say(ssid=HOME)
        await one.start(config=FAST)
        await one.joined(1)
        await world.broker.stop()
        await eventually(lambda: not one.running.services.mqtt.connected)
        for what in ("provision-all", f"devices/{camera.mac}/provision"):
            answer = await one.post(what, json={})
            assert (answer.status, answer.json["error"]["code"]) == (503, "MQTT_UNAVAILABLE")
        assert (await one.devices())[camera.mac]["state"] == "discovered"
        await world.broker.start()
        await eventually(lambda: one.running.services.mqtt.connected)
        assert (await one.post("provision-all", json={})).status == 202
        await one.until(camera.mac, "verifying")
        assert camera.requests == 2


async def test_the_time_without_a_broker_is_not_counted_against_a_camera_that_is_awaited(world):
    async with batch(world, 1, rejoin_s=0.5, interval=30) as one:
        camera = one.cameras[0]
        await one.start(config=FAST | {"verification_timeout_seconds": 1})
        await one.joined(1)
        await one.post("provision-all", json={})
        await eventually(lambda: camera.provisioned)
        await world.broker.stop()
        await one.until(camera.mac, "verifying")
        await asyncio.sleep(2)
        assert (await one.devices())[camera.mac]["state"] == "verifying"
        await world.broker.start()
        await one.until(camera.mac, "verified")


# Faults of our own.


async def test_an_unexpected_fault_of_one_delivery_is_that_camera_s_alone(twenty: Batch, monkeypatch, capfd):
    unlucky = twenty.cameras[7]
    post = EspCamClient.provision

    async def provision(self, address, **fields):
        if address == str(unlucky.address):
            raise RuntimeError(f"a bug with {fields['credentials']}")
        await post(self, address, **fields)

    monkeypatch.setattr(EspCamClient, "provision", provision)
    await twenty.start()
    await twenty.joined(20)
    await twenty.post("provision-all", json={})
    session = await twenty.until_done()
    assert (session["verified_count"], session["failed_count"]) == (19, 1)
    assert (await twenty.devices())[unlucky.mac]["error_code"] == "INTERNAL_ERROR"
    monkeypatch.undo()
    await twenty.post(f"devices/{unlucky.mac}/retry")
    assert (await twenty.until(unlucky.mac, "verified", "failed"))["state"] == "verified"
    log = "".join(capfd.readouterr())
    assert "RuntimeError" in log
    assert PASSWORD not in log


@pytest.fixture
def refused(monkeypatch):
    """What the database refused to write; nobody rests for long after that."""
    monkeypatch.setattr(provisioning, "AFTER_TROUBLE_S", 0.1)
    errors, write = [], Database.write

    async def noted(self, job):
        try:
            return await write(self, job)
        except StorageError as error:
            errors.append(error)
            raise

    monkeypatch.setattr(Database, "write", noted)
    return errors


@pytest.mark.parametrize("progress", [10, 30, 50, 60, 85, 100])
async def test_a_disk_that_takes_no_step_holds_the_batch_up_and_no_more(world, refused, progress):
    async with batch(world, 6) as one:
        asked = write_down(one.cameras)
        await one.start()
        await one.joined(6)
        condition = f"NEW.progress = {progress}"
        await world.sabotage(
            f"CREATE TRIGGER full BEFORE INSERT ON session_devices WHEN {condition}"
            " BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
        await one.post("provision-all", json={})
        held = f"SELECT count(*) FROM session_devices WHERE progress >= {progress}"
        await eventually(lambda: len(refused) >= 4, what="it has been tried several times")
        assert world.rows(held) == [(0,)]
        await world.sabotage("DROP TRIGGER full")
        await one.until_done()
        assert_done_once(world, one.cameras, asked)


@pytest.mark.parametrize("fault", ["provision-reject", None], ids=["rejected", "unexpected"])
async def test_a_disk_that_takes_no_failure_is_not_hammered_and_takes_it_later(world, monkeypatch, fault):
    async with batch(world, 1, faults=[fault] if fault else ()) as one:
        camera, calls = one.cameras[0], []
        monkeypatch.setattr(provisioning, "AFTER_TROUBLE_S", PAUSE_S)
        identify = Verifier.verify

        async def verify(self, *given, **more):
            calls.append(time.monotonic())
            if fault is None:
                raise RuntimeError("a bug")
            return await identify(self, *given, **more)

        monkeypatch.setattr(Verifier, "verify", verify)
        await one.start()
        await one.joined(1)
        await world.sabotage(
            "CREATE TRIGGER full BEFORE INSERT ON session_devices WHEN NEW.state = 'failed'"
            " BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
        await one.post("provision-all", json={})
        await eventually(lambda: len(calls) >= 4)
        between = [after - before for before, after in itertools.pairwise(calls)]
        assert min(between) >= PAUSE_S, "each time after a pause"
        assert (await one.devices())[camera.mac]["state"] == "provisioning"
        await world.sabotage("DROP TRIGGER full")
        end = await one.until(camera.mac, "failed")
        assert end["error_code"] == ("DEVICE_REJECTED" if fault else "INTERNAL_ERROR")


async def test_a_database_that_is_locked_for_long_holds_the_batch_up_and_no_more(world, refused, monkeypatch):
    monkeypatch.setattr(database, "BUSY_MS", 500)
    async with batch(world, 6) as one:
        asked = write_down(one.cameras)
        await one.start()
        await one.joined(6)
        await one.post("provision-all", json={})
        await eventually(lambda: any(camera.provisioned for camera in one.cameras))
        with world.connect(isolation_level=None, check_same_thread=False) as other:
            await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")  # the transaction before needs the loop to end
            await eventually(lambda: refused, what="the writer has waited for longer than it does")
            other.execute("ROLLBACK")
        session = await one.until_done()
        assert session["verified_count"] == 6
        assert_done_once(world, one.cameras, asked)
