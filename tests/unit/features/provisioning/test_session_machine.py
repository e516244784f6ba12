"""Sessions and cameras after steps in random order: without a database, and as commands against a real database.

In any order of commands: only steps of the diagrams, counts equal to the devices' states, one open session per
interface, a final end, and no password after its session.
"""

import asyncio
import json
import os
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from pydantic import SecretStr

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.provisioning import store as sessions
from pi_orchestrator.features.provisioning.circuits import Circuits
from pi_orchestrator.features.provisioning.credentials import SessionPasswords
from pi_orchestrator.features.provisioning.recorder import SessionRecorder
from pi_orchestrator.features.provisioning.secret_exposure import SecretExposure
from pi_orchestrator.features.provisioning.service import SessionRequest, SessionService
from pi_orchestrator.features.provisioning.session import Ending, Session, SessionConfig, SessionState
from pi_orchestrator.features.provisioning.session_device import Sent, SessionDevice, SessionDeviceState
from pi_orchestrator.features.provisioning.worker import ProvisioningWorker
from pi_orchestrator.settings import ProvisioningSettings
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.state_dir import StateDir
from pi_orchestrator.storage.vault import Vault
from tests.support.clock import FakeClock
from tests.support.sampling import repeats

AT = datetime(2026, 1, 11, 22, 33, 20, tzinfo=UTC)
SENT = Sent("192.168.10.21", "boot-1", 1000.0)
MACS = [Mac(f"24:6F:28:00:00:{number:02X}") for number in (0x10, 0x20, 0x30)]
INTERFACES = ("wlan0", "wlan1")
REFUSAL_CODES = {
    "CONFLICT",
    "SESSION_ALREADY_ACTIVE",
    "SESSION_ALREADY_CLOSED",
    "SESSION_NOT_RECOVERABLE",
    "SESSION_EXPIRED",
    "SESSION_NOT_FOUND",
    "DEVICE_NOT_FOUND",
    "DEVICE_NOT_IN_ALLOWLIST",
    "DEVICE_ALREADY_PROVISIONING",
    "DEVICE_INVALID_STATE",
    "MAX_RETRIES_EXCEEDED",
    "NETWORK_ERROR",  # of a session on an interface that is not scanned
}

SESSION_STEPS = {
    "discovering": {"active", "paused", "closing"},
    "active": {"paused", "closing"},
    "paused": {"active", "closing"},
    "closing": {"closed"},
    "closed": set(),
}
DEVICE_STEPS = {
    "discovered": {"provisioning", "failed"},
    "provisioning": {"provisioned", "failed"},
    "provisioned": {"verifying", "failed"},
    "verifying": {"verified", "failed"},
    "verified": set(),
    "failed": {"provisioning"},
}
SESSION_TRANSITIONS = ("activate", "provision", "pause", "resume", "recover", "interrupt")
DEVICE_TRANSITIONS = {
    "queue": lambda device: device.queue(1),
    "retry": lambda device: device.retry(1, max_retries=3),
    "skip": SessionDevice.skip,
    "identifying": SessionDevice.identifying,
    "sending": lambda device: device.sending(SENT),
    "not_accepted": lambda device: device.not_accepted("it said no"),
    "accepted": lambda device: device.accepted(AT),
    "returning": SessionDevice.returning,
    "reading_back": lambda device: device.reading_back("192.168.20.9"),
    "verified": lambda device: device.verified(AT),
    "failed": lambda device: device.failed("DEVICE_TIMEOUT", "no answer"),
    "failed, not delivered": lambda device: device.failed("DEVICE_REJECTED", "no", not_delivered=True),
}


def check_refusal(error, result=None):
    """Assert that the refusal has a code of the contract; return `result`."""
    assert error.code in REFUSAL_CODES, error.code
    return result


