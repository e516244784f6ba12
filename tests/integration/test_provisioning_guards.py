"""What must not be possible in batch provisioning: each test holds one guard that was missing once."""

import asyncio
import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from pi_orchestrator.clock import parse_rfc3339
from pi_orchestrator.domain.candidate import Candidate, CandidateState, Step
from pi_orchestrator.sandbox.faults import Fault
from pi_orchestrator.storage import sessions
from pi_orchestrator.storage.vault import Vault
from pi_orchestrator.workers.circuits import Circuits
from pi_orchestrator.workers.delivery import PROOF_S
from pi_orchestrator.workers.provisioning import ProvisioningWorker
from pi_orchestrator.workers.sessions import MAX_OPEN
from tests.support.provisioning import BASE, FAST, HOME, PASSWORD, QUIET, SSID, Batch, Hands, batch, by_hand
from tests.support.waiting import eventually
from tests.support.world import HandCamera

BRIEF = FAST | {"verification_timeout_seconds": 2}
PATIENT = FAST | {"verification_timeout_seconds": 600}
LIFE_S = sum(FAST.values())
DAY_S = 24 * 3600
ELSEWHERE = "eth9"
"""An interface on which no cameras are looked for."""


@pytest.fixture
def asked(monkeypatch):
    """What the cameras were asked, in order: (MAC, method, body)."""
    answer, heard = HandCamera._answer, []

    async def listening(self, request):
        heard.append((self.mac, request.method, await request.json() if request.method == "POST" else None))
        return await answer(self, request)

    monkeypatch.setattr(HandCamera, "_answer", listening)
    return heard


@pytest.fixture
def worker(monkeypatch):
    """The daemon's worker once it runs: `.parts` is the worker, `.passes` how often it has looked."""
    found = SimpleNamespace(parts=None, passes=0)
    load, pass_once = ProvisioningWorker.load, ProvisioningWorker.pass_once

    async def loading(self):
        found.parts = self
        await load(self)

    async def passing(self):
        try:
            return await pass_once(self)
        finally:
            found.passes += 1

    monkeypatch.setattr(ProvisioningWorker, "load", loading)
    monkeypatch.setattr(ProvisioningWorker, "pass_once", passing)
    return found


async def looked(worker, clock=None, *, times=1):
    """Return once the worker has looked at everything as it was when this was called; more than once where asked."""
    goal = worker.passes + 1 + times  # the first may have begun before

    async def enough():
        if clock:
            await clock.advance(0.5)
        return worker.passes >= goal

    await eventually(enough, what="the worker looks")


async def pass_(worker, clock, seconds):
    """Let time go by in steps, at each of which the worker has looked."""
    end = clock.monotonic() + seconds
    while clock.monotonic() < end:
        await clock.advance(5)
        await looked(worker, clock)


async def put(one, session_id, mac, *, ip, **fields):
    """Store a camera of a session."""
    found = Candidate(session_id, mac, ip=ip, discovered_at=datetime.now(UTC))
    await one.running.services.database.write(lambda tx: sessions.put_candidate(tx, replace(found, **fields)))


QUEUED = {"state": CandidateState.PROVISIONING, "queued": 1}


async def elsewhere(one, ssid):
    """A session on an interface that nobody watches."""
    body = {"network_interface": ELSEWHERE, "target_ssid": ssid, "target_password": PASSWORD, "config": PATIENT}
    answer = await one.admin.post(f"{BASE}/batch", json=body)
    assert answer.status == 201, answer.body
    return answer.data["session"]["id"]


async def verifying(one, *, config=PATIENT):
    """The first camera, sent to and awaited."""
    camera = one.cameras[0]
    await camera.say(ssid=HOME)
    await one.start(config=config)
    await one.joined(1)
    assert (await one.post(f"devices/{camera.mac}/provision")).status == 202
    await one.until(camera.mac, "verifying")
    return camera


async def arrive(one, camera):
    camera.body["ssid"] = SSID
    await camera.say(ssid=SSID)
    end = await one.until(camera.mac, "verified", "failed")
    assert end["state"] == "verified", end


def posts(asked, mac):
    return [body for who, method, body in asked if (who, method) == (mac, "POST")]


# Whose camera it is.


async def test_nothing_can_be_asked_for_on_an_interface_that_is_not_watched(world, asked):
    async with by_hand(world, 2) as one:
        fresh, failed = one.cameras
        one.id = await elsewhere(one, SSID)
        await put(one, one.id, fresh.mac, ip=fresh.address)
        fault = {"state": CandidateState.FAILED, "error_code": "DEVICE_TIMEOUT", "error_message": "silent"}
        await put(one, one.id, failed.mac, ip=failed.address, **fault)
        before = await one.devices()
        for what in (f"devices/{fresh.mac}/provision", "provision-all", f"devices/{failed.mac}/retry"):
            answer = await one.post(what, json={})
            assert (answer.status, answer.json.get("code")) == (503, "NETWORK_ERROR"), what
            assert ELSEWHERE in answer.json["error"]["message"]
        assert await one.devices() == before
        assert asked == []


