"""`/`: the console page or a dashboard folder, its headers, and changes while the daemon runs."""

import gzip
import json
import os
import shutil
import time

import pytest

from pi_orchestrator.console.static_files import CONSOLE_POLICY
from pi_orchestrator.core.health import State
from tests.support.api import case, exchange

pytestmark = pytest.mark.usefixtures("documented_answers")

ACCEPT_HTML = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
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
    """Write a built dashboard whose files are `age_s` old."""
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
async def served(rig, folder):
    async with rig.daemon(connected=False, http={"dashboard_dir": str(folder)}) as running:
        yield running


def health_of(running):
    part = running.daemon.health.get("dashboard")
    return part.state, part.reason


async def test_console_page_served_in_every_auth_mode(rig):
    async with rig.daemon(connected=False, auth={"mode": "required"}) as running:
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
        view = await exchange(running, "GET", "/cameras", [ACCEPT_HTML])
        assert (view.status, view.body, view.headers["Vary"]) == (200, page.body, "Accept, Accept-Encoding")
        assert (await exchange(running, "GET", "/api/v1/cameras")).status == 401


async def test_page_foreign_host_is_forbidden(served):
    for path in ("/", "/assets/plain.css", "/view"):
        answer = await exchange(served, "GET", path, [("Host", "evil.example"), ACCEPT_HTML])
        assert (answer.status, answer.json["code"]) == (403, "FORBIDDEN")


async def test_navigation_to_missing_file_returns_page(served):
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
        page = await exchange(served, "GET", path, [ACCEPT_HTML])
        assert (page.status, page.body) == (200, PAGE), path
        assert page.headers["Cache-Control"] == "no-cache"
    assert (await exchange(served, "GET", "/docs/", [ACCEPT_HTML])).body == FILES["docs/index.html"]
    for path, headers in (
        ("/cameras", []),
        ("/cameras", [("Accept", "*/*")]),
        ("/cameras", [("Accept", "application/json")]),
        ("/assets/gone-DiwrgTda.js", [ACCEPT_HTML]),
        ("/favicon.ico", [ACCEPT_HTML]),
        ("/assets", []),
        ("/docs", []),
    ):
        answer = await exchange(served, "GET", path, headers)
        assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND"), path
        assert answer.headers["Cache-Control"] == "no-store"


async def test_api_paths_are_never_files(served, folder):
    for name in ("metrics", "health", "api", "version"):
        build(folder, {f"{name}/secret.html": b"<b>not this</b>"} if name != "version" else {"version": b"not this"})
    for path in ("/api", "/api/", "/api/secret.html", "/API/x", "/%61pi/x", "/metrics/secret.html", "/health/x"):
        for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
            answer = await exchange(served, method, path, [ACCEPT_HTML])
            assert answer.status == 404, (method, path)
            assert answer.headers["Content-Type"] == "application/json"
    assert (await exchange(served, "GET", "/version", [ACCEPT_HTML])).json["version"]
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        for path in ("/", "/assets/plain.css", "/nothing"):
            answer = await exchange(served, method, path, [ACCEPT_HTML])
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


