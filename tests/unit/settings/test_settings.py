"""Configuration: layers, origins, all errors in one report, and masked secrets."""

import pickle
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pi_orchestrator.core.errors import FieldError, SettingsError
from pi_orchestrator.settings import (
    Listen,
    Settings,
    changed_paths,
    displayable,
    known_paths,
    load,
    value_at,
)
from pi_orchestrator.settings.model import Mode, Overflow, parse_listen

CANARY = "canary-7f3a9c1e"


@pytest.fixture
def file(tmp_path):
    """Write the configuration file; returns its path."""

    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(**given):
    with pytest.raises(SettingsError) as caught:
        load(**({"environ": {}} | given))
    return caught.value.problems


def the_problem(**given):
    """The problem of a configuration that has exactly one."""
    problems = problems_of(**given)
    assert len(problems) == 1, problems
    return problems[0]


# Layers.


def test_no_layers_give_defaults():
    loaded = load(environ={})
    assert loaded.settings == Settings()
    assert loaded.origins == {}


def test_higher_layer_takes_precedence(file, tmp_path):
    path = file('[auth]\napi_key = "from-the-file"\n[logging]\nlevel = "debug"\n[http]\nlisten = ["127.0.0.1:1"]\n')
    (tmp_path / "api_key").write_text("from-the-credential\n")
    environ = {}
    flags = None

    def key_and_origin():
        loaded = load(path=path, environ=environ, flags=flags)
        return loaded.settings.auth.api_key.get_secret_value(), loaded.origins["auth.api_key"]

    assert key_and_origin() == ("from-the-file", f"file {path}")
    environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    assert key_and_origin() == ("from-the-credential", "credential api_key")
    environ["API_KEY"] = "from-the-old-name"
    assert key_and_origin() == ("from-the-old-name", "environment API_KEY")
    environ["PIORCH_AUTH__API_KEY"] = "from-the-environment"
    assert key_and_origin() == ("from-the-environment", "environment PIORCH_AUTH__API_KEY")
    flags = {"auth": {"api_key": "from-a-flag"}}
    assert key_and_origin() == ("from-a-flag", "flag")


def test_layer_replaces_single_keys(file):
    path = file('[mqtt]\nhost = "broker"\nport = 1884\n')
    settings = load(path=path, environ={"PIORCH_MQTT__PORT": "1885"}).settings
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.client_id) == ("broker", 1885, "pi-orchestrator")


def test_file_from_flag_precedes_environment(file, tmp_path):
    named = file('[ap]\ninterface = "named"\n')
    flagged = tmp_path / "other.toml"
    flagged.write_text('[ap]\ninterface = "flagged"\n')
    assert load(environ={"PIORCH_CONFIG": str(named)}).settings.ap.interface == "named"
    assert load(path=flagged, environ={"PIORCH_CONFIG": str(named)}).settings.ap.interface == "flagged"


def as_environment(value):
    if isinstance(value, tuple):
        return ",".join(str(displayable(item)) for item in value)
    return "" if value is None else str(displayable(value))


