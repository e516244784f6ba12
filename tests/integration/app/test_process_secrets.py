"""Canaries: known secrets are passed in at every entry point, and must not appear in any output."""

import base64
import itertools
import json
import signal
import urllib.parse
from pathlib import Path

import pytest

from tests.support.process import command, daemon, write_toml
from tests.support.waiting import eventually

# Secrets with characters that each encoding spells differently; too long to occur by chance.
API_KEY = 'Kanari/en+vogel&key="7yQ2%x'
MQTT_PASSWORD = 'Zaun/koenig+mqtt&pass="9wR4%z'
KEY_FILES = {"admin.key", "session.secret"}


def spellings(secret):
    """(encoding, bytes) of a secret: base64 in its three alignments, hex and percent in upper and lower case."""
    raw = secret.encode()
    yield "plain", raw
    for name in ("utf-16-le", "utf-16-be"):
        yield name, secret.encode(name)
    for shift in range(3):
        # The neighbouring bytes share base64 characters with both ends of the secret: those characters are cut off.
        whole = base64.b64encode(b"\0" * shift + raw)
        inner = whole[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]
        yield "base64", inner
        yield "base64 for URLs", inner.replace(b"+", b"-").replace(b"/", b"_")
    yield "hex", raw.hex().encode()
    yield "HEX", raw.hex().upper().encode()
    percent = urllib.parse.quote(secret, safe="")
    yield "percent", percent.encode()
    yield "percent of a path", urllib.parse.quote(secret).encode()
    yield "percent, lower case", percent.lower().encode()
    yield "JSON", json.dumps(secret)[1:-1].encode()
    yield "JSON in JSON", json.dumps(json.dumps(secret))[3:-3].encode()
    yield "escapes", "".join(f"\\u{ord(char):04x}" for char in secret).encode()


def occurrences(secrets, places):
    """[(place, name of the secret, encoding), …] of each secret found in {place: content}."""
    return [
        (place, name, encoding)
        for place, content in places.items()
        for name, secret in secrets.items()
        for encoding, spelled in spellings(secret)
        if spelled in content
    ]


def files_below(*folders, without=()):
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.name not in without
    }


def test_search_finds_secret_in_every_encoding():
    for shift, (name, spelled) in itertools.product(range(3), spellings(API_KEY)):
        content = b"x" * shift + spelled + b"tail"
        assert occurrences({"key": API_KEY}, {"here": content}), name
    for shift in range(3):
        assert occurrences({"key": API_KEY}, {"here": base64.b64encode(b"a" * shift + API_KEY.encode() + b"bc")})
    assert occurrences({"key": API_KEY}, {"here": API_KEY[:-1].encode()}) == []


async def test_secrets_are_only_in_key_files(rig, tmp_path):
    config = tmp_path / "config.toml"
    sections = {
        "auth": {"api_key": API_KEY},
        "mqtt": {"username": "daemon", "password": MQTT_PASSWORD},
        "logging": {"level": "debug"},
    }
    answers = {}

    async def request(api, method, path, **options):
        answer = await api.call(method, path, **options)
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items()).encode()
        answers[f"{len(answers)}: {method} {path} {answer.status}"] = head + b"\n\n" + answer.body
        return answer

    async with daemon(rig, tmp_path, **sections) as process, rig.fleet(2, faults=["wrong-mac:1"]):
        process.admin.key = API_KEY
        # The response shows the secret, once.
        created = await process.admin.post("/api/v1/keys", json={"name": "made", "scope": "admin"})
        secrets = {"api key": API_KEY, "mqtt password": MQTT_PASSWORD, "made key": created.data["secret"]}
        await process.logged("camera onboarded")
        await process.logged("onboarding failed")

        document = (await request(process.admin, "GET", "/openapi.json")).json
        for path, item in document["paths"].items():
            for method in item:
                # Paths with unfilled placeholders: most writes are refused, and a refusal must not contain a secret.
                if (method, path) != ("post", "/api/v1/keys"):
                    await request(process.admin, method.upper(), path)
        for secret in secrets.values():
            await request(process.api, "GET", "/api/v1/keys", headers={"X-API-Key": secret + "x"})
            await request(process.api, "GET", "/api/v1/keys", params={"api_key": secret})
            await request(process.api, "GET", "/api/v1/keys", headers={"Authorization": f"Bearer {secret}"})
            await request(
                process.api, "GET", "/api/v1/keys", headers={"Cookie": f"piorch_session={created.data['secret']}"}
            )
            await request(process.api, "POST", "/api/v1/keys", json={"secret": secret, "password": secret})
            await request(process.admin, "POST", "/api/v1/keys", json={"name": "x", "scope": "read", "secret": secret})
            await request(process.admin, "POST", "/api/v1/keys", data=f'{{"password": "{secret}"')
            await request(process.api, "GET", "/nowhere", params={"api_key": secret, "token": secret})

        # An invalid configuration that contains the secrets, and the loss of the broker, are logged.
        write_toml(config, rig.tree(**sections | {"auth": {"api_key": API_KEY, "mood": API_KEY}}))
        process.send(signal.SIGHUP)
        await process.logged("configuration not valid, reload skipped")
        write_toml(config, rig.tree(**sections | {"cameras": {"http_port": 1, "max_devices": 100}}))
        process.send(signal.SIGHUP)
        await process.logged("configuration reloaded")
        await rig.broker.stop()
        await process.logged("mqtt not connected")
        await process.kill()
        places = {"log": process.text().encode()} | answers | files_below(rig.state_dir, without=KEY_FILES)

    write_toml(config, rig.tree(**sections))
    async with daemon(rig, tmp_path, config=config, connected=False) as process:
        await eventually(lambda: process.entries("mqtt not connected"))
        assert await process.stop() == 0
        places |= {"second log": process.text().encode()} | files_below(rig.state_dir, without=KEY_FILES)

    assert len(answers) > 40
    assert occurrences(secrets, places) == []
    # Check the search itself: a name that is stored is found.
    assert occurrences({"name of the key": "made"}, files_below(rig.state_dir, without=KEY_FILES))


