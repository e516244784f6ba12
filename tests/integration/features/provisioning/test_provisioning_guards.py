"""Guards of batch provisioning; each test covers one that was once missing."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from pi_orchestrator.core.clock import parse_rfc3339
from pi_orchestrator.features.devices.model import NEVER
from pi_orchestrator.features.provisioning import store as sessions
from pi_orchestrator.features.provisioning.delivery import PROOF_S
from pi_orchestrator.features.provisioning.intake import REPORT_INTERVAL_S
from pi_orchestrator.features.provisioning.service import MAX_OPEN
from pi_orchestrator.features.provisioning.session_device import SessionDevice, SessionDeviceState, Step
from pi_orchestrator.features.provisioning.worker import ProvisioningWorker
from pi_orchestrator.sandbox.faults import Fault
from pi_orchestrator.storage.vault import Vault
from tests.support.provisioning import (
    BASE,
    FAST,
    HOME,
    NO_AUTO_ONBOARDING,
    PASSWORD,
    SSID,
    Batch,
    ScriptedFleet,
    batch,
    scripted_cameras,
)
from tests.support.rig import ScriptedCamera
from tests.support.waiting import eventually

BRIEF = FAST | {"verification_timeout_seconds": 2}
LONG_TIMEOUT = FAST | {"verification_timeout_seconds": 600}
LIFETIME_S = sum(FAST.values())
DAY_S = 24 * 3600
ELSEWHERE = "eth9"
"""An interface that is not scanned."""


@pytest.fixture
def sent_requests(monkeypatch):
    """Requests to the cameras in order: (MAC, method, body)."""
    answer, received = ScriptedCamera.respond, []

    async def recording_answer(self, request):
        received.append((self.mac, request.method, await request.json() if request.method == "POST" else None))
        return await answer(self, request)

    monkeypatch.setattr(ScriptedCamera, "respond", recording_answer)
    return received


@pytest.fixture
def worker(monkeypatch):
    """`.instance` is the daemon's worker, once it is loaded; `.passes` is the number of its passes."""
    found = SimpleNamespace(instance=None, passes=0)
    load, run_pass = ProvisioningWorker.load, ProvisioningWorker.run_pass

    async def loading(self):
        found.instance = self
        await load(self)

    async def passing(self):
        try:
            return await run_pass(self)
        finally:
            found.passes += 1

    monkeypatch.setattr(ProvisioningWorker, "load", loading)
    monkeypatch.setattr(ProvisioningWorker, "run_pass", passing)
    return found


async def worker_passes(worker, clock=None, *, times=1):
    """Wait for `times` complete passes of the worker that start after this call."""
    goal = worker.passes + 1 + times  # the first may have started before

    async def has_passed():
        if clock:
            await clock.advance(0.5)
        return worker.passes >= goal

    await eventually(has_passed, what="the worker passes")


async def advance(worker, clock, seconds):
    """Advance the clock in steps, with a pass of the worker after each."""
    end = clock.monotonic() + seconds
    while clock.monotonic() < end:
        await clock.advance(5)
        await worker_passes(worker, clock)


async def store_device(setup, session_id, mac, *, ip, **fields):
    """Store a camera of a session."""
    found = SessionDevice(session_id, mac, ip=ip, discovered_at=datetime.now(UTC))
    await setup.running.app.resources.database.write(lambda tx: sessions.put_device(tx, replace(found, **fields)))


QUEUED = {"state": SessionDeviceState.PROVISIONING, "queued": 1}


async def start_elsewhere(setup, ssid):
    """Start a session on an interface that is not scanned; return its id."""
    body = {"network_interface": ELSEWHERE, "target_ssid": ssid, "target_password": PASSWORD, "config": LONG_TIMEOUT}
    answer = await setup.admin.post(f"{BASE}/batch", json=body)
    assert answer.status == 201, answer.body
    return answer.data["session"]["id"]


