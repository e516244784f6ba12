"""scripts/install.sh, really run below a separate folder (--root).

Most tests install a stand-in of three files with no dependency, so that they need no network; the last one installs
the real program from its lock file.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiomqtt
import pip
import pytest
from pydantic import SecretStr

from pi_orchestrator.core.health import State
from pi_orchestrator.features.commands.model import COMMAND_TOPIC
from pi_orchestrator.features.system.doctor_broker import FILTERS
from pi_orchestrator.net.mqtt.check import BrokerReport, check_broker
from pi_orchestrator.settings.model import MqttSettings
from tests.support.broker import Broker
from tests.support.rig import Rig
from tests.support.sampling import Scale
from tests.support.waiting import eventually

REPO = Path(__file__).resolve().parents[3]
OPT = "opt/pi-orchestrator"
CONFIG = "etc/pi-orchestrator/config.toml"
STATE = "var/lib/pi-orchestrator"
POLKIT = "etc/polkit-1/rules.d/50-pi-orchestrator.rules"
UNIT_TEXT = (REPO / "systemd/pi-orchestrator.service").read_text()
BROKER = "etc/mosquitto/conf.d/pi-orchestrator.conf"
BROKER_ACL = "etc/mosquitto/pi-orchestrator.acl"
BROKER_USERS = "etc/mosquitto/pi-orchestrator.passwd"
MQTT_PASSWORD = "etc/pi-orchestrator/mqtt_password"
MQTT_USER = {"username": "pi-orchestrator", "password_file": f"/{MQTT_PASSWORD}"}
UNIT = "etc/systemd/system/pi-orchestrator.service"
WHEELS = Path(sys.prefix) / "wheels"
"""The locked packages, if scripts/env.sh has kept them; `locked.txt` has the lock files they belong to."""
DROP_IN = "etc/systemd/system/pi-orchestrator.service.d/no-capabilities.conf"

STAND_IN = {
    "pi_orchestrator/__init__.py": '__version__ = "1.2.3"\n',
    "pi_orchestrator/cli.py": """
        import sys, tomllib
        def main():
            command, _, path = sys.argv[1:]
            assert command == "check-config"
            try:
                tomllib.load(open(path, "rb"))
            except tomllib.TOMLDecodeError as error:
                print("config.toml:", error)
                return 2
        """,
    "pyproject.toml": """
        [build-system]
        requires = []
        build-backend = "backend"
        backend-path = ["."]
        """,
    # A build backend without dependencies: a wheel is a zip file with some metadata.
    "backend.py": """
        import zipfile
        def build_wheel(folder, config_settings=None, metadata_directory=None):
            name, info = "pi_orchestrator-1.2.3-py3-none-any.whl", "pi_orchestrator-1.2.3.dist-info/"
            notes = {
                "METADATA": ["Metadata-Version: 2.1", "Name: pi-orchestrator", "Version: 1.2.3"],
                "WHEEL": ["Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any"],
                "entry_points.txt": ["[console_scripts]", "pi-orchestrator = pi_orchestrator.cli:main"],
                "RECORD": [],
            }
            with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
                wheel.write("pi_orchestrator/__init__.py")
                wheel.write("pi_orchestrator/cli.py")
                for note, lines in notes.items():
                    wheel.writestr(info + note, "".join(f"{line}\\n" for line in lines))
            return name
        """,
    "config/config.toml": '[http]\nlisten = "0.0.0.0:8080"\n',
    "scripts/lock/build.txt": "# nothing\n",
    "scripts/lock/runtime.txt": "# nothing\n",
}


QUICK_PYTHON = """#!/bin/sh
# Runs Python; a new venv uses the pip of a folder, because unpacking and compiling pip for each venv is slow.
if [ "$1 $2" = "-m venv" ]; then
    {python} -m venv --without-pip "$3" && echo {pip} >"$(echo "$3"/lib/python3*/site-packages)/pip.pth"
else
    exec {python} "$@"
