"""Start and stop: opens resources, builds the application, starts it in order and stops it in reverse.

`running(settings)` is the daemon as a context manager, for the tests and the demo; `run` adds signals, reload and the
exit code. Start: state folder, database, network clients, API, workers, READY. Stop: STOPPING, streams, workers (they
are cancelled, and have `STOP_GRACE_S` to end), event bus, API, network clients, database.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from pi_orchestrator import __version__
from pi_orchestrator.app.build import ROUTES, Application, build
from pi_orchestrator.app.daemon import Daemon
from pi_orchestrator.app.retention import INTERVAL_S as RETENTION_S
from pi_orchestrator.app.retention import RetentionWorker
from pi_orchestrator.app.watchdog import DATABASE, WatchdogWorker
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import SettingsError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.log_buffer import LogBuffer
from pi_orchestrator.core.logging import configure, configure_redaction, get_logger, log_listener
from pi_orchestrator.core.supervisor import Supervisor, Worker
from pi_orchestrator.features.configuration.service import log_warnings, report
from pi_orchestrator.features.feature import Resources
from pi_orchestrator.http.server import build_app, served
from pi_orchestrator.net.camera_http import CameraHttpClient, new_session
from pi_orchestrator.net.host.systemd import Notifier
from pi_orchestrator.net.kernel.netlink import Netlink
from pi_orchestrator.net.mqtt.broker import embedded_broker
from pi_orchestrator.net.mqtt.link import MqttConnection
from pi_orchestrator.settings import Loaded, Settings, from_program, overrides, secrets_of
from pi_orchestrator.settings.overrides import Overrides
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.state_dir import StateDir
from pi_orchestrator.storage.vault import Vault

STOP_GRACE_S = 2.0
DATABASE_RECOVERY = "recovery"
"""Component in health that reports a damaged database; not the recovery of cameras."""

log = get_logger(__name__)


@asynccontextmanager
async def running(
    configured: Settings | Loaded,
    *,
    clock: Clock | None = None,
    notifier: Notifier | None = None,
    listen_setting: str = "http.listen",
) -> AsyncIterator[Daemon]:
    """Run the daemon for the duration of the block; StartupError if it cannot start.

    `listen_setting` is the setting or option to change, for the error if an address cannot be listened on.
    """
    loaded = await asyncio.to_thread(from_program, configured) if isinstance(configured, Settings) else configured
    settings = loaded.settings
    clock = clock or Clock()
    await asyncio.to_thread(clock.refresh)
    notifier = notifier or Notifier()
    health = Health(clock=clock)
    bus = EventBus()
    async with AsyncExitStack() as stack:
        state_dir = await _lock_state_dir(stack, settings)
        log_buffer = await _attach_log_buffer(stack, state_dir, settings)
        loaded = await asyncio.to_thread(_check_overrides, loaded, health)
        database = await _open_database(stack, state_dir, clock=clock, bus=bus, health=health)
        netlink = Netlink()
        stack.callback(netlink.close)
        session = await stack.enter_async_context(new_session())
        mqtt_port = settings.mqtt.port
        if settings.mqtt.embedded:
            mqtt_port = await stack.enter_async_context(embedded_broker(settings.mqtt.host, mqtt_port))

        vault = Vault(state_dir)
        await asyncio.to_thread(vault.load)
        resources = Resources(
            loaded=loaded,
            clock=clock,
            health=health,
            bus=bus,
            log_buffer=log_buffer,
            state_dir=state_dir,
            database=database,
            netlink=netlink,
            camera_http=CameraHttpClient(session=session, port=settings.cameras.http_port),
            mqtt=MqttConnection(settings=settings.mqtt, port=mqtt_port, clock=clock, health=health),
            mqtt_port=mqtt_port,
            session_secret=await asyncio.to_thread(state_dir.session_secret),
            vault=vault,
        )
        app = build(resources)
        for feature in app.features:
            if feature.close:
                stack.callback(feature.close)
            if feature.load:
                await feature.load()

        base = app.base
        web_app = build_app(
            app.api, routes=ROUTES, guard=base.guard, fallback=base.assets.serve, answered=base.answered
        )
        supervisor = Supervisor(clock=clock, health=health)
        daemon = Daemon(
            settings=settings,
            started_with=settings,
            listen=[*settings.http.listen],
            mqtt_port=mqtt_port,
            app=app,
            health=health,
            failed=supervisor.failed,
        )
        app.configuration.service.attach(daemon, reloadable=daemon.reloadable)
        daemon.listen = await stack.enter_async_context(served(web_app, settings.http.listen, setting=listen_setting))
        base.guard.add_ports(listen.port for listen in daemon.listen)

        stack.callback(bus.close)
        stack.push_async_callback(supervisor.stop, grace_s=STOP_GRACE_S)
        for worker in _workers(app, resources, notifier):
            supervisor.start(worker)
        stack.callback(app.events.streams.close)

        notifier.ready()
        stack.callback(notifier.stopping)
        log.info(
            "ready",
            version=__version__,
            listen=[str(listen) for listen in daemon.listen],
            cameras=len(app.cameras.cache),
        )
        yield daemon
        log.info("stopping")


async def run(load: Callable[[], Loaded]) -> int:
    """Run the daemon until SIGTERM or SIGINT (returns 0), or until a worker fails permanently (returns 1)."""
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    stop, reload_requested = asyncio.Event(), asyncio.Event()
    started = False

    def on_stop() -> None:
        stop.set()
        if not started and main is not None:
            main.cancel()  # the check of a large database takes long, so abort the start

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(signal.SIGHUP, reload_requested.set)
    notifier = Notifier()
    try:
        loaded = await asyncio.to_thread(load)
        configure(level=loaded.settings.logging.level, style=loaded.settings.logging.format)
        async with running(loaded, notifier=notifier) as daemon:
            started = True
            _freeze_loaded_objects()
            reloader = asyncio.create_task(_reload_on(reload_requested, load, daemon, notifier), name="reloader")
            await _first_of(stop, daemon.failed)
            reloader.cancel()
            return 1 if daemon.failed.is_set() else 0
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        return 0


def _freeze_loaded_objects() -> None:
    """Enable the garbage collector, which `cli_run` disabled.

    The objects loaded so far are exempt, because each pass over them would block the event loop.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def _workers(app: Application, res: Resources, notifier: Notifier) -> Iterator[Worker]:
    """Background workers, in start order."""
    for feature in app.features:
        yield from feature.workers
    rules = (rule for feature in app.features for rule in feature.retention)
    retention = RetentionWorker(rules=rules, clock=res.clock, database=res.database)
    yield Worker("maintenance", retention.run, stale_after_s=2 * RETENTION_S)
    watchdog = WatchdogWorker(
        clock=res.clock, health=res.health, database=res.database, cameras=app.cameras.cache, notifier=notifier
    )
    yield Worker("pulse", watchdog.run)


