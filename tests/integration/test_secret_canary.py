"""A password that is looked for everywhere: no file, answer, stream, log or trace has it in any writing."""

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

from pi_orchestrator.api.routes import ROUTES
from pi_orchestrator.storage import sessions
from pi_orchestrator.storage.vault import KEY_FILE, Vault
from pi_orchestrator.workers.sessions import purpose
from tests.support.api import production_log
from tests.support.provisioning import BASE, SSID, Batch, batch
from tests.support.waiting import eventually
from tests.support.world import Api

CANARY = 'Kan"arien/Vogel+4711 \\&?'
KEY = "secrets.key"


def encodings(secret):
    """Every way to write it that a program comes to by accident, and what gives it away to a dictionary."""
    raw = secret.encode()
    yield raw
    yield json.dumps(secret)[1:-1].encode()
    yield json.dumps(json.dumps(secret))[1:-1].encode()
    yield repr(secret)[1:-1].encode()
    for shift in range(3):
        # What stands before it moves the letters of base64; those that depend on neighbours are cut off.
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
    for salt in (SSID.encode(),):
        yield hashlib.pbkdf2_hmac("sha1", raw, salt, 4096, 32)
        yield hashlib.pbkdf2_hmac("sha1", raw, salt, 4096, 32).hex().encode()


MARKS = tuple(encodings(CANARY))


def clean(content, where):
    """AssertionError, without the secret, where it is in there."""
    content = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    found = [number for number, mark in enumerate(MARKS) if mark in content]
    assert not found, f"the password is in {where}, written in way {found}"


def clean_files(world):
    files = [file for file in world.state_dir.rglob("*") if file.is_file()]
    assert files
    for file in files:
        clean(file.read_bytes(), file.name)
    return {file.name for file in files}


@pytest.fixture
def said(monkeypatch):
    """Whatever any client is answered, headers included, and the log at its most talkative."""
    heard = []
    call = Api.call

    async def listening(self, method, path, **more):
        answer = await call(self, method, path, **more)
        heard.append((f"{method} {path}", repr(dict(answer.headers)).encode() + answer.body))
        return answer

    monkeypatch.setattr(Api, "call", listening)
    with production_log() as log:
        yield lambda: [*heard, ("the log", log.getvalue().encode())]
    for where, content in [*heard, ("the log", log.getvalue().encode())]:
        clean(content, where)


@contextlib.asynccontextmanager
async def stream(one):
    """The multiplexed stream, read to its end when the block is left."""
    heard = bytearray()
    url = f"{one.admin.url}/api/v1/events"
    async with one.admin.session.get(url, headers={"X-API-Key": one.admin.key}) as response:
        assert response.status == 200
        yield heard
        while b"session.status" not in heard or b'"closed"' not in heard:
            heard += await response.content.readany()
    clean(bytes(heard), "the stream")


async def look_at_everything(one: Batch):
    """Every GET route, once, with whatever is in it now."""
    mac = one.cameras[0].mac
    for route in ROUTES:
        if route.method == "GET":
            ids = {"id": one.id if route.tag == "provisioning" else mac, "mac": mac}
            path = re.sub(r"\{(\w+)\}", lambda match, ids=ids: ids[match[1]], route.path)
            await one.admin.get(path, params={"include_devices": "true"} if path == one.url else {})
    for path in (f"{one.url}?api_key={one.admin.key}", "/api/v1/cameras", "/metrics", "/openapi.json"):
        assert (await one.admin.get(path)).status == 200


def test_the_search_finds_what_it_looks_for():
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
            clean(wrapped, "here")
    clean(f"{CANARY[:-1]} {CANARY[1:]} {SSID}", "nowhere")


async def test_a_session_leaves_no_trace_of_its_password_anywhere(world, said):
    faults = ("provision-echo", "provision-reject", "wrong-password", "provision-500", "answer-lost")
    settings = {"provisioning": {"breaker_failures": 2}}
    async with batch(world, 7, faults=faults, settings=settings, interval=0.2) as one, stream(one):
        await one.start(target_password=CANARY)
        again = await one.admin.post(
            f"{BASE}/batch",
            json={"target_ssid": SSID, "target_password": CANARY},
            headers={"Idempotency-Key": "twice"},
        )
        assert again.status == 409
        await one.joined(7)
        clean_files(world)
        await one.post("provision-all", json={})
        await eventually(lambda: any(camera.provision_requests for camera in one.cameras))
        clean_files(world)
        await one.until_done(within=60)
        assert (await one.session())["failed_count"] >= 2
        await look_at_everything(one)
        names = clean_files(world)
        assert {"orchestrator.db", "orchestrator.db-wal", KEY} <= names
        for part in (one.running.services, one.running.daemon, one.running.services.provisioning):
            clean(repr(part) + repr(vars(part) if hasattr(part, "__dict__") else ""), "a repr")
        await one.post("close")
        await look_at_everything(one)
        clean_files(world)
    clean_files(world)
    assert len(said()) > 50


