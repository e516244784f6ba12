"""Which module may import which, and where SQL and files belong: every import is checked against one declared order."""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pi_orchestrator
from pi_orchestrator.app.build import FEATURES

PACKAGE = Path(pi_orchestrator.__file__).parent
TESTS = Path(__file__).parents[1]
LONGEST_FILE = 500

FEATURE_ORDER = tuple(module.__name__.removeprefix("pi_orchestrator.").removesuffix(".feature") for module in FEATURES)
"""Features, lowest first, as app/build.py declares them."""

ORDER = (
    "core",
    "http",
    "settings",
    "storage",
    "net",
    "edge_http",
    "cli",
    "console",
    "features.feature",
    *FEATURE_ORDER,
    "app",
    "__main__",
)
"""Places, lowest first: a module imports from its own place and from those before it."""

FORBIDDEN = {
    "http": {"settings", "storage", "net"},
    "storage": {"http"},
    "net": {"http", "storage"},
    "settings": {"http"},
    "cli": {"http", "edge_http"},
    "console": {"settings", "storage", "net", "edge_http", "cli"},
}
"""Exceptions: place → places before it that it must not import."""

SANDBOX_MAY_IMPORT = ("core", "net.mqtt.client", "cli", "sandbox")
MAY_IMPORT_SANDBOX = ("app.cli_demo", "app.main")

PRIVATE_TO_A_FEATURE = re.compile(r"worker|presence|cli\w*|\w*api|\w*routes")
"""Modules that no other feature imports."""
PRIVATE_EXCEPTIONS = {
    ("features.legacy", "features.cameras.routes"),
    ("features.legacy", "features.captures.routes"),
    ("features.legacy", "features.commands.routes"),
    ("features.legacy", "features.network.routes"),
    ("features.legacy", "features.cameras.api"),
    ("features.legacy", "features.commands.api"),
    ("features.legacy", "features.network.api"),
    ("features.system.cli_doctor", "features.discovery.cli_checks"),
    ("features.system.doctor_network", "features.discovery.cli_checks"),
}
"""(importer, target): the legacy API converts the answers of other features; the doctor uses the checks of a scan."""

LIBRARY_IMPORTERS = {
    "aiomqtt": ("net.mqtt.link", "net.mqtt.client", "net.mqtt.session", "net.mqtt.check", "sandbox"),
    "aiosqlite": ("storage.database",),
    "amqtt": ("net.mqtt.broker",),
    "cryptography": ("storage.vault",),
    "prometheus_client": ("http.metrics",),
    "pyroute2": ("net.kernel.netlink", "net.wifi.radio"),
    "scapy": ("net.arp.frames",),
    "sqlite3": ("storage", "edge_http.key_store", "features.system.database_dump"),
    "zeroconf": ("net.mdns.service",),
}
"""Library → the only modules that import it."""

LIGHT = sys.stdlib_module_names - {"asyncio", "concurrent", "multiprocessing", "sqlite3", "ssl", "unittest"}
LIGHT_MODULES = re.compile(
    r"__version__|cli(\..+)?|core\.(errors|error_codes|stream_events)(\..+)?|storage\.files|.*\.cli\w*(\.\w+)?|app\.cli_\w+|features\.\w+"
)
"""What modules of commands may import outside of functions: a command must start in well under half a second."""

PURE_FILES = re.compile(
    r"features\.\w+\.(model|policy|ladder|session\w*|exclusions|csv_format|status_message|registry|addresses|changes|line)"
)
PURE = {
    "__future__", "base64", "binascii", "collections", "csv", "dataclasses", "datetime", "enum", "ipaddress", "json",
    "math", "pydantic", "re", "typing",
}  # fmt: skip
PURE_MODULES = ("core", "features", "net.jpeg", "settings.model")

SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|PRAGMA|BEGIN|VACUUM|WITH)\s")
SQL_PLACES = re.compile(r"storage\..+|.*\.(\w+_)?store|features\.system\.database_dump")


@dataclass(frozen=True)
class Import:
    """`importer` (without the package's name) imports `target`, on `line`.

    `deferred`: inside a function, or for types only.
    """

    importer: str
    target: str
    line: int
    deferred: bool

    def ours(self):
        """The target within the package (`""` for the package itself), or None for another package."""
        name, _, rest = self.target.partition(".")
        return rest if name == "pi_orchestrator" else None

    def __str__(self):
        return f"{self.importer}:{self.line} imports {self.target}"


def imports_of(module, source) -> Iterator[Import]:
    """Every import of a module's source; `from package import name` names `package.name`."""

    def walk(node, deferred):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, alias.name, child.lineno, deferred)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}:{child.lineno}: a relative import"
                for alias in child.names:
                    yield Import(module, f"{child.module}.{alias.name}", child.lineno, deferred)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, deferred or inside or _is_for_types(child))

    yield from walk(ast.parse(source), False)


def _is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def place_of(module):
    """The entry of ORDER that a module belongs to, or None."""
    return next((place for place in ORDER if _within(module, (place,))), None)


