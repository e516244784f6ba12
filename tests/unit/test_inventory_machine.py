"""The inventory under every order of commands and restarts: a plain model says what each must answer and leave.

After every step the database, what is in memory and the model agree, and every command may be repeated at will.
"""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.presence import Windows
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.errors import OrchestratorError
from pi_orchestrator.events import Hub
from pi_orchestrator.storage import containers, schema
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.dismissed import Dismissed
from pi_orchestrator.workers.inventory import Inventory
from pi_orchestrator.workers.registration import DismissedError, Newcomer, Registrar
from tests.support.clock import FakeClock

TARGET = "auto-onboard"
ACTOR = Actor("me", "-", "-", "test")
MACS = [Mac(f"24:6F:28:00:00:{number:X}0") for number in range(1, 6)]
macs = st.sampled_from(MACS)
positions = st.sampled_from([None, 1, 2, 3, 4])
names = st.sampled_from([None, "Entrance", "Cellar"])


@dataclass
class Known:
    """A registered camera as the model has it."""

    name: str | None = None
    place: tuple[str, int] | None = None


class InventoryMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="inventory-"))
        self.clock = FakeClock()
        self.known, self.gone, self.boxes = {}, {}, [TARGET]
        schema.prepare(self.folder / "o.db", backups=self.folder / "b", backups_kept=1, closed_cleanly=True)
        self.start_daemon()
        self.run(self.database.write(lambda tx: containers.ensure(tx, TARGET, label="Target")))

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def start_daemon(self):
        async def start():
            self.opened = Database(path=self.folder / "o.db", clock=self.clock, hub=Hub()).opened()
            self.database = await self.opened.__aenter__()
            self.roster, self.dismissed = Roster(), Dismissed()
            await self.roster.load(self.database)
            await self.dismissed.load(self.database)
            registry = Registry(registered=self.roster, max_devices=100, windows=Windows(120, 600))
            self.registrar = Registrar(roster=self.roster, dismissed=self.dismissed)
            self.inventory = Inventory(
                database=self.database, registry=registry, registrar=self.registrar, target=lambda: TARGET
            )

        self.run(start())

    def stop_daemon(self):
        self.run(self.opened.__aexit__(None, None, None))

    def teardown(self):
        self.stop_daemon()
        self.loop.close()
        shutil.rmtree(self.folder)

    def told(self):
        return self.rows("SELECT count(*) FROM events")[0][0]

    def rows(self, sql):
        return [tuple(row) for row in self.run(self.database.read(sql))]

    def ask(self, command, expected):
        """Three times: the answer is as the model says, and a repeat of what went well tells nobody anything."""

        def once():
            try:
                return self.run(command()), None
            except OrchestratorError as error:
                return None, error.code

        answer, code = once()
        assert code == expected
        told = self.told()
        for _ in range(2):
            again, repeated = once()
            assert repeated == expected
            assert again == answer
        assert self.told() == told

    # Commands.

    @rule(label=st.sampled_from(["North", "South", None]))
    def create(self, label):
        if len(self.boxes) < 5:
            container = self.run(self.inventory.create(ACTOR, label=label, description=None))
            again = self.run(self.inventory.create(ACTOR, label=label, description=None))
            assert again == container
            if container.id not in self.boxes:
                self.boxes.append(container.id)

    @rule(box=st.integers(0, 5))
    def delete(self, box):
        box = self.box(box)
        taken = box in {known.place[0] for known in self.known.values() if known.place}
        code = "CONTAINER_HAS_CAMERAS" if taken else "CONFLICT" if box == TARGET else None
        self.ask(lambda: self.inventory.delete(box, ACTOR), code)
        if code is None and box in self.boxes:
            self.boxes.remove(box)

    @rule(mac=macs, box=st.integers(0, 5), position=positions)
    def pair(self, mac, box, position):
        box = self.box(box)
        known = self.known.get(mac)
        free = [at for at in (1, 2, 3, 4) if at not in self.taken(box)]
        chosen = position or (free[0] if free else None)
        code = None
        if box not in self.boxes:
            code = "CONTAINER_NOT_FOUND"
        elif known and known.place:
            same = known.place[0] == box and position in (None, known.place[1])
            code = None if same else "CAMERA_ALREADY_ASSIGNED"
            chosen = known.place[1]
        elif chosen not in free:
            code = "POSITION_OCCUPIED"
        self.ask(lambda: self.inventory.pair(mac, box, position, ACTOR), code)
        if code is None:
            self.known.setdefault(mac, Known()).place = (box, chosen)
            self.gone.pop(mac, None)

    @rule(mac=macs, box=st.integers(0, 5))
    def unassign(self, mac, box):
        box, known = self.box(box), self.known.get(mac)
        code = "CONTAINER_NOT_FOUND" if box not in self.boxes else None if known else "CAMERA_NOT_FOUND"
        self.ask(lambda: self.inventory.unassign(box, mac, ACTOR), code)
        if code is None and known.place and known.place[0] == box:
            known.place = None

    @rule(mac=macs, name=names)
    def rename(self, mac, name):
        self.ask(lambda: self.inventory.rename(mac, name, ACTOR), None if mac in self.known else "CONFLICT")
        if mac in self.known:
            self.known[mac].name = name

    @rule(mac=macs)
    def unpair(self, mac):
        code = None if mac in self.known or mac in self.gone else "CAMERA_NOT_FOUND"
        self.ask(lambda: self.inventory.unpair(mac, ACTOR), code)
        if self.known.pop(mac, None):
            self.gone[mac] = None

    @rule(mac=macs)
    def lift(self, mac):
        self.ask(lambda: self.inventory.lift(mac, ACTOR), None)
        self.gone.pop(mac, None)

    @rule(old=macs, new=macs)
    def replace(self, old, new):
        before, heir = self.known.get(old), self.known.get(new)
        code = None
        if old == new:
            code = "CONFLICT"
        elif before is None:
            code = None if heir and self.gone.get(old) == new else "CAMERA_NOT_FOUND"
        elif heir and heir.place and heir.place[0] != TARGET:
            code = "CAMERA_ALREADY_ASSIGNED"
        self.ask(lambda: self.inventory.replace(old, new, ACTOR), code)
        if code is None and before:
            del self.known[old]
            self.gone[old] = new
            self.gone.pop(new, None)
            self.known[new] = Known(before.name or (heir.name if heir else None), before.place)

    @rule(mac=macs)
    def onboard(self, mac):
        """As auto-onboarding does, at the end of an attempt."""
        free = [at for at in (1, 2, 3, 4) if at not in self.taken(TARGET)]
        if mac in self.known or not free:
            return
        newcomer = Newcomer(mac=mac, device_id=None, ip="192.168.10.9", firmware_version=None, here=True)

        async def job(tx):
            return await self.registrar.register(tx, newcomer, automatic=True, place=(TARGET, free[0]))

        if mac in self.gone:
            with pytest.raises(DismissedError):
                self.run(self.database.write(job))
        else:
            self.run(self.database.write(job))
            self.known[mac] = Known(place=(TARGET, free[0]))

    @rule()
    def restart(self):
        self.stop_daemon()
        self.start_daemon()

    @rule(seconds=st.sampled_from([1, 31]))
    def time_goes_by(self, seconds):
        self.run(self.clock.advance(seconds))

    # What the model knows.

    def box(self, number):
        return self.boxes[number] if number < len(self.boxes) else "nowhere"

    def taken(self, box):
        return {known.place[1] for known in self.known.values() if known.place and known.place[0] == box}

    # What holds at any moment.

    @invariant()
    def the_database_is_as_the_model_says(self):
        stored = "SELECT mac, name, container_id, position FROM cameras LEFT JOIN assignments USING (mac)"
        expected = {(mac, known.name, *(known.place or (None, None))) for mac, known in self.known.items()}
        assert set(self.rows(stored)) == expected
        assert set(self.rows("SELECT mac, replaced_by FROM dismissed")) == set(self.gone.items())
        assert {row[0] for row in self.rows("SELECT id FROM containers")} == set(self.boxes)
        assert self.rows("PRAGMA foreign_key_check") == []

    @invariant()
    def memory_is_as_the_database_says(self):
        async def fresh():
            roster = Roster()
            await roster.load(self.database)
            return list(roster)

        here, stored = list(self.roster), self.run(fresh())
        assert {one.mac: one for one in here} == {one.mac: one for one in stored}
        moments = [one.registered_at for one in here]
        assert moments == sorted(moments), "in the order of registration"
        assert all(self.roster.find(one.device_id) == one.mac for one in self.roster)
        assert {one.mac: one.replaced_by for one in self.dismissed} == self.gone


def test_whatever_operators_do_in_whatever_order():
    run_state_machine_as_test(InventoryMachine, settings=settings(max_examples=20, stateful_step_count=30))
