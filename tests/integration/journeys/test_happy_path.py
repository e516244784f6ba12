"""The main use case: 20 cameras appear on MQTT and are verified, registered, paired and listed."""

from collections import Counter

from tests.support.waiting import eventually


async def test_20_cameras_are_onboarded(rig):
    async with rig.daemon() as running, rig.fleet(20) as fleet:
        await eventually(lambda: len(running.app.cameras.cache) == 20)

        paired = (await running.api.get("/api/v1/espcam/paired")).data
        assert paired["total"] == 20
        assert paired["online_count"] == paired["online"] == 20
        assert {camera["mac_address"] for camera in paired["cameras"]} == {camera.mac for camera in fleet.cameras}

        places = Counter((camera["container_id"], camera["position"]) for camera in paired["cameras"])
        containers = ["auto-onboard", "auto-onboard-2", "auto-onboard-3", "auto-onboard-4", "auto-onboard-5"]
        assert places == Counter({(name, position): 1 for name in containers for position in (1, 2, 3, 4)})

        live = (await running.api.get("/api/v1/cameras")).json
        assert live["count"] == live["data"]["count"] == 20
        assert {camera["status"] for camera in live["cameras"]} == {"online"}

        for camera in fleet.cameras:
            events = (await running.api.get(f"/api/v1/onboarding/auto/events/{camera.mac}")).data["events"]
            assert [row["stage"] for row in reversed(events)] == ["discovered", "verified", "registered", "paired"]
            assert all(row["outcome"] == "success" for row in events)
            assert all(row["duration_ms"] >= 0 for row in events if row["stage"] != "discovered")

        metrics = (await running.api.get("/api/v1/onboarding/auto/status")).data["metrics"]
        assert (metrics["attempts"], metrics["success"], metrics["failed"]) == (20, 20, 0)
