"""The configuration's layers: defaults ← file ← credentials ← environment ← overrides ← flags.

Each layer is first read into a flat list of values with their origins. The merged values are validated once, so that
one error lists every problem. Environment variables with the names of the older Go daemon are a layer of their own,
below those with the new names. The layers are stored as they were read: an override that is set or removed later is
merged with the same values, even if the files have changed since.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from pi_orchestrator.core.errors import SettingsError
from pi_orchestrator.settings import overrides
from pi_orchestrator.settings.model import Settings
from pi_orchestrator.settings.overrides import Overrides
from pi_orchestrator.settings.retired import RETIRED, SettingWarning

DEFAULT_PATH = Path("/etc/pi-orchestrator/config.toml")
ENV_PREFIX = "PIORCH_"
RESERVED_ENV = frozenset({"PIORCH_CONFIG", "PIORCH_API_KEY", "PIORCH_URL"})

Tree = dict[str, Any]


Entry = tuple[tuple[str, ...], Any, str]
"""A value of a layer: path, value, origin."""


@dataclass(frozen=True, slots=True)
class Layers:
    """The values below and above the overrides; `secrets` caches the secret files read so far.

    Retired settings are in `warnings`, not in the layers.
    """

    below: tuple[Entry, ...] = field(repr=False)
    above: tuple[Entry, ...] = field(default=(), repr=False)
    problems: tuple[str, ...] = ()
    warnings: tuple[SettingWarning, ...] = ()
    secrets: dict[Path, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and the origin of each value that is not a default (`section.key` → `file …`, `environment …`, …).

    `ignored` are stored overrides without effect, each with the reason. `warnings` are the retired settings that are
    still set, in any layer.
    """

    settings: Settings
    origins: dict[str, str]
    overrides: Overrides
    layers: Layers
    ignored: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[SettingWarning, ...] = ()

    @property
    def active_overrides(self) -> Mapping[str, str]:
        """The valid overrides, as `path` → text; a flag may still take precedence."""
        return _active(self.overrides, self.ignored)


def load(
    *,
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Tree | None = None,
) -> Loaded:
    """Read every layer; SettingsError lists all problems with their paths.

    The file is `path`, else PIORCH_CONFIG, else DEFAULT_PATH; only the last one may be missing.
    """
    problems: list[str] = []
    below = (
        *_file_layer(path, environ, problems),
        *_credential_layer(environ, problems),
        *_legacy_layer(environ),
        *_environment_layer(environ, problems),
    )
    above = tuple((leaf, value, "flag") for leaf, value in _leaves(flags or {}))
    layers = _without_retired(below, above, problems)
    return apply_overrides(layers, overrides.read(_state_dir(layers) / overrides.NAME))


def from_program(configured: Settings | Tree) -> Loaded:
    """Load settings given by a program; of the other layers, only the overrides apply (from `storage.state_dir`)."""
    leaves = _leaves(configured) if isinstance(configured, dict) else _non_defaults(configured)
    layers = _without_retired((leaf, value, "program") for leaf, value in leaves)
    return apply_overrides(layers, overrides.read(_state_dir(layers) / overrides.NAME))


def apply_overrides(layers: Layers, found: Overrides) -> Loaded:
    """Apply the valid overrides to the layers; the others are in `ignored`, each with its reason."""
    known = set(known_paths()) - {_STATE_DIR}
    candidates = {path: text for path, text in found.values.items() if path in known}
    unknown = found.values.keys() - known - RETIRED.keys()
    ignored = {path: f"{path}: unknown key{_suggest(path)}" for path in found.values if path in unknown}
    ignored |= _invalid_overrides(layers, candidates, found.file)
    return _with_overrides(layers, found, ignored)


def with_override(loaded: Loaded, path: str, text: str | None) -> Loaded:
    """The settings with an override set to this text, or removed (None); SettingsError if they are not valid."""
    values = {**loaded.overrides.values}
    values.pop(path, None)
    if text is not None:
        values[path] = text
    ignored = {other: reason for other, reason in loaded.ignored.items() if other != path}
    return _with_overrides(loaded.layers, replace(loaded.overrides, values=values), ignored)