async def test_file_headers_follow_its_name(served):
    for path, kind, caching in (
        ("/assets/index-DiwrgTda.js", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        ("/assets/plain.css", "text/css; charset=utf-8", "no-cache"),
        ("/assets/core.wasm", "application/wasm", "no-cache"),
        ("/logo.svg", "image/svg+xml", "no-cache"),
    ):
        got = await exchange(served, "GET", path)
        assert (got.status, got.body) == (200, FILES[path[1:]])
        assert (got.headers["Content-Type"], got.headers["Cache-Control"]) == (kind, caching)
        assert got.headers["Accept-Ranges"] == "none"
        assert "script-src 'self' 'wasm-unsafe-eval';" in got.headers["Content-Security-Policy"]
        head = await exchange(served, "HEAD", path)
        same = {name: value for name, value in got.headers.items() if name not in ("X-Request-Id", "Date")}
        assert same == {name: value for name, value in head.headers.items() if name not in ("X-Request-Id", "Date")}
        part = await exchange(served, "GET", path, [("Range", "bytes=0-3")])
        assert (part.status, part.body) == (200, got.body)
    assert "'sha256-" in (await exchange(served, "GET", "/")).headers["Content-Security-Policy"]


async def test_current_etag_is_not_modified(served, folder):
    for path in ("/", "/assets/index-DiwrgTda.js", "/view"):
        tag = (await exchange(served, "GET", path, [ACCEPT_HTML])).headers["ETag"]
        assert tag.startswith('"')
        for matching in (tag, f"W/{tag}", "*", f'"other", {tag}'):
            for method in ("GET", "HEAD"):
                answer = await exchange(served, method, path, [ACCEPT_HTML, ("If-None-Match", matching)])
                assert (answer.status, answer.body) == (304, b"")
                assert answer.headers["ETag"] == tag
                assert "Vary" in answer.headers
                assert "Content-Type" not in answer.headers
        for other in ('"other"', tag.strip('"'), "", '"' * 50, "\udcff"):
            assert (await exchange(served, "GET", path, [ACCEPT_HTML, ("If-None-Match", other)])).status == 200
    tag = (await exchange(served, "GET", "/assets/plain.css")).headers["ETag"]
    build(folder, {"assets/plain.css": FILES["assets/plain.css"]}, age_s=7200)
    assert (await exchange(served, "GET", "/assets/plain.css")).headers["ETag"] == tag, "the same bytes, copied again"


async def test_compressed_file_sent_if_accepted(served, folder):
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
    # A build without compressed files, copied over a build with compressed files.
    build(folder, {path[1:]: b"new"}, age_s=60)
    answer = await exchange(served, "GET", path, [("Accept-Encoding", "gzip, br")])
    assert (answer.body, "Content-Encoding" in answer.headers) == (b"new", False)
    # A page's inline scripts are allowed for every encoding.
    build(folder, {"index.html.gz": gzip.compress(PAGE)})
    packed = await exchange(served, "GET", "/", [("Accept-Encoding", "gzip")])
    assert packed.headers["Content-Encoding"] == "gzip"
    plain = await exchange(served, "GET", "/")
    assert packed.headers["Content-Security-Policy"] == plain.headers["Content-Security-Policy"]
    # A compressed file without its original is not served.
    build(folder, {"alone.js.gz": b"x"})
    assert (await exchange(served, "GET", "/alone.js", [("Accept-Encoding", "gzip")])).status == 404


async def test_changed_dashboard_folder_is_served(rig, tmp_path, log):
    folder = tmp_path / "dashboard"

    async def page(running):
        return (await exchange(running, "GET", "/")).body

    async with rig.daemon(connected=False, http={"dashboard_dir": str(folder)}) as running:
        assert health_of(running)[0] is State.DEGRADED
        assert "No such file" in health_of(running)[1]
        console = await page(running)
        assert b"Pi Orchestrator" in console

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
                assert await page(running) == console
                assert (await exchange(running, "GET", "/view", [ACCEPT_HTML])).body == console
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
        # Dashboard and console page each have their own policy.
        assert (await exchange(running, "GET", "/")).headers["Content-Security-Policy"] != CONSOLE_POLICY
        folder.unlink()
        assert await page(running) == console
        assert (await exchange(running, "GET", "/")).headers["Content-Security-Policy"] == CONSOLE_POLICY
    logged = [
        line["reason"] for line in map(json.loads, log.getvalue().splitlines()) if line["component"] == "console.assets"
    ]
    reasons = ["No such file", "Not a directory", "not a regular file", "symbolic link", "", "No such file"]
    assert len(logged) == len(reasons), "once per change, not per request"
    assert all(reason in text and bool(reason) == bool(text) for reason, text in zip(reasons, logged, strict=True))


async def test_recent_file_is_not_immutable(served, folder):
    """It may be incomplete because it is still being copied."""
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
