"""The catalogue of events: names, rows and payloads."""

import re
from pathlib import Path

import pytest

import pi_orchestrator
from pi_orchestrator.core import stream_events
from pi_orchestrator.core.events import (
    AllowlistChanged,
    CameraPaired,
    CameraRegistered,
    CameraSeen,
    DeviceDiscovered,
    SessionStatus,
    catalogue,
)
from pi_orchestrator.core.mac import Mac

MAC = Mac("24:6F:28:B0:F7:F1")
PAGE = Path(pi_orchestrator.__file__).parent / "console" / "page"
MADE_BY_STREAMS = {stream_events.CAMERA_LIST, stream_events.ESTABLISHED, stream_events.HEARTBEAT}
NAMES = """
    allowlist.changed camera.captured camera.dismissal_lifted camera.onboarded camera.onboarding_failed camera.paired
    camera.reboot camera.registered camera.remedy camera.removed camera.renamed camera.replaced camera.status_changed
    camera.unassigned config.changed container.created container.deleted container.updated device.answers_for_many
    device.conflict device.conflict_resolved device.discovered device.flapping device.found device.id_conflict
    device.id_conflict_resolved device.moved device.multiple_addresses device.state_changed error
    network.status_changed onboarding.audited onboarding.disabled onboarding.enabled scan.ended scan.started
    session.status
"""


def test_event_names_are_stable():
    """Clients and stored rows use these names: none may be renamed or removed."""
    assert set(NAMES.split()) <= set(catalogue())


def test_worker_only_events_are_not_stored():
    assert not hasattr(CameraSeen, "row")
    assert CameraSeen not in catalogue().values()


def test_every_event_has_docstring():
    assert all(kind.__doc__ for kind in catalogue().values())


def test_fields_without_value_are_omitted():
    event = CameraPaired(mac=MAC, device_id="espcam-1", container_id="box", position=2, by="admin")
    assert event.payload() == {
        "mac": MAC,
        "device_id": "espcam-1",
        "container_id": "box",
        "position": 2,
        "by": "admin",
    }
    row = event.row(event_id=7, at="2026-01-22T15:00:00Z")
    assert (row.type, row.mac, row.session_id, row.id, row.at) == (
        "camera.paired",
        MAC,
        None,
        7,
        "2026-01-22T15:00:00Z",
    )


def test_session_id_is_column_of_session_events_and_field_of_others():
    status = SessionStatus(session_id="s", session={"id": "s"})
    assert (status.payload(), status.row().session_id) == ({"session": {"id": "s"}}, "s")
    registered = CameraRegistered(mac=MAC, device_id="espcam-1", session_id="s")
    assert (registered.payload()["session_id"], registered.row().session_id) == ("s", None)


def test_allowlist_mac_is_only_a_column():
    event = AllowlistChanged(added=1, removed=0, updated=0, mac=MAC)
    assert (event.payload(), event.row().mac) == ({"added": 1, "removed": 0, "updated": 0}, MAC)


def test_device_discovered_keeps_null_fields():
    """Other events omit fields without a value; the provisioning contract requires every field of this one."""
    event = DeviceDiscovered(
        session_id="s", mac=MAC, ip=None, rssi=None, firmware_version=None, in_allowlist=False, device={}
    )
    assert event.payload() == {
        "mac": MAC,
        "ip": None,
        "rssi": None,
        "firmware_version": None,
        "in_allowlist": False,
        "device": {},
    }


@pytest.mark.parametrize("file", sorted(PAGE.glob("*.js")), ids=lambda file: file.name)
def test_page_uses_only_existing_events(file):
    families = {name.split(".")[0] for name in catalogue() if "." in name} | {"connection"}
    named = re.findall(rf"""["']((?:{"|".join(families)})\.[a-z_]+)["']""", file.read_text())
    assert set(named) <= set(catalogue()) | MADE_BY_STREAMS
