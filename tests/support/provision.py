"""Helpers for tests of POST /provision on simulated cameras."""

import hashlib
import json
import os

import aiohttp

from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.sandbox.options import CameraOptions

NETWORK = f"127.{100 + os.getpid() % 100}.0.0/16"
PORT = 8098
HOME, TARGET, PASSWORD = "DeliCasa-AP", "Target Küche", "canary-4711-canary"
DIGEST = hashlib.sha256(PASSWORD.encode()).hexdigest()
CONNECTION_ERRORS = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)


def fleet_of(broker, *faults, count=1, on_event=None, **options):
    values = {"interval": 30.0, "reboot_s": 0.1, "flap_s": 0.6, "rejoin_s": 0.2} | options
    options = CameraOptions(broker_host=broker.host, broker_port=broker.port, http_port=PORT, **values)
    return Fleet(count=count, options=options, network=NETWORK, faults=faults, storm=True, on_event=on_event)


def body_of(broker, **changes):
    """The body that the daemon would send to POST /provision, with changes; None removes a field."""
    body = {
        "ssid": TARGET,
        "password": PASSWORD,
        "mqtt": {"host": broker.host, "port": broker.port},
        "container_id": "kitchen",
        "request_id": "r-1",
    } | changes
    return {name: value for name, value in body.items() if value is not None}


async def post(http, camera, body):
    """POST /provision to a camera: (status, decoded answer)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with http.post(f"{camera.url}/provision", data=data) as answer:
        return answer.status, json.loads(await answer.read())


async def status(http, camera):
    async with http.get(f"{camera.url}/status") as answer:
        return await answer.json()


def provisioned_networks(camera):
    return [(record.request_id, record.ssid) for record in camera.provisioned]


def is_online_on(network):
    return lambda _, body: bool(body) and body.get("state") == "ONLINE" and body["ssid"] == network
