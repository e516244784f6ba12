"""`config/config.toml` matches the code: every key, its default, and its description."""

import re
import tomllib
from pathlib import Path

import pytest

from pi_orchestrator.settings import Settings, displayable, known_paths, load, value_at

FILE = Path(__file__).parents[3] / "config/config.toml"
KEY = re.compile(r"# (?P<key>[a-z_]+) = (?P<value>.+)")
SECTION = re.compile(r"\[(?P<name>[a-z_]+)\]")


def lines():
    return FILE.read_text(encoding="utf-8").splitlines()


def uncommented():
    """The file with every key uncommented."""
    return "\n".join(line.removeprefix("# ") if KEY.fullmatch(line) else line for line in lines())


def comments():
    """`section.key` → the comment right above it, unwrapped."""
    found, section, above = {}, "", []
    for line in lines():
        if match := SECTION.fullmatch(line):
            section = match["name"]
        elif match := KEY.fullmatch(line):
            found[f"{section}.{match['key']}"] = " ".join(above)
        above = [*above, line.removeprefix("# ")] if line.startswith("# ") and not KEY.fullmatch(line) else []
    return found


def description(path):
    section, key = path.split(".")
    return Settings.model_fields[section].annotation.model_fields[key].description


def test_file_names_exactly_the_known_keys():
    tree = tomllib.loads(uncommented())
    assert [f"{section}.{key}" for section, keys in tree.items() for key in keys] == known_paths()


def test_file_defaults_equal_model_defaults(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(uncommented(), encoding="utf-8")
    loaded = load(path=file, environ={})
    defaults = load(path=FILE, environ={}).settings
    assert {path: displayable(value_at(loaded.settings, path)) for path in known_paths()} == {
        path: displayable(value_at(defaults, path)) for path in known_paths()
    }
    assert loaded.settings == defaults == Settings()
    assert set(loaded.origins) == set(known_paths()), "each value came from the file"


def test_shipped_file_loads_and_sets_nothing():
    loaded = load(path=FILE, environ={})
    assert loaded.settings == Settings()
    assert not any(path in loaded.origins for path in known_paths())


@pytest.mark.parametrize("path", known_paths())
def test_comment_equals_description(path):
    assert description(path)
    assert comments()[path] == description(path)


def test_file_fits_80_columns():
    assert [line for line in lines() if len(line) > 79] == []
