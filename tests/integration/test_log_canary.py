"""A secret that is configured, in use, and said by cameras and in the log: in nothing that tells of the daemon."""

import asyncio
import base64
import io
import json
import logging
import tarfile
from urllib.parse import quote, quote_plus

from pi_orchestrator.logs import get_logger
from tests.integration.test_secret_canary import CANARY, clean
from tests.support.provisioning import BASE, SSID
from tests.support.sse import opened
from tests.support.waiting import eventually

KEY = "key-" + CANARY
ENCODINGS = {
    "plain": CANARY,
    "json": json.dumps({"x": CANARY}),
    "python": repr({"x": CANARY}),
    "base64": base64.b64encode(b"xy" + CANARY.encode() + b"z").decode(),
    "hex": CANARY.encode().hex(),
    "url": f"http://host/?a={quote(CANARY, safe='')}&b={quote_plus(CANARY)}",
}
SECRETS = {
    "auth": {"api_key": KEY},
    "mqtt": {"username": "pi", "password": CANARY},
    "provisioning": {"target_ssid": SSID, "target_password": CANARY, "mqtt_password": CANARY},
}
PATHS = (
    "/api/v1/system/logs?limit=1000",
    "/api/dashboard/logs",
    "/api/dashboard/diagnostics/export",
    "/api/v1/system/info",
    "/api/v1/config",
    "/api/v1/cameras",
    "/api/v1/cameras/diagnostics",
    "/api/v1/espcam/discovered",
)


def say_it():
    """In a line of ours, one of a library, a trace, and a field, in each writing."""
    log, library = get_logger("pi_orchestrator.canary"), logging.getLogger("library")
    for name, text in ENCODINGS.items():
        log.warning("by event %s", text, way=name)
        log.info("a field", text=text, deep={"list": [text]}, password=CANARY, error=ValueError(text))
        library.error("in a library: %s", text)
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("it broke")
    log.info("all is said")


def unpacked(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


async def heard(api, path, **query):
    """All of a stream up to the last line that is said."""
    async with opened(api, path, established=False, **query) as stream:
        while b"all is said" not in stream.raw:
            await stream.frame()
        return stream.raw


async def test_a_secret_is_in_nothing_that_tells_of_the_daemon(world):
    async with world.daemon(connected=False, **SECRETS) as running:
        running.admin.key = KEY
        body = {"target_ssid": SSID, "target_password": CANARY}
        assert (await running.admin.post(f"{BASE}/batch", json=body)).status == 201
        for number, text in enumerate(ENCODINGS.values()):
            mac = world.mac(number)
            await world.publish(f"camera/status/{mac}", {"mac": mac, "last_error": text})
        await eventually(lambda: len(list(running.services.registry)) == len(ENCODINGS))
        streams = [
            asyncio.create_task(heard(running.admin, "/api/v1/system/logs/stream", tail=0)),
            asyncio.create_task(heard(running.admin, "/api/v1/events", types="log")),
        ]
        await eventually(lambda: running.services.streams.clients == 2)
        say_it()
        told = {f"stream {number}": await stream for number, stream in enumerate(streams)}
        for path in PATHS:
            answer = await running.admin.get(path)
            assert answer.status == 200
            told[path] = answer.body
        bundle = await running.admin.get("/api/v1/system/bundle")
        told |= unpacked(bundle.body)
    assert sum(content.count(b"by event") for content in told.values()) >= 5 * len(ENCODINGS), "it was said"
    assert any(b"last_error" in content for content in told.values())
    for name, content in told.items():
        clean(content, name)


async def test_a_secret_that_is_set_while_the_daemon_runs_is_one_from_then_on(world):
    async with world.daemon(connected=False) as running:
        running.daemon.apply(world.settings(auth={"api_key": KEY}))
        get_logger("pi_orchestrator.canary").warning("said", text=f"it is {KEY}")
        answer = await running.admin.get("/api/v1/system/logs", params={"limit": 1, "source": "canary"})
        clean(answer.body, "the log")
        assert "it is ***" in answer.body.decode()
