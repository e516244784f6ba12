"""When a reboot counts as finished: a new MQTT session after the command, or an uptime that shows a boot."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.commands.reboots import RebootService
from pi_orchestrator.features.devices.model import Device, Presence, Windows
from pi_orchestrator.features.devices.status_message import Announced, Status

A = Mac("24:6F:28:04:00:04")
WINDOWS = Windows(idle_after_s=120, offline_after_s=600)
COMMAND_AT = 130.0
ACTOR = Actor(key_name="test", peer="-", correlation_id="-", action="camera.reboot")


def message(uptime_s, state=Announced.ONLINE):
    return Status(topic_id=A, mac=A, device_id=None, state=state, uptime_s=uptime_s)


@pytest.fixture
def device():
    """A camera that is idle at the command: silent for longer than `idle_after_s`."""
    device = Device(mac=A)
    device.apply_live_status(message(5000.0), 0.0)
    device.expire(WINDOWS, COMMAND_AT)
    assert device.state is Presence.IDLE
    return device


class Clock:
    now = COMMAND_AT

    def monotonic(self):
        return self.now


@pytest.fixture
async def has_rebooted(device):
    """`has_rebooted()`: whether the reboot that the camera has accepted at COMMAND_AT is finished."""

    async def accept(*_):
        return None

    clock, observer = Clock(), Mock()
    service = RebootService(
        clock=clock,
        database=SimpleNamespace(write=accept),
        registry=SimpleNamespace(get=lambda mac: device, expect_restart=lambda mac, until: 0.0),
        commands=SimpleNamespace(can_reach=lambda mac: True, check_online=lambda mac: None, send_by_mqtt=accept),
        addresses=None,
        camera_http=None,
        observer=observer,
    )
    await service.reboot(A, actor=ACTOR)
    clock.now += 1
    assert service.collect_outcomes() == []

    def has_rebooted():
        service.collect_outcomes()
        return observer.reboot_finished.called

    return has_rebooted


def test_idle_camera_whose_uptime_grows_has_not_rebooted(device, has_rebooted):
    device.apply_live_status(message(5150.0), 150.0)
    assert not has_rebooted()


def test_silence_after_the_command_is_no_reboot(device, has_rebooted):
    device.expire(WINDOWS, 650.0)
    assert device.state is Presence.OFFLINE
    device.apply_live_status(message(5660.0), 660.0)
    assert device.mqtt_session_since == 660.0
    assert not has_rebooted()


@pytest.mark.parametrize("uptime_s", [3.0, 4999.0])
def test_uptime_that_shows_a_boot_ends_the_reboot(device, has_rebooted, uptime_s):
    device.apply_live_status(message(uptime_s), 150.0)
    assert has_rebooted()


@pytest.mark.parametrize("left", [Announced.REBOOTING, Announced.OFFLINE])
def test_new_session_after_announced_end_ends_the_reboot_despite_kept_uptime(device, has_rebooted, left):
    device.apply_live_status(message(5131.0, left), 131.0)
    device.apply_live_status(message(5150.0), 150.0)
    assert has_rebooted()


def test_announced_reboot_has_not_ended_before_a_new_session(device, has_rebooted):
    """ARP sees the camera again, which has sent no message since it announced the reboot."""
    device.apply_live_status(message(None, Announced.REBOOTING), 131.0)
    device.state = Presence.ONLINE
    assert not has_rebooted()