async def swap_interfaces(setup, other_session):
    """Give the scanned interface to the session of this id, and `ELSEWHERE` to the running one."""
    interface = (await setup.session())["network_interface"]

    async def swap(tx):
        for session_id, name in ((other_session, "unused"), (setup.id, ELSEWHERE), (other_session, interface)):
            await tx.run("UPDATE sessions SET network_interface = ? WHERE id = ?", (name, session_id))

    await setup.running.app.resources.database.write(swap)


async def awaited_camera(setup, *, config=LONG_TIMEOUT):
    """The first camera, after it has accepted its credentials."""
    camera = setup.cameras[0]
    await camera.publish_status(ssid=HOME)
    await setup.start(config=config)
    await setup.wait_for_cameras(1)
    assert (await setup.post(f"devices/{camera.mac}/provision")).status == 202
    await setup.wait_for_state(camera.mac, "verifying")
    return camera


async def return_camera(setup, camera):
    """Let the camera report from the target network; wait until it is verified."""
    camera.body["ssid"] = SSID
    await camera.publish_status(ssid=SSID)
    end = await setup.wait_for_state(camera.mac, "verified", "failed")
    assert end["state"] == "verified", end


def posts(sent_requests, mac):
    """The bodies of the POST requests to this camera."""
    return [body for camera, method, body in sent_requests if (camera, method) == (mac, "POST")]


# One session per camera.


async def test_session_on_unscanned_interface_refuses_requests(rig, sent_requests):
    async with scripted_cameras(rig, 2) as setup:
        fresh, failed = setup.cameras
        setup.id = await start_elsewhere(setup, SSID)
        await store_device(setup, setup.id, fresh.mac, ip=fresh.address)
        fault = {"state": SessionDeviceState.FAILED, "error_code": "DEVICE_TIMEOUT", "error_message": "silent"}
        await store_device(setup, setup.id, failed.mac, ip=failed.address, **fault)
        before = await setup.devices()
        for path in (f"devices/{fresh.mac}/provision", "provision-all", f"devices/{failed.mac}/retry"):
            answer = await setup.post(path, json={})
            assert (answer.status, answer.json.get("code")) == (503, "NETWORK_ERROR"), path
            assert ELSEWHERE in answer.json["error"]["message"]
        assert await setup.devices() == before
        assert sent_requests == []


async def test_session_on_unscanned_interface_starts_nothing(rig, sent_requests, worker):
    async with scripted_cameras(rig, 2) as setup:
        stranded, healthy = setup.cameras
        other_session = await start_elsewhere(setup, "Other-Net")
        await store_device(setup, other_session, stranded.mac, ip=stranded.address, **QUEUED)
        await worker_passes(worker, times=2)
        await healthy.publish_status(ssid=HOME)
        await setup.start(config=LONG_TIMEOUT)
        await setup.wait_for_cameras(1)
        await setup.post("provision-all", json={})
        await setup.wait_for_state(healthy.mac, "verifying")
        await worker_passes(worker, times=2)
        assert {mac for mac, _, _ in sent_requests} == {healthy.mac}
        setup.id = other_session
        found = (await setup.devices())[stranded.mac]
        assert (found["state"], found["progress"]) == ("provisioning", 0)


async def test_camera_in_two_queues_has_one_task(rig, sent_requests, worker):
    async with scripted_cameras(rig) as setup:
        camera = setup.cameras[0]
        await camera.publish_status(ssid=HOME)
        await setup.start(config=LONG_TIMEOUT)
        await setup.wait_for_cameras(1)
        camera.answer_now.clear()
        await setup.post(f"devices/{camera.mac}/provision")
        await eventually(lambda: camera.requests == 1)
        other_session = await start_elsewhere(setup, "Other-Net")
        await store_device(setup, other_session, camera.mac, ip=camera.address, **QUEUED)
        # After this, the guard for interfaces that are not scanned does not apply any more.
        await swap_interfaces(setup, other_session)
        await worker_passes(worker, times=2)
        assert (camera.requests, worker.instance.under_way) == (1, 1)
        reboot = await setup.running.api.post(f"/api/v1/cameras/{camera.mac}/reboot")
        assert (reboot.status, reboot.json["code"]) == (409, "DEVICE_ALREADY_PROVISIONING")
        assert (await setup.devices())[camera.mac]["progress"] == Step.IDENTIFYING
        assert (await setup.post(f"devices/{camera.mac}/skip")).status == 200
        await eventually(lambda: camera.requests == 2, what="the other session has started it")
        camera.answer_now.set()
        setup.id = other_session
        await setup.wait_for_state(camera.mac, "verifying")
        assert [body["ssid"] for body in posts(sent_requests, camera.mac)] == ["Other-Net"]