# Key: (text in the environment, value); each differs from the default.
OTHER_VALUES = {
    "http.listen": ("127.0.0.1:9001,[::1]:9002", (Listen("127.0.0.1", 9001), Listen("::1", 9002))),
    "http.trusted_hosts": ("pi.example, other.example", ("pi.example", "other.example")),
    "http.dashboard_dir": ("/opt/dashboard", Path("/opt/dashboard")),
    "http.sse_unnamed_copy": ("no", False),
    "auth.mode": ("required", "required"),
    "ap.interface": ("uap0", "uap0"),
    "ap.subnet": ("10.3.0.0/16", IPv4Network("10.3.0.0/16")),
    "ap.ssid": ("Cameras", "Cameras"),
    "discovery.engine": ("neighbour", "neighbour"),
    "discovery.interval_s": ("30", 30),
    "discovery.allow_large_subnet": ("true", True),
    "discovery.stations": ("no", False),
    "discovery.leases": ("no", False),
    "discovery.lease_files": ("/run/a.leases,/run/b.leases", (Path("/run/a.leases"), Path("/run/b.leases"))),
    "discovery.mdns": ("no", False),
    "discovery.probe": ("no", False),
    "mqtt.host": ("broker.local", "broker.local"),
    "mqtt.port": ("8883", 8883),
    "mqtt.username": ("pi", "pi"),
    "mqtt.tls": ("true", True),
    "mqtt.ca_file": ("/etc/ca.pem", Path("/etc/ca.pem")),
    "mqtt.client_id": ("pi-2", "pi-2"),
    "mqtt.embedded": ("yes", True),
    "cameras.http_port": ("8080", 8080),
    "cameras.idle_after_s": ("60.5", 60.5),
    "cameras.offline_after_s": ("300", 300),
    "cameras.max_devices": ("100", 100),
    "cameras.capture_cache_s": ("0.5", 0.5),
    "cameras.auto_reboot": ("no", False),
    "cameras.reboot_after": ("5", 5),
    "auto_onboard.enabled": ("1", True),
    "auto_onboard.mode": ("dev", Mode.DEV),
    "auto_onboard.target_container": ("box-1", "box-1"),
    "auto_onboard.triggers": ("mqtt,scan", ("mqtt", "scan")),
    "auto_onboard.max_per_minute": ("60", 60),
    "auto_onboard.burst_size": ("7", 7),
    "auto_onboard.subnet_allowlist": (
        "192.168.10.0/25,192.168.10.128/25",
        (IPv4Network("192.168.10.0/25"), IPv4Network("192.168.10.128/25")),
    ),
    "auto_onboard.verification_timeout_sec": ("2.5", 2.5),
    "auto_onboard.deny": ("246f28b0f7f1, 24-6f-28-b0-f7-f2", ("24:6F:28:B0:F7:F1", "24:6F:28:B0:F7:F2")),
    "auto_onboard.overflow": ("reject", Overflow.REJECT),
    "auto_onboard.concurrency": ("4", 4),
    "provisioning.target_ssid": ("Yard", "Yard"),
    "provisioning.target_subnets": ("10.9.0.0/16", (IPv4Network("10.9.0.0/16"),)),
    "provisioning.mqtt_host": ("broker.local", "broker.local"),
    "provisioning.mqtt_username": ("camera", "camera"),
    "provisioning.allow_unlisted": ("true", True),
    "provisioning.confirm_changed": ("true", True),
    "provisioning.concurrency": ("2", 2),
    "provisioning.max_retries": ("5", 5),
    "provisioning.request_timeout_s": ("2.5", 2.5),
    "storage.state_dir": ("/srv/pi", Path("/srv/pi")),
    "storage.retention_days": ("30", 30),
    "logging.level": ("debug", "debug"),
    "logging.format": ("json", "json"),
}
TESTED_SEPARATELY = {
    "auth.api_key",
    "auth.api_key_file",
    "mqtt.password",
    "mqtt.password_file",
    "provisioning.target_password",
    "provisioning.target_password_file",
    "provisioning.mqtt_password",
    "provisioning.mqtt_password_file",
    "auto_onboard.allow_loopback",
}


def test_value_table_covers_every_key():
    assert OTHER_VALUES.keys() | TESTED_SEPARATELY == set(known_paths())


@pytest.mark.parametrize("path", OTHER_VALUES)
def test_every_key_is_set_by_environment(path):
    text, expected = OTHER_VALUES[path]
    name = "PIORCH_" + path.replace(".", "__").upper()
    loaded = load(environ={name: text})
    assert value_at(loaded.settings, path) == expected
    assert value_at(Settings(), path) != expected
    assert loaded.origins == {path: f"environment {name}"}
    assert changed_paths(Settings(), loaded.settings) == [path]


