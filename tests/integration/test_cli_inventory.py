"""`cameras` and `containers` on the command line: what operators do by hand, from a terminal and from scripts."""

import pytest

from tests.integration.test_cli_commands import cli, too_long
from tests.support.waiting import eventually

__all__ = ["cli"]

UNKNOWN = "24:6F:28:00:09:00"


async def test_a_container_is_filled_emptied_and_deleted_by_its_label(cli):
    one, two, _ = cli.fleet.cameras
    made = await cli("containers", "create", "North hall", "--description", "by the door", "--json")
    box = made.json["id"]
    another = await cli("containers", "create", "South hall")
    assert another.out.startswith("South hall is made; its id is ")
    await cli("containers", "delete", "South hall")
    await cli("containers", "remove", "Auto-onboarded", one.device_id)
    lost = await cli("cameras", "unassigned")
    assert one.mac in lost.out
    assert two.mac not in lost.out
    assert one.mac in (await cli("cameras", "list")).out, "who has no place is still listed"

    placed = await cli("containers", "assign", "North hall", one.mac.lower(), "3")
    assert placed.out == f"{one.device_id} stands on position 3.\n"
    shown = await cli("containers", "show", "North hall")
    assert [line.split()[:1] for line in shown.out.splitlines()[-4:]] == [["1"], ["2"], ["3"], ["4"]]
    assert f"3    {one.mac}  online" in shown.out
    assert "by the door" in shown.out
    taken = await cli("containers", "assign", box, two.mac, "3", code=1)
    assert "stands in auto-onboard already" in taken.err
    wrong = await cli("containers", "assign", box, two.mac, "5", code=1)
    assert "position: 5 is no position of a container" in wrong.err

    assert (await cli("containers", "rename", box, "South hall")).out == f"{box} is called South hall now.\n"
    full = await cli("containers", "delete", "South hall", code=1)
    assert f"take these cameras out first: {one.mac}" in full.err
    await cli("containers", "remove", "South hall", one.device_id)
    await cli("containers", "delete", "South hall")
    gone = await cli("containers", "show", "South hall", code=1)
    assert "see: pi-orchestrator containers list" in gone.err
    listed = await cli("containers", "list")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["ID", "auto-onboard"]
    for done in (shown, listed, lost):
        assert too_long(done.out) == []


async def test_a_label_that_two_have_names_neither(cli):
    await cli("containers", "create", "Box")
    await cli("containers", "create", "Box", "--description", "another")
    error = await cli("containers", "show", "Box", code=1)
    assert "2 containers are called 'Box'" in error.err


async def test_a_camera_is_renamed_replaced_taken_out_and_let_in_again(cli):
    one, two, three = cli.fleet.cameras
    assert (await cli("cameras", "rename", one.device_id, "Entrance")).out == f"{one.mac} is called Entrance.\n"
    done = await cli("cameras", "replace", one.device_id, two.mac)
    assert done.out.startswith(f"{two.mac} is Entrance now, on position ")
    gone = await cli("cameras", "unpair", three.device_id)
    assert "does not bring it back" in gone.out

    async def refused():
        rows = await cli("onboarding", "events", "--mac", three.mac, "--stage", "rejected_by_policy")
        assert too_long(rows.out) == []
        return "DENIED it was unpaired (by admin" in rows.out and "lift the dismissal" in " ".join(rows.out.split())

    await eventually(refused, within=20)
    out = await cli("cameras", "dismissed")
    assert f"it was replaced by {two.mac} (by admin" in out.out
    assert {camera["mac_address"] for camera in (await cli("cameras", "dismissed", "--json")).json} == {
        one.mac,
        three.mac,
    }
    await cli("cameras", "lift", three.mac)
    placed = await cli("cameras", "pair", UNKNOWN, "auto-onboard", "--json")
    assert placed.json["mac_address"] == UNKNOWN
    again = await cli("cameras", "pair", UNKNOWN, "Auto-onboarded", "--position", str(placed.json["position"]))
    assert again.out == f"{UNKNOWN} stands in auto-onboard on position {placed.json['position']}.\n"
    for text in (done.out, gone.out, out.out, again.out):
        assert too_long(text) == []


@pytest.mark.parametrize("name", ["Evil \x1b[31mname", "<b>bold</b>", "x" * 64])
async def test_a_name_cannot_drive_the_terminal(cli, name):
    camera = cli.fleet.cameras[0]
    done = await cli("cameras", "rename", camera.mac, name)
    shown = await cli("cameras", "show", camera.mac)
    assert "\x1b" not in done.out + shown.out
    assert (await cli("cameras", "rename", camera.mac, "x" * 65, code=1)).err
