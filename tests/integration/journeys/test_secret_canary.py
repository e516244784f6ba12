"""No file, answer, stream, log or traceback contains the password, in any encoding."""

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import stat
from itertools import chain
from urllib.parse import quote, quote_plus

import pytest

from pi_orchestrator.app.build import ROUTES
from pi_orchestrator.features.provisioning import store as sessions
from pi_orchestrator.features.provisioning.credentials import purpose
from pi_orchestrator.storage.vault import KEY_FILE
from tests.support.api import production_log
from tests.support.provisioning import BASE, SSID, Batch, batch, set_breaker
from tests.support.rig import Api
from tests.support.waiting import eventually

CANARY = 'Kan"arien/Vogel+4711 \\&?'


def encodings(secret):
    """Encodings of a secret that occur by accident, and hashes that a dictionary attack can use."""
    raw = secret.encode()
    yield raw
    yield json.dumps(secret)[1:-1].encode()
    yield json.dumps(json.dumps(secret))[1:-1].encode()
    yield repr(secret)[1:-1].encode()
    for shift in range(3):
        # The prefix length shifts base64; characters that depend on neighbours are cut off.
        text = base64.b64encode(b"x" * shift + raw + b"x" * ((3 - (len(raw) + shift)) % 3))
        yield text[(0, 2, 3)[shift] : -4]
        yield text[(0, 2, 3)[shift] : -4].translate(bytes.maketrans(b"+/", b"-_"))
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield quote(secret, safe="").encode()
    yield quote_plus(secret).encode()
    yield quote(secret).encode()
    yield secret.encode("utf-16-le")
    yield secret.encode("utf-16-be")
    for algorithm in ("md5", "sha1", "sha256", "sha512"):
        digest = hashlib.new(algorithm, raw)
        yield digest.digest()
        yield digest.hexdigest().encode()
        yield base64.b64encode(digest.digest()).rstrip(b"=")
    # The key that WPA2 derives from a password and the SSID.
    derived = hashlib.pbkdf2_hmac("sha1", raw, SSID.encode(), 4096, 32)
    yield derived
    yield derived.hex().encode()


ENCODINGS = tuple(encodings(CANARY))


def assert_clean(content, where):
    """Raise an AssertionError, which does not repeat the secret, if the content has it in any encoding."""
    content = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    found = [number for number, encoding in enumerate(ENCODINGS) if encoding in content]
    assert not found, f"the password is in {where}, in encoding {found}"


