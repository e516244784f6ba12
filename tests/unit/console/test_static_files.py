"""How the path and the content of a file decide its name, media type, caching and policy; also for invalid input."""

import base64
import hashlib

import pytest

from pi_orchestrator.console.static_files import (
    CONSOLE_POLICY,
    MAX_INLINE_SCRIPTS,
    dashboard_policy,
    has_content_hash,
    inline_scripts,
    is_navigation,
    media_type,
    path_parts,
)


@pytest.mark.parametrize(
    "path, parts",
    [
        ("/", ("index.html",)),
        ("/index.html", ("index.html",)),
        ("/assets/a b.js", ("assets", "a b.js")),
        ("/docs/", ("docs", "index.html")),
        ("/größe/图.png", ("größe", "图.png")),
        ("/cameras/24:6F:28:44:CB:60", ("cameras", "24:6F:28:44:CB:60")),
        ("/a..b/c..", ("a..b", "c..")),
    ],
)
def test_path_parts_of_valid_path(path, parts):
    assert path_parts(path) == parts


@pytest.mark.parametrize(
    "path",
    [
        *("", "x", "//", "//etc/passwd", "/a//b", "/a//"),
        *("/..", "/../x", "/a/../b", "/a/..", "/.", "/./a", "/a/./b"),
        *("/.env", "/.git/config", "/a/.htaccess", "/~root", "/...", "/..;/x"),
        *("/a\\..\\b", "\\etc\\passwd", "/\\", "/a\x00.html", "/a\n", "/a\r\nb", "/a\x7f", "/\x1b[2J", "/a\u2028b"),
        *("/\udcff", "/\u202etxt.exe"),
        *("/" + "x" * 256, "/" + "ü" * 128, "/" + "x/" * 40, "/" + "abc/" * 600),
    ],
    ids=repr,
)
def test_path_parts_unsafe_path_is_none(path):
    assert path_parts(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "assets/index-DiwrgTda.js",
        "assets/index-B_x-9Kd2.css",
        "assets/vendor-3kd92_-a.js.map",
        "assets/fonts/inter-Bq81kd0A.woff2",
        "static/js/main.3f2a91bc.chunk.js",
        "main.3f2a91bc.js",
        "main-3f2a91bc0d1e2f3a.css",
        "_next/static/chunks/pages-3f2a91bc.js",
    ],
)
def test_content_hash_in_build_output(path):
    assert has_content_hash(path.split("/"))


@pytest.mark.parametrize(
    "path",
    [
        "index.html",
        "main.js",
        "assets/page-settings.js",
        "assets/page-Settings.js",
        "assets/bootstrap-datepicker.min.js",
        "assets/report-20260101.pdf",
        "assets/video-1080p-h264.mp4",
        "page-DataGrid.js",
        "service-worker.js",
        "manifest.webmanifest",
        "a-deadbeef.js",
    ],
)
def test_content_hash_not_in_word_or_date(path):
    assert not has_content_hash(path.split("/"))


@pytest.mark.parametrize("path", ["assets/logo-3f2a91bc", "3f2a91bc.js", "assets/DiwrgTda.js"])
def test_content_hash_needs_name_and_extension(path):
    assert not has_content_hash(path.split("/"))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("index.html", "text/html; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("app.mjs", "text/javascript; charset=utf-8"),
        ("app.CSS", "text/css; charset=utf-8"),
        ("logo.svg", "image/svg+xml"),
        ("a.woff2", "font/woff2"),
        ("app.webmanifest", "application/manifest+json"),
        ("app.js.map", "application/json"),
        ("core.wasm", "application/wasm"),
        ("html", "application/octet-stream"),
        ("a.exe", "application/octet-stream"),
        ("a.html.", "application/octet-stream"),
    ],
)
def test_media_type_by_extension(name, expected):
    assert media_type(name) == expected


@pytest.mark.parametrize(
    "path, accept, expected",
    [
        ("/cameras", "text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("/cameras/24:6F:28:44:CB:60", "TEXT/HTML", True),
        ("/devices/192.168.10.21", "text/html", True),
        ("/v1.2/notes", "text/html", True),
        ("/cameras", "*/*", False),
        ("/cameras", "", False),
        ("/cameras", "application/json", False),
        ("/assets/app.js", "text/html", False),
        ("/wp-login.php", "text/html", False),
        ("/logo.PNG", "text/html", False),
    ],
)
def test_navigation_accepts_html_only(path, accept, expected):
    assert is_navigation(path, accept) is expected


def test_inline_scripts_listed_by_hash():
    page = (
        b'<script src="/a.js"></script><SCRIPT type="module" SRC=/b.js></SCRIPT>'
        b"<script>let a = 1;\r\n</script>\n<script data-src-set=x>let b</script >"
    )

    def source_of(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"

    assert inline_scripts(page) == (source_of(b"let a = 1;\n"), source_of(b"let b"))
    assert f"script-src 'self' 'wasm-unsafe-eval' {source_of(b'let b')};" in dashboard_policy([source_of(b"let b")])
    assert len(inline_scripts(b"<script>1</script>" * 1000)) == MAX_INLINE_SCRIPTS


def test_policies_forbid_unsafe_sources():
    for policy in (CONSOLE_POLICY, dashboard_policy()):
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert "unsafe-inline" not in rules["script-src"]
        assert "unsafe-eval" not in rules["script-src"].replace("wasm-unsafe-eval", "")
        assert rules["frame-ancestors"] == "'none'"
        assert rules["connect-src"] == "'self'"
    assert "unsafe-inline" not in CONSOLE_POLICY
    assert "http" not in CONSOLE_POLICY
