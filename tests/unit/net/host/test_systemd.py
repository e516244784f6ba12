"""sd_notify with real datagram sockets, by path and in the abstract namespace."""

import os
import socket
import time

import pytest

from pi_orchestrator.net.host.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """(address for NOTIFY_SOCKET, function that receives a message)."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@piorch-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if name.startswith("@") else name)
        listener.settimeout(5)
        yield name, lambda: listener.recv(4096).decode()


def test_each_message_is_one_datagram(systemd):
    name, receive = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    for send, expected in (
        (notifier.ready, "READY=1"),
        (notifier.alive, "WATCHDOG=1"),
        (notifier.stopping, "STOPPING=1"),
        (lambda: notifier.status("20 cameras registered"), "STATUS=20 cameras registered"),
        (lambda: notifier.status("two\nREADY=1"), "STATUS=two READY=1"),
        (lambda: notifier.status("Küche"), "STATUS=Küche"),
    ):
        send()
        assert receive() == expected


def test_reload_message_has_monotonic_time(systemd):
    name, receive = systemd
    before = time.monotonic_ns() // 1000
    Notifier({"NOTIFY_SOCKET": name}).reloading()
    first, second = receive().split("\n")
    assert first == "RELOADING=1"
    key, _, value = second.partition("=")
    assert key == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_missing_systemd_is_ignored(environ):
    notifier = Notifier(environ)
    notifier.ready()
    notifier.alive()


def test_busy_systemd_does_not_block(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(5000):
            notifier.alive()


@pytest.mark.parametrize(
    "environ, seconds",
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_PID": str(os.getpid())}, 0.0),
    ],
)
def test_watchdog_interval_is_read_if_for_this_process(environ, seconds):
    assert Notifier(environ).watchdog_s == seconds
