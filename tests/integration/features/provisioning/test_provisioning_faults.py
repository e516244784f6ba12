"""Faults of cameras during provisioning, and false evidence of their return."""

import asyncio

import pytest

from pi_orchestrator.core.error_codes import VerificationCode
from tests.support.provisioning import (
    BASE,
    FAST,
    HOME,
    SSID,
    assert_secret_absent,
    batch,
    record_requests,
    scripted_cameras,
    set_breaker,
)
from tests.support.waiting import eventually

BRIEF = FAST | {"provisioning_timeout_seconds": 5, "verification_timeout_seconds": 2}
SHORT_TIMEOUT = {"provisioning": {"request_timeout_s": 0.5}}
"""Requests time out early."""


async def request_first(setup, *, config=None):
    """Start a session and request that its first camera is provisioned; return the camera."""
    mac = setup.cameras[0].mac
    await setup.start(config=config or BRIEF)
    await setup.wait_for_cameras(1)
    assert (await setup.post(f"devices/{mac}/provision")).status == 202
    return setup.cameras[0]


@pytest.mark.parametrize(
    "fault, code, accepted",
    [
        ("provision-reject", "DEVICE_REJECTED", 0),
        ("provision-echo", "DEVICE_REJECTED", 0),
        ("provision-500", "DEVICE_UNREACHABLE", 0),
        ("provision-hang", "DEVICE_TIMEOUT", 0),
        ("provision-vanish", "VERIFICATION_TIMEOUT", 1),
        ("wrong-password", "WRONG_NETWORK", 1),
        ("wrong-mac", "MAC_MISMATCH", 0),
        ("no-http", "DEVICE_UNREACHABLE", 0),
        ("silent", "DEVICE_TIMEOUT", 0),
        ("bad-json", "VERIFY_BAD_BODY", 0),
        ("http-500", "VERIFY_BAD_STATUS", 0),
    ],
)
async def test_permanent_fault_has_its_code(rig, tmp_path, capfd, monkeypatch, fault, code, accepted):
    set_breaker(monkeypatch, failures=2)
    async with batch(rig, 1, faults=[fault], interval=0.2, settings=SHORT_TIMEOUT) as setup:
        sent_requests = record_requests(setup.cameras)
        camera = await request_first(setup, config=BRIEF | {"verification_timeout_seconds": 6})
        end = await setup.wait_for_state(camera.mac, "failed", "verified")
        assert (end["state"], end["error_code"]) == ("failed", code), end
        assert len(camera.provisioned) == accepted
        assert len(set(sent_requests[camera.mac])) <= 1
        session = await setup.session()
        assert (session["failed_count"], session["provisioned_count"]) == (1, 0)
        assert rig.rows("SELECT used_at FROM allowlist") == [(None,)]
        assert rig.rows("SELECT count(*) FROM cameras") == [(0,)]
    assert_secret_absent(tmp_path)
    assert "correct horse" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("fault, requests", [("provision-flaky", 2), ("answer-lost", 1), ("provision-moved", 1)])
async def test_tolerable_fault_ends_verified(rig, monkeypatch, fault, requests):
    set_breaker(monkeypatch, failures=2)
    async with batch(rig, 1, faults=[fault], settings=SHORT_TIMEOUT, interval=0.2) as setup:
        sent_requests = record_requests(setup.cameras)
        first = str(setup.cameras[0].address)
        camera = await request_first(setup, config=FAST)
        end = await setup.wait_for_state(camera.mac, "verified", "failed")
        assert end["state"] == "verified", end
        assert (len(camera.provisioned), camera.provision_requests) == (1, requests)
        assert len(set(sent_requests[camera.mac])) == 1
        assert end["ip"] == str(camera.address)
        assert (end["ip"] != first) == (fault == "provision-moved")
        assert not {"error_code", "error_message"} & end.keys()