@pytest.mark.parametrize("path", known_paths())
def test_default_round_trips_through_environment(path):
    name = "PIORCH_" + path.replace(".", "__").upper()
    value = value_at(Settings(), path)
    assert load(environ={name: as_environment(value)}).settings == Settings()


@pytest.mark.parametrize(
    "name, text, path, expected",
    [
        ("AUTO_ONBOARD_ENABLED", "true", "auto_onboard.enabled", True),
        ("AUTO_ONBOARD_ENABLED", "false", "auto_onboard.enabled", False),
        ("AUTO_ONBOARD_MODE", "dev", "auto_onboard.mode", Mode.DEV),
        (
            "AUTO_ONBOARD_TARGET_CONTAINER",
            "550e8400-e29b-41d4-a716-446655440000",
            "auto_onboard.target_container",
            "550e8400-e29b-41d4-a716-446655440000",
        ),
        ("AUTO_ONBOARD_MAX_PER_MINUTE", "20", "auto_onboard.max_per_minute", 20),
        ("AUTO_ONBOARD_BURST_SIZE", "3", "auto_onboard.burst_size", 3),
        (
            "AUTO_ONBOARD_SUBNET_ALLOWLIST",
            "192.168.10.0/25, 192.168.10.128/25",
            "auto_onboard.subnet_allowlist",
            (IPv4Network("192.168.10.0/25"), IPv4Network("192.168.10.128/25")),
        ),
        ("AUTO_ONBOARD_VERIFICATION_TIMEOUT_SEC", "7", "auto_onboard.verification_timeout_sec", 7),
        ("API_AUTH_ENABLED", "true", "auth.mode", "provisioning"),
        ("API_AUTH_ENABLED", "1", "auth.mode", "provisioning"),
        ("LOCAL_API_PORT", "9000", "http.listen", (Listen("0.0.0.0", 9000), Listen("0.0.0.0", 8082))),
        ("LOCAL_API_PORT", "8082", "http.listen", (Listen("0.0.0.0", 8082),)),
        ("LOG_LEVEL", "debug", "logging.level", "debug"),
        ("LOG_LEVEL", "WARN", "logging.level", "warning"),
        ("LOG_LEVEL", "Error", "logging.level", "error"),
    ],
)
def test_environment_names_of_previous_go_daemon_are_read(name, text, path, expected):
    loaded = load(environ={name: text})
    assert value_at(loaded.settings, path) == expected
    assert loaded.origins == {path: f"environment {name}"}


def test_api_key_and_auth_switch_of_previous_go_daemon_are_read():
    environ = {"API_KEY": CANARY, "API_AUTH_ENABLED": "False", "PIORCH_HTTP__LISTEN": "127.0.0.1:8081"}
    settings = load(environ=environ).settings
    assert settings.auth.api_key.get_secret_value() == CANARY
    assert settings.auth.mode == "off"


@pytest.mark.parametrize("host", ["http://pi.example", "pi.example:8082", "pi.example/x", "*", "pï.example", "a" * 254])
def test_invalid_trusted_host_is_an_error(host):
    problem = the_problem(environ={"PIORCH_HTTP__TRUSTED_HOSTS": f"pi.example,{host}"})
    assert problem.startswith("http.trusted_hosts: ")
    assert "write it like pi.example.org" in problem


def test_new_name_precedes_old_name():
    environ = {"AUTO_ONBOARD_BURST_SIZE": "3", "PIORCH_AUTO_ONBOARD__BURST_SIZE": "4"}
    assert load(environ=environ).settings.auto_onboard.burst_size == 4


def test_error_in_old_name_names_it():
    problem = the_problem(environ={"LOCAL_API_PORT": "eighty"})
    assert problem.startswith("http.listen: ")
    assert "environment LOCAL_API_PORT" in problem


@pytest.mark.parametrize("name", ["AUTO_ONBOARD_MODE", "API_KEY", "LOCAL_API_PORT", "LOG_LEVEL"])
def test_empty_old_name_is_ignored(name):
    assert load(environ={name: ""}).settings == Settings()


