#!/usr/bin/env python3
"""Compares the branch coverage of each package with its minimum in tests/coverage.toml.

    scripts/coverage.py build/coverage.json             exit code 1 if a package is below its minimum
    scripts/coverage.py build/coverage.json --update    makes the measured coverage the minimum

`scripts/test --slow` measures the coverage and runs this check.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

MINIMUMS = Path(__file__).parents[1] / "tests" / "coverage.toml"
HEADER = "# Percent of the branches of each package that the tests take; written by scripts/coverage.py --update.\n"
SPLIT = {"features", "net"}  # folders whose subfolders count as packages


def package_of(file: str) -> str:
    """`features.captures` for pi_orchestrator/features/captures/service.py; else the name of the top folder."""
    folders = Path(file).parent.parts[1:]
    return ".".join(folders[: 2 if folders[:1] and folders[0] in SPLIT else 1]) or "pi_orchestrator"


def percent_by_package(report: Path) -> dict[str, float]:
    """Percent of branches taken for each package with branches, from a report of `coverage json`."""
    taken: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for file, result in json.loads(report.read_text())["files"].items():
        taken[package_of(file)] += result["summary"]["covered_branches"]
        total[package_of(file)] += result["summary"]["num_branches"]
    return {package: 100 * taken[package] / count for package, count in sorted(total.items()) if count}


def errors(measured: dict[str, float], minimums: dict[str, float]) -> list[str]:
    """One text for each package that is below its minimum, was not measured, or has no minimum."""
    found = [
        f"{package}: coverage is {measured.get(package, 0):.1f} %, the minimum is {minimum} %"
        for package, minimum in minimums.items()
        if measured.get(package, 0) < minimum
    ]
    missing = [
        f"{package}: no minimum; run scripts/coverage.py --update" for package in measured.keys() - minimums.keys()
    ]
    return [*found, *sorted(missing)]


def main() -> int:
    """Check or update the minimums; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="the report of `coverage json`")
    parser.add_argument("--update", action="store_true", help="make the measured coverage the minimum")
    args = parser.parse_args()
    measured = percent_by_package(args.report)
    if args.update:
        lines = [f'"{package}" = {int(percent)}\n' for package, percent in measured.items()]
        MINIMUMS.write_text(HEADER + "".join(lines))
        return 0
    for package, percent in measured.items():
        sys.stdout.write(f"{percent:6.1f} %  {package}\n")
    found = errors(measured, tomllib.loads(MINIMUMS.read_text()))
    for text in found:
        sys.stderr.write(f"error: {text}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
