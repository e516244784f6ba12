"""`/api/v1/system/info`, field by field, and the same for old dashboards."""

import os

from pi_orchestrator import clock as clocks


async def test_every_field_of_the_contract_is_there(daemon, world):
    data = (await daemon.api.get("/api/v1/system/info")).data
    assert list(data) == [
        "timestamp", "cpu", "memory", "disk", "temperature_celsius", "uptime", "load_average", "overall_status",
        "reasons",
    ]  # fmt: skip
    cpu = data["cpu"]
    assert cpu["core_count"] == len(cpu["per_core"]) == os.cpu_count()
    assert all(0 <= percent <= 100 for percent in [cpu["usage_percent"], *cpu["per_core"]])
    memory = data["memory"]
    assert memory["used_mb"] + memory["available_mb"] - memory["total_mb"] < 0.2
    assert 0 < memory["used_percent"] < 100
    disk = data["disk"]
    assert disk["path"] == str(world.state_dir)
    assert 0 < disk["used_gb"] <= disk["total_gb"]
    assert 0 <= data["temperature_celsius"] < 150
    assert abs(data["uptime"] - clocks.Clock().monotonic() * 1e9) < 60e9, "nanoseconds"
    assert set(data["load_average"]) == {"load_1", "load_5", "load_15"}
    assert (data["overall_status"] == "healthy") is (data["reasons"] == [])


async def test_old_dashboards_get_the_same_without_envelope_and_are_told_where_it_went(daemon):
    old = await daemon.api.get("/api/system/info")
    assert old.headers["Deprecation"] == "true"
    assert old.headers["Link"] == '</api/v1/system/info>; rel="successor-version"'
    new = (await daemon.api.get("/api/v1/system/info")).data
    assert old.json.keys() == new.keys()
    assert old.json["disk"]["path"] == new["disk"]["path"]
