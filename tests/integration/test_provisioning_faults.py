"""Every fault of a camera on its way to another network, and every lie about having arrived there."""

import asyncio

import pytest

from pi_orchestrator.domain.onboarding import Code
from tests.support.provisioning import BASE, FAST, HOME, SSID, assert_nowhere, batch, by_hand, write_down
from tests.support.waiting import eventually

BRIEF = FAST | {"provisioning_timeout_seconds": 5, "verification_timeout_seconds": 2}
IMPATIENT = {"provisioning": {"request_timeout_s": 0.5, "breaker_failures": 2}}
"""A request is given up soon, and a camera after two failures."""


async def provisioned_alone(one, *, config=None):
    """A session with the first camera, asked for."""
    mac = one.cameras[0].mac
    await one.start(config=config or BRIEF)
    await one.joined(1)
    assert (await one.post(f"devices/{mac}/provision")).status == 202
    return one.cameras[0]


@pytest.mark.parametrize(
    "fault, code, changes",
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
async def test_a_fault_that_cannot_end_well_has_its_own_code(world, tmp_path, capfd, fault, code, changes):
    async with batch(world, 1, faults=[fault], interval=0.2, settings=IMPATIENT) as one:
        asked = write_down(one.cameras)
        camera = await provisioned_alone(one, config=BRIEF | {"verification_timeout_seconds": 6})
        end = await one.until(camera.mac, "failed", "verified")
        assert (end["state"], end["error_code"]) == ("failed", code), end
        assert len(camera.provisioned) == changes
        assert len(set(asked[camera.mac])) <= 1
        session = await one.session()
        assert (session["failed_count"], session["provisioned_count"]) == (1, 0)
        assert world.rows("SELECT used_at FROM allowlist") == [(None,)]
        assert world.rows("SELECT count(*) FROM cameras") == [(0,)]
    assert_nowhere(tmp_path)
    assert "correct horse" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("fault, requests", [("provision-flaky", 2), ("answer-lost", 1), ("provision-moved", 1)])
async def test_a_fault_that_can_be_lived_with_ends_verified_with_one_change(world, fault, requests):
    async with batch(world, 1, faults=[fault], settings=IMPATIENT, interval=0.2) as one:
        asked = write_down(one.cameras)
        first = str(one.cameras[0].address)
        camera = await provisioned_alone(one, config=FAST)
        end = await one.until(camera.mac, "verified", "failed")
        assert end["state"] == "verified", end
        assert (len(camera.provisioned), camera.provision_requests) == (1, requests)
        assert len(set(asked[camera.mac])) == 1
        assert end["ip"] == str(camera.address)
        assert (end["ip"] != first) == (fault == "provision-moved")
        assert not {"error_code", "error_message"} & end.keys()


async def test_one_that_reboots_for_ever_is_verified_only_where_it_could_be_read(world):
    async with batch(world, 1, faults=["boot-loop"], flap_s=0.4) as one:
        camera = await provisioned_alone(one)
        end = await one.until(camera.mac, "verified", "failed")
        assert camera.ssid == SSID
        assert end["state"] == "verified" or end["error_code"] == "VERIFICATION_TIMEOUT"


async def test_births_from_the_target_network_alone_verify_nobody(world):
    async with by_hand(world) as one:
        camera = await taken(one)
        camera.answer_now.clear()
        camera.body["ssid"] = SSID
        for _ in range(3):
            await camera.say("OFFLINE")
            await camera.say(ssid=SSID, uptime_ms=100)
        end = await one.until(camera.mac, "verified", "failed")
        assert (end["state"], end["error_code"], end["progress"]) == ("failed", "VERIFICATION_TIMEOUT", 85)


async def test_a_box_of_every_fault_at_once_comes_to_its_end_and_the_healthy_are_not_kept_from_theirs(world):
    faults = ["provision-reject", "provision-hang", "provision-vanish", "provision-moved", "wrong-password"]
    faults += ["answer-lost", "provision-500", "provision-flaky", "provision-echo", "wrong-mac", "silent", "no-http"]
    settings = {"provisioning": {"request_timeout_s": 0.5, "breaker_failures": 3, "breaker_reset_s": 0.2}}
    async with batch(world, 16, faults=faults, settings=settings, interval=0.5) as one:
        await one.start(config=BRIEF)
        await one.joined(16)
        await one.post("provision-all", json={})
        session = await one.until_done(within=50)
        assert (session["verified_count"], session["failed_count"]) == (7, 9)
        found = await one.devices()
        good = {None, "provision-moved", "answer-lost", "provision-flaky"}
        for camera in one.cameras:
            assert (found[camera.mac]["state"] == "verified") == (camera.fault in good), camera.fault
            assert len(camera.provisioned) <= 1


async def test_a_wrong_password_can_be_retried_and_too_many_retries_are_refused(world):
    async with batch(
        world, 1, faults=["wrong-password"], interval=0.2, settings={"provisioning": {"max_retries": 2}}
    ) as one:
        asked = write_down(one.cameras)
        camera = await provisioned_alone(one, config=FAST)
        assert (await one.until(camera.mac, "failed"))["error_code"] == "WRONG_NETWORK"
        camera.fault = None
        assert (await one.post(f"devices/{camera.mac}/retry")).status == 202
        end = await one.until(camera.mac, "verified", "failed")
        assert (end["state"], end["retry_count"]) == ("verified", 1)
        assert len(camera.provisioned) == 2
        assert len(set(asked[camera.mac])) == 2, "what is asked anew has a new id"


async def test_retries_come_to_an_end(world):
    async with batch(world, 1, faults=["provision-reject"], settings={"provisioning": {"max_retries": 2}}) as one:
        camera = await provisioned_alone(one)
        for count in range(3):
            end = await one.until(camera.mac, "failed")
            assert (end["error_code"], end["retry_count"]) == ("DEVICE_REJECTED", count)
            answer = await one.post(f"devices/{camera.mac}/retry")
            assert answer.status == (202 if count < 2 else 409)
        assert answer.json["error"]["code"] == "MAX_RETRIES_EXCEEDED"
        assert camera.provision_requests == 3


# Who is sent anything.


async def test_one_that_leaves_the_allowlist_while_it_is_identified_is_sent_nothing(world):
    async with by_hand(world) as one:
        camera = one.cameras[0]
        await camera.say(ssid=HOME)
        camera.answer_now.clear()
        await provisioned_alone(one)
        await camera.asked.wait()
        assert (await one.admin.delete(f"{BASE}/allowlist/{camera.mac}")).status == 204
        camera.answer_now.set()
        end = await one.until(camera.mac, "failed")
        assert (end["error_code"], end["in_allowlist"]) == ("DEVICE_NOT_IN_ALLOWLIST", False)
        assert camera.requests == 1, "it was asked who it is, and that was all"


async def test_one_that_says_it_is_elsewhere_is_sent_nothing(world):
    async with by_hand(world, 2) as one:
        camera, other = one.cameras
        await camera.say(ssid=HOME)
        await one.start(config=BRIEF)
        await one.joined(1)
        other.answer_now.clear()
        await camera.say(ssid=HOME, ip=other.address)
        await eventually(lambda: one.running.services.presence.messages["live"] >= 2)
        await one.post(f"devices/{camera.mac}/provision")
        await other.asked.wait()
        other.answer_now.set()
        assert (await one.until(camera.mac, "failed"))["error_code"] == Code.MAC_MISMATCH
        assert (camera.requests, other.requests) == (0, 1)


async def test_credentials_leave_for_no_address_outside_the_camera_network(world):
    async with by_hand(world) as one:
        camera = one.cameras[0]
        await camera.say(ssid=HOME)
        await one.start(config=BRIEF)
        await one.joined(1)
        await camera.say(ssid=HOME, ip="192.0.2.7")
        await eventually(lambda: one.running.services.registry.get(camera.mac).claims.ip == "192.0.2.7")
        await one.post(f"devices/{camera.mac}/provision")
        end = await one.until(camera.mac, "failed")
        assert (end["error_code"], camera.requests) == (Code.SUBNET_NOT_ALLOWED, 0)


# Who has arrived.


async def taken(one, *, config=None):
    """A camera that the test plays has accepted its credentials, and is awaited."""
    camera = one.cameras[0]
    await camera.say(ssid=HOME)
    await provisioned_alone(one, config=config)
    await one.until(camera.mac, "verifying")
    assert camera.requests == 2, "it was asked who it is, and sent to"
    return camera


async def test_a_live_word_from_the_old_network_is_no_proof_and_one_from_the_target_is(world):
    async with by_hand(world) as one:
        camera = await taken(one)
        camera.body["ssid"] = SSID  # whoever asked it now would believe it
        for _ in range(5):
            await camera.say(ssid=HOME, uptime_ms=3_600_000)
        await one.running.considered(world)
        await asyncio.sleep(0.3)  # several looks
        assert (await one.devices())[camera.mac]["progress"] == 60
        assert camera.requests == 2
        await camera.say(ssid=SSID)
        assert (await one.until(camera.mac, "verified"))["progress"] == 100


async def test_a_word_from_before_the_credentials_left_is_no_proof(world):
    async with by_hand(world) as one:
        camera = one.cameras[0]
        await camera.say(ssid=HOME)
        camera.answer_now.clear()
        await provisioned_alone(one)
        await camera.asked.wait()
        camera.body["ssid"] = SSID
        await camera.say(ssid=SSID)
        await eventually(lambda: one.running.services.registry.get(camera.mac).claims.ssid == SSID)
        camera.answer_now.set()
        end = await one.until(camera.mac, "failed", "verified")
        assert (end["state"], end["error_code"], camera.requests) == ("failed", "VERIFICATION_TIMEOUT", 2)


async def test_a_retained_word_from_the_target_network_is_no_proof(world):
    topic = f"camera/status/{world.mac(1)}"
    said = {"mac": world.mac(1), "ip": world.address(1), "ssid": SSID, "state": "ONLINE"}
    await world.publish(topic, said, retain=True)
    async with by_hand(world) as one:
        camera = await taken(one)
        camera.body["ssid"] = SSID
        services = one.running.services
        before = services.presence.messages["retained"]
        async with world.broker.client(identifier=services.mqtt._settings.client_id):
            # Another client of that name: the broker throws the daemon out, and tells it everything at its return.
            await eventually(lambda: services.presence.messages["retained"] > before)
        end = await one.until(camera.mac, "failed", "verified")
        assert (end["state"], end["error_code"], camera.requests) == ("failed", "VERIFICATION_TIMEOUT", 2)


async def test_one_that_speaks_from_the_target_network_and_cannot_be_asked_is_not_verified(world):
    async with by_hand(world) as one:
        camera = await taken(one)
        camera.body["ssid"] = HOME  # its own answer says otherwise
        await camera.say(ssid=SSID)
        end = await one.until(camera.mac, "failed")
        assert end["error_code"] == "VERIFICATION_TIMEOUT"
        assert HOME in end["error_message"]


async def test_another_camera_that_answers_at_the_new_address_proves_nothing(world):
    async with by_hand(world, 2) as one:
        camera = await taken(one)
        await camera.say(ssid=SSID, ip=one.cameras[1].address)
        end = await one.until(camera.mac, "failed")
        assert end["error_code"] == "VERIFICATION_TIMEOUT"
        assert one.cameras[1].mac in end["error_message"]


@pytest.mark.parametrize("address", ["192.0.2.7", "127.0.0.1", "224.0.0.1", "0.0.0.0"])
async def test_no_address_but_those_of_the_target_networks_is_asked(world, address):
    async with by_hand(world) as one:
        camera = await taken(one)
        await camera.say(ssid=SSID, ip=address)
        end = await one.until(camera.mac, "failed")
        assert end["error_code"] == "VERIFICATION_TIMEOUT"
        assert "outside provisioning.target_subnets" in end["error_message"]


async def test_firmware_that_names_no_network_is_believed_at_a_new_address_and_not_at_the_old_one(world):
    async with by_hand(world, ssid=None) as one:
        camera = one.cameras[0]
        await camera.say()
        await provisioned_alone(one, config=FAST)
        await one.until(camera.mac, "verifying")
        await camera.say()
        await eventually(lambda: camera.requests >= 3, what="it is asked which network it is on")
        await asyncio.sleep(0.2)
        assert (await one.devices())[camera.mac]["state"] == "verifying"
        async with world.camera(1, address=world.address(200), ssid=None) as moved:
            await moved.say()
            end = await one.until(camera.mac, "verified", "failed")
        assert (end["state"], end["ip"]) == ("verified", moved.address)
