"""Import of the allowlist from CSV: row reports, dry runs, invalid files, and work outside the event loop."""

import asyncio
import io
import threading

import pytest

from pi_orchestrator.features.allowlist import api as handlers
from pi_orchestrator.features.allowlist import store as allowlist
from pi_orchestrator.features.allowlist.csv_format import write_csv
from tests.integration.features.allowlist.test_api import (
    CSV,
    INVALID_MAC,
    LIST,
    MAC,
    OTHER,
    THIRD,
    add,
    check_answers,
    listed,
    state,
    upload,
)

__all__ = ["check_answers"]  # imported so that this autouse fixture also runs in this module


async def test_import_reports_every_row(daemon):
    await add(daemon, OTHER, description="old")
    await add(daemon, THIRD)
    file = f'container_id,mac,description\r\nbox,{MAC},"Camera 1"\r\n,{OTHER},new\r\n,{THIRD},\r\nbox,zz,x\r\n'
    answer = await upload(daemon, b"\xef\xbb\xbf" + file.encode())
    assert answer.status == 200
    assert answer.data == {
        "added": 1,
        "updated": 1,
        "skipped": 1,
        "message": "1 added, 1 updated, 1 skipped, 1 refused",
        "errors": [{"index": 3, "line": 5, "mac": "zz", "reason": INVALID_MAC}],
        "dry_run": False,
        "rows": [
            {"line": 2, "mac": MAC, "effect": "add"},
            {"line": 3, "mac": OTHER, "effect": "update"},
            {"line": 4, "mac": THIRD, "effect": "skip", "reason": "already listed with these values"},
            {"line": 5, "mac": "zz", "effect": "error", "reason": INVALID_MAC},
        ],
    }
    assert {entry["mac"]: entry.get("description") for entry in await listed(daemon)} == {
        MAC: "Camera 1",
        OTHER: "new",
        THIRD: None,
    }


async def test_dry_run_reports_without_changes(daemon, rig):
    await add(daemon, OTHER, description="old")
    file = f"mac,description\n{MAC},x\n{OTHER},new\nzz,x\n"
    before = rig.tables()
    planned = await upload(daemon, file, dry_run="true")
    assert rig.tables() == before
    done = await upload(daemon, file)
    assert planned.data["message"] == "1 to add, 1 to update, 0 to skip, 1 refused"
    assert (planned.data["dry_run"], done.data["dry_run"]) == (True, False)
    for field in ("added", "updated", "skipped", "errors", "rows"):
        assert planned.data[field] == done.data[field]


async def test_import_of_exported_list_restores_it(daemon):
    for mac, description in ((MAC, "=1+1"), (OTHER, "'=quoted', \"too\""), (THIRD, None)):
        await add(daemon, mac, description=description, container_id="box")
    before = [(entry["mac"], entry.get("description"), entry.get("container_id")) for entry in await listed(daemon)]
    assert (MAC, "=1+1", "box") in before
    file = write_csv(before)
    report = (await upload(daemon, file)).data
    assert (report["skipped"], report["errors"]) == (3, [])
    await daemon.admin.delete(f"{LIST}/all")
    assert (await upload(daemon, file)).data["added"] == 3
    entries = await listed(daemon)
    assert [(entry["mac"], entry.get("description"), entry.get("container_id")) for entry in entries] == before