def breaches(found: list[Import]) -> list[str]:
    """A line for each import and each rule that it breaks."""
    rules = (
        breaks_order,
        reaches_into_a_feature,
        leaves_the_sandbox,
        is_imported_elsewhere,
        is_impure,
        is_heavy,
    )
    return [f"{item}: {why}" for item in found for rule in rules if (why := rule(item))]


def breaks_order(item):
    target = item.ours()
    if not target or target == "__version__" or item.importer.startswith("sandbox"):
        return None
    if target.startswith("sandbox"):
        return None if item.importer in MAY_IMPORT_SANDBOX else "only the demo and the command create simulated cameras"
    here, there = place_of(item.importer), place_of(target)
    if there is None:
        return f"{target} has no place in the order"
    if here is None or here == there:
        return None
    if ORDER.index(here) < ORDER.index(there):
        return f"{here} is below {there}"
    return f"{here} must not import {there}" if there in FORBIDDEN.get(here, ()) else None


def reaches_into_a_feature(item):
    target = item.ours() or ""
    here, there = place_of(item.importer), place_of(target)
    if not (here and there and here != there and here.startswith("features.") and there.startswith("features.")):
        return None
    if any(_within(item.importer, (importer,)) and _within(target, (of,)) for importer, of in PRIVATE_EXCEPTIONS):
        return None
    parts = target.split(".")
    module = parts[2] if len(parts) > 2 else ""
    return f"{module} is private to {there}" if PRIVATE_TO_A_FEATURE.fullmatch(module) else None


def leaves_the_sandbox(item):
    target = item.ours()
    if target is None or not item.importer.startswith("sandbox"):
        return None
    return None if _within(target, SANDBOX_MAY_IMPORT) else "the sandbox stays independent of the daemon"


def is_imported_elsewhere(item):
    importers = LIBRARY_IMPORTERS.get(item.target.split(".")[0])
    is_allowed = importers is None or _within(item.importer, importers)
    return None if is_allowed else f"only {', '.join(importers)} may import it"


def is_impure(item):
    if not PURE_FILES.fullmatch(item.importer):
        return None
    target, top = item.ours(), item.target.split(".")[0]
    allowed = top in PURE if target is None else _within(target, PURE_MODULES)
    return None if allowed else "models and rules do no input or output"


def is_heavy(item):
    name = item.importer.rsplit(".", 1)[-1]
    is_command = (
        re.fullmatch(r"cli(_\w+)?", name)
        or item.importer in ("app.main", "__main__")
        or place_of(item.importer) == "cli"
    )
    if not (is_command or _is_package(item.importer)) or item.deferred:
        return None
    if item.importer == "settings":
        return None  # its __init__ exports the whole package; commands import it inside functions
    target = item.ours()
    light = item.target.split(".")[0] in LIGHT if target is None else bool(LIGHT_MODULES.fullmatch(target))
    if item.importer == "__main__":
        light = light or target == "app.main.main"
    return None if light else "commands start fast: import it inside the function"


def _is_package(module):
    return (PACKAGE / module.replace(".", "/") / "__init__.py").exists() and module != "__main__"


def _within(module, places):
    return any(module == place or module.startswith(f"{place}.") for place in places)


