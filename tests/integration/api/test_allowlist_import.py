"""The allowlist from a file: rows told one by one, dry runs, what is no CSV file, and others served meanwhile."""

import asyncio
import io
import threading

import pytest

from pi_orchestrator.api import allowlist as handlers
from pi_orchestrator.domain.allowlist import write_csv
from pi_orchestrator.storage import allowlist
from tests.integration.api.test_allowlist import (
    CSV,
    LIST,
    MAC,
    OTHER,
    THIRD,
    WRONG,
    every_answer_is_as_documented,
    listed,
    put,
    send,
    state,
)

__all__ = ["every_answer_is_as_documented"]  # the fixture, for the tests here too


async def test_a_file_is_imported_and_each_row_told(daemon):
    await put(daemon, OTHER, description="old")
    await put(daemon, THIRD)
    file = f'container_id,mac,description\r\nbox,{MAC},"Camera 1"\r\n,{OTHER},new\r\n,{THIRD},\r\nbox,zz,x\r\n'
    answer = await send(daemon, b"\xef\xbb\xbf" + file.encode())
    assert answer.status == 200
    assert answer.data == {
        "added": 1,
        "updated": 1,
        "skipped": 1,
        "message": "1 added, 1 updated, 1 skipped, 1 refused",
        "errors": [{"index": 3, "line": 5, "mac": "zz", "reason": WRONG}],
        "dry_run": False,
        "rows": [
            {"line": 2, "mac": MAC, "effect": "add"},
            {"line": 3, "mac": OTHER, "effect": "update"},
            {"line": 4, "mac": THIRD, "effect": "skip", "reason": "it is listed like this already"},
            {"line": 5, "mac": "zz", "effect": "error", "reason": WRONG},
        ],
    }
    assert {entry["mac"]: entry.get("description") for entry in await listed(daemon)} == {
        MAC: "Camera 1",
        OTHER: "new",
        THIRD: None,
    }


async def test_a_dry_run_tells_the_same_and_changes_nothing(daemon, world):
    await put(daemon, OTHER, description="old")
    file = f"mac,description\n{MAC},x\n{OTHER},new\nzz,x\n"
    before = world.tables()
    planned = await send(daemon, file, dry_run="true")
    assert world.tables() == before
    done = await send(daemon, file)
    assert planned.data["message"] == "1 to add, 1 to update, 0 to skip, 1 refused"
    assert (planned.data["dry_run"], done.data["dry_run"]) == (True, False)
    for same in ("added", "updated", "skipped", "errors", "rows"):
        assert planned.data[same] == done.data[same]


async def test_an_export_is_imported_as_the_same_list(daemon):
    for mac, description in ((MAC, "=1+1"), (OTHER, "'=quoted', \"too\""), (THIRD, None)):
        await put(daemon, mac, description=description, container_id="box")
    before = [(entry["mac"], entry.get("description"), entry.get("container_id")) for entry in await listed(daemon)]
    assert (MAC, "=1+1", "box") in before
    file = write_csv(before)
    report = (await send(daemon, file)).data
    assert (report["skipped"], report["errors"]) == (3, [])
    await daemon.admin.delete(f"{LIST}/all")
    assert (await send(daemon, file)).data["added"] == 3
    entries = await listed(daemon)
    assert [(entry["mac"], entry.get("description"), entry.get("container_id")) for entry in entries] == before


