"""A secret that is configured, sent by cameras and logged: it is in no output of the daemon."""

import asyncio
import base64
import io
import json
import logging
import tarfile
from urllib.parse import quote, quote_plus

from pi_orchestrator.core.logging import get_logger
from tests.integration.journeys.test_secret_canary import CANARY, assert_clean
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


def log_secrets():
    """Log the secret in each encoding: in own lines, a library's line, a traceback, and a field."""
    log, library = get_logger("pi_orchestrator.canary"), logging.getLogger("library")
    for name, text in ENCODINGS.items():
        log.warning("by event %s", text, encoding=name)
        log.info("a field", text=text, nested={"list": [text]}, password=CANARY, error=ValueError(text))
        library.error("in a library: %s", text)
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("it broke")
    log.info("last line")


def unpacked(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


async def read_stream(api, path, **query):
    """All bytes of a stream up to the last line of `log_secrets`."""
    async with opened(api, path, established=False, **query) as stream:
        while b"last line" not in stream.raw:
            await stream.frame()
        return stream.raw


async def test_secret_is_in_no_output_of_daemon(rig):
    async with rig.daemon(connected=False, **SECRETS) as running:
        running.admin.key = KEY
        body = {"target_ssid": SSID, "target_password": CANARY}
        assert (await running.admin.post(f"{BASE}/batch", json=body)).status == 201
        for number, text in enumerate(ENCODINGS.values()):
            mac = rig.mac(number)
            await rig.publish(f"camera/status/{mac}", {"mac": mac, "last_error": text})
        await eventually(lambda: len(list(running.app.devices.registry)) == len(ENCODINGS))
        streams = [
            asyncio.create_task(read_stream(running.admin, "/api/v1/system/logs/stream", tail=0)),
            asyncio.create_task(read_stream(running.admin, "/api/v1/events", types="log")),
        ]
        await eventually(lambda: running.app.events.streams.client_count == 2)
        log_secrets()
        outputs = {f"stream {number}": await stream for number, stream in enumerate(streams)}
        for path in PATHS:
            answer = await running.admin.get(path)
            assert answer.status == 200
            outputs[path] = answer.body
        bundle = await running.admin.get("/api/v1/system/bundle")
        outputs |= unpacked(bundle.body)
    assert sum(content.count(b"by event") for content in outputs.values()) >= 5 * len(ENCODINGS), (
        "the lines are in the outputs"
    )
    assert any(b"last_error" in content for content in outputs.values())
    for name, content in outputs.items():
        assert_clean(content, name)


async def test_reloaded_secret_is_masked_in_log(rig):
    async with rig.daemon(connected=False) as running:
        running.daemon.apply(rig.settings(auth={"api_key": KEY}))
        get_logger("pi_orchestrator.canary").warning("a line", text=f"it is {KEY}")
        answer = await running.admin.get("/api/v1/system/logs", params={"limit": 1, "source": "canary"})
        assert_clean(answer.body, "the log")
        assert "it is ***" in answer.body.decode()