# Guards before credentials are sent.


async def test_old_identity_proof_is_repeated(rig, sent_requests):
    async with scripted_cameras(rig) as setup:
        camera = setup.cameras[0]
        await camera.publish_status(ssid=HOME)
        await setup.start(config=LONG_TIMEOUT)
        await setup.wait_for_cameras(1)
        camera.answer_now.clear()
        await setup.post(f"devices/{camera.mac}/provision")
        await eventually(lambda: camera.requests == 1)
        with rig.connect(isolation_level=None, check_same_thread=False) as other:
            await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
            camera.answer_now.set()
            await eventually(lambda: camera.answered == 1)
            await asyncio.sleep(PROOF_S + 0.3)  # longer than a proof is valid
            other.execute("ROLLBACK")
        await setup.wait_for_state(camera.mac, "verifying")
        methods = [method for _, method, _ in sent_requests]
        assert methods[:2] == ["GET", "GET"], "its identity is verified again"
        assert methods[-2:] == ["GET", "POST"]
        assert methods.count("POST") == 1
        progress_events = rig.rows(
            "SELECT json_extract(payload, '$.progress') FROM events WHERE type = 'device.state_changed' ORDER BY id"
        )
        # Queued, identifying, sending; not sent, as the proof was too old; then identifying and sending again.
        assert [progress for (progress,) in progress_events][:6] == [0, 10, 30, 10, 10, 30]
        await return_camera(setup, camera)


async def test_removed_entry_stops_camera_unless_requested_as_unlisted(rig, sent_requests):
    async with scripted_cameras(rig, 2, provisioning={"allow_unlisted": True}) as setup:
        removed, unlisted = setup.cameras
        assert (await setup.admin.delete(f"{BASE}/allowlist/{unlisted.mac}")).status == 204
        await setup.fleet.publish_status()
        await setup.start(config=LONG_TIMEOUT)
        await setup.wait_for_cameras(2)
        for camera in setup.cameras:
            camera.answer_now.clear()
        assert (await setup.post("provision-all", json={"only_allowlisted": False})).data["initiated_count"] == 2
        await eventually(lambda: all(camera.requests == 1 for camera in setup.cameras))
        assert (await setup.admin.delete(f"{BASE}/allowlist/{removed.mac}")).status == 204
        for camera in setup.cameras:
            camera.answer_now.set()
        assert (await setup.wait_for_state(removed.mac, "failed", "verifying")).get(
            "error_code"
        ) == "DEVICE_NOT_IN_ALLOWLIST"
        await setup.wait_for_state(unlisted.mac, "verifying")
        assert posts(sent_requests, removed.mac) == []
        assert [body["ssid"] for body in posts(sent_requests, unlisted.mac)] == [SSID]
        await return_camera(setup, unlisted)


async def test_camera_requested_as_unlisted_can_be_retried(rig):
    settings = {"provisioning": {"allow_unlisted": True}}
    async with batch(rig, 2, allowed=False, faults=["provision-reject"], settings=settings) as setup:
        (rejecting,) = setup.fleet.with_fault(Fault.PROVISION_REJECT)
        (other,) = setup.fleet.with_fault(None)
        await setup.start()
        await setup.wait_for_cameras(2)
        alone = await setup.post(f"devices/{other.mac}/provision")
        assert (alone.status, alone.json["code"]) == (403, "DEVICE_NOT_IN_ALLOWLIST")
        assert (await setup.post("provision-all", json={"only_allowlisted": False})).data["initiated_count"] == 2
        assert (await setup.wait_for_state(rejecting.mac, "failed"))["error_code"] == "DEVICE_REJECTED"
        assert setup.running.app.devices.registry.get(rejecting.mac).restart_expected_until == NEVER
        assert (await setup.post(f"devices/{rejecting.mac}/retry")).status == 202
        await setup.wait_for_state(other.mac, "verified")


