"""sd_notify against real datagram sockets, with a path and in the abstract name space."""

import os
import socket
import time

import pytest

from pi_orchestrator.net.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """A socket where systemd would listen, and how it is named in the environment."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@piorch-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if name.startswith("@") else name)
        listener.settimeout(5)
        yield name, lambda: listener.recv(4096).decode()


def test_every_message_arrives_as_one_datagram(systemd):
    name, heard = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    for say, expected in (
        (notifier.ready, "READY=1"),
        (notifier.alive, "WATCHDOG=1"),
        (notifier.stopping, "STOPPING=1"),
        (lambda: notifier.status("20 cameras registered"), "STATUS=20 cameras registered"),
        (lambda: notifier.status("two\nREADY=1"), "STATUS=two READY=1"),
        (lambda: notifier.status("Küche"), "STATUS=Küche"),
    ):
        say()
        assert heard() == expected


def test_a_reload_carries_the_time_that_systemd_compares(systemd):
    name, heard = systemd
    before = time.monotonic_ns() // 1000
    Notifier({"NOTIFY_SOCKET": name}).reloading()
    first, second = heard().split("\n")
    assert first == "RELOADING=1"
    key, _, value = second.partition("=")
    assert key == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_where_no_systemd_listens_nothing_happens(environ):
    notifier = Notifier(environ)
    notifier.ready()
    notifier.alive()


def test_a_systemd_that_does_not_read_is_not_waited_for(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        began = time.monotonic()
        for _ in range(5000):
            notifier.alive()
        assert time.monotonic() - began < 5


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
def test_the_watchdog_is_ours_only_where_systemd_means_this_process(environ, seconds):
    assert Notifier(environ).watchdog_s == seconds