class PureMachine(RuleBasedStateMachine):
    """The transitions of one session and one device, without a database."""

    def __init__(self):
        super().__init__()
        self.session = Session("s", SessionState.DISCOVERING, "wlan0", "Net", SessionConfig(), AT, AT)
        self.device = SessionDevice("s", MACS[0], "192.168.10.21", AT)

    def take(self, before, change):
        try:
            after = change(before)
        except OrchestratorError as error:
            return check_refusal(error, before)
        steps = SESSION_STEPS if isinstance(before, Session) else DEVICE_STEPS
        assert after.state == before.state or after.state in steps[before.state], (before.state, after.state)
        return after

    @rule(transition=st.sampled_from(SESSION_TRANSITIONS))
    def session_transition(self, transition):
        self.session = self.take(self.session, lambda session: getattr(session, transition)())

    @rule(ending=st.sampled_from(Ending))
    def close(self, ending):
        before = self.session
        self.session = self.take(before, lambda session: session.close(ending))
        is_late_discard = before.state is SessionState.CLOSING and self.session.ending is Ending.DISCARDED
        assert is_late_discard or before.ending in (None, self.session.ending), "only a discard changes the ending"

    @rule()
    def ended(self):
        self.session = self.take(self.session, lambda session: session.closed(AT))

    @rule(transition=st.sampled_from(sorted(DEVICE_TRANSITIONS)))
    def device_transition(self, transition):
        before = self.device
        self.device = self.take(before, DEVICE_TRANSITIONS[transition])
        assert self.device.retry_count >= before.retry_count

    @invariant()
    def fields_are_consistent(self):
        session, device = self.session, self.device
        assert (session.expires_at is None) == (session.state in ("closing", "closed"))
        assert (session.ending is None) == (session.state not in ("closing", "closed"))
        assert (session.closed_at is None) == session.is_open
        assert not session.interrupted or session.state == "paused"
        assert session.lifetime_s > session.warning_s > 0
        assert (device.progress == 100) == (device.state == "verified")
        assert (device.error_code is None) == (device.state != "failed")
        assert device.retry_count <= 3
        assert device.queued is not None or device.state in ("discovered", "failed")
        if device.state in ("provisioned", "verifying", "verified"):
            assert device.sent is not None, "credentials were accepted without a send"
            assert device.provisioned_at is not None
        assert (device.verified_at is None) == (device.state != "verified")