async def test_rebooting_camera_is_verified_or_times_out(rig):
    async with batch(rig, 1, faults=["provision-boot-loop"], flap_s=0.4) as setup:
        camera = await request_first(setup)
        end = await setup.wait_for_state(camera.mac, "verified", "failed")
        assert camera.ssid == SSID
        assert end["state"] == "verified" or end["error_code"] == "VERIFICATION_TIMEOUT"


async def test_messages_alone_do_not_verify(rig):
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup)
        camera.answer_now.clear()
        camera.body["ssid"] = SSID
        for _ in range(3):
            await camera.publish_status("OFFLINE")
            await camera.publish_status(ssid=SSID, uptime_ms=100)
        end = await setup.wait_for_state(camera.mac, "verified", "failed")
        assert (end["state"], end["error_code"], end["progress"]) == ("failed", "VERIFICATION_TIMEOUT", 85)


async def test_mixed_faults_spare_healthy_cameras(rig, monkeypatch):
    set_breaker(monkeypatch, failures=3, reset_s=0.2)
    faults = ["provision-reject", "provision-hang", "provision-vanish", "provision-moved", "wrong-password"]
    faults += ["answer-lost", "provision-500", "provision-flaky", "provision-echo", "wrong-mac", "silent", "no-http"]
    # Healthy cameras must answer and return in time, also on a slow machine.
    settings = {"provisioning": {"request_timeout_s": 1.5}}
    async with batch(rig, 16, faults=faults, settings=settings, interval=0.5) as setup:
        await setup.start(config=BRIEF | {"provisioning_timeout_seconds": 10, "verification_timeout_seconds": 5})
        await setup.wait_for_cameras(16)
        await setup.post("provision-all", json={})
        session = await setup.wait_until_done(within=120)
        assert (session["verified_count"], session["failed_count"]) == (7, 9)
        found = await setup.devices()
        good = {None, "provision-moved", "answer-lost", "provision-flaky"}
        for camera in setup.cameras:
            assert (found[camera.mac]["state"] == "verified") == (camera.fault in good), camera.fault
            assert len(camera.provisioned) <= 1


async def test_wrong_password_can_be_retried(rig):
    async with batch(
        rig, 1, faults=["wrong-password"], interval=0.2, settings={"provisioning": {"max_retries": 2}}
    ) as setup:
        sent_requests = record_requests(setup.cameras)
        camera = await request_first(setup, config=FAST)
        assert (await setup.wait_for_state(camera.mac, "failed"))["error_code"] == "WRONG_NETWORK"
        camera.fault = None
        assert (await setup.post(f"devices/{camera.mac}/retry")).status == 202
        end = await setup.wait_for_state(camera.mac, "verified", "failed")
        assert (end["state"], end["retry_count"]) == ("verified", 1)
        assert len(camera.provisioned) == 2
        assert len(set(sent_requests[camera.mac])) == 2, "a retry has a new request id"


async def test_retries_are_limited(rig):
    async with batch(rig, 1, faults=["provision-reject"], settings={"provisioning": {"max_retries": 2}}) as setup:
        camera = await request_first(setup)
        for count in range(3):
            end = await setup.wait_for_state(camera.mac, "failed")
            assert (end["error_code"], end["retry_count"]) == ("DEVICE_REJECTED", count)
            answer = await setup.post(f"devices/{camera.mac}/retry")
            assert answer.status == (202 if count < 2 else 409)
        assert answer.json["error"]["code"] == "MAX_RETRIES_EXCEEDED"
        assert camera.provision_requests == 3


# Guards before credentials are sent.


async def test_delisted_camera_gets_nothing(rig):
    async with scripted_cameras(rig) as setup:
        camera = setup.cameras[0]
        await camera.publish_status(ssid=HOME)
        camera.answer_now.clear()
        await request_first(setup)
        await camera.request_received.wait()
        assert (await setup.admin.delete(f"{BASE}/allowlist/{camera.mac}")).status == 204
        camera.answer_now.set()
        end = await setup.wait_for_state(camera.mac, "failed")
        assert (end["error_code"], end["in_allowlist"]) == ("DEVICE_NOT_IN_ALLOWLIST", False)
        assert camera.requests == 1, "one request to identify, none to provision"


