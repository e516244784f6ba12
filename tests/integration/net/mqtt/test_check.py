"""The check of a broker, on real mosquittos with and without ACL and limits, by MQTT 5 and 3.1.1."""

import contextlib

import pytest

from pi_orchestrator.features.commands.model import COMMAND_TOPIC
from pi_orchestrator.features.system import doctor_broker
from pi_orchestrator.features.system.doctor_broker import FILTERS
from pi_orchestrator.net.mqtt import check, delivery
from pi_orchestrator.net.mqtt.check import check_broker
from pi_orchestrator.net.mqtt.session import SessionOpener
from pi_orchestrator.settings.model import MqttSettings
from tests.support.broker import Broker, password_line
from tests.support.mqtt_peer import MqttPeer

LOGIN = {"username": "pi", "password": "secret"}


@pytest.fixture(params=["MQTT 5", "MQTT 3.1.1"])
def protocol(request, monkeypatch):
    if request.param == "MQTT 3.1.1":
        monkeypatch.setattr(delivery, "DELIVERY_S", 0.3)
        monkeypatch.setattr(check, "SessionOpener", OldProtocol)
    return request.param


class OldProtocol(SessionOpener):
    """Opens sessions by MQTT 3.1.1 only."""

    def __init__(self, **options):
        super().__init__(**options)
        self._mqtt5_again_at = float("inf")


@contextlib.asynccontextmanager
async def mosquitto(folder, *, acl=None, settings=""):
    """Run mosquitto with an ACL, user pi and more settings."""
    broker = Broker(folder)
    text = settings
    if acl is not None:
        (folder / "acl").write_text(acl)
        (folder / "passwords").write_text(password_line(LOGIN["username"], LOGIN["password"]))
        text += f"\nacl_file {folder}/acl\npassword_file {folder}/passwords\n"
    with broker.conf.open("a") as conf:
        conf.write(text)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()


async def checked(broker, **options):
    settings = MqttSettings(host=broker.host, port=broker.port, **options)
    return await check_broker(settings, filters=FILTERS, command_topic=COMMAND_TOPIC)


async def test_open_broker_is_reported(broker, protocol):
    report = await checked(broker)
    assert (report.error, report.protocol) == (None, protocol)
    assert (report.refused, report.undelivered, report.unpublished) == ({}, [], {})
    assert report.is_open_to_commands is True
    assert report.is_size_limited is False


@pytest.mark.parametrize("limit", ["message_size_limit 262144", "max_packet_size 266240"])
async def test_size_limit_is_found(tmp_path, protocol, limit):
    async with mosquitto(tmp_path, settings=limit) as broker:
        assert (await checked(broker)).is_size_limited is True


async def test_acl_for_commands_is_found(tmp_path, protocol):
    acl = "pattern write camera/status/#\npattern read camera/command/#\nuser pi\ntopic readwrite #\n"
    async with mosquitto(tmp_path, acl=acl) as broker:
        report = await checked(broker, **LOGIN)
    assert (report.error, report.refused, report.undelivered, report.unpublished) == (None, {}, [], {})
    assert report.is_open_to_commands is False


async def test_refused_publish_is_found(tmp_path, protocol):
    acl = "user pi\ntopic read #\ntopic write piorch/#\ntopic write camera/status/#\n"
    async with mosquitto(tmp_path, acl=acl) as broker:
        report = await checked(broker, **LOGIN)
    assert len(report.unpublished) == 1
    assert next(iter(report.unpublished)).startswith("camera/command/piorch-doctor-")


async def test_granted_but_undelivered_filter_is_found(tmp_path, protocol):
    acl = "user pi\ntopic readwrite camera/command/#\ntopic readwrite piorch/#\ntopic write #\n"
    async with mosquitto(tmp_path, acl=acl) as broker:
        report = await checked(broker, **LOGIN)
    is_mqtt5 = protocol == "MQTT 5"
    assert (report.undelivered, report.unproven) == ((list(FILTERS), []) if is_mqtt5 else ([], list(FILTERS)))
    finding = doctor_broker._topics_finding(MqttSettings(**LOGIN), report)
    assert finding.result == ("fail" if is_mqtt5 else "warn")
    assert FILTERS[0] in finding.what


async def test_filter_that_only_cameras_may_publish_on_is_delivered(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "DELIVERY_S", 0.3)
    monkeypatch.setattr(check, "SessionOpener", OldProtocol)
    acl = (
        "topic write camera/status/#\ntopic write camera/response/#\ntopic write delicasa/#\n"
        "user pi\ntopic read #\ntopic write piorch/#\ntopic write camera/command/#\n"
    )
    async with mosquitto(tmp_path, acl=acl) as broker:
        report = await checked(broker, **LOGIN)
    assert (report.undelivered, report.unproven, report.unpublished) == ([], [], {})


async def test_wrong_password_is_reported_in_words(tmp_path, protocol):
    async with mosquitto(tmp_path, acl="") as broker:
        report = await checked(broker, username="pi", password="wrong")
    assert report.error == "the broker refused the connection: not authorised"
    assert report.error_code == 0x87


async def test_refused_filter_is_reported():
    async with MqttPeer(grants={FILTERS[0]: 0x87}).running() as peer:
        report = await checked(peer)
    assert report.refused == {FILTERS[0]: "not authorised"}


async def test_missing_answer_to_large_message_is_no_limit(monkeypatch):
    monkeypatch.setattr(check, "SILENCE_S", 0.3)
    monkeypatch.setattr(delivery, "DELIVERY_S", 0.1)
    async with MqttPeer(max_answered_bytes=check.TEST_BYTES // 2).running() as peer:
        report = await checked(peer)
    assert (report.error, report.is_size_limited) == (None, None)
    assert doctor_broker._size_finding(report).result == "warn"


async def test_full_broker_is_no_proof_of_acl(monkeypatch):
    monkeypatch.setattr(delivery, "DELIVERY_S", 0.1)
    async with MqttPeer(max_connections=1).running() as peer:
        report = await checked(peer)
    assert (report.error, report.is_open_to_commands) == (None, None)
    assert doctor_broker._acl_finding(report).result == "warn"


async def test_refused_login_is_proof_of_acl(tmp_path, protocol):
    broker = Broker(tmp_path)
    (tmp_path / "passwords").write_text(password_line(LOGIN["username"], LOGIN["password"]))
    conf = broker.conf.read_text().replace("allow_anonymous true", "allow_anonymous false")
    broker.conf.write_text(f"{conf}password_file {tmp_path}/passwords\n")
    await broker.start()
    try:
        assert (await checked(broker, **LOGIN)).is_open_to_commands is False
    finally:
        await broker.kill()


async def test_check_leaves_no_status_and_no_retained_message(broker):
    messages = []
    async with broker.client() as observer:
        await observer.subscribe("#", qos=1)
        await checked(broker)
        await broker.publish("test/end", b"")
        async for message in observer.messages:
            messages.append(message)
            if message.topic.value == "test/end":
                break
    assert len(messages) > len(FILTERS)
    assert not [message for message in messages if message.retain or message.topic.value == "piorch/status"]


async def test_filters_are_those_of_the_daemon(daemon):
    assert list(FILTERS) == [topic_filter for topic_filter, *_ in daemon.app.resources.mqtt._routes]