@pytest.mark.parametrize(
    "raw, reason",
    [
        (b"", "the file is empty; the first line must be the header mac,description,container_id"),
        (f"mac\n{OTHER}".encode("utf-16"), "the file is UTF-16; save it as CSV UTF-8"),
        (f"mac,description\n{OTHER},Küche".encode("latin-1"), "line 2: byte 0xFC is not UTF-8; save it as CSV UTF-8"),
        (f"mac\n{OTHER}\0".encode(), "line 2: NUL character"),
        (f'mac,description\n{OTHER},"x'.encode(), "line 2: quote is not closed"),
        (f'mac,description\n{OTHER},"x"y'.encode(), "line 2: ',' expected"),
        (f"{OTHER},x".encode(), "unknown column"),
        (b"description\nx", "column mac is missing"),
        (b"mac,mac\n", "duplicate column mac"),
        (b"mac;description\n", "the columns are separated by ';'; use commas"),
        (b"mac\n" + b"a\n" * 10_001, "over the limit of 10,000 rows"),
        (b"mac\n" + b"\n" * 1_000_000, "over the limit of 40,000 lines"),
        (b"mac\n" + b"," * 1_000_000, "over the limit of 16,384"),
        (b'{"entries": []}', "unknown column"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_invalid_file_is_refused_as_a_whole(daemon, rig, raw, reason):
    await add(daemon, MAC)
    before = state(rig)
    for query in ({}, {"dry_run": "true"}):
        answer = await upload(daemon, raw, **query)
        assert (answer.status, answer.json["code"]) == (400, "INVALID_REQUEST")
        assert answer.json["error"]["message"] == "the file is not a valid CSV list"
        assert reason in answer.json["error"]["details"]
    assert state(rig) == before


async def test_file_over_the_size_limit_is_413(daemon, rig):
    before = rig.tables()
    million_lines = io.BytesIO(b"mac\n" + b"24:6F:28:00:00:10\n" * 1_000_000)
    answer = await daemon.admin.post(f"{LIST}/import", data=million_lines, headers=CSV)
    assert (answer.status, answer.json["code"]) == (413, "INVALID_REQUEST")
    assert rig.tables() == before


async def test_import_requires_media_type_csv(daemon, rig):
    before = rig.tables()
    file = f"mac\n{MAC}".encode()
    for media_type in ("application/json", "text/plain", "application/octet-stream", "multipart/form-data; boundary=x"):
        answer = await daemon.admin.post(f"{LIST}/import", data=file, headers={"Content-Type": media_type})
        assert (answer.status, answer.json["code"]) == (415, "INVALID_REQUEST")
        assert answer.json["error"]["message"] == "the body must be text/csv"
    answer = await daemon.admin.post(f"{LIST}/bulk", data=file, headers=CSV)
    assert (answer.status, answer.json["error"]["message"]) == (415, "the body must be application/json")
    assert rig.tables() == before
    for media_type in ("text/csv; charset=utf-8", "text/csv; header=present", "TEXT/CSV"):
        answer = await daemon.admin.post(f"{LIST}/import", data=file, headers={"Content-Type": media_type})
        assert answer.status == 200


async def test_requests_are_served_during_an_import(daemon, monkeypatch):
    is_reading, may_continue = threading.Event(), threading.Event()
    read_csv = handlers.read_csv

    def read_slowly(raw):
        is_reading.set()
        assert may_continue.wait(20)
        return read_csv(raw)

    monkeypatch.setattr(handlers, "read_csv", read_slowly)
    importing = asyncio.create_task(upload(daemon, f"mac\n{MAC}"))
    try:
        assert await asyncio.to_thread(is_reading.wait, 10)
        assert (await daemon.api.get("/health")).status == 200
        assert await listed(daemon) == []
        await add(daemon, OTHER)
    finally:
        may_continue.set()
    assert (await importing).data["added"] == 1


async def test_slow_functions_run_in_threads(daemon, monkeypatch):
    """With 10,000 rows, parsing and JSON encoding would block the event loop."""
    threads = {}

    def recorded(name, real):
        def record(*args, **kwargs):
            threads[name] = threading.current_thread()
            return real(*args, **kwargs)

        return record

    for module, name in (
        (handlers, "read_csv"),
        (handlers, "_encode_report"),
        (handlers, "_encode_list"),
        (allowlist, "_entries"),
    ):
        monkeypatch.setattr(module, name, recorded(name, getattr(module, name)))
    await upload(daemon, f"mac\n{MAC}")
    assert len(await listed(daemon)) == 1
    assert len(threads) == 4
    assert threading.current_thread() not in threads.values()
