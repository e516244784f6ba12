"""Access control: modes, keys, scopes, key guessing, and the session cookie."""

import base64
import hashlib
import re
import stat
from datetime import timedelta

import pytest

from pi_orchestrator.app.build import ROUTES
from pi_orchestrator.core.errors import SettingsError
from pi_orchestrator.edge_http.key_store import Scope
from tests.support.api import (
    BATCH,
    call_route,
    camera_is_registered,
    check_answer,
    exchange,
    production_log,
    route_of,
    target,
)
from tests.support.clock import FakeClock
from tests.support.rig import Api
from tests.support.sampling import sampled

pytestmark = pytest.mark.usefixtures("documented_answers", "sample_data_per_route")

KEYS = "/api/v1/keys"
STATUS = "/api/v1/onboarding/auto/status"
OPEN = {"/health", "/api/health", "/api/v1/health", "/healthz", "/readyz", "/version"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")
HOUR_S = 3600
REQUIRED = {"auth": {"mode": "required"}}

# Routes of scope operate that need a key in mode provisioning: they delete data of an operator, or reset a camera.
DESTRUCTIVE = {
    ("POST", "/api/v1/espcam/replace"),
    ("DELETE", "/api/v1/espcam/paired/{mac}"),
    ("DELETE", "/api/v1/espcam/dismissed/{mac}"),
    ("POST", "/api/v1/cameras/{id}/commands"),
}
PROTECTED = [route for route in ROUTES if route.path not in OPEN]


async def client_with_new_key(running, name, scope):
    """Create a key; return a client that uses it."""
    answer = await running.admin.post(KEYS, json={"name": name, "scope": scope})
    assert answer.status == 201, answer.body
    return Api(running.api.session, running.api.url, answer.data["secret"])


def cookie_of(answer):
    """The cookie as a browser sends it back."""
    return answer.headers["Set-Cookie"].split(";")[0]


# Modes.


async def test_required_mode_needs_key_except_health(rig):
    async with rig.daemon(connected=False, **REQUIRED) as running:
        for route in ROUTES:
            answer = await call_route(running.api, route)
            if route.path in OPEN:
                assert answer.status == 200
            else:
                assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED"), route.path
                assert "Set-Cookie" not in answer.headers


def spellings(path):
    """Spellings of a path that a careless server might accept."""
    last = path[-1]
    return [
        path,
        f"/{path}",
        path.replace("/", "//"),
        f"{path}/",
        f"{path}//",
        f"{path}/.",
        f"{path}/..",
        f"/.{path}",
        f"/x/..{path}",
        f"/health/..{path}",
        f"/health/%2e%2e{path}",
        f"/health{path}",
        f"/health;{path}",
        f"/health%00{path}",
        path.upper(),
        path.title(),
        path.replace("/", "%2F"),
        "/" + path[1:].replace("/", "%2f"),
        path.replace("/", "\\"),
        f"{path[:-1]}%{ord(last):02x}",
        path.replace("a", "%61"),
        path.replace("/v1/", "/%761/"),
        path.replace("/api/", "/%61pi/"),
        f"{path};a=b",
        f"{path};jsessionid=/health",
        f"{path}.json",
        f"{path}%00",
        f"{path}%00.json",
        f"{path}%20",
        f"{path}%0a",
        f"{path}?/health",
        f"{path}#/health",
        f"{path}??",
        f"{path}?api_key=",
        f"http://127.0.0.1{path}",
        f"http://127.0.0.1/health/..{path}",
        f"//127.0.0.1{path}",
    ]


@pytest.mark.timeout(900)  # with --slow, some 10,000 requests, each on its own connection
async def test_odd_path_or_method_needs_key(rig):
    async with rig.daemon(connected=False, **REQUIRED) as running:
        before = await running.admin.get(STATUS)
        for path in sampled(sorted({target(route) for route in PROTECTED}), 12):
            for spelling in spellings(path):
                for method in METHODS if spelling == path else ("GET", "HEAD", "POST", "DELETE"):
                    answer = await exchange(running, method, spelling)
                    assert answer.status in (400, 401, 404, 405), f"{method} {spelling}: {answer.status}"
                    if spelling == path and route_of(method, path):
                        assert answer.status == 401
        after = await running.admin.get(STATUS)
        assert after.data == before.data, "nothing has changed"


async def test_common_unused_paths_are_closed(rig):
    async with rig.daemon(connected=False, **REQUIRED) as running:
        for path in ("/docs", "/redoc", "/swagger", "/debug", "/admin", "/static/../state/admin.key"):
            assert (await exchange(running, "GET", path)).status in (401, 404)


async def test_provisioning_mode_needs_key_only_for_some_routes(rig):
    keyed = {("GET", KEYS), ("POST", KEYS), ("DELETE", f"{KEYS}/{{id}}")}
    keyed |= {("POST", "/api/v1/onboarding/auto/events/cleanup"), ("GET", "/api/v1/system/bundle")}
    for path in "/api/v1/config", "/api/dashboard/config":
        keyed |= {("PUT", f"{path}/{{key}}"), ("POST", f"{path}/{{key}}/reset")}
    keyed |= {(route.method, route.path) for route in ROUTES if route.path.startswith("/api/v1/provisioning/")}
    keyed |= DESTRUCTIVE
    async with rig.daemon() as running, rig.fleet(1):
        await camera_is_registered(running)
        for route in ROUTES:
            answer = await call_route(running.api, route)
            if (route.method, route.path) in keyed:
                assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED"), route.path
            else:
                assert answer.status == route.status, route.path


async def test_mode_off_needs_no_key(rig):
    async with rig.daemon(connected=False, auth={"mode": "off"}) as running:
        assert (await running.api.get(KEYS)).status == 200
        assert (await running.api.post(KEYS, json={"name": "anybody"})).status == 201
        assert (await running.api.get(KEYS, headers={"X-API-Key": "wrong"})).status == 200


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.168.10.1:8081", "[::]:8081", "[fe80::1]:8081"])
def test_mode_off_needs_loopback(rig, listen):
    loopback = rig.tree()["http"]["listen"]
    for addresses in ([listen], [*loopback, listen]):
        with pytest.raises(SettingsError) as refused:
            rig.settings(auth={"mode": "off"}, http={"listen": addresses}, auto_onboard={"allow_loopback": False})
        assert "auth.mode" in str(refused.value.problems)


async def test_reload_changes_mode(rig):
    async with rig.daemon(connected=False) as running:
        assert (await running.api.get(STATUS)).status == 200
        running.daemon.apply(rig.settings(**REQUIRED))
        assert (await running.api.get(STATUS)).status == 401
        assert (await running.admin.get(STATUS)).status == 200


async def test_reload_to_mode_off_needs_loopback(rig):
    reachable = {"auto_onboard": {"allow_loopback": False}, "http": {"listen": ["0.0.0.0:0"]}}
    async with rig.daemon(connected=False, **reachable) as running:
        with pytest.raises(SettingsError, match="not valid"):
            running.daemon.apply(rig.settings(auth={"mode": "off"}))
        assert (await running.api.get(KEYS)).status == 401


# Keys.


def wrong_keys(key):
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {
        "empty": [""],
        "wrong": ["wrong"],
        "its beginning": [key[:-1]],
        "its end": [key[1:]],
        "prefixed": ["x" + key],
        "suffixed": [key + "x"],
        "doubled in one header": [key + key],
        "doubled with a comma": [f"{key},{key}"],
        "doubled in two headers": [key, key],
        "a wrong one first": ["wrong", key],
        "a wrong one last": [key, "wrong"],
        "upper case": [key.upper()],
        "quoted": [f'"{key}"'],
        "as a bearer": [f"Bearer {key}"],
        "its id": [key.split("_")[1]],
        "its digest": [digest],
        "with a NUL": [key + "%00"],
        "not ASCII": [key + "\xff"],
        "not UTF-8": ["\udcff\udcfe"],
        "very long": [key * 50],
        "the admin's name": ["admin"],
        "SQL": ["' OR 1=1 --"],
    }


async def test_wrong_keys_are_refused(rig):
    async with rig.daemon(connected=False, **REQUIRED) as running:
        assert (await running.admin.get(STATUS)).status == 200
        for number, (name, values) in enumerate(wrong_keys(running.admin.key).items()):
            # Each from its own address, so that the limit for wrong keys does not apply.
            source = f"127.0.1.{number + 1}"
            answer = await exchange(running, "GET", STATUS, [("X-API-Key", v) for v in values], source=source)
            assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED"), name
            check_answer("GET", STATUS, answer)


async def test_key_is_read_from_header_only(rig):
    async with rig.daemon(connected=False, **REQUIRED) as running:
        key = running.admin.key
        for path, header in (
            (f"{STATUS}?api_key={key}", ()),
            (f"{STATUS}?X-API-Key={key}", ()),
            (STATUS, ("Authorization", f"Bearer {key}")),
            (STATUS, ("Authorization", "Basic " + base64.b64encode(f"admin:{key}".encode()).decode())),
            (STATUS, ("Api-Key", key)),
            (STATUS, ("X_API_Key", key)),
            (STATUS, ("Cookie", f"X-API-Key={key}")),
            (STATUS, ("Cookie", f"piorch_session={key}")),
        ):
            answer = await exchange(running, "GET", path, [header] if header else [])
            assert answer.status == 401, header or path


async def test_configured_key_prevents_creation_of_admin_key(rig):
    key = "configured-key-0123"
    async with rig.daemon(connected=False, auth={"api_key": key}) as running:
        configured = Api(running.api.session, running.api.url, key)
        assert (await configured.get(KEYS)).data == {"keys": [], "count": 0}
        assert not (rig.state_dir / "admin.key").exists()
        assert (await configured.post(KEYS, json={"name": "another"})).status == 201
        running.daemon.apply(rig.settings(auth={"api_key": "another-key-4567"}))
        assert (await configured.get(KEYS)).status == 401, "the reload replaces the configured key"
        replaced = Api(running.api.session, running.api.url, "another-key-4567")
        assert (await replaced.get(KEYS)).status == 200
    assert key.encode() not in all_bytes_in(rig.state_dir)


def all_bytes_in(folder):
    """The bytes of every file, including the database's write-ahead log."""
    return b"\n".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


async def test_first_start_creates_admin_key_file(rig):
    async with rig.daemon(connected=False) as running:
        file = rig.state_dir / "admin.key"
        for name in ("admin.key", "session.secret", "orchestrator.db", "orchestrator.db-wal"):
            assert stat.S_IMODE((rig.state_dir / name).stat().st_mode) == 0o600, name
        assert stat.S_IMODE(rig.state_dir.stat().st_mode) == 0o700
        assert re.fullmatch(r"piorch_[0-9a-f]{8}_[\w-]{43}\n", file.read_text())
        (key,) = (await running.admin.get(KEYS)).data["keys"]
        assert (key["name"], key["scope"]) == ("admin", "admin")


async def test_later_start_creates_no_key(rig):
    async with rig.daemon(connected=False):
        made = (rig.state_dir / "admin.key").read_text(), (rig.state_dir / "admin.key").stat().st_mtime_ns
    async with rig.daemon(connected=False) as running:
        assert ((rig.state_dir / "admin.key").read_text(), (rig.state_dir / "admin.key").stat().st_mtime_ns) == made
        assert (await running.admin.get(KEYS)).data["count"] == 1
    (rig.state_dir / "admin.key").unlink()  # as the installer advises, once the key is stored in a safe place
    async with rig.daemon(connected=False):
        assert not (rig.state_dir / "admin.key").exists()


async def test_log_has_path_of_key_file_but_no_key(rig):
    with production_log() as log:
        for start in "first", "second":
            async with rig.daemon(connected=False) as running:
                made = await client_with_new_key(running, f"key {start}", "read")
                for secret in (running.admin.key, made.key):
                    await running.api.get(KEYS, headers={"X-API-Key": secret + "x"})
                    await running.api.get(f"/api/nothing?api_key={secret}")
                    await exchange(running, "GET", f"/api/{'x' * 9000}?api_key={secret}")
                    await exchange(running, "GET", STATUS, [("X-API-Key", secret + "\x00")])
                    await exchange(running, "GET", STATUS, [("X-API-Key", secret), ("Content-Length", "x")])
                    assert (await running.admin.get(KEYS)).status == 200
                    assert secret not in log.getvalue()
                    assert secret.split("_", 2)[2] not in log.getvalue()
                assert cookie_of(await made.get(STATUS)).split("=")[1] not in log.getvalue()
    assert log.getvalue().count(str(rig.state_dir / "admin.key")) == 1
    assert log.getvalue().count("admin key created") == 1


async def test_new_key_is_stored_as_digest(rig):
    async with rig.daemon(connected=False) as running:
        answer = await running.admin.post(
            KEYS, json={"name": "dashboard", "scope": "read"}, headers={"Idempotency-Key": "once"}
        )
        secret = answer.data["secret"]
        assert set(answer.data) == {"key", "secret"}
        assert answer.data["key"]["name"] == "dashboard"
        assert (await Api(running.api.session, running.api.url, secret).get(STATUS)).status == 200

        listed = await running.admin.get(KEYS)
        assert [key["name"] for key in listed.data["keys"]] == ["admin", "dashboard"]
        assert all(set(key) == {"id", "name", "scope", "created_at"} for key in listed.data["keys"])
        assert_absent(secret, listed.body, all_bytes_in(rig.state_dir))
        digest = hashlib.sha256(secret.encode()).digest()
        assert rig.rows("SELECT digest FROM api_keys WHERE name = 'dashboard'") == [(digest,)]
    assert_absent(secret, all_bytes_in(rig.state_dir))


def assert_absent(secret, *places):
    random = secret.split("_", 2)[2]
    raw = base64.urlsafe_b64decode(random + "=")
    for encoded in (secret.encode(), random.encode(), raw, raw.hex().encode(), base64.b64encode(secret.encode())):
        for place in places:
            assert encoded not in place


async def test_keys_survive_restart(rig):
    async with rig.daemon(connected=False) as running:
        key = (await client_with_new_key(running, "dashboard", "operate")).key
    async with rig.daemon(connected=False, **REQUIRED) as running:
        for client in (running.admin, Api(running.api.session, running.api.url, key)):
            assert (await client.get(STATUS)).status == 200


async def test_key_name_is_unique(daemon):
    assert (await daemon.admin.post(KEYS, json={"name": "dashboard"})).status == 201
    answer = await daemon.admin.post(KEYS, json={"name": "dashboard"})
    assert (answer.status, answer.json["code"]) == (409, "CONFLICT")
    assert (await daemon.admin.get(KEYS)).data["count"] == 2


@pytest.mark.parametrize("by", ["id", "name"])
async def test_revoked_key_is_refused_permanently(rig, by):
    async with rig.daemon(connected=False, **REQUIRED) as running:
        made = await client_with_new_key(running, "dash board", "admin")
        first = await made.get(KEYS)
        cookie = cookie_of(first)
        key = next(key for key in first.data["keys"] if key["name"] == "dash board")
        for _ in "once", "again":
            answer = await running.admin.delete(f"{KEYS}/{key[by].replace(' ', '%20')}")
            assert (answer.status, answer.body) == (204, b"")
            assert (await made.get(KEYS)).status == 401
            assert (await running.api.get(KEYS, headers={"Cookie": cookie})).status == 401
        assert (await running.admin.get(KEYS)).data["count"] == 1
    async with rig.daemon(connected=False, **REQUIRED) as running:
        assert (await running.api.get(KEYS, headers={"X-API-Key": made.key})).status == 401


async def test_key_can_revoke_itself(daemon):
    made = await client_with_new_key(daemon, "short-lived", "admin")
    assert (await made.delete(f"{KEYS}/short-lived")).status == 204
    assert (await made.get(KEYS)).status == 401


async def test_last_admin_key_cannot_be_revoked(daemon, rig):
    answer = await daemon.admin.delete(f"{KEYS}/admin")
    assert (answer.status, answer.json["code"]) == (409, "CONFLICT")
    await daemon.admin.post(KEYS, json={"name": "another", "scope": "admin"})
    assert (await daemon.admin.delete(f"{KEYS}/admin")).status == 204


# Scopes.


@pytest.mark.parametrize("mode", ["provisioning", "required"])
async def test_key_opens_only_its_scope(rig, mode):
    async with rig.daemon(auth={"mode": mode}) as running, rig.fleet(1):
        await camera_is_registered(running)
        for scope in Scope:
            client = await client_with_new_key(running, f"{mode} {scope}", scope)
            for route in ROUTES:
                more = {"json": {"name": f"by {scope}"}} if (route.method, route.path) == ("POST", KEYS) else {}
                answer = await call_route(client, route, **more)
                if route.scope is None or scope.covers(route.scope):
                    assert answer.status == route.status, f"{scope} {route.method} {route.path}: {answer.body}"
                    if answer.status == 201 and "session" in answer.data:
                        await client.post(
                            f"{BATCH}/{answer.data['session']['id']}/close"
                        )  # the next key starts a session, too
                else:
                    assert (answer.status, answer.json["code"]) == (403, "FORBIDDEN"), f"{scope} {route.path}"
                    assert str(route.scope) in answer.json["error"]["message"]


def test_writes_need_more_than_scope_read():
    for route in PROTECTED:
        if route.writes:
            assert route.scope in (Scope.OPERATE, Scope.ADMIN), route.path
        provisioning = route.path.startswith("/api/v1/provisioning/") or (route.method, route.path) in DESTRUCTIVE
        bundle = route.path == "/api/v1/system/bundle"  # contains all data, including operator actions
        assert (route.scope is Scope.ADMIN or provisioning or bundle) is route.needs_key_in_provisioning_mode, (
            route.path
        )


async def test_new_key_has_scope_operate(daemon):
    assert (await daemon.admin.post(KEYS, json={"name": "plain"})).data["key"]["scope"] == "operate"


# Key guessing.


@pytest.fixture
async def guarded(rig, clock):
    """A daemon that requires a key, with a fake clock."""
    async with rig.daemon(connected=False, clock=clock, **REQUIRED) as running:
        yield running


async def try_key(running, key, source):
    answer = await exchange(running, "GET", STATUS, [("X-API-Key", key)], source=source)
    check_answer("GET", STATUS, answer)
    return answer


ATTACKER, CLIENT = "127.0.0.66", "127.0.0.7"


async def test_wrong_keys_are_limited_per_address(guarded, clock):
    answers = [await try_key(guarded, f"guess {number}", ATTACKER) for number in range(15)]
    assert [answer.status for answer in answers] == [401] * 10 + [429] * 5
    assert {answer.json["code"] for answer in answers[10:]} == {"RATE_LIMITED"}
    assert all(answer.headers["Retry-After"] == "30" for answer in answers[10:])
    assert (await try_key(guarded, "one guess", "127.0.0.67")).status == 401, "the limit is per address"
    await clock.advance(30)
    assert (await try_key(guarded, "a guess", ATTACKER)).status == 401, "allowed again after the wait"


async def test_limited_address_cannot_confirm_key(guarded, clock):
    for number in range(10):
        await try_key(guarded, f"guess {number}", ATTACKER)
    right = await try_key(guarded, guarded.admin.key, ATTACKER)
    wrong = await try_key(guarded, "wrong", ATTACKER)
    assert right.status == wrong.status == 429
    assert right.json["error"] == wrong.json["error"]
    assert "Set-Cookie" not in right.headers
    await clock.advance(30)
    assert (await try_key(guarded, guarded.admin.key, ATTACKER)).status == 200


async def test_key_holder_cannot_confirm_other_keys(guarded):
    answer = await guarded.admin.post(KEYS, json={"name": "reader", "scope": "read"})
    own = answer.data["secret"]
    assert (await try_key(guarded, own, ATTACKER)).status == 200
    for number in range(10):
        await try_key(guarded, f"guess {number}", ATTACKER)
    right = await try_key(guarded, guarded.admin.key, ATTACKER)
    wrong = await try_key(guarded, "wrong", ATTACKER)
    assert right.status == wrong.status == 429
    assert (await try_key(guarded, own, ATTACKER)).status == 200


async def test_known_client_is_never_locked_out(guarded):
    assert (await try_key(guarded, guarded.admin.key, CLIENT)).status == 200
    for number in range(200):
        await try_key(guarded, "guess", f"127.1.{number}.1")
        await try_key(guarded, "guess", CLIENT)  # also from the client's own address
    assert (await try_key(guarded, "guess", CLIENT)).status == 429
    assert (await try_key(guarded, guarded.admin.key, CLIENT)).status == 200
    assert (await try_key(guarded, guarded.admin.key, "127.0.0.8")).status == 200


async def test_route_without_key_cannot_confirm_key(rig, clock):
    async with rig.daemon(connected=False, clock=clock) as running:  # mode provisioning: the status needs no key
        for number in range(30):
            answer = await try_key(running, f"guess {number}", ATTACKER)
            assert (answer.status, "Set-Cookie" in answer.headers) == (200, False)
        right = await try_key(running, running.admin.key, ATTACKER)
        assert (right.status, "Set-Cookie" in right.headers) == (200, False), "a valid key looks like a wrong one"
        assert "Set-Cookie" in (await try_key(running, running.admin.key, CLIENT)).headers


async def test_request_without_key_is_not_counted(guarded):
    for _ in range(30):
        assert (await exchange(guarded, "GET", STATUS, source=ATTACKER)).status == 401
    assert (await try_key(guarded, guarded.admin.key, ATTACKER)).status == 200


# The cookie.


async def test_cookie_is_http_only_and_strict(daemon):
    for path in (STATUS, KEYS):
        answer = await daemon.admin.get(path)
        (header,) = answer.headers.getall("Set-Cookie")
        value, *attributes = header.split("; ")
        assert set(attributes) == {"HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Strict"}
        assert daemon.admin.key.split("_", 2)[2] not in value
    for answer in (await daemon.api.get(STATUS), await daemon.api.get(KEYS), await daemon.api.get("/health")):
        assert "Set-Cookie" not in answer.headers


async def test_refused_request_sets_no_cookie(daemon):
    reader = await client_with_new_key(daemon, "reader", "read")
    for answer in (await reader.get(KEYS), await daemon.api.get(KEYS, headers={"X-API-Key": "wrong"})):
        assert answer.status in (401, 403)
        assert "Set-Cookie" not in answer.headers


async def test_cookie_is_renewed_only_if_invalid(daemon):
    cookie = cookie_of(await daemon.admin.get(STATUS))
    assert "Set-Cookie" not in (await daemon.admin.get(STATUS, headers={"Cookie": cookie})).headers
    renewed = await daemon.admin.get(STATUS, headers={"Cookie": "piorch_session=of.another.life"})
    assert (await daemon.api.get(KEYS, headers={"Cookie": cookie_of(renewed)})).status == 200


async def test_cookie_allows_only_reads(rig):
    async with rig.daemon(**REQUIRED) as running, rig.fleet(1):
        await camera_is_registered(running)
        cookie = {"Cookie": cookie_of(await running.admin.get(STATUS))}
        for route in PROTECTED:
            answer = await call_route(running.api, route, headers=cookie)
            assert answer.status == (401 if route.writes else 200), f"{route.method} {route.path}"
        assert (await running.api.call("HEAD", KEYS, headers=cookie)).status == 200


async def test_cookie_has_scope_of_its_key(daemon):
    reader = await client_with_new_key(daemon, "reader", "read")
    cookie = cookie_of(await reader.get(STATUS))
    assert (await daemon.api.get(KEYS, headers={"Cookie": cookie})).status == 403


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "OWN"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 401),
        ({"Sec-Fetch-Site": "cross-site"}, 401),
        ({"Sec-Fetch-Site": ""}, 401),
        ({"Origin": "http://evil.example"}, 401),
        ({"Origin": "null"}, 401),
        ({"Origin": "http://["}, 401),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, 401),
    ],
    ids=str,
)
async def test_cookie_needs_own_origin(daemon, headers, status):
    cookie = cookie_of(await daemon.admin.get(KEYS))
    own = {name: daemon.api.url if value == "OWN" else value for name, value in headers.items()}
    assert (await daemon.api.get(KEYS, headers={"Cookie": cookie} | own)).status == status