@functools.cache
def modules() -> dict[str, str]:
    """Every module of the package: dotted name without the package's own → source."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = file.read_text(encoding="utf-8")
    return found


@functools.cache
def all_imports() -> list[Import]:
    return [item for name, source in modules().items() for item in imports_of(name, source)]


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or indirectly (Tarjan's algorithm)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def file_graph() -> dict[str, set[str]]:
    """Module → modules that it imports; imports inside functions and for types count."""
    known = set(modules())
    graph = {}
    for item in all_imports():
        target = item.ours()
        if target:
            file = target if target in known else target.rpartition(".")[0]
            if file in known and file != item.importer:
                graph.setdefault(item.importer, set()).add(file)
    return graph


def sql_outside_of_storage() -> list[str]:
    found = []
    for name, source in modules().items():
        if SQL_PLACES.fullmatch(name):
            continue
        found += [
            f"{name}:{node.lineno}: {node.value[:40]}"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
        ]
    return found


def test_no_import_breaks_the_order():
    found = all_imports()
    assert len(found) > 300, "imports_of finds the imports of the package"
    caught = breaches(found)
    assert not caught, "\n".join(caught)


def test_no_modules_import_each_other():
    assert cycles(file_graph()) == []


def test_every_feature_is_in_the_order():
    folders = {
        f"features.{folder.name}" for folder in (PACKAGE / "features").iterdir() if (folder / "__init__.py").exists()
    }
    assert folders == set(FEATURE_ORDER)


def test_every_module_has_a_place():
    without_place = [
        name for name in modules() if place_of(name) is None and name not in ("__init__", "features", "sandbox")
    ]
    assert [name for name in without_place if not name.startswith("sandbox.")] == []


def test_sql_is_in_storage_and_stores_only():
    assert sql_outside_of_storage() == []


@pytest.mark.parametrize(
    "module, source, rule",
    [
        ("core.mac", "from pi_orchestrator.storage.database import Database", "is below"),
        ("core.mac", "from pi_orchestrator.http.route import Route", "is below"),
        ("settings", "import pi_orchestrator.net.mqtt.link", "is below"),
        ("http.server", "from pi_orchestrator.settings import Settings", "is below"),
        ("http.server", "from pi_orchestrator.edge_http.envelope import success", "is below"),
        ("http.sse", "def f():\n    from pi_orchestrator.storage.database import Database", "is below"),
        ("net.mqtt.link", "from pi_orchestrator.storage.database import Tx", "must not import"),
        ("storage.database", "from pi_orchestrator.http.route import Route", "must not import"),
        ("edge_http.auth", "from pi_orchestrator.features.cameras.store import find", "is below"),
        ("console.assets", "from pi_orchestrator.storage.database import Database", "must not import"),
        ("features.cameras.store", "from pi_orchestrator.features.containers.store import find", "is below"),
        ("features.cameras.store", "if TYPE_CHECKING:\n    from pi_orchestrator.app.build import build", "is below"),
        ("features.captures.service", "from pi_orchestrator.features.cameras.api import show", "is private"),
        ("features.recovery.worker", "from pi_orchestrator.features.cameras import presence", "is private"),
        ("features.system.api", "from pi_orchestrator.features.discovery.cli_checks import check", "is private"),
        ("app.build", "from pi_orchestrator.sandbox.fleet import Fleet", "only the demo"),
        ("sandbox.fleet", "from pi_orchestrator.net.mqtt.link import MqttLink", "independent of the daemon"),
        ("sandbox.fleet", "from pi_orchestrator import settings", "independent of the daemon"),
        ("storage.schema", "import aiosqlite", "may import it"),
        ("features.cameras.presence", "class A:\n    def f(self):\n        import sqlite3", "may import it"),
        ("features.system.health_api", "from prometheus_client import Counter", "may import it"),
        ("net.camera_http", "from pyroute2.iproute import linux", "may import it"),
        ("net.arp.engine", "def f():\n    from scapy.layers.l2 import ARP", "may import it"),
        ("net.mdns.intake", "from zeroconf import ServiceInfo", "may import it"),
        ("net.mqtt.link", "from amqtt.broker import Broker", "may import it"),
        ("features.cameras.presence", "import aiomqtt as mqtt", "may import it"),
        ("features.cameras.model", "import socket", "no input or output"),
        ("features.onboarding.policy", "import aiohttp", "no input or output"),
        ("features.recovery.ladder", "from pi_orchestrator.storage.database import Tx", "no input or output"),
        ("features.cameras.cli", "import aiohttp", "start fast"),
        ("app.main", "from pi_orchestrator.settings import load", "start fast"),
        ("cli.client", "try:\n    import pydantic\nexcept ImportError:\n    pass", "start fast"),
        ("features.cameras", "from pi_orchestrator.features.cameras.store import find", "start fast"),
    ],
)
def test_forbidden_import_is_found(module, source, rule):
    caught = breaches(list(imports_of(module, source)))
    assert any(rule in line for line in caught), caught


@pytest.mark.parametrize(
    "module, source",
    [
        ("app.cli_run", "def run():\n    import aiohttp\n    from pi_orchestrator import app"),
        ("app.cli_run", "if TYPE_CHECKING:\n    from pi_orchestrator.settings import Loaded"),
        ("app.cli_demo", "def run():\n    from pi_orchestrator.sandbox.fleet import Fleet"),
        ("app.main", "from pi_orchestrator import __version__\nfrom pi_orchestrator.features.cameras import cli"),
        ("features.onboarding.worker", "from pi_orchestrator.features.onboarding.rejections import RejectionLog"),
        ("features.onboarding.worker", "from pi_orchestrator.storage.database import Database, Tx"),
        ("sandbox.camera", "import aiomqtt\nfrom pi_orchestrator.net.mqtt.client import MqttClient"),
        ("core.supervisor", "from pi_orchestrator.core.health import Health"),
        ("storage.schema", "import sqlite3"),
    ],
)
def test_allowed_import_is_no_breach(module, source):
    assert breaches(list(imports_of(module, source))) == []


def test_cycle_is_found():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_file_is_too_long():
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_no_module_is_a_collection_of_helpers():
    names = {file.stem for file in PACKAGE.rglob("*.py")}
    assert names.isdisjoint({"utils", "util", "helpers", "misc", "common"})


@pytest.mark.parametrize("kind", ["unit", "integration"])
def test_tests_mirror_the_package(kind):
    """Every folder of tests has the name of a folder of the package, except tests of the whole program."""
    folders = {folder.relative_to(TESTS / kind) for folder in (TESTS / kind).rglob("*") if folder.is_dir()}
    of_whole_program = {Path("journeys"), Path("packaging")}
    unmatched = [
        str(folder)
        for folder in folders - of_whole_program
        if folder.name != "__pycache__" and not (PACKAGE / folder).is_dir()
    ]
    assert unmatched == []