def test_foreign_variables_are_ignored():
    environ = {"HOME": "/root", "PATH": "/bin", "PIORCHESTRA": "1", "PIORCH_URL": "http://pi", "PIORCH_API_KEY": "k"}
    assert load(environ=environ).settings == Settings()


# Errors.


def test_all_errors_are_listed_with_path_and_origin(file, tmp_path):
    path = file(
        '[http]\nlisten = ["nonsense"]\n'
        "[mqtt]\nport = 70000\nhots = 1\n"
        '[auto_onboard]\nmode = "prod"\ndeny = ["24:6F"]\nburst_size = 0\n'
        '[auth]\napi_key_file = "/nowhere/key"\n'
    )
    environ = {"PIORCH_MQTT__POTR": "1883", "AUTO_ONBOARD_SUBNET_ALLOWLIST": "192.168.10.5/24", "API_KEY": ""}
    flags = {"storage": {"retention_days": "many"}, "logging": {"levle": "info"}}
    problems = problems_of(path=path, environ=environ, flags=flags)
    expected = [
        ("environment PIORCH_MQTT__POTR: unknown key", "did you mean mqtt.port?"),
        ("auth.api_key_file: ", "/nowhere/key"),
        ("http.listen: 'nonsense' is not ADDRESS:PORT", f"(from file {path})"),
        ("mqtt.port: ", "less than or equal to 65535"),
        ("mqtt.hots: unknown key", "did you mean mqtt.host?"),
        ("auto_onboard.mode: ", "'off' or 'dev'"),
        ("auto_onboard.deny: '24:6F' is not a MAC address", f"(from file {path})"),
        ("auto_onboard.burst_size: ", "greater than or equal to 1"),
        ("auto_onboard.subnet_allowlist: ", "has host bits set"),
        ("storage.retention_days: ", "(from flag)"),
        ("logging.levle: unknown key", "did you mean logging.level?"),
    ]
    for start, remedy in expected:
        assert [problem for problem in problems if problem.startswith(start) and remedy in problem], (start, problems)
    assert len(problems) == len(expected)


def test_conflicting_keys_are_all_listed():
    flags = {
        "auth": {"mode": "off"},
        "auto_onboard": {"allow_loopback": True},
        "http": {"listen": ["0.0.0.0:8081", "0.0.0.0:8081"]},
        "mqtt": {"port": 0},
    }
    assert sorted(problem.split(":")[0] for problem in problems_of(flags=flags)) == [
        "auth.mode",
        "auto_onboard.allow_loopback",
        "http.listen",
        "mqtt.port",
    ]


@pytest.mark.parametrize("listen", ["0.0.0.0:8081", "192.168.10.1:8081", "[::]:8081", "127.0.0.1:8081,0.0.0.0:8082"])
def test_auth_off_on_network_is_refused(listen):
    problem = the_problem(flags={"auth": {"mode": "off"}, "http": {"listen": listen}})
    assert problem.startswith("auth.mode: 'off' is refused while http.listen reaches the network")


@pytest.mark.parametrize("listen", ["127.0.0.1:8081", "127.8.0.1:1", "[::1]:8081", "localhost:8081"])
def test_auth_off_on_loopback_is_valid(listen):
    assert load(environ={}, flags={"auth": {"mode": "off"}, "http": {"listen": listen}}).settings.auth.mode == "off"


def test_several_listeners_with_port_0_are_valid():
    listen = load(environ={}, flags={"http": {"listen": ["127.0.0.1:0", "127.0.0.1:0"]}}).settings.http.listen
    assert len(listen) == 2


@pytest.mark.parametrize(
    "text, names",
    [
        ("[mqtt]\nhost = \n", "line 2"),
        ("[mqtt]\nhost = 'a'\nhost = 'b'\n", "line 3"),
        ("[mqtt\n", "line 1"),
        ("a = 1\n\n\n= 2\n", "line 4"),
    ],
)
def test_toml_error_names_file_and_line(file, text, names):
    path = file(text)
    problem = the_problem(path=path)
    assert problem.startswith(f"{path}: ")
    assert names in problem