async def test_who_is_in_line_on_an_interface_that_is_not_watched_any_more_is_not_started_on(world, asked, worker):
    async with by_hand(world, 2) as one:
        stranded, healthy = one.cameras
        there = await elsewhere(one, "Other-Net")
        await put(one, there, stranded.mac, ip=stranded.address, **QUEUED)
        await looked(worker, times=2)
        await healthy.say(ssid=HOME)
        await one.start(config=PATIENT)
        await one.joined(1)
        await one.post("provision-all", json={})
        await one.until(healthy.mac, "verifying")
        await looked(worker, times=2)
        assert {mac for mac, _, _ in asked} == {healthy.mac}
        one.id = there
        found = (await one.devices())[stranded.mac]
        assert (found["state"], found["progress"]) == ("provisioning", 0)


async def test_a_camera_that_is_in_line_twice_has_one_owner_at_a_time(world, asked, worker):
    async with by_hand(world) as one:
        camera = one.cameras[0]
        await camera.say(ssid=HOME)
        await one.start(config=PATIENT)
        await one.joined(1)
        camera.answer_now.clear()
        await one.post(f"devices/{camera.mac}/provision")
        await eventually(lambda: camera.requests == 1)
        there = await elsewhere(one, "Other-Net")
        await put(one, there, camera.mac, ip=camera.address, **QUEUED)
        worker.parts._interface = ELSEWHERE  # the guard must not rest on the other one alone
        await looked(worker, times=2)
        assert (camera.requests, worker.parts.under_way) == (1, 1)
        reboot = await one.running.api.post(f"/api/v1/cameras/{camera.mac}/reboot")
        assert (reboot.status, reboot.json["code"]) == (409, "DEVICE_ALREADY_PROVISIONING")
        assert (await one.devices())[camera.mac]["progress"] == Step.IDENTIFYING
        assert (await one.post(f"devices/{camera.mac}/skip")).status == 200
        await eventually(lambda: camera.requests == 2, what="it is the other session's now")
        camera.answer_now.set()
        one.id = there
        await one.until(camera.mac, "verifying")
        assert [body["ssid"] for body in posts(asked, camera.mac)] == ["Other-Net"]


# Who is sent anything.


async def test_a_proof_that_has_aged_while_its_step_was_stored_is_made_again_before_anything_is_sent(world, asked):
    async with by_hand(world) as one:
        camera = one.cameras[0]
        await camera.say(ssid=HOME)
        await one.start(config=PATIENT)
        await one.joined(1)
        camera.answer_now.clear()
        await one.post(f"devices/{camera.mac}/provision")
        await eventually(lambda: camera.requests == 1)
        with world.connect(isolation_level=None, check_same_thread=False) as other:
            await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
            camera.answer_now.set()
            await eventually(lambda: camera.answered == 1)
            await asyncio.sleep(PROOF_S + 0.3)  # that long the proof has aged
            other.execute("ROLLBACK")
        await one.until(camera.mac, "verifying")
        methods = [method for _, method, _ in asked]
        assert methods[:2] == ["GET", "GET"], "what it was proven to be is asked anew"
        assert methods[-2:] == ["GET", "POST"]
        assert methods.count("POST") == 1
        told = world.rows(
            "SELECT json_extract(payload, '$.progress') FROM events WHERE type = 'device.state_changed' ORDER BY id"
        )
        assert [progress for (progress,) in told][:6] == [0, 10, 30, 10, 10, 30]
        await arrive(one, camera)


async def test_only_who_was_asked_for_as_unlisted_is_sent_to_without_an_entry(world, asked):
    async with by_hand(world, 2, provisioning={"allow_unlisted": True}) as one:
        removed, unlisted = one.cameras
        assert (await one.admin.delete(f"{BASE}/allowlist/{unlisted.mac}")).status == 204
        await one.fleet.say()
        await one.start(config=PATIENT)
        await one.joined(2)
        for camera in one.cameras:
            camera.answer_now.clear()
        assert (await one.post("provision-all", json={"only_allowlisted": False})).data["initiated_count"] == 2
        await eventually(lambda: all(camera.requests == 1 for camera in one.cameras))
        assert (await one.admin.delete(f"{BASE}/allowlist/{removed.mac}")).status == 204
        for camera in one.cameras:
            camera.answer_now.set()
        assert (await one.until(removed.mac, "failed", "verifying")).get("error_code") == "DEVICE_NOT_IN_ALLOWLIST"
        await one.until(unlisted.mac, "verifying")
        assert posts(asked, removed.mac) == []
        assert [body["ssid"] for body in posts(asked, unlisted.mac)] == [SSID]
        await arrive(one, unlisted)


