"""`scan`, `scan --watch` and `run --once` on real networks, without a daemon unless a test starts one."""

import asyncio
import contextlib
import json
import re
import signal
import subprocess

import pytest

from pi_orchestrator.features.devices.views import EvidenceView
from pi_orchestrator.features.discovery.views import DeviceView
from tests.support import lan
from tests.support.process import (
    COMMAND,
    UNPRIVILEGED,
    command,
    environment,
    first_line,
    running_command,
    write_toml,
)
from tests.support.terminal import Terminal
from tests.support.waiting import HANG_S, eventually

WIDTH = 80
LONG_VENDOR = "00:01:7A:00:00:01"
"""The vendor of this MAC, "Chengdu Maipu Electric Industrial Co., Ltd", is longer than the column."""
HEADERS = ["MAC", "ADDRESS", "VENDOR", "SIGNAL", "SOURCES", "STATE"]


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, cameras=3, broker=False) as site:
        yield site


@pytest.fixture
def scan(site, tmp_path):
    """`scan("--json", code=0)`, which also checks the rules of every scan."""

    async def run(*args, code=0, name="scan", tree=None, **options):
        config = write_toml(tmp_path / "config.toml", site.tree() if tree is None else tree)
        done = await site.command(name, *args, "--config", config, **options)
        assert "Traceback" not in done.err
        assert done.code == code, done
        text = done.err if "--json" in args else done.out + done.err
        assert [line for line in text.splitlines() if len(line) > WIDTH or not line.isprintable()] == []
        assert code != 0 or done.err == "", "no progress without a terminal"
        return done

    return run


# One scan.


async def test_scan_lists_devices_by_address_and_engine(scan, site):
    done = await scan()
    head, *rows, summary = done.out.splitlines()
    assert head.split() == HEADERS
    assert [row.split()[:2] for row in rows] == [[camera.mac, camera.address] for camera in site.cameras]
    assert all(row.endswith("arp      online camera?") and "Espressif" in row for row in rows)
    assert re.fullmatch(r"3 found in \d+\.\d s on ap0; engine: arp \(auto\)", summary)


async def test_unprivileged_scan_needs_no_daemon_or_config(site):
    done = await command("scan", "--interface", "ap0", "--json", prefix=(*site.pi.prefix, *UNPRIVILEGED))
    assert (done.code, done.err) == (0, "")
    found = done.json
    assert (found["engine"], found["interface"], found["subnet"]) == ("neighbour", "ap0", "10.77.0.0/24")
    assert re.fullmatch(r"neighbour \(auto\); arp: .*not permitted.*", found["engine_reason"])
    assert (found["complete"], found["found"]) == (True, 3)
    assert 0 < found["duration_ms"] < 10_000
    seen = [(device["mac_address"], device["ip_address"], device["status"]) for device in found["devices"]]
    assert seen == [(camera.mac, camera.address, "online") for camera in site.cameras]


async def test_json_device_matches_api(scan):
    device = (await scan("--json")).json["devices"][0]
    assert set(device) - set(DeviceView.model_fields) == {"likely_camera"}
    assert set(device["evidence"][0]) <= set(EvidenceView.model_fields)
    assert device["likely_camera"] is True
    assert device["vendor"] == "Espressif Inc."


async def test_empty_network_is_no_failure(scan, site):
    site.switch_off(*site.cameras)
    assert re.fullmatch(r"No devices found in \d\.\d s on ap0; engine: arp \(auto\)\n", (await scan()).out)


