"""The composition root: builds every part, hands each what it needs, starts them in order and stops them in reverse.

`running(settings)` is the daemon as a context manager, for the tests and the demo; `run` adds what belongs to a
process: signals, reload and the exit code. Start: state folder, database, edges, API, workers, READY. Stop:
STOPPING, streams, workers (they finish or hand back their step), event hub, API, edges, database.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from pi_orchestrator import __version__
from pi_orchestrator.api.app import build_app, served
from pi_orchestrator.api.auth import Gate, Keyring, new_key
from pi_orchestrator.api.guard import Guard
from pi_orchestrator.api.routes import ROUTES
from pi_orchestrator.app.daemon import RELOADABLE, Daemon
from pi_orchestrator.app.parts import Ground, Parts, assemble
from pi_orchestrator.clock import Clock
from pi_orchestrator.errors import SettingsError
from pi_orchestrator.events import Hub
from pi_orchestrator.health import Health, State
from pi_orchestrator.log_ring import LogRing
from pi_orchestrator.logs import conceal, configure, get_logger, heard_by
from pi_orchestrator.net import mqtt
from pi_orchestrator.net.broker import embedded_broker
from pi_orchestrator.net.espcam import new_session
from pi_orchestrator.net.netlink import Netlink
from pi_orchestrator.net.systemd import Notifier
from pi_orchestrator.settings import Loaded, Settings, given, overrides, secrets_of
from pi_orchestrator.settings.overrides import Overrides
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.keys import Scope
from pi_orchestrator.storage.state_dir import ADMIN_KEY, StateDir
from pi_orchestrator.storage.vault import Vault
from pi_orchestrator.supervisor import Supervisor, Worker
from pi_orchestrator.workers import scanner
from pi_orchestrator.workers.configuration import Configuration, report
from pi_orchestrator.workers.maintenance import INTERVAL_S as MAINTENANCE_S
from pi_orchestrator.workers.maintenance import MaintenanceWorker
from pi_orchestrator.workers.pulse import DATABASE, PulseWorker

STOP_GRACE_S = 2.0
RECOVERY = "recovery"

log = get_logger(__name__)


@asynccontextmanager
async def running(
    configured: Settings | Loaded, *, clock: Clock | None = None, notifier: Notifier | None = None
) -> AsyncIterator[Daemon]:
    """The daemon for the length of the block; StartupError says what stops it from starting."""
    loaded = await asyncio.to_thread(given, configured) if isinstance(configured, Settings) else configured
    settings = loaded.settings
    clock = clock or Clock()
    await asyncio.to_thread(clock.look)
    notifier = notifier or Notifier()
    health = Health(clock=clock)
    hub = Hub()
    async with AsyncExitStack() as stack:
        state_dir = await _claimed(stack, settings)
        log_ring = await _hearing(stack, state_dir, settings)
        loaded = await asyncio.to_thread(_look_at_overrides, loaded, health)
        database = await _open_database(stack, settings, state_dir, clock=clock, hub=hub, health=health)
        netlink = Netlink()
        stack.callback(netlink.close)
        session = await stack.enter_async_context(new_session())
        mqtt_port = settings.mqtt.port
        if settings.mqtt.embedded:
            mqtt_port = await stack.enter_async_context(embedded_broker(settings.mqtt.host, mqtt_port))

        vault = Vault(state_dir)
        await asyncio.to_thread(vault.load)
        ground = Ground(
            clock=clock,
            health=health,
            hub=hub,
            log_ring=log_ring,
            database=database,
            netlink=netlink,
            session=session,
            mqtt_port=mqtt_port,
            session_secret=await asyncio.to_thread(state_dir.session_secret),
            vault=vault,
            configuration=Configuration(loaded=loaded, state_dir=state_dir, database=database, health=health),
        )
        parts = assemble(settings, ground)
        services = parts.services
        stack.callback(services.scanner.close)
        await asyncio.gather(services.roster.load(database), services.dismissed.load(database))
        await services.presence.load()
        await services.onboarding.load()
        await services.discovery.load()
        await services.keyring.load()
        await services.assets.look()
        await parts.provisioning.load()
        await _ensure_admin_key(services.keyring, state_dir)

        gate = Gate(keyring=services.keyring, mode=settings.auth.mode, clock=clock)
        guard = Guard(trusted_hosts=settings.http.trusted_hosts, ports=[listen.port for listen in settings.http.listen])
        app = build_app(routes=ROUTES, services=services, gate=gate, guard=guard)
        supervisor = Supervisor(clock=clock, health=health)
        daemon = Daemon(
            settings=settings,
            started_with=settings,
            listen=[*settings.http.listen],
            mqtt_port=mqtt_port,
            services=services,
            health=health,
            failed=supervisor.failed,
            _gate=gate,
            _guard=guard,
            _keyring=services.keyring,
        )
        services.configuration.attach(daemon, reloadable=RELOADABLE)
        daemon.listen = await stack.enter_async_context(served(app, settings.http.listen))
        guard.serve_on(where.port for where in daemon.listen)

        stack.callback(hub.close)
        stack.push_async_callback(supervisor.stop, grace_s=STOP_GRACE_S)
        for worker in _workers(settings, parts, notifier):
            supervisor.start(worker)
        stack.callback(services.streams.close)

        notifier.ready()
        stack.callback(notifier.stopping)
        log.info(
            "ready",
            version=__version__,
            listen=[str(where) for where in daemon.listen],
            cameras=len(services.roster),
        )
        yield daemon
        log.info("stopping")


async def run(load: Callable[[], Loaded]) -> int:
    """The daemon as a process: until SIGTERM or SIGINT (0), or until a part cannot be kept up (1)."""
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    stop, hang_up = asyncio.Event(), asyncio.Event()
    started = False

    def on_stop() -> None:
        stop.set()
        if not started and main is not None:
            main.cancel()  # a start can take a while (a large database is checked): do not wait for its end

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(signal.SIGHUP, hang_up.set)
    notifier = Notifier()
    try:
        loaded = await asyncio.to_thread(load)
        configure(level=loaded.settings.logging.level, style=loaded.settings.logging.format)
        async with running(loaded, notifier=notifier) as daemon:
            started = True
            _keep_what_stays()
            reloader = asyncio.create_task(_reload_on(hang_up, load, daemon, notifier), name="reloader")
            await _first_of(stop, daemon.failed)
            reloader.cancel()
            return 1 if daemon.failed.is_set() else 0
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        return 0


def _keep_what_stays() -> None:
    """Take what was loaded for good out of the garbage collector's sight: to go through it would hold up the loop."""
    gc.collect()
    gc.freeze()


