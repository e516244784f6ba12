"""Subscriptions: refused ones are reported, floods of retained messages are read, large messages are not."""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import signal
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import MqttUnavailableError
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.net.mqtt import delivery, link, session, subscriptions
from pi_orchestrator.net.mqtt.client import MAX_SKIPPED_BYTES
from pi_orchestrator.net.mqtt.link import MqttConnection
from pi_orchestrator.settings.model import MqttSettings
from tests.support.broker import Broker
from tests.support.mqtt_peer import MqttPeer, publish_large
from tests.support.waiting import HANG_S, eventually

STATUS, RESPONSE = "camera/status/+", "camera/response/+"
NO_USER = "set mqtt.username and mqtt.password_file to a user whose ACL has"


class Running:
    """A connection of the daemon, with what it received."""

    def __init__(self, broker, **options):
        self.clock = clock = Clock()
        self.health = Health(clock=clock)
        self.health.add(link.NAME)
        settings = MqttSettings(host=broker.host, port=broker.port, **options)
        self.connection = MqttConnection(settings=settings, port=broker.port, clock=clock, health=self.health)
        self.topics = []
        for topic_filter in (STATUS, RESPONSE):
            self.connection.route(topic_filter, lambda topic, payload, retained: self.topics.append(topic))

    @property
    def state(self):
        return self.health.get(link.NAME).state

    @property
    def reason(self):
        return self.health.get(link.NAME).reason


@contextlib.asynccontextmanager
async def running(broker, **options):
    subject = Running(broker, **options)
    task = asyncio.create_task(subject.connection.run(lambda: None))
    try:
        yield subject
    finally:
        task.cancel()
        await asyncio.wait([task])


# Refused subscriptions.


@pytest.mark.parametrize("is_mqtt5", [True, False])
async def test_refused_filter_degrades_connection(is_mqtt5):
    refusal = 0x87 if is_mqtt5 else 0x80
    async with MqttPeer(knows_mqtt5=is_mqtt5, grants={STATUS: refusal}).running() as peer, running(peer) as subject:
        await eventually(lambda: subject.connection.connected)
        assert subject.state is State.DEGRADED
        assert f"topic read {STATUS}" in subject.reason
        assert RESPONSE not in subject.reason
        assert ("not authorised" in subject.reason) == is_mqtt5


@pytest.mark.parametrize("is_mqtt5", [True, False])
@pytest.mark.parametrize("answered, missing", [(0, [STATUS, RESPONSE]), (1, [RESPONSE])])
async def test_filter_without_answer_degrades_connection(is_mqtt5, answered, missing):
    async with MqttPeer(knows_mqtt5=is_mqtt5, answered=answered).running() as peer, running(peer) as subject:
        await eventually(lambda: subject.connection.connected)
        assert subject.state is State.DEGRADED
        assert "no answer in SUBACK" in subject.reason
        assert [name for name in (STATUS, RESPONSE) if f"topic read {name}" in subject.reason] == missing


@pytest.mark.parametrize("is_mqtt5", [True, False])
async def test_unknown_code_in_suback_is_refusal(is_mqtt5):
    async with MqttPeer(knows_mqtt5=is_mqtt5, grants={STATUS: 0x55}).running() as peer, running(peer) as subject:
        await eventually(lambda: subject.connection.connected)
        assert subject.state is State.DEGRADED
        assert f"refused without a reason; {NO_USER}: topic read {STATUS}" in subject.reason
        assert RESPONSE not in subject.reason


async def test_unreadable_packet_is_reported_as_reason():
    async with MqttPeer(unreadable=True).running() as peer, running(peer) as subject:
        await eventually(lambda: subject.reason == "the broker sent a packet that cannot be read")


async def test_connection_is_ok_once_refused_filter_is_granted(monkeypatch):
    monkeypatch.setattr(subscriptions, "REFUSED_RETRY_S", 0.1)
    async with MqttPeer(grants={STATUS: 0x87}).running() as peer, running(peer) as subject:
        await eventually(lambda: subject.state is State.DEGRADED)
        peer.grants.clear()
        await eventually(lambda: subject.state is State.OK)
        assert subject.connection.connections == 1