@pytest.mark.parametrize("ssid", [HOME, None], ids=["named", "unnamed"])
async def test_claims_before_the_send_are_no_proof(rig, sent_requests, ssid):
    async with scripted_cameras(rig, ssid=ssid) as setup, contextlib.AsyncExitStack() as stack:
        camera = setup.cameras[0]
        new = await stack.enter_async_context(rig.camera(1, address=rig.address(200), ssid=ssid))
        await camera.publish_status(ssid=HOME)
        await setup.start(config=BRIEF)
        await setup.wait_for_cameras(1)
        camera.answer_now.clear()
        await setup.post(f"devices/{camera.mac}/provision")
        await camera.request_received.wait()
        await camera.publish_status(ssid=SSID, ip=new.address)
        await eventually(lambda: setup.running.app.devices.registry.get(camera.mac).claims.ip == new.address)
        camera.answer_now.set()
        await setup.wait_for_state(camera.mac, "verifying")
        for ip in (None, camera.address, None):
            await camera.publish_status(ip=ip)
        end = await setup.wait_for_state(camera.mac, "failed", "verified")
        assert (end["state"], end.get("error_code")) == ("failed", "VERIFICATION_TIMEOUT")
        assert new.requests == 0
        assert len(posts(sent_requests, camera.mac)) == 1


async def test_key_rotation_during_decryption_is_harmless(rig, sent_requests, monkeypatch):
    async with scripted_cameras(rig) as setup:
        loop, open_, rotated = asyncio.get_running_loop(), Vault.open, []

        def opening(self, sealed, *, purpose):
            if not rotated:
                rotated.append(None)  # a rotation opens passwords too
                rotation = setup.admin.post(f"{BASE}/secrets/rotate")
                rotated[0] = asyncio.run_coroutine_threadsafe(rotation, loop).result(10)
            return open_(self, sealed, purpose=purpose)

        monkeypatch.setattr(Vault, "open", opening)
        camera = await awaited_camera(setup)
        assert [answer.status for answer in rotated] == [200]
        assert [body["password"] for body in posts(sent_requests, camera.mac)] == [PASSWORD]
        assert (await setup.devices())[camera.mac]["retry_count"] == 0


# Lifetime of a session.


async def test_updates_of_unlisted_device_do_not_postpone_expiry(rig, worker, clock):
    async with rig.daemon(clock=clock, **NO_AUTO_ONBOARDING) as running, rig.broker.client() as client:
        setup = Batch(rig, running, ScriptedFleet([]))
        await setup.start(config=FAST)
        mac, number, ended = rig.mac(1), 0, None
        started_at = clock.monotonic()
        while ended is None:
            number += 1
            version = f"1.{number}"
            await rig.announce(1, client=client, ssid=HOME, firmware_version=version)

            def is_received(version=version):
                found = running.app.devices.registry.get(mac)
                return found and found.claims.firmware_version == version

            await eventually(is_received)
            await worker_passes(worker, clock)
            session = await setup.session()
            ended = session.get("ending")
            assert clock.monotonic() - started_at < 2 * LIFETIME_S, "an unlisted device keeps the session open"
        assert ended == "expired"
        updates = rig.rows(
            "SELECT at, json_extract(payload, '$.firmware_version') FROM events"
            " WHERE type = 'device.discovered' AND mac = ? ORDER BY id",
            mac,
        )
        times = [parse_rfc3339(at) for at, _ in updates]
        gaps = [(after - before).total_seconds() for before, after in zip(times, times[1:], strict=False)]
        assert len(gaps) >= 3, "changes are published"
        assert len({firmware for _, firmware in updates}) == len(updates)
        assert min(gaps) >= REPORT_INTERVAL_S