def test_toml_error_does_not_hide_others(file):
    problems = problems_of(path=file("[mqtt\n"), environ={"PIORCH_MQTT__PORT": "x", "PIORCH_NOTHING": "1"})
    assert len(problems) == 3


def test_missing_named_file_is_an_error(tmp_path):
    missing = tmp_path / "missing.toml"
    assert the_problem(path=missing) == f"{missing}: file not found"
    assert the_problem(environ={"PIORCH_CONFIG": str(missing)}) == f"{missing}: file not found"


def test_unreadable_file_is_an_error(tmp_path):
    assert the_problem(path=tmp_path).startswith(f"{tmp_path}: ")
    (tmp_path / "latin.toml").write_bytes(b'[ap]\ninterface = "\xfc"\n')
    assert "utf-8" in the_problem(path=tmp_path / "latin.toml")


@pytest.mark.parametrize(
    "text, problem",
    [
        ("[auto_onbord]\nenabled = true\n", "auto_onbord: unknown key; did you mean auto_onboard?"),
        ("[auto_onbord]\n", "auto_onbord: unknown key; did you mean auto_onboard?"),
        ("[zebra]\nstripes = 12\n", "zebra: unknown key"),
        ("listen = '0.0.0.0:1'\n", "listen: unknown key; did you mean http.listen?"),
        ("[ap]\nsubnets = '10.0.0.0/8'\n", "ap.subnets: unknown key; did you mean ap.subnet?"),
        (
            "[ap]\ntarget_container = 'x'\n",
            "ap.target_container: unknown key; did you mean auto_onboard.target_container?",
        ),
        ("http = 5\n", "http: this is a section"),
        ("[http.listen]\nport = 1\n", "http.listen: Input should be"),
    ],
)
def test_unknown_key_is_an_error_with_suggestion(file, text, problem):
    path = file(text)
    error = the_problem(path=path)
    assert error.startswith(problem)
    assert error.endswith(f"(from file {path})")


def test_empty_section_is_valid(file):
    assert load(path=file("[http]\n[mqtt]\n"), environ={}).settings == Settings()


@pytest.mark.parametrize(
    "path, value",
    [
        ("http.listen", []),
        ("http.listen", ""),
        ("http.listen", 8081),
        ("ap.interface", "wlan 0"),
        ("ap.interface", "../etc"),
        ("ap.interface", "x" * 16),
        ("ap.interface", ""),
        ("ap.subnet", "192.168.10.999"),
        ("ap.subnet", "192.168.10.5/24"),
        ("ap.subnet", "fe80::/64"),
        ("mqtt.host", ""),
        ("mqtt.port", -1),
        ("mqtt.port", 65536),
        ("cameras.http_port", 0),
        ("cameras.idle_after_s", 0),
        ("cameras.idle_after_s", float("nan")),
        ("cameras.offline_after_s", float("inf")),
        ("cameras.offline_after_s", 86401),
        ("cameras.offline_after_s", -1),
        ("cameras.max_devices", 15),
        ("auth.mode", "on"),
        ("auto_onboard.enabled", "perhaps"),
        ("auto_onboard.target_container", "../x"),
        ("auto_onboard.target_container", "no spaces allowed"),
        ("auto_onboard.subnet_allowlist", ["::1/64"]),
        ("auto_onboard.max_per_minute", 0),
        ("auto_onboard.burst_size", 1.5),
        ("auto_onboard.verification_timeout_sec", 61),
        ("auto_onboard.deny", ["FF:FF:FF:FF:FF:FF"]),
        ("auto_onboard.overflow", "drop"),
        ("storage.retention_days", 0),
        ("logging.level", "loud"),
        ("logging.format", "xml"),
    ],
)
def test_value_out_of_range_is_refused(path, value):
    section, key = path.split(".")
    assert the_problem(flags={section: {key: value}}).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("0.0.0.0:8081", Listen("0.0.0.0", 8081)),
        ("127.0.0.1:0", Listen("127.0.0.1", 0)),
        ("localhost:65535", Listen("localhost", 65535)),
        ("[::1]:8081", Listen("::1", 8081)),
    ],
)
def test_parse_listen_valid(text, expected):
    assert parse_listen(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["", ":", "8081", ":8081", "0.0.0.0", "0.0.0.0:", "0.0.0.0:65536", "0.0.0.0:-1", "0.0.0.0:+1", "0.0.0.0: 1",
     "0.0.0.0:1_0", "0.0.0.0:٣", "pi.local:80", "300.0.0.1:80", "http://0.0.0.0:80", "0.0.0.0:80/x"],
)  # fmt: skip
def test_parse_listen_invalid(text):
    with pytest.raises(FieldError, match="is not ADDRESS:PORT"):
        parse_listen(text)


