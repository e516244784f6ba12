"""The diagnostics bundle: everything that helps to find a fault, in one file that may be sent to somebody."""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel

from pi_orchestrator import __version__
from pi_orchestrator.api import config, devices, system
from pi_orchestrator.api.archive import Archive
from pi_orchestrator.api.config import Config
from pi_orchestrator.api.evidence import Now
from pi_orchestrator.api.logs import LogLine
from pi_orchestrator.api.route import Reply, Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.errors import StorageError
from pi_orchestrator.logs import get_logger, masked
from pi_orchestrator.settings import Loaded, known_paths, shown, value_at
from pi_orchestrator.storage import dump
from pi_orchestrator.storage.dump import Table

MEDIA_TYPE = "application/gzip"
MOST_DEVICES = 1000
AT_ONCE = 20
EXPORTED_LINES = 500
LIBRARIES = (
    "aiohttp", "aiomqtt", "aiosqlite", "cryptography", "prometheus_client", "pydantic", "pyroute2", "scapy",
    "structlog", "zeroconf",
)  # fmt: skip
_NAMES = {
    "onboarding_audit": "audit",
    "operator_actions": "actions",
    "events": "events",
    "sessions": "sessions",
    "session_devices": "sessions-devices",
}
"""What tables are called here; the others are below `database/`."""
_MACHINE_FILES = (
    ("model", Path("/proc/device-tree/model")),
    ("os_release", Path("/etc/os-release")),
    ("kernel", Path("/proc/version")),
)

log = get_logger(__name__)


class Export(Wire):
    """What old dashboards offer as a file: how the machine does, the last lines of the log, the configuration."""

    generated_at: Time
    system: system.SystemInfo
    logs: list[LogLine]
    config: Config


async def bundle(services: Services) -> Reply[None]:
    """A compressed archive of JSON and text with everything that helps to find a fault, secrets masked.

    It holds figures of the machine, versions, the configuration, the health of each part, the last lines of the log,
    cameras, devices with their evidence, sessions, events, the audit of onboarding, operator actions, the rest of the
    record, and metrics. Before it is compressed it is at most 16 MiB, a file in it 3 MiB; `manifest.json` says what
    was left out. What opens something (passwords, keys and their digests) is not in it, nor what may hold it.
    """
    at = services.clock.wall()
    path = services.database.path
    # One at a time: each takes a thread for seconds, and what it holds, and a stop waits for all that have begun.
    async with services.one_bundle:
        archive = Archive(at=at, made_by="the daemon")
        parts = [part async for part in _collected(services)]
        loaded = services.configuration.loaded
        content = await asyncio.to_thread(_made, archive, parts, loaded, lambda: dump.of_file(path))
    log.info("a diagnostics bundle was made", bytes=len(content))
    name = f"pi-orchestrator-{at:%Y%m%dT%H%M%SZ}.tar.gz"
    return Reply(
        encoded=content, media_type=MEDIA_TYPE, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


async def export(services: Services) -> Reply[Export]:
    """How the machine does, the last 500 lines of the log and the configuration, secrets masked."""
    lines = services.log_ring.all()[-EXPORTED_LINES:]
    document = Export(
        generated_at=rfc3339(services.clock.wall()),
        system=await system.info(services),
        logs=[LogLine.model_validate_json(line.json(line_id)) for line_id, line in reversed(lines)],
        config=await config.show(services),
    )
    return Reply(encoded=await asyncio.to_thread(_safe, document))


def _safe(document: Export) -> bytes:
    return json.dumps(masked(document.model_dump(mode="json", exclude_none=True))).encode()


Put = Callable[[Archive], None]


async def _collected(services: Services) -> AsyncIterator[Put]:
    """What only the loop may look at, as steps that a thread can take."""
    info = (await system.info(services)).model_dump(exclude_none=True)
    yield lambda archive: archive.add_json("system.json", info)
    now = services.clock.monotonic()
    parts = [
        {
            "name": part.name,
            "state": part.state,
            "reason": part.reason,
            "essential": part.essential,
            "for_seconds": round(now - part.since, 1),
            "restarts": part.restarts,
        }
        for part in services.health.components()
    ]
    yield lambda archive: archive.add_json("health.json", parts)
    lines = services.log_ring.all()
    yield lambda archive: archive.add_lines("logs.jsonl", [line.json(number).decode() for number, line in lines])
    views, moment = services.views, Now.by(services.clock)
    seen = [*dict.fromkeys([*(camera.mac for camera in services.roster), *views.live()])]
    diagnosed = [one async for one in _paced(views.diagnosed(mac, moment) for mac in seen)]
    yield lambda archive: archive.add_lines("cameras.jsonl", diagnosed)
    known = list(services.registry)
    told = [one async for one in _paced(devices.view(services, device) for device in known[:MOST_DEVICES])]
    yield lambda archive: archive.add_lines("devices.jsonl", told, rows=len(known))
    page = (await services.metrics.render()).decode()
    yield lambda archive: archive.add_text("metrics.txt", page)


async def _paced(models: Iterator[BaseModel]) -> AsyncIterator[str]:
    """Models as JSON; there can be thousands, and nobody is to wait for all of them."""
    for number, model in enumerate(models):
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
        yield model.model_dump_json(exclude_none=True)


def _made(archive: Archive, parts: Iterable[Put], loaded: Loaded, tables: Callable[[], Iterable[Table]]) -> bytes:
    for put in parts:
        put(archive)
    put_program(archive, loaded)
    put_tables(archive, tables)
    return archive.finish()


def put_program(archive: Archive, loaded: Loaded) -> None:
    """Versions, and the configuration with the origin of each value; for a thread."""
    versions = {"pi-orchestrator": __version__, "python": sys.version, "sqlite": dump.SQLITE}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    machine = {"platform": platform.platform(), "machine": platform.machine()}
    for name, file in _MACHINE_FILES:
        try:
            machine[name] = file.read_text(encoding="utf-8", errors="replace")[:4000].strip("\0\n")
        except OSError:
            continue
    archive.add_json("versions.json", versions | {"on": machine})
    values = [
        {
            "key": path,
            "value": shown(value_at(loaded.settings, path)),
            "origin": loaded.origins.get(path, "default"),
        }
        for path in known_paths()
    ]
    archive.add_json("config.json", values)


def put_tables(archive: Archive, tables: Callable[[], Iterable[Table]]) -> None:
    """The record; that it cannot be read is told in the manifest."""
    try:
        for table in tables():
            name = _NAMES.get(table.name, f"database/{table.name}")
            archive.add_lines(f"{name}.jsonl", table.lines, rows=table.rows)
    except StorageError as error:
        archive.notes.append(error.message)