async def test_wide_content_fits_terminal(scan, site, tmp_path):
    first = site.cameras[0]
    leases = tmp_path / "leases"
    lines = (
        f"0 {first.mac} {first.address} {'x' * 200} *",
        f"0 {LONG_VENDOR} 10.77.0.200 \x1b[2J\x9b2J *",
        "0 DE:AD:BE:EF:00:01 10.77.0.5 ramcam *",
        "0 DE:AD:BE:EF:00:02 10.99.0.5 of-another-network *",
    )
    leases.write_text("".join(f"{line}\n" for line in lines))
    tree = site.tree(discovery={"lease_files": [str(leases)]})
    async with site.player() as player:
        twins = ["24:6F:28:00:00:01", "24:6F:28:00:00:0A"]
        await player.play({"10.77.0.199": LONG_VENDOR, "10.77.0.201": LONG_VENDOR, "10.77.0.210": twins})
        done = await scan(tree=tree)
        devices = {entry["mac_address"]: entry for entry in (await scan("--json", tree=tree)).json["devices"]}
    rows = {line.split()[0]: line for line in done.out.splitlines() if re.match(r"(\w\w:){5}\w\w  10\.", line)}
    assert rows[LONG_VENDOR].split()[2].startswith("Chengdu"), "shortened to fit the column"
    assert rows[LONG_VENDOR].endswith("online")
    assert rows[first.mac].split()[-3:] == ["arp,dhcp", "online", "camera?"]
    assert rows["DE:AD:BE:EF:00:01"].split()[1:] == ["10.77.0.5", "(random)", "-", "dhcp", "offline", "camera?"]
    assert "DE:AD:BE:EF:00:02" not in devices
    text = " ".join(done.out.split())
    assert f"Conflict: 10.77.0.210 is claimed by {' and '.join(twins)}; it is assigned to no device." in text
    assert f"{LONG_VENDOR} has several addresses: 10.77.0.199, 10.77.0.201." in text
    assert "6 found in" in text
    assert "1 expected but silent" in text

    assert devices[twins[0]]["conflict"] == [twins[1]]
    assert devices[LONG_VENDOR]["ip_addresses"] == ["10.77.0.199", "10.77.0.201"]
    assert devices["DE:AD:BE:EF:00:01"]["hostname"] == "ramcam"


async def test_interface_with_other_network_is_scanned(scan, site):
    site.pi.batch(("link add eth9 type veth peer name eth8", "link set eth8 up", "link set eth9 up"))
    site.pi.ip("address", "add", "10.88.0.1/28", "dev", "eth9")

    def sent(name):
        return json.loads(site.pi.ip("-j", "-s", "link", "show", name))[0]["stats64"]["tx"]["packets"]

    before = sent("ap0")
    found = (await scan("--interface", "eth9", "--json")).json
    assert (found["interface"], found["subnet"], found["devices"]) == ("eth9", "10.88.0.0/28", [])
    assert sent("ap0") == before
    before = sent("eth9")
    assert (await scan("--interface", "ap0", "--json", tree={})).json["found"] == 3
    assert sent("eth9") == before


async def test_part_of_network_is_scanned(scan, site):
    found = (await scan("--subnet", f"{site.network[0]}/28", "--engine", "arp", "--json")).json
    assert (found["engine_reason"], found["subnet"], found["found"]) == ("arp (discovery.engine)", "10.77.0.0/28", 3)


async def test_disabled_daemon_scans_do_not_disable_command(scan, site):
    assert (await scan("--json", tree=site.tree(discovery={"engine": "off"}))).json["found"] == 3


async def test_run_once_is_one_scan(scan, site):
    table = (await scan("--once", name="run")).out.splitlines()
    assert table[0].split() == HEADERS
    assert len(table) == 5
    assert (await scan("--once", "--json", "--state-dir", "/nonexistent", name="run")).json["found"] == 3


async def test_scan_does_not_disturb_daemon(tmp_path):
    async with lan.opened(tmp_path, cameras=3) as site, site.daemon() as daemon:
        done = await site.command("scan", "--json", "--config", tmp_path / "config.toml")
        assert (done.code, done.json["found"]) == (0, 3)
        assert (await daemon.api.get("/readyz")).json["checks"]["scanner"] is True
        assert len(daemon.entries("ready")) == 1


# Failures.


async def refusal(scan, *args, code=1, **options):
    """Check that a scan fails without output; return the lines of its error message."""
    done = await scan(*args, code=code, **options)
    assert done.out == ""
    return done.err.splitlines()


async def test_unusable_interface_is_reported_with_remedy(scan, site):
    missing = await refusal(scan, "--interface", "nope0")
    assert missing == [
        "error: interface nope0 not found",
        "  set ap.interface to one of: ap0",
        "  for this scan: --interface or --subnet",
    ]
    assert (await refusal(scan, "--interface", "lo"))[0] == "error: lo does not support ARP, so it cannot be scanned"
    outside = await refusal(scan, "--subnet", "10.99.0.0/24")
    assert outside[0] == "error: ap0 has no address in 10.99.0.0/24; it has 10.77.0.1/24"
    site.down()
    assert (await refusal(scan))[:2] == ["error: ap0 is down", "  start the access point, or: ip link set ap0 up"]
    site.remove_address()
    site.up()
    assert (await refusal(scan, "--json"))[:2] == [
        "error: ap0 has no address in 10.77.0.0/24; it has none",
        "  set ap.subnet (or --subnet) to the network of the interface, or give the",
    ]


