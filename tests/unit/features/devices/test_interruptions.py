"""Interruptions of a device: sessions and uptime show restarts, even while other sources see the device."""

from ipaddress import IPv4Address

import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Source
from pi_orchestrator.features.devices.interruptions import (
    LIMIT,
    MAX_KEPT,
    SETTLED_AFTER_S,
    WITHIN_S,
    Interruption,
    Interruptions,
)
from pi_orchestrator.features.devices.model import EXPECTED_RESTART_S, Presence
from pi_orchestrator.features.devices.status_message import Announced
from tests.unit.features.devices.test_registry import Site

A = Mac("24:6F:28:00:00:A0")
X = IPv4Address("192.168.10.5")


@pytest.fixture
def site():
    """A camera that ARP has just seen, and that publishes."""
    site = Site(registered=[A])
    site.answer(A, X)
    site.publish(A, uptime_s=5000.0)
    site.drain()
    return site


def restart(site, times, *, each_s=8.0, wills=True, uptime_s=1.0):
    """Restart the camera `times` times while ARP sees it."""
    for _ in range(times):
        site.now += each_s - 1
        if wills:
            site.publish_will(A)
        site.now += 1
        site.answer(A, X)
        site.publish(A, uptime_s=uptime_s)
        site.registry.expire(site.now)


def summary(site):
    return site.registry.get(A).interruptions.summary(site.now)


# What is an interruption.


@pytest.mark.parametrize("uptime_s", [1.0, None])
def test_restarts_of_a_camera_seen_by_arp_are_unstable(site, uptime_s):
    restart(site, LIMIT - 1, uptime_s=uptime_s)
    assert (site.state(A), site.drain()) == (Presence.ONLINE, [])
    restart(site, 4, uptime_s=uptime_s)
    assert (site.state(A), summary(site)) == (Presence.FLAPPING, "restarted 7 times in the last minute")
    (change,) = site.drain()
    assert (change.before, change.after) == (Presence.ONLINE, Presence.FLAPPING)
    assert site.registry.restarts == 7


def test_falls_of_uptime_without_last_will_are_restarts(site):
    for _ in range(LIMIT):
        site.now += 30
        site.publish(A, uptime_s=30.0)
        restart(site, 1, wills=False)
    assert (site.state(A), site.registry.restarts) == (Presence.FLAPPING, LIMIT + 1), "the first is from 5000 to 30"


def test_last_wills_without_a_message_are_restarts(site):
    for _ in range(LIMIT + 1):
        site.now += 8
        site.publish_will(A)
        site.answer(A, X)
    assert (site.state(A), summary(site)) == (Presence.FLAPPING, "restarted 4 times in the last minute")


def test_repeated_last_will_of_one_session_counts_once(site):
    for _ in range(LIMIT - 1):
        restart(site, 1)
        site.publish_will(A)
        site.now += 1
        site.publish_will(A)
        site.publish(A, uptime_s=1.0)
        site.wait(WITHIN_S)
    assert site.state(A) is not Presence.FLAPPING


def test_announced_reboots_are_restarts(site):
    for _ in range(LIMIT):
        site.now += 8
        site.publish(A, Announced.REBOOTING, uptime_s=100.0)
        site.now += 3
        site.publish(A, uptime_s=1.0)
    assert summary(site) == "restarted 4 times in the last minute"


def test_reconnects_with_growing_uptime_are_lost_sessions(site):
    for number in range(1, LIMIT + 1):
        restart(site, 1, uptime_s=5000.0 + 8 * number)
    assert (site.state(A), summary(site)) == (Presence.FLAPPING, "lost its MQTT session 4 times in the last minute")
    assert site.registry.restarts == 0


def test_equal_uptimes_after_each_start_are_restarts(site):
    """A camera that crashes 5 s after each start has about the same uptime in every first message."""
    for number in range(LIMIT):
        restart(site, 1, uptime_s=1.0 + number / 100)
    assert summary(site) == "restarted 4 times in the last minute"


def test_restart_while_offline_counts_once(site):
    for _ in range(2):
        site.now += 60
        site.registry.get(A).evidence.pop(Source.ARP, None)
        site.publish_will(A)
        assert site.state(A) is Presence.OFFLINE
        site.now += 5
        site.publish(A, uptime_s=2.0)
    assert summary(site) == "restarted 2 times in the last 10 minutes"
    assert site.registry.restarts == 2


def test_regular_messages_are_no_interruption(site):
    for number in range(100):
        site.now += 10
        site.publish(A, uptime_s=5010.0 + 10 * number if number % 3 else None)
    assert summary(site) == ""


def test_first_messages_are_no_restart(site):
    site.retain(A, uptime_s=9000.0)
    site.registry.release(A)
    fresh = Site(registered=[A])
    fresh.retain(A, uptime_s=9000.0)
    fresh.publish(A, uptime_s=1.0)
    restored = Site(registered=[A])
    restored.registry.restore(A, Presence.ONLINE, alive_at=restored.now, now=restored.now)
    restored.publish(A, uptime_s=1.0)
    assert (fresh.registry.restarts, restored.registry.restarts) == (0, 0)


# End, text and limits of instability.


def test_instability_ends_after_quiet_time(site):
    restart(site, LIMIT)
    site.drain()
    for _ in range(int(SETTLED_AFTER_S / 10) - 1):
        site.now += 10
        site.publish(A, uptime_s=site.now)
        site.registry.expire(site.now)
    assert site.state(A) is Presence.FLAPPING
    site.wait(11)
    assert (site.state(A), summary(site)) == (Presence.ONLINE, "")


def test_text_and_revision_change_with_time(site):
    restart(site, 7)
    before = site.registry.revision
    site.wait(45)
    assert summary(site) == "restarted 7 times in the last 10 minutes"
    assert site.registry.revision > before


def test_interruptions_are_bounded():
    interruptions = Interruptions()
    for number in range(10_000):
        interruptions.add(Interruption.RESTART, number / 1000)
    assert (len(interruptions), interruptions.restarts) == (MAX_KEPT, 10_000)
    assert interruptions.summary(10.0) == "restarted 100 times in the last minute"


def test_summary_names_each_kind():
    interruptions = Interruptions()
    for kind in (Interruption.OFFLINE, Interruption.RESTART, Interruption.RESTART, Interruption.SESSION_LOST):
        interruptions.add(kind, 5.0)
    text = "restarted 2 times and lost its MQTT session once and went offline once in the last minute"
    assert interruptions.summary(6.0) == text


# Requested restarts.


def reboot(site):
    """Request a reboot; the camera announces it, disconnects and returns."""
    site.now += 100
    site.registry.expect_restart(A, site.now + EXPECTED_RESTART_S)
    site.publish(A, Announced.REBOOTING, uptime_s=5000.0)
    site.publish_will(A)
    site.now += 8
    site.publish(A, uptime_s=3.0)
    site.registry.expire(site.now)


def test_requested_restarts_are_no_interruptions(site):
    for _ in range(LIMIT):
        reboot(site)
    assert (site.state(A), summary(site), site.registry.restarts) == (Presence.ONLINE, "", 0)


def test_only_one_restart_follows_a_request(site):
    reboot(site)
    restart(site, LIMIT)
    assert (site.state(A), site.registry.restarts) == (Presence.FLAPPING, LIMIT)


def test_refused_request_expects_no_restart(site):
    before = site.registry.expect_restart(A, site.now + EXPECTED_RESTART_S)
    site.registry.expect_restart(A, before)
    restart(site, LIMIT)
    assert site.registry.restarts == LIMIT
