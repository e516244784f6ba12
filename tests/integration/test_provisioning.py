"""A session from its start to every camera verified, on loopback with real MQTT and HTTP."""

import pytest

from tests.support.provisioning import PASSWORD, SSID, Batch, batch


@pytest.fixture
async def twenty(world):
    async with batch(world, 20) as one:
        yield one


async def test_a_batch_of_twenty_goes_from_start_to_all_verified(twenty: Batch):
    await twenty.start()
    await twenty.joined(20)
    answer = await twenty.post("provision-all", json={})
    assert answer.status == 202
    assert answer.data["initiated_count"] == 20
    session = await twenty.until_done()
    assert session["verified_count"] == session["provisioned_count"] == session["device_count"] == 20
    assert session["failed_count"] == 0
    assert {camera.options.ssid for camera in twenty.cameras} == {"DeliCasa-AP"}
    for camera in twenty.cameras:
        assert [one.ssid for one in camera.provisioned] == [SSID]
        assert camera.provision_requests == 1
    used = await twenty.admin.get("/api/v1/provisioning/allowlist/stats")
    assert used.data == {"total": 20, "used": 20, "available": 0}
    closed = await twenty.post("close")
    assert closed.data["session"]["state"] == "closed"
    assert PASSWORD not in closed.body.decode()
    assert twenty.world.rows("SELECT count(*) FROM session_secrets") == [(0,)]
