"""The shipped unit, checked with systemd's own tools: it loads, is sandboxed, and always restarts."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[3] / "systemd"
UNIT = "pi-orchestrator.service"
EXEC_START = "/opt/pi-orchestrator/venv/bin/pi-orchestrator run"


def settings(text: str) -> dict[str, list[str]]:
    """Every value of each key, in order, as systemd reads them (no continued lines in our files)."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#;[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def unit() -> dict[str, list[str]]:
    return settings((UNITS / UNIT).read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the unit; its program is replaced by /bin/true, because verify requires that it exists."""
    text = (UNITS / UNIT).read_text()
    assert text.count(f"ExecStart={EXEC_START}\n") == 1
    (tmp_path / UNIT).write_text(text.replace(EXEC_START.removesuffix(" run"), "/bin/true"))
    return tmp_path


def add_drop_in(folder: Path) -> None:
    (folder / f"{UNIT}.d").mkdir()
    shutil.copy(UNITS / "no-capabilities.conf", folder / f"{UNIT}.d")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def verify(folder: Path) -> list[str]:
    """The findings of systemd-analyze about our files; other units of the machine are ignored."""
    done = analyze("verify", "--man=no", "--recursive-errors=no", folder / UNIT)
    findings = [line for line in done.stderr.splitlines() if "pi-orchestrator" in line or "no-capabilities" in line]
    return findings or ([] if done.returncode == 0 else [done.stderr])


def exposure(folder: Path) -> float:
    """Overall exposure, 0 (best) to 10."""
    done = analyze("security", "--offline=true", "--no-pager", folder / UNIT)
    found = re.search(rf"Overall exposure level for {re.escape(UNIT)}: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@pytest.mark.parametrize("drop_in", [False, True])
def test_unit_has_no_findings(folder: Path, drop_in: bool) -> None:
    if drop_in:
        add_drop_in(folder)
    assert verify(folder) == []


@pytest.mark.parametrize("invalid", ["WatchdogSecs=30", "RestartSec=soon", "SystemCallFilter=@no-such-set"])
def test_invalid_setting_is_a_finding(folder: Path, invalid: str) -> None:
    with (folder / UNIT).open("a") as file:
        file.write(f"[Service]\n{invalid}\n")
    assert verify(folder)


def test_exposure_of_unit_is_limited(folder: Path) -> None:
    assert exposure(folder) <= 1.7


def test_exposure_of_unit_without_capabilities_is_lower(folder: Path) -> None:
    add_drop_in(folder)
    assert exposure(folder) <= 1.2


def test_unit_is_always_restarted(unit: dict[str, list[str]]) -> None:
    assert unit["Restart"] == ["always"]
    assert unit["RestartSec"] == ["2"]
    assert unit["StartLimitIntervalSec"] == ["0"]


def test_unit_uses_readiness_and_watchdog(unit: dict[str, list[str]]) -> None:
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["WatchdogSec"] == ["30"]
    assert unit["TimeoutStopSec"] == ["10"]


def test_broker_is_wanted_not_required(unit: dict[str, list[str]]) -> None:
    assert "mosquitto.service" in unit["Wants"][0].split()
    assert "mosquitto.service" in unit["After"][0].split()
    assert not {"Requires", "BindsTo", "Requisite", "PartOf"} & unit.keys()


def test_unit_has_one_capability(unit: dict[str, list[str]]) -> None:
    assert unit["AmbientCapabilities"] == ["CAP_NET_RAW"]
    assert unit["CapabilityBoundingSet"] == ["CAP_NET_RAW"]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["User"] == unit["Group"] == ["pi-orchestrator"]


def test_drop_in_removes_the_capability() -> None:
    drop_in = settings((UNITS / "no-capabilities.conf").read_text())
    assert drop_in["AmbientCapabilities"] == [""]
    assert drop_in["CapabilityBoundingSet"] == [""]
    assert drop_in["PrivateUsers"] == ["yes"]
    assert drop_in["RestrictAddressFamilies"] == ["~AF_PACKET"]


def test_state_is_private(unit: dict[str, list[str]]) -> None:
    for kind in ("State", "Runtime", "Configuration"):
        assert unit[f"{kind}Directory"] == ["pi-orchestrator"]
    assert unit["StateDirectoryMode"] == ["0700"]
    assert int(unit["UMask"][0], 8) & 0o027 == 0o027


def test_missing_secret_does_not_stop_the_start(unit: dict[str, list[str]]) -> None:
    """A source that is a path must exist; a name is looked up in credstore and may be missing."""
    sources = dict(value.split(":", 1) for value in unit["LoadCredential"])
    assert sources.keys() == {"api_key", "mqtt_password", "target_password", "camera_mqtt_password"}
    assert not any("/" in source for source in sources.values())


def test_host_metrics_are_readable(unit: dict[str, list[str]]) -> None:
    """ProcSubset=pid would hide /proc/meminfo and /proc/stat."""
    assert "ProcSubset" not in unit
