"""What tests of discovery ask the daemon."""

import asyncio
import json
import sqlite3

from tests.support.waiting import eventually

SCAN = "/api/v1/espcam/scan"
DEVICES = "/api/v1/devices"


async def devices(daemon, **query):
    """{MAC: device} as the API tells."""
    answer = await daemon.api.get(DEVICES, params=query)
    return {device["mac_address"]: device for device in answer.data["devices"]}


async def device(daemon, camera):
    """One device, None where it is not known."""
    answer = await daemon.api.get(f"{DEVICES}/{camera.mac}")
    return answer.data if answer.status == 200 else None


async def scanned(daemon, *, within=20):
    """A run that began after now, once it has ended."""
    before = await ended(daemon)

    async def can_be_asked():
        answer = await daemon.api.post(SCAN)
        return answer.status == 202 and answer.data["scan"]

    scan = await eventually(can_be_asked, within=10, what="somebody can be asked")
    if scan["requested_by"] == "periodic":  # joined: this one began before
        await ended(daemon, scan["id"], within=within)
        scan = (await daemon.api.post(SCAN)).data["scan"]
    assert scan["id"] != before
    return await ended(daemon, scan["id"], within=within)


async def ended(daemon, scan_id=None, *, within=20):
    """A run once it has ended; without an id, the id of the last that has."""
    if scan_id is None:
        answer = await daemon.api.get(SCAN, params={"limit": 1})
        return next((scan["id"] for scan in answer.data["scans"]), None)

    async def over():
        scan = (await daemon.api.get(f"{SCAN}/{scan_id}")).data["scan"]
        return scan["state"] != "running" and scan

    return await eventually(over, within=within, what="the scan is over")


async def events(site, kind):
    """The payloads of the stored events of a type, in order."""

    def read():
        with sqlite3.connect(f"file:{site.folder}/state/orchestrator.db?mode=ro", uri=True) as db:
            return db.execute("SELECT payload FROM events WHERE type = ? ORDER BY id", (kind,)).fetchall()

    return [json.loads(payload) for (payload,) in await asyncio.to_thread(read)]


async def has_status(daemon, mac, word):
    """Whether a device is known and in this state."""
    known = await devices(daemon)
    return mac in known and known[mac]["status"] == word


async def sources(daemon):
    """{source: (state, reason)}."""
    told = (await daemon.api.get("/api/v1/espcam/discovered")).data
    return {one["source"]: (one["state"], one.get("reason", "")) for one in told["sources"]}