# Secrets.


def test_secret_is_read_from_file(tmp_path, file):
    (tmp_path / "key").write_text(f"  {CANARY}\n")
    (tmp_path / "password").write_text("mosquito\n")
    path = file(f'[auth]\napi_key_file = "{tmp_path}/key"\n[mqtt]\npassword_file = "{tmp_path}/password"\n')
    loaded = load(path=path, environ={})
    assert loaded.settings.auth.api_key.get_secret_value() == CANARY
    assert loaded.settings.mqtt.password.get_secret_value() == "mosquito"
    assert loaded.origins["auth.api_key"] == f"file {tmp_path}/key"
    assert loaded.origins["mqtt.password"] == f"file {tmp_path}/password"


def test_secret_precedes_its_file_in_one_layer(tmp_path):
    (tmp_path / "key").write_text("from-the-file")
    flags = {"auth": {"api_key": "given-in-full", "api_key_file": str(tmp_path / "key")}}
    assert load(environ={}, flags=flags).settings.auth.api_key.get_secret_value() == "given-in-full"


def test_systemd_credentials_are_read(tmp_path):
    (tmp_path / "api_key").write_text(f"{CANARY}\n")
    (tmp_path / "mqtt_password").write_text("mosquito\n")
    (tmp_path / "something_else").write_text("x")
    loaded = load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert loaded.settings.auth.api_key.get_secret_value() == CANARY
    assert loaded.settings.mqtt.password.get_secret_value() == "mosquito"
    assert loaded.origins == {"auth.api_key": "credential api_key", "mqtt.password": "credential mqtt_password"}


def test_other_credentials_are_ignored(tmp_path):
    assert load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}).settings == Settings()


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xff\xfe", None])
def test_empty_or_unreadable_secret_is_an_error(tmp_path, content):
    target = tmp_path / "api_key"
    target.mkdir() if content is None else target.write_bytes(content)
    flags = {"auth": {"api_key_file": str(target)}}
    assert the_problem(flags=flags).startswith("auth.api_key_file: ")
    assert the_problem(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}).startswith("credential api_key: ")


@pytest.mark.parametrize("key", ["x", "1234567"])
def test_short_api_key_is_refused_from_any_layer(tmp_path, key):
    (tmp_path / "api_key").write_text(key)
    layers = [
        {"flags": {"auth": {"api_key": key}}},
        {"flags": {"auth": {"api_key_file": str(tmp_path / "api_key")}}},
        {"environ": {"CREDENTIALS_DIRECTORY": str(tmp_path)}},
        {"environ": {"API_KEY": key}},
    ]
    for layer in layers:
        problem = the_problem(**layer)
        assert problem.startswith("auth.api_key: shorter than 8 characters")


@pytest.mark.parametrize(
    "path", ["auth.api_key", "auth.api_key_file", "mqtt.username", "mqtt.password", "mqtt.ca_file"]
)
def test_empty_string_means_none(path):
    section, key = path.split(".")
    assert value_at(load(environ={}, flags={section: {key: ""}}).settings, path) is None


