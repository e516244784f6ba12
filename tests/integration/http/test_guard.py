"""Requests that a browser can be made to send: foreign names for this host, and requests of foreign pages."""

import socket

import pytest

from pi_orchestrator.app.build import ROUTES
from tests.support.api import call_route, case, check_answer, connection, exchange, target

pytestmark = pytest.mark.usefixtures("documented_answers")

DISABLE = "/api/v1/onboarding/auto/disable"
STATUS = "/api/v1/onboarding/auto/status"


@pytest.fixture
async def daemon(rig):
    async with rig.daemon(connected=False, http={"trusted_hosts": ["dashboard.example"]}) as running:
        yield running


async def status_of(running, method, path, *headers):
    answer = await exchange(running, method, path, headers)
    check_answer(method, path, answer)
    if answer.status == 403:
        assert answer.json["code"] == "FORBIDDEN"
    return answer.status


async def test_own_host_names_are_accepted(daemon):
    for host in [
        "127.0.0.1",
        "127.0.0.1:8081",
        "192.168.10.1",
        "192.168.10.1:8082",
        "[::1]",
        "[::1]:8081",
        "[fe80::1]:8081",
        "localhost",
        "localhost:5173",
        "LOCALHOST",
        "raspberrypi.local",
        "RaspberryPi.Local:8081",
        "a.b.local",
        socket.gethostname(),
        socket.gethostname().upper() + ":8081",
        "dashboard.example",
        "Dashboard.Example:443",
    ]:
        with case(host):
            for path in ("/health", STATUS):
                assert await status_of(daemon, "GET", path, ("Host", host)) == 200
            assert await status_of(daemon, "POST", DISABLE, ("Host", host)) == 200


async def test_foreign_host_name_is_refused(daemon):
    for host in [
        "evil.example",
        "evil.example:8081",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "local",
        ".evil",
        "evillocal",
        "raspberrypi.local.evil.example",
        "dashboard.example.evil.example",
        "notdashboard.example",
        "2130706433",
        "0x7f.1",
        "127.1",
        "127.0.0.1@evil.example",
        "evil.example#.local",
        "evil.example/.local",
        "evil.example?.local",
        "evil.example\\.local",
        "[::1",
        "[::1]evil.example",
        "[evil]",
        ":8081",
        "",
        " ",
        "\xe9.example",
        "\udcff.example",
    ]:
        with case(host):
            for method, path in (("GET", "/health"), ("GET", STATUS), ("POST", DISABLE), ("GET", "/api/nothing")):
                assert await status_of(daemon, method, path, ("Host", host)) == 403
            assert (await daemon.status())["enabled"] is True


async def test_refusal_names_host_and_origin(daemon):
    remedy = "use the IP address or NAME.local, or add the name to http.trusted_hosts"
    own = ("Host", own_origin(daemon).removeprefix("http://"))
    for headers, message in [
        ([("Host", "evil.example:80")], "the host name 'evil.example:80' is not trusted"),
        ([("Host", "")], "the host name '' is not trusted"),
        ([("Host", "x" * 5000)], f"the host name '{'x' * 100}' is not trusted"),
        ([("Host", "<b>\u202e\xad.example")], "the host name '<b>.example' is not trusted"),
        ([own, ("Origin", "http://evil.example")], "writes from 'http://evil.example' are not allowed"),
        ([own, ("Origin", "null")], "writes from 'null' are not allowed"),
        ([own, ("Sec-Fetch-Site", "cross-site")], "writes from other sites are not allowed"),
    ]:
        with case(headers):
            answer = await exchange(daemon, "POST", DISABLE, headers)
            error = answer.json["error"]
            assert (answer.status, error["message"], error["details"]) == (403, message, remedy)
            assert answer.headers["Content-Type"].startswith("application/json")


async def test_host_decision_is_repeatable(daemon):
    for _ in range(3):
        assert await status_of(daemon, "GET", STATUS, ("Host", "evil.example")) == 403
        assert await status_of(daemon, "GET", STATUS, ("Host", "raspberrypi.local")) == 200


