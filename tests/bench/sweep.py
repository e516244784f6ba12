"""P1: find sixty hosts in a /24 in network namespaces, compared with `arp-scan` and `nmap -sn`."""

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
ALONE = "the kernel's neighbour table, which needs no privilege; beside arp-scan"


async def network_sweep(stage):
    """One round: each scanner in turn, with an empty neighbour table."""
    sweeps = {name: [] for name in ENGINES}
    theirs = {"arp-scan": [], "nmap": []}
    folder = stage.path("sweep")
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
            await engines[name].line()
        for _ in range(ROUNDS):
            for name, command in commands.items():
                theirs[name].append(await site.pi.run(_scan, command, macs))
            for name, process in engines.items():
                site.pi.ip("neigh", "flush", "dev", site.interface)
                sweeps[name].append(json.loads(await process.ask("sweep")))
    return _rows(sweeps, theirs)


def _rows(sweeps, theirs):
    ours, kernels, bare = (_medians(sweeps[name]) for name in ENGINES)
    arp_scan, nmap = (_medians(rounds) for rounds in theirs.values())
    known, over = (_ms(ours, arp_scan, key) for key in ("all_known_s", "over_s"))
    found = [100 * other["found"] / HOSTS for other in (ours, arp_scan, kernels)]
    cpu = _ms(ours, arp_scan, "cpu_s")
    return [
        Row("P1", "60 of a /24 are known", "ms", *known, "≤ 0.05 ×", known[-1] <= 0.05, ARP_SCAN),
        Row("P1", "… beside nmap -sn", "ms", *_ms(ours, nmap, "all_known_s"), note=NMAP),
        Row("P1", "… beside a bare socket", "ms", *_ms(ours, bare, "all_known_s"), note=BARE),
        Row("P1", "… the sweep is over", "ms", *over, "≤ 0.5 ×", over[-1] <= 0.5, ARP_SCAN),
        Row("P1", "… found", "%", *found[:2], found[0] / found[1], "100 %", found[0] == 100, ARP_SCAN),
        Row("P1", "… CPU of a sweep", "ms", *cpu, "≤ 100 ms", cpu[0] <= 100, ARP_SCAN),
        Row("P1", "… peak memory, scapy loaded", "MiB", ours["peak_mib"]),
        Row("P1", "without privilege: are known", "ms", *_ms(kernels, arp_scan, "all_known_s"), note=ALONE),
        Row("P1", "… the sweep is over", "ms", *_ms(kernels, arp_scan, "over_s"), note=ALONE),
        Row("P1", "… found", "%", found[2], found[1], found[2] / found[1], note=ALONE),
        Row("P1", "… CPU of a sweep", "ms", *_ms(kernels, arp_scan, "cpu_s"), note=ALONE),
    ]


def _medians(rounds):
    """Median of each time and minimum of found hosts; a time is infinite if not all hosts were found."""
    medians = {key: statistics.median(_time(one[key]) for one in rounds) for key in rounds[0] if key != "found"}
    return medians | {"found": min(one["found"] for one in rounds)}


def _time(seconds):
    return float("inf") if seconds is None else seconds


def _ms(ours, reference, key):
    """(ours, reference, ratio); for a command, the time of all hosts is its end."""
    one, other = ours[key], reference.get(key, reference["over_s"])
    return one * 1000, other * 1000, one / other


def _scan(command, macs):
    """Run a scanner command in the namespace of this thread."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process.stdout:
        out = process.stdout.read()
    _, process.returncode, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    found = {mac.upper() for mac in re.findall(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", out)} & macs
    return {"over_s": seconds, "found": len(found), "cpu_s": usage.ru_utime + usage.ru_stime}


def _program(name):
    return shutil.which(name) or f"/usr/sbin/{name}"
