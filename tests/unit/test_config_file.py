"""`config/config.toml` held against the code: every key, its default, and why."""

import re
import tomllib
from pathlib import Path

import pytest

from pi_orchestrator.settings import Settings, known_paths, load, shown, value_at

FILE = Path(__file__).parents[2] / "config/config.toml"
KEY = re.compile(r"# (?P<key>[a-z_]+) = (?P<value>.+)")
SECTION = re.compile(r"\[(?P<name>[a-z_]+)\]")


def lines():
    return FILE.read_text(encoding="utf-8").splitlines()


def uncommented():
    """The file with every key taken out of its comment."""
    return "\n".join(line.removeprefix("# ") if KEY.fullmatch(line) else line for line in lines())


def whys():
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


def test_it_names_every_key_and_no_other():
    tree = tomllib.loads(uncommented())
    assert [f"{section}.{key}" for section, keys in tree.items() for key in keys] == known_paths()


def test_every_default_is_the_one_in_the_code(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(uncommented(), encoding="utf-8")
    loaded = load(path=file, environ={})
    defaults = load(path=FILE, environ={}).settings
    assert {path: shown(value_at(loaded.settings, path)) for path in known_paths()} == {
        path: shown(value_at(defaults, path)) for path in known_paths()
    }
    assert loaded.settings == defaults == Settings()
    assert set(loaded.origins) == set(known_paths()), "each value came from the file"


def test_it_loads_as_it_is_and_changes_nothing():
    loaded = load(path=FILE, environ={})
    assert loaded.settings == Settings()
    assert not any(path in loaded.origins for path in known_paths())


@pytest.mark.parametrize("path", known_paths())
def test_every_key_says_why_in_the_words_of_the_code(path):
    assert description(path)
    assert whys()[path] == description(path)


def test_it_fits_a_terminal_of_eighty_columns():
    assert [line for line in lines() if len(line) > 79] == []