async def test_changed_cookie_is_refused(daemon):
    value = cookie_of(await daemon.admin.get(STATUS)).split("=", 1)[1]
    key_id, until, signature = value.split(".")
    assert (await daemon.api.get(KEYS, headers={"Cookie": f"piorch_session={value}"})).status == 200
    for forged in (
        "",
        ".",
        "..",
        "...",
        f"{key_id}.{int(until) + 1}.{signature}",
        f"configured.{until}.{signature}",
        f"{key_id}.{until}.{signature[:-1]}{'0' if signature[-1] != '0' else '1'}",
        f"{key_id}.{until}.{signature.upper()}",
        f"{key_id}.{until}.",
        f"{key_id}.{until}",
        f"{key_id}.x.{signature}",
        f".{until}.{signature}",
        f"{value}.{value}",
        f"{value}x",
        "\udcff.\udcff.\udcff",
        "a.99999999999999999999." + "0" * 64,
    ):
        answer = await exchange(daemon, "GET", KEYS, [("Cookie", f"piorch_session={forged}")])
        assert answer.status == 401, forged


async def test_cookie_expires_on_monotonic_time(rig, clock):
    async with rig.daemon(connected=False, clock=clock, **REQUIRED) as running:
        cookie = {"Cookie": cookie_of(await running.admin.get(STATUS))}
        for years in (3, -5, 40):
            clock.jump_wall(timedelta(days=365 * years))
            assert (await running.api.get(STATUS, headers=cookie)).status == 200
        clock.skip(12 * HOUR_S - 1)
        assert (await running.api.get(STATUS, headers=cookie)).status == 200
        clock.skip(2)
        assert (await running.api.get(STATUS, headers=cookie)).status == 401
        clock.jump_wall(timedelta(days=-2))
        assert (await running.api.get(STATUS, headers=cookie)).status == 401, (
            "a clock change does not make the cookie valid again"
        )