@pytest.mark.parametrize(
    "raw, why",
    [
        (b"", "it is empty; the first line must be the header mac,description,container_id"),
        (f"mac\n{OTHER}".encode("utf-16"), "it is UTF-16; save it as CSV UTF-8"),
        (f"mac,description\n{OTHER},Küche".encode("latin-1"), "line 2: byte 0xFC is not UTF-8; save it as CSV UTF-8"),
        (f"mac\n{OTHER}\0".encode(), "line 2: there is a NUL character"),
        (f'mac,description\n{OTHER},"x'.encode(), "line 2: a quote is never closed"),
        (f'mac,description\n{OTHER},"x"y'.encode(), "line 2: ',' expected"),
        (f"{OTHER},x".encode(), "is no column"),
        (b"description\nx", "there is no column mac"),
        (b"mac,mac\n", "mac is there twice"),
        (b"mac;description\n", "the columns are separated by ';'; use commas"),
        (b"mac\n" + b"a\n" * 10_001, "over the limit of 10,000 rows"),
        (b"mac\n" + b"\n" * 1_000_000, "over the limit of 40,000 lines"),
        (b"mac\n" + b"," * 1_000_000, "over the limit of 16,384"),
        (b'{"entries": []}', "is no column"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_file_that_cannot_be_read_is_refused_whole(daemon, world, raw, why):
    await put(daemon, MAC)
    before = state(world)
    for query in ({}, {"dry_run": "true"}):
        answer = await send(daemon, raw, **query)
        assert (answer.status, answer.json["code"]) == (400, "INVALID_REQUEST")
        assert answer.json["error"]["message"] == "the file cannot be read"
        assert why in answer.json["error"]["details"]
    assert state(world) == before


async def test_a_million_rows_are_too_many_bytes(daemon, world):
    before = world.tables()
    million = io.BytesIO(b"mac\n" + b"24:6F:28:00:00:10\n" * 1_000_000)
    answer = await daemon.admin.post(f"{LIST}/import", data=million, headers=CSV)
    assert (answer.status, answer.json["code"]) == (413, "INVALID_REQUEST")
    assert world.tables() == before


async def test_only_a_csv_file_is_taken_for_one(daemon, world):
    before = world.tables()
    file = f"mac\n{MAC}".encode()
    for kind in ("application/json", "text/plain", "application/octet-stream", "multipart/form-data; boundary=x"):
        answer = await daemon.admin.post(f"{LIST}/import", data=file, headers={"Content-Type": kind})
        assert (answer.status, answer.json["code"]) == (415, "INVALID_REQUEST")
        assert answer.json["error"]["message"] == "the body must be text/csv"
    answer = await daemon.admin.post(f"{LIST}/bulk", data=file, headers=CSV)
    assert (answer.status, answer.json["error"]["message"]) == (415, "the body must be application/json")
    assert world.tables() == before
    for kind in ("text/csv; charset=utf-8", "text/csv; header=present", "TEXT/CSV"):
        assert (await daemon.admin.post(f"{LIST}/import", data=file, headers={"Content-Type": kind})).status == 200


async def test_others_are_served_while_a_file_is_read(daemon, monkeypatch):
    reading, go_on = threading.Event(), threading.Event()
    read_csv = handlers.read_csv

    def slowly(raw):
        reading.set()
        assert go_on.wait(20)
        return read_csv(raw)

    monkeypatch.setattr(handlers, "read_csv", slowly)
    importing = asyncio.create_task(send(daemon, f"mac\n{MAC}"))
    try:
        assert await asyncio.to_thread(reading.wait, 10)
        assert (await daemon.api.get("/health")).status == 200
        assert await listed(daemon) == []
        await put(daemon, OTHER)
    finally:
        go_on.set()
    assert (await importing).data["added"] == 1


async def test_what_takes_long_is_done_beside_the_loop(daemon, monkeypatch):
    """10,000 rows are: they are read, and put into JSON, in other threads."""
    where = {}

    def noting(name, real):
        def noted(*given, **more):
            where[name] = threading.current_thread()
            return real(*given, **more)

        return noted

    for module, name in (
        (handlers, "read_csv"),
        (handlers, "_encoded_report"),
        (handlers, "_encoded_list"),
        (allowlist, "_entries"),
    ):
        monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    await send(daemon, f"mac\n{MAC}")
    assert len(await listed(daemon)) == 1
    assert len(where) == 4
    assert threading.current_thread() not in where.values()
