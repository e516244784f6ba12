"""What a browser is told about a file: pure rules, each with what must not pass."""

import base64
import hashlib

import pytest

from pi_orchestrator.api.web_files import (
    CONSOLE_POLICY,
    accepted_encodings,
    dashboard_policy,
    inline_scripts,
    is_hashed,
    media_type,
    navigates,
    parts_of,
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
def test_a_path_becomes_names_below_the_root(path, parts):
    assert parts_of(path) == parts


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
def test_a_path_that_leads_elsewhere_has_no_names(path):
    assert parts_of(path) is None


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
def test_a_name_with_a_hash_is_known(path):
    assert is_hashed(path.split("/"))


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
        "assets/logo-3f2a91bc",
        "3f2a91bc.js",
        "assets/DiwrgTda.js",
        "a-deadbeef.js",
    ],
)
def test_a_word_or_a_date_is_no_hash(path):
    assert not is_hashed(path.split("/"))


@pytest.mark.parametrize(
    "header, wanted",
    [
        (None, ()),
        ("", ()),
        ("identity", ()),
        ("gzip", ("gzip",)),
        ("x-gzip", ("gzip",)),
        ("gzip, deflate, br", ("br", "gzip")),
        ("GZIP;Q=1, Br ; q=0.5", ("gzip", "br")),
        ("br;q=0.5, gzip;q=0.9", ("gzip", "br")),
        ("br;q=0, gzip", ("gzip",)),
        ("*", ("br", "gzip")),
        ("*;q=0", ()),
        ("br, *;q=0", ("br",)),
        ("gzip;q=0, *", ("br",)),
        ("identity, gzip;q=0.5", ()),
        ("identity;q=0.5, gzip;q=0.6", ("gzip",)),
        ("identity;q=0, gzip;q=0.001", ("gzip",)),
        ("gzip;q=nan, br;q=inf", ()),
        ("gzip;q=-1, br;q=2", ()),
        ("gzip;q=, br;q=x", ()),
        ("gzipped, brr, xgzip", ()),
        (",,;;q=1,=", ()),
        ("a," * 100 + "gzip", ()),
    ],
)
def test_encodings_by_their_weight(header, wanted):
    assert accepted_encodings(header) == wanted


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
def test_types_come_from_our_own_table(name, expected):
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
def test_only_a_person_on_the_way_to_a_view_navigates(path, accept, expected):
    assert navigates(path, accept) is expected


def test_inline_scripts_are_named_by_their_hash_and_others_not():
    page = (
        b'<script src="/a.js"></script><SCRIPT type="module" SRC=/b.js></SCRIPT>'
        b"<script>let a = 1;\r\n</script>\n<script data-src-set=x>let b</script >"
    )

    def named(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"

    assert inline_scripts(page) == (named(b"let a = 1;\n"), named(b"let b"))
    assert f"script-src 'self' 'wasm-unsafe-eval' {named(b'let b')};" in dashboard_policy([named(b"let b")])
    assert len(inline_scripts(b"<script>1</script>" * 1000)) == 32


def test_no_policy_lets_a_page_run_what_was_written_into_it_or_be_framed():
    for policy in (CONSOLE_POLICY, dashboard_policy()):
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert "unsafe-inline" not in rules["script-src"]
        assert "unsafe-eval" not in rules["script-src"].replace("wasm-unsafe-eval", "")
        assert rules["frame-ancestors"] == "'none'"
        assert rules["connect-src"] == "'self'"
    assert "unsafe-inline" not in CONSOLE_POLICY
    assert "http" not in CONSOLE_POLICY
