"""Who may import whom: every import of the package, those inside functions too, held against the architecture."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pi_orchestrator

PACKAGE = Path(pi_orchestrator.__file__).parent
LONGEST_FILE = 500

LAYERS = (
    {"errors"},
    {"domain"},
    {"clock", "concealment", "events", "health", "log_ring", "logs", "settings", "supervisor"},
    {"storage", "net"},
    {"workers"},
    {"api"},
    {"app"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
GROUND = RANK["clock"]  # what every part stands on stands together; storage and net stand apart
SANDBOX_MAY_IMPORT = ("domain", "errors", "net.mqtt_client", "sandbox")
WORKERS_OF_THEIR_OWN = {
    "care",
    "discovery",
    "maintenance",
    "onboarding",
    "presence",
    "probe",
    "provisioning",
    "pulse",
    "sources",
}
"""Modules with a worker in them; the rest of workers/ are helpers (scanner: of two)."""

HOMES = {
    "aiomqtt": ("net.mqtt", "net.mqtt_client", "sandbox"),
    "aiosqlite": ("storage.database",),
    "amqtt": ("net.broker",),
    "cryptography": ("storage.vault",),
    "prometheus_client": ("api.metrics",),
    "pyroute2": ("net.netlink", "net.wireless"),
    "scapy": ("net.arp_frames",),
    "sqlite3": ("storage",),
    "zeroconf": ("net.mdns",),
}
LIGHT = sys.stdlib_module_names - {"asyncio", "concurrent", "multiprocessing", "sqlite3", "ssl", "unittest"}
LIGHT_OURS = ("__version__", "cli", "errors")
"""What a command may load before it knows what it has to do: it must be there in well under half a second."""
PURE = {
    "__future__",
    "base64",
    "binascii",
    "collections",
    "csv",
    "dataclasses",
    "datetime",
    "enum",
    "ipaddress",
    "json",
    "math",
    "pydantic",
    "re",
    "typing",
}


@dataclass(frozen=True)
class Import:
    """`importer` (without the package's name) imports `target`, on `line`, inside a function or for types only."""

    importer: str
    target: str
    line: int
    deferred: bool

    def ours(self):
        """The target within the package (`""` for the package itself), or None where it is someone else's."""
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


def breaches(found: list[Import]) -> list[str]:
    """Every import that crosses a wall, with the rule that it breaks."""
    rules = (crosses_layers, joins_workers, leaves_the_sandbox, leaves_home, is_impure, is_heavy)
    return [f"{item}: {why}" for item in found for rule in rules if (why := rule(item))]


def crosses_layers(item):
    target = item.ours()
    if not target or target == "__version__" or item.importer.startswith("sandbox"):
        return None
    here, there = item.importer.split(".")[0], target.split(".")[0]
    if there == "sandbox":
        return None if here == "cli" else "only commands make a simulated world"
    allowed = here == there or RANK[here] > RANK[there] or RANK[here] == RANK[there] == GROUND
    return None if allowed else f"{here} is not above {there}"


def joins_workers(item):
    worker = _worker(item.importer)
    target = _worker(item.ours() or "")
    if item.importer.startswith("workers.") and target in WORKERS_OF_THEIR_OWN and worker != target:
        return "workers meet in the database and the hub"
    return None


def _worker(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "workers" and len(parts) > 1 else None


def leaves_the_sandbox(item):
    target = item.ours()
    if target is None or not item.importer.startswith("sandbox"):
        return None
    return None if _within(target, SANDBOX_MAY_IMPORT) else "the sandbox is a peer of the daemon, not a part of it"


def leaves_home(item):
    homes = HOMES.get(item.target.split(".")[0])
    return None if homes is None or _within(item.importer, homes) else f"its home is {', '.join(homes)}"


def is_impure(item):
    top = item.target.split(".")[0]
    if item.importer.split(".")[0] != "domain" or item.ours() is not None or top in PURE:
        return None
    return "the domain does no input or output"


def is_heavy(item):
    if item.importer.split(".")[0] not in {"cli", "__main__"} or item.deferred:
        return None
    target = item.ours()
    light = item.target.split(".")[0] in LIGHT if target is None else _within(target, LIGHT_OURS)
    return None if light else "commands start fast: import it inside the function"


def _within(module, places):
    return any(module == place or module.startswith(f"{place}.") for place in places)


def modules() -> dict[str, str]:
    """Every module of the package: dotted name without the package's own → source."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = file.read_text(encoding="utf-8")
    return found


def test_no_import_crosses_a_layer():
    found = [item for name, source in modules().items() for item in imports_of(name, source)]
    assert len(found) > 300, "the walk finds the package's imports"
    caught = breaches(found)
    assert not caught, "\n".join(caught)


def test_every_module_belongs_to_a_layer():
    tops = {name.split(".")[0] for name in modules()} - {"__init__"}
    assert tops == {*RANK, "sandbox"}


def test_every_module_with_a_worker_is_known_as_one():
    with_worker = {
        name.removeprefix("workers.")
        for name, source in modules().items()
        if name.startswith("workers.")
        and any(isinstance(node, ast.ClassDef) and node.name.endswith("Worker") for node in ast.walk(ast.parse(source)))
    }
    assert with_worker == WORKERS_OF_THEIR_OWN


@pytest.mark.parametrize(
    "module, source, rule",
    [
        ("domain.mac", "from pi_orchestrator.clock import Clock", "not above"),
        ("domain.mac", "import socket", "no input or output"),
        ("domain.mac", "import aiohttp", "no input or output"),
        ("clock", "from pi_orchestrator.storage.database import Database", "not above"),
        ("settings", "import pi_orchestrator.net.mqtt", "not above"),
        ("errors", "from pi_orchestrator.domain.mac import Mac", "not above"),
        ("storage.keys", "from pi_orchestrator.net.mqtt import MqttLink", "not above"),
        ("net.mqtt", "from pi_orchestrator.storage.database import Tx", "not above"),
        ("storage.keys", "from pi_orchestrator.workers import presence", "not above"),
        ("storage.keys", "def f():\n    from pi_orchestrator.api.app import served", "not above"),
        ("net.mqtt", "if TYPE_CHECKING:\n    from pi_orchestrator.app import Daemon", "not above"),
        ("workers.pulse", "from pi_orchestrator.api.app import served", "not above"),
        ("workers.pulse", "from pi_orchestrator.workers.presence import PresenceWorker", "meet in the database"),
        ("workers.pulse", "from pi_orchestrator.workers import presence", "meet in the database"),
        ("workers.refusals", "from pi_orchestrator.workers.onboarding import Candidate", "meet in the database"),
        ("api.app", "from pi_orchestrator.app import running", "not above"),
        ("app", "from pi_orchestrator.cli.main import main", "not above"),
        ("app", "from pi_orchestrator.sandbox.fleet import Fleet", "only commands"),
        ("sandbox.fleet", "from pi_orchestrator.net.mqtt import MqttLink", "a peer of the daemon"),
        ("sandbox.fleet", "from pi_orchestrator import settings", "a peer of the daemon"),
        ("storage.schema", "import aiosqlite", "its home is"),
        ("workers.presence", "class A:\n    def f(self):\n        import sqlite3", "its home is"),
        ("api.health", "from prometheus_client import Counter", "its home is"),
        ("net.espcam", "from pyroute2.iproute import linux", "its home is"),
        ("net.arp", "def f():\n    from scapy.layers.l2 import ARP", "its home is"),
        ("net.mdns_intake", "from zeroconf import ServiceInfo", "its home is"),
        ("net.mqtt", "from amqtt.broker import Broker", "its home is"),
        ("workers.presence", "import aiomqtt as mqtt", "its home is"),
        ("cli.run", "import aiohttp", "start fast"),
        ("cli.run", "from pi_orchestrator.settings import load", "start fast"),
        ("cli.run", "try:\n    import pydantic\nexcept ImportError:\n    pass", "start fast"),
    ],
)
def test_the_checker_catches_a_breach(module, source, rule):
    caught = breaches(list(imports_of(module, source)))
    assert len(caught) == 1
    assert rule in caught[0]


@pytest.mark.parametrize(
    "module, source",
    [
        ("cli.run", "def run():\n    import aiohttp\n    from pi_orchestrator import app"),
        ("cli.run", "if TYPE_CHECKING:\n    from pi_orchestrator.settings import Loaded"),
        ("cli.sandbox", "def run():\n    from pi_orchestrator.sandbox.fleet import Fleet"),
        ("cli.main", "from pi_orchestrator import __version__\nfrom pi_orchestrator.cli import run"),
        ("workers.onboarding", "from pi_orchestrator.workers.refusals import Refusals"),
        ("workers.onboarding", "from pi_orchestrator.storage.database import Database, Tx"),
        ("sandbox.camera", "import aiomqtt\nfrom pi_orchestrator.net.mqtt_client import MqttClient"),
        ("app", "from pi_orchestrator import __version__"),
        ("supervisor", "from pi_orchestrator.health import Health"),
        ("storage.schema", "import sqlite3"),
    ],
)
def test_the_checker_leaves_what_is_allowed_alone(module, source):
    assert breaches(list(imports_of(module, source))) == []


def test_no_file_is_longer_than_one_can_read():
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_there_is_no_place_for_leftovers():
    names = {file.stem for file in PACKAGE.rglob("*.py")}
    assert names.isdisjoint({"utils", "util", "helpers", "misc", "common"})
