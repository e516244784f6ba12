"""The MQTT client id of the daemon: a prefix from the settings, and random characters."""

import re

from tests.support.waiting import eventually


async def test_configured_client_id_disconnects_nobody(rig):
    async with rig.daemon(mqtt={"client_id": "pi-7"}) as running:
        mqtt = running.app.resources.mqtt
        async with rig.broker.client(identifier="pi-7"):
            async with rig.camera(1) as camera:
                await camera.publish_status()
                await eventually(lambda: camera.mac in running.app.cameras.cache)
            assert (mqtt.connected, mqtt.connections) == (True, 1)
        assert re.fullmatch(r"pi-7-[0-9a-f]{8}", mqtt.client_id)


async def test_client_id_is_new_in_each_process(rig):
    async with rig.daemon() as running:
        first = running.app.resources.mqtt.client_id
    async with rig.daemon() as running:
        assert running.app.resources.mqtt.client_id != first


async def test_api_shows_prefix_only(rig):
    """Who can read the status of the network must not learn the whole id."""
    async with rig.daemon() as running:
        answer = await running.api.get("/api/v1/network/mqtt")
        assert answer.json["data"]["clientId"] == "pi-orchestrator"