def _workers(settings: Settings, parts: Parts, notifier: Notifier) -> Iterator[Worker]:
    """What goes on by itself, in the order of its start."""
    services = parts.services
    clock, database = services.clock, services.database
    # The connection's own keep-alive proves that it lives: a quiet night is no hang.
    yield Worker(mqtt.NAME, services.mqtt.run, stale_after_s=None, reports_itself=True)
    yield Worker("presence", services.presence.run)
    yield Worker("onboarding", services.onboarding.run)
    yield Worker("provisioning", parts.provisioning.run)
    yield Worker("care", parts.care.run)
    yield Worker(scanner.NAME, services.scanner.run, reports_itself=True)
    yield Worker("discovery", services.discovery.run)
    yield Worker("sources", services.sources.run)
    yield Worker("streams", services.streams.run)
    if settings.discovery.probe:
        yield Worker("probe", parts.probe.run)
    maintenance = MaintenanceWorker(settings=settings.storage, clock=clock, database=database)
    yield Worker("maintenance", maintenance.run, stale_after_s=2 * MAINTENANCE_S)
    pulse = PulseWorker(
        clock=clock, health=services.health, database=database, roster=services.roster, notifier=notifier
    )
    yield Worker("pulse", pulse.run)


async def _claimed(stack: AsyncExitStack, settings: Settings) -> StateDir:
    state_dir = StateDir(settings.storage.state_dir)
    await asyncio.to_thread(state_dir.claim)
    stack.callback(state_dir.release)
    return state_dir