async def test_the_idempotency_key_of_a_start_keeps_nothing_of_it(world, said):
    async with world.daemon(connected=False) as running:
        body = {"target_ssid": SSID, "target_password": CANARY}
        for _ in range(2):
            headers = {"Idempotency-Key": "mine"}
            assert (await running.admin.post(f"{BASE}/batch", json=body, headers=headers)).status == 201
        ((content, digest),) = world.rows("SELECT body, request_hash FROM idempotency")
        clean(content, "the kept answer")
        raw = f"{BASE}/batch".encode() + b"\n" + json.dumps(body).encode()
        assert digest != hashlib.sha256(raw).digest(), "a hash that anybody can make tells whoever guesses"
        clean_files(world)


async def test_a_refused_password_is_told_nowhere(world, said):
    async with world.daemon(connected=False) as running:
        for bad in (f"{CANARY}\x07", f"{CANARY}ü", CANARY * 3, [CANARY], {CANARY: 1}):
            for path in (f"{BASE}/batch", f"{BASE}/batch/start"):
                answer = await running.admin.post(path, json={"target_ssid": SSID, "target_password": bad})
                assert answer.status == 400
        for broken in (f'{{"target_password": "{quote(CANARY)}', f'{{"target_password": {json.dumps(CANARY)}, }}'):
            headers = {"Content-Type": "application/json"}
            assert (await running.admin.post(f"{BASE}/batch", data=broken, headers=headers)).status == 400
        clean_files(world)
    assert world.rows("SELECT count(*) FROM sessions") == [(0,)]


async def test_a_camera_that_repeats_its_password_is_not_quoted(world, said):
    """In the answer to its request, and in every status message from then on."""
    async with batch(world, 1, faults=("provision-echo",), interval=0.1) as one:
        (camera,) = one.cameras
        await one.start(target_password=CANARY)
        await one.joined(1)
        await one.post(f"devices/{camera.mac}/provision")
        failed = await one.until(camera.mac, "failed")
        assert failed["error_code"] == "DEVICE_REJECTED"

        async def trouble():
            answer = await one.admin.get(f"/api/v1/cameras/{camera.mac}")
            return answer.data["health"].get("last_error") if answer.status == 200 else None

        async def withheld():
            return "withheld" in (await trouble() or "")

        await eventually(withheld, what="the camera has said it, and it was not believed")
        await one.post("close")
        heard = one.running.services.presence.messages["live"]
        await eventually(lambda: one.running.services.presence.messages["live"] > heard + 2)
        assert await withheld(), "its session is over, and it says it still"
        await look_at_everything(one)
    async with world.daemon(auto_onboard={"enabled": False, "mode": "off"}) as running:
        one.running = running
        async with world.fleet(1, interval=0.1) as fleet:
            again = fleet.cameras[0]
            await world.publish(f"camera/status/{again.mac}", {"mac": again.mac, "last_error": f"bad {CANARY}"})
            await eventually(withheld, what="and a restart is no reason to believe it")


async def test_what_a_camera_says_of_other_troubles_is_told(world):
    async with world.daemon() as running:
        await world.announce(1, last_error="lens is dirty")

        async def told():
            camera = await running.camera(world.mac(1))
            return camera and camera["health"].get("last_error") == "lens is dirty"

        await eventually(told)


async def test_a_camera_that_was_verified_may_speak_again(world):
    async with batch(world, 1, interval=0.1) as one:
        (camera,) = one.cameras
        await one.start()
        await one.joined(1)
        await one.post("provision-all", json={})
        assert (await one.until_done())["verified_count"] == 1
        await world.publish(f"camera/status/{camera.mac}", {"mac": camera.mac, "last_error": "lens is dirty"})

        async def told():
            found = await one.running.camera(camera.mac)
            return found["health"].get("last_error") == "lens is dirty"

        await eventually(told)


# At rest.


async def sealed_of(world):
    ((content,),) = world.rows("SELECT sealed FROM session_secrets")
    return bytes(content)