fi
"""


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A stand-in checkout that every user may read (pytest's own folders are private); tests change only copies."""
    with tempfile.TemporaryDirectory(prefix="checkout-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path, text in STAND_IN.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(textwrap.dedent(text))
        # Only the pip of the tests' own environment, not its other packages.
        (folder / "pip").mkdir()
        (folder / "pip" / "pip").symlink_to(Path(pip.__file__).parent)
        (folder / "python").write_text(QUICK_PYTHON.format(python=sys.executable, pip=folder / "pip"))
        (folder / "python").chmod(0o755)
        shutil.copytree(REPO / "systemd", folder / "systemd")
        shutil.copy(REPO / "scripts/install.sh", folder / "scripts")
        for ending in ("conf", "acl"):
            shutil.copy(REPO / f"config/mosquitto-pi-orchestrator.{ending}", folder / "config")
        yield folder


@pytest.fixture
def changed_checkout(checkout: Path, tmp_path: Path) -> Path:
    """A copy of the stand-in checkout, to be changed."""
    return shutil.copytree(checkout, tmp_path / "checkout", symlinks=True)


@pytest.fixture(scope="module")
def installation(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("installation") / "root"
    install_below(root, checkout, "--ap-address", "10.42.0.1")
    return root


@pytest.fixture
def installed(installation: Path, tmp_path: Path) -> Path:
    """A root with the stand-in, installed with the address 10.42.0.1 of the access point."""
    return shutil.copytree(installation, tmp_path / "installed", symlinks=True)


def install(
    checkout: Path, *options: str | Path, user: int | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the script; check its exit code and that its output fits 80 columns."""
    command: list[str | Path] = [checkout / "scripts/install.sh", *options]
    done = subprocess.run(command, capture_output=True, text=True, user=user, cwd="/", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    return done


def install_below(root: Path, checkout: Path, *options: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    return install(checkout, "--root", root, "--python", checkout / "python", *options, code=code)


def snapshot(folder: Path) -> dict[str, tuple[int, float, bytes]]:
    """Mode, time and content of everything below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_mtime,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [folder, *folder.rglob("*")]
    }


def releases(root: Path) -> set[str]:
    return {path.name for path in (root / OPT / "releases").iterdir()}


def release_in_use(root: Path) -> str:
    link = (root / OPT / "venv").readlink()
    assert link.parent == Path("releases")
    return link.name


def wheels_are_kept() -> bool:
    locked = "".join((REPO / "scripts/lock" / name).read_text() for name in ("build.txt", "runtime.txt"))
    stamp = WHEELS / "locked.txt"
    return stamp.is_file() and stamp.read_text() == locked


def unprivileged_user() -> int | None:
    """The id of an unprivileged user if the tests run as root; otherwise None: the current user is one."""
    return 65534 if os.geteuid() == 0 else None


@pytest.mark.parametrize(
    "options",
    [
        ["--bogus"],
        ["stray"],
        ["--purge"],
        ["--ap-address"],
        ["--ap-address", "192.168.10.256"],
        ["--ap-address", "camera.local"],
        ["--root", "/"],
    ],
)
def test_wrong_usage_exits_with_2_and_prints_usage(checkout: Path, options: list[str]) -> None:
    output = install(checkout, *options, code=2).stderr
    assert output.startswith("error: ")
    assert "Usage: scripts/install.sh" in output


def test_help_names_every_option(checkout: Path) -> None:
    output = install(checkout, "--help").stdout
    for option in ("--ap-address", "--no-start", "--dry-run", "--uninstall", "--purge", "--root", "--python"):
        assert f"  {option} " in output


def test_install_without_root_user_has_remedy(checkout: Path) -> None:
    output = install(checkout, user=unprivileged_user(), code=1).stderr
    assert "root is needed" in output
    assert "sudo" in output


def test_dry_run_needs_no_root_user_and_names_each_step(checkout: Path) -> None:
    before = snapshot(checkout)
    output = install(checkout, "--dry-run", user=unprivileged_user()).stdout.splitlines()
    assert snapshot(checkout) == before
    assert output[-1] == "Nothing was changed."
    assert all(line.startswith(("would: ", "  note: ", "packages python3-venv and")) for line in output[:-1])
    words = ("packages", "user", "folder", "configuration", "version", "broker", "kernel setting", "restart mosquitto")
    for word in (*words, "service", "switch", "command", "start"):
        assert any(word in line for line in output), word


def test_dry_run_prints_steps_of_installation(tmp_path: Path, checkout: Path) -> None:
    """Of a first installation, and of one that finds everything in place."""

    def steps(*options: str) -> list[str]:
        lines = install_below(tmp_path / "root", checkout, *options).stdout.splitlines()[:-1]
        return [
            re.sub(r"\d{8}T\d{6}Z", "TIME", line.removeprefix("would: ")) for line in lines if "previous" not in line
        ]

    first = steps("--dry-run")
    assert first == steps()
    for created in (BROKER, BROKER_ACL, BROKER_USERS):
        assert any(f"/{created}" in line for line in first), created
    assert steps("--dry-run") == steps()
    (tmp_path / "root" / BROKER).unlink()
    (tmp_path / "root" / CONFIG).write_text("[mqtt]\n")
    added = steps("--dry-run")
    assert "add the MQTT user to /etc/pi-orchestrator/config.toml" in added
    assert added == steps()


def test_dry_run_changes_nothing(tmp_path: Path, checkout: Path, installed: Path) -> None:
    empty = tmp_path / "empty"
    install_below(empty, checkout, "--dry-run")
    assert not empty.exists()

    before = snapshot(installed)
    for options in ([], ["--no-capabilities", "--ap-address", "10.0.0.1"], ["--uninstall", "--purge"]):
        install_below(installed, checkout, "--dry-run", *options)
    assert snapshot(installed) == before


def test_incomplete_checkout_is_refused(tmp_path: Path, changed_checkout: Path) -> None:
    (changed_checkout / "scripts/lock/runtime.txt").unlink()
    root = tmp_path / "root"
    assert "runtime.txt is missing" in install_below(root, changed_checkout, code=1).stderr
    assert not root.exists()


def test_upgrade_and_uninstall_keep_owner_files_until_purge(tmp_path: Path, checkout: Path) -> None:
    root = tmp_path / "root"
    install_below(root, checkout)
    first = release_in_use(root)
    assert not (root / POLKIT).parent.exists(), "no polkit folder is created on a machine without polkit"
    assert first.startswith("1.2.3-")
    assert (root / UNIT).read_bytes() == (REPO / "systemd/pi-orchestrator.service").read_bytes()
    assert not (root / DROP_IN).exists()
    assert (root / CONFIG).stat().st_mode & 0o777 == 0o640
    assert (root / STATE).stat().st_mode & 0o777 == 0o700
    assert (root / "usr/local/bin/pi-orchestrator").readlink() == Path(f"/{OPT}/venv/bin/pi-orchestrator")

    # The owner's configuration is kept; the defaults of this version are written beside it.
    (root / CONFIG).write_text("[http]\nlisten = '127.0.0.1:9000'\n")
    (root / STATE / "state.db").write_text("precious")
    (root / POLKIT).parent.mkdir(parents=True)
    secrets = [root / "etc/credstore" / name for name in re.findall(r"LoadCredential=\w+:(\S+)", UNIT_TEXT)]
    secrets[0].parent.mkdir(parents=True)
    for secret in secrets:
        secret.write_text("secret")
    install_below(root, checkout, "--no-capabilities")
    second = release_in_use(root)
    assert "9000" in (root / CONFIG).read_text()
    assert "8080" in (root / f"{CONFIG}.new").read_text()
    assert releases(root) == {first, second}
    assert (root / DROP_IN).exists()
    assert 'subject.user == "pi-orchestrator"' in (root / POLKIT).read_text()

    # The previous version is kept, the one before it is removed; the chosen options are kept.
    install_below(root, checkout)
    assert releases(root) == {second, release_in_use(root)}
    assert (root / DROP_IN).exists()

    install_below(root, checkout, "--uninstall")
    for removed in (OPT, UNIT, DROP_IN, BROKER, BROKER_ACL, BROKER_USERS, POLKIT, "usr/local/bin/pi-orchestrator"):
        assert not os.path.lexists(root / removed), removed
    assert "9000" in (root / CONFIG).read_text()
    assert (root / STATE / "state.db").read_text() == "precious"
    assert len(secrets) == 4
    assert all(secret.exists() for secret in secrets)

    install_below(root, checkout, "--uninstall", "--purge")
    assert [path for path in root.rglob("*") if not path.is_dir()] == []
    assert not (root / STATE).exists()


def test_failed_upgrade_keeps_version(changed_checkout: Path, installed: Path) -> None:
    before = release_in_use(installed)

    (installed / CONFIG).write_text("[[[")
    output = install_below(installed, changed_checkout, code=1).stderr
    assert "config.toml: " in output
    assert "correct /etc/pi-orchestrator/config.toml" in output
    assert release_in_use(installed) == before
    assert releases(installed) == {before}

    (changed_checkout / "backend.py").write_text("raise RuntimeError('no build today')\n")
    assert "cannot be installed" in install_below(installed, changed_checkout, code=1).stderr
    assert release_in_use(installed) == before
    assert releases(installed) == {before}


def test_broker_listens_on_given_address(checkout: Path, installed: Path) -> None:
    text = (installed / BROKER).read_text()
    listeners = [line for line in text.splitlines() if line.startswith("listener")]
    assert listeners == ["listener 1883 127.0.0.1", "listener 1883 10.42.0.1"]
    assert "ip_nonlocal_bind = 1" in (installed / "etc/sysctl.d/60-pi-orchestrator.conf").read_text()

    output = install_below(installed, checkout, "--dry-run").stdout
    assert f"broker settings /{BROKER} are kept" in output
    assert "they lack 192.168.10.1" in output


def test_existing_broker_is_unchanged(tmp_path: Path, checkout: Path) -> None:
    """mosquitto does not start with two listeners on one port."""
    other = tmp_path / "etc/mosquitto/conf.d/mine.conf"
    other.parent.mkdir(parents=True)
    other.write_text("listener 1883\n")
    output = install_below(tmp_path, checkout, "--dry-run").stdout
    assert "mine.conf already has a listener on 1883" in output
    assert f"broker settings /{BROKER}" not in output
    for line in (
        f"password_file /{BROKER_USERS}",
        f"acl_file /{BROKER_ACL}",
        "max_packet_size 266240",
        'username = "pi-orchestrator"',
        f'password_file = "/{MQTT_PASSWORD}"',
    ):
        assert f"note:   {line}" in output
    assert install_below(tmp_path, checkout)
    assert "mqtt" not in tomllib.loads((tmp_path / CONFIG).read_text()), "the broker does not know the user"
    other.write_text(f"listener 1883\nacl_file /{BROKER_ACL}\n")
    assert "any client can send commands" not in install_below(tmp_path, checkout, "--dry-run").stdout
    assert f"kept: /{BROKER_ACL}" in install_below(tmp_path, checkout, "--uninstall").stdout
    assert (tmp_path / BROKER_ACL).exists()
    assert not (tmp_path / BROKER_USERS).exists()


def mqtt_settings(root: Path) -> object:
    return tomllib.loads((root / CONFIG).read_text()).get("mqtt")


def test_daemon_gets_broker_user(tmp_path: Path, checkout: Path, installed: Path) -> None:
    password = (installed / MQTT_PASSWORD).read_text()
    assert len(password) > 24
    for file in (MQTT_PASSWORD, BROKER_USERS):
        assert (installed / file).stat().st_mode & 0o777 == 0o600
    assert password.strip() not in (installed / BROKER_USERS).read_text()
    assert mqtt_settings(installed) == MQTT_USER

    # An upgrade keeps user, password and other lines; an installation over a kept configuration makes the user again.
    with (installed / BROKER_USERS).open("a") as users:
        users.write("other:$7$1$c2FsdA==$aGFzaA==\n")
    before = (installed / BROKER_USERS).read_bytes()
    install_below(installed, checkout)
    assert (installed / BROKER_USERS).read_bytes() == before
    install_below(installed, checkout, "--uninstall")
    assert not (installed / BROKER_USERS).exists()
    install_below(installed, checkout)
    assert (installed / MQTT_PASSWORD).read_text() == password
    assert (installed / BROKER_USERS).read_text().startswith("pi-orchestrator:$7$")
    assert mqtt_settings(installed) == MQTT_USER


def test_own_broker_choice_is_kept(tmp_path: Path, checkout: Path) -> None:
    root = tmp_path / "root"
    (root / CONFIG).parent.mkdir(parents=True)
    (root / CONFIG).write_text("[mqtt]\nhost = '10.0.0.1'\n")
    output = install_below(root, checkout).stdout
    assert mqtt_settings(root) == {"host": "10.0.0.1"}
    assert "acl_file" not in (root / BROKER).read_text().replace("# ", "")
    assert f"note:   acl_file /{BROKER_ACL}" in output


@pytest.mark.parametrize(
    "text",
    [
        'mqtt = { host = "10.0.0.5" }\n',
        '[ mqtt ]\nhost = "10.0.0.5"\n',
        '["mqtt"]\nhost = "10.0.0.5"\n',
        '[mqtt]\n"host" = "10.0.0.5"\n',
        "[mqtt]\nport = 8883\n",
        "[mqtt]\ntls = true\n",
    ],
)
def test_daemon_of_remote_broker_gets_no_local_user(installed: Path, checkout: Path, text: str) -> None:
    (installed / CONFIG).write_text(text)
    output = install_below(installed, checkout, "--dry-run").stdout
    assert "add the MQTT user" not in output
    assert 'username = "pi-orchestrator"' not in output


@pytest.mark.parametrize(
    "text", ["mqtt = {}\n", "[ mqtt ]\n", '["mqtt"]\n', "mqtt.client_id = 'x'\n", "[http]\n[ 'mqtt' ]"]
)
def test_other_spelling_of_table_is_left_to_owner(checkout: Path, installed: Path, text: str) -> None:
    """A second table would make the file invalid."""
    (installed / CONFIG).write_text(text)
    output = install_below(installed, checkout, "--dry-run").stdout
    assert "add the MQTT user" not in output
    assert 'note:   username = "pi-orchestrator"' in output
    assert f'note:   password_file = "/{MQTT_PASSWORD}"' in output


def test_configuration_with_other_spelling_is_kept(checkout: Path, installed: Path) -> None:
    before = release_in_use(installed)
    (installed / CONFIG).write_text('["mqtt"]\n')
    assert 'note:   username = "pi-orchestrator"' in install_below(installed, checkout).stdout
    assert (installed / CONFIG).read_text() == '["mqtt"]\n'
    assert release_in_use(installed) != before
    # Nor does a new broker get an ACL that refuses the daemon.
    (installed / BROKER).unlink()
    assert 'note:   username = "pi-orchestrator"' in install_below(installed, checkout).stdout
    assert "\nacl_file" not in (installed / BROKER).read_text()


@pytest.mark.parametrize(
    "text",
    ["", "[http]", "[mqtt]", "[mqtt] # mine\nclient_id = 'x'\n[http]\n", "[mqtt]\nhost = '127.0.0.1'\nport = 1883\n"],
)
def test_user_is_added_to_configuration_of_local_broker(checkout: Path, installed: Path, text: str) -> None:
    (installed / CONFIG).write_text(text)
    mode = (installed / CONFIG).stat().st_mode
    install_below(installed, checkout)
    settings = tomllib.loads(text)
    assert tomllib.loads((installed / CONFIG).read_text()) == settings | {"mqtt": settings.get("mqtt", {}) | MQTT_USER}
    assert (installed / CONFIG).stat().st_mode == mode
    assert not (installed / f"{CONFIG}.partial").exists()


def test_configuration_with_user_is_checked_before_it_is_used(changed_checkout: Path, installed: Path) -> None:
    cli = changed_checkout / "pi_orchestrator/cli.py"
    cli.write_text(cli.read_text().replace("try:", 'if "username" in open(path).read():\n        return 2\n    try:'))
    before = release_in_use(installed)
    (installed / CONFIG).write_text("[mqtt]\n")
    output = install_below(installed, changed_checkout, code=1).stderr
    assert "the new version does not accept the configuration" in output
    assert (installed / CONFIG).read_text() == "[mqtt]\n"
    assert not (installed / f"{CONFIG}.partial").exists()
    assert release_in_use(installed) == before


@contextlib.asynccontextmanager
async def installed_broker(root: Path, folder: Path) -> AsyncIterator[Broker]:
    """Run mosquitto with the installed settings: on a free port of loopback only."""
    broker = Broker(folder)
    text = (root / BROKER).read_text().replace(" /etc/mosquitto/", f" {root}/etc/mosquitto/")
    text = re.sub(r"^listener 1883 10\..*$", "", text, flags=re.MULTILINE)
    user = broker.conf.read_text().splitlines()[-1]
    broker.conf.write_text(text.replace("listener 1883 127.0.0.1", f"listener {broker.port} 127.0.0.1\n{user}"))
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()


async def test_installed_acl_protects_commands(tmp_path: Path, installed: Path) -> None:
    password = (installed / MQTT_PASSWORD).read_text().strip()
    login = {"username": "pi-orchestrator", "password": password}
    async with installed_broker(installed, tmp_path) as broker:
        settings = MqttSettings(
            host=broker.host, port=broker.port, password=SecretStr(password), username=login["username"]
        )
        report = await check_broker(settings, filters=FILTERS, command_topic=COMMAND_TOPIC)
        assert report == BrokerReport(protocol="MQTT 5", is_open_to_commands=False, is_size_limited=True)

        mac = "24:6F:28:00:00:01"
        delicasa = f"delicasa/box/camera/{mac}"
        options = {"protocol": aiomqtt.ProtocolVersion.V5}
        async with broker.client(**login, **options) as daemon, broker.client(**options) as camera:
            await daemon.subscribe([("camera/#", 1), ("delicasa/#", 1), ("piorch/#", 1)])
            await camera.subscribe([("#", 1)])
            refused = (f"camera/command/{mac}", f"{delicasa}/command", "piorch/status", "piorch/echo", "other")
            allowed = (
                f"camera/status/{mac}",
                "camera/response/r",
                "camera/response/r/chunk",
                f"{delicasa}/status",
                f"{delicasa}/response/r/ack",
            )
            for topic in (*refused, *allowed):
                await camera.publish(topic, "from the camera", qos=1)
            received = aiter(daemon.messages)
            assert [(await anext(received)).topic.value for _ in allowed] == list(allowed)

            commands = (f"camera/command/{mac}", f"{delicasa}/command", "piorch/status")
            for topic in (*allowed, *commands):
                await daemon.publish(topic, "from the daemon", qos=1)
            messages = aiter(camera.messages)
            assert [(await anext(messages)).topic.value for _ in commands] == list(commands), (
                "the camera receives commands, but no pictures"
            )


async def test_daemon_works_with_installed_broker(tmp_path: Path, installed: Path, rig: Rig) -> None:
    """Cameras without a user are onboarded, give pictures and are rebooted."""
    password_file = str(installed / MQTT_PASSWORD)
    async with installed_broker(installed, tmp_path) as rig.broker:
        mqtt = {"port": rig.broker.port, "username": "pi-orchestrator", "password_file": password_file}
        async with rig.daemon(mqtt=mqtt) as running, rig.fleet(1) as fleet:
            (camera,) = fleet.cameras
            assert running.app.resources.health.get("mqtt").state is State.OK

            async def picture() -> object:
                answer = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
                return answer if answer.status == 200 else None

            assert (await eventually(picture)).headers["X-Capture-Source"] == "mqtt"


@pytest.mark.timeout(300)  # downloads packages with --slow, or if the environment has kept none
def test_real_program_is_installed_from_lock_file(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --slow, from the package index and with its own pip; otherwise both come from the tests' environment."""
    monkeypatch.setenv("PIP_NO_COMPILE", "0")  # pip reads 0 as "do not compile"; it takes as long as everything else
    if wheels_are_kept() and not Scale.slow:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(WHEELS))
    install(REPO, "--root", tmp_path, "--python", sys.executable if Scale.slow else checkout / "python")
    python = tmp_path / OPT / "venv/bin/python"
    with_user = re.sub(
        r"^\[mqtt\]$",
        f'[mqtt]\nusername = "pi-orchestrator"\npassword_file = "/{MQTT_PASSWORD}"',
        (REPO / "config/config.toml").read_text(),
        flags=re.MULTILINE,
    )
    assert (tmp_path / CONFIG).read_text() == with_user
    # The lock file contains every declared dependency, and the command is installed.
    for command in (
        [python, "-m", "pip", "--disable-pip-version-check", "check"],
        [tmp_path / OPT / "venv/bin/pi-orchestrator", "check-config", "--config", tmp_path / CONFIG],
    ):
        variables = os.environ | {"PIORCH_MQTT__PASSWORD_FILE": str(tmp_path / MQTT_PASSWORD)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
        assert done.returncode == 0, done.stdout + done.stderr
