"""The checks of `doctor` for the MQTT broker: it connects, subscribes and publishes as the daemon does."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from pi_orchestrator.features.commands.model import COMMAND_TOPIC, RESPONSE_TOPICS
from pi_orchestrator.features.devices.status_message import STATUS_TOPICS
from pi_orchestrator.features.system.cli_finding import Finding
from pi_orchestrator.features.system.doctor_access import USER, missing_access
from pi_orchestrator.net.mqtt.check import LOGIN_CODES, TEST_BYTES, BrokerReport, check_broker
from pi_orchestrator.net.mqtt.subscriptions import acl_remedy
from pi_orchestrator.settings import MqttSettings, Settings

FILTERS = (*STATUS_TOPICS, *RESPONSE_TOPICS)
"""What the daemon subscribes to."""
ACL_REMEDY = (
    "scripts/install.sh makes a user and an ACL. Add to the broker's settings: password_file"
    " /etc/mosquitto/pi-orchestrator.passwd, and: acl_file /etc/mosquitto/pi-orchestrator.acl. Add to [mqtt] in"
    ' config.toml: username = "pi-orchestrator", and: password_file = "/etc/pi-orchestrator/mqtt_password".'
    " Then: sudo systemctl restart mosquitto pi-orchestrator"
)
SIZE_REMEDY = "add to the broker's settings: max_packet_size 266240. Then: sudo systemctl restart mosquitto"
CREDENTIAL = Path("/etc/credstore/pi-orchestrator.mqtt_password")
"""Where systemd reads the password that it passes to the daemon; it passes none to a command."""
_CLIENT_ID_CODE = 0x85


def examine_broker(settings: Settings) -> list[Finding]:
    """Check connection and subscriptions, who may send commands, and the limit of message sizes."""
    if settings.mqtt.embedded:
        return [_check_embedded(), *(Finding(check, "ok", "embedded in the daemon") for check in ("acl", "packets"))]
    file = settings.mqtt.password_file
    if file and (problem := missing_access(file, write=False)):
        remedy = f"sudo chown {USER}: {file} (mqtt.password_file), and let it read the folders above"
        unknown = ("warn", "unknown until the daemon's user can read its password", "fix that first")
        return [Finding("broker", "fail", problem, remedy), Finding("acl", *unknown), Finding("packets", *unknown)]
    mqtt = _with_credential(settings.mqtt)
    report = asyncio.run(check_broker(mqtt, filters=FILTERS, command_topic=COMMAND_TOPIC))
    if report.error:
        unknown = ("warn", "unknown until the broker works", "fix the broker first")
        return [_connect_finding(mqtt, report), Finding("acl", *unknown), Finding("packets", *unknown)]
    return [_topics_finding(mqtt, report), _acl_finding(report), _size_finding(report)]


def _with_credential(mqtt: MqttSettings) -> MqttSettings:
    """The settings with the password that systemd passes to the daemon, if this user may read it."""
    if "CREDENTIALS_DIRECTORY" in os.environ:
        return mqtt
    try:
        password = CREDENTIAL.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return mqtt
    return mqtt.model_copy(update={"password": SecretStr(password)})


def _check_embedded() -> Finding:
    if find_spec("amqtt") is None:
        return Finding(
            "broker",
            "fail",
            "mqtt.embedded needs the package amqtt, which is not installed",
            "install pi-orchestrator[demo]",
        )
    return Finding("broker", "ok", "embedded in the daemon")


def _connect_finding(mqtt: MqttSettings, report: BrokerReport) -> Finding:
    address = f"{mqtt.host}:{mqtt.port}"
    if report.error_code is None:
        remedy = "sudo systemctl start mosquitto, or correct mqtt.host and mqtt.port"
        if mqtt.tls:
            remedy += "; with TLS also mqtt.tls and mqtt.ca_file"
        return Finding("broker", "fail", f"no answer at {address}: {report.error}", remedy)
    if report.error_code in LOGIN_CODES:
        remedy = "correct mqtt.username and mqtt.password_file; the broker must know this user and password"
    elif report.error_code == _CLIENT_ID_CODE:
        remedy = "change mqtt.client_id"
    else:
        remedy = "see the broker's log: journalctl -u mosquitto"
    return Finding("broker", "fail", f"{address}: {report.error}", remedy)


def _topics_finding(mqtt: MqttSettings, report: BrokerReport) -> Finding:
    address, username = f"{mqtt.host}:{mqtt.port}", mqtt.username
    if report.refused:
        reasons = ", ".join(sorted({*report.refused.values()}))
        what = f"{address} refuses subscriptions ({reasons}): {', '.join(report.refused)}"
        return Finding("broker", "fail", what, acl_remedy(report.refused, username))
    if report.undelivered:
        what = f"{address} does not deliver messages of: {', '.join(report.undelivered)}"
        return Finding("broker", "fail", what, acl_remedy(report.undelivered, username))
    if report.unproven and not report.unpublished:
        what = f"{address} ({report.protocol}): test messages do not come back on: {', '.join(report.unproven)}"
        remedy = acl_remedy(report.unproven, username, access="readwrite")
        return Finding("broker", "warn", what, f"if cameras are not seen, {remedy}")
    if report.unpublished:
        topics = ", ".join(f"{topic} ({reason})" for topic, reason in report.unpublished.items())
        remedy = acl_remedy(["camera/#", "piorch/#"], username, access="readwrite")
        return Finding("broker", "fail", f"{address} does not accept messages on: {topics}", remedy)
    return Finding("broker", "ok", f"works at {address} ({report.protocol}): connected, subscribed, published")


def _acl_finding(report: BrokerReport) -> Finding:
    if report.is_open_to_commands:
        return Finding("acl", "warn", "any client can send commands to cameras", ACL_REMEDY)
    if report.is_open_to_commands is None:
        what = "not known whether any client can send commands to cameras: the second connection failed"
        return Finding("acl", "warn", what, ACL_REMEDY)
    return Finding("acl", "ok", "clients without a user cannot send commands to cameras")


def _size_finding(report: BrokerReport) -> Finding:
    if report.is_size_limited is False:
        what = f"the broker accepts messages of {TEST_BYTES // 2**20} MiB: a client can exhaust the memory"
        return Finding("packets", "warn", what, SIZE_REMEDY)
    if report.is_size_limited is None:
        return Finding(
            "packets",
            "warn",
            "not known whether sizes are limited: the broker refuses the test message, or does not answer it",
            SIZE_REMEDY,
        )
    return Finding("packets", "ok", "the broker limits the size of messages")