async def test_who_was_asked_for_as_unlisted_can_be_retried_so_and_nobody_else_is_taken_singly(world):
    settings = {"provisioning": {"allow_unlisted": True}}
    async with batch(world, 2, allowed=False, faults=["provision-reject"], settings=settings) as one:
        (refuses,) = one.fleet.with_fault(Fault.PROVISION_REJECT)
        (other,) = one.fleet.with_fault(None)
        await one.start()
        await one.joined(2)
        alone = await one.post(f"devices/{other.mac}/provision")
        assert (alone.status, alone.json["code"]) == (403, "DEVICE_NOT_IN_ALLOWLIST")
        assert (await one.post("provision-all", json={"only_allowlisted": False})).data["initiated_count"] == 2
        assert (await one.until(refuses.mac, "failed"))["error_code"] == "DEVICE_REJECTED"
        assert (await one.post(f"devices/{refuses.mac}/retry")).status == 202
        await one.until(other.mac, "verified")


@pytest.mark.parametrize("ssid", [HOME, None], ids=["named", "unnamed"])
async def test_a_network_and_an_address_that_only_an_earlier_message_named_are_no_proof(world, asked, ssid):
    async with by_hand(world, ssid=ssid) as one, contextlib.AsyncExitStack() as stack:
        camera = one.cameras[0]
        new = await stack.enter_async_context(world.camera(1, address=world.address(200), ssid=ssid))
        await camera.say(ssid=HOME)
        await one.start(config=BRIEF)
        await one.joined(1)
        camera.answer_now.clear()
        await one.post(f"devices/{camera.mac}/provision")
        await camera.asked.wait()
        await camera.say(ssid=SSID, ip=new.address)
        await eventually(lambda: one.running.services.registry.get(camera.mac).claims.ip == new.address)
        camera.answer_now.set()
        await one.until(camera.mac, "verifying")
        for ip in (None, camera.address, None):
            await camera.say(ip=ip)
        end = await one.until(camera.mac, "failed", "verified")
        assert (end["state"], end.get("error_code")) == ("failed", "VERIFICATION_TIMEOUT")
        assert new.requests == 0
        assert len(posts(asked, camera.mac)) == 1


async def test_a_rotation_between_reading_a_password_and_opening_it_harms_no_camera(world, asked, monkeypatch):
    async with by_hand(world) as one:
        loop, open_, rotated = asyncio.get_running_loop(), Vault.open, []

        def opening(self, sealed, *, purpose):
            if not rotated:
                rotated.append(None)  # a rotation opens passwords too
                rotation = one.admin.post(f"{BASE}/secrets/rotate")
                rotated[0] = asyncio.run_coroutine_threadsafe(rotation, loop).result(10)
            return open_(self, sealed, purpose=purpose)

        monkeypatch.setattr(Vault, "open", opening)
        camera = await verifying(one)
        assert [answer.status for answer in rotated] == [200]
        assert [body["password"] for body in posts(asked, camera.mac)] == [PASSWORD]
        assert (await one.devices())[camera.mac]["retry_count"] == 0


# How long a session lives.


async def test_updates_of_a_stranger_keep_no_session_alive_and_are_told_now_and_then(world, worker, clock):
    async with world.daemon(clock=clock, **QUIET) as running, world.broker.client() as client:
        one = Batch(world, running, Hands([]))
        await one.start(config=FAST)
        mac, number, ended = world.mac(1), 0, None
        begun = clock.monotonic()
        while ended is None:
            number += 1
            said = f"1.{number}"
            await world.announce(1, client=client, ssid=HOME, firmware_version=said)

            def heard(said=said):
                found = running.services.registry.get(mac)
                return found and found.claims.firmware_version == said

            await eventually(heard)
            await looked(worker, clock)
            session = await one.session()
            ended = session.get("ending")
            assert clock.monotonic() - begun < 2 * LIFE_S, "it lives on what a stranger says"
        assert ended == "expired"
        told = world.rows(
            "SELECT at, json_extract(payload, '$.firmware_version') FROM events"
            " WHERE type = 'device.discovered' AND mac = ? ORDER BY id",
            mac,
        )
        times = [parse_rfc3339(at) for at, _ in told]
        gaps = [(after - before).total_seconds() for before, after in zip(times, times[1:], strict=False)]
        assert len(gaps) >= 3, "what has changed is told"
        assert len({firmware for _, firmware in told}) == len(told)
        assert min(gaps) >= 10


async def in_line_without_broker(one, worker, clock):
    """A session with one camera in line, which waits for the broker."""
    camera = one.cameras[0]
    await camera.say(ssid=HOME)
    await one.start(config=FAST)

    async def joined():
        await clock.advance(0.5)
        return await one.devices()

    await eventually(joined)
    await one.world.broker.stop()
    await eventually(lambda: not one.running.services.mqtt.connected)
    await put(one, one.id, camera.mac, ip=camera.address, **QUEUED)
    await looked(worker, clock)
    return camera


