"""`scripts/bench`: measure and print one table. A missed target does not fail the run."""

import argparse
import asyncio
import contextlib
import os
import platform
import sys
import time

from tests.bench import answers, full, lifecycle, messages, onboarding, page, provisioning, rest, streams, sweep, writes
from tests.bench.report import as_json, table
from tests.bench.stage import Stage

MEASURES = (
    ("P1", sweep.network_sweep),
    ("P2", onboarding.one_camera),
    ("P3", onboarding.storm),
    ("P3", onboarding.limited_storm),
    ("P4", messages.status_messages),
    ("P5", answers.camera_list),
    ("P16", full.full_load),
    ("P6", answers.refusals),
    ("P7", writes.durable_writes),
    ("P8", streams.streams),
    ("P9", rest.crowd),
    ("P10 P13", lifecycle.start_and_stop),
    ("P13", streams.stop_with_streams),
    ("P15", provisioning.batch),
    ("F1", page.first_load),
)
AT_REST = (("P9", rest.memory), ("P11", rest.idle_cpu))
LONG = "P12"
NEED_ROOT = {"P1", "P9", "P11", "P12", "P16"}
KNOWN = ("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10", "P11", "P12", "P13", "P15", "P16", "F1")


async def measure(wanted):
    """Rows, sorted by number."""
    rows = []
    with Stage.opened() as stage:
        async with contextlib.AsyncExitStack() as stack:
            writing = None
            if wanted & {"P9", "P11", "P12"}:
                _tell("waiting until a daemon with fifty cameras is idle")
                quiet = await stack.enter_async_context(rest.settled(stage))
                if LONG in wanted:
                    # Takes minutes. It counts the written bytes of one process, so other measurements do not matter.
                    writing = asyncio.create_task(rest.card_writes(quiet))
                for number, function in AT_REST:
                    if number in wanted:
                        rows += await _timed(number, function, quiet)
            for numbers, function in MEASURES:
                if wanted & set(numbers.split()):
                    rows += await _timed(numbers, function, stage)
            if writing:
                rows += await _timed(LONG, lambda task: task, writing)
    rows = [row for row in rows if row.id in wanted]
    return sorted(rows, key=lambda row: KNOWN.index(row.id))


async def _timed(numbers, function, argument):
    _tell(f"{numbers} …")
    began = time.monotonic()
    rows = await function(argument)
    _tell(f"{numbers} took {time.monotonic() - began:.0f} s")
    return rows


def _tell(text):
    print(text, file=sys.stderr, flush=True)


def _machine():
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, load before: {load}"


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure the daemon and its references in about ten minutes. Run nothing else meanwhile.",
        epilog="Exit codes: 0 measured, whatever the figures; 1 something broke; 2 bad arguments.",
    )
    parser.add_argument("--only", metavar="P4,P5", default=",".join(KNOWN), help="measure only these")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    wanted = {number.strip().upper() for number in args.only.split(",")}
    if not wanted <= set(KNOWN):
        parser.error(f"known measures: {', '.join(KNOWN)}")
    if os.geteuid() != 0 and wanted & NEED_ROOT:
        _tell(f"skipped, because network namespaces need root: {', '.join(sorted(wanted & NEED_ROOT))}")
        wanted -= NEED_ROOT
    machine = _machine()
    try:
        rows = asyncio.run(measure(wanted))
    except KeyboardInterrupt:
        sys.exit(130)
    print(as_json(rows) if args.json else f"{machine}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
