"""`/api/v1/system/info` field by field, and its path for old dashboards."""

import os

import pytest

from pi_orchestrator.core import clock as clocks

pytestmark = pytest.mark.usefixtures("documented_answers")


async def test_system_info_has_all_fields(daemon, rig):
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
    assert disk["path"] == str(rig.state_dir)
    assert 0 <= disk["used_gb"] <= disk["total_gb"]
    assert disk["total_gb"] > 0
    assert 0 <= data["temperature_celsius"] < 150
    assert abs(data["uptime"] - clocks.Clock().monotonic() * 1e9) < 60e9, "nanoseconds"
    assert set(data["load_average"]) == {"load_1", "load_5", "load_15"}
    assert (data["overall_status"] == "healthy") is (data["reasons"] == [])


async def test_legacy_path_returns_bare_body_and_successor(daemon):
    old = await daemon.api.get("/api/system/info")
    assert old.headers["Deprecation"] == "true"
    assert old.headers["Link"] == '</api/v1/system/info>; rel="successor-version"'
    new = (await daemon.api.get("/api/v1/system/info")).data
    assert old.json.keys() == new.keys()
    assert old.json["disk"]["path"] == new["disk"]["path"]
