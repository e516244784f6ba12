"""`scan`, `scan --watch` and `run --once` on real networks, with nothing else running unless a test says so."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess

import pytest

from pi_orchestrator.api.devices import DeviceView, EvidenceView
from tests.support import lan
from tests.support.process import COMMAND, POWERLESS, command, environment, write_toml
from tests.support.waiting import eventually

WIDTH = 80
LONG_VENDOR = "00:01:7A:00:00:01"
"""Of "Chengdu Maipu Electric Industrial Co., Ltd", which is longer than any column may be."""
HEADERS = ["MAC", "ADDRESS", "VENDOR", "SIGNAL", "SOURCES", "STATE"]


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, cameras=3, broker=False) as site:
        yield site


@pytest.fixture
def scan(site, tmp_path):
    """`await scan("--json", code=0)`: what it said, after what holds for every scan has been checked."""

    async def run(*args, code=0, name="scan", tree=None, **how):
        config = write_toml(tmp_path / "config.toml", site.tree() if tree is None else tree)
        done = await site.command(name, *args, "--config", config, **how)
        assert "Traceback" not in done.err
        assert done.code == code, done
        text = done.err if "--json" in args else done.out + done.err
        assert [line for line in text.splitlines() if len(line) > WIDTH or not line.isprintable()] == []
        assert code != 0 or done.err == "", "no terminal, no progress"
        return done

    return run


class Terminal:
    """A command at a terminal of 80 columns; `text` is all that it has written there."""

    def __init__(self, process, fd):
        self.process, self.text, self._fd = process, "", fd
        asyncio.get_running_loop().add_reader(fd, self._read)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, site, *args):
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(*site.pi.prefix, *COMMAND, *map(str, args)),
            **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
            env=environment(COLUMNS=str(WIDTH)),
            cwd="/",
        )
        os.close(theirs)
        terminal = cls(process, ours)
        try:
            yield terminal
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            asyncio.get_running_loop().remove_reader(ours)
            os.close(ours)

    def _read(self):
        try:
            self.text += os.read(self._fd, 65536).decode()
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self._fd)

    async def says(self, pattern, within=15):
        await eventually(lambda: re.search(pattern, self.text), within=within, what=f"{pattern!r} in {self.text!r}")

    async def ended(self, number=None):
        """The exit code, after this signal."""
        if number:
            self.process.send_signal(number)
        async with asyncio.timeout(10):
            return await self.process.wait()

    def screen(self):
        """The lines that remain to be seen, at least as far as this program writes."""
        lines = self.text.replace("\x1b[K", "").replace("\r\n", "\n").split("\n")
        return [line.rsplit("\r", 1)[-1] for line in lines]


# One scan.


async def test_it_shows_everyone_by_address_with_the_engine_and_why(scan, site):
    done = await scan()
    head, *rows, summary = done.out.splitlines()
    assert head.split() == HEADERS
    assert [row.split()[:2] for row in rows] == [[camera.mac, camera.address] for camera in site.cameras]
    assert all(row.endswith("arp      online camera?") and "Espressif" in row for row in rows)
    assert re.fullmatch(r"3 found in \d+\.\d s on ap0; engine: arp \(auto\)", summary)


async def test_who_has_no_capability_needs_none_and_no_daemon_and_no_configuration(site):
    done = await command("scan", "--interface", "ap0", "--json", prefix=(*site.pi.prefix, *POWERLESS))
    assert (done.code, done.err) == (0, "")
    found = done.json
    assert (found["engine"], found["interface"], found["subnet"]) == ("neighbour", "ap0", "10.77.0.0/24")
    assert re.fullmatch(r"neighbour \(auto\); arp: .*not permitted.*", found["engine_reason"])
    assert (found["complete"], found["found"]) == (True, 3)
    assert 0 < found["duration_ms"] < 10_000
    seen = [(device["mac_address"], device["ip_address"], device["status"]) for device in found["devices"]]
    assert seen == [(camera.mac, camera.address, "online") for camera in site.cameras]


async def test_in_json_a_device_is_what_it_is_in_the_api(scan):
    device = (await scan("--json")).json["devices"][0]
    assert set(device) - set(DeviceView.model_fields) == {"likely_camera"}
    assert set(device["evidence"][0]) <= set(EvidenceView.model_fields)
    assert device["likely_camera"] is True
    assert device["vendor"] == "Espressif Inc."


async def test_nobody_there_is_no_failure(scan, site):
    site.switch_off(*site.cameras)
    assert re.fullmatch(r"Nobody found in \d\.\d s on ap0; engine: arp \(auto\)\n", (await scan()).out)


async def test_leases_long_names_conflicts_and_several_addresses_fit_a_terminal(scan, site, tmp_path):
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
        devices = {one["mac_address"]: one for one in (await scan("--json", tree=tree)).json["devices"]}
    rows = {line.split()[0]: line for line in done.out.splitlines() if re.match(r"(\w\w:){5}\w\w  10\.", line)}
    assert rows[LONG_VENDOR].split()[2].startswith("Chengdu"), "shortened, so that the rest has its place"
    assert rows[LONG_VENDOR].endswith("online")
    assert rows[first.mac].split()[-3:] == ["arp,dhcp", "online", "camera?"]
    assert rows["DE:AD:BE:EF:00:01"].split()[1:] == ["10.77.0.5", "(random)", "-", "dhcp", "offline", "camera?"]
    assert "DE:AD:BE:EF:00:02" not in devices
    text = " ".join(done.out.split())
    assert f"Conflict: 10.77.0.210 is answered for by {' and '.join(twins)}; it counts as nobody's." in text
    assert f"{LONG_VENDOR} has several addresses: 10.77.0.199, 10.77.0.201." in text
    assert "6 found in" in text
    assert "1 expected but silent" in text

    assert devices[twins[0]]["conflict"] == [twins[1]]
    assert devices[LONG_VENDOR]["ip_addresses"] == ["10.77.0.199", "10.77.0.201"]
    assert devices["DE:AD:BE:EF:00:01"]["hostname"] == "ramcam"


async def test_an_interface_with_another_network_is_scanned_there_and_no_other_is_used(scan, site):
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


async def test_a_part_of_the_network_can_be_asked(scan, site):
    found = (await scan("--subnet", f"{site.network[0]}/28", "--engine", "arp", "--json")).json
    assert (found["engine_reason"], found["subnet"], found["found"]) == ("arp (discovery.engine)", "10.77.0.0/28", 3)


async def test_switched_off_is_the_daemons_scanning_and_not_this_one(scan, site):
    assert (await scan("--json", tree=site.tree(discovery={"engine": "off"}))).json["found"] == 3


async def test_run_once_is_one_scan(scan, site):
    table = (await scan("--once", name="run")).out.splitlines()
    assert table[0].split() == HEADERS
    assert len(table) == 5
    assert (await scan("--once", "--json", "--state-dir", "/nonexistent", name="run")).json["found"] == 3


async def test_beside_a_daemon_nobody_is_disturbed(tmp_path):
    async with lan.opened(tmp_path, cameras=3) as site, site.daemon() as daemon:
        done = await site.command("scan", "--json", "--config", tmp_path / "config.toml")
        assert (done.code, done.json["found"]) == (0, 3)
        assert (await daemon.api.get("/readyz")).json["checks"]["scanner"] is True
        assert len(daemon.entries("ready")) == 1


# What stops it.


async def refusal(scan, *args, code=1, **how):
    done = await scan(*args, code=code, **how)
    assert done.out == ""
    return done.err.splitlines()


async def test_an_interface_in_no_state_to_scan_is_told_with_the_remedy(scan, site):
    missing = await refusal(scan, "--interface", "nope0")
    assert missing == [
        "error: nope0 is not there",
        "  set ap.interface to one of: ap0",
        "  --interface and --subnet name others for this scan",
    ]
    assert (await refusal(scan, "--interface", "lo"))[0] == "error: lo has no ARP: nobody can be asked there"
    outside = await refusal(scan, "--subnet", "10.99.0.0/24")
    assert outside[0] == "error: ap0 has no address in 10.99.0.0/24, but 10.77.0.1/24"
    site.down()
    assert (await refusal(scan))[:2] == ["error: ap0 is down", "  start the access point, or: ip link set ap0 up"]
    site.remove_address()
    site.up()
    assert (await refusal(scan, "--json"))[:2] == [
        "error: ap0 has no address in 10.77.0.0/24, nor any other",
        "  name the network that it is on (ap.subnet, or --subnet), or give it its",
    ]


async def test_arp_without_the_right_to_it_names_both_ways_out(scan):
    told = " ".join(await refusal(scan, "--engine", "arp", powerless=True))
    assert re.match(r"error: no engine works on ap0: arp: .*not permitted", told)
    assert "run it with sudo" in told
    assert "--engine auto" in told


@pytest.mark.parametrize(
    "args, says",
    [
        (["--subnet", "nonsense"], "write it like 192.168.10.0/24"),
        (["--subnet", "10.77.0.9"], "is an address; a network is 10.77.0.9/24"),
        (["--subnet", "10.0.0.0/8"], "10.0.0.0/8 is larger than a /22; --allow-large scans it"),
        (["--engine", "magic"], "invalid choice: 'magic'"),
        (["--timeout", "0"], "'0' is not a number of seconds above 0"),
        (["--watch", "-1"], "'-1' is not a number of seconds above 0"),
        (["--interface", "no such thing"], "ap.interface"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_wrong_arguments_are_told_before_anything_is_asked(args, says):
    done = await command("scan", *args)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "Traceback" not in done.err


async def test_json_is_for_once_only():
    done = await command("run", "--json")
    assert (done.code, done.out) == (2, "")
    assert "--once" in done.err


async def test_a_network_larger_than_a_22_is_scanned_only_on_demand(tmp_path):
    async with lan.opened(tmp_path, cameras=2, network="10.77.0.0/21", broker=False) as site:
        config = write_toml(tmp_path / "config.toml", site.tree())
        refused = await site.command("scan", "--config", config)
        assert refused.code == 2
        assert "10.77.0.0/21 is larger than a /22: 2,048 addresses take long" in refused.err
        assert "--allow-large" in refused.err
        done = await site.command("scan", "--config", config, "--allow-large", "--json")
        assert (done.code, done.json["subnet"], done.json["found"]) == (0, "10.77.0.0/21", 2)


async def test_when_the_time_is_up_what_was_found_is_shown_and_the_code_says_so(scan, site):
    found = (await scan("--timeout", "0.5", "--engine", "neighbour", "--json", code=1)).json
    assert (found["complete"], found["found"]) == (False, 3)
    text = (await scan("--timeout", "0.5", "--engine", "neighbour", code=1)).out
    assert "not complete: the time was up" in " ".join(text.split())


# At a terminal.


async def test_progress_is_shown_at_a_terminal_and_gone_at_the_end(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    async with Terminal.opened(site, "scan", "--config", config, "--engine", "neighbour") as terminal:
        await terminal.says(r"10\.77\.0\.0/24 on ap0 \[[ #-]{20}\] 3 found, \d\.\d s")
        assert await terminal.ended() == 0
        await terminal.says(r"discovery\.engine\)")
    shown = re.split(r"[\r\n]+", terminal.text.replace("\x1b[K", ""))
    assert [line for line in shown if len(line) > WIDTH] == []
    assert terminal.screen()[0].split() == HEADERS


async def test_ctrl_c_ends_a_scan_with_130_and_a_clean_line(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    async with Terminal.opened(site, "scan", "--config", config, "--engine", "neighbour") as terminal:
        await terminal.says("3 found")
        assert await terminal.ended(signal.SIGINT) == 130
        await terminal.says(r"\r\x1b\[K$")
        assert "Traceback" not in terminal.text


async def test_an_interface_that_goes_down_meanwhile_ends_the_scan(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    async with Terminal.opened(site, "scan", "--config", config, "--engine", "neighbour") as terminal:
        await terminal.says("3 found")
        site.down()
        assert await terminal.ended() == 1
        await terminal.says("error: ap0 went away during the scan: ap0 has gone down")


async def test_a_reader_that_has_seen_enough_is_no_error(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    for flags in ("--json", "--watch 0.2 --json"):
        shell = f"{' '.join(COMMAND)} scan --config {config} {flags} | head -1"
        async with asyncio.timeout(20):
            process = await asyncio.create_subprocess_exec(
                *(*site.pi.prefix, "bash", "-o", "pipefail", "-c", shell),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment(),
            )
            first = await process.stdout.readline()
            site.switch_off(site.cameras[0])  # what watches notices that nobody reads with its next word
            out, err = await process.communicate()
        assert (process.returncode, bool(first), out, err) == (0, True, b"", b"")
        site.switch_on(site.cameras[0])


# Watching.


async def test_watch_tells_who_comes_moves_goes_and_comes_back_until_ctrl_c(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    one, other, third = site.cameras
    site.switch_off(third)
    async with Terminal.opened(site, "scan", "--config", config, "--watch", "0.5") as terminal:
        await terminal.says(r"2 found; scanning again every 0\.5 s, by arp \(auto\)")
        assert f"found      {one.mac}" not in terminal.text, "the table has told of those"
        site.switch_on(third)
        site.switch_off(one)
        site.move(other, "10.77.0.99")
        await terminal.says(rf"\d\d:\d\d:\d\d  found      {third.mac}  {third.address} Espressif Inc\. camera\?")
        await terminal.says(rf"\d\d:\d\d:\d\d  moved      {other.mac}  10\.77\.0\.\d+ → 10\.77\.0\.99")
        await terminal.says(rf"\d\d:\d\d:\d\d  gone       {one.mac}  {one.address}")
        site.switch_on(one)
        await terminal.says(rf"back       {one.mac}")
        async with site.player() as player:
            await player.play({"10.77.0.99": "24:6F:28:EE:00:01"})
            await terminal.says(rf"conflict   {min(other.mac, '24:6F:28:EE:00:01')}  at 10\.77\.0\.99 with ")
        site.down()
        await terminal.says("waiting    ap0 is down; waiting for it")
        site.up()
        await terminal.says(r"scanning   again, by arp \(auto\)")
        assert await terminal.ended(signal.SIGINT) == 0
        await terminal.says(r"\r\x1b\[K$")
    assert "Traceback" not in terminal.text
    assert [line for line in terminal.screen() if len(line) > WIDTH or not line.isprintable()] == []


async def test_watch_in_json_is_an_object_a_line_for_each_change(site, tmp_path):
    config = write_toml(tmp_path / "config.toml", site.tree())
    gone = site.cameras[0]
    process = await asyncio.create_subprocess_exec(
        *(*site.pi.prefix, *COMMAND, "scan", "--config", str(config), "--watch", "0.5", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:

        async def next_event():
            return json.loads(await asyncio.wait_for(process.stdout.readline(), 15))

        found = [await next_event() for _ in site.cameras]
        assert {event["event"] for event in found} == {"found"}
        assert {event["mac_address"]: event["ip_address"] for event in found} == {
            camera.mac: camera.address for camera in site.cameras
        }
        assert all(event["at"].endswith("Z") and event["likely_camera"] for event in found)
        site.switch_off(gone)
        event = await next_event()
        assert (event["event"], event["mac_address"], event["ip_address"]) == ("gone", gone.mac, gone.address)
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, out, err) == (0, b"", b"")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_part_of_the_interfaces_network_can_be_asked_alone(scan, site):
    """Also one in which the Pi itself has no address."""
    upper = [camera.address for camera in site.cameras if int(camera.address.split(".")[3]) >= 12]
    done = await scan("--subnet", "10.77.0.12/30", "--json")
    assert [one["ip_address"] for one in json.loads(done.out)["devices"]] == [
        address for address in upper if int(address.split(".")[3]) in (13, 14)
    ]


def test_output_that_cannot_be_written_is_said_in_a_line():
    words = f"{' '.join(COMMAND)} --version >/dev/full"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device\n"
