"""Sessions and cameras under every order of events: pure, and as commands against a real database.

Whatever is asked in whatever order: no step that is not in the diagrams, counts that are the devices' states, one open
session on an interface, an end that is final, and no password that outlives its session.
"""

import asyncio
import itertools
import json
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

from pi_orchestrator.domain.candidate import Candidate, CandidateState, Sent
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.session import Ending, Session, SessionConfig, SessionState
from pi_orchestrator.errors import OrchestratorError
from pi_orchestrator.events import Hub
from pi_orchestrator.settings import ProvisioningSettings
from pi_orchestrator.storage import schema, sessions
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.state_dir import StateDir
from pi_orchestrator.storage.vault import Vault
from pi_orchestrator.workers.circuits import Circuits
from pi_orchestrator.workers.provisioning import ProvisioningWorker
from pi_orchestrator.workers.session_record import SessionRecord
from pi_orchestrator.workers.sessions import Sessions, Wish
from tests.support.clock import FakeClock

AT = datetime(2026, 1, 11, 22, 33, 20, tzinfo=UTC)
SENT = Sent("192.168.10.21", "boot-1", 1000.0)
MACS = [Mac(f"24:6F:28:00:00:{number:02X}") for number in (0x10, 0x20, 0x30)]
INTERFACES = ("wlan0", "wlan1")
REFUSALS = {
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
    "NETWORK_ERROR",  # of a session on an interface that is not watched
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
WORDS = ("activate", "provision", "pause", "resume", "recover", "interrupt")
CAMERA_WORDS = {
    "queue": lambda one: one.queue(1),
    "retry": lambda one: one.retry(1, max_retries=3),
    "skip": Candidate.skip,
    "identifying": Candidate.identifying,
    "sending": lambda one: one.sending(SENT),
    "not_taken": lambda one: one.not_taken("it said no"),
    "accepted": lambda one: one.accepted(AT),
    "returning": Candidate.returning,
    "reading_back": lambda one: one.reading_back("192.168.20.9"),
    "verified": lambda one: one.verified(AT),
    "failed": lambda one: one.failed("DEVICE_TIMEOUT", "no answer"),
    "failed with nothing": lambda one: one.failed("DEVICE_REJECTED", "no", has_nothing=True),
}


def expected(error, otherwise=None):
    """What a refusal leaves, if it is one of the contract's."""
    assert error.code in REFUSALS, error.code
    return otherwise


class PureMachine(RuleBasedStateMachine):
    """One session and one camera by their transitions alone."""

    def __init__(self):
        super().__init__()
        self.session = Session("s", SessionState.DISCOVERING, "wlan0", "Net", SessionConfig(), AT, AT)
        self.one = Candidate("s", MACS[0], "192.168.10.21", AT)

    def take(self, before, change):
        try:
            after = change(before)
        except OrchestratorError as error:
            return expected(error, before)
        steps = SESSION_STEPS if isinstance(before, Session) else DEVICE_STEPS
        assert after.state == before.state or after.state in steps[before.state], (before.state, after.state)
        return after

    @rule(word=st.sampled_from(WORDS))
    def session_word(self, word):
        self.session = self.take(self.session, lambda one: getattr(one, word)())

    @rule(ending=st.sampled_from(Ending))
    def close(self, ending):
        before = self.session
        self.session = self.take(before, lambda one: one.close(ending))
        hastened = before.state is SessionState.CLOSING and self.session.ending is Ending.DISCARDED
        assert hastened or before.ending in (None, self.session.ending), "why it ended changes by a discard alone"

    @rule()
    def ended(self):
        self.session = self.take(self.session, lambda one: one.ended(AT))

    @rule(word=st.sampled_from(sorted(CAMERA_WORDS)))
    def camera_word(self, word):
        before = self.one
        self.one = self.take(before, CAMERA_WORDS[word])
        assert self.one.retry_count >= before.retry_count

    @invariant()
    def what_is_said_of_it_fits(self):
        session, one = self.session, self.one
        assert (session.expires_at is None) == (session.state in ("closing", "closed"))
        assert (session.ending is None) == (session.state not in ("closing", "closed"))
        assert (session.closed_at is None) == session.is_open
        assert not session.interrupted or session.state == "paused"
        assert session.lifetime_s > session.warning_s > 0
        assert (one.progress == 100) == (one.state == "verified")
        assert (one.error_code is None) == (one.state != "failed")
        assert one.retry_count <= 3
        assert one.queued is not None or one.state in ("discovered", "failed")
        if one.state in ("provisioned", "verifying", "verified"):
            assert one.sent is not None, "who took credentials was sent some"
            assert one.provisioned_at is not None
        assert (one.verified_at is None) == (one.state != "verified")


class StoredMachine(RuleBasedStateMachine):
    """Operators, cameras, time and restarts against the database; what is stored and told is held to the diagrams."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.ids = []
        self.closed = {}
        self.keys = itertools.count()
        schema.prepare(self.folder / "o.db", backups=self.folder / "b", backups_kept=1, closed_cleanly=True)
        self.start_daemon()
        self.run(self.allow(MACS[:2]))

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def start_daemon(self):
        async def start():
            hub = Hub()
            self.opened = Database(path=self.folder / "o.db", clock=self.clock, hub=hub).opened()
            self.database = await self.opened.__aenter__()
            self.record = SessionRecord(clock=self.clock)
            circuits = Circuits(failures=1000, reset_s=30, clock=self.clock)
            self.sessions = Sessions(
                settings=ProvisioningSettings(),
                interface=INTERFACES[0],
                clock=self.clock,
                database=self.database,
                vault=Vault(StateDir(self.folder)),
                mqtt=SimpleNamespace(connected=True),
                scanner=SimpleNamespace(off=True),
                circuits=circuits,
                record=self.record,
            )
            self.worker = ProvisioningWorker(
                interface=INTERFACES[0],
                concurrency=4,
                clock=self.clock,
                database=self.database,
                sessions=self.sessions,
                delivery=NobodyDelivers(),
                joining=NobodyJoins(),
                record=self.record,
                circuits=circuits,
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
        """What it returns, or None where it is refused in words of the contract; the worker goes on beside it."""
        task = asyncio.ensure_future(coroutine)
        while not task.done():
            await self.worker.pass_once()
            if self.clock.waited_for:  # time that a slow disk takes is none in here
                await self.clock.advance(0.5)
            await asyncio.sleep(0)
        try:
            return task.result()
        except OrchestratorError as error:
            return expected(error)

    def actor(self):
        return Actor("test", "-", "-", "test")

    @rule(interface=st.sampled_from(INTERFACES), state=st.sampled_from(["active", "discovering"]))
    def start(self, interface, state):
        wish = Wish(interface, "Net", SecretStr("correct horse battery"), state=SessionState(state))
        was_open = any(session.network_interface == interface for session in self.run(self.sessions.opened()))
        started = self.run(self.command(self.sessions.start(wish, self.actor())))
        assert (started is None) == was_open
        if started:
            self.ids.append(started.id)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), word=st.sampled_from(["pause", "resume", "recover", "close", "discard"]))
    def session_command(self, data, word):
        session = data.draw(st.sampled_from(self.ids))
        self.run(self.command(getattr(self.sessions, word)(session, self.actor())))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), only=st.booleans())
    def provision_all(self, data, only):
        session = data.draw(st.sampled_from(self.ids))
        self.run(self.command(self.sessions.provision_all(session, self.actor(), only_allowlisted=only)))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), mac=st.sampled_from(MACS), word=st.sampled_from(["provision", "retry", "skip"]))
    def camera_command(self, data, mac, word):
        session = data.draw(st.sampled_from(self.ids))
        once = self.run(self.command(getattr(self.sessions, word)(session, mac, self.actor())))
        again = self.run(self.command(getattr(self.sessions, word)(session, mac, self.actor())))
        if once is not None and again is not None:
            assert (once.state, once.retry_count, once.queued) == (again.state, again.retry_count, again.queued)
        assert once is None or again is not None, "what was granted is granted again"

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), mac=st.sampled_from(MACS))
    def camera_joins(self, data, mac):
        session = data.draw(st.sampled_from(self.ids))

        async def join(tx):
            found = await sessions.get(tx.run, session)
            if found.expires_at and await sessions.candidate(tx.run, session, mac) is None:
                listed = mac in MACS[:2]
                one = Candidate(session, mac, "192.168.10.21", self.clock.wall(), in_allowlist=listed)
                await self.record.joined(tx, [one], is_activity=True)

        self.run(self.database.write(join))

    @precondition(lambda self: self.ids)
    @rule(
        data=st.data(),
        mac=st.sampled_from(MACS),
        word=st.sampled_from(sorted(set(CAMERA_WORDS) - {"queue", "retry", "skip"})),
    )
    def camera_goes_on(self, data, mac, word):
        """As the delivery does: only while its session is not over."""
        session = data.draw(st.sampled_from(self.ids))

        async def step(tx):
            found = await sessions.get(tx.run, session)
            one = await sessions.candidate(tx.run, session, mac)
            if not found.is_open or one is None or not one.under_way:
                return
            try:
                after = CAMERA_WORDS[word](one)
            except OrchestratorError:
                return
            await self.record.changed(tx, one, after)

        self.run(self.database.write(step))

    @rule(seconds=st.sampled_from([1, 30, 65, 215, 280, 86500]))
    def time_goes_by(self, seconds):
        async def go():
            await self.worker.pass_once()
            await self.clock.advance(seconds)
            for _ in range(3):
                await self.worker.pass_once()

        self.run(go())

    @rule()
    def restart(self):
        self.stop_daemon()
        self.start_daemon()
        for session in self.run(self.sessions.opened()):
            assert session.state == "paused", "nothing runs by itself after a restart"
            assert session.interrupted

    @rule()
    def rotate(self):
        self.run(self.command(self.sessions.rotate_key(self.actor())))

    # What holds at any moment.

    def rows(self, sql):
        return [tuple(dict(row).values()) for row in self.run(self.database.read(sql))]

    @invariant()
    def counts_are_states(self):
        for session in self.ids:
            found = self.run(self.sessions.get(session))
            states = [one.state for one in self.run(self.sessions.candidates(session))]
            took = {CandidateState.PROVISIONED, CandidateState.VERIFYING, CandidateState.VERIFIED}
            assert found.counts.device == len(states)
            assert found.counts.provisioned == sum(state in took for state in states)
            assert found.counts.verified == states.count(CandidateState.VERIFIED)
            assert found.counts.failed == states.count(CandidateState.FAILED)

    @invariant()
    def one_is_open_on_an_interface(self):
        on = [session.network_interface for session in self.run(self.sessions.opened())]
        assert len(on) == len(set(on))

    @invariant()
    def a_password_is_there_exactly_as_long_as_its_session(self):
        kept = {session for (session,) in self.rows("SELECT session_id FROM session_secrets")}
        assert kept == {session.id for session in self.run(self.sessions.opened())}
        for session in kept:
            sealed = self.run(sessions.password(self.database.read, session))
            assert self.sessions._vault.open(sealed, purpose=f"password of session {session}")

    @invariant()
    def closed_is_final(self):
        for session in self.ids:
            found = self.run(self.sessions.get(session))
            if found.is_open:
                assert session not in self.closed
                continue
            cameras = self.run(self.sessions.candidates(session))
            assert not any(one.under_way for one in cameras)
            known = self.closed.setdefault(session, (replace(found), cameras))
            assert known == (found, cameras)

    @invariant()
    def only_steps_of_the_diagrams_were_told(self):
        states = {}
        for session, text in self.rows(
            "SELECT session_id, payload FROM events WHERE type = 'session.status' ORDER BY id"
        ):
            state = json.loads(text)["session"]["state"]
            before = states.setdefault(session, state)
            assert state == before or state in SESSION_STEPS[before], (before, state)
            states[session] = state
        for session, state in states.items():
            assert self.run(self.sessions.get(session)).state == state, "what was told last is what is stored"
        cameras = {}
        for session, text in self.rows(
            "SELECT session_id, payload FROM events WHERE type = 'device.state_changed' ORDER BY id"
        ):
            told = json.loads(text)
            key = session, told["mac"]
            assert told["previous_state"] == cameras.get(key, "discovered"), "no step is left out"
            same = told["new_state"] == told["previous_state"]
            assert same or told["new_state"] in DEVICE_STEPS[told["previous_state"]], told
            cameras[key] = told["new_state"]


class NobodyDelivers:
    """Cameras are taken on and stay where they are until the machine takes them further."""

    async def run(self, session, one):
        await asyncio.Event().wait()


class NobodyJoins:
    async def pass_once(self, session):
        pass

    def forget(self, session_id):
        pass


def test_by_their_own_transitions():
    run_state_machine_as_test(PureMachine, settings=settings(max_examples=300, stateful_step_count=60))


def test_as_commands_against_a_database(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run_state_machine_as_test(StoredMachine, settings=settings(max_examples=25, stateful_step_count=25))


def test_the_diagrams_here_are_about_every_state():
    assert set(SESSION_STEPS) == set(SessionState)
    assert set(DEVICE_STEPS) == set(CandidateState)
    assert timedelta(days=1).total_seconds() < 86500, "one of the waits is longer than any session lives"