def assert_files_clean(rig):
    """Check all files of the state folder; return their names."""
    files = [file for file in rig.state_dir.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert_clean(file.read_bytes(), file.name)
    return {file.name for file in files}


@pytest.fixture
def output(monkeypatch):
    """`output()`: all answers with headers, and the log at debug level; they are checked after the test."""
    answers = []
    call = Api.call

    async def recorded(self, method, path, **options):
        answer = await call(self, method, path, **options)
        answers.append((f"{method} {path}", repr(dict(answer.headers)).encode() + answer.body))
        return answer

    monkeypatch.setattr(Api, "call", recorded)
    with production_log() as log:
        yield lambda: [*answers, ("the log", log.getvalue().encode())]
    for where, content in [*answers, ("the log", log.getvalue().encode())]:
        assert_clean(content, where)


@contextlib.asynccontextmanager
async def event_stream(provisioning: Batch):
    """Content of `/api/v1/events`; when the block is left, it is read up to the end of the session and checked."""
    content = bytearray()
    url = f"{provisioning.admin.url}/api/v1/events"
    async with provisioning.admin.session.get(url, headers={"X-API-Key": provisioning.admin.key}) as response:
        assert response.status == 200
        yield content
        while b"session.status" not in content or b'"closed"' not in content:
            content += await response.content.readany()
    assert_clean(bytes(content), "the stream")


async def get_all_routes(provisioning: Batch):
    """Request every GET route once."""
    mac = provisioning.cameras[0].mac
    for route in ROUTES:
        if route.method == "GET":
            ids = {"id": provisioning.id if route.tag == "provisioning" else mac, "mac": mac}
            path = re.sub(r"\{(\w+)\}", lambda match, ids=ids: ids[match[1]], route.path)
            await provisioning.admin.get(path, params={"include_devices": "true"} if path == provisioning.url else {})
    for path in (
        f"{provisioning.url}?api_key={provisioning.admin.key}",
        "/api/v1/cameras",
        "/metrics",
        "/openapi.json",
    ):
        assert (await provisioning.admin.get(path)).status == 200


def test_assert_clean_finds_secret():
    for wrapped in (
        CANARY,
        json.dumps({"password": CANARY}),
        repr({"password": CANARY}),
        *(base64.b64encode((prefix + CANARY + " and more").encode()) for prefix in ("", "a", "ab", "abc")),
        CANARY.encode().hex(),
        quote(f"p={CANARY}"),
        CANARY.encode("utf-16"),
        hashlib.sha256(CANARY.encode()).hexdigest(),
    ):
        with pytest.raises(AssertionError, match="the password is in"):
            assert_clean(wrapped, "here")
    assert_clean(f"{CANARY[:-1]} {CANARY[1:]} {SSID}", "nowhere")


async def test_session_password_leaks_nowhere(rig, output, monkeypatch):
    faults = ("provision-echo", "provision-reject", "wrong-password", "provision-500", "answer-lost")
    set_breaker(monkeypatch, failures=2)
    async with batch(rig, 7, faults=faults, interval=0.2) as provisioning, event_stream(provisioning):
        await provisioning.start(target_password=CANARY)
        repeated = await provisioning.admin.post(
            f"{BASE}/batch",
            json={"target_ssid": SSID, "target_password": CANARY},
            headers={"Idempotency-Key": "twice"},
        )
        assert repeated.status == 409
        await provisioning.wait_for_cameras(7)
        assert_files_clean(rig)
        await provisioning.post("provision-all", json={})
        await eventually(lambda: any(camera.provision_requests for camera in provisioning.cameras))
        assert_files_clean(rig)
        await provisioning.wait_until_done(within=60)
        assert (await provisioning.session())["failed_count"] >= 2
        await get_all_routes(provisioning)
        names = assert_files_clean(rig)
        assert {"orchestrator.db", "orchestrator.db-wal", KEY_FILE} <= names
        service = provisioning.running.app.provisioning.service
        for part in (provisioning.running.app, provisioning.running.daemon, service, *vars(service).values()):
            assert_clean(repr(part) + repr(vars(part) if hasattr(part, "__dict__") else ""), "a repr")
        await provisioning.post("close")
        await get_all_routes(provisioning)
        assert_files_clean(rig)
    assert_files_clean(rig)
    assert len(output()) > 50


async def test_idempotency_store_is_clean(rig, output):
    async with rig.daemon(connected=False) as running:
        body = {"target_ssid": SSID, "target_password": CANARY}
        for _ in range(2):
            headers = {"Idempotency-Key": "mine"}
            assert (await running.admin.post(f"{BASE}/batch", json=body, headers=headers)).status == 201
        ((content, digest),) = rig.rows("SELECT body, request_hash FROM idempotency")
        assert_clean(content, "the stored answer")
        raw = f"{BASE}/batch".encode() + b"\n" + json.dumps(body).encode()
        assert digest != hashlib.sha256(raw).digest(), "an unkeyed hash would allow guessing"
        assert_files_clean(rig)


async def test_invalid_password_leaks_nowhere(rig, output):
    async with rig.daemon(connected=False) as running:
        for bad in (f"{CANARY}\x07", f"{CANARY}ü", CANARY * 3, [CANARY], {CANARY: 1}):
            for path in (f"{BASE}/batch", f"{BASE}/batch/start"):
                answer = await running.admin.post(path, json={"target_ssid": SSID, "target_password": bad})
                assert answer.status == 400
        for broken in (f'{{"target_password": "{quote(CANARY)}', f'{{"target_password": {json.dumps(CANARY)}, }}'):
            headers = {"Content-Type": "application/json"}
            assert (await running.admin.post(f"{BASE}/batch", data=broken, headers=headers)).status == 400
        assert_files_clean(rig)
    assert rig.rows("SELECT count(*) FROM sessions") == [(0,)]


async def test_password_repeated_by_camera_is_withheld(rig, output):
    """The camera repeats the password in its answer to the request and in all later status messages."""
    async with batch(rig, 1, faults=("provision-echo",), interval=0.1) as provisioning:
        (camera,) = provisioning.cameras
        await provisioning.start(target_password=CANARY)
        await provisioning.wait_for_cameras(1)
        await provisioning.post(f"devices/{camera.mac}/provision")
        failed = await provisioning.wait_for_state(camera.mac, "failed")
        assert failed["error_code"] == "DEVICE_REJECTED"

        async def last_error():
            answer = await provisioning.admin.get(f"/api/v1/cameras/{camera.mac}")
            return answer.data["health"].get("last_error") if answer.status == 200 else None

        async def withheld():
            return "withheld" in (await last_error() or "")

        await eventually(withheld, what="the error of the camera is withheld")
        await provisioning.post("close")
        count = provisioning.running.app.cameras.presence.messages["live"]
        await eventually(lambda: provisioning.running.app.cameras.presence.messages["live"] > count + 2)
        assert await withheld(), "still withheld after the session"
        await get_all_routes(provisioning)
    async with rig.daemon(auto_onboard={"enabled": False, "mode": "off"}) as running:
        provisioning.running = running
        async with rig.fleet(1, interval=0.1) as fleet:
            again = fleet.cameras[0]
            await rig.publish(f"camera/status/{again.mac}", {"mac": again.mac, "last_error": f"bad {CANARY}"})
            await eventually(withheld, what="the error is withheld after a restart")


async def test_error_of_camera_without_session_is_shown(rig):
    # A camera that does not answer would show why it is not onboarded.
    async with rig.daemon() as running, rig.camera(1) as camera:
        await camera.publish_status(last_error="lens is dirty")

        async def is_shown():
            shown = await running.camera(camera.mac)
            return shown and shown["health"].get("last_error") == "lens is dirty"

        await eventually(is_shown)


async def test_error_of_verified_camera_is_shown(rig):
    async with batch(rig, 1, interval=0.1) as provisioning:
        (camera,) = provisioning.cameras
        await provisioning.start()
        await provisioning.wait_for_cameras(1)
        await provisioning.post("provision-all", json={})
        assert (await provisioning.wait_until_done())["verified_count"] == 1
        await rig.publish(f"camera/status/{camera.mac}", {"mac": camera.mac, "last_error": "lens is dirty"})

        async def is_shown():
            found = await provisioning.running.camera(camera.mac)
            return found["health"].get("last_error") == "lens is dirty"

        await eventually(is_shown)


# At rest.


async def sealed_password(rig):
    ((content,),) = rig.rows("SELECT sealed FROM session_secrets")
    return bytes(content)


@pytest.mark.parametrize("way", ["close", "discard"])
async def test_sealed_password_is_erased_after_session(rig, way):
    async with rig.daemon(connected=False) as running:
        body = {"target_ssid": SSID, "target_password": CANARY}
        session = (await running.admin.post(f"{BASE}/batch", json=body)).data["session"]["id"]
        sealed = await sealed_password(rig)
        content = b"".join(file.read_bytes() for file in rig.state_dir.glob("orchestrator.db*"))
        assert sealed in content, "the sealed password is stored during the session"
        if way == "close":
            await running.admin.post(f"{BASE}/batch/{session}/close")
        else:
            await running.admin.delete(f"{BASE}/sessions/{session}")
        for file in (file for file in rig.state_dir.rglob("*") if file.is_file()):
            assert sealed not in file.read_bytes(), file.name
            assert sealed[12:44] not in file.read_bytes(), file.name  # a part, without the nonce


async def test_key_rotation_erases_old_key(rig, output):
    async with batch(rig, 1) as provisioning:
        await provisioning.start(target_password=CANARY)
        await provisioning.wait_for_cameras(1)
        file = rig.state_dir / KEY_FILE
        (old,) = json.loads(file.read_text())["keys"].values()
        sealed = await sealed_password(rig)
        assert (await provisioning.admin.post(f"{BASE}/secrets/rotate")).data["rotated"] == 1
        (new,) = json.loads(file.read_text())["keys"].values()
        assert new != old
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for stored in (path for path in rig.state_dir.rglob("*") if path.is_file()):
            content = stored.read_bytes()
            assert old.encode() not in content
            assert base64.b64decode(old) not in content
            assert sealed not in content
        for key in (old, new):
            for where, content in output():
                assert key.encode() not in content, where
        await provisioning.post("provision-all", json={})
        assert (await provisioning.wait_until_done())["verified_count"] == 1
        assert provisioning.cameras[0].provisioned[0].password_sha256 == hashlib.sha256(CANARY.encode()).hexdigest()
        assert_files_clean(rig)


async def test_interrupted_key_rotation_loses_nothing(rig):
    async with rig.daemon(connected=False) as running:
        body = {"target_ssid": SSID, "target_password": CANARY}
        session = (await running.admin.post(f"{BASE}/batch", json=body)).data["session"]["id"]
        await asyncio.to_thread(running.app.resources.vault.begin_rotation)
    assert len(json.loads((rig.state_dir / KEY_FILE).read_text())["keys"]) == 2
    async with rig.daemon(connected=False) as running:
        vault = running.app.resources.vault
        database = running.app.resources.database
        before = await sessions.password(database.read, session)
        assert await asyncio.to_thread(vault.open, before, purpose=purpose(session)) == CANARY
        assert (await running.admin.post(f"{BASE}/secrets/rotate")).data["rotated"] == 1
        after = await sessions.password(database.read, session)
        assert await asyncio.to_thread(vault.open, after, purpose=purpose(session)) == CANARY
        assert after.key_id != before.key_id
    assert len(json.loads((rig.state_dir / KEY_FILE).read_text())["keys"]) == 1


@pytest.mark.parametrize("damage", ["missing", "damaged", "another"])
async def test_session_without_its_key_reports_failure(rig, output, damage):
    async with batch(rig, 1) as provisioning:
        await provisioning.start(target_password=CANARY)
    file = rig.state_dir / KEY_FILE
    if damage == "missing":
        file.unlink()
    elif damage == "damaged":
        file.write_bytes(b"\x00" * 40)
    else:
        content = json.loads(file.read_text())
        content["keys"] = dict.fromkeys(content["keys"], base64.b64encode(b"k" * 32).decode())
        file.write_text(json.dumps(content))
    async with batch(rig, 1) as again:
        again.id = provisioning.id
        (mac,) = await again.wait_for_cameras(1)
        await again.admin.post(f"{BASE}/sessions/{provisioning.id}/resume")
        await again.post(f"devices/{mac}/provision")
        failed = await again.wait_for_state(mac, "failed")
        assert failed["error_code"] == "DATABASE_ERROR"
        assert re.search("its key is missing|is damaged", failed["error_message"])
        assert again.cameras[0].provision_requests == 0
        assert (await again.post("close")).data["session"]["state"] == "closed"
        await again.start(target_password=CANARY)
        await again.wait_for_cameras(1)
        await again.post("provision-all", json={})
        assert (await again.wait_until_done())["verified_count"] == 1
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_encodings_are_distinct():
    assert all(len(encoding) >= 16 for encoding in ENCODINGS)
    assert len(set(ENCODINGS)) >= 20
    assert not any(encoding in b"".join(chain([SSID.encode()])) for encoding in ENCODINGS)