async def test_claimed_address_of_another_camera_gets_nothing(rig):
    async with scripted_cameras(rig, 2) as setup:
        camera, other = setup.cameras
        await camera.publish_status(ssid=HOME)
        await setup.start(config=BRIEF)
        await setup.wait_for_cameras(1)
        other.answer_now.clear()
        await camera.publish_status(ssid=HOME, ip=other.address)
        await eventually(lambda: setup.running.app.cameras.presence.messages["live"] >= 2)
        await setup.post(f"devices/{camera.mac}/provision")
        await other.request_received.wait()
        other.answer_now.set()
        assert (await setup.wait_for_state(camera.mac, "failed"))["error_code"] == VerificationCode.MAC_MISMATCH
        assert (camera.requests, other.requests) == (0, 1)


async def test_address_outside_network_gets_nothing(rig):
    async with scripted_cameras(rig) as setup:
        camera = setup.cameras[0]
        await camera.publish_status(ssid=HOME)
        await setup.start(config=BRIEF)
        await setup.wait_for_cameras(1)
        await camera.publish_status(ssid=HOME, ip="192.0.2.7")
        await eventually(lambda: setup.running.app.devices.registry.get(camera.mac).claims.ip == "192.0.2.7")
        await setup.post(f"devices/{camera.mac}/provision")
        end = await setup.wait_for_state(camera.mac, "failed")
        assert (end["error_code"], camera.requests) == (VerificationCode.SUBNET_NOT_ALLOWED, 0)


# Evidence of the return.


async def awaited_camera(setup, *, config=None):
    """The first camera, after it has accepted its credentials."""
    camera = setup.cameras[0]
    await camera.publish_status(ssid=HOME)
    await request_first(setup, config=config)
    await setup.wait_for_state(camera.mac, "verifying")
    assert camera.requests == 2, "one request to identify, one to provision"
    return camera


async def test_message_must_name_target_network(rig):
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup)
        camera.body["ssid"] = SSID  # a request would now get the target network
        for _ in range(5):
            await camera.publish_status(ssid=HOME, uptime_ms=3_600_000)
        await setup.running.wait_until_processed(rig)
        await asyncio.sleep(0.3)  # several checks
        assert (await setup.devices())[camera.mac]["progress"] == 60
        assert camera.requests == 2
        await camera.publish_status(ssid=SSID)
        assert (await setup.wait_for_state(camera.mac, "verified"))["progress"] == 100


async def test_message_before_send_is_no_proof(rig):
    async with scripted_cameras(rig) as setup:
        camera = setup.cameras[0]
        await camera.publish_status(ssid=HOME)
        camera.answer_now.clear()
        await request_first(setup)
        await camera.request_received.wait()
        camera.body["ssid"] = SSID
        await camera.publish_status(ssid=SSID)
        await eventually(lambda: setup.running.app.devices.registry.get(camera.mac).claims.ssid == SSID)
        camera.answer_now.set()
        end = await setup.wait_for_state(camera.mac, "failed", "verified")
        assert (end["state"], end["error_code"], camera.requests) == ("failed", "VERIFICATION_TIMEOUT", 2)


async def test_retained_message_is_no_proof(rig):
    topic = f"camera/status/{rig.mac(1)}"
    message = {"mac": rig.mac(1), "ip": rig.address(1), "ssid": SSID, "state": "ONLINE"}
    await rig.publish(topic, message, retain=True)
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup)
        camera.body["ssid"] = SSID
        app = setup.running.app
        before = app.cameras.presence.messages["retained"]
        async with rig.broker.client(identifier=app.resources.mqtt.client_id):
            # A client with the same id: the broker disconnects the daemon and resends retained messages on reconnect.
            await eventually(lambda: app.cameras.presence.messages["retained"] > before)
        end = await setup.wait_for_state(camera.mac, "failed", "verified")
        assert (end["state"], end["error_code"], camera.requests) == ("failed", "VERIFICATION_TIMEOUT", 2)