async def test_a_session_whose_cameras_wait_for_the_broker_lives_on_and_goes_on(world, asked, worker, clock):
    async with by_hand(world, clock=clock) as one:
        camera = await in_line_without_broker(one, worker, clock)
        await pass_(worker, clock, 3 * LIFE_S)
        assert (await one.session())["state"] == "active"
        found = (await one.devices())[camera.mac]
        assert (found["state"], found["progress"], asked) == ("provisioning", 0, [])
        await world.broker.start()

        async def sent_to():
            await clock.advance(0.5)
            return posts(asked, camera.mac)

        await eventually(sent_to, within=20)
        assert (await one.session())["state"] == "active"


async def test_it_waits_for_a_day_and_no_longer(world, asked, worker, clock):
    async with by_hand(world, clock=clock) as one:
        camera = await in_line_without_broker(one, worker, clock)
        clock._move_to(clock.monotonic() + DAY_S - 600)  # in one step: to take each of them lasts
        await looked(worker, clock, times=2)
        assert (await one.session())["state"] == "active"
        await pass_(worker, clock, 660)
        session = await one.session()
        assert (session["state"], session.get("ending")) == ("closed", "expired")
        assert (await one.devices())[camera.mac]["error_code"] == "SESSION_CLOSED"
        assert world.rows("SELECT count(*) FROM session_secrets") == [(0,)]
        assert asked == []


async def test_discarding_a_session_that_is_closing_cuts_off_what_it_waits_for(world):
    async with by_hand(world) as one:
        camera = await verifying(one)
        closing = asyncio.create_task(one.post("close"))
        await eventually(lambda: world.rows("SELECT state FROM sessions") == [("closing",)])
        begun = time.monotonic()
        assert (await one.admin.delete(f"{BASE}/sessions/{one.id}")).status == 204
        session = await one.session()
        assert (session["state"], session.get("ending")) == ("closed", "discarded")
        assert world.rows("SELECT count(*) FROM session_secrets") == [(0,)]
        assert (await one.devices())[camera.mac]["error_code"] == "SESSION_CLOSED"
        assert (await closing).data["session"]["state"] == "closed"
        assert time.monotonic() - begun < 5, "it does not take the time that a closing leaves"


# What is asked twice, or too often.


async def test_a_repeat_for_a_camera_under_way_is_answered_in_a_paused_session_too(world, asked):
    async with by_hand(world) as one:
        camera = await verifying(one)
        assert (await one.post("pause")).status == 200
        for _ in range(3):
            answer = await one.post(f"devices/{camera.mac}/provision")
            assert (answer.status, answer.json.get("data", {}).get("state")) == (202, "verifying"), answer.body
        assert (await one.session())["state"] == "paused"
        assert len(posts(asked, camera.mac)) == 1


async def test_only_so_many_sessions_can_be_open(world):
    async with by_hand(world, 0) as one:
        await one.start()
        body = {"target_ssid": SSID, "target_password": PASSWORD}

        async def open_(number):
            return await one.admin.post(f"{BASE}/batch", json=body | {"network_interface": f"eth{number}"})

        assert [(await open_(number)).status for number in range(1, MAX_OPEN)] == [201] * (MAX_OPEN - 1)
        refused = await open_(MAX_OPEN)
        assert (refused.status, refused.json.get("code")) == (409, "CONFLICT")
        assert world.rows("SELECT count(*) FROM sessions") == [(MAX_OPEN,)]
        assert (await one.post("close")).data["session"]["state"] == "closed"
        assert (await open_(MAX_OPEN)).status == 201


async def test_a_probe_that_is_cut_off_before_its_first_step_leaves_its_place_to_another(clock):
    circuits, begun = Circuits(failures=1, reset_s=10, clock=clock), []

    async def deliver(session, one):
        begun.append(one.mac)

    worker = ProvisioningWorker(
        interface="lo",
        concurrency=4,
        clock=clock,
        database=None,
        sessions=SimpleNamespace(obstacle=lambda: None),
        delivery=SimpleNamespace(run=deliver),
        joining=None,
        record=None,
        circuits=circuits,
    )
    circuits.network.failed(clock.monotonic())
    await clock.advance(11)
    session = SimpleNamespace(id="s-1")
    first, second = (SimpleNamespace(mac=mac) for mac in ("first", "second"))
    await worker._start_some(session, [first, second])
    (probe,) = worker._running.values()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert (begun, worker.under_way) == ([], 0)
    await worker._start_some(session, [second])
    await eventually(lambda: begun == ["second"], within=2)
    assert not worker.circuit_open
