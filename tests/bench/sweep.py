"""P1: find 60 hosts of a /24 in network namespaces, compared with `arp-scan` and `nmap -sn`."""

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import time

from tests.bench.process import INSTALLED, child
from tests.bench.report import Row
from tests.support import lan

HOSTS = 60
ROUNDS = 5
ENGINES = ("arp", "neighbour", "bare")
ARP_SCAN = "arp-scan of the same namespace, its start included; ours is a daemon's sweep, which needs no start"
NMAP = "nmap -sn of the same namespace, its start included"
BARE = "a bare packet socket: all requests at once, until the last reply"
NEIGHBOUR = "the kernel's neighbour table, which needs no privilege; compared with arp-scan"


async def network_sweep(env):
    """P1: in each round every scanner once, with an empty neighbour table."""
    sweeps = {name: [] for name in ENGINES}
    command_results = {"arp-scan": [], "nmap": []}
    folder = env.path("sweep")
    async with lan.opened(folder, cameras=HOSTS, broker=False) as site, contextlib.AsyncExitStack() as stack:
        macs = {camera.mac for camera in site.cameras}
        commands = {
            "arp-scan": [_program("arp-scan"), "-q", "-x", "-I", site.interface, str(site.network)],
            "nmap": [_program("nmap"), "-sn", "-n", "-e", site.interface, str(site.network)],
        }
        engines = {}
        for name in ENGINES:
            arguments = ("tests.bench.sweeper", name, site.interface, site.network, ",".join(macs))
            engines[name] = await stack.enter_async_context(child(*arguments, prefix=site.pi.prefix, python=INSTALLED))
            await engines[name].next_line()
        for _ in range(ROUNDS):
            for name, command in commands.items():
                command_results[name].append(await site.pi.run(_scan, command, macs))
            for name, process in engines.items():
                site.pi.ip("neigh", "flush", "dev", site.interface)
                sweeps[name].append(json.loads(await process.request("sweep")))
    return _rows(sweeps, command_results)


def _rows(sweeps, command_results):
    ours, neighbour, bare = (_medians(sweeps[name]) for name in ENGINES)
    arp_scan, nmap = (_medians(rounds) for rounds in command_results.values())
    all_found, finished = (_ms(ours, arp_scan, key) for key in ("all_found_s", "finished_s"))
    found = [100 * scanner["found"] / HOSTS for scanner in (ours, arp_scan, neighbour)]
    cpu = _ms(ours, arp_scan, "cpu_s")
    return [
        Row("P1", "60 hosts of a /24: all found", "ms", *all_found, "≤ 0.05 ×", all_found[-1] <= 0.05, ARP_SCAN),
        Row("P1", "… compared with nmap -sn", "ms", *_ms(ours, nmap, "all_found_s"), note=NMAP),
        Row("P1", "… compared with a bare socket", "ms", *_ms(ours, bare, "all_found_s"), note=BARE),
        Row("P1", "… sweep finished", "ms", *finished, "≤ 0.5 ×", finished[-1] <= 0.5, ARP_SCAN),
        Row("P1", "… found", "%", *found[:2], found[0] / found[1], "100 %", found[0] == 100, ARP_SCAN),
        Row("P1", "… CPU per sweep", "ms", *cpu, "≤ 100 ms", cpu[0] <= 100, ARP_SCAN),
        Row("P1", "… peak memory, scapy loaded", "MiB", ours["peak_mib"]),
        Row("P1", "without privilege: all found", "ms", *_ms(neighbour, arp_scan, "all_found_s"), note=NEIGHBOUR),
        Row("P1", "… sweep finished", "ms", *_ms(neighbour, arp_scan, "finished_s"), note=NEIGHBOUR),
        Row("P1", "… found", "%", found[2], found[1], found[2] / found[1], note=NEIGHBOUR),
        Row("P1", "… CPU per sweep", "ms", *_ms(neighbour, arp_scan, "cpu_s"), note=NEIGHBOUR),
    ]


def _medians(rounds):
    """Median of each time and minimum of found hosts; a time is infinite if not all hosts were found."""
    medians = {key: statistics.median(_time(sweep[key]) for sweep in rounds) for key in rounds[0] if key != "found"}
    return medians | {"found": min(sweep["found"] for sweep in rounds)}


def _time(seconds):
    return float("inf") if seconds is None else seconds


def _ms(ours, reference, key):
    """(ours, reference, ratio) of a time in ms; for a command, all hosts are found when it ends."""
    value, reference_value = ours[key], reference.get(key, reference["finished_s"])
    return value * 1000, reference_value * 1000, value / reference_value


def _scan(command, macs):
    """Run a scanner command in the namespace of this thread."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process.stdout:
        out = process.stdout.read()
    _, process.returncode, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    found = {mac.upper() for mac in re.findall(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", out)} & macs
    return {"finished_s": seconds, "found": len(found), "cpu_s": usage.ru_utime + usage.ru_stime}


def _program(name):
    return shutil.which(name) or f"/usr/sbin/{name}"