async def test_arp_without_capability_names_both_remedies(scan):
    error = " ".join(await refusal(scan, "--engine", "arp", unprivileged=True))
    assert re.match(r"error: no engine works on ap0: arp: .*not permitted", error)
    assert "run this command with sudo" in error
    assert "--engine auto" in error


@pytest.mark.parametrize(
    "args, error",
    [
        (["--subnet", "nonsense"], "write it like 192.168.10.0/24"),
        (["--subnet", "10.77.0.9"], "is a single address; a network is 10.77.0.9/24"),
        (["--subnet", "10.0.0.0/8"], "10.0.0.0/8 is larger than a /22; add --allow-large to scan it"),
        (["--engine", "magic"], "invalid choice: 'magic'"),
        (["--timeout", "0"], "'0' is not a number of seconds above 0"),
        (["--watch", "-1"], "'-1' is not a number of seconds above 0"),
        (["--interface", "no such thing"], "ap.interface"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_wrong_arguments_are_reported_before_scan(args, error):
    done = await command("scan", *args)
    assert (done.code, done.out) == (2, "")
    assert error in done.err
    assert "Traceback" not in done.err


async def test_run_json_without_once_is_refused():
    done = await command("run", "--json")
    assert (done.code, done.out) == (2, "")
    assert "--once" in done.err


async def test_large_network_needs_flag(tmp_path):
    async with lan.opened(tmp_path, cameras=2, network="10.77.0.0/21", broker=False) as site:
        config = write_toml(tmp_path / "config.toml", site.tree())
        refused = await site.command("scan", "--config", config)
        assert refused.code == 2
        assert "10.77.0.0/21 is larger than a /22: scanning 2,048 addresses takes long" in refused.err
        assert "--allow-large" in refused.err
        done = await site.command("scan", "--config", config, "--allow-large", "--json")
        assert (done.code, done.json["subnet"], done.json["found"]) == (0, "10.77.0.0/21", 2)


async def test_timeout_prints_found_devices_and_exits_with_1(scan, site):
    found = (await scan("--timeout", "0.5", "--engine", "neighbour", "--json", code=1)).json
    assert (found["complete"], found["found"]) == (False, 3)
    text = (await scan("--timeout", "0.5", "--engine", "neighbour", code=1)).out
    assert "incomplete: timeout" in " ".join(text.split())


# Terminal output.


async def test_progress_is_shown_and_cleared(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    async with Terminal.opened("scan", "--config", config, "--engine", "neighbour", prefix=site.pi.prefix) as terminal:
        await terminal.expect(r"10\.77\.0\.0/24 on ap0 \[[ #-]{20}\] 3 found, \d\.\d s")
        assert await terminal.ended() == 0
        await terminal.expect(r"discovery\.engine\)")
    shown = re.split(r"[\r\n]+", terminal.text.replace("\x1b[K", ""))
    assert [line for line in shown if len(line) > WIDTH] == []
    assert terminal.screen()[0].split() == HEADERS


async def test_ctrl_c_ends_scan_with_130(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    async with Terminal.opened("scan", "--config", config, "--engine", "neighbour", prefix=site.pi.prefix) as terminal:
        await terminal.expect("3 found")
        assert await terminal.ended(signal.SIGINT) == 130
        await terminal.expect(r"\r\x1b\[K$")
        assert "Traceback" not in terminal.text


async def test_interface_down_ends_scan(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    async with Terminal.opened("scan", "--config", config, "--engine", "neighbour", prefix=site.pi.prefix) as terminal:
        await terminal.expect("3 found")
        site.down()
        assert await terminal.ended() == 1
        # The kernel reports it by netlink, or fails the next datagram if the scan is still sending.
        await terminal.expect("error: ap0 failed during the scan: (ap0 is down|Network is unreachable)")


async def test_closed_output_is_no_error(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    scan = (*site.pi.prefix, *COMMAND, "scan", "--config", str(config), "--json")
    line, done = await first_line(*scan)
    assert (bool(line), done.code, done.err) == (True, 0, "")
    # Watch detects the closed output at its next write.
    line, done = await first_line(*scan, "--watch", "0.2", then=lambda: site.switch_off(site.cameras[0]))
    assert (bool(line), done.code, done.err) == (True, 0, "")


# Watch.


async def move_until_printed(site, camera, terminal):
    """Move a camera until a move is printed; return its new address. A scan that both addresses answer prints none."""
    for number in range(99, 120):
        address = f"10.77.0.{number}"
        site.move(camera, address)
        with contextlib.suppress(AssertionError):
            pattern = rf"\d\d:\d\d:\d\d  moved      {camera.mac}  10\.77\.0\.\d+ → {re.escape(address)}"
            await terminal.expect(pattern, within=5)
            return address
    raise AssertionError(f"no move of {camera.mac} was printed: {terminal.text!r}")


async def test_watch_prints_changes_until_ctrl_c(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    first, second, third = site.cameras
    site.switch_off(third)
    async with Terminal.opened("scan", "--config", config, "--watch", "0.5", prefix=site.pi.prefix) as terminal:
        await terminal.expect(r"2 found; scanning every 0\.5 s; engine: arp \(auto\)")
        assert f"found      {first.mac}" not in terminal.text, "devices in the table are not printed again"
        site.switch_on(third)
        site.switch_off(first)
        await terminal.expect(rf"\d\d:\d\d:\d\d  found      {third.mac}  {third.address} Espressif Inc\. camera\?")
        address = await move_until_printed(site, second, terminal)
        await terminal.expect(rf"\d\d:\d\d:\d\d  gone       {first.mac}  {first.address}")
        site.switch_on(first)
        await terminal.expect(rf"back       {first.mac}")
        async with site.player() as player:
            await player.play({address: "24:6F:28:EE:00:01"})
            await terminal.expect(rf"conflict   {min(second.mac, '24:6F:28:EE:00:01')}  at {re.escape(address)} with ")
        site.down()
        await terminal.expect("waiting    ap0 is down; waiting for it")
        site.up()
        await terminal.expect(r"scanning   again; engine: arp \(auto\)")
        assert await terminal.ended(signal.SIGINT) == 0
        await terminal.expect(r"\r\x1b\[K$")
    assert "Traceback" not in terminal.text
    assert [line for line in terminal.screen() if len(line) > WIDTH or not line.isprintable()] == []


async def test_watch_json_is_one_object_per_line(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    switched_off = site.cameras[0]
    args = ("scan", "--config", config, "--watch", "0.5", "--json")
    async with running_command(*args, folder=tmp_path, prefix=site.pi.prefix) as process:

        async def events(count):
            await eventually(lambda: process.out().count("\n") >= count, what=f"{count} events")
            return [json.loads(line) for line in process.out().splitlines()]

        found = await events(len(site.cameras))
        assert {event["event"] for event in found} == {"found"}
        assert {event["mac_address"]: event["ip_address"] for event in found} == {
            camera.mac: camera.address for camera in site.cameras
        }
        assert all(event["at"].endswith("Z") and event["likely_camera"] for event in found)
        site.switch_off(switched_off)
        *_, event = await events(len(site.cameras) + 1)
        assert (event["event"], event["mac_address"], event["ip_address"]) == (
            "gone",
            switched_off.mac,
            switched_off.address,
        )
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG_S):
            assert await process.wait() == 0
        assert len(await events(0)) == len(site.cameras) + 1
        assert process.err() == ""


async def test_part_without_address_of_pi_is_scanned(scan, site):
    """The Pi has no address in this part of the network."""
    inside = {"10.77.0.13", "10.77.0.14"}  # the hosts of the /30
    done = await scan("--subnet", "10.77.0.12/30", "--json")
    assert [entry["ip_address"] for entry in json.loads(done.out)["devices"]] == [
        camera.address for camera in site.cameras if camera.address in inside
    ]


def test_unwritable_output_is_one_line_error():
    command = f"{' '.join(COMMAND)} --version >/dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 1
    assert done.stderr == "error: cannot write the output: No space left on device\n"