async def _lock_state_dir(stack: AsyncExitStack, settings: Settings) -> StateDir:
    state_dir = StateDir(settings.storage.state_dir)
    await asyncio.to_thread(state_dir.lock)
    stack.callback(state_dir.unlock)
    return state_dir


async def _attach_log_buffer(stack: AsyncExitStack, state_dir: StateDir, settings: Settings) -> LogBuffer:
    """Attach a log buffer to the log; from now on configured secrets are redacted."""
    configure_redaction(secrets_of(settings))
    log_buffer = LogBuffer(start=await asyncio.to_thread(state_dir.count_start))
    stack.enter_context(log_listener(log_buffer.append))
    return log_buffer


async def _open_database(
    stack: AsyncExitStack, state_dir: StateDir, *, clock: Clock, bus: EventBus, health: Health
) -> Database:
    health.add(DATABASE, essential=True)
    closed_cleanly = await asyncio.to_thread(state_dir.take_clean_marker)
    prepared = await asyncio.to_thread(
        schema.prepare,
        state_dir.database,
        backups=state_dir.backups,
        closed_cleanly=closed_cleanly,
    )
    if prepared.moved_to:
        health.add(DATABASE_RECOVERY)
        health.set(
            DATABASE_RECOVERY,
            State.DEGRADED,
            f"a damaged database was moved to {prepared.moved_to.name}; {prepared.rows_saved} rows were saved",
        )
        log.error(
            "damaged database set aside",
            file=str(prepared.moved_to),
            rows_saved=prepared.rows_saved,
            why=prepared.notes,
        )
    if prepared.backup:
        log.info("database migrated", backup=str(prepared.backup), from_schema=prepared.migrated_from)
    database = Database(path=state_dir.database, clock=clock, bus=bus)

    async def leave_marker() -> None:
        if database.damaged:
            return  # a damaged database must be checked at the next start
        try:
            await asyncio.to_thread(state_dir.leave_clean_marker)
        except OSError as error:
            log.warning("clean-shutdown marker not written, the next start checks the database", reason=error.strerror)

    stack.push_async_callback(leave_marker)
    await stack.enter_async_context(database.opened())
    health.set(DATABASE, State.OK)
    return database


def _check_overrides(loaded: Loaded, health: Health) -> Loaded:
    """Set aside a damaged override file, and log settings without effect. Blocks: call it in a thread."""
    found = loaded.overrides
    report(health, loaded, *([f"{found.file.name} {found.fault}"] if found.fault else []))
    if found.fault:
        try:
            aside = overrides.set_aside(found.file)
            loaded = replace(loaded, overrides=Overrides(found.file))
            log.error("damaged overrides set aside, no override is active", file=str(aside), reason=found.fault)
        except OSError as error:
            log.error(
                "damaged overrides not set aside, no override is active",
                file=str(found.file),
                reason=found.fault,
                error=str(error),
            )
    for path, reason in loaded.ignored.items():
        log.warning("override ignored", key=path, file=str(found.file), reason=reason)
    log_warnings(loaded)
    return loaded


async def _reload_on(requested: asyncio.Event, load: Callable[[], Loaded], daemon: Daemon, notifier: Notifier) -> None:
    while True:
        await requested.wait()
        requested.clear()
        notifier.reloading()
        try:
            await daemon.app.configuration.service.reload(load)
        except SettingsError as error:
            log.error("configuration not valid, reload skipped", problems=error.problems)
        notifier.ready()


async def _first_of(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
