"""Property test of the inventory: random commands and restarts, compared with a simple model.

The inventory is the registered cameras, the containers with their positions, and the exclusions.
After every step, database, memory and model agree. A repeated command has no second effect.
"""

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.exclusion_store import ExcludedCameras
from pi_orchestrator.features.cameras.registration import CameraRegistrar, ExcludedError, NewCamera
from pi_orchestrator.features.cameras.service import CameraService
from pi_orchestrator.features.containers import store as containers
from pi_orchestrator.features.containers.pairing import PairingService
from pi_orchestrator.features.containers.service import ContainerService
from pi_orchestrator.features.devices.fingerprint import Fingerprint
from pi_orchestrator.features.devices.model import Windows
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import Database
from tests.support.clock import FakeClock
from tests.support.sampling import repeats

TARGET = "auto-onboard"
ACTOR = Actor("me", "-", "-", "test")
MACS = [Mac(f"24:6F:28:00:00:{number:X}0") for number in range(1, 6)]
macs = st.sampled_from(MACS)
positions = st.sampled_from([None, 1, 2, 3, 4])
names = st.sampled_from([None, "Entrance", "Cellar"])


@dataclass
class ModelCamera:
    """A registered camera in the model."""

    name: str | None = None
    place: tuple[str, int] | None = None


class InventoryMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="inventory-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
        self.clock = FakeClock()
        self.registered, self.container_ids = {}, [TARGET]
        self.replacement_of = {}  # excluded MAC → MAC of its replacement, None if it was unpaired
        schema.prepare(self.folder / "o.db", backups=self.folder / "b", backups_kept=1, closed_cleanly=True)
        self.start_daemon()
        self.run(self.database.write(lambda tx: containers.ensure(tx, TARGET, label="Target")))

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def start_daemon(self):
        async def start():
            self.opened = Database(path=self.folder / "o.db", clock=self.clock, bus=EventBus()).opened()
            self.database = await self.opened.__aenter__()
            self.cache, self.exclusions = CameraCache(), ExcludedCameras()
            await self.cache.load(self.database)
            await self.exclusions.load(self.database)
            registry = DeviceRegistry(registered=self.cache, max_devices=100, windows=Windows(120, 600))
            self.registrar = CameraRegistrar(
                cache=self.cache, exclusions=self.exclusions, fingerprint_of=lambda _: Fingerprint()
            )
            self.cameras = CameraService(database=self.database, registry=registry, registrar=self.registrar)
            self.containers = ContainerService(database=self.database, cache=self.cache, target=lambda: TARGET)
            self.pairing = PairingService(
                database=self.database,
                registry=registry,
                registrar=self.registrar,
                cameras=self.cameras,
                target=lambda: TARGET,
            )

        self.run(start())

    def stop_daemon(self):
        self.run(self.opened.__aexit__(None, None, None))

    def teardown(self):
        self.stop_daemon()
        self.loop.close()
        shutil.rmtree(self.folder)

    def event_count(self):
        return self.rows("SELECT count(*) FROM events")[0][0]

    def rows(self, sql):
        return [tuple(row) for row in self.run(self.database.read(sql))]

    def check(self, command, expected):
        """Run a command three times: each has the expected error code, and repeats append no event."""

        def run_once():
            try:
                return self.run(command()), None
            except OrchestratorError as error:
                return None, error.code

        answer, code = run_once()
        assert code == expected
        count = self.event_count()
        for _ in range(2):
            repeated_answer, repeated_code = run_once()
            assert repeated_code == expected
            assert repeated_answer == answer
        assert self.event_count() == count

    # Commands.

    @rule(label=st.sampled_from(["North", "South", None]))
    def create(self, label):
        if len(self.container_ids) < 5:
            container = self.run(self.containers.create(ACTOR, label=label, description=None))
            repeated = self.run(self.containers.create(ACTOR, label=label, description=None))
            assert repeated == container
            if container.id not in self.container_ids:
                self.container_ids.append(container.id)

    @rule(number=st.integers(0, 5))
    def delete(self, number):
        container_id = self.container_id(number)
        has_cameras = container_id in {camera.place[0] for camera in self.registered.values() if camera.place}
        code = "CONTAINER_HAS_CAMERAS" if has_cameras else "CONFLICT" if container_id == TARGET else None
        self.check(lambda: self.containers.delete(container_id, ACTOR), code)
        if code is None and container_id in self.container_ids:
            self.container_ids.remove(container_id)

    @rule(mac=macs, number=st.integers(0, 5), position=positions)
    def pair(self, mac, number, position):
        container_id = self.container_id(number)
        camera = self.registered.get(mac)
        free = self.free_positions(container_id)
        chosen = position or (free[0] if free else None)
        code = None
        if container_id not in self.container_ids:
            code = "CONTAINER_NOT_FOUND"
        elif camera and camera.place:
            is_same = camera.place[0] == container_id and position in (None, camera.place[1])
            code = None if is_same else "CAMERA_ALREADY_ASSIGNED"
            chosen = camera.place[1]
        elif chosen not in free:
            code = "POSITION_OCCUPIED"
        self.check(lambda: self.pairing.pair(mac, container_id, position, ACTOR), code)
        if code is None:
            self.registered.setdefault(mac, ModelCamera()).place = (container_id, chosen)
            self.replacement_of.pop(mac, None)

    @rule(mac=macs, number=st.integers(0, 5))
    def remove_from_container(self, mac, number):
        container_id, camera = self.container_id(number), self.registered.get(mac)
        code = (
            "CONTAINER_NOT_FOUND" if container_id not in self.container_ids else None if camera else "CAMERA_NOT_FOUND"
        )
        self.check(lambda: self.containers.unassign(container_id, mac, ACTOR), code)
        if code is None and camera.place and camera.place[0] == container_id:
            camera.place = None

    @rule(mac=macs, name=names)
    def rename(self, mac, name):
        self.check(lambda: self.cameras.rename(mac, name, ACTOR), None if mac in self.registered else "CONFLICT")
        if mac in self.registered:
            self.registered[mac].name = name

    @rule(mac=macs)
    def unpair(self, mac):
        """Unregister a camera and exclude it from auto-onboarding."""
        code = None if mac in self.registered or mac in self.replacement_of else "CAMERA_NOT_FOUND"
        self.check(lambda: self.cameras.unpair(mac, ACTOR), code)
        if self.registered.pop(mac, None):
            self.replacement_of[mac] = None

    @rule(mac=macs)
    def lift_exclusion(self, mac):
        self.check(lambda: self.cameras.lift(mac, ACTOR), None)
        self.replacement_of.pop(mac, None)

    @rule(old=macs, new=macs)
    def replace(self, old, new):
        before, successor = self.registered.get(old), self.registered.get(new)
        code = None
        if old == new:
            code = "CONFLICT"
        elif before is None:
            code = None if successor and self.replacement_of.get(old) == new else "CAMERA_NOT_FOUND"
        elif successor and successor.place and successor.place[0] != TARGET:
            code = "CAMERA_ALREADY_ASSIGNED"
        self.check(lambda: self.pairing.replace(old, new, ACTOR), code)
        if code is None and before:
            del self.registered[old]
            self.replacement_of[old] = new
            self.replacement_of.pop(new, None)
            self.registered[new] = ModelCamera(before.name or (successor.name if successor else None), before.place)

    @rule(mac=macs)
    def onboard(self, mac):
        """Register a camera as auto-onboarding does at the end of an attempt."""
        free = self.free_positions(TARGET)
        if mac in self.registered or not free:
            return
        new_camera = NewCamera(mac=mac, device_id=None, ip="192.168.10.9", firmware_version=None, is_present=True)

        async def job(tx):
            return await self.registrar.register(tx, new_camera, automatic=True, place=(TARGET, free[0]))

        if mac in self.replacement_of:
            with pytest.raises(ExcludedError):
                self.run(self.database.write(job))
        else:
            self.run(self.database.write(job))
            self.registered[mac] = ModelCamera(place=(TARGET, free[0]))

    @rule()
    def restart(self):
        self.stop_daemon()
        self.start_daemon()

    @rule(seconds=st.sampled_from([1, 31]))
    def advance_clock(self, seconds):
        self.run(self.clock.advance(seconds))

    # Queries of the model.

    def container_id(self, number):
        """The id of the n-th container, or an unknown id."""
        return self.container_ids[number] if number < len(self.container_ids) else "nowhere"

    def free_positions(self, container_id):
        places = {camera.place for camera in self.registered.values() if camera.place}
        return [position for position in (1, 2, 3, 4) if (container_id, position) not in places]

    # Invariants.

    @invariant()
    def database_matches_model(self):
        stored = "SELECT mac, name, container_id, position FROM cameras LEFT JOIN assignments USING (mac)"
        expected = {(mac, camera.name, *(camera.place or (None, None))) for mac, camera in self.registered.items()}
        assert set(self.rows(stored)) == expected
        assert set(self.rows("SELECT mac, replaced_by FROM dismissed")) == set(self.replacement_of.items())
        assert {row[0] for row in self.rows("SELECT id FROM containers")} == set(self.container_ids)
        assert self.rows("PRAGMA foreign_key_check") == []

    @invariant()
    def memory_matches_database(self):
        async def load():
            cache = CameraCache()
            await cache.load(self.database)
            return list(cache)

        cached, stored = list(self.cache), self.run(load())
        assert {camera.mac: camera for camera in cached} == {camera.mac: camera for camera in stored}
        times = [camera.registered_at for camera in cached]
        assert times == sorted(times), "in the order of registration"
        assert all(self.cache.mac_of(camera.device_id) == camera.mac for camera in self.cache)
        assert {exclusion.mac: exclusion.replaced_by for exclusion in self.exclusions} == self.replacement_of


def test_inventory_after_random_commands_matches_model():
    run_state_machine_as_test(
        InventoryMachine,
        # Without shrinking: with a real database it would take longer than the time limit, and hide the failure.
        settings=settings(max_examples=repeats(8, slow=20), stateful_step_count=30, phases=[Phase.generate]),
    )