async def queued_without_broker(setup, worker, clock):
    """Start a session whose only camera is queued and waits for the broker; return the camera."""
    camera = setup.cameras[0]
    await camera.publish_status(ssid=HOME)
    await setup.start(config=FAST)

    async def joined():
        await clock.advance(0.5)
        return await setup.devices()

    await eventually(joined)
    await setup.rig.broker.stop()
    await eventually(lambda: not setup.running.app.resources.mqtt.connected)
    await store_device(setup, setup.id, camera.mac, ip=camera.address, **QUEUED)
    await worker_passes(worker, clock)
    return camera


async def test_session_waiting_for_broker_stays_open(rig, sent_requests, worker, clock):
    async with scripted_cameras(rig, clock=clock) as setup:
        camera = await queued_without_broker(setup, worker, clock)
        await advance(worker, clock, 3 * LIFETIME_S)
        assert (await setup.session())["state"] == "active"
        found = (await setup.devices())[camera.mac]
        assert (found["state"], found["progress"], sent_requests) == ("provisioning", 0, [])
        await rig.broker.start()

        async def connected():
            await clock.advance(0.5)
            return setup.running.app.resources.mqtt.connected

        await eventually(connected)
        for _ in range(5):  # the clock may pass the validity of the proof during an attempt
            await worker_passes(worker, clock)
            with contextlib.suppress(AssertionError):
                await eventually(lambda: posts(sent_requests, camera.mac), within=5)
                break
        assert posts(sent_requests, camera.mac)
        assert (await setup.session())["state"] == "active"


async def test_session_waiting_for_broker_expires_after_a_day(rig, sent_requests, worker, clock):
    async with scripted_cameras(rig, clock=clock) as setup:
        camera = await queued_without_broker(setup, worker, clock)
        clock.skip(DAY_S - 600)  # in one step, which is faster
        await worker_passes(worker, clock, times=2)
        assert (await setup.session())["state"] == "active"
        await advance(worker, clock, 660)
        session = await setup.session()
        assert (session["state"], session.get("ending")) == ("closed", "expired")
        assert (await setup.devices())[camera.mac]["error_code"] == "SESSION_CLOSED"
        assert rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]
        assert sent_requests == []


async def test_discard_ends_a_closing_session(rig):
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup)
        closing = asyncio.create_task(setup.post("close"))
        await eventually(lambda: rig.rows("SELECT state FROM sessions") == [("closing",)])
        assert (await setup.admin.delete(f"{BASE}/sessions/{setup.id}")).status == 204
        session = await setup.session()
        assert (session["state"], session.get("ending")) == ("closed", "discarded")
        assert rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]
        assert (await setup.devices())[camera.mac]["error_code"] == "SESSION_CLOSED"
        assert (await closing).data["session"]["state"] == "closed"


# Repeats and limits.


async def test_repeat_in_paused_session_is_answered(rig, sent_requests):
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup)
        assert (await setup.post("pause")).status == 200
        for _ in range(3):
            answer = await setup.post(f"devices/{camera.mac}/provision")
            assert (answer.status, answer.json.get("data", {}).get("state")) == (202, "verifying"), answer.body
        assert (await setup.session())["state"] == "paused"
        assert len(posts(sent_requests, camera.mac)) == 1


async def test_open_sessions_are_limited(rig):
    async with scripted_cameras(rig, 0) as setup:
        await setup.start()
        body = {"target_ssid": SSID, "target_password": PASSWORD}

        async def open_(number):
            return await setup.admin.post(f"{BASE}/batch", json=body | {"network_interface": f"eth{number}"})

        assert [(await open_(number)).status for number in range(1, MAX_OPEN)] == [201] * (MAX_OPEN - 1)
        refused = await open_(MAX_OPEN)
        assert (refused.status, refused.json.get("code")) == (409, "CONFLICT")
        assert rig.rows("SELECT count(*) FROM sessions") == [(MAX_OPEN,)]
        assert (await setup.post("close")).data["session"]["state"] == "closed"
        assert (await open_(MAX_OPEN)).status == 201