ALLOWED = (("subscribeLiteral", RESPONSE), ("publishClientSend", "#"), ("publishClientReceive", "#"))
SALT = b"123456789012"
DYNAMIC_SECURITY = {
    "defaultACLAccess": dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe"), False),
    "roles": [
        {
            "rolename": "daemon",
            "acls": [{"acltype": kind, "topic": topic, "priority": 0, "allow": True} for kind, topic in ALLOWED],
        }
    ],
    "clients": [
        {
            "username": "pi",
            "roles": [{"rolename": "daemon"}],
            "salt": base64.b64encode(SALT).decode(),
            "iterations": 101,
            "password": base64.b64encode(hashlib.pbkdf2_hmac("sha512", b"secret", SALT, 101)).decode(),
        }
    ],
}


async def test_filter_refused_by_mosquitto_degrades_connection(tmp_path):
    broker = Broker(tmp_path)
    plugin = subprocess.run(
        ["find", "/usr/lib", "-name", "mosquitto_dynamic_security.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    (tmp_path / "security.json").write_text(json.dumps(DYNAMIC_SECURITY))
    with broker.conf.open("a") as conf:
        conf.write(f"plugin {plugin}\nplugin_opt_config_file {tmp_path}/security.json\n")
    await broker.start()
    try:
        login = {"username": "pi", "password": "secret"}
        async with running(broker, **login) as subject, broker.client(**login) as camera:
            await eventually(lambda: subject.connection.connected)
            assert subject.state is State.DEGRADED
            assert f"for user pi: topic read {STATUS}" in subject.reason
            assert RESPONSE not in subject.reason
            await camera.publish("camera/response/r", b"{}", qos=1)
            await eventually(lambda: subject.topics == ["camera/response/r"])
    finally:
        await broker.kill()


# Granted, but not delivered.


@pytest.fixture
def checks(monkeypatch):
    """What each check of the delivery has found."""
    found, check = [], delivery.undelivered

    async def recorded(*args):
        missing = await check(*args)
        found.append(missing)
        return missing

    monkeypatch.setattr(link, "undelivered", recorded)
    monkeypatch.setattr(delivery, "DELIVERY_S", 0.5)
    return found


@contextlib.asynccontextmanager
async def mosquitto(folder, acl):
    broker = Broker(folder)
    (folder / "acl").write_text(acl)
    with broker.conf.open("a") as conf:
        conf.write(f"acl_file {folder}/acl\n")
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()


async def test_granted_and_undelivered_filter_degrades_connection(tmp_path, checks, monkeypatch):
    """The ACL file of mosquitto is no reason for it to refuse a subscription."""
    monkeypatch.setattr(subscriptions, "REFUSED_RETRY_S", 0.1)
    acl = f"topic readwrite piorch/#\ntopic write #\ntopic read {RESPONSE}\n"
    async with mosquitto(tmp_path, acl) as broker, running(broker) as subject:
        await eventually(lambda: subject.state is State.DEGRADED)
        assert f"without delivering messages; {NO_USER}: topic read {STATUS}" in subject.reason
        assert RESPONSE not in subject.reason
        (tmp_path / "acl").write_text(f"{acl}topic read {STATUS}\n")
        broker.process.send_signal(signal.SIGHUP)
        await eventually(lambda: subject.state is State.OK)
        assert (checks[0], checks[-1]) == ([STATUS], [])
        assert (subject.topics, subject.connection.connections) == ([], 1)
        await broker.kill()
        (tmp_path / "acl").write_text(acl)
        await broker.start()
        await eventually(lambda: subject.state is State.DEGRADED and STATUS in subject.reason)


async def test_delivery_is_not_checked_if_publishing_is_refused(tmp_path, checks):
    async with mosquitto(tmp_path, "topic readwrite piorch/#\n") as broker, running(broker) as subject:
        await eventually(lambda: checks == [[]])
        assert subject.state is State.OK


async def test_broker_closing_at_test_message_is_not_tested_again(checks):
    async with MqttPeer(forbidden="camera/").running() as peer, running(peer) as subject:
        await eventually(lambda: subject.connection.connections == 3)
        await eventually(lambda: subject.state is State.OK)
        peer.writers[-1].transport.abort()
        await eventually(lambda: subject.connection.connections == 4 and subject.state is State.OK)
        assert (checks, len(peer.writers)) == ([], 4)


async def test_connection_lost_during_check_is_checked_again(checks):
    async with MqttPeer(delivers=False).running() as peer, running(peer) as subject:
        await eventually(lambda: subject.connection.connected)
        peer.writers[-1].transport.abort()  # the check waits for its messages
        await eventually(lambda: subject.connection.connections == 2)
        await eventually(lambda: checks == [[STATUS, RESPONSE]])
        await eventually(lambda: subject.state is State.DEGRADED)


async def test_undelivered_filter_is_forgotten_at_next_connection(checks):
    """The broker comes back with MQTT 3.1.1, by which nothing can be checked."""
    async with MqttPeer(delivers=False).running() as peer, running(peer) as subject:
        await eventually(lambda: subject.state is State.DEGRADED)
        peer.knows_mqtt5 = False
        peer.writers[-1].transport.abort()
        await eventually(lambda: subject.connection.connections == 2)
        await eventually(lambda: subject.state is State.OK)


async def test_handler_error_during_check_ends_connection_at_once(checks, monkeypatch):
    monkeypatch.setattr(delivery, "DELIVERY_S", 60.0)

    def fail(*_args):
        raise KeyError("bug")

    async with MqttPeer(delivers=False).running() as peer:
        subject = Running(peer)
        subject.connection.route("camera/other", fail)
        task = asyncio.create_task(subject.connection.run(lambda: None))
        await eventually(lambda: subject.connection.connected)
        peer.delivers = True
        await subject.connection.publish("camera/other", b"{}", timeout_s=HANG_S)
        async with asyncio.timeout(HANG_S):
            await asyncio.wait([task])
        assert isinstance(task.exception(), KeyError)


async def test_check_of_mqtt_3_brokers_is_left_to_doctor(checks):
    async with MqttPeer(knows_mqtt5=False, delivers=False).running() as peer, running(peer) as subject:
        await eventually(lambda: subject.state is State.OK)
        await subject.connection.publish("piorch/echo", b"", timeout_s=HANG_S)
        assert (checks, subject.state) == ([], State.OK)


async def test_check_during_dropped_messages_is_repeated(checks, monkeypatch):
    """A message that was dropped may have been the test message."""
    monkeypatch.setattr(link, "CHECK_RETRY_S", 0.1)
    counts = itertools.count()
    async with MqttPeer(delivers=False).running() as peer:
        with monkeypatch.context() as patch:
            patch.setattr(MqttConnection, "discarded", property(lambda _self: next(counts)))
            async with running(peer) as subject:
                await eventually(lambda: len(checks) == 2)
                assert (checks, subject.state) == ([[STATUS, RESPONSE]] * 2, State.OK)
                patch.undo()
                await eventually(lambda: subject.state is State.DEGRADED)


async def test_refused_publish_is_an_error(tmp_path):
    """MQTT 3.1.1 has no code for it: the broker acknowledges a message that it drops."""
    acl = "topic read #\ntopic write piorch/#\n"
    async with mosquitto(tmp_path, acl) as broker, running(broker) as subject:
        await eventually(lambda: subject.state is State.OK)
        with pytest.raises(MqttUnavailableError, match="refused the message: not authorised"):
            await subject.connection.publish("camera/command/x", b"{}", timeout_s=HANG_S)
        assert subject.connection.connected


# MQTT 5 and 3.1.1.


@pytest.mark.parametrize("refusal", ["code", "close", "0x80", "0x81", "0x82", "0x83", "0x84", "0x95", "0x55"])
async def test_broker_without_mqtt5_is_remembered(refusal):
    async with MqttPeer(knows_mqtt5=False, refusal=refusal).running() as peer, running(peer) as subject:
        await eventually(lambda: subject.state is State.OK)
        assert peer.versions == [5, 4]
        peer.writers[-1].transport.abort()
        await eventually(lambda: subject.connection.connections == 2)
        assert peer.versions == [5, 4, 4]


@pytest.mark.parametrize("refusal", ["0x85", "0x86", "0x87", "0x88", "0x89", "0x8a", "0x97", "0x9f"])
async def test_refusal_for_another_reason_keeps_mqtt5(refusal):
    async with MqttPeer(knows_mqtt5=False, refusal=refusal).running() as peer, running(peer) as subject:
        await eventually(lambda: len(peer.versions) >= 3)
        assert set(peer.versions) == {5}
        assert "refused the connection" in subject.reason


async def test_broker_silent_to_mqtt5_is_tried_with_mqtt_3_1_1(monkeypatch):
    monkeypatch.setattr(session, "CONNECT_TIMEOUT_S", 0.3)
    async with MqttPeer(knows_mqtt5=False, refusal="silence").running() as peer, running(peer) as subject:
        await eventually(lambda: subject.state is State.OK)
        assert peer.versions == [5, 4]


# Log.


def levels(logs, event):
    return [entry["log_level"] for entry in logs if entry["event"] == event]


async def test_repeated_losses_are_logged_once_a_minute(monkeypatch):
    monkeypatch.setattr(link, "MIN_STABLE_S", 0)
    with capture_logs() as logs:
        async with MqttPeer().running() as peer, running(peer) as subject:
            for number in range(1, 5):
                await eventually(lambda number=number: subject.connection.connections == number)
                peer.writers[-1].transport.abort()
            await eventually(lambda: subject.connection.connections == 5)
            assert levels(logs, "mqtt not connected") == ["warning", "debug", "debug", "debug"]
            assert levels(logs, "mqtt connected") == ["info", "info", "debug", "debug", "debug"]
            later = subject.clock.monotonic() + 61
            monkeypatch.setattr(link.Clock, "monotonic", lambda self: later)
            peer.writers[-1].transport.abort()
            await eventually(lambda: subject.connection.connections == 6)
            assert levels(logs, "mqtt not connected")[-1] == "warning"
            assert levels(logs, "mqtt connected")[-1] == "info"


async def test_another_cause_is_logged_within_the_minute():
    with capture_logs() as logs:
        async with MqttPeer().running() as peer, running(peer) as subject:
            for number in (1, 2):
                await eventually(lambda number=number: subject.connection.connections == number)
                peer.unreadable = number == 2
                peer.writers[-1].transport.abort()
            await eventually(lambda: levels(logs, "mqtt not connected").count("warning") == 2)
    first, second = [entry["reason"] for entry in logs if entry["log_level"] == "warning"]
    assert first == "the broker closed the connection" != second


# Floods and large messages.


async def test_unpaced_retained_flood_is_read(tmp_path):
    """The broker sends 10,000 retained messages before it answers the subscribe."""
    broker = Broker(tmp_path)
    with broker.conf.open("a") as conf:
        conf.write("max_inflight_messages 0\n")
    await broker.start()
    try:
        async with broker.client(max_inflight_messages=1000) as client:
            for number in range(10_000):
                await client.publish(f"camera/status/flood-{number}", b"{}" * 100, qos=0, retain=True)
            await client.publish("camera/status/last", b"{}", qos=1, retain=True)
        async with running(broker) as subject:
            await eventually(lambda: subject.connection.connected)
            await eventually(lambda: len(subject.topics) >= 10_001)
            assert subject.connection.discarded == 0
            assert subject.connection.connections == 1
    finally:
        await broker.kill()


@pytest.mark.parametrize("is_mqtt5", [True, False])
async def test_large_retained_message_is_left_out(is_mqtt5, monkeypatch):
    monkeypatch.setattr(subscriptions, "LEFT_OUT_S", 1000.0)
    large = ("camera/status/evil", 250 << 20, True)
    async with (
        MqttPeer(knows_mqtt5=is_mqtt5, large=large, large_filter=STATUS).running() as peer,
        running(peer) as subject,
    ):
        await eventually(lambda: subject.connection.connected)
        assert subject.state is State.DEGRADED
        assert "camera/status/evil has a message of 262,144," in subject.reason
        assert peer.subscribed == [[STATUS, RESPONSE], [RESPONSE]]
        assert peer.large_bytes_sent < 32 << 20, "the rest is not read"


@pytest.mark.parametrize("size", [13 << 20, 33 << 20])
async def test_large_retained_message_on_long_topic_does_not_end_service(size, monkeypatch):
    """Without MQTT 5 the broker does not know the limit: skipped if possible, else the filter is left out."""
    monkeypatch.setattr(subscriptions, "LEFT_OUT_S", 1000.0)
    large = ("camera/status/" + "x" * 600, size, True)
    peer = MqttPeer(knows_mqtt5=False, large=large, large_filter=STATUS)
    async with peer.running(), running(peer) as subject:
        await eventually(lambda: subject.connection.connected and subject.connection.too_large == 1)
        is_skipped = size < MAX_SKIPPED_BYTES
        assert peer.subscribed == ([[STATUS, RESPONSE]] if is_skipped else [[STATUS, RESPONSE], [RESPONSE]])
        assert subject.state is (State.OK if is_skipped else State.DEGRADED)


async def test_left_out_filter_is_tried_again(monkeypatch):
    monkeypatch.setattr(subscriptions, "LEFT_OUT_S", 0.2)
    peer = MqttPeer(knows_mqtt5=False, large=("camera/status/evil", 250 << 20, True), large_filter=STATUS)
    async with peer.running(), running(peer) as subject:
        await eventually(lambda: subject.state is State.DEGRADED and subject.connection.connected)
        peer.large = None
        await eventually(lambda: subject.state is State.OK)
        assert STATUS in peer.subscribed[-1]


MEASURE = """
import asyncio, pathlib, sys
from tests.integration.net.mqtt.test_subscribe import Running
class Peer: host, port = "127.0.0.1", int(sys.argv[1])
async def main():
    subject = Running(Peer)
    task = asyncio.create_task(subject.connection.run(lambda: None))
    await asyncio.to_thread(sys.stdin.readline)
    status = pathlib.Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) // 1024, file=sys.stderr)
    task.cancel()
asyncio.run(main())
"""


async def peak_mib(port, done):
    """Peak memory of a process with a connection, in MiB; `done()` is awaited before the measurement."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEASURE, str(port), stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await done()
    _, err = await process.communicate(b"\n")
    return int(err.split()[-1])


async def test_large_packet_takes_no_memory():
    peer = MqttPeer(knows_mqtt5=False, large=("camera/status/evil", 250 << 20, True), large_filter=STATUS)
    async with peer.running():

        async def large_message_is_handled():
            await eventually(lambda: len(peer.subscribed) > 1 or peer.large_bytes_sent == 250 << 20)

        assert await peak_mib(peer.port, large_message_is_handled) < 100


async def test_large_retained_message_of_mosquitto_takes_no_memory(broker):
    await publish_large(broker, "camera/status/evil", 250 << 20)

    async def is_online():
        async with broker.client() as client:
            await client.subscribe("piorch/status")
            assert (await anext(aiter(client.messages))).payload == b"online"

    assert await peak_mib(broker.port, is_online) < 100


@pytest.fixture(params=["MQTT 5", "MQTT 3.1.1"])
def protocol(request, monkeypatch):
    if request.param == "MQTT 3.1.1":
        never = property(lambda _: float("inf"), lambda *_: None)
        monkeypatch.setattr(session.SessionOpener, "_mqtt5_again_at", never, raising=False)
    return request.param


async def test_camera_with_large_messages_affects_no_other(rig, protocol):
    async with rig.daemon() as running, rig.fleet(3, faults=["large-message:1"]) as fleet:
        healthy = {camera.mac for camera in fleet.cameras if camera.fault is None}

        async def all_online():
            cameras = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
            return healthy == {camera["mac_address"] for camera in cameras if camera["status"] == "online"}

        await eventually(all_online)
        mqtt = running.app.resources.mqtt
        if protocol == "MQTT 3.1.1":
            await eventually(lambda: mqtt.too_large)
        assert (mqtt.connections, running.app.resources.health.get(link.NAME).state) == (1, State.OK)
