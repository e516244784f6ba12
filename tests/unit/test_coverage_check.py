"""scripts/coverage.py: the check of the branch coverage."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "coverage.py"


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Run the script on {file: (branches taken, branches)} with these minimums.

    Returns (exit code, errors, text of the file of minimums).
    """

    def check(files, minimums, *options):
        report = tmp_path / "coverage.json"
        summaries = {
            f"pi_orchestrator/{file}": {"summary": {"covered_branches": taken, "num_branches": branches}}
            for file, (taken, branches) in files.items()
        }
        report.write_text(json.dumps({"files": summaries}))
        minimums_file = tmp_path / "coverage.toml"
        minimums_file.write_text("".join(f'"{package}" = {percent}\n' for package, percent in minimums.items()))
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(report), *options])
        main = runpy.run_path(str(SCRIPT))["main"]
        monkeypatch.setitem(main.__globals__, "MINIMUMS", minimums_file)
        code = main()
        return code, capsys.readouterr().err.splitlines(), minimums_file.read_text()

    return check


def test_branches_of_package_are_added(check):
    files = {
        "core/mac.py": (9, 10),
        "core/clock.py": (0, 5),
        "features/captures/store.py": (1, 2),
        "__main__.py": (0, 0),
    }
    assert check(files, {"core": 60, "features.captures": 50})[:2] == (0, [])


def test_package_below_minimum_fails(check):
    code, errors, _ = check({"core/mac.py": (599, 1000)}, {"core": 60})
    assert (code, errors) == (1, ["error: core: coverage is 59.9 %, the minimum is 60 %"])


def test_package_without_measurement_fails(check):
    code, errors, _ = check({"core/mac.py": (1, 1)}, {"core": 60, "net.arp": 1})
    assert (code, errors) == (1, ["error: net.arp: coverage is 0.0 %, the minimum is 1 %"])


def test_package_without_minimum_fails(check):
    code, errors, _ = check({"core/mac.py": (1, 1), "net/arp/engine.py": (1, 1)}, {"core": 60})
    assert (code, errors) == (1, ["error: net.arp: no minimum; run scripts/coverage.py --update"])


def test_update_stores_whole_percents_rounded_down(check):
    code, _, minimums = check({"core/mac.py": (599, 1000), "net/oui.py": (1, 1)}, {}, "--update")
    assert (code, minimums.splitlines()[1:]) == (0, ['"core" = 59', '"net" = 100'])