async def test_missing_or_double_host_is_refused(daemon):
    for headers in ("", "Host: 127.0.0.1\r\nHost: evil.example\r\n"):
        async with connection(daemon) as sock:
            await sock.send(f"POST {DISABLE} HTTP/1.1\r\n{headers}Content-Length: 0\r\n\r\n".encode())
            assert (await sock.answer()).status in (400, 403)
    assert (await daemon.status())["enabled"] is True


# The origin of a write.


def own_origin(running):
    return f"http://127.0.0.1:{running.daemon.listen[0].port}"


async def test_write_from_own_page_is_allowed(daemon):
    port = daemon.daemon.listen[0].port
    host = f"127.0.0.1:{port}"
    for headers in (
        [],
        [("Origin", own_origin(daemon))],
        [("Origin", own_origin(daemon)), ("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "none")],
        [("Origin", f"http://{host}".upper().replace("HTTP", "http"))],
        [("Origin", "https://dashboard.example")],
        [("Origin", "http://dashboard.example:8443")],
    ):
        assert await status_of(daemon, "POST", DISABLE, ("Host", host), *headers) == 200, headers


async def test_write_through_proxy_is_allowed(daemon):
    headers = [("Host", "raspberrypi.local:5173"), ("Origin", "http://raspberrypi.local:5173")]
    assert await status_of(daemon, "POST", DISABLE, *headers) == 200


FOREIGN = [
    [("Origin", "http://evil.example")],
    [("Origin", "https://evil.example:8081")],
    [("Origin", "null")],
    [("Origin", "")],
    [("Origin", "file://")],
    [("Origin", "http://")],
    [("Origin", "http://[")],
    [("Origin", "http://[::1")],
    [("Origin", "http://127.0.0.1:notaport")],
    [("Origin", "http://127.0.0.1:99999999")],
    [("Origin", "http://127.0.0.1")],
    [("Origin", "http://127.0.0.1:3000")],
    [("Origin", "http://localhost")],
    [("Origin", "http://192.168.10.1:8081")],
    [("Origin", "http://127.0.0.1.evil.example")],
    [("Origin", "http://evil.example/127.0.0.1")],
    [("Origin", "http://127.0.0.1@evil.example")],
    [("Origin", "http://dashboard.example.evil.example")],
    [("Origin", "chrome-extension://abcdef")],
    [("Origin", "\udcff")],
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Sec-Fetch-Site", "")],
    [("Sec-Fetch-Site", "nonsense")],
    [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "same-origin")],
]


async def test_write_from_foreign_page_is_refused(daemon):
    for headers in FOREIGN:
        with case(headers):
            for key_header in ([], [("X-API-Key", daemon.admin.key)]):
                host = ("Host", own_origin(daemon).removeprefix("http://"))
                assert await status_of(daemon, "POST", DISABLE, host, *key_header, *headers) == 403
            assert (await daemon.status())["enabled"] is True


async def test_every_write_route_is_guarded(daemon):
    for route in [route for route in ROUTES if route.writes]:
        for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = await call_route(daemon.admin, route, headers=headers)
            assert (answer.status, answer.json["code"]) == (403, "FORBIDDEN"), route.path
    assert is_unchanged(daemon)


def is_unchanged(running):
    return running.app.onboarding.worker.enabled and [
        key.name for key in running.app.api_keys.keyring.stored_keys()
    ] == ["admin"]


async def test_foreign_form_post_is_refused(daemon):
    """A page may send these three content types to any origin without a preflight."""
    for content_type in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/plain"]:
        with case(content_type):
            body = b'{"name":"evil","scope":"admin"}'
            for origin in ("http://evil.example", "null"):
                headers = {"Origin": origin, "Content-Type": content_type, "Sec-Fetch-Site": "cross-site"}
                for path in (DISABLE, "/api/v1/keys"):
                    answer = await daemon.admin.post(path, data=body, headers=headers)
                    assert answer.status == 403
            assert is_unchanged(daemon)


async def test_foreign_read_has_no_cors_headers(daemon):
    """The browser hides an answer from a foreign page unless a header allows it."""
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = await daemon.api.get(STATUS, headers=headers)
        assert answer.status == 200
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


async def test_preflight_is_never_granted(daemon):
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for path in {target(route) for route in ROUTES}:
        answer = await daemon.api.call("OPTIONS", path, headers=headers)
        assert answer.status == 405
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