async def test_cookie_survives_restart_not_reboot(rig, clock):
    async with rig.daemon(connected=False, clock=clock, **REQUIRED) as running:
        cookie = {"Cookie": cookie_of(await running.admin.get(STATUS))}
    async with rig.daemon(connected=False, clock=clock, **REQUIRED) as running:
        assert (await running.api.get(STATUS, headers=cookie)).status == 200
    rebooted = FakeClock(boot_id="boot-2", monotonic=20.0)
    async with rig.daemon(connected=False, clock=rebooted, **REQUIRED) as running:
        assert (await running.api.get(STATUS, headers=cookie)).status == 401


async def test_cookie_of_other_installation_is_refused(rig, clock, tmp_path):
    async with rig.daemon(connected=False, clock=clock) as running:
        cookie = {"Cookie": cookie_of(await running.admin.get(STATUS))}
    rig.state_dir = tmp_path / "another"
    async with rig.daemon(connected=False, clock=clock, **REQUIRED) as running:
        assert (await running.api.get(STATUS, headers=cookie)).status == 401


async def test_cookie_ends_when_key_is_unconfigured(rig):
    async with rig.daemon(connected=False, auth={"api_key": "configured-key-0123"}) as running:
        configured = Api(running.api.session, running.api.url, "configured-key-0123")
        cookie = {"Cookie": cookie_of(await configured.get(STATUS))}
        assert (await running.api.get(KEYS, headers=cookie)).status == 200
        running.daemon.apply(rig.settings())
        assert (await running.api.get(KEYS, headers=cookie)).status == 401


async def test_cookie_ends_when_configured_key_changes(rig):
    async with rig.daemon(connected=False, auth={"mode": "required", "api_key": "the-first-key-01"}) as running:
        answer = await running.api.get(f"{KEYS}", headers={"X-API-Key": "the-first-key-01"})
        cookie = answer.headers["Set-Cookie"].split(";")[0]
        assert (await running.api.get(KEYS, headers={"Cookie": cookie})).status == 200
        running.daemon.apply(rig.settings(auth={"mode": "required", "api_key": "the-second-key-2"}))
        assert (await running.api.get(KEYS, headers={"Cookie": cookie})).status == 401