async def test_created_admin_key_is_only_in_its_file(rig, tmp_path):
    async with daemon(rig, tmp_path) as process:
        key = (rig.state_dir / "admin.key").read_text().strip()
        assert (await process.admin.get("/api/v1/keys")).status == 200
        entries = process.entries("admin key created")
        assert [entry["file"] for entry in entries] == [str(rig.state_dir / "admin.key")]
        places = {"log": process.text().encode()} | files_below(rig.state_dir, without={"admin.key"})
        assert occurrences({"admin key": key}, places) == []
    modes = {path.name: path.stat().st_mode & 0o777 for path in rig.state_dir.iterdir()}
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}, "other users can read it"


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ('[auth]\napi_key = "{api}"\n[mqtt]\npassword = "{mqtt}"\nport = "x"\n', {}),
        ('[auth]\napikey = "{api}"\n[mqtt]\npasword = "{mqtt}"\n', {}),
        ('[auth]\napi_key = ["{api}"]\n[mqtt]\npassword = {{ plain = "{mqtt}" }}\n', {}),
        ('auth = "{api}"\nmqtt = "{mqtt}"\n', {}),
        ('[auth]\napi_key = "{api}" "{mqtt}"\n', {}),
        ('[auth]\napi_key_file = "{file}"\n[mqtt]\npassword_file = "{file}"\n[logging]\nlevel = "x"\n', {}),
        ("", {"API_KEY": "{api}", "PIORCH_MQTT__PASSWORD": "{mqtt}", "PIORCH_MQTT__PORT": "x"}),
        ("", {"PIORCH_AUTH__APIKEY": "{api}", "PIORCH_MQTT_PASSWORD": "{mqtt}"}),
    ],
    ids=["values", "names", "types", "sections", "syntax", "files", "environment", "names in the environment"],
)
@pytest.mark.parametrize("name", ["check-config", "show-config", "doctor", "run"])
async def test_configuration_errors_contain_no_secret(tmp_path, name, text, env):
    file = tmp_path / "secret"
    file.write_text(API_KEY)
    values = {"api": API_KEY.replace('"', '\\"'), "mqtt": MQTT_PASSWORD.replace('"', '\\"'), "file": file}
    config = tmp_path / "config.toml"
    config.write_text(text.format(**values))
    plain = values | {"api": API_KEY, "mqtt": MQTT_PASSWORD}
    environ = {variable: value.format(**plain) for variable, value in env.items()}
    done = await command(name, "--config", config, "--state-dir", tmp_path / "state", env=environ)
    assert done.code == 2, done
    assert "Traceback" not in done.err
    assert (
        occurrences({"api": API_KEY, "mqtt": MQTT_PASSWORD}, {"out": done.out.encode(), "err": done.err.encode()}) == []
    )


@pytest.mark.parametrize("options", [(), ("--origin",), ("--json",)], ids=" ".join)
async def test_show_config_masks_secrets(tmp_path, options):
    credentials = Path(tmp_path / "credentials")
    credentials.mkdir()
    (credentials / "mqtt_password").write_text(MQTT_PASSWORD)
    env = {"API_KEY": API_KEY, "CREDENTIALS_DIRECTORY": str(credentials)}
    config = write_toml(tmp_path / "config.toml", {"mqtt": {"username": "daemon"}})
    done = await command("show-config", "--config", config, *options, env=env)
    assert (done.code, done.err) == (0, "")
    assert done.out.count('"***"') == 2
    assert occurrences({"api": API_KEY, "mqtt": MQTT_PASSWORD}, {"out": done.out.encode()}) == []
