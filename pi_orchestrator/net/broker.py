"""The embedded broker: amqtt inside the process, for demos and for looking around without mosquitto."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pi_orchestrator.errors import StartupError


@asynccontextmanager
async def embedded_broker(host: str, port: int) -> AsyncIterator[int]:
    """Run a broker for the length of the block; yields its port (a free one where `port` is 0)."""
    try:
        from amqtt.broker import Broker  # noqa: PLC0415  # an extra, and slow to load
    except ImportError as error:
        raise StartupError(
            "mqtt.embedded needs a package that is not installed",
            remedy="install pi-orchestrator[demo], or set mqtt.embedded = false and run mosquitto",
        ) from error
    # The library's own voice is for those who develop brokers.
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    chosen = port or free_port(host)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:{chosen}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        },
        loop=asyncio.get_running_loop(),
    )
    try:
        await broker.start()
    except Exception as error:
        raise StartupError(
            f"the embedded broker cannot listen on {host}:{chosen}: {error}",
            remedy="choose another mqtt.port, or 0 for a free one",
        ) from error
    try:
        yield chosen
    finally:
        await broker.shutdown()


def free_port(host: str) -> int:
    """A TCP port of this address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
