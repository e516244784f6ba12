"""Embedded MQTT broker (amqtt in this process), for demos without mosquitto."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pi_orchestrator.core.errors import StartupError


@asynccontextmanager
async def embedded_broker(host: str, port: int) -> AsyncIterator[int]:
    """Run a broker for the block; yields its port (a free one if `port` is 0). StartupError on failure."""
    try:
        from amqtt.broker import Broker  # noqa: PLC0415  # optional dependency, slow to load
    except ImportError as error:
        raise StartupError(
            "mqtt.embedded = true needs the package amqtt, which is not installed",
            remedy="install pi-orchestrator[demo], or set mqtt.embedded = false and run mosquitto",
        ) from error
    # The logs of these libraries are for broker developers.
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    chosen_port = port or free_port(host)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:{chosen_port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        },
        loop=asyncio.get_running_loop(),
    )
    try:
        await broker.start()
    except Exception as error:
        raise StartupError(
            f"the embedded broker cannot listen on {host}:{chosen_port}: {error}",
            remedy="choose another mqtt.port, or 0 for a free one",
        ) from error
    try:
        yield chosen_port
    finally:
        await broker.shutdown()


def free_port(host: str) -> int:
    """An unused TCP port of this address."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
