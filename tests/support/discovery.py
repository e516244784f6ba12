"""Queries for discovery tests."""

import asyncio
import json
import sqlite3

from tests.support.waiting import HANG_S, eventually

SCAN = "/api/v1/espcam/scan"
DEVICES = "/api/v1/devices"


async def devices(daemon, **query):
    """{MAC: device} from the API."""
    answer = await daemon.api.get(DEVICES, params=query)
    return {device["mac_address"]: device for device in answer.data["devices"]}


async def device(daemon, camera):
    """The device of a camera from the API; None if unknown."""
    answer = await daemon.api.get(f"{DEVICES}/{camera.mac}")
    return answer.data if answer.status == 200 else None


async def run_scan(daemon, *, within=HANG_S):
    """Run a scan that starts after this call; returns the finished scan."""
    before = await newest_scan_id(daemon)

    async def request_scan():
        answer = await daemon.api.post(SCAN)
        return answer.status == 202 and answer.data["scan"]

    scan = await eventually(request_scan, what="a scan is accepted")
    if scan["requested_by"] == "periodic":  # the request joined a scan that began before
        await wait_for_scan(daemon, scan["id"], within=within)
        scan = (await daemon.api.post(SCAN)).data["scan"]
    assert scan["id"] != before
    return await wait_for_scan(daemon, scan["id"], within=within)


async def newest_scan_id(daemon):
    """The id of the newest scan in the history; None if there is no scan."""
    answer = await daemon.api.get(SCAN, params={"limit": 1})
    return next((scan["id"] for scan in answer.data["scans"]), None)


async def wait_for_scan(daemon, scan_id, *, within=HANG_S):
    """Wait for the end of a scan; returns the scan."""

    async def finished_scan():
        scan = (await daemon.api.get(f"{SCAN}/{scan_id}")).data["scan"]
        return scan["state"] != "running" and scan

    return await eventually(finished_scan, within=within, what="the scan has finished")


async def events(site, kind):
    """Payloads of the stored events of a type, oldest first."""

    def read():
        with sqlite3.connect(f"file:{site.folder}/state/orchestrator.db?mode=ro", uri=True) as db:
            return db.execute("SELECT payload FROM events WHERE type = ? ORDER BY id", (kind,)).fetchall()

    return [json.loads(payload) for (payload,) in await asyncio.to_thread(read)]


async def has_status(daemon, mac, status):
    """Whether a device is known and has this status."""
    found = await devices(daemon)
    return mac in found and found[mac]["status"] == status


async def sources(daemon):
    """Discovery sources: {source: (state, reason)}."""
    data = (await daemon.api.get("/api/v1/espcam/discovered")).data
    return {source["source"]: (source["state"], source.get("reason", "")) for source in data["sources"]}
