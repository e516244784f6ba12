"""What stands at `/`: the daemon's own page or a dashboard's folder, with the headers of each, while it changes."""

import gzip
import json
import os
import shutil
import time

import pytest

from pi_orchestrator.api.web_files import CONSOLE_POLICY
from pi_orchestrator.health import State
from tests.support.api import case, exchange

HTML = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
PAGE = (
    b"<!doctype html><title>dashboard</title><script>let a = 1</script><script src=/assets/index-DiwrgTda.js></script>"
)
SCRIPT = b"export const answer = 42;\n" * 4000
FILES = {
    "index.html": PAGE,
    "assets/index-DiwrgTda.js": SCRIPT,
    "assets/index-DiwrgTda.js.gz": gzip.compress(SCRIPT),
    "assets/index-DiwrgTda.js.br": b"pretend this is brotli",
    "assets/plain.css": b"body { margin: 0 }",
    "assets/core.wasm": b"\0asm",
    "logo.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "docs/index.html": b"<title>docs</title>",
}


def build(folder, files=FILES, *, age_s=3600):
    """A dashboard as a build leaves it, copied a while ago."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, (time.time() - age_s,) * 2)
    return folder


@pytest.fixture
def folder(tmp_path):
    return build(tmp_path / "dashboard")


@pytest.fixture
async def served(world, folder):
    async with world.daemon(connected=False, http={"dashboard_dir": str(folder)}) as running:
        yield running


def health_of(running):
    part = running.daemon.health.get("dashboard")
    return part.state, part.reason


async def test_without_a_dashboard_the_daemons_own_page_is_there_in_every_mode_of_access(world):
    async with world.daemon(connected=False, auth={"mode": "required"}) as running:
        assert "dashboard" not in {part.name for part in running.daemon.health.components()}
        for path in ("/", "/index.html", "/?x=1"):
            page = await exchange(running, "GET", path)
            assert page.status == 200
            assert b"Pi Orchestrator" in page.body
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert page.headers["Content-Security-Policy"] == CONSOLE_POLICY
        assert page.headers["Cache-Control"] == "no-cache"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["X-Frame-Options"] == "DENY"
        assert page.headers["Accept-Ranges"] == "none"
        assert page.headers["X-Request-Id"]
        packed = await exchange(running, "GET", "/", [("Accept-Encoding", "gzip, br")])
        assert (packed.headers["Content-Encoding"], gzip.decompress(packed.body)) == ("gzip", page.body)
        assert packed.headers["Content-Type"] == page.headers["Content-Type"]
        assert packed.headers["ETag"] != page.headers["ETag"]
        assert "Accept-Encoding" in packed.headers["Vary"]
        assert "Accept-Encoding" in page.headers["Vary"]
        view = await exchange(running, "GET", "/cameras", [HTML])
        assert (view.status, view.body, view.headers["Vary"]) == (200, page.body, "Accept, Accept-Encoding")
        assert (await exchange(running, "GET", "/api/v1/cameras")).status == 401


async def test_a_page_is_asked_for_by_address_or_known_name_only(served):
    for path in ("/", "/assets/plain.css", "/view"):
        answer = await exchange(served, "GET", path, [("Host", "evil.example"), HTML])
        assert (answer.status, answer.json["code"]) == (403, "FORBIDDEN")


async def test_only_navigation_falls_back_to_the_page(served):
    for path in (
        "/",
        "/cameras",
        "/cameras/24:6F:28:44:CB:60",
        "/a/b/c/",
        "/devices/192.168.10.21",
        "/api-keys",
        "/assets",
        "/docs",
    ):
        page = await exchange(served, "GET", path, [HTML])
        assert (page.status, page.body) == (200, PAGE), path
        assert page.headers["Cache-Control"] == "no-cache"
    assert (await exchange(served, "GET", "/docs/", [HTML])).body == FILES["docs/index.html"]
    for path, headers in (
        ("/cameras", []),
        ("/cameras", [("Accept", "*/*")]),
        ("/cameras", [("Accept", "application/json")]),
        ("/assets/gone-DiwrgTda.js", [HTML]),
        ("/favicon.ico", [HTML]),
        ("/assets", []),
        ("/docs", []),
    ):
        answer = await exchange(served, "GET", path, headers)
        assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND"), path
        assert answer.headers["Cache-Control"] == "no-store"


async def test_what_begins_like_a_route_stays_with_the_api(served, folder):
    for name in ("metrics", "health", "api", "version"):
        build(folder, {f"{name}/secret.html": b"<b>not this</b>"} if name != "version" else {"version": b"not this"})
    for path in ("/api", "/api/", "/api/secret.html", "/API/x", "/%61pi/x", "/metrics/secret.html", "/health/x"):
        for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
            answer = await exchange(served, method, path, [HTML])
            assert answer.status == 404, (method, path)
            assert answer.headers["Content-Type"] == "application/json"
    assert (await exchange(served, "GET", "/version", [HTML])).json["version"]
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        for path in ("/", "/assets/plain.css", "/nothing"):
            answer = await exchange(served, method, path, [HTML])
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


async def test_each_file_has_its_type_and_may_be_kept_as_long_as_its_name_says(served):
    for path, kind, kept in (
        ("/assets/index-DiwrgTda.js", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        ("/assets/plain.css", "text/css; charset=utf-8", "no-cache"),
        ("/assets/core.wasm", "application/wasm", "no-cache"),
        ("/logo.svg", "image/svg+xml", "no-cache"),
    ):
        got = await exchange(served, "GET", path)
        assert (got.status, got.body) == (200, FILES[path[1:]])
        assert (got.headers["Content-Type"], got.headers["Cache-Control"]) == (kind, kept)
        assert got.headers["Accept-Ranges"] == "none"
        assert "script-src 'self' 'wasm-unsafe-eval';" in got.headers["Content-Security-Policy"]
        head = await exchange(served, "HEAD", path)
        same = {name: value for name, value in got.headers.items() if name not in ("X-Request-Id", "Date")}
        assert same == {name: value for name, value in head.headers.items() if name not in ("X-Request-Id", "Date")}
        part = await exchange(served, "GET", path, [("Range", "bytes=0-3")])
        assert (part.status, part.body) == (200, got.body)
    assert "'sha256-" in (await exchange(served, "GET", "/")).headers["Content-Security-Policy"]


async def test_what_the_client_has_is_not_sent_again(served, folder):
    for path in ("/", "/assets/index-DiwrgTda.js", "/view"):
        tag = (await exchange(served, "GET", path, [HTML])).headers["ETag"]
        assert tag.startswith('"')
        for known in (tag, f"W/{tag}", "*", f'"other", {tag}'):
            for method in ("GET", "HEAD"):
                answer = await exchange(served, method, path, [HTML, ("If-None-Match", known)])
                assert (answer.status, answer.body) == (304, b"")
                assert answer.headers["ETag"] == tag
                assert "Vary" in answer.headers
                assert "Content-Type" not in answer.headers
        for other in ('"other"', tag.strip('"'), "", '"' * 50, "\udcff"):
            assert (await exchange(served, "GET", path, [HTML, ("If-None-Match", other)])).status == 200
    tag = (await exchange(served, "GET", "/assets/plain.css")).headers["ETag"]
    build(folder, {"assets/plain.css": FILES["assets/plain.css"]}, age_s=7200)
    assert (await exchange(served, "GET", "/assets/plain.css")).headers["ETag"] == tag, "the same bytes, copied anew"


async def test_a_compressed_file_is_sent_to_those_who_take_it(served, folder):
    path = "/assets/index-DiwrgTda.js"
    tags = set()
    for header, encoding, body in (
        (None, None, SCRIPT),
        ("gzip", "gzip", FILES[path[1:] + ".gz"]),
        ("gzip, br", "br", FILES[path[1:] + ".br"]),
        ("br;q=0.2, gzip;q=0.4, identity;q=0.1", "gzip", FILES[path[1:] + ".gz"]),
        ("br;q=0, gzip;q=0", None, SCRIPT),
        ("zstd", None, SCRIPT),
    ):
        answer = await exchange(served, "GET", path, [("Accept-Encoding", header)] if header else [])
        assert (answer.headers.get("Content-Encoding"), answer.body) == (encoding, body), header
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert answer.headers["Vary"] == "Accept-Encoding"
        tags.add(answer.headers["ETag"])
    assert len(tags) == 3
    # A build that brings no compressed files, copied over one that did.
    build(folder, {path[1:]: b"new"}, age_s=60)
    answer = await exchange(served, "GET", path, [("Accept-Encoding", "gzip, br")])
    assert (answer.body, "Content-Encoding" in answer.headers) == (b"new", False)
    # What is compressed must be the compressed form of something.
    build(folder, {"alone.js.gz": b"x"})
    assert (await exchange(served, "GET", "/alone.js", [("Accept-Encoding", "gzip")])).status == 404


async def test_a_dashboard_may_come_change_and_go_while_the_daemon_runs(world, tmp_path, log):
    folder = tmp_path / "dashboard"

    async def page(running):
        return (await exchange(running, "GET", "/")).body

    async with world.daemon(connected=False, http={"dashboard_dir": str(folder)}) as running:
        assert health_of(running)[0] is State.DEGRADED
        assert "No such file" in health_of(running)[1]
        own = await page(running)
        assert b"Pi Orchestrator" in own

        for broken in ("empty folder", "file", "index is a folder", "index is a link"):
            with case(broken):
                if broken == "file":
                    folder.write_bytes(b"x")
                else:
                    folder.mkdir()
                if broken == "index is a folder":
                    (folder / "index.html").mkdir()
                if broken == "index is a link":
                    (folder / "index.html").symlink_to("/etc/passwd")
                assert await page(running) == own
                assert (await exchange(running, "GET", "/view", [HTML])).body == own
                assert health_of(running)[0] is State.DEGRADED
                assert (await running.api.get("/readyz")).status in (200, 503)
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()

        build(folder)
        assert await page(running) == PAGE
        assert health_of(running) == (State.OK, "")
        build(folder, {"index.html": PAGE + b"<!-- 2 -->"})
        assert await page(running) == PAGE + b"<!-- 2 -->"
        # The folder itself may be a link to the build in use.
        shutil.move(folder, tmp_path / "release-1")
        build(tmp_path / "release-2", {"index.html": b"<title>second</title>"})
        folder.symlink_to("release-1")
        assert await page(running) == PAGE + b"<!-- 2 -->"
        folder.unlink()
        folder.symlink_to("release-2")
        assert await page(running) == b"<title>second</title>"
        # The console page's own policy does not stick to it, nor the other way round.
        assert (await exchange(running, "GET", "/")).headers["Content-Security-Policy"] != CONSOLE_POLICY
        folder.unlink()
        assert await page(running) == own
        assert (await exchange(running, "GET", "/")).headers["Content-Security-Policy"] == CONSOLE_POLICY
    told = [
        line["reason"] for line in map(json.loads, log.getvalue().splitlines()) if line["component"] == "api.assets"
    ]
    reasons = ["No such file", "Not a directory", "no plain file", "symbolic link", "", "No such file"]
    assert len(told) == len(reasons), "once for each change, not for each request"
    assert all(reason in said and bool(reason) == bool(said) for reason, said in zip(reasons, told, strict=True))


async def test_what_was_written_a_moment_ago_is_not_kept_for_ever(served, folder):
    """It may be half of a file that is still being copied."""
    name = "assets/late-DiwrgTda.js"
    build(folder, {name: b"half"}, age_s=1)
    half = await exchange(served, "GET", f"/{name}")
    assert (half.body, half.headers["Cache-Control"]) == (b"half", "no-cache")
    build(folder, {name: b"whole"}, age_s=0)
    whole = await exchange(served, "GET", f"/{name}", [("If-None-Match", half.headers["ETag"])])
    assert (whole.status, whole.body) == (200, b"whole")
    build(folder, {name: b"other"}, age_s=-3600)
    future = await exchange(served, "GET", f"/{name}")
    assert (future.body, future.headers["Cache-Control"]) == (b"other", "no-cache")
