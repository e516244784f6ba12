"""The support bundle: diagnostics in one file, without secrets."""

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
from pi_orchestrator.core.clock import Clock, rfc3339
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.health import Health
from pi_orchestrator.core.log_buffer import LogBuffer
from pi_orchestrator.core.logging import get_logger, redacted
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.views import CameraViews
from pi_orchestrator.features.configuration.service import Configuration
from pi_orchestrator.features.configuration.views import Config, sections
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.views import ClockReading
from pi_orchestrator.features.discovery.views import DeviceViews
from pi_orchestrator.features.system import api as system
from pi_orchestrator.features.system import database_dump
from pi_orchestrator.features.system.archive import Archive
from pi_orchestrator.features.system.database_dump import Table
from pi_orchestrator.features.system.logs_api import LogLine
from pi_orchestrator.http.metrics import MetricsPage
from pi_orchestrator.http.model import ApiModel, Time
from pi_orchestrator.net.host.reader import HostReader
from pi_orchestrator.settings import Loaded, displayable, known_paths, value_at
from pi_orchestrator.storage.database import Database

MEDIA_TYPE = "application/gzip"
MAX_DEVICES = 1000
MODELS_PER_STEP = 20
"""Models converted to JSON before other tasks may run."""
MAX_EXPORT_LINES = 500
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
"""Table → file name without suffix; other tables are below `database/`."""
_MACHINE_FILES = (
    ("model", Path("/proc/device-tree/model")),
    ("os_release", Path("/etc/os-release")),
    ("kernel", Path("/proc/version")),
)

log = get_logger(__name__)


class Export(ApiModel):
    """Export for old dashboards: host status, last log lines, configuration."""

    generated_at: Time
    system: system.SystemInfo
    logs: list[LogLine]
    config: Config


AddPart = Callable[[Archive], None]


class SupportBundle:
    """Builds bundles one at a time: each occupies a thread for seconds, and a stop of the daemon waits for it."""

    def __init__(
        self,
        *,
        clock: Clock,
        health: Health,
        database: Database,
        buffer: LogBuffer,
        cache: CameraCache,
        registry: DeviceRegistry,
        cameras: CameraViews,
        devices: DeviceViews,
        metrics_page: MetricsPage,
        host: HostReader,
        configuration: Configuration,
    ) -> None:
        self._clock = clock
        self._health = health
        self._database = database
        self._buffer = buffer
        self._cache = cache
        self._registry = registry
        self._cameras = cameras
        self._devices = devices
        self._metrics_page = metrics_page
        self._host = host
        self._configuration = configuration
        self._lock = asyncio.Lock()

    async def make(self) -> tuple[str, bytes]:
        """Build a bundle; return its file name and content (tar.gz)."""
        at, path = self._clock.wall(), self._database.path
        async with self._lock:
            archive = Archive(at=at, made_by="the daemon")
            parts = [part async for part in self._collect()]
            loaded = self._configuration.loaded
            content = await asyncio.to_thread(
                _build_archive, archive, parts, loaded, lambda: database_dump.read_database(path)
            )
        log.info("support bundle created", bytes=len(content))
        return f"pi-orchestrator-{at:%Y%m%dT%H%M%SZ}.tar.gz", content

    async def export(self) -> bytes:
        """Return an `Export` as JSON, secrets masked."""
        lines = self._buffer.all()[-MAX_EXPORT_LINES:]
        document = Export(
            generated_at=rfc3339(self._clock.wall()),
            system=await system.info(self._clock, self._host),
            logs=[LogLine.model_validate_json(line.json(line_id)) for line_id, line in reversed(lines)],
            config=Config(sections=sections(self._configuration)),
        )
        return await asyncio.to_thread(_masked_json, document)

    async def _collect(self) -> AsyncIterator[AddPart]:
        """Read the state that only the event loop may access; yield functions that a thread can run."""
        info = (await system.info(self._clock, self._host)).model_dump(exclude_none=True)
        yield lambda archive: archive.add_json("system.json", info)
        now = self._clock.monotonic()
        parts = [
            {
                "name": part.name,
                "state": part.state,
                "reason": part.reason,
                "essential": part.essential,
                "for_seconds": round(now - part.since, 1),
                "restarts": part.restarts,
            }
            for part in self._health.components()
        ]
        yield lambda archive: archive.add_json("health.json", parts)
        lines = self._buffer.all()
        yield lambda archive: archive.add_lines("logs.jsonl", [line.json(number).decode() for number, line in lines])
        cameras, reading = self._cameras, ClockReading.by(self._clock)
        macs = [*dict.fromkeys([*(camera.mac for camera in self._cache), *cameras.live()])]
        diagnosed = [text async for text in _paced(cameras.diagnosed(mac, reading) for mac in macs)]
        yield lambda archive: archive.add_lines("cameras.jsonl", diagnosed)
        devices = list(self._registry)
        shown = [text async for text in _paced(self._devices.view(device) for device in devices[:MAX_DEVICES])]
        yield lambda archive: archive.add_lines("devices.jsonl", shown, rows=len(devices))
        metrics = (await self._metrics_page.render()).decode()
        yield lambda archive: archive.add_text("metrics.txt", metrics)


def _masked_json(document: Export) -> bytes:
    return json.dumps(redacted(document.model_dump(mode="json", exclude_none=True))).encode()


async def _paced(models: Iterator[BaseModel]) -> AsyncIterator[str]:
    """Models as JSON; lets other tasks run after each MODELS_PER_STEP, because there can be thousands."""
    for number, model in enumerate(models):
        if number % MODELS_PER_STEP == 0:
            await asyncio.sleep(0)
        yield model.model_dump_json(exclude_none=True)


def _build_archive(
    archive: Archive, parts: Iterable[AddPart], loaded: Loaded, tables: Callable[[], Iterable[Table]]
) -> bytes:
    for add in parts:
        add(archive)
    add_versions_and_settings(archive, loaded)
    add_tables(archive, tables)
    return archive.finish()


def add_versions_and_settings(archive: Archive, loaded: Loaded) -> None:
    """Add versions, and the configuration with the origin of each value; blocks."""
    versions = {"pi-orchestrator": __version__, "python": sys.version, "sqlite": database_dump.SQLITE_VERSION}
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
            "value": displayable(value_at(loaded.settings, path)),
            "origin": loaded.origins.get(path, "default"),
        }
        for path in known_paths()
    ]
    archive.add_json("config.json", values)


def add_tables(archive: Archive, tables: Callable[[], Iterable[Table]]) -> None:
    """Add the database; a read error is noted in the manifest."""
    try:
        for table in tables():
            name = _NAMES.get(table.name, f"database/{table.name}")
            archive.add_lines(f"{name}.jsonl", table.lines, rows=table.rows)
    except StorageError as error:
        archive.notes.append(error.message)