async def test_forged_wrong_network_is_checked_with_the_camera(rig):
    """Any client can publish a message in the name of a camera; the camera itself is on the target network."""
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup, config=FAST)
        camera.body["ssid"] = SSID
        await rig.publish(f"camera/status/{camera.mac}", {"mac": camera.mac, "ssid": "EvilNet", "uptime": 0})
        end = await setup.wait_for_state(camera.mac, "failed", "verified")
        assert (end["state"], end.get("error_code")) == ("verified", None)


async def test_unconfirmed_wrong_network_is_reported_at_the_end(rig):
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup, config=FAST)
        camera.answer_now.clear()
        await rig.publish(f"camera/status/{camera.mac}", {"mac": camera.mac, "ssid": "EvilNet", "uptime": 0})
        end = await setup.wait_for_state(camera.mac, "failed", "verified")
        assert (end["state"], end["error_code"]) == ("failed", "VERIFICATION_TIMEOUT")
        assert "'EvilNet', but the camera did not confirm it" in end["error_message"]


async def test_second_topic_cannot_fail_a_device(rig):
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup)
        camera.body["ssid"] = SSID
        await rig.publish("camera/status/evil-1", {"mac": camera.mac, "ssid": "EvilNet", "uptime": 0})
        await eventually(lambda: setup.running.app.devices.registry.names.rivals(camera.mac))
        assert setup.running.app.devices.registry.get(camera.mac).claims.ssid == HOME
        await camera.publish_status(ssid=SSID)
        end = await setup.wait_for_state(camera.mac, "failed", "verified")
        assert end["state"] == "verified"


async def test_contradicting_answer_is_not_verified(rig):
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup)
        camera.body["ssid"] = HOME  # the camera's own answer contradicts the message
        await camera.publish_status(ssid=SSID)
        end = await setup.wait_for_state(camera.mac, "failed")
        assert end["error_code"] == "VERIFICATION_TIMEOUT"
        assert HOME in end["error_message"]


async def test_answer_of_another_camera_is_no_proof(rig):
    async with scripted_cameras(rig, 2) as setup:
        camera = await awaited_camera(setup)
        await camera.publish_status(ssid=SSID, ip=setup.cameras[1].address)
        end = await setup.wait_for_state(camera.mac, "failed")
        assert end["error_code"] == "VERIFICATION_TIMEOUT"
        assert setup.cameras[1].mac in end["error_message"]


@pytest.mark.parametrize("address", ["192.0.2.7", "127.0.0.1", "224.0.0.1", "0.0.0.0"])
async def test_outside_return_address_is_ignored(rig, address):
    async with scripted_cameras(rig) as setup:
        camera = await awaited_camera(setup)
        await camera.publish_status(ssid=SSID, ip=address)
        end = await setup.wait_for_state(camera.mac, "failed")
        assert end["error_code"] == "VERIFICATION_TIMEOUT"
        assert "outside provisioning.target_subnets" in end["error_message"]


async def test_unnamed_network_needs_new_address(rig):
    async with scripted_cameras(rig, ssid=None) as setup:
        camera = setup.cameras[0]
        await camera.publish_status()
        await request_first(setup, config=FAST)
        await setup.wait_for_state(camera.mac, "verifying")
        await camera.publish_status()
        await eventually(lambda: camera.requests >= 3, what="the network of the camera is requested")
        await asyncio.sleep(0.2)
        assert (await setup.devices())[camera.mac]["state"] == "verifying"
        async with rig.camera(1, address=rig.address(200), ssid=None) as moved:
            await moved.publish_status()
            end = await setup.wait_for_state(camera.mac, "verified", "failed")
        assert (end["state"], end["ip"]) == ("verified", moved.address)