def closest_key(path: str) -> str | None:
    """The known key or section that is most similar to an unknown one; None if none is similar."""
    known = known_paths()
    close = difflib.get_close_matches(path, known if "." in path else Settings.model_fields, n=1, cutoff=0.6)
    if not close:
        tail = path.rsplit(".", 1)[-1]
        by_key = {known_path.split(".")[1]: known_path for known_path in known}
        close = [by_key[key] for key in difflib.get_close_matches(tail, by_key, n=1, cutoff=0.75)]
    return close[0] if close else None


def known_paths() -> list[str]:
    """Every `section.key`, in the order of the file."""
    return [
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for key in field.annotation.model_fields
    ]


def value_at(settings: Settings, path: str) -> Any:
    """The value of `section.key`."""
    section, key = path.split(".")
    return getattr(getattr(settings, section), key)


def displayable(value: Any) -> Any:
    """A value in displayable form: secrets masked, addresses and paths as text."""
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        return [displayable(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def secrets_of(settings: Settings) -> list[str]:
    """Every configured secret."""
    values = (value_at(settings, path) for path in known_paths())
    return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]


def changed_paths(old: Settings, new: Settings) -> list[str]:
    """The keys whose values differ."""
    return [path for path in known_paths() if value_at(old, path) != value_at(new, path)]


_STATE_DIR = "storage.state_dir"  # the overrides are stored there, so it cannot be an override

Layer = Iterator[Entry]


def _without_retired(below: Iterable[Entry], above: Iterable[Entry] = (), problems: Iterable[str] = ()) -> Layers:
    """Split off the retired settings; each becomes a warning."""
    warnings: list[SettingWarning] = []

    def current(entries: Iterable[Entry]) -> Iterator[Entry]:
        for leaf, value, origin in entries:
            path = ".".join(leaf)
            if len(leaf) == 2 and path in RETIRED:
                warnings.append(SettingWarning(path, origin, RETIRED[path]))
            else:
                yield leaf, value, origin

    return Layers(tuple(current(below)), tuple(current(above)), tuple(problems), tuple(warnings))


def _with_overrides(layers: Layers, found: Overrides, ignored: Mapping[str, str]) -> Loaded:
    settings, origins = _combine(layers, _active(found, ignored), found.file)
    retired = [
        SettingWarning(path, f"override {found.file}", RETIRED[path]) for path in found.values if path in RETIRED
    ]
    return Loaded(settings, origins, found, layers, ignored, (*layers.warnings, *retired))


def _active(found: Overrides, ignored: Mapping[str, str]) -> dict[str, str]:
    return {path: text for path, text in found.values.items() if path not in ignored and path not in RETIRED}


def _combine(layers: Layers, values: Mapping[str, str], file: Path) -> tuple[Settings, dict[str, str]]:
    """Merge all layers: the settings, and the origin of each value."""
    problems = [*layers.problems]
    merged: Tree = {}
    origins: dict[str, str] = {}
    overriding = (((*path.split("."),), text, f"override {file}") for path, text in values.items())
    for leaf, value, origin in (*layers.below, *overriding, *layers.above):
        _place(merged, leaf, value)
        origins[".".join(leaf)] = origin
    _read_secret_files(merged, origins, problems, layers.secrets)
    return _validate(merged, problems, origins), origins


def _invalid_overrides(layers: Layers, values: Mapping[str, str], file: Path) -> dict[str, str]:
    """The overrides that are not valid, each with the reason; empty if the layers are not valid even without them."""

    def find_problem(subset: Mapping[str, str]) -> str | None:
        try:
            _combine(layers, subset, file)
        except SettingsError as error:
            return error.problems[0]
        return None

    if not values or find_problem(values) is None or find_problem({}) is not None:
        return {}
    valid: dict[str, str] = {}
    while True:
        invalid: dict[str, str] = {}
        before = len(valid)
        for path in [path for path in values if path not in valid]:
            if problem := find_problem({**valid, path: values[path]}):
                invalid[path] = problem
            else:
                valid[path] = values[path]
        if len(valid) == before:  # else try again: an override may be valid only together with a later one
            return invalid


def _state_dir(layers: Layers) -> Path:
    values = [value for leaf, value, _ in (*layers.below, *layers.above) if ".".join(leaf) == _STATE_DIR]
    # A value that is not a path is reported by the validation, with all other problems.
    return Path(values[-1]) if values and isinstance(values[-1], str | Path) else Settings().storage.state_dir


def _file_layer(path: Path | None, environ: Mapping[str, str], problems: list[str]) -> Layer:
    chosen = path or (Path(environ["PIORCH_CONFIG"]) if environ.get("PIORCH_CONFIG") else None)
    target = chosen or DEFAULT_PATH
    try:
        tree = tomllib.loads(target.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if chosen:
            problems.append(f"{target}: file not found")
        return
    except OSError as error:
        remedy = "; try with sudo" if isinstance(error, PermissionError) else ""
        problems.append(f"{target}: cannot be read: {error.strerror}{remedy}")
        return
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{target}: not valid TOML: {error}")
        return
    for leaf, value in _leaves(tree):
        yield leaf, value, f"file {target}"


_LAYERS = ("program", "file", "credential", "environment", "override", "flag")
_CREDENTIALS = {
    "api_key": ("auth", "api_key"),
    "mqtt_password": ("mqtt", "password"),
    "target_password": ("provisioning", "target_password"),
    "camera_mqtt_password": ("provisioning", "mqtt_password"),
}


def _credential_layer(environ: Mapping[str, str], problems: list[str]) -> Layer:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return
    for name, leaf in _CREDENTIALS.items():
        file = Path(folder) / name
        if file.exists():
            secret = _secret_in(file, f"credential {name}", problems)
            if secret:
                yield leaf, secret, f"credential {name}"


_LEGACY = {
    "AUTO_ONBOARD_ENABLED": "auto_onboard.enabled",
    "AUTO_ONBOARD_MODE": "auto_onboard.mode",
    "AUTO_ONBOARD_TARGET_CONTAINER": "auto_onboard.target_container",
    "AUTO_ONBOARD_MAX_PER_MINUTE": "auto_onboard.max_per_minute",
    "AUTO_ONBOARD_BURST_SIZE": "auto_onboard.burst_size",
    "AUTO_ONBOARD_SUBNET_ALLOWLIST": "auto_onboard.subnet_allowlist",
    "AUTO_ONBOARD_VERIFICATION_TIMEOUT_SEC": "auto_onboard.verification_timeout_sec",
    "API_KEY": "auth.api_key",
    "API_AUTH_ENABLED": "auth.mode",
    "LOCAL_API_PORT": "http.listen",
    "LOG_LEVEL": "logging.level",
}
_AUTH_ENABLED = dict.fromkeys(("true", "1", "yes", "on"), "provisioning") | dict.fromkeys(
    ("false", "0", "no", "off"), "off"
)


def _legacy_layer(environ: Mapping[str, str]) -> Layer:
    for name, path in _LEGACY.items():
        value = environ.get(name)
        if not value:
            continue
        if name == "API_AUTH_ENABLED":
            value = _AUTH_ENABLED.get(value.lower(), value)
        elif name == "LOCAL_API_PORT":
            value = ",".join(dict.fromkeys((f"0.0.0.0:{value}", "0.0.0.0:8082")))
        elif name == "LOG_LEVEL":
            value = {"warn": "warning"}.get(value.lower(), value.lower())
        yield tuple(path.split(".")), value, f"environment {name}"


def _environment_layer(environ: Mapping[str, str], problems: list[str]) -> Layer:
    known = set(known_paths()) | RETIRED.keys()
    for name, value in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or name in RESERVED_ENV:
            continue
        path = name.removeprefix(ENV_PREFIX).lower().replace("__", ".", 1)
        if path in known:
            yield tuple(path.split(".")), value, f"environment {name}"
        else:
            problems.append(f"environment {name}: unknown key{_suggest(path)}")


def _validate(merged: Tree, problems: list[str], origins: Mapping[str, str]) -> Settings:
    faulty: set[str] = set()
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        faulty = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
        # Conflicts between the other sections are reported too.
        settings = Settings.model_validate({name: tree for name, tree in merged.items() if name not in faulty})
        for fault in error.errors(include_url=False):
            path = ".".join(str(part) for part in fault["loc"][:2])
            origin = next((o for leaf, o in origins.items() if leaf == path or leaf.startswith(f"{path}.")), None)
            where = f" (from {origin})" if origin else ""
            if fault["type"] == "model_type":
                problems.append(f"{path}: this is a section: write [{path}], and its keys below{where}")
            elif fault["type"] == "extra_forbidden":
                problems.append(f"{path}: unknown key{_suggest(path)}{where}")
            else:
                text = fault["msg"].removeprefix("Value error, ")
                problems.append(f"{path}: {text}{where}" if path else text)
    problems += [text for sections, text in _conflicts(settings) if not sections & faulty]
    if problems:
        raise SettingsError(problems)
    return settings


def _conflicts(settings: Settings) -> Iterator[tuple[set[str], str]]:
    """Conflicts between keys that are valid on their own: the sections concerned, and the problem."""
    outside = [str(listen) for listen in settings.http.listen if not listen.is_loopback]
    if settings.auth.mode == "off" and outside:
        yield {"auth", "http"}, f"auth.mode: 'off' is refused while http.listen reaches the network ({outside[0]})"
    if settings.auto_onboard.allow_loopback and outside:
        text = f"auto_onboard.allow_loopback: refused while http.listen reaches the network ({outside[0]})"
        yield {"auto_onboard", "http"}, text
    if not settings.mqtt.port and not settings.mqtt.embedded:
        yield {"mqtt"}, "mqtt.port: 0 is for the embedded broker only"
    if settings.mqtt.tls and settings.mqtt.ca_file and not settings.mqtt.ca_file.is_file():
        yield {"mqtt"}, f"mqtt.ca_file: file not found: {settings.mqtt.ca_file}"
    fixed = [listen for listen in settings.http.listen if listen.port]
    if len(set(fixed)) != len(fixed):
        yield {"http"}, "http.listen: the same address is listed twice"


def _read_secret_files(merged: Tree, origins: dict[str, str], problems: list[str], cache: dict[Path, str]) -> None:
    """Set each secret from its `*_file` key, unless a layer at least as high sets the secret itself."""
    for section, key in _CREDENTIALS.values():
        branch = merged.get(section)
        if not isinstance(branch, dict):
            continue
        key_layer, file_layer = (_layer_of(origins, f"{section}.{name}") for name in (key, f"{key}_file"))
        if branch.get(key) and key_layer >= file_layer:
            continue
        file = branch.get(f"{key}_file")
        if not file or not isinstance(file, str | Path):
            continue
        secret = cache.get(Path(file)) or _secret_in(Path(file), f"{section}.{key}_file", problems)
        if secret:
            cache[Path(file)] = secret
            branch[key] = secret
            origins[f"{section}.{key}"] = f"file {file}"


def _layer_of(origins: Mapping[str, str], path: str) -> int:
    return _LAYERS.index(origins.get(path, "file").split()[0])


def _secret_in(file: Path, where: str, problems: list[str]) -> str | None:
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problems.append(f"{where}: {error}")
        return None
    if not secret:
        problems.append(f"{where}: {file} is empty")
    return secret


def _leaves(tree: Tree) -> Iterator[tuple[tuple[str, ...], Any]]:
    for section, values in tree.items():
        if isinstance(values, dict) and values:
            for key, value in values.items():
                yield (section, key), value
        else:
            yield (section,), values


def _non_defaults(settings: Settings) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values that differ from the defaults."""
    defaults = Settings()
    for path in known_paths():
        if (value := value_at(settings, path)) != value_at(defaults, path):
            yield (*path.split("."),), value


def _place(tree: Tree, leaf: tuple[str, ...], value: Any) -> None:
    if len(leaf) == 1:
        tree.setdefault(leaf[0], value)
    else:
        section, key = leaf
        branch = tree.setdefault(section, {})
        if isinstance(branch, dict):
            branch[key] = value


def _suggest(path: str) -> str:
    close = closest_key(path)
    return f"; did you mean {close}?" if close else ""