class StoredMachine(RuleBasedStateMachine):
    """Operators, cameras, time and restarts against a database; stored rows and events must follow the diagrams."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.ids = []
        self.closed = {}
        schema.prepare(self.folder / "o.db", backups=self.folder / "b", backups_kept=1, closed_cleanly=True)
        self.start_daemon()
        self.run(self.allow(MACS[:2]))

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def start_daemon(self):
        async def start():
            bus = EventBus()
            self.opened = Database(path=self.folder / "o.db", clock=self.clock, bus=bus).opened()
            self.database = await self.opened.__aenter__()
            self.recorder = SessionRecorder(clock=self.clock)
            circuits = Circuits(failures=1000, reset_s=30, clock=self.clock)
            self.sessions = SessionService(
                settings=ProvisioningSettings(),
                interface=INTERFACES[0],
                clock=self.clock,
                database=self.database,
                passwords=SessionPasswords(database=self.database, vault=Vault(StateDir(self.folder))),
                mqtt=SimpleNamespace(connected=True),
                scanner=SimpleNamespace(off=True),
                circuits=circuits,
                recorder=self.recorder,
            )
            self.worker = ProvisioningWorker(
                interface=INTERFACES[0],
                concurrency=4,
                clock=self.clock,
                database=self.database,
                service=self.sessions,
                provisioner=IdleProvisioner(),
                intake=EmptyIntake(),
                recorder=self.recorder,
                circuits=circuits,
                exposure=SecretExposure(bus=EventBus(), database=self.database, clock=self.clock),
            )
            await self.worker.load()

        self.run(start())

    def stop_daemon(self):
        async def stop():
            running = list(self.worker._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await self.opened.__aexit__(None, None, None)

        self.run(stop())

    def teardown(self):
        self.stop_daemon()
        self.loop.close()
        shutil.rmtree(self.folder)

    async def allow(self, macs):
        async def job(tx):
            for mac in macs:
                await tx.run("INSERT INTO allowlist (mac, added_at) VALUES (?, '2026-01-22')", (mac,))

        await self.database.write(job)

    async def command(self, coroutine):
        """Run a command while the worker passes; return its result, or None for a refusal of the contract."""
        task = asyncio.ensure_future(coroutine)
        while not task.done():
            await self.worker.run_pass()
            if self.clock.has_sleepers:  # a slow disk takes no time on this clock
                await self.clock.advance(0.5)
            await asyncio.sleep(0)
        try:
            return task.result()
        except OrchestratorError as error:
            return check_refusal(error)

    def actor(self):
        return Actor("test", "-", "-", "test")

    @rule(interface=st.sampled_from(INTERFACES), state=st.sampled_from(["active", "discovering"]))
    def start(self, interface, state):
        request = SessionRequest(interface, "Net", SecretStr("correct horse battery"), state=SessionState(state))
        was_open = any(session.network_interface == interface for session in self.run(self.sessions.open_sessions()))
        started = self.run(self.command(self.sessions.start(request, self.actor())))
        assert (started is None) == was_open
        if started:
            self.ids.append(started.id)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), verb=st.sampled_from(["pause", "resume", "recover", "close", "discard"]))
    def session_command(self, data, verb):
        session = data.draw(st.sampled_from(self.ids))
        self.run(self.command(getattr(self.sessions, verb)(session, self.actor())))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), only=st.booleans())
    def provision_all(self, data, only):
        session = data.draw(st.sampled_from(self.ids))
        self.run(self.command(self.sessions.provision_all(session, self.actor(), only_allowlisted=only)))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), mac=st.sampled_from(MACS), verb=st.sampled_from(["provision", "retry", "skip"]))
    def camera_command(self, data, mac, verb):
        session = data.draw(st.sampled_from(self.ids))
        once = self.run(self.command(getattr(self.sessions, verb)(session, mac, self.actor())))
        again = self.run(self.command(getattr(self.sessions, verb)(session, mac, self.actor())))
        if once is not None and again is not None:
            assert (once.state, once.retry_count, once.queued) == (again.state, again.retry_count, again.queued)
        assert once is None or again is not None, "a repeat of an accepted command is accepted"

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), mac=st.sampled_from(MACS))
    def camera_joins(self, data, mac):
        session = data.draw(st.sampled_from(self.ids))

        async def join(tx):
            found = await sessions.get(tx.run, session)
            if found.expires_at and await sessions.device(tx.run, session, mac) is None:
                listed = mac in MACS[:2]
                device = SessionDevice(session, mac, "192.168.10.21", self.clock.wall(), in_allowlist=listed)
                await self.recorder.save_discovered(tx, [device], is_activity=True)

        self.run(self.database.write(join))

    @precondition(lambda self: self.ids)
    @rule(
        data=st.data(),
        mac=st.sampled_from(MACS),
        verb=st.sampled_from(sorted(set(DEVICE_TRANSITIONS) - {"queue", "retry", "skip"})),
    )
    def camera_steps(self, data, mac, verb):
        """Take a step as the provisioner does: only while the session is open."""
        session = data.draw(st.sampled_from(self.ids))

        async def step(tx):
            found = await sessions.get(tx.run, session)
            device = await sessions.device(tx.run, session, mac)
            if not found.is_open or device is None or not device.under_way:
                return
            try:
                after = DEVICE_TRANSITIONS[verb](device)
            except OrchestratorError:
                return
            await self.recorder.save_step(tx, device, after)

        self.run(self.database.write(step))

    @rule(seconds=st.sampled_from([1, 30, 65, 215, 280, 86500]))
    def advance_time(self, seconds):
        async def go():
            await self.worker.run_pass()
            await self.clock.advance(seconds)
            for _ in range(3):
                await self.worker.run_pass()

        self.run(go())

    @rule()
    def restart(self):
        self.stop_daemon()
        self.start_daemon()
        for session in self.run(self.sessions.open_sessions()):
            assert session.state == "paused", "nothing runs after a restart without an operator"
            assert session.interrupted

    @rule()
    def rotate(self):
        self.run(self.command(self.sessions.rotate_key(self.actor())))

    # Invariants.

    def rows(self, sql):
        return [tuple(dict(row).values()) for row in self.run(self.database.read(sql))]

    @invariant()
    def counts_are_states(self):
        for session in self.ids:
            found = self.run(self.sessions.get(session))
            states = [device.state for device in self.run(self.sessions.devices(session))]
            accepted = {SessionDeviceState.PROVISIONED, SessionDeviceState.VERIFYING, SessionDeviceState.VERIFIED}
            assert found.counts.device == len(states)
            assert found.counts.provisioned == sum(state in accepted for state in states)
            assert found.counts.verified == states.count(SessionDeviceState.VERIFIED)
            assert found.counts.failed == states.count(SessionDeviceState.FAILED)

    @invariant()
    def interface_has_one_open_session(self):
        interfaces = [session.network_interface for session in self.run(self.sessions.open_sessions())]
        assert len(interfaces) == len(set(interfaces))

    @invariant()
    def password_exists_while_session_is_open(self):
        stored = {session for (session,) in self.rows("SELECT session_id FROM session_secrets")}
        assert stored == {session.id for session in self.run(self.sessions.open_sessions())}
        for session in stored:
            sealed = self.run(sessions.password(self.database.read, session))
            assert self.sessions._passwords._vault.open(sealed, purpose=f"password of session {session}")

    @invariant()
    def closed_is_final(self):
        for session in self.ids:
            found = self.run(self.sessions.get(session))
            if found.is_open:
                assert session not in self.closed
                continue
            cameras = self.run(self.sessions.devices(session))
            assert not any(device.under_way for device in cameras)
            first_seen = self.closed.setdefault(session, (replace(found), cameras))
            assert first_seen == (found, cameras)

    @invariant()
    def events_follow_the_diagrams(self):
        states = {}
        for session, text in self.rows(
            "SELECT session_id, payload FROM events WHERE type = 'session.status' ORDER BY id"
        ):
            state = json.loads(text)["session"]["state"]
            before = states.setdefault(session, state)
            assert state == before or state in SESSION_STEPS[before], (before, state)
            states[session] = state
        for session, state in states.items():
            assert self.run(self.sessions.get(session)).state == state, "the last event has the stored state"
        cameras = {}
        for session, text in self.rows(
            "SELECT session_id, payload FROM events WHERE type = 'device.state_changed' ORDER BY id"
        ):
            event = json.loads(text)
            key = session, event["mac"]
            assert event["previous_state"] == cameras.get(key, "discovered"), "no step is missing"
            same = event["new_state"] == event["previous_state"]
            assert same or event["new_state"] in DEVICE_STEPS[event["previous_state"]], event
            cameras[key] = event["new_state"]


class IdleProvisioner:
    """A provisioner that takes no step: the test takes them."""

    async def run(self, session, device):
        await asyncio.Event().wait()


class EmptyIntake:
    """An intake that adds no devices: the test adds them."""

    async def run_pass(self, session):
        pass

    def forget(self, session_id):
        pass


def test_transitions_in_random_order_follow_diagrams():
    run_state_machine_as_test(
        PureMachine, settings=settings(max_examples=repeats(60, slow=300), stateful_step_count=60)
    )


def test_stored_rows_after_random_commands_follow_diagrams(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run_state_machine_as_test(
        StoredMachine, settings=settings(max_examples=repeats(8, slow=25), stateful_step_count=25)
    )


def test_diagrams_cover_every_state():
    assert set(SESSION_STEPS) == set(SessionState)
    assert set(DEVICE_STEPS) == set(SessionDeviceState)
    assert timedelta(days=1).total_seconds() < 86500, "one of the waits must exceed the life of a paused session"