async def _hearing(stack: AsyncExitStack, state_dir: StateDir, settings: Settings) -> LogRing:
    """The ring, which hears the log from now on; the log no longer has what is configured as secret."""
    conceal(secrets_of(settings))
    log_ring = LogRing(start=await asyncio.to_thread(state_dir.count_start))
    stack.enter_context(heard_by(log_ring.hear))
    return log_ring


async def _open_database(
    stack: AsyncExitStack, settings: Settings, state_dir: StateDir, *, clock: Clock, hub: Hub, health: Health
) -> Database:
    health.add(DATABASE, essential=True)
    closed_cleanly = await asyncio.to_thread(state_dir.take_clean_marker)
    report = await asyncio.to_thread(
        schema.prepare,
        state_dir.database,
        backups=state_dir.backups,
        backups_kept=settings.storage.backups_kept,
        closed_cleanly=closed_cleanly,
    )
    if report.set_aside:
        health.add(RECOVERY)
        health.set(
            RECOVERY,
            State.DEGRADED,
            f"a damaged database was moved to {report.set_aside.name}; {report.rows_saved} rows were saved",
        )
        log.error(
            "damaged database set aside", file=str(report.set_aside), rows_saved=report.rows_saved, why=report.notes
        )
    if report.backup:
        log.info("database migrated", backup=str(report.backup), from_schema=report.migrated_from)
    database = Database(path=state_dir.database, clock=clock, hub=hub)

    async def leave_marker() -> None:
        if database.damaged:
            return  # what was found damaged must be checked at the next start
        try:
            await asyncio.to_thread(state_dir.leave_clean_marker)
        except OSError as error:
            log.warning("no clean-shutdown marker: the next start checks the database", reason=error.strerror)

    stack.push_async_callback(leave_marker)
    await stack.enter_async_context(database.opened())
    health.set(DATABASE, State.OK)
    return database


def _look_at_overrides(loaded: Loaded, health: Health) -> Loaded:
    """Set a damaged override file aside, and say what is not in force; for a thread, because it writes."""
    found = loaded.overrides
    report(health, loaded, *([f"{found.file.name} {found.fault}"] if found.fault else []))
    if found.fault:
        try:
            aside = overrides.set_aside(found.file)
            loaded = replace(loaded, overrides=Overrides(found.file))
            log.error("damaged overrides set aside: none is in force", file=str(aside), reason=found.fault)
        except OSError as error:
            log.error("damaged overrides: none is in force", file=str(found.file), reason=found.fault, stays=str(error))
    for path, why in loaded.ignored.items():
        log.warning("an override is not in force", key=path, file=str(found.file), reason=why)
    return loaded


async def _ensure_admin_key(keyring: Keyring, state_dir: StateDir) -> None:
    """A first key, so that somebody can make others: told by its place, never by itself."""
    if not keyring.lacks_admin:
        return
    key_id, text = new_key()
    # The file comes first: a crash in between leaves a file that the next start replaces, not a key nobody has.
    file = await asyncio.to_thread(state_dir.write_private, ADMIN_KEY, text.encode() + b"\n")
    actor = Actor(key_name="first start", peer="-", correlation_id="-", action="api_key.create")
    name = f"admin-{key_id}" if keyring.listed() else "admin"
    await keyring.add(key_id, text, name=name, scope=Scope.ADMIN, actor=actor)
    log.warning("an admin key was made", file=str(file))


async def _reload_on(hang_up: asyncio.Event, load: Callable[[], Loaded], daemon: Daemon, notifier: Notifier) -> None:
    while True:
        await hang_up.wait()
        hang_up.clear()
        notifier.reloading()
        try:
            await daemon.services.configuration.reload(load)
        except SettingsError as error:
            log.error("configuration not reloaded: it is not valid, the old one stays", problems=error.problems)
        notifier.ready()


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