@pytest.mark.parametrize("way", ["close", "discard"])
async def test_what_was_sealed_is_gone_from_file_and_log_once_a_session_is_over(world, way):
    async with world.daemon(connected=False) as running:
        body = {"target_ssid": SSID, "target_password": CANARY}
        session = (await running.admin.post(f"{BASE}/batch", json=body)).data["session"]["id"]
        sealed = await sealed_of(world)
        content = b"".join(file.read_bytes() for file in world.state_dir.glob("orchestrator.db*"))
        assert sealed in content, "it is found while it is there"
        if way == "close":
            await running.admin.post(f"{BASE}/batch/{session}/close")
        else:
            await running.admin.delete(f"{BASE}/sessions/{session}")
        for file in (file for file in world.state_dir.rglob("*") if file.is_file()):
            assert sealed not in file.read_bytes(), file.name
            assert sealed[12:44] not in file.read_bytes(), file.name


async def test_after_a_rotation_the_old_key_is_gone_and_the_session_goes_on(world, said):
    async with batch(world, 1) as one:
        await one.start(target_password=CANARY)
        await one.joined(1)
        file = world.state_dir / KEY_FILE
        (old,) = json.loads(file.read_text())["keys"].values()
        sealed = await sealed_of(world)
        assert (await one.admin.post(f"{BASE}/secrets/rotate")).data["rotated"] == 1
        (new,) = json.loads(file.read_text())["keys"].values()
        assert new != old
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for stored in (one for one in world.state_dir.rglob("*") if one.is_file()):
            content = stored.read_bytes()
            assert old.encode() not in content
            assert base64.b64decode(old) not in content
            assert sealed not in content
        for key in (old, new):
            for where, content in said():
                assert key.encode() not in content, where
        await one.post("provision-all", json={})
        assert (await one.until_done())["verified_count"] == 1
        assert one.cameras[0].provisioned[0].password_sha256 == hashlib.sha256(CANARY.encode()).hexdigest()
        clean_files(world)


async def test_a_rotation_that_a_crash_cut_off_loses_nothing(world):
    async with world.daemon(connected=False) as running:
        body = {"target_ssid": SSID, "target_password": CANARY}
        session = (await running.admin.post(f"{BASE}/batch", json=body)).data["session"]["id"]
        await asyncio.to_thread(running.services.provisioning._vault.begin_rotation)
    assert len(json.loads((world.state_dir / KEY_FILE).read_text())["keys"]) == 2
    async with world.daemon(connected=False) as running:
        vault: Vault = running.services.provisioning._vault
        database = running.services.database
        before = await sessions.password(database.read, session)
        assert await asyncio.to_thread(vault.open, before, purpose=purpose(session)) == CANARY
        assert (await running.admin.post(f"{BASE}/secrets/rotate")).data["rotated"] == 1
        after = await sessions.password(database.read, session)
        assert await asyncio.to_thread(vault.open, after, purpose=purpose(session)) == CANARY
        assert after.key_id != before.key_id
    assert len(json.loads((world.state_dir / KEY_FILE).read_text())["keys"]) == 1


@pytest.mark.parametrize("damage", ["missing", "damaged", "another"])
async def test_without_its_key_a_session_says_what_to_do_and_a_new_one_works(world, said, damage):
    async with batch(world, 1) as one:
        await one.start(target_password=CANARY)
    file = world.state_dir / KEY_FILE
    if damage == "missing":
        file.unlink()
    elif damage == "damaged":
        file.write_bytes(b"\x00" * 40)
    else:
        held = json.loads(file.read_text())
        held["keys"] = dict.fromkeys(held["keys"], base64.b64encode(b"k" * 32).decode())
        file.write_text(json.dumps(held))
    async with batch(world, 1) as again:
        again.id = one.id
        (mac,) = await again.joined(1)
        await again.admin.post(f"{BASE}/sessions/{one.id}/resume")
        await again.post(f"devices/{mac}/provision")
        failed = await again.until(mac, "failed")
        assert failed["error_code"] == "DATABASE_ERROR"
        assert re.search("its key is gone|is damaged", failed["error_message"])
        assert again.cameras[0].provision_requests == 0
        assert (await again.post("close")).data["session"]["state"] == "closed"
        await again.start(target_password=CANARY)
        await again.joined(1)
        await again.post("provision-all", json={})
        assert (await again.until_done())["verified_count"] == 1
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_every_mark_is_long_enough_to_mean_something():
    assert all(len(mark) >= 16 for mark in MARKS)
    assert len(set(MARKS)) >= 20
    assert not any(mark in b"".join(chain([SSID.encode()])) for mark in MARKS)