def test_secrets_are_not_in_any_text():
    flags = {"auth": {"api_key": CANARY}, "mqtt": {"password": CANARY}}
    loaded = load(environ={}, flags=flags)
    settings = loaded.settings
    texts = [repr(loaded), str(settings), repr(settings.auth), settings.model_dump_json(), str(settings.model_dump())]
    texts += [str(displayable(value_at(settings, path))) for path in known_paths()]
    assert not [text for text in texts if CANARY in text]
    assert displayable(settings.auth.api_key) == displayable(settings.mqtt.password) == "***"


@pytest.mark.parametrize(
    "flags",
    [
        {"auth": {"api_key": ["canary-7f3a9c1e"]}},
        {"auth": {"api_key": {"canary-7f3a9c1e": 1}}},
        {"auth": {"api_key": "canary-", "mode": "bad"}},
        {"mqtt": {"password": 7391}, "auth": {"mode": "bad"}},
    ],
)
def test_invalid_secret_is_not_in_the_error(flags):
    with pytest.raises(SettingsError) as caught:
        load(environ={}, flags=flags)
    error_text = f"{caught.value!r} {caught.value.details} {caught.value.problems} {caught.value.__context__!r}"
    assert "canary" not in error_text
    assert "7391" not in error_text


def test_shown_values_are_plain_data():
    settings = load(environ={}, flags={"auto_onboard": {"mode": "dev"}}).settings
    values = {path: displayable(value_at(settings, path)) for path in known_paths()}
    assert values["http.listen"] == ["0.0.0.0:8081", "0.0.0.0:8082"]
    assert values["ap.subnet"] == "192.168.10.0/24"
    assert values["auto_onboard.mode"] == "dev"
    assert type(values["auto_onboard.mode"]) is str
    assert values["storage.state_dir"] == "/var/lib/pi-orchestrator"
    assert values["auth.api_key"] is None


def test_settings_are_frozen():
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.mqtt.port = 1
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_secret_file_in_higher_layer_takes_precedence(tmp_path):
    (tmp_path / "key").write_text("the-rotated-key")
    config = tmp_path / "config.toml"
    config.write_text('[auth]\napi_key = "the-old-key"\n')
    loaded = load(path=config, environ={"PIORCH_AUTH__API_KEY_FILE": str(tmp_path / "key")})
    assert loaded.settings.auth.api_key.get_secret_value() == "the-rotated-key"


def test_conflict_is_reported_beside_other_errors():
    with pytest.raises(SettingsError) as caught:
        load(environ={}, flags={"auth": {"mode": "off"}, "mqtt": {"port": "x"}})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["mqtt.port", "auth.mode"]


def test_missing_ca_file_is_an_error(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load(environ={}, flags={"mqtt": {"tls": True, "ca_file": str(tmp_path / "ca.pem")}})
    assert caught.value.problems == [f"mqtt.ca_file: file not found: {tmp_path / 'ca.pem'}"]


@pytest.mark.parametrize("key", ["target_password", "mqtt_password"])
def test_camera_passwords_are_read_from_files(tmp_path, key):
    file = tmp_path / "secret"
    file.write_text("correct horse battery\n")
    loaded = load(environ={f"PIORCH_PROVISIONING__{key.upper()}_FILE": str(file)})
    assert getattr(loaded.settings.provisioning, key).get_secret_value() == "correct horse battery"
    assert "correct horse" not in repr(loaded) + str(displayable(getattr(loaded.settings.provisioning, key)))


def test_invalid_wifi_password_is_not_in_the_error():
    with pytest.raises(SettingsError) as caught:
        load(environ={"PIORCH_PROVISIONING__TARGET_PASSWORD": "short"})
    (problem,) = caught.value.problems
    assert problem.startswith("provisioning.target_password: ")
    assert "8 to 63" in problem
    assert "short" not in problem
