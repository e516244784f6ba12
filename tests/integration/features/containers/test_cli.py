"""Commands `cameras` and `containers` with a daemon process."""

import pytest

from tests.integration.app.test_main import cli, too_long
from tests.support.waiting import eventually

__all__ = ["cli"]

UNKNOWN = "24:6F:28:00:09:00"


async def test_container_is_managed_by_its_label(cli):
    first, second, _ = cli.fleet.cameras
    created = await cli("containers", "create", "North hall", "--description", "by the door", "--json")
    box = created.json["id"]
    south = await cli("containers", "create", "South hall")
    assert south.out.startswith("Created South hall, id ")
    await cli("containers", "delete", "South hall")
    await cli("containers", "remove", "Auto-onboarded", first.device_id)
    unassigned = await cli("cameras", "unassigned")
    assert first.mac in unassigned.out
    assert second.mac not in unassigned.out
    assert first.mac in (await cli("cameras", "list")).out, "an unassigned camera is still listed"

    placed = await cli("containers", "assign", "North hall", first.mac.lower(), "3")
    assert placed.out == f"{first.device_id} is on position 3.\n"
    shown = await cli("containers", "show", "North hall")
    assert [line.split()[:1] for line in shown.out.splitlines()[-4:]] == [["1"], ["2"], ["3"], ["4"]]
    assert f"3    {first.mac}  online" in shown.out
    assert "by the door" in shown.out
    assigned = await cli("containers", "assign", box, second.mac, "3", code=1)
    assert "is already assigned to auto-onboard" in assigned.err
    invalid = await cli("containers", "assign", box, second.mac, "5", code=1)
    assert "position: 5 is not a position" in invalid.err

    assert (await cli("containers", "rename", box, "South hall")).out == f"Label of {box}: South hall.\n"
    full = await cli("containers", "delete", "South hall", code=1)
    assert f"remove these cameras from it first: {first.mac}" in full.err
    await cli("containers", "remove", "South hall", first.device_id)
    await cli("containers", "delete", "South hall")
    missing = await cli("containers", "show", "South hall", code=1)
    assert "see: pi-orchestrator containers list" in missing.err
    listed = await cli("containers", "list")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["ID", "auto-onboard"]
    for done in (shown, listed, unassigned):
        assert too_long(done.out) == []


async def test_ambiguous_label_is_refused(cli):
    await cli("containers", "create", "Box")
    await cli("containers", "create", "Box", "--description", "another")
    error = await cli("containers", "show", "Box", code=1)
    assert "2 containers have the label 'Box'" in error.err


async def test_camera_is_renamed_replaced_unpaired_and_exclusion_lifted(cli):
    first, second, third = cli.fleet.cameras
    assert (await cli("cameras", "rename", first.device_id, "Entrance")).out == f"{first.mac} renamed to Entrance.\n"
    done = await cli("cameras", "replace", first.device_id, second.mac)
    assert done.out.startswith(f"{second.mac} is Entrance now, on position ")
    unpaired = await cli("cameras", "unpair", third.device_id)
    assert "does not register it again" in unpaired.out

    async def is_refused():
        rows = await cli("onboarding", "events", "--mac", third.mac, "--stage", "rejected_by_policy")
        assert too_long(rows.out) == []
        return "DENIED it was unpaired (by admin" in rows.out and "lift the exclusion" in " ".join(rows.out.split())

    await eventually(is_refused)
    listed = await cli("cameras", "dismissed")
    assert f"it was replaced by {second.mac} (by admin" in listed.out
    assert {camera["mac_address"] for camera in (await cli("cameras", "dismissed", "--json")).json} == {
        first.mac,
        third.mac,
    }
    await cli("cameras", "lift", third.mac)
    placed = await cli("cameras", "pair", UNKNOWN, "auto-onboard", "--json")
    assert placed.json["mac_address"] == UNKNOWN
    repeat = await cli("cameras", "pair", UNKNOWN, "Auto-onboarded", "--position", str(placed.json["position"]))
    assert repeat.out == f"{UNKNOWN} is in auto-onboard on position {placed.json['position']}.\n"
    for text in (done.out, unpaired.out, listed.out, repeat.out):
        assert too_long(text) == []


@pytest.mark.parametrize("name", ["Evil \x1b[31mname", "<b>bold</b>", "x" * 64])
async def test_name_cannot_control_the_terminal(cli, name):
    camera = cli.fleet.cameras[0]
    done = await cli("cameras", "rename", camera.mac, name)
    shown = await cli("cameras", "show", camera.mac)
    assert "\x1b" not in done.out + shown.out
    assert (await cli("cameras", "rename", camera.mac, "x" * 65, code=1)).err
